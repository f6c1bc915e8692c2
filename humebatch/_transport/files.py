"""Local files: what may be sent, reading it in chunks, and saving answers so that a half one is never seen.

All blocking calls run in worker threads.
"""

from __future__ import annotations

import mimetypes
import os
import secrets
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path

import aiofiles
import anyio
import anyio.to_thread

from .._wire.message import FilePart
from .._wire.multipart import FileUpload
from ..errors import ConfigError, SourceError

__all__ = ["plan_uploads", "read_chunks", "save_atomically"]


async def plan_uploads(paths: Sequence[str | os.PathLike[str]]) -> list[FileUpload]:
    """What is needed to send each file. Raises `SourceError` for the first that cannot be sent."""
    return await anyio.to_thread.run_sync(lambda: [_plan(path) for path in paths])


def _plan(path: str | os.PathLike[str]) -> FileUpload:
    name = os.fsdecode(path)
    try:
        facts = os.stat(name)
        # Before open(): opening a FIFO would block, opening a device could do anything.
        if not stat.S_ISREG(facts.st_mode):
            kind = "a folder" if stat.S_ISDIR(facts.st_mode) else "not a regular file"
            raise SourceError(f"{name}: {kind}; give the path of a file", path=name)
        os.close(os.open(name, os.O_RDONLY))
    except SourceError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise SourceError(f"{name}: {_reason(error)}", path=name) from error
    if facts.st_size == 0:
        raise SourceError(f"{name}: the file is empty; there is nothing to measure", path=name)
    return FileUpload(
        filename=os.path.basename(name),
        content_type=mimetypes.guess_type(name)[0] or "application/octet-stream",
        content=FilePart(path=name, size=facts.st_size, mtime_ns=facts.st_mtime_ns),
    )


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "not allowed to read it"
    return str(getattr(error, "strerror", None) or error)


async def read_chunks(part: FilePart, chunk: int) -> AsyncGenerator[bytes]:
    """The file's bytes, at most `chunk` at a time, exactly `part.size` of them.

    Raises `SourceError` if the file vanished, shrank, grew or was written to since it was planned. The
    last chunk is handed out only after that check, so a request made of it stays incomplete.
    """
    try:
        async with aiofiles.open(part.path, "rb") as file:
            left = part.size
            while left:
                data = await file.read(min(chunk, left))
                left -= len(data)
                if not data or not left:
                    facts = await anyio.to_thread.run_sync(os.fstat, file.fileno())
                    if left or facts.st_size != part.size or facts.st_mtime_ns != part.mtime_ns:
                        raise SourceError(
                            f"{part.path}: the file changed while it was being sent; nothing was submitted",
                            path=part.path,
                        )
                yield data
    except SourceError:
        raise
    except OSError as error:
        raise SourceError(f"{part.path}: {_reason(error)} while it was being sent", path=part.path) from error


async def save_atomically(path: str | os.PathLike[str], chunks: AsyncIterator[bytes]) -> int:
    """Write `chunks` to `path` so that it holds the whole of them or what it held before. Returns the bytes written.

    A temporary file in the target folder is filled, flushed to disk and renamed; the folder is flushed
    too. The file is readable by its owner only: predictions are about people.
    Raises `OSError` when the target cannot be written.
    """
    target = Path(path)
    if not target.name:
        raise ConfigError(f"path: not the name of a file: {os.fspath(path)!r}", field="path")
    # A short name of its own: the target's may already be as long as the file system allows.
    draft = target.with_name(f".humebatch-{secrets.token_hex(8)}.part")
    written = 0
    try:
        async with aiofiles.open(draft, "xb", opener=_private) as file:
            async for data in chunks:
                await file.write(data)
                written += len(data)
            await file.flush()
            await anyio.to_thread.run_sync(os.fsync, file.fileno())
        await anyio.to_thread.run_sync(_settle, draft, target)
    except BaseException:
        # Cancellation included: the draft is ours alone, and nobody would ever come back for it.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_discard, draft)
        raise
    return written


def _discard(draft: Path) -> None:
    draft.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _settle(draft: Path, target: Path) -> None:
    os.replace(draft, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
