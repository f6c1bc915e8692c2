"""What humebatch tests itself with, for tests of yours: a real server on a real port, a clock that does not wait."""

from __future__ import annotations

import contextlib
import heapq
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Literal

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec
from aiohttp import web

from .server import CallbackLimits, IntakeLimits, RunnerLimits, create_app
from .server.protocol import JsonAppRunner

__all__ = ["FakeClock", "RunningServer", "running_server"]

_TURNS = 16  # of the event loop, for other tasks to begin sleeps of their own


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
    callback_secret: str | None = None,
    callback_allow: Sequence[str] = ("127.0.0.0/8", "::1"),
    callbacks: CallbackLimits | None = None,
) -> AsyncIterator[RunningServer]:
    """The real service on a free loopback port, in this event loop, for as long as the block runs.

    `measure` is `fixed` here: made-up scores that depend on the bytes alone. `data` is a temporary
    folder unless given. An empty `api_key` makes an open server. Callbacks may go to receivers on this
    machine, unlike those of a server of `humebatch serve`, which wants `--callback-allow` for that.
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
        app = create_app(
            folder,
            api_keys=keys,
            measure=measure,
            intake=intake,
            running=running,
            callback_secret=callback_secret,
            callback_allow=callback_allow,
            callbacks=callbacks,
        )
        runner = JsonAppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            yield RunningServer(base_url=f"http://127.0.0.1:{runner.addresses[0][1]}", api_key=api_key, data=folder)
        finally:
            with anyio.CancelScope(shield=True):
                await runner.cleanup()


class FakeClock:
    """A `Clock` whose sleeps take no time: `now()` jumps to the end of the earliest sleep. `sleeps` lists them all.

    Several tasks may sleep at once and wake in the right order; before time jumps, the others get a few turns.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._sleepers: list[tuple[float, int]] = []
        self.sleeps: list[float] = []

    def now(self) -> float:
        """Virtual seconds."""
        return self._now

    async def sleep(self, seconds: float, /) -> None:
        """Let other tasks run, and move on by `seconds`; a sleep that is cancelled moves nothing."""
        self.sleeps.append(seconds)
        me = (self._now + seconds, len(self.sleeps))
        heapq.heappush(self._sleepers, me)
        try:
            for _ in range(_TURNS):
                await anyio.lowlevel.checkpoint()
            while self._sleepers[0] != me:
                await anyio.lowlevel.checkpoint()
            self._now = max(self._now, me[0])
        finally:
            self._sleepers.remove(me)
            heapq.heapify(self._sleepers)
