"""Work in a thread that has ended when its caller goes on, however the caller is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

__all__ = ["to_its_end"]

T = TypeVar("T")


async def to_its_end(work: Callable[[], T], *, undo: Callable[[T], None] | None = None) -> T:
    """Run `work` in a thread. Cancelled, it waits for the end of it, undoes what came of it, and is cancelled then.

    `asyncio`'s own cancellation does not stop at the shield that anyio puts around a thread: the caller would go on
    beside it, and whatever it returned would be lost. It may come again while the end is waited for.
    """
    running = asyncio.ensure_future(anyio.to_thread.run_sync(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await _end_of(running)
        if running.exception() is None and undo is not None:
            undoing = asyncio.ensure_future(anyio.to_thread.run_sync(undo, running.result()))
            await _end_of(undoing)
            undoing.result()
        raise


async def _end_of(task: asyncio.Future[T]) -> None:
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError), anyio.CancelScope(shield=True):
            await asyncio.wait([task])
