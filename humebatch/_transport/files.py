"""Saving answers so that a half one is never seen.

All blocking calls run in worker threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import aiofiles
import anyio
import anyio.to_thread

from ..errors import ConfigError

__all__ = ["draft_name", "is_draft", "private", "save_atomically", "settle", "sync_folder"]

_Path = str | bytes | os.PathLike[str]
_BEGIN, _END = ".humebatch-", ".part"


@contextlib.asynccontextmanager
async def _opened(path: str | os.PathLike[str], mode: Literal["rb", "xb"]) -> AsyncIterator[Any]:
    # `aiofiles.open` as a block loses the file if it is cancelled while a thread opens or closes it: it
    # stays open, and a draft would appear after it was discarded.
    opening = asyncio.ensure_future(aiofiles.open(path, mode, opener=private))
    try:
        file = await asyncio.shield(opening)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            await asyncio.wait([opening])
            if opening.exception() is None:
                await opening.result().close()
        raise
    try:
        yield file
    finally:
        with anyio.CancelScope(shield=True):
            await file.close()


async def save_atomically(path: str | os.PathLike[str], chunks: AsyncIterator[bytes]) -> int:
    """Write `chunks` to `path` so that it holds the whole of them or what it held before. Returns the bytes written.

    A temporary file in the target folder is filled, flushed to disk and renamed; the folder is flushed
    too. The file is readable by its owner only: predictions are about people.
    Raises `OSError` when the target cannot be written.
    """
    target = Path(path)
    if not target.name:
        raise ConfigError(f"path: not the name of a file: {os.fspath(path)!r}", field="path")
    draft = target.with_name(draft_name())
    written = 0
    try:
        async with _opened(draft, "xb") as file:
            async for data in chunks:
                await file.write(data)
                written += len(data)
            await file.flush()
            await anyio.to_thread.run_sync(os.fsync, file.fileno())
        await anyio.to_thread.run_sync(settle, draft, target)
    except BaseException:
        # Cancellation included: the draft is ours alone, and nobody would ever come back for it.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_discard, draft)
        raise
    return written


def _discard(draft: Path) -> None:
    draft.unlink(missing_ok=True)


def private(path: str, flags: int) -> int:
    """An `opener` for files that only their owner may read: what is in them is about people."""
    return os.open(path, flags, 0o600)


def draft_name() -> str:
    """A new name for a file that is not whole yet, to stand in the folder of its target."""
    # A short name of its own: the target's may already be as long as the file system allows.
    return f"{_BEGIN}{secrets.token_hex(8)}{_END}"


def is_draft(name: str) -> bool:
    """Whether a file of that name is a draft."""
    return name.startswith(_BEGIN) and name.endswith(_END)


def settle(draft: _Path, target: _Path) -> None:
    """Give a whole draft the name of its target, durably. Blocks; raises `OSError`."""
    os.replace(draft, target)
    sync_folder(os.path.dirname(os.fsencode(target)) or b".")


def sync_folder(folder: _Path) -> None:
    """Wait until the names in a folder are on disk. Raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
