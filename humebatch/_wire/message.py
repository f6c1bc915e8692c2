"""Requests and replies as plain values, and the manners of a service as a protocol.

A `WireRequest` says everything about a request but how its bytes move; the transport sends it and
gives back a `WireReply`. A second service needs another `Service`, not another transport.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from ..config import Secret
from ..errors import ApiError

__all__ = ["BodyPart", "BodyPlan", "FilePart", "Service", "StreamPart", "WireReply", "WireRequest"]


class FilePart(msgspec.Struct, frozen=True):
    """Bytes that come from a file: exactly `size` of them, or the request is aborted before it is complete.

    `mtime_ns` is the file's modification time when it was planned: a file that changes before it is
    sent is noticed, for a job must not be made of half old and half new bytes. `offset` is where to begin;
    `descriptor` is the file that the caller has open, to be read at its own offsets instead of `path`.
    `md5` (hex) is what its bytes were when somebody wrote down what will be sent: other bytes never leave whole.
    """

    path: str
    size: int
    mtime_ns: int
    offset: int = 0
    descriptor: int | None = None
    md5: str | None = None


class StreamPart(msgspec.Struct, frozen=True):
    """Bytes that come out of an iterator, exactly `size` of them unless that is None.

    `chunks` makes the iterator; `again` says whether it can make another one for another try. `name` is for errors.
    `md5` as in `FilePart`.
    """

    name: str
    size: int | None
    chunks: Callable[[], AsyncIterator[bytes]]
    again: bool
    md5: str | None = None


BodyPart = bytes | FilePart | StreamPart


class BodyPlan(msgspec.Struct, frozen=True):
    """A request body: parts in order, its content type and its exact length in bytes."""

    content_type: str
    parts: tuple[BodyPart, ...]

    @property
    def length(self) -> int | None:
        """Sum of all parts in bytes, the Content-Length; None when a part's size is not known."""
        sizes = [len(part) if isinstance(part, bytes) else part.size for part in self.parts]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    @property
    def again(self) -> bool:
        """Whether the body can be sent a second time."""
        return all(part.again for part in self.parts if isinstance(part, StreamPart))


class WireRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request. `path` is relative to the base URL; `query` keeps order and repeats.

    `creates` marks a request that makes something new on the server each time it is accepted: it is
    never sent again once it may have been accepted. `idempotency_key` goes along as `Idempotency-Key`: a server
    that honours it makes one job of all requests with the same one. `once`: when all of it has left it is not sent
    again whatever is answered, for the caller does not take a 429's word that nothing was made.
    """

    method: str
    path: str
    query: Sequence[tuple[str, str]] = ()
    body: BodyPlan | None = None
    creates: bool = False
    filenames: Sequence[str] = ()
    idempotency_key: str | None = None
    once: bool = False


class WireReply(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, whole. Header names are lower case; `received` is Unix time in seconds on this machine's clock."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    received: float = 0.0


class Service(Protocol):
    """An API's manners: how a request is signed and how a refusal reads."""

    def sign(self, request: WireRequest, key: Secret | None, /) -> Mapping[str, str]:
        """Headers that carry the credentials."""
        ...

    def refusal(self, request: WireRequest, reply: WireReply, /) -> ApiError:
        """The error that a reply outside 2xx stands for."""
        ...
