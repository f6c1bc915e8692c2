"""The exception tree: one root, sorted by who can fix it.

    HumebatchError
    ├─ ConfigError (ValueError)          the caller: wrong arguments, found before any I/O
    ├─ SourceError (OSError)             the caller: a local file
    ├─ TransportError                    the line: no whole answer arrived
    │   ├─ ConnectFailed
    │   ├─ RequestTimeout (TimeoutError)
    │   └─ SubmissionUnknown             the POST went out whole, its answer was lost
    ├─ ApiError                          the service: an answer that says no
    │   ├─ InvalidRequest 400/422  ├─ AuthError 401/403  ├─ NotFound 404  ├─ TooLarge 413
    │   ├─ RateLimited 429         ├─ StorageFull 507    └─ ServerError 5xx
    ├─ DecodeError (ValueError)          the service: an answer that is not what the schema says
    ├─ CallbackRejected                  the sender: a callback that is not proven to come from the server
    ├─ JobFailed                         the job's own verdict
    ├─ InputFailed                       an ingest: why an input is FAILED or PARKED
    ├─ DiskError (OSError)               this machine: a journal or a result cannot be written
    └─ WaitTimeout (TimeoutError)        time: our deadline passed, the job lives on

Every exception takes its facts as keyword arguments, keeps them as attributes, and survives `pickle`.
This module imports nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

__all__ = [
    "ApiError",
    "AuthError",
    "CallbackRejected",
    "ConfigError",
    "ConnectFailed",
    "DecodeError",
    "DiskError",
    "HumebatchError",
    "InputFailed",
    "InvalidRequest",
    "JobFailed",
    "NotFound",
    "RateLimited",
    "RequestTimeout",
    "ServerError",
    "SourceError",
    "StorageFull",
    "SubmissionUnknown",
    "TooLarge",
    "TransportError",
    "WaitTimeout",
    "error_class",
]


class HumebatchError(Exception):
    """Root of everything that humebatch raises on purpose."""

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        for name, value in facts.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        # One line, whatever a server or a child process said: logs and lists of errors are read by line.
        return " ".join(filter(None, map(str.strip, self.message.splitlines())))

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions cross process borders (worker pools, task queues). The default reduction would
        # replay `args` into the keyword-only constructors below and lose the facts.
        return _rebuild, (type(self), self.message, dict(self.__dict__))


def _rebuild(cls: type[HumebatchError], message: str, facts: dict[str, Any]) -> HumebatchError:
    error = cls.__new__(cls, message)
    error.args = (message,)
    error.__dict__.update(facts)
    return error


class ConfigError(HumebatchError, ValueError):
    """An argument is wrong; nothing was read, opened or sent.

    `field` names it as the API spells it (`models.face.prob_threshold`), or is the argument's name.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message, field=field)

    field: str | None


class SourceError(HumebatchError, OSError):
    """A local file cannot be sent: missing, unreadable, empty, not a file, or changed while being sent.

    `path` is the file as the caller named it.
    """

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message, path=path)

    path: str


class TransportError(HumebatchError):
    """No whole answer arrived: the connection failed, was cut, or timed out.

    `method` and `path` name the request, `attempts` counts the tries, `earlier` holds the errors of
    the tries before this one in order.
    """

    def __init__(
        self,
        message: str,
        *,
        method: str = "",
        path: str = "",
        attempts: int = 1,
        earlier: Sequence[BaseException] = (),
    ) -> None:
        super().__init__(message, method=method, path=path, attempts=attempts, earlier=tuple(earlier))

    method: str
    path: str
    attempts: int
    earlier: tuple[BaseException, ...]


class ConnectFailed(TransportError):
    """No connection could be made; the request did not leave this machine."""


class RequestTimeout(TransportError, TimeoutError):
    """The server took longer than `Timeouts` allows."""


class SubmissionUnknown(TransportError):
    """A submission was sent whole, and its answer was lost: the job may exist.

    Sending it again could make a second job. `since` is when the attempt began (Unix time in
    seconds on this machine's clock), `filenames` the names as sent: enough to look for the job in
    the job list before anyone sends again.
    """

    def __init__(
        self,
        message: str,
        *,
        method: str = "",
        path: str = "",
        attempts: int = 1,
        earlier: Sequence[BaseException] = (),
        since: float = 0.0,
        filenames: Sequence[str] = (),
    ) -> None:
        super().__init__(message, method=method, path=path, attempts=attempts, earlier=earlier)
        self.since = since
        self.filenames = tuple(filenames)

    since: float
    filenames: tuple[str, ...]


