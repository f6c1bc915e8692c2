"""humebatch: an asyncio-first SDK and a self-hosted server for the Expression Measurement batch API (v0)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from . import callbacks, config, errors, ingestion, jobs, local, predictions, sources, vocabulary
from ._client.batch import BatchClient, Job
from ._client.outcome import Outcome
from ._client.progress import Progress
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
    __version__: str

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


def __getattr__(name: str) -> str:
    # Read on demand: looking up the installed version costs more than the rest of the import.
    if name == "__version__":
        import importlib.metadata

        return importlib.metadata.version("humebatch")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
