"""Unpacking an archive in a process of its own, one file at a time.

Decompressors are native code on hostile input: the process has little memory to take, a time limit for each
file, and is killed with the job. It is told on its stdin which archive, then by a line that the file which it
has laid down is measured and the next one is wanted; each line of its stdout is a `Media` or says why it ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

import anyio
import msgspec
from anyio.abc import ByteSendStream
from anyio.streams.buffered import BufferedByteReceiveStream

from .._wire.codec import encode
from .measure import Media, Unmeasurable
from .media import ArchiveLimits, members
from .processes import guard_child, limit_memory

__all__ = ["main", "unpacked"]

_LONGEST_LINE = 1024 * 1024


class _Task(msgspec.Struct):
    parent: int
    path: str
    name: str
    scratch: str
    limits: ArchiveLimits


class _Step(msgspec.Struct):
    """The next file; or the end, with the reason if it came too early."""

    media: Media | None = None
    error: str | None = None


_step_decoder = msgspec.json.Decoder(_Step)
_task_decoder = msgspec.json.Decoder(_Task)


async def unpacked(
    path: Path, name: str, scratch: Path, limits: ArchiveLimits, *, seconds: float
) -> AsyncGenerator[Media]:
    """The files of an archive as `members` gives them; each step may take `seconds`. Raises `Unmeasurable`."""
    task = _Task(parent=os.getpid(), path=str(path), name=name, scratch=str(scratch), limits=limits)
    process = await anyio.open_process(
        # Not -m: the package imports this module, which would be there twice then.
        [sys.executable, "-c", f"from {__name__} import main; main()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a process was started without the pipes that it was asked for")
        lines = BufferedByteReceiveStream(process.stdout)
        request = encode(task)
        while (media := await _step(process.stdin, lines, request, name, seconds)) is not None:
            yield media
            request = b""
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        with anyio.CancelScope(shield=True):
            await process.aclose()


async def _step(
    stdin: ByteSendStream, lines: BufferedByteReceiveStream, request: bytes, name: str, seconds: float
) -> Media | None:
    try:
        with anyio.fail_after(seconds):
            await stdin.send(request + b"\n")
            step = _step_decoder.decode(await lines.receive_until(b"\n", _LONGEST_LINE))
    except TimeoutError:
        raise Unmeasurable(f"{name}: unpacking a file took longer than {seconds:g} s and was stopped") from None
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, anyio.IncompleteRead):
        raise Unmeasurable(f"{name}: the process that unpacked the archive died; is it damaged?") from None
    if step.error is not None:
        raise Unmeasurable(step.error)
    return step.media


def main() -> None:
    """What the process runs."""
    task = _task_decoder.decode(sys.stdin.buffer.readline())
    guard_child(task.parent)
    limit_memory(task.limits.memory)
    last = _Step()
    try:
        for media in members(Path(task.path), task.name, Path(task.scratch), task.limits):
            _tell(_Step(media=media))
            if not sys.stdin.buffer.readline():
                return
    except Unmeasurable as error:
        last = _Step(error=str(error))
    except MemoryError:
        last = _Step(error=f"{task.name}: unpacking it takes more memory than a server should spend")
    _tell(last)


def _tell(step: _Step) -> None:
    sys.stdout.buffer.write(encode(step) + b"\n")
    sys.stdout.buffer.flush()
