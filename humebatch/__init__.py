"""humebatch: an asyncio-first SDK and a self-hosted server for the Expression Measurement batch API (v0)."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from . import config, errors, ingestion, jobs, predictions, sources, vocabulary
from .config import IngestPolicy, Limits, PollPolicy, RetryPolicy, Timeouts, WatchPolicy
from .errors import (
    ApiError,
    AuthError,
    CallbackRejected,
    ConfigError,
    ConnectFailed,
    DecodeError,
    DiskError,
    HumebatchError,
    InputFailed,
    InvalidRequest,
    JobFailed,
    NotFound,
    RateLimited,
    RequestTimeout,
    ServerError,
    SourceError,
    StorageFull,
    SubmissionUnknown,
    TooLarge,
    TransportError,
    WaitTimeout,
)
from .ingestion import Ingested, IngestReport
from .jobs import (
    Burst,
    Face,
    Facemesh,
    JobDetails,
    Language,
    Models,
    Ner,
    Prosody,
    ProsodyWindow,
    State,
    Status,
    Submission,
    Transcription,
    split_files,
)
from .sources import Bundle, FileSource

if TYPE_CHECKING:
    from . import callbacks as callbacks
    from . import local as local
    from ._client.batch import BatchClient as BatchClient
    from ._client.batch import Job as Job
    from ._client.outcome import Outcome as Outcome
    from ._client.progress import Progress as Progress

    __version__: str

# Loaded on first use: the client brings an event loop and an HTTP library, which neither a measuring process nor
# `humebatch --help` needs. None: the module itself.
_LATER = {
    "BatchClient": "_client.batch",
    "Job": "_client.batch",
    "Outcome": "_client.outcome",
    "Progress": "_client.progress",
    "callbacks": None,
    "local": None,
}

__all__ = [
    "ApiError",
    "AuthError",
    "BatchClient",
    "Bundle",
    "Burst",
    "CallbackRejected",
    "ConfigError",
    "ConnectFailed",
    "DecodeError",
    "DiskError",
    "Face",
    "Facemesh",
    "FileSource",
    "HumebatchError",
    "IngestPolicy",
    "IngestReport",
    "Ingested",
    "InputFailed",
    "InvalidRequest",
    "Job",
    "JobDetails",
    "JobFailed",
    "Language",
    "Limits",
    "Models",
    "Ner",
    "NotFound",
    "Outcome",
    "PollPolicy",
    "Progress",
    "Prosody",
    "ProsodyWindow",
    "RateLimited",
    "RequestTimeout",
    "RetryPolicy",
    "ServerError",
    "SourceError",
    "State",
    "Status",
    "StorageFull",
    "Submission",
    "SubmissionUnknown",
    "Timeouts",
    "TooLarge",
    "Transcription",
    "TransportError",
    "WaitTimeout",
    "WatchPolicy",
    "__version__",
    "callbacks",
    "config",
    "errors",
    "ingestion",
    "jobs",
    "local",
    "predictions",
    "sources",
    "split_files",
    "vocabulary",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name == "__version__":
        # Costs more than the rest of the import.
        from importlib.metadata import version

        return version("humebatch")
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _LATER[name]
    found = importlib.import_module(f"{__name__}.{module or name}")
    value = found if module is None else getattr(found, name)
    globals()[name] = value
    return value
