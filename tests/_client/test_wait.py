"""Waiting for one job, in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

import humebatch as hb
from humebatch.testing import FakeClock, RunningServer

from .scripted import JOB, Answer, details, serving, telling

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("stray_exceptions")]

DONE = details("COMPLETED", started_timestamp_ms=2, ended_timestamp_ms=3, num_predictions=4, num_errors=0)
QUEUED = details("QUEUED")
RUNNING = details("IN_PROGRESS", started_timestamp_ms=2)


class Waited:
    """What came of a wait, and the clock it used."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.seen: list[str] = []

    async def wait(self, answer: Answer, *, poll: hb.PollPolicy | None = None, **more: Any) -> hb.JobDetails:
        async with (
            serving(answer) as url,
            hb.BatchClient(base_url=url, clock=self.clock, poll=poll) as client,
        ):
            return await client.job(JOB).wait(on_state=lambda found: self.seen.append(found.state.status), **more)


async def test_a_finished_job_is_not_waited_for() -> None:
    waited = Waited()
    found = await waited.wait(telling(DONE))
    assert found.state.num_predictions == 4
    assert waited.clock.sleeps == []
    assert waited.seen == ["COMPLETED"]


async def test_every_state_on_the_way_is_told() -> None:
    waited = Waited()
    await waited.wait(telling(QUEUED, QUEUED, RUNNING, details("PAUSED"), DONE))
    assert waited.seen == ["QUEUED", "QUEUED", "IN_PROGRESS", "PAUSED", "COMPLETED"]
    assert len(waited.clock.sleeps) == 4


async def test_waits_grow_up_to_the_cap_and_are_spread() -> None:
    waited = Waited()
    policy = hb.PollPolicy(first=1, factor=2, cap=10, jitter=0.25)
    await waited.wait(telling(*[QUEUED] * 40, DONE), poll=policy)
    middles = [min(2.0**n, 10) for n in range(40)]
    assert len(waited.clock.sleeps) == 40
    for wait, middle in zip(waited.clock.sleeps, middles, strict=True):
        assert middle * 0.75 <= wait <= middle * 1.25
    capped = waited.clock.sleeps[5:]
    assert len(set(capped)) > 20  # not in step
    assert min(capped) < 10 < max(capped)


async def test_a_policy_of_one_wait_replaces_the_clients() -> None:
    clock = FakeClock()
    steady = hb.PollPolicy(first=3, factor=1, cap=3, jitter=0)
    async with (
        serving(telling(QUEUED, QUEUED, DONE)) as url,
        hb.BatchClient(base_url=url, clock=clock, poll=hb.PollPolicy(first=100, cap=100)) as client,
    ):
        await client.job(JOB).wait(poll=steady)
    assert clock.sleeps == [3, 3]


async def test_the_deadline_ends_the_wait_and_not_the_job() -> None:
    waited = Waited()
    with pytest.raises(hb.WaitTimeout) as caught:
        await waited.wait(telling(RUNNING), timeout=60, poll=hb.PollPolicy(first=7, factor=1, cap=7, jitter=0))
    assert caught.value.job_id == JOB
    assert isinstance(caught.value, TimeoutError)
    assert "IN_PROGRESS" in str(caught.value)
    assert "60 s" in str(caught.value)
    # The last look is at the deadline itself, not after it.
    assert waited.clock.sleeps == [7] * 8 + [4]
    assert waited.clock.now() == 60
    assert len(waited.seen) == 10


async def test_a_job_that_ends_at_the_deadline_has_ended() -> None:
    waited = Waited()
    steady = hb.PollPolicy(first=1, factor=1, cap=1, jitter=0)
    await waited.wait(telling(RUNNING, RUNNING, DONE), timeout=2, poll=steady)
    assert waited.clock.now() == 2


async def test_no_time_is_one_look() -> None:
    waited = Waited()
    with pytest.raises(hb.WaitTimeout):
        await waited.wait(telling(RUNNING), timeout=0)
    assert waited.seen == ["IN_PROGRESS"]
    assert waited.clock.sleeps == []
    assert (await waited.wait(telling(DONE), timeout=0)).state.finished


