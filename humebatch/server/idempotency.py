"""`Idempotency-Key`: a submission that is sent again under its key finds its job instead of making another one.

A key belongs to one tenant, and is kept in the transaction that records the job, so neither is there without the
other. While a request is still being received, its key is held in memory only: whatever ends it, no job no key.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping

from .intake import Refused
from .store import JobKey

__all__ = ["CAPABILITY", "RETRY_SECONDS", "UnderWay", "job_of", "key_of", "keyed"]

CAPABILITY = "idempotency-key"
"""What a server that honours the header announces."""
RETRY_SECONDS = 1
"""When a client that was told 409 may ask again."""

_HEADER = "Idempotency-Key"
_KEY = re.compile(r"[!-~]{1,255}")


def key_of(headers: Mapping[str, str]) -> str | None:
    """The request's key, None if it has none. Raises `Refused` for anything but 1 to 255 visible ASCII characters."""
    given = [value for name, value in headers.items() if name.lower() == _HEADER.lower()]
    if not given:
        return None
    if len(given) > 1 or not _KEY.fullmatch(given[0]):
        raise Refused(400, f"{_HEADER}: must be one value of 1 to 255 visible ASCII characters", _HEADER)
    return given[0]


def keyed(key: str, request: bytes) -> JobKey:
    """`key` for the request whose echo in JSON is `request`.

    Of files the echo has the md5 only, and that is enough: two files of one md5 have to be made on purpose, and who
    does so under a key of their own gets their own earlier job. The echo leaves out what says nothing about the job:
    the boundary, whether the `json` part came first, defaults that one client spelt out and another did not.
    """
    return JobKey(key=key, digest=hashlib.sha256(request).digest())


def job_of(earlier: tuple[bytes, str], key: JobKey) -> str:
    """The id of the job that an earlier request made (its digest and job); raises `Refused` if that was another one."""
    digest, job_id = earlier
    if digest != key.digest:
        raise Refused(
            422,
            f"{_HEADER}: this key belongs to job {job_id}, which was submitted with a different content; "
            "use a new key for a new submission",
            _HEADER,
        )
    return job_id


class UnderWay:
    """The keys of the requests that are being received now. One server owns the folder, so memory is enough."""

    def __init__(self) -> None:
        self._keys: set[tuple[str, str]] = set()

    @contextlib.contextmanager
    def held(self, tenant: str, key: str | None) -> Iterator[None]:
        """Hold `key` for the length of the block; raises `Refused` if another request of `tenant` holds it."""
        if key is None:
            yield
            return
        held = tenant, key
        if held in self._keys:
            raise Refused(409, f"{_HEADER}: another request with this key is still being received", _HEADER)
        self._keys.add(held)
        try:
            yield
        finally:
            self._keys.remove(held)
