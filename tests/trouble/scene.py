"""A scene for trouble: some files, a server in which things go wrong, and an ingest that may be run again and again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec
from aiohttp import web

import humebatch as hb
from humebatch.testing import FakeClock, RunningServer, Trouble, running_server

from .invariants import Ledger, check

__all__ = ["KEY", "PATIENCE", "Clock", "Scene", "Told", "Watched", "scene"]

KEY = "canary-5c1b7-key"
PATIENCE = 60.0  # real seconds for one run, in which days may pass on its clock
LANGUAGE = hb.Models(language=hb.Language())

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Watched(Trouble):
    """Trouble that counts requests and knows whether a submission is being worked on.

    `requests`: how many of each kind, by method and last step of the path (`GET /predictions`). `posted`: when each
    submission came, on the clock of the last client. `odd`: stands in for the service, and may ask it; a test sets it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requests: Counter[str] = Counter()
        self.posted: list[float] = []
        self.clock: FakeClock | None = None
        self.busy = 0
        self.odd: Callable[[web.Request, Handler], Awaitable[web.StreamResponse]] | None = None

    def plant(self, app: web.Application) -> None:
        super().plant(app)
        app.middlewares.insert(0, self._noted)

    @web.middleware
    async def _noted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        self.requests[f"{request.method} /{resource.canonical.rpartition('/')[2] if resource else ''}"] += 1
        submission = request.method == "POST"
        if submission and self.clock is not None:
            self.posted.append(self.clock.now())
        self.busy += submission
        try:
            return await (handler(request) if self.odd is None else self.odd(request, handler))
        finally:
            self.busy -= submission


class Clock(FakeClock):
    """Stands still while the server works on a submission: else hours would pass here in its milliseconds."""

    def __init__(self, trouble: Watched) -> None:
        super().__init__()
        self._trouble = trouble

    async def sleep(self, seconds: float, /) -> None:
        await super().sleep(seconds)
        while self._trouble.busy:
            await asyncio.sleep(0.001)


class Told(msgspec.Struct):
    """What a run told: input (its base name) to `DONE` or `STATE(REASON)`, the report, and what ended it."""

    states: dict[str, str]
    report: hb.IngestReport | None
    error: hb.HumebatchError | None
    clock: FakeClock
    requests: int
    resends: int
    bytes_sent: int


class Scene:
    """Files in a folder, a server, and runs over them.

    `url`: where clients go, the server's unless a test sets it to that of a proxy. `foreign`: jobs of others, which
    are nobody's business here. `said`: everything that was told, logged or raised.
    """

    def __init__(self, folder: Path, server: RunningServer, trouble: Watched) -> None:
        self.server = server
        self.trouble = trouble
        self.url = server.base_url
        self.inputs = folder / "in"
        self.journal = folder / "run.db"
        self.out = folder / "out"
        self.foreign: set[str] = set()
        self.said: list[str] = []
        self.inputs.mkdir(exist_ok=True)

    def write(self, *contents: str | bytes) -> None:
        """Add files with these contents, named by their number."""
        begin = len(list(self.inputs.iterdir()))
        for number, content in enumerate(contents, begin):
            data = content.encode() if isinstance(content, str) else content
            (self.inputs / f"{number}.txt").write_bytes(data)

    def client(self, *, url: str | None = None, **more: Any) -> hb.BatchClient:
        """A client on the server, whose time is virtual."""
        self.trouble.clock = more.setdefault("clock", Clock(self.trouble))
        return hb.BatchClient(base_url=url or self.url, api_key=KEY, **more)

    def ingest(self, client: hb.BatchClient, **how: Any) -> Any:
        """`client.ingest` of all files, one to a job unless told otherwise."""
        how = {"models": LANGUAGE, "files_per_job": 1, "journal": self.journal, **how}
        return client.ingest(self.inputs, out=self.out, **how)

    async def run(self, *, client: hb.BatchClient | None = None, url: str | None = None, **how: Any) -> Told:
        """One run to its end; what it raises is kept in what it told, whenever it was raised."""
        opened = client or self.client(url=url)
        told = Told({}, None, None, opened._clock, 0, 0, 0)  # type: ignore[arg-type]  # always virtual here
        before = asyncio.all_tasks()
        with anyio.fail_after(PATIENCE):
            async with opened:
                try:
                    async with self.ingest(opened, **how) as outcomes:
                        try:
                            async for outcome in outcomes:
                                self._take(told, outcome)
                        finally:
                            told.report = await outcomes.report()
                except hb.HumebatchError as error:
                    told.error = error
                    self.said += traceback.format_exception(error)
                told.requests, told.resends = opened.stats.requests, opened.stats.resends
                told.bytes_sent = opened.stats.bytes_sent
        # I9: nothing of the run goes on; the server's own tasks may.
        left = {task for task in asyncio.all_tasks() - before if "humebatch/_" in repr(task)}
        assert not left, left
        self.said.append(repr(told.report))
        return told

    def _take(self, told: Told, outcome: Any) -> None:
        error = outcome.error
        name = os.path.basename(outcome.item)
        assert name not in told.states, "an outcome is told once"
        told.states[name] = "DONE" if error is None else f"{error.state}({error.reason})"
        self.said += [repr(outcome), str(error)]

    async def jobs(self) -> list[hb.JobDetails]:
        """All that the server has of ours."""
        return [job for job in await asyncio.to_thread(self.server.jobs) if job.job_id not in self.foreign]

    async def check(self, *, finished: bool = True, duplicates: int = 0) -> Ledger:
        """The invariants, with the server's database as the oracle."""
        jobs, said = await self.jobs(), "\n".join(self.said)

        def work() -> Ledger:
            return check(self.journal, self.out, jobs, finished=finished, key=KEY, said=said, duplicates=duplicates)

        return await asyncio.to_thread(work)

    async def settled(self, *, jobs: int, duplicates: int = 0) -> Ledger:
        """All is DONE in so many jobs, and another run sends nothing and tells the same."""
        ledger = await self.check(duplicates=duplicates)
        assert set(ledger.states) == {"DONE"}, ledger.files
        assert len(await self.jobs()) == jobs
        again = await self.run()
        assert (again.error, again.bytes_sent) == (None, 0)
        assert set(again.states.values()) == {"DONE"} and len(again.states) == len(ledger.files)
        assert (await self.check(duplicates=duplicates)).attempts == ledger.attempts
        assert len(await self.jobs()) == jobs
        return ledger


@contextlib.asynccontextmanager
async def scene(folder: Path, *, keyed: bool, **settings: Any) -> AsyncIterator[Scene]:
    """A server, and nothing wrong with it yet. `keyed`: it honours idempotency keys; else it is like the old one."""
    trouble = Watched()
    async with running_server(trouble=trouble, api_key=KEY, idempotency=keyed, warm=True, **settings) as server:
        made = Scene(folder, server, trouble)
        heard = _Heard(made.said)
        log = logging.getLogger("humebatch")
        level = log.level
        log.addHandler(heard)
        log.setLevel(logging.DEBUG)
        try:
            yield made
        finally:
            log.removeHandler(heard)
            log.setLevel(level)


class _Heard(logging.Handler):
    def __init__(self, said: list[str]) -> None:
        super().__init__()
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said.append(self.format(record))
