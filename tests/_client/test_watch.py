"""Watching thousands of jobs in virtual time, and a few hundred on the real server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from typing import Any

import anyio
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import humebatch as hb
from humebatch._client.outcome import Outcome
from humebatch._client.watch import BatchJobs, Finished, watch
from humebatch._wire.codec import encode
from humebatch._wire.message import WireReply, WireRequest
from humebatch.config import WatchPolicy
from humebatch.testing import FakeClock, RunningServer

from .pollable import World, model, name
from .scripted import details, serving

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("stray_exceptions")]

PERIOD = WatchPolicy().slowest


class Run:
    """A watch of a `World` from beginning to end."""

    def __init__(self, jobs: list[tuple[float, float]], *, start: float = 0.0, seed: int = 1, **world: Any) -> None:
        self.clock = FakeClock(start)
        self.world = World(self.clock, jobs, **world)
        self.outcomes: dict[str, Outcome[str, float]] = {}
        self.lags: list[float] = []
        self._rng = random.Random(seed)

    async def watch(
        self,
        ids: Iterable[str] | AsyncIterator[str] | None = None,
        *,
        timeout: float | None = None,
        policy: WatchPolicy | None = None,
        polls: int = 64,
    ) -> Run:
        jobs = [name(index) for index in range(len(self.world.jobs))] if ids is None else ids
        async with watch(
            self.world,
            jobs,
            policy=policy or WatchPolicy(),
            clock=self.clock,
            polls=polls,
            timeout=timeout,
            chance=self._rng.random,
        ) as finished:
            async for outcome in finished:
                assert outcome.item not in self.outcomes, "delivered twice"
                self.outcomes[outcome.item] = outcome
                if outcome.value is not None:
                    self.lags.append(self.clock.now() - outcome.value)
            assert finished.open == 0
        return self

    def all_done(self) -> None:
        assert set(self.outcomes) == set(self.world.ids)
        assert all(outcome.error is None for outcome in self.outcomes.values())

    def lag(self, share: float) -> float:
        return sorted(self.lags)[int(len(self.lags) * share)]


def submitted_at_once(count: int, **numbers: Any) -> list[tuple[float, float]]:
    return [(0.0, ended) for _, ended in model(count, **numbers)]


SCENES = {
    "A": ({"slots": 50, "rate": 5, "median": 60, "sigma": 0.8}, 1500),
    "B": ({"slots": 500, "rate": 20, "median": 60, "sigma": 0.8}, 500),
    "C": ({"slots": 8, "rate": 50, "median": 5, "sigma": 0.6}, 680),
}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("scene", SCENES)
async def test_ten_thousand_jobs(scene: str, seed: int) -> None:
    numbers, most = SCENES[scene]
    run = await Run(submitted_at_once(10_000, seed=seed, **numbers), seed=seed).watch()
    run.all_done()
    assert run.world.requests <= most
    assert run.lag(0.99) <= PERIOD
    assert run.world.rows < 20 * 10_000


@pytest.mark.slow
async def test_ten_thousand_jobs_watched_while_they_are_submitted() -> None:
    jobs = model(10_000)
    run = Run(jobs)

    async def submitted() -> AsyncIterator[str]:
        for index, (at, _) in enumerate(jobs):
            if at > run.clock.now():
                await run.clock.sleep(at - run.clock.now())
            yield name(index)

    await run.watch(submitted())
    run.all_done()
    assert run.world.requests <= 1500
    assert run.lag(0.99) <= PERIOD


BURST = 5 * 31  # what a second may see at most: looks that find an end cost a fifth
COUNT = 2000
FEW_SLOTS = submitted_at_once(COUNT)  # about an hour
SOON_SEEN: dict[str, dict[str, Any]] = {
    "a clock far behind": {"skew": -5000.0},
    "a clock far ahead": {"skew": 1e10},
    "ends to the second": {"grain": 1.0},
    "ends to the minute": {"grain": 60.0},
    "at most 50 rows, silently": {"cap": 50},
    "at most 20 rows, silently": {"cap": 20},
    "a limit over 100 is refused": {"refused_above": 100},
    "large rows": {"size": 12_000},
}


@pytest.mark.parametrize("how", SOON_SEEN)
async def test_what_makes_no_difference(how: str) -> None:
    run = await Run(FEW_SLOTS, **SOON_SEEN[how]).watch()
    run.all_done()
    assert run.world.requests < 500
    assert run.lag(0.99) <= PERIOD


@pytest.mark.parametrize("random_lateness", [False, True])
async def test_a_list_that_is_late(random_lateness: bool) -> None:
    rng = random.Random(3)
    late = [rng.uniform(0, 30) if random_lateness else 30.0 for _ in FEW_SLOTS]
    run = await Run(FEW_SLOTS, late_by=late).watch()
    run.all_done()
    assert run.world.requests < 500
    assert run.lag(0.99) <= 30 + PERIOD


OF_NO_USE: dict[str, dict[str, Any]] = {
    "ignores its sort": {"sort": "created"},
    "ignores its filter": {"filtered": False},
    "refuses": {"refused": True},
}


@pytest.mark.parametrize("how", OF_NO_USE)
async def test_a_list_of_no_use_is_left_for_looks_at_a_bounded_rate(how: str) -> None:
    run = await Run(FEW_SLOTS, **OF_NO_USE[how]).watch()
    run.all_done()
    assert run.world.sweeps < 30
    assert run.world.looks <= 10 * run.clock.now()
    assert run.world.looks < 12 * COUNT
    assert run.lag(0.5) < 300
    assert busiest_second(run.world.times) <= BURST
    # A handful of jobs is asked for often.
    few = await Run([(0.0, 100.0 + index) for index in range(20)], **OF_NO_USE[how]).watch()
    few.all_done()
    assert few.lag(0.99) < 60


def busiest_second(times: list[float]) -> int:
    return max(sum(1 for other in times[at : at + 200] if other < times[at] + 1) for at in range(len(times)))


async def test_a_list_that_never_shows_our_jobs_is_found_out() -> None:
    run = await Run(FEW_SLOTS, hidden=frozenset(range(COUNT))).watch()
    run.all_done()
    assert run.world.sweeps < 80
    assert run.world.looks < 12 * COUNT
    assert run.lag(0.5) < 300
    assert run.clock.now() < max(end for _, end in FEW_SLOTS) + 900


@pytest.mark.parametrize("how", [{"grain": 1e12}, {"told": False}], ids=["all equal", "none"])
async def test_a_list_whose_rows_tell_no_order_is_found_out(how: dict[str, Any]) -> None:
    few_rows = WatchPolicy(page_rows=200)
    run = await Run(FEW_SLOTS, **how).watch(policy=few_rows)
    run.all_done()
    without = await Run(FEW_SLOTS, refused=True).watch(policy=few_rows)
    assert run.world.requests < 1.1 * without.world.requests
    assert run.lag(0.5) < 300
    assert busiest_second(run.world.times) <= BURST


@pytest.mark.parametrize("timeout", [30.0, 500.0, 3000.0])
@pytest.mark.parametrize("count", [1, 10, 300])
async def test_no_time_is_up_for_a_job_that_ended_unseen_long_before(count: int, timeout: float) -> None:
    rng = random.Random(5)
    jobs = [(0.0, rng.uniform(0, 2 * timeout)) for _ in range(count)]
    jobs[0] = (0.0, 5.0)
    of_no_use: list[dict[str, Any]] = [{"hidden": frozenset(range(count))}, {"refused": True}]
    for list_of_no_use in of_no_use:
        run = await Run(jobs, **list_of_no_use).watch(timeout=timeout)
        assert len(run.outcomes) == count
        for index, (_, end) in enumerate(jobs):
            outcome = run.outcomes[name(index)]
            if end < timeout - (0 if count <= 16 else 200):
                assert outcome.error is None
            elif end > timeout + 31:
                assert isinstance(outcome.error, hb.WaitTimeout)
        assert run.clock.now() <= timeout + 31
        assert busiest_second(run.world.times) <= BURST


async def test_an_outage_at_the_deadline_gets_no_last_looks() -> None:
    run = await Run([(0.0, 50.0)] * 100, hidden=frozenset(range(100)), down=(40.0, 1e9)).watch(timeout=60)
    assert {type(outcome.error) for outcome in run.outcomes.values()} == {hb.WaitTimeout}
    assert run.clock.now() == pytest.approx(60, abs=1)
    assert run.world.looks < 40


async def test_stragglers() -> None:
    hidden = frozenset(range(0, COUNT, 100))
    run = await Run(FEW_SLOTS, hidden=hidden).watch()
    run.all_done()
    assert run.world.requests < 1000
    assert run.lag(0.98) <= PERIOD
    assert run.clock.now() < max(end for _, end in FEW_SLOTS) + 1200


@pytest.mark.parametrize("cap", [None, 50])
async def test_an_outage_of_an_hour_brings_no_storm(cap: int | None) -> None:
    begin, over = 1000.0, 4600.0
    jobs = submitted_at_once(3000)
    run = await Run(jobs, down=(begin, over), cap=cap).watch()
    run.all_done()
    during = [time for time in run.world.times if begin <= time < over]
    assert len(during) < 90
    after = [time for time in run.world.times if time >= over]
    assert after[0] < over + 60
    # One request first; then the pages to catch up, or looks at the permitted rate.
    assert sum(1 for time in after if time < after[0] + 1) <= (8 if cap is None else BURST)
    assert busiest_second(run.world.times) <= BURST
    assert run.world.requests < (500 if cap is None else 500 + 3000)


async def test_an_outage_while_only_looks_are_possible() -> None:
    run = await Run(FEW_SLOTS, refused=True, down=(500.0, 4100.0)).watch()
    run.all_done()
    assert sum(1 for time in run.world.times if 500 <= time < 4100) < 110
    after = [time for time in run.world.times if time >= 4100]
    assert sum(1 for time in after if time < after[0] + 1) <= BURST


async def test_jobs_that_ended_before_are_found_by_a_few_sweeps() -> None:
    jobs = submitted_at_once(3000)
    run = await Run(jobs, start=1e6).watch()
    run.all_done()
    assert run.world.requests < 12
    assert run.clock.now() == 1e6


async def test_more_ended_before_than_may_be_asked_for() -> None:
    run = await Run(submitted_at_once(3000), start=1e6).watch(policy=WatchPolicy(page_rows=1000))
    run.all_done()
    assert run.world.requests < 2000 + 40
    assert max(run.world.limits) == 1000
    assert run.clock.now() - 1e6 < 60  # an end that is found does not count against the rate


async def test_other_peoples_past_costs_a_sample() -> None:
    past = [(0.0, end) for _, end in model(20_000, slots=200)]
    ours = [(7000.0, 7000.0 + end) for end, _ in [(end, 0) for _, end in FEW_SLOTS]]
    run = Run(past + ours, start=7000.0)
    await run.watch([name(20_000 + index) for index in range(COUNT)])
    assert len(run.outcomes) == COUNT
    assert run.world.requests < 500
    assert run.lag(0.99) <= PERIOD


async def test_unknown_statuses_are_not_finished() -> None:
    run = Run([(0.0, 50.0), (0.0, 60.0)], status={1: "ARCHIVING"})
    await run.watch(timeout=3600)
    assert run.outcomes[name(0)].value == 50.0
    assert isinstance(run.outcomes[name(1)].error, hb.WaitTimeout)


async def test_failed_jobs_are_outcomes() -> None:
    run = await Run([(0.0, 5.0), (0.0, 6.0)], failed=frozenset([0])).watch()
    assert isinstance(run.outcomes[name(0)].error, hb.JobFailed)
    assert run.outcomes[name(1)].value == 6.0


async def test_a_job_that_is_not_there_is_not_found_after_a_while() -> None:
    run = await Run([(0.0, 5.0)]).watch([name(0), "nobody"])
    assert run.outcomes[name(0)].value == 5.0
    assert isinstance(run.outcomes["nobody"].error, hb.NotFound)
    assert run.world.looked.count("nobody") == 2
    assert 30 <= run.clock.now() < 60


async def test_a_job_that_the_server_shows_late_is_not_missing() -> None:
    run = await Run([(20.0, 40.0)]).watch()
    run.all_done()
    assert run.world.looked[:2] == [name(0)] * 2


async def test_every_job_has_its_own_deadline_and_the_rest_goes_on() -> None:
    clock = FakeClock()
    run = Run([(0.0, 1000.0), (0.0, 50.0), (0.0, 230.0), (0.0, 500.0)])
    run.clock = run.world.clock = clock

    async def later() -> AsyncIterator[str]:
        yield name(0)
        yield name(1)
        await clock.sleep(200)
        yield name(2)
        yield name(3)

    await run.watch(later(), timeout=100)
    errors = {item: outcome.error for item, outcome in run.outcomes.items()}
    assert isinstance(errors[name(0)], hb.WaitTimeout)
    assert isinstance(errors[name(3)], hb.WaitTimeout)
    assert errors[name(1)] is errors[name(2)] is None
    assert list(run.outcomes) == [name(1), name(0), name(2), name(3)]
    assert clock.now() == pytest.approx(300, abs=1)
    assert "100 s" in str(errors[name(0)])
    assert errors[name(0)].job_id == name(0)  # type: ignore[union-attr]


async def test_deadlines_of_thousands_cost_one_sweep() -> None:
    run = await Run([(0.0, 1e6)] * COUNT).watch(timeout=300)
    assert len(run.outcomes) == COUNT
    assert run.clock.now() == pytest.approx(300, abs=1)
    assert run.world.sweeps < 60
    assert run.world.looks < 60  # one a sweep while the list has shown nothing, and a few at the end


async def test_a_job_that_ends_at_the_deadline_has_ended() -> None:
    run = await Run([(0.0, 100.0)]).watch(timeout=100)
    run.all_done()


async def test_no_time_is_one_look() -> None:
    run = await Run([(0.0, 0.0), (0.0, 9.0)]).watch(timeout=0)
    assert run.outcomes[name(0)].value == 0.0
    assert isinstance(run.outcomes[name(1)].error, hb.WaitTimeout)
    assert run.clock.now() == 0


async def test_duplicates_are_followed_once() -> None:
    run = await Run([(0.0, 5.0), (0.0, 6.0)]).watch([name(0), name(1), name(0), name(1)])
    run.all_done()


async def test_no_jobs_no_requests() -> None:
    run = await Run([]).watch([])
    assert run.outcomes == {}
    assert run.world.requests == 0


async def test_an_iterable_that_takes_its_time_costs_nothing_while_nothing_is_open() -> None:
    run = Run([(0.0, 1.0), (0.0, 1.0)])

    async def slow() -> AsyncIterator[str]:
        yield name(0)
        await run.clock.sleep(100_000)
        yield name(1)

    await run.watch(slow())
    run.all_done()
    assert run.world.requests < 12


async def test_hints_bring_the_outcome_forward() -> None:
    clock = FakeClock()
    world = World(clock, [(0.0, 20.0), (0.0, 1e4)], late=1e5)  # the list shows nothing in time
    async with watch(
        world, [name(0), name(1)], policy=WatchPolicy(), clock=clock, polls=8, chance=lambda: 0.5
    ) as finished:

        async def callback() -> None:
            await clock.sleep(21)
            assert finished.hint(name(0))

        async with anyio.create_task_group() as group:
            group.start_soon(callback)
            assert (await anext(finished)).item == name(0)
    assert clock.now() == pytest.approx(21)
    assert world.looked.count(name(0)) == 2  # one at the start


async def test_forged_and_replayed_hints_cost_one_look_per_job_at_most() -> None:
    clock = FakeClock()
    jobs = [(0.0, 300.0 + index) for index in range(300)]
    world = World(clock, jobs)
    plain = World(FakeClock(), jobs)
    ids = [name(index) for index in range(300)]
    async with watch(world, ids, policy=WatchPolicy(), clock=clock, polls=8, chance=lambda: 0.5) as finished:

        async def flood() -> None:
            while True:
                await clock.sleep(1)
                for job_id in ids:
                    finished.hint(job_id)
                assert not finished.hint("unknown")
                assert not finished.hint("../../etc")

        seen: list[str] = []
        async with anyio.create_task_group() as group:
            group.start_soon(flood)
            seen += [outcome.item async for outcome in finished]
            group.cancel_scope.cancel()
    assert sorted(seen) == ids
    async with watch(plain, ids, policy=WatchPolicy(), clock=plain.clock, polls=8, chance=lambda: 0.5) as finished:
        assert len([outcome async for outcome in finished]) == 300
    assert max(world.looked.count(job_id) for job_id in ids[16:]) == 1  # the others are the sample
    assert world.looks <= plain.looks + 300
    assert busiest_second(world.times) <= 31
    assert world.sweeps <= plain.sweeps + 5


async def test_a_finished_job_takes_no_hints() -> None:
    run = Run([(0.0, 1.0), (0.0, 50.0)])
    async with watch(run.world, [name(0), name(1)], policy=WatchPolicy(), clock=run.clock, polls=8) as finished:
        first = await anext(finished)
        assert not finished.hint(first.item)
        assert (await anext(finished)).item == name(1)


async def test_an_unreadable_job_is_given_up_and_an_unreadable_list_is_done_without() -> None:
    class Garbled(World):
        async def ended(self, limit: int) -> Any:
            await super().ended(limit)
            raise hb.DecodeError("not JSON")

        async def details(self, job_id: str) -> Any:
            row = await super().details(job_id)
            if job_id == name(1):
                raise hb.DecodeError("not JSON")
            return row

    run = Run([(0.0, 50.0), (0.0, 50.0)])
    run.world = Garbled(run.clock, run.world.jobs)
    await run.watch()
    assert run.outcomes[name(0)].value == 50.0
    assert isinstance(run.outcomes[name(1)].error, hb.DecodeError)
    assert run.world.sweeps <= 4


@pytest.mark.parametrize("where", ["ended", "details"])
async def test_a_wrong_key_ends_the_run(where: str) -> None:
    class Locked(World):
        async def _refuse(self, *_: object) -> Any:
            raise hb.AuthError("401", status=401)

    run = Run([(0.0, 50.0)] * 10)
    run.world = Locked(run.clock, run.world.jobs)
    setattr(run.world, where, run.world._refuse)
    with pytest.raises(hb.AuthError):
        await run.watch()


async def test_what_the_iterable_raises_comes_out() -> None:
    class Broken(Exception):
        pass

    run = Run([(0.0, 5.0)])

    async def ids() -> AsyncIterator[str]:
        yield name(0)
        raise Broken from LookupError("the queue is gone")

    with pytest.raises(Broken) as caught:
        await run.watch(ids())
    assert isinstance(caught.value.__cause__, LookupError)
    with pytest.raises(hb.ConfigError):
        await run.watch([""])


@pytest.mark.parametrize("timeout", [-1, float("nan")])
async def test_a_time_that_is_none_is_refused(timeout: float) -> None:
    run = Run([(0.0, 5.0)])
    with pytest.raises(hb.ConfigError) as caught:
        await run.watch(timeout=timeout)
    assert caught.value.field == "timeout"
    with pytest.raises(hb.ConfigError, match="several"):
        await run.watch(name(0))
    assert run.world.requests == 0


async def test_a_slow_reader_slows_the_asking_and_loses_nothing() -> None:
    clock = FakeClock()
    world = World(clock, [(0.0, float(index)) for index in range(400)])
    seen = []
    ids = [name(index) for index in range(400)]
    async with watch(world, ids, policy=WatchPolicy(), clock=clock, polls=8) as finished:
        async for outcome in finished:
            seen.append(outcome.item)
            await clock.sleep(20)
    assert sorted(seen) == ids
    assert world.requests < 60


@st.composite
def runs(draw: st.DrawFn) -> tuple[Run, WatchPolicy, int]:
    """A service with any mixture of faults, not yet watched; a policy, and how many requests at once."""
    count = draw(st.integers(1, 120))
    rng = random.Random(draw(st.integers(0, 10**9)))
    span = draw(st.sampled_from([1.0, 100.0, 5000.0]))
    late = draw(st.sampled_from([0.0, 300.0]))
    hidden = draw(st.sampled_from([0.0, 0.05, 0.5, 1.0]))
    run = Run(
        [(0.0, rng.uniform(0, span)) for _ in range(count)],
        start=draw(st.sampled_from([0.0, 50.0, 1e4])),
        seed=rng.randrange(10**6),
        skew=draw(st.sampled_from([0.0, -1e6, 1e10])),
        sort=draw(st.sampled_from(["ended", "ended", "created"])),
        filtered=draw(st.booleans()),
        cap=draw(st.none() | st.integers(1, 60)),
        refused_above=draw(st.none() | st.integers(10, 200)),
        grain=draw(st.sampled_from([0.001, 1.0, 1000.0])),
        late_by=[rng.uniform(0, late) for _ in range(count)],
        hidden=frozenset(index for index in range(count) if rng.random() < hidden),
        down=draw(st.sampled_from([(0.0, 0.0), (0.0, 600.0), (300.0, 2000.0)])),
        failed=frozenset([0]),
        size=draw(st.sampled_from([10, 100_000])),
    )
    return run, WatchPolicy(page_rows=draw(st.sampled_from([5, 50, 5000]))), draw(st.sampled_from([1, 64]))


# Everything is drawn before the test begins: what Hypothesis raises inside a coroutine ends anyio's test runner.
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs())
async def test_every_job_exactly_once_whatever_the_list_does(drawn: tuple[Run, WatchPolicy, int]) -> None:
    run, policy, polls = drawn
    start = run.clock.now()
    await run.watch(policy=policy, polls=polls)
    assert set(run.outcomes) == set(run.world.ids)
    assert isinstance(run.outcomes[name(0)].error, hb.JobFailed)
    assert run.world.requests <= 60 + 2 * len(run.world.jobs) + 10 * (run.clock.now() - start)
    assert run.clock.now() < max(start, *(end for _, end in run.world.jobs)) + 6000
    assert busiest_second(run.world.times) <= BURST


# The batch API.


async def test_the_sweep_on_the_wire() -> None:
    asked: list[WireRequest] = []

    async def ask(request: WireRequest) -> WireReply:
        asked.append(request)
        states = [("FAILED", 7001), ("COMPLETED", 7000), ("NEW", None)]
        rows = [encode({**details(status, ended_timestamp_ms=end), "job_id": status}) for status, end in states]
        return WireReply(status=200, headers={}, body=b"[" + b",".join(rows) + b"]")

    heard: list[tuple[str, str]] = []
    jobs = BatchJobs(ask, heard=lambda *seen: heard.append(seen))
    rows = await jobs.ended(77)
    assert sorted(asked[0].query) == sorted(
        [("limit", "77"), ("status", "COMPLETED"), ("status", "FAILED"), ("sort_by", "ended"), ("direction", "desc")]
    )
    assert [(row.job_id, row.finished, row.ended) for row in rows] == [
        ("FAILED", True, 7.001),
        ("COMPLETED", True, 7.0),
        ("NEW", False, None),
    ]
    assert heard == [(status, status) for status in ("FAILED", "COMPLETED", "NEW")]
    assert all(row.size == len(bytes(row.body)) for row in rows)
    with pytest.raises(hb.JobFailed) as caught:
        jobs.read(rows[0])
    assert caught.value.job_id == "FAILED"
    assert jobs.read(rows[1]).state.status == "COMPLETED"


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'[{"job_id":"a"}]', b'[{"job_id":1,"state":{"status":"FAILED"}}]'])
async def test_what_is_no_list_is_a_decode_error(body: bytes) -> None:
    async def ask(_: WireRequest) -> WireReply:
        return WireReply(status=200, headers={}, body=body)

    with pytest.raises(hb.DecodeError):
        await BatchJobs(ask, heard=lambda *_: None).ended(5)


LANGUAGE = hb.Models(language=hb.Language())
QUICK = WatchPolicy(quickest=0.05, slowest=0.2)
on_both_loops = pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)


@on_both_loops
async def test_the_real_server_from_submission_to_outcome(client: hb.BatchClient) -> None:
    count = 300

    async def submitted() -> AsyncIterator[hb.Job]:
        things = (hb.Submission(text=[f"text {number}"], models=LANGUAGE) for number in range(count))
        async with client.submit_many(things) as outcomes:
            async for outcome in outcomes:
                yield outcome.unwrap()

    seen: dict[str, hb.JobDetails] = {}
    async with client.watch(submitted(), policy=QUICK, timeout=120) as finished:
        assert isinstance(finished, Finished)
        async for outcome in finished:
            assert outcome.item not in seen
            seen[outcome.item] = outcome.unwrap()
    assert len(seen) == count
    assert all(found.job_id == job_id and found.state.status == "COMPLETED" for job_id, found in seen.items())


@on_both_loops
async def test_the_real_server_after_the_fact(client: hb.BatchClient) -> None:
    submissions = [hb.Submission(text=[f"text {number}"], models=LANGUAGE) for number in range(120)]
    async with client.submit_many(submissions) as outcomes:
        jobs = [outcome.unwrap() async for outcome in outcomes]
    for job in jobs:
        await job.wait(timeout=60)
    before = client.stats.requests
    async with client.watch(jobs, policy=QUICK) as finished:
        assert len([outcome.unwrap() async for outcome in finished]) == 120
    assert client.stats.requests - before <= 3


@on_both_loops
async def test_what_a_watch_learns_is_progress(client: hb.BatchClient) -> None:
    things = [hb.Submission(text=[f"text {number}"], models=LANGUAGE) for number in range(20)]
    async with client.submit_many(things) as outcomes:
        jobs = [outcome.unwrap() async for outcome in outcomes]
    async with client.watch(jobs, policy=QUICK) as finished:
        assert len([outcome.unwrap() async for outcome in finished]) == 20
    async with client.progress() as updates:
        assert (await anext(updates)).jobs == {"COMPLETED": 20}


async def test_jobs_that_nobody_watches_are_let_go(client: hb.BatchClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("humebatch._client.progress._FOLLOWED", 3)
    jobs = [await client.submit(hb.Submission(text=[f"text {number}"], models=LANGUAGE)) for number in range(5)]
    await every(client, *(job.id for job in jobs))
    async with client.progress() as updates:
        assert (await anext(updates)).jobs == {"UNWATCHED": 2, "COMPLETED": 3}


@on_both_loops
async def test_wrong_keys_and_wrong_ids(server: RunningServer, client: hb.BatchClient) -> None:
    async with hb.BatchClient(base_url=server.base_url, api_key="wrong") as other:
        with pytest.raises(hb.AuthError):
            await every(other, "11111111-2222-4333-8444-555555555555")
    with pytest.raises(hb.ConfigError):
        await every(client, "../jobs")
    assert isinstance((await every(client, "no-uuid"))[0].error, hb.InvalidRequest)


async def every(client: hb.BatchClient, *ids: str) -> list[Outcome[str, hb.JobDetails]]:
    async with client.watch(ids, policy=QUICK) as finished:
        return [outcome async for outcome in finished]


async def test_a_server_that_refuses_the_list() -> None:
    clock = FakeClock()
    looks = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal looks
        if request.path.endswith("/jobs"):
            return web.json_response({"message": "sort_by: no such parameter"}, status=400)
        looks += 1
        return web.json_response(details("COMPLETED" if looks > 20 else "QUEUED", ended_timestamp_ms=5))

    async with serving(answer) as url, hb.BatchClient(base_url=url, clock=clock) as client:
        async with client.watch([f"job{number}" for number in range(10)]) as finished:
            assert len([outcome.unwrap() async for outcome in finished]) == 10
        assert client.stats.requests == looks + 1


async def test_it_is_not_open_afterwards(client: hb.BatchClient) -> None:
    async with client.watch([]) as finished:
        assert [outcome async for outcome in finished] == []
    with pytest.raises(hb.ConfigError):
        await anext(finished)
    await asyncio.sleep(0)
