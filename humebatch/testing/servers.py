"""The real service on a port of its own, and what its database holds."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.to_thread
import msgspec
from aiohttp import web
from msgspec import UNSET

from ..jobs import InferenceRequest, JobDetails, State
from ..server import CallbackLimits, FetchLimits, IntakeLimits, RunnerLimits, create_app
from ..server.app import CHILDREN
from ..server.measure import Selection
from ..server.protocol import JsonAppRunner
from .trouble import Trouble

__all__ = ["RunningServer", "jobs_in", "running_server"]


class RunningServer(msgspec.Struct, frozen=True):
    """A server that is accepting connections: where, with which key, and the folder of its data."""

    base_url: str
    api_key: str
    data: Path

    def jobs(self) -> list[JobDetails]:
        """All jobs in the order in which they were accepted, from the database: `jobs_in(server.data)`. Blocks."""
        return jobs_in(self.data)


def jobs_in(data: str | os.PathLike[str]) -> list[JobDetails]:
    """All jobs of the server whose data are in this folder, in the order in which they were accepted.

    What was accepted, whatever clients were told: read from the database by a connection that cannot write, beside
    a running server or without one. Blocks; on an event loop say `await asyncio.to_thread(jobs_in, folder)`. Raises
    `sqlite3.OperationalError` when no server has used the folder.
    """
    where = (Path(data) / "jobs.db").absolute().as_uri()
    with contextlib.closing(sqlite3.connect(f"{where}?mode=ro", uri=True)) as database:
        rows = database.execute(
            "SELECT id, request, status, created_ms, started_ms, ended_ms, num_predictions, num_errors, message, "
            "CASE status WHEN 'QUEUED' THEN NULL ELSE files_done END FROM job ORDER BY seq"
        ).fetchall()
    return [_details(*row) for row in rows]


def _details(job_id: str, request: bytes, status: str, created_ms: int, *more: Any) -> JobDetails:
    # The order of State's fields is that of the columns.
    state = State(status, created_ms, *(UNSET if value is None else value for value in more))
    return JobDetails(job_id=job_id, request=msgspec.json.decode(request, type=InferenceRequest), state=state)


@contextlib.asynccontextmanager
async def running_server(
    *,
    data: str | os.PathLike[str] | None = None,
    api_key: str = "test-key",
    measure: str | Sequence[str] = "fixed",
    unmeasured: Literal["absent", "zero"] = "absent",
    intake: IntakeLimits | None = None,
    running: RunnerLimits | None = None,
    callback_secret: str | None = None,
    callback_allow: Sequence[str] = ("127.0.0.0/8", "::1"),
    callbacks: CallbackLimits | None = None,
    fetch: bool = True,
    fetch_allow: Sequence[str] = ("127.0.0.0/8", "::1"),
    fetching: FetchLimits | None = None,
    idempotency: bool = True,
    trouble: Trouble | None = None,
    warm: bool = False,
) -> AsyncIterator[RunningServer]:
    """The real service on a free loopback port, in this event loop, for as long as the block runs.

    `measure` is `fixed` here: made-up scores that depend on the bytes alone. `data` is a temporary
    folder unless given. An empty `api_key` makes an open server. Callbacks may go to receivers on this
    machine, unlike those of a server of `humebatch serve`, which wants `--callback-allow` for that. URLs are
    fetched, also from this machine.
    `idempotency`: as in `create_app`. `trouble`: the faults planted in it; they outlast it, and go on in the next
    server that is given them. `warm`: all measuring processes run before the block begins, for tests with a clock of
    their own, in which its start would take hours.
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
            unmeasured=unmeasured,
            intake=intake,
            running=running,
            callback_secret=callback_secret,
            callback_allow=callback_allow,
            callbacks=callbacks,
            fetch=fetch,
            fetch_allow=fetch_allow,
            fetching=fetching,
            idempotency=idempotency,
        )
        if trouble is not None:
            trouble.plant(app)
        runner = JsonAppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            if warm:
                async with anyio.create_task_group() as group:
                    for _ in range((running or RunnerLimits()).workers):
                        group.start_soon(app[CHILDREN].describe, Selection(base="fixed"))
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            port = runner.addresses[0][1]
            if trouble is not None:
                trouble.address = ("127.0.0.1", port)
            yield RunningServer(base_url=f"http://127.0.0.1:{port}", api_key=api_key, data=folder)
        finally:
            with anyio.CancelScope(shield=True):
                await runner.cleanup()