async def test_a_server_that_does_not_answer_a_look_does_not_hold_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("humebatch._client.job._LEAST_LOOK", 0.05)

    async def answer(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(hb.WaitTimeout, match="did not answer") as caught:
        await Waited().wait(answer, timeout=0.01)
    assert caught.value.job_id == JOB


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), float("-inf")])
async def test_a_time_that_is_none_is_refused(timeout: float) -> None:
    waited = Waited()
    with pytest.raises(hb.ConfigError) as caught:
        await waited.wait(telling(DONE), timeout=timeout)
    assert caught.value.field == "timeout"
    assert waited.seen == []


async def test_a_failed_job_raises_with_the_servers_words() -> None:
    failed = details("FAILED", ended_timestamp_ms=3, message="user 'abcde' has exceeded their usage limit")
    with pytest.raises(hb.JobFailed, match="exceeded their usage limit") as caught:
        await Waited().wait(telling(RUNNING, failed))
    assert caught.value.job_id == JOB
    assert isinstance(caught.value.details, hb.JobDetails)
    assert caught.value.details.state.ended_timestamp_ms == 3


@pytest.mark.parametrize("state", [{}, {"message": None}, {"message": ""}])
async def test_a_failed_job_without_words(state: dict[str, Any]) -> None:
    with pytest.raises(hb.JobFailed, match="no reason"):
        await Waited().wait(telling(details("FAILED", **state)))


async def test_an_unknown_status_is_waited_for() -> None:
    waited = Waited()
    with pytest.raises(hb.WaitTimeout, match="ARCHIVING"):
        await waited.wait(telling(details("ARCHIVING")), timeout=100)
    assert len(waited.seen) > 5


async def test_a_server_that_is_down_for_a_while_does_not_end_the_wait() -> None:
    answers = [503, 502, 200, 429, 503, 200]
    states = [RUNNING, DONE]

    async def answer(_: web.Request) -> web.Response:
        status = answers.pop(0)
        return web.json_response(states.pop(0) if status == 200 else {"message": "later"}, status=status)

    waited = Waited()
    await waited.wait(answer)
    assert waited.seen == ["IN_PROGRESS", "COMPLETED"]


@pytest.mark.parametrize(
    ("status", "kind"), [(404, hb.NotFound), (401, hb.AuthError), (400, hb.InvalidRequest), (500, hb.ServerError)]
)
async def test_what_details_raises_ends_the_wait(status: int, kind: type[hb.ApiError]) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"message": "no"}, status=status)

    with pytest.raises(kind):
        await Waited().wait(answer)


async def test_a_callback_that_fails_is_the_callers_own_error() -> None:
    class Stop(Exception):
        pass

    def stop(_: hb.JobDetails) -> None:
        raise Stop

    async with serving(telling(RUNNING)) as url, hb.BatchClient(base_url=url) as client:
        with pytest.raises(Stop):
            await client.job(JOB).wait(on_state=stop)


async def test_many_waits_share_the_polls() -> None:
    now = most = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.002)
        now -= 1
        return web.json_response(DONE)

    async with serving(answer) as url, hb.BatchClient(base_url=url, limits=hb.Limits(polls=3)) as client:
        await asyncio.gather(*(client.job(JOB).wait() for _ in range(30)))
        assert client.stats.requests == 30
    assert most == 3


async def test_five_hundred_looks_cost_no_time() -> None:
    waited = Waited()
    policy = hb.PollPolicy(first=60, factor=1, cap=60, jitter=0)
    with pytest.raises(hb.WaitTimeout):
        await waited.wait(telling(RUNNING), timeout=60 * 500, poll=policy)
    assert len(waited.seen) == 501


async def test_the_real_server(server: RunningServer, client: hb.BatchClient) -> None:
    job = await client.submit(hb.Submission(text=["one two three"], models=hb.Models(language=hb.Language())))
    seen: list[str] = []
    found = await job.wait(timeout=30, on_state=lambda state: seen.append(state.state.status))
    assert found.state.num_predictions == 3
    assert seen[-1] == "COMPLETED"
    assert set(seen) <= {"QUEUED", "IN_PROGRESS", "COMPLETED"}
