"""Settings of a client: what it costs, how long it waits, how often it tries again, and where it finds its key.

All are frozen structs that refuse values that make no sense with a `ConfigError` naming the field.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import msgspec

from .errors import ConfigError

__all__ = [
    "API_KEY_VARIABLE",
    "BASE_URL_VARIABLE",
    "IngestPolicy",
    "Limits",
    "PollPolicy",
    "RetryPolicy",
    "Secret",
    "Timeouts",
    "WatchPolicy",
    "api_key_from",
    "base_url_from",
]

API_KEY_VARIABLE = "HUME_API_KEY"
BASE_URL_VARIABLE = "HUMEBATCH_BASE_URL"


# Larger than any setting that makes sense, and small enough for every integer that it ends up in.
_MOST = 2**53


def _number(owner: str, name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _MOST:
        raise ConfigError(f"{owner}.{name}: must be a finite number, got {value!r}", field=name)
    return value


def _positive(owner: str, **values: object) -> None:
    for name, value in values.items():
        if _number(owner, name, value) <= 0:
            raise ConfigError(f"{owner}.{name}: must be greater than zero, got {value!r}", field=name)


def _count(owner: str, **values: object) -> None:
    for name, value in values.items():
        if isinstance(value, float):
            raise ConfigError(f"{owner}.{name}: must be a whole number, got {value!r}", field=name)
        _positive(owner, **{name: value})


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much happens at once.

    `uploads`: submissions being sent at the same time; the client sends fewer while the server pushes back.
    `polls`: status requests and downloads at the same time. `open_files`: files open for sending; a bundle
    has one open at a time, files that the caller has open do not count.
    `chunk`: bytes of a file read at a time. `bytes_in_flight`: bytes of all uploads held in memory.

    Memory of the sender: each upload holds the chunk being sent and at most one more in the socket's
    write buffer, so the peak is about `min(uploads * 2 * chunk, bytes_in_flight)`, whatever the size of
    the files and however many wait; what `sendfile` sends is not held at all. On top of it come up to 64 KiB
    of the write buffer per upload, for a bundle 128 KiB more (its files are read 64 KiB at a time, whatever
    the chunk), and what the caller's own streams hold.
    """

    uploads: int = 8
    polls: int = 64
    open_files: int = 128
    chunk: int = 256 * 1024
    bytes_in_flight: int = 64 * 1024 * 1024

    @property
    def piece(self) -> int:
        """Bytes read at a time so that all uploads together stay within `bytes_in_flight`; at least 4 KiB."""
        return max(4096, min(self.chunk, self.bytes_in_flight // (2 * self.uploads)))

    def __post_init__(self) -> None:
        _count(
            "Limits",
            uploads=self.uploads,
            polls=self.polls,
            open_files=self.open_files,
            chunk=self.chunk,
            bytes_in_flight=self.bytes_in_flight,
        )


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds to wait for the network; None waits for ever.

    `connect`: until a connection stands, TLS included. `read`: between two pieces of an answer.
    `answer`: from the last byte of a submission to the first byte of its answer.
    There is no limit on a whole transfer: a large file may take as long as it makes progress.
    """

    connect: float | None = 10.0
    read: float | None = 120.0
    answer: float | None = 300.0

    def __post_init__(self) -> None:
        given = {"connect": self.connect, "read": self.read, "answer": self.answer}
        _positive("Timeouts", **{name: value for name, value in given.items() if value is not None})


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a failed request is sent again (never a submission that may have been accepted).

    The wait before try n+1 is random between 0 and `min(cap, base * 2**n)` seconds; a `Retry-After`
    from the server is a floor under it, up to `max_retry_after` seconds: a server that asks for
    more gets no further try, and the error says how long it asked for. While such a pause lasts, other
    requests of the same kind (submissions, or all others) fail in the same way without being sent; and so
    they do when a server that failed ten times in a row is left alone for longer (5 to 60 seconds).
    `attempts` counts the first try.
    """

    attempts: int = 6
    base: float = 1.0
    cap: float = 60.0
    max_retry_after: float = 900.0

    def __post_init__(self) -> None:
        _count("RetryPolicy", attempts=self.attempts)
        _positive("RetryPolicy", base=self.base, cap=self.cap, max_retry_after=self.max_retry_after)


class PollPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often `Job.wait` asks.

    The first wait is `first` seconds, each later one `factor` times longer up to `cap`, each spread
    by `±jitter` (a share of the wait) so that many jobs do not ask in step.
    """

    first: float = 0.5
    factor: float = 1.5
    cap: float = 15.0
    jitter: float = 0.2

    def __post_init__(self) -> None:
        _positive("PollPolicy", first=self.first, factor=self.factor, cap=self.cap)
        if self.factor < 1:
            raise ConfigError(f"PollPolicy.factor: must be at least 1, got {self.factor!r}", field="factor")
        if not 0 <= _number("PollPolicy", "jitter", self.jitter) < 1:
            raise ConfigError(f"PollPolicy.jitter: must be at least 0 and below 1, got {self.jitter!r}", field="jitter")


class WatchPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often `watch` asks. All times are in seconds.

    `quickest`, `slowest`: between two sweeps of the job list. Quick at first and near the end, slow in
    the middle: an eighth of the time watched so far or a twentieth of the time that the open jobs will
    still take, whichever is less. What has ended is known after at most `slowest`; a run of
    4.6 hours costs about 1,200 sweeps. `jitter`: up to this share is taken off each wait, so that many
    watchers do not ask in step.
    `overlap`: how far behind the newest end a sweep looks again, on the server's own clock, for jobs
    that the list shows late.
    `page_rows`, `page_bytes`: the most that one list request may ask for. At most one page is in memory.
    `straggler`: a job that no sweep has shown for so long is asked for by itself, a few at a time.
    `looks_per_second`: requests for single jobs that find nothing new, over all jobs; what a server
    gets whose list is of no use. Of those that find an end, five times as many.
    """

    quickest: float = 2.0
    slowest: float = 15.0
    jitter: float = 0.1
    overlap: float = 120.0
    page_rows: int = 5000
    page_bytes: int = 4 * 1024 * 1024
    straggler: float = 600.0
    looks_per_second: float = 10.0

    def __post_init__(self) -> None:
        _positive(
            "WatchPolicy",
            quickest=self.quickest,
            slowest=self.slowest,
            straggler=self.straggler,
            looks_per_second=self.looks_per_second,
        )
        _count("WatchPolicy", page_rows=self.page_rows, page_bytes=self.page_bytes)
        if self.slowest < self.quickest:
            raise ConfigError(
                f"WatchPolicy.slowest: must be at least quickest ({self.quickest!r}), got {self.slowest!r}",
                field="slowest",
            )
        if _number("WatchPolicy", "overlap", self.overlap) < 0:
            raise ConfigError(f"WatchPolicy.overlap: must not be negative, got {self.overlap!r}", field="overlap")
        if not 0 <= _number("WatchPolicy", "jitter", self.jitter) < 1:
            raise ConfigError(
                f"WatchPolicy.jitter: must be at least 0 and below 1, got {self.jitter!r}", field="jitter"
            )


class IngestPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How an ingest decides and how long it has patience. All times are in seconds.

    `grace`: only on servers that do not announce idempotency keys. A submission whose answer was lost is sent again
    when the job list has not shown it for so long after it was sent: the longest that something between us and the
    server may hold on to a request and deliver it after all. It holds up that group alone.
    `attempts`: submissions of one group that may end without an answer before it is parked.
    `max_outage`: a server that has taken nothing for so long ends the run, to be taken up later.
    `job_deadline`: a job that has not ended so long after it was taken up is parked, to be watched again later.
    `stop_within`: what is in flight when the run is told to stop gets so long to end, then it is broken off.
    `open_jobs`: accepted jobs that have not ended yet; no more are submitted meanwhile.
    `group_bytes`: files go into one job up to this size, however few they are; a larger file goes alone.
    """

    grace: float = 300.0
    attempts: int = 4
    max_outage: float = 3600.0
    job_deadline: float = 86400.0
    stop_within: float = 8.0
    open_jobs: int = 10_000
    group_bytes: int = 2**30

    def __post_init__(self) -> None:
        _count("IngestPolicy", attempts=self.attempts, open_jobs=self.open_jobs, group_bytes=self.group_bytes)
        _positive(
            "IngestPolicy", max_outage=self.max_outage, job_deadline=self.job_deadline, stop_within=self.stop_within
        )
        if _number("IngestPolicy", "grace", self.grace) < 0:
            raise ConfigError(f"IngestPolicy.grace: must not be negative, got {self.grace!r}", field="grace")


class Secret:
    """A value that does not show itself: `repr`, `str` and format give `***`; `reveal()` gives the value."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself, for the one place that puts it on the wire."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not pickled: it would be written out in the clear")


def api_key_from(value: str | Secret | None) -> Secret | None:
    """The key as given, else from `HUME_API_KEY`, else None. Raises `ConfigError` if it cannot be a header value."""
    if isinstance(value, Secret):
        value = value.reveal()
    if value is None:
        value = os.environ.get(API_KEY_VARIABLE)
        if not value:
            return None
    if not isinstance(value, str) or not value.strip() or not value.isascii() or not value.isprintable():
        raise ConfigError(
            "api_key: must be non-empty printable ASCII without line breaks (check for a stray newline or quote)",
            field="api_key",
        )
    return Secret(value.strip())


def base_url_from(value: str | None) -> str | None:
    """The base URL as given, else from `HUMEBATCH_BASE_URL`, else None; without a trailing slash.

    Raises `ConfigError` for anything but `http(s)://host[:port][/prefix]`.
    """
    if value is None:
        value = os.environ.get(BASE_URL_VARIABLE) or None
    if value is None:
        return None
    if isinstance(value, str) and "@" in value:  # before anything quotes the value
        raise ConfigError("base_url: must not carry a user name or password", field="base_url")
    if not _is_base_url(value):
        raise ConfigError(
            f"base_url: must look like http://host:port or https://host/prefix, got {value!r}", field="base_url"
        )
    return value.rstrip("/")


def _is_base_url(value: str) -> bool:
    try:
        parts = urlsplit(value)
        _ = parts.port  # raises ValueError when it is not a number in range
        # What the resolver does to it: an empty or overlong label would only fail at the first request.
        host = (parts.hostname or "").encode("idna")
    except (ValueError, TypeError, AttributeError):
        return False
    # Looked for in the text: an empty query or fragment ("http://host?") leaves no trace in the parts.
    plain = value.isprintable() and not any(ch in " ?#\\" for ch in value)
    return parts.scheme in ("http", "https") and host != b"" and plain
