"""What humebatch tests itself with, for tests of yours: a real server on a real port, a clock that does not wait."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec
from aiohttp import web

from .server import IntakeLimits, RunnerLimits, create_app

__all__ = ["FakeClock", "RunningServer", "running_server"]


class RunningServer(msgspec.Struct, frozen=True):
    """A server that is accepting connections: where, with which key, and the folder of its data."""

    base_url: str
    api_key: str
    data: Path


@contextlib.asynccontextmanager
async def running_server(
    *,
    data: str | os.PathLike[str] | None = None,
    api_key: str = "test-key",
    measure: Literal["local", "fixed"] = "fixed",
    intake: IntakeLimits | None = None,
    running: RunnerLimits | None = None,
) -> AsyncIterator[RunningServer]:
    """The real service on a free loopback port, in this event loop, for as long as the block runs.

    `measure` is `fixed` here: made-up scores that depend on the bytes alone. `data` is a temporary
    folder unless given. An empty `api_key` makes an open server.
    """
    async with contextlib.AsyncExitStack() as stack:
        if data is None:
            temporary = await anyio.to_thread.run_sync(
                lambda: tempfile.TemporaryDirectory(prefix="humebatch-test-", ignore_cleanup_errors=True)
            )
            stack.push_async_callback(anyio.to_thread.run_sync, temporary.cleanup)
            data = temporary.name
        folder = Path(data)
        keys = [api_key] if api_key else []
        app = create_app(folder, api_keys=keys, measure=measure, intake=intake, running=running)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            yield RunningServer(base_url=f"http://127.0.0.1:{runner.addresses[0][1]}", api_key=api_key, data=folder)
        finally:
            with anyio.CancelScope(shield=True):
                await runner.cleanup()


class FakeClock:
    """A `Clock` whose `sleep` takes no time: it moves `now()` on at once and keeps the list of `sleeps`."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self.sleeps: list[float] = []

    def now(self) -> float:
        """Virtual seconds."""
        return self._now

    async def sleep(self, seconds: float, /) -> None:
        """Move on by `seconds` and let other tasks run once."""
        self.sleeps.append(seconds)
        self._now += seconds
        await anyio.lowlevel.checkpoint()
