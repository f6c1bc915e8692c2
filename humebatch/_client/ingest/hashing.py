"""The md5 of a file that stands still, and what it means when a file cannot be read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable

import msgspec

from ..._transport.reading import reason
from ...ingestion import Reason

__all__ = ["Abandoned", "Hashed", "Unusable", "hash_file", "ran_out", "unusable"]

_PIECE = 1 << 20
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR}
_RAN_OUT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class Hashed(msgspec.Struct, frozen=True):
    """A file as it was read: `md5` in hex, `size` in bytes, and the facts by which a change is noticed."""

    md5: str
    size: int
    mtime_ns: int
    dev: int
    ino: int


class Unusable(Exception):
    """A file cannot be measured: `reason` says why, `detail` in a few words for people."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def ran_out(error: BaseException | None) -> bool:
    """Whether this process or machine has run out of something: no verdict on a file may come from that."""
    return isinstance(error, OSError) and error.errno in _RAN_OUT


class Abandoned(Exception):
    """Nobody wants to know any more."""


def unusable(error: OSError | ValueError) -> Unusable:
    """What an error of the operating system says about a file.

    Raises `error` itself when it is not about the file: no more open files or memory for this process.
    """
    if not isinstance(error, OSError):
        return Unusable(Reason.MISSING, "no file can have this name")  # NUL in it: refused before any system call
    if ran_out(error):
        raise error
    if error.errno in _NOT_THERE:
        return Unusable(Reason.MISSING, "no such file or folder")
    if error.errno == errno.ENXIO:
        return Unusable(Reason.NOT_A_FILE, "a socket or a device")  # what open says of both
    return Unusable(Reason.UNREADABLE, reason(error))


def hash_file(path: bytes, *, over: Callable[[], bool] = bool) -> Hashed:
    """Read a file to its end. Blocks: call it in a worker thread. Raises `Abandoned` as soon as `over` says so.

    A file that changes meanwhile is read once more.
    Raises `Unusable` (MISSING, UNREADABLE, NOT_A_FILE, EMPTY, CHANGED), and `OSError` when this process may not
    open any more files.
    """
    for _ in range(2):
        try:
            hashed = _hash(path, over)
        except (OSError, ValueError) as error:
            raise unusable(error) from error
        if hashed is not None:
            return hashed
    raise Unusable(Reason.CHANGED, "it changed while it was read, twice")


def _hash(path: bytes, over: Callable[[], bool]) -> Hashed | None:
    """None: it changed."""
    # O_NONBLOCK: a FIFO without a writer would hold this thread for ever. Regular files do not heed it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise Unusable(Reason.NOT_A_FILE, "not a regular file")
        if before.st_size == 0:
            raise Unusable(Reason.EMPTY, "an empty file")
        if hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        md5 = hashlib.md5(usedforsecurity=False)
        piece = bytearray(min(_PIECE, before.st_size + 1))
        view = memoryview(piece)
        size = 0
        while size <= before.st_size and (count := os.readv(descriptor, [piece])):
            if over():
                raise Abandoned
            md5.update(view[:count])
            size += count
    finally:
        os.close(descriptor)
    # By its path: what was put in its place while it was read is what would be sent.
    after = os.stat(path)
    if size != before.st_size or _facts(after) != _facts(before):
        return None
    return Hashed(md5.hexdigest(), size, before.st_mtime_ns, before.st_dev, before.st_ino)


def _facts(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino
