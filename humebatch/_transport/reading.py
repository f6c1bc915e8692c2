"""Reading local files for an upload without ever blocking the event loop, and without a thread where none is needed.

What the page cache holds is read in place: `preadv` with `RWF_NOWAIT` copies it or says that it would have to wait.
Only then, and where the flag does not exist, a worker thread reads the piece. On plain connections what is cached
goes out by `sendfile`, which moves no byte through this process. Files are never mapped into memory: somebody
may truncate them while we send.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import BinaryIO, Self, TypeVar

import anyio
import anyio.to_thread

from .._wire.message import FilePart
from ..errors import SourceError

__all__ = ["OpenPart", "changed", "reason", "until_done"]

T = TypeVar("T")
_NOWAIT: int | None = getattr(os, "RWF_NOWAIT", None)
_PAGE = 4096


def reason(error: Exception) -> str:
    """Why a file could not be read, in a few words."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "not allowed to read it"
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def changed(part: FilePart) -> SourceError:
    """What is said when a file is not what was planned."""
    return SourceError(f"{part.path}: the file changed while it was being sent; nothing was submitted", path=part.path)


async def until_done(function: Callable[[], T], *, undo: Callable[[T], object] | None = None) -> T:
    """Call in a thread. A thread cannot be stopped: when cancelled, wait for it and `undo` what it made."""
    running = asyncio.ensure_future(anyio.to_thread.run_sync(function))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            await asyncio.wait([running])
            if running.exception() is None and undo is not None:
                undo(running.result())
        raise


class OpenPart:
    """A file that is being sent. Enter it; it is closed when the block ends, also when that is cancelled."""

    def __init__(self, part: FilePart) -> None:
        self.part = part
        self.offset = part.offset
        self.end = part.offset + part.size
        self.file: BinaryIO | None = None
        self._nowait = _NOWAIT is not None

    async def __aenter__(self) -> Self:
        try:
            # Waited for, or the file that it opens stays open.
            self.file = await until_done(self._open, undo=lambda file: file.close())
        except OSError as error:
            raise self._unreadable(error) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()  # opened for reading, unbuffered: nothing to flush, nothing to wait for

    def _open(self) -> BinaryIO:
        if self.part.descriptor is not None:
            # The caller's own file: a duplicate, so that closing ours leaves it open.
            return open(os.dup(self.part.descriptor), "rb", buffering=0)
        return open(self.part.path, "rb", buffering=0)

    def _unreadable(self, error: OSError) -> SourceError:
        return SourceError(f"{self.part.path}: {reason(error)} while it was being sent", path=self.part.path)

    @property
    def left(self) -> int:
        """Bytes not sent yet."""
        return self.end - self.offset

    def cached(self, size: int) -> bool:
        """Whether the next `size` bytes seem to be in the page cache: looked up at both ends and in the middle."""
        if not self._nowait or self.file is None:
            return False
        last = self.offset + size - 1
        return all(self._probe(place) for place in (self.offset, (self.offset + last) // 2, last))

    def _probe(self, place: int) -> bool:
        assert self.file is not None
        assert _NOWAIT is not None
        try:
            return os.preadv(self.file.fileno(), [bytearray(1)], place, _NOWAIT) == 1
        except BlockingIOError:
            return False
        except OSError:
            # The file system does not know the flag; ask no more.
            self._nowait = False
            return False

    async def read(self, most: int) -> bytes | bytearray:
        """The next bytes, at most `most` of them and at least one. Raises `SourceError` when there are none."""
        assert self.file is not None
        size = min(most, self.left)
        data = self._try_read(size)
        if data is None:
            try:
                return await self._read_in_thread(size)
            except SourceError:
                raise
            except OSError as error:
                raise self._unreadable(error) from error
        self.offset += len(data)
        return data

    async def _read_in_thread(self, size: int) -> bytes:
        assert self.file is not None
        data = await anyio.to_thread.run_sync(os.pread, self.file.fileno(), size, self.offset)
        if not data:
            raise changed(self.part)
        self.offset += len(data)
        return data

    def _try_read(self, size: int) -> bytearray | None:
        if not self._nowait:
            return None
        assert self.file is not None
        assert _NOWAIT is not None
        data = bytearray(size)
        try:
            count = os.preadv(self.file.fileno(), [data], self.offset, _NOWAIT)
        except BlockingIOError:
            return None
        except OSError:
            self._nowait = False
            return None
        if count < size:
            # Fewer bytes: the rest is not cached. None at all: the end of the file, or a file system that
            # says it in this way; the thread will tell which.
            del data[count:]
        return data or None

    async def check(self) -> None:
        """Raise `SourceError` if the file is no longer what it was when the request was planned."""
        assert self.file is not None
        if self.part.mtime_ns is None:
            return
        if self._nowait:
            # A file system that can say "not cached" is a local one: fstat of an open file answers from memory.
            facts = os.fstat(self.file.fileno())
        else:
            facts = await anyio.to_thread.run_sync(os.fstat, self.file.fileno())
        if facts.st_size != self.end or facts.st_mtime_ns != self.part.mtime_ns:
            raise changed(self.part)
