"""Jobs as clients are shown them, and the request in them: the API's defaults filled in."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from .._wire.batch import RequestBody
from ..jobs import (
    Burst,
    Face,
    Facemesh,
    InferenceRequest,
    Language,
    Models,
    Ner,
    Prosody,
    ProsodyWindow,
    State,
    Status,
    Transcription,
)
from .intake import Received
from .store import JobRow

__all__ = ["details_of", "echo_of"]


def _filled(given: Any, defaults: Any) -> Any:
    """`given` with every field that the client left out, or sent as null, taken from `defaults`."""
    if not isinstance(given, type(defaults)):
        return None
    kept = {name: value for name in given.__struct_fields__ if (value := getattr(given, name)) not in (UNSET, None)}
    return msgspec.structs.replace(defaults, **kept)


# Defaults of the API reference; face's least box side is 60 pixels there.
_FACE = Face(
    fps_pred=3.0, prob_threshold=0.99, identify_faces=False, min_face_size=60, facs=None, descriptions=None,
    save_faces=False,
)  # fmt: skip
_DEFAULTS = Models(
    face=_FACE,
    burst=Burst(),
    prosody=Prosody(granularity="utterance", identify_speakers=False, window=None),
    language=Language(granularity="word", identify_speakers=False, sentiment=None, toxicity=None),
    ner=Ner(identify_speakers=False),
    facemesh=Facemesh(),
)
_TRANSCRIPTION = Transcription(language=None, identify_speakers=False, confidence_threshold=0.5)


def echo_of(received: Received) -> InferenceRequest:
    """The request as jobs show it: defaults filled in, a model that does not run null."""
    body: RequestBody = received.body
    # No models named is the API's way to say all; an empty object switches nothing off either.
    given = body.models if isinstance(body.models, Models) else Models()
    if all(getattr(given, name) is UNSET for name in given.__struct_fields__):
        models = _DEFAULTS
    else:
        models = Models(
            **{name: _filled(getattr(given, name), getattr(_DEFAULTS, name)) for name in _DEFAULTS.__struct_fields__}
        )
        if models.prosody and models.prosody.window:
            window = _filled(models.prosody.window, ProsodyWindow(length=4.0, step=1.0))
            models = msgspec.structs.replace(models, prosody=msgspec.structs.replace(models.prosody, window=window))
    transcription = body.transcription
    return InferenceRequest(
        files=received.files,
        models=models,
        transcription=_TRANSCRIPTION if transcription is UNSET else _filled(transcription, _TRANSCRIPTION),
        urls=body.urls or [],
        text=body.text or [],
        callback_url=body.callback_url or None,
        notify=bool(body.notify),
    )


class _Details(msgspec.Struct):
    """`JobDetails` around a request that is stored as JSON and goes out as it is."""

    job_id: str
    request: msgspec.Raw
    state: State
    type: str = "INFERENCE"


def details_of(row: JobRow) -> _Details:
    """A job as its details show it."""
    state = State(status=row.status, created_timestamp_ms=row.created_ms)
    if row.status != Status.QUEUED:
        state.started_timestamp_ms = row.started_ms
        state.files_done = row.files_done
    if row.status == Status.COMPLETED:
        state.num_predictions, state.num_errors = row.num_predictions, row.num_errors
    if row.status in (Status.COMPLETED, Status.FAILED):
        state.ended_timestamp_ms = row.ended_ms
    if row.status == Status.FAILED:
        state.message = row.message
    return _Details(job_id=row.id, request=msgspec.Raw(row.request), state=state)