class ApiError(HumebatchError):
    """The server answered, and the answer is no.

    `status` is the HTTP status, `code` the service's own error code when it gives one, `body` the
    start of the answer as text, `method` and `path` name the request, `attempts` counts the tries.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        body: str = "",
        method: str = "",
        path: str = "",
        attempts: int = 1,
    ) -> None:
        super().__init__(message, status=status, code=code, body=body, method=method, path=path, attempts=attempts)

    status: int
    code: str | None
    body: str
    method: str
    path: str
    attempts: int


class InvalidRequest(ApiError):
    """400 or 422: the server refuses the request as it stands."""


class AuthError(ApiError):
    """401 or 403: the API key is missing, wrong, or not allowed to do this."""


class NotFound(ApiError):
    """404: no such job for this key."""


class TooLarge(ApiError):
    """413: the request is larger than the server takes."""


class RateLimited(ApiError):
    """429: too many requests. `retry_after` is the wait that the server asks for, in seconds."""

    retry_after: float | None = None


class StorageFull(ApiError):
    """507: the server has no room to store the request."""


class ServerError(ApiError):
    """5xx: the server failed. `retry_after` is the wait that it asks for, in seconds, if it names one."""

    retry_after: float | None = None


class DecodeError(HumebatchError, ValueError):
    """An answer, or a saved one, is cut or not what the schema says.

    `path` is where in the JSON (`$[0].results.predictions`), `offset` how many bytes in: where the wrong value begins,
    or where the text ends or breaks. The path of text that breaks more than 64 MiB in is `$`; the message says so.
    `near` is the text around the place. What came is kept: in the file named `file`, or else as `data`.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str = "$",
        near: str = "",
        offset: int = 0,
        data: bytes | None = None,
        file: str | None = None,
    ) -> None:
        super().__init__(message, path=path, near=near, offset=offset, data=data, file=file)

    path: str
    near: str
    offset: int
    data: bytes | None
    file: str | None


class CallbackRejected(HumebatchError):
    """A callback that is not proven to come from the server, or is too old: answer 401 and forget it.

    Not an `AuthError`, which says that the server refuses us.
    """


class JobFailed(HumebatchError):
    """The job ended as FAILED. `details` is the server's last word on it (`JobDetails`)."""

    def __init__(self, message: str, *, job_id: str, details: Any = None) -> None:
        super().__init__(message, job_id=job_id, details=details)

    job_id: str
    details: Any


class InputFailed(HumebatchError):
    """An input of an ingest is not DONE, and this is why.

    `path` is the input as the caller named it, `state` is FAILED or PARKED, `reason` one of
    `humebatch.ingestion.Reason`, `job_id` its job if it has one.
    """

    def __init__(self, message: str, *, path: str, state: str, reason: str, job_id: str | None = None) -> None:
        super().__init__(message, path=path, state=state, reason=reason, job_id=job_id)

    path: str
    state: str
    reason: str
    job_id: str | None


class DiskError(HumebatchError, OSError):
    """The journal or a result cannot be written on this machine: full, read-only, or broken. `path` names it.

    Nothing is sent after a journal has failed. Run again when the cause is gone: everything accepted is taken up.
    """

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message, path=path)

    path: str


class WaitTimeout(HumebatchError, TimeoutError):
    """The caller's deadline passed; the job goes on. Take it up again with `client.job(error.job_id)`."""

    def __init__(self, message: str, *, job_id: str) -> None:
        super().__init__(message, job_id=job_id)

    job_id: str


_BY_STATUS: dict[int, type[ApiError]] = {
    400: InvalidRequest,
    401: AuthError,
    403: AuthError,
    404: NotFound,
    413: TooLarge,
    422: InvalidRequest,
    429: RateLimited,
    507: StorageFull,
}


def error_class(status: int) -> type[ApiError]:
    """The class for an HTTP status; an unlisted 4xx stays `ApiError`."""
    fallback = ServerError if status >= 500 else ApiError
    return _BY_STATUS.get(status, fallback)
