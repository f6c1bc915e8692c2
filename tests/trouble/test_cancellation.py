"""Cancelled in every phase: it passes through untouched, and nothing stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import pytest

import humebatch as hb

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("stray_exceptions")]

JOB = "11111111-2222-4333-8444-555555555555"
RUNNING = (
    b'{"type":"INFERENCE","job_id":"' + JOB.encode() + b'","request":{"files":[],"models":{}},'
    b'"state":{"status":"IN_PROGRESS","created_timestamp_ms":1}}'
)


class Stage:
    """A server that plays one phase and tells when the client has reached it and when it has hung up."""

    def __init__(self, phase: str) -> None:
        self._phase = phase
        self.reached = asyncio.Event()
        self.over = asyncio.Event()
        self.open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._play(reader, writer)
                while self._phase == "wait":  # the connection is kept, and the job asked for again
                    await self._play(reader, writer)
                while await reader.read(2**16):
                    pass
        finally:
            self.open -= 1
            writer.close()

    async def _play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._phase == "connect":  # TLS that does not answer
            await reader.read(1)
            self.reached.set()
            return
        await reader.readuntil(b"\r\n\r\n")
        if self._phase == "upload":
            await reader.readexactly(100_000)
            self.reached.set()
            await self.over.wait()
        if self._phase == "answer":
            self.reached.set()
        if self._phase == "wait":
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(RUNNING) + RUNNING)
            asyncio.get_running_loop().call_later(0.02, self.reached.set)
        if self._phase == "download":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n[" + b" " * 200_000)
            asyncio.get_running_loop().call_later(0.02, self.reached.set)
        if self._phase == "retry":
            writer.write(b"HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 0\r\nRetry-After: 500\r\n\r\n")
            asyncio.get_running_loop().call_later(0.02, self.reached.set)


@contextlib.asynccontextmanager
async def staged(phase: str) -> AsyncIterator[tuple[Stage, str]]:
    stage = Stage(phase)
    server = await asyncio.start_server(stage.serve, "127.0.0.1", 0)
    scheme = "https" if phase == "connect" else "http"
    # Small buffers, so that an upload is still under way when the test looks.
    server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    try:
        yield stage, f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        stage.over.set()
        server.close()
        async with asyncio.timeout(10):
            while stage.open:
                await asyncio.sleep(0.001)


def open_files() -> set[str]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{number}"))
    return {name for name in found if name.startswith("/tmp") or "humebatch" in name}


async def submit(client: hb.BatchClient, folder: Path) -> None:
    path = folder / "a.wav"
    with path.open("wb") as file:
        file.truncate(30_000_000)
    await client.submit(hb.Submission(files=[path]))


async def wait(client: hb.BatchClient, _: Path) -> None:
    await client.job(JOB).wait()


async def save(client: hb.BatchClient, folder: Path) -> None:
    await client.job(JOB).save_predictions(folder / "p.json")


async def fetch(client: hb.BatchClient, _: Path) -> None:
    await client.job(JOB).predictions()


Act = Callable[[hb.BatchClient, Path], Coroutine[Any, Any, None]]
PHASES: list[tuple[str, Act]] = [
    ("connect", submit),
    ("connect", wait),
    ("upload", submit),
    ("answer", submit),
    ("answer", fetch),
    ("answer", wait),
    ("wait", wait),
    ("retry", wait),
    ("retry", save),
    ("download", fetch),
    ("download", save),
]


async def cancelled(how: str, act: Act, client: hb.BatchClient, folder: Path, stage: Stage) -> None:
    """Start `act`, cancel it in the middle of its phase, and see the cancellation come out as it went in."""
    if how == "asyncio":
        task = asyncio.ensure_future(act(client, folder))
        await asyncio.wait_for(stage.reached.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(act, client, folder)
                await asyncio.wait_for(stage.reached.wait(), 10)
                scope.cancel()
        assert scope.cancelled_caught


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks into /proc")
@pytest.mark.parametrize("how", ["asyncio", "anyio"])
@pytest.mark.parametrize(("phase", "act"), PHASES, ids=[f"{phase}-{act.__name__}" for phase, act in PHASES])
async def test_cancelled(phase: str, act: Act, how: str, tmp_path: Path) -> None:
    gc.collect()
    tasks = asyncio.all_tasks()
    files = open_files()
    async with staged(phase) as (stage, url):
        client = hb.BatchClient(base_url=url, api_key="k", limits=hb.Limits(uploads=1, polls=1))
        async with client:
            # The second time would not get through if the first had kept its place in a limit. After a Retry-After
            # nothing of that class gets through, as it should.
            for _ in range(1 if phase == "retry" else 2):
                stage.reached.clear()
                await cancelled(how, act, client, tmp_path, stage)
                # At once, and with the client still open: no open file, no half file.
                assert open_files() == files
                assert set(os.listdir(tmp_path)) <= {"a.wav"}
        async with asyncio.timeout(10):
            while phase != "upload" and stage.open:  # that script does not look whether anybody is there
                await asyncio.sleep(0.001)
        ours = {task for task in asyncio.all_tasks() - tasks if "Stage" not in repr(task)}
        assert ours == set()
    assert client.stats.resends == (1 if phase == "retry" else 0)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks into /proc")
async def test_a_cancelled_upload_has_closed_its_file_when_it_returns(tmp_path: Path) -> None:
    async with staged("upload") as (stage, url), hb.BatchClient(base_url=url, api_key="k") as client:
        task = asyncio.create_task(submit(client, tmp_path))
        await asyncio.wait_for(stage.reached.wait(), 10)
        assert str(tmp_path / "a.wav") in open_files()
        # Every worker thread is busy for a while, so the file cannot happen to be closed in time.
        loop = asyncio.get_running_loop()
        busy = [loop.run_in_executor(None, time.sleep, 0.1) for _ in range(40)]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert str(tmp_path / "a.wav") not in open_files()
        await asyncio.gather(*busy)


async def test_a_block_that_is_cancelled_closes_its_connections(tmp_path: Path) -> None:
    async with staged("download") as (stage, url):
        with anyio.CancelScope() as scope:
            async with hb.BatchClient(base_url=url, api_key="k") as client, anyio.create_task_group() as group:
                for number in range(5):
                    group.start_soon(client.job(JOB).save_predictions, tmp_path / f"{number}.json")
                await asyncio.wait_for(stage.reached.wait(), 10)
                scope.cancel()
        assert scope.cancelled_caught
        async with asyncio.timeout(10):
            while stage.open:
                await asyncio.sleep(0.001)
    assert os.listdir(tmp_path) == []


async def test_a_deadline_of_the_caller_is_a_plain_timeout(tmp_path: Path) -> None:
    async with staged("answer") as (_, url), hb.BatchClient(base_url=url, api_key="k") as client:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.05):
                await client.job(JOB).wait()
        assert type(caught.value) is TimeoutError  # not one of ours: the time was the caller's
