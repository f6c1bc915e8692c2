"""An ingest is killed again and again at random moments, and so is its server, until it ends: nothing lost or doubled.

A few ingests by default, and hundreds with

    EVERY_POINT=1 python -m pytest -s tests/trouble/test_kill_loop.py
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from humebatch.testing import jobs_in, running_server

from .crash_driver import Command
from .crashes import Driver, Gate, drivers, inputs, settled_well

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="forks"),
    pytest.mark.timeout(3600),
]

EVERY = bool(os.environ.get("EVERY_POINT"))
INGESTS, WITH_SERVER = (200, 40) if EVERY else (8, 2)
# A job that took so many servers with it would be given up.
_MOST_SERVERS = 2


@pytest.fixture
def chance() -> random.Random:
    seed = random.randrange(10**9)
    print(f"seed {seed}")  # noqa: T201 - to be played again
    return random.Random(seed)


async def undisturbed(driver: Driver) -> float:
    """How many seconds an ingest takes here and now."""
    with tempfile.TemporaryDirectory() as name:
        await asyncio.to_thread(inputs, Path(name))
        async with running_server() as server:
            return (await driver.play(Command(folder=name, base_url=server.base_url))).seconds


@pytest.mark.parametrize("keyed", [True, False], ids=["keys", "list"])
async def test_the_client_is_killed(keyed: bool, chance: random.Random) -> None:
    kills = 0
    async with drivers(1) as (driver,):
        moment = await undisturbed(driver)
        for _ in range(INGESTS):
            with tempfile.TemporaryDirectory() as name:
                folder, gate = Path(name), Gate()
                await asyncio.to_thread(inputs, folder)
                async with running_server(data=folder / "server", idempotency=keyed, trouble=gate) as server:
                    command = Command(folder=name, base_url=server.base_url)
                    while True:
                        command.kill_after = chance.uniform(0, moment)
                        if (ended := await driver.play(command)).runs:
                            break
                        kills += 1
                        await gate.quiet()
                    command.kill_after = None
                    again = await driver.play(command)
                    jobs = await asyncio.to_thread(jobs_in, server.data)
                await asyncio.to_thread(settled_well, folder, jobs, ended.runs + again.runs)
    print(f"killed {kills} times in {INGESTS} ingests")  # noqa: T201 - with -s
    assert kills


class Killable:
    """A server process that comes back with the same data at the same address."""

    def __init__(self, data: Path) -> None:
        self.base_url = ""
        self._data = data
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        port = self.base_url.rpartition(":")[2] or "0"
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "humebatch", "serve", "--measure", "fixed", "--data", str(self._data)),
            *("--port", port),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HUME_API_KEY": "test-key"},
        )
        assert self._process.stdout is not None
        self.base_url = (await self._process.stdout.readline()).decode().strip()
        assert self.base_url

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()


@contextlib.asynccontextmanager
async def killable(data: Path) -> AsyncIterator[Killable]:
    server = Killable(data)
    try:
        await server.start()
        yield server
    finally:
        await server.kill()


async def test_the_server_is_killed_as_well(chance: random.Random) -> None:
    clients = servers = 0
    async with drivers(1) as (driver,):
        moment = await undisturbed(driver)
        for _ in range(WITH_SERVER):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                await asyncio.to_thread(inputs, folder)
                async with killable(folder / "server") as server:
                    command = Command(folder=name, base_url=server.base_url)
                    left = _MOST_SERVERS
                    while True:
                        both = left > 0 and chance.random() < 0.5
                        # A client that is not killed has to get over the server's death by itself.
                        command.kill_after = None if both and chance.random() < 0.5 else chance.uniform(0, moment)
                        playing = asyncio.create_task(driver.play(command))
                        if both:
                            left -= 1
                            servers += 1
                            await asyncio.sleep(chance.uniform(0, moment))
                            await server.kill()
                            await server.start()
                        ended = await playing
                        if ended.runs and not ended.runs[0].error:
                            break
                        clients += ended.signal != 0
                    command.kill_after = None
                    again = await driver.play(command)
                    jobs = await asyncio.to_thread(jobs_in, folder / "server")
                await asyncio.to_thread(settled_well, folder, jobs, ended.runs + again.runs)
    print(f"killed {clients} clients and {servers} servers in {WITH_SERVER} ingests")  # noqa: T201 - with -s
    assert clients + servers
