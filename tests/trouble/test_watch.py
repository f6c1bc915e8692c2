"""A watch that is left, cancelled or held up in each phase: nothing stays behind, and errors are the caller's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import anyio
import pytest

import humebatch as hb
from humebatch._client.watch import watch
from humebatch._wire.sweep import Row
from humebatch.config import WatchPolicy
from humebatch.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("stray_exceptions")]


class Stuck:
    """A service that hangs in one phase and tells when it was reached; everything ends at once otherwise."""

    def __init__(self, phase: str) -> None:
        self.phase = phase
        self.reached = asyncio.Event()
        self.inside = 0

    async def _hang(self, phase: str) -> None:
        if self.phase == phase:
            self.inside += 1
            self.reached.set()
            try:
                await anyio.sleep_forever()
            finally:
                self.inside -= 1

    def check(self, job_id: str) -> None:
        pass

    async def details(self, job_id: str) -> Row:
        await self._hang("look")
        return Row(job_id=job_id, finished=False)

    async def ended(self, limit: int) -> list[Row]:
        await self._hang("sweep")
        return [Row(job_id="1", finished=True, ended=1.0)] if self.phase == "deliver" else []

    def read(self, row: Row) -> int:
        self.reached.set()
        return 1

    def now(self) -> float:
        return 0.0

    async def sleep(self, seconds: float, /) -> None:
        await self._hang("sleep")
        await anyio.sleep(0)

    async def ids(self) -> AsyncIterator[str]:
        yield "1"
        yield "2"
        await self._hang("intake")


async def follow(service: Stuck, *, take: bool = True) -> None:
    jobs = service.ids() if service.phase == "intake" else ["1", "2", "3"]
    async with watch(service, jobs, policy=WatchPolicy(), clock=service, polls=2) as finished:
        if not take:
            await anyio.sleep_forever()
        async for _ in finished:
            pass


PHASES = ["sweep", "look", "sleep", "intake", "deliver"]


@pytest.mark.parametrize("how", ["asyncio", "anyio"])
@pytest.mark.parametrize("phase", PHASES)
async def test_cancelled(phase: str, how: str) -> None:
    before = asyncio.all_tasks()
    service = Stuck(phase)
    if how == "asyncio":
        task = asyncio.ensure_future(follow(service, take=phase != "deliver"))
        await asyncio.wait_for(service.reached.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: follow(service, take=phase != "deliver"))
                await asyncio.wait_for(service.reached.wait(), 10)
                scope.cancel()
        assert scope.cancelled_caught
    assert asyncio.all_tasks() == before
    assert service.inside == 0


class Own(Exception):
    """The caller's."""


@pytest.mark.parametrize("leave", ["break", "raise"])
@pytest.mark.parametrize("phase", PHASES)
async def test_left_early(phase: str, leave: str) -> None:
    before = asyncio.all_tasks()
    service = Stuck(phase)

    async def left() -> None:
        jobs = service.ids() if phase == "intake" else ["1", "2", "3"]
        async with watch(service, jobs, policy=WatchPolicy(), clock=service, polls=2):
            await asyncio.wait_for(service.reached.wait(), 10)
            if leave == "raise":
                raise Own

    if leave == "raise":
        with pytest.raises(Own):
            await left()
    else:
        await left()
    assert asyncio.all_tasks() == before
    assert service.inside == 0


@pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)
async def test_leaving_the_loop_is_leaving_the_watch(client: hb.BatchClient) -> None:
    before = asyncio.all_tasks()
    language = hb.Models(language=hb.Language())
    jobs = [await client.submit(hb.Submission(text=["one two"], models=language)) for _ in range(5)]
    async with client.watch(jobs, policy=WatchPolicy(quickest=0.02, slowest=0.1)) as finished:
        async for _ in finished:
            break
    assert {task for task in asyncio.all_tasks() - before if "humebatch/_client" in repr(task)} == set()
    requests = client.stats.requests
    await jobs[0].details()
    assert client.stats.requests == requests + 1


async def test_a_request_that_hangs_does_not_hold_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("humebatch._client.watch._LEAST_PATIENCE", 0.01)
    service = Stuck("sweep")
    async with watch(service, ["1", "2"], policy=WatchPolicy(), clock=FakeClock(), polls=2, timeout=0.01) as finished:
        errors = [outcome.error async for outcome in finished]
    assert [type(error) for error in errors] == [hb.WaitTimeout] * 2


async def test_a_job_that_hangs_does_not_hold_the_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("humebatch._client.watch._LEAST_PATIENCE", 0.01)
    monkeypatch.setattr("humebatch._client.watch._MOST_PATIENCE", 0.01)
    clock = FakeClock()

    class OneHangs(Stuck):
        async def ended(self, limit: int) -> list[Row]:
            late = clock.now() > 10
            return [Row(job_id=job_id, finished=True, ended=9.0) for job_id in ("1", "2")] if late else []

    service = OneHangs("look")
    async with watch(service, ["1", "2"], policy=WatchPolicy(), clock=clock, polls=2) as finished:
        assert sorted([outcome.item async for outcome in finished]) == ["1", "2"]


async def test_a_server_that_restarts_between_two_sweeps() -> None:
    """Every kind of passing answer for a while, then the truth."""
    clock = FakeClock()
    troubles: list[hb.HumebatchError] = [
        hb.ConnectFailed("refused"),
        hb.RequestTimeout("silence"),
        hb.TransportError("cut"),
        hb.ServerError("503", status=503),
        hb.RateLimited("429", status=429),
        hb.DecodeError("half a page"),
        hb.DecodeError("half a page"),
    ]

    class Restarting(Stuck):
        async def ended(self, limit: int) -> list[Row]:
            if troubles:
                raise troubles.pop(0)
            return [Row(job_id="1", finished=True, ended=1.0)]

    async with watch(Restarting("none"), ["1"], policy=WatchPolicy(), clock=clock, polls=2) as finished:
        assert [outcome.item async for outcome in finished] == ["1"]
    assert troubles == []
