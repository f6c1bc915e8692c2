"""Ingests in processes of their own that are killed, the servers they talk to, and what must hold in the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
from aiohttp import web

from humebatch.jobs import JobDetails
from humebatch.testing import Trouble

from .crash_driver import Command, Ended, Ran
from .invariants import check

__all__ = ["FILES", "JOBS", "Driver", "Gate", "compiled", "drivers", "inputs", "settled_well"]

FILES, JOBS = 12, 4
_HERE = Path(__file__).parent
# Forks end before; seconds.
_PATIENCE = 120
_TURNS = 20


def compiled(folder: Path) -> Path:
    """The crash points as a library. Blocks."""
    library = folder / "crash_points.so"
    source = _HERE / "crash_points.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl", "-pthread"], check=True)
    return library


def inputs(folder: Path) -> None:
    """Twelve small files, two of them the same and one in a folder of its own. Blocks."""
    (folder / "in" / "sub").mkdir(parents=True)
    for number in range(FILES):
        content = b"the same" if number in (4, 9) else b"clip %d" % number
        (folder / "in" / ("sub" if number == 7 else "") / f"{number:02}.wav").write_bytes(content)


class Driver:
    """A process that plays one command after the other."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def play(self, command: Command) -> Ended:
        """Play a command to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")
        async with asyncio.timeout(_PATIENCE):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the driver is dead; it has said why on stderr")
        return msgspec.json.decode(line, type=Ended)


@contextlib.asynccontextmanager
async def drivers(count: int, library: Path | None = None) -> AsyncIterator[list[Driver]]:
    """So many drivers, with the crash points in them if a library is given."""
    preload = {} if library is None else {"LD_PRELOAD": str(library)}
    async with contextlib.AsyncExitStack() as stack:
        started = []
        for _ in range(count):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(_HERE / "crash_driver.py"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **preload},
                limit=2**22,
            )
            stack.push_async_callback(_ended, process)
            started.append(Driver(process))
        yield started


async def _ended(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(_PATIENCE):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise


class Gate(Trouble):
    """No trouble, but it tells when a server has nothing more to do for clients that are dead."""

    def __init__(self) -> None:
        super().__init__()
        self._inside = 0

    def plant(self, app: web.Application) -> None:
        """As `Trouble.plant`."""
        super().plant(app)
        app.middlewares.insert(0, self._count)

    @web.middleware
    async def _count(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self._inside += 1
        try:
            return await handler(request)
        finally:
            self._inside -= 1

    async def quiet(self) -> None:
        """Until whatever dead clients have sent has been answered."""
        turns = 0
        # What they have sent lies in this machine already, but it takes the loop some turns to see it.
        while turns < _TURNS:
            await asyncio.sleep(0.001 if self._inside else 0)
            turns = 0 if self._inside else turns + 1


def settled_well(folder: Path, jobs: list[JobDetails], runs: list[Ran]) -> None:
    """Two runs ended by themselves after whatever happened: everything is measured once, and all is told. Blocks."""
    told = check(folder / "run.db", folder / "out", jobs, key="test-key")
    assert told.states == {"DONE": FILES}
    assert len(jobs) == JOBS
    assert {job.job_id for job in jobs} == {job_id for _, job_id in told.groups.values() if job_id is not None}
    assert sum(state == "DONE" for state, _ in told.groups.values()) == JOBS
    assert {state for state, _ in told.groups.values()} <= {"DONE", "DROPPED"}
    paths = sorted(str(path) for path in (folder / "in").rglob("*.wav"))
    for run in runs:
        assert run.error == ""
        assert sorted(run.outcomes) == [(path, "DONE") for path in paths]
    assert runs[-1].sent == 0
    left = {path.relative_to(folder / "out").as_posix() for path in (folder / "out").rglob("*") if path.is_file()}
    assert left == {f"{path.removeprefix(f'{folder}/')}/predictions.json" for path in paths} | {"index.jsonl"}
