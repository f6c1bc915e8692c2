"""The batch API: request values to `WireRequest`, replies to values or errors. Client and server share these words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from ..config import Secret
from ..errors import ApiError, ConfigError, RateLimited, ServerError, error_class
from ..jobs import Models, Submission, Transcription
from . import codec
from .message import BodyPlan, WireReply, WireRequest
from .multipart import FileUpload, form_data
from .pacing import retry_after

__all__ = [
    "CAPABILITIES_HEADER",
    "DIRECTIONS",
    "JOBS_PATH",
    "KEY_HEADER",
    "SORT_KEYS",
    "WHEN",
    "BatchService",
    "RequestBody",
    "artifacts_request",
    "details_request",
    "honours_keys",
    "list_request",
    "predictions_request",
    "submit_request",
]

JOBS_PATH = "/v0/batch/jobs"
KEY_HEADER = "X-Hume-Api-Key"
CAPABILITIES_HEADER = "X-Humebatch-Capabilities"
WHEN = ("created_before", "created_after")
SORT_KEYS = ("created", "started", "ended")
DIRECTIONS = ("asc", "desc")

# How much of a refusal is kept on the exception, and how much of it goes into the message.
_BODY_KEPT = 2000
_SAID_KEPT = 500


class RequestBody(msgspec.Struct, kw_only=True):
    """The JSON of a submission, as the body itself or as the `json` part of a form.

    Real clients send explicit nulls for every field (`urls: null` is the legacy client's habit).
    """

    models: Models | UnsetType | None = UNSET
    transcription: Transcription | UnsetType | None = UNSET
    urls: list[str] | UnsetType | None = UNSET
    text: list[str] | UnsetType | None = UNSET
    callback_url: str | UnsetType | None = UNSET
    notify: bool | UnsetType | None = UNSET


def submit_request(
    submission: Submission, files: Sequence[FileUpload] = (), *, key: str | None = None, once: bool = False
) -> WireRequest:
    """A JSON request without files, a form with them. `files`: the submission's, in order.

    `key`: its idempotency key. `once`: as in `WireRequest`.
    """
    json = codec.encode(
        RequestBody(
            models=submission.models if submission.models is not None else UNSET,
            transcription=submission.transcription,
            urls=list(submission.urls) or UNSET,
            text=list(submission.text) or UNSET,
            callback_url=submission.callback_url if submission.callback_url is not None else UNSET,
            notify=submission.notify if submission.notify is not None else UNSET,
        )
    )
    if files:
        body = form_data(None if json == b"{}" else json, files)
    else:
        body = BodyPlan(content_type="application/json", parts=(json,))
    return WireRequest(
        method="POST",
        path=JOBS_PATH,
        body=body,
        creates=True,
        filenames=tuple(file.filename for file in files),
        idempotency_key=key,
        once=once,
    )


def honours_keys(reply: WireReply) -> bool:
    """Whether the server that gave this answer announces that it honours `Idempotency-Key`."""
    announced = reply.headers.get(CAPABILITIES_HEADER.lower(), "")
    return "idempotency-key" in (one.strip().lower() for one in announced.split(","))


def details_request(job_id: str) -> WireRequest:
    """Details of one job."""
    return WireRequest(method="GET", path=f"{JOBS_PATH}/{_segment(job_id)}")


def predictions_request(job_id: str) -> WireRequest:
    """Predictions of a completed job."""
    return WireRequest(method="GET", path=f"{JOBS_PATH}/{_segment(job_id)}/predictions")


def artifacts_request(job_id: str) -> WireRequest:
    """The artifacts ZIP of a completed job."""
    return WireRequest(method="GET", path=f"{JOBS_PATH}/{_segment(job_id)}/artifacts")


def list_request(
    *,
    limit: int | None = None,
    status: Iterable[str] | str | None = None,
    when: str | None = None,
    timestamp_ms: int | None = None,
    sort_by: str | None = None,
    direction: str | None = None,
) -> WireRequest:
    """A job list; parameters go in the order in which the vendor's clients send them, `status` repeated.

    Raises `ConfigError` naming the argument.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ConfigError(f"limit: must be a whole number of at least 1, got {limit!r}", field="limit")
    if timestamp_ms is not None and (isinstance(timestamp_ms, bool) or not isinstance(timestamp_ms, int)):
        raise ConfigError(f"timestamp_ms: must be Unix milliseconds, got {timestamp_ms!r}", field="timestamp_ms")
    for name, value, allowed in (
        ("when", when, WHEN),
        ("sort_by", sort_by, SORT_KEYS),
        ("direction", direction, DIRECTIONS),
    ):
        if value is not None and value not in allowed:
            raise ConfigError(f"{name}: must be one of {', '.join(allowed)}; got {value!r}", field=name)
    if status is not None and not isinstance(status, Iterable):
        raise ConfigError(f"status: must be a status or several, got {status!r}", field="status")
    statuses = [status] if isinstance(status, str) else list(status or ())
    query: list[tuple[str, str]] = []
    if limit is not None:
        query.append(("limit", str(limit)))
    query += [("status", str(one)) for one in statuses]
    if when is not None:
        query.append(("when", when))
    if timestamp_ms is not None:
        query.append(("timestamp_ms", str(timestamp_ms)))
    if sort_by is not None:
        query.append(("sort_by", sort_by))
    if direction is not None:
        query.append(("direction", direction))
    return WireRequest(method="GET", path=JOBS_PATH, query=tuple(query))


def _segment(job_id: str) -> str:
    # A job id becomes a part of the path: anything else than an id must not be able to walk elsewhere.
    if not isinstance(job_id, str) or not codec.is_job_id(job_id):
        raise ConfigError(f"job_id: not a job id: {job_id!r}", field="job_id")
    return job_id


class BatchService:
    """How the batch API signs requests and words refusals (`Service`)."""

    def sign(self, _request: WireRequest, key: Secret | None, /) -> Mapping[str, str]:
        """The key's header, or nothing for a server that asks for none."""
        return {} if key is None else {KEY_HEADER: key.reveal()}

    def refusal(self, request: WireRequest, reply: WireReply, /) -> ApiError:
        """The exception for a reply outside 2xx.

        Reads `message` (the API's own), `fault.faultstring` (the vendor's gateway) and `detail`
        (what proxies write); anything else is quoted as it came.
        """
        text = reply.body[:_BODY_KEPT].decode("utf-8", "replace")
        said, code = _explanation(reply.body, text)
        message = f"{request.method} {request.path}: {reply.status}: {said}"
        if reply.status in (401, 403):
            message += " (is the API key right for this server?)"
        error = error_class(reply.status)(
            message, status=reply.status, code=code, body=text, method=request.method, path=request.path
        )
        if isinstance(error, (RateLimited, ServerError)):
            error.retry_after = retry_after(reply.headers, now=reply.received)
        return error


def _explanation(body: bytes, text: str) -> tuple[str, str | None]:
    try:
        value: Any = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        fault = value.get("fault")
        code = value.get("code")
        if isinstance(fault, dict):
            detail = fault.get("detail")
            if code is None and isinstance(detail, dict):
                code = detail.get("errorcode")
            fault = fault.get("faultstring")
        said = value.get("message") or fault or value.get("detail") or value.get("error")
        if said:
            return _short(str(said)), None if code is None else str(code)
    return _short(text) or "no explanation given", None


def _short(text: str) -> str:
    return " ".join(text.split())[:_SAID_KEPT]
