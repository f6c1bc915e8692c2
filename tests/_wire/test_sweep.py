"""Decisions of a watch, for every value; `Watchlist` as a plain object whose steps are answered by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import humebatch as hb
from humebatch._wire.sweep import (
    Expire,
    Look,
    Rates,
    Row,
    Sweep,
    Verdict,
    Wait,
    judge,
    next_limit,
    next_look,
    next_period,
    setback,
)
from humebatch._wire.watchlist import Watchlist
from humebatch.config import WatchPolicy

POSITIVE = st.floats(1e-3, 1e6)
CHANCE = st.floats(0, 1, exclude_max=True)
RATE = st.floats(0, 1e6)


@st.composite
def policies(draw: st.DrawFn) -> WatchPolicy:
    quickest, longer = draw(POSITIVE), draw(st.floats(0, 1e6))
    return WatchPolicy(
        quickest=quickest,
        slowest=quickest + longer,
        jitter=draw(st.floats(0, 0.99)),
        overlap=draw(st.floats(0, 1e6)),
        page_rows=draw(st.integers(1, 10**6)),
        page_bytes=draw(st.integers(1, 10**9)),
        straggler=draw(POSITIVE),
        looks_per_second=draw(POSITIVE),
    )


def row(name: int, ended: float | None = 0.0, *, finished: bool = True, size: int = 0) -> Row:
    return Row(job_id=str(name), finished=finished, ended=ended, size=size)


@given(policies(), POSITIVE, st.integers(0, 10**7), RATE, RATE, st.integers(1, 10**6), CHANCE)
def test_periods_stay_within_the_policy(
    policy: WatchPolicy, age: float, open_jobs: int, ours: float, everyones: float, room: int, chance: float
) -> None:
    rates = Rates(everyones=everyones, ours=ours)
    period = next_period(policy, age=age, open_jobs=open_jobs, rates=rates, room=room, chance=chance)
    assert 0 < policy.quickest * (1 - policy.jitter) <= period * (1 + 1e-9)
    assert period <= policy.slowest


def test_quick_at_first_slow_in_the_middle_quick_near_the_end() -> None:
    policy = WatchPolicy(jitter=0)

    def period(age: float, open_jobs: int, ours: float = 1.0, everyones: float = 1.0) -> float:
        rates = Rates(everyones=everyones, ours=ours)
        return next_period(policy, age=age, open_jobs=open_jobs, rates=rates, room=5000, chance=0)

    assert period(1, 10_000) == 2
    assert period(60, 10_000) == 7.5
    assert period(3600, 10_000) == 15
    assert period(3600, 100) == 5
    assert period(3600, 1) == 2
    assert period(3600, 10_000, ours=0) == 15
    assert period(3600, 10_000, everyones=500) == 5  # half a page a period, and no more


@given(policies(), RATE, RATE, st.integers(1, 10**6))
def test_limits_stay_within_what_may_be_asked_for(policy: WatchPolicy, rate: float, seconds: float, most: int) -> None:
    limit = next_limit(policy, rate=rate, seconds=seconds, most=most)
    assert 1 <= limit <= most
    assert limit >= min(most, rate * seconds)


@given(policies(), st.floats(0, 1e6), st.integers(0, 10**7), st.floats(0, 1e6), CHANCE)
def test_looks_together_keep_the_rate(
    policy: WatchPolicy, age: float, open_jobs: int, previous: float, chance: float
) -> None:
    wait = next_look(policy, age=age, open_jobs=open_jobs, previous=previous, chance=chance)
    assert math.isfinite(wait)
    assert wait >= policy.quickest
    assert wait * policy.looks_per_second >= open_jobs * (1 - 1e-9)


@given(st.integers(1, 10**6), st.none() | st.floats(0, 1e6), CHANCE)
def test_setbacks_grow_to_a_minute_over_what_the_server_asked_for(
    failures: int, floor: float | None, chance: float
) -> None:
    wait = setback(failures=failures, floor=floor, chance=chance)
    assert wait >= max(1.0 if failures == 1 else 0, floor or 0)
    assert wait <= (floor or 0) + 60
    if failures > 5:
        assert wait >= 30


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000), POSITIVE), min_size=1))
def test_rates_are_averages(seen: list[tuple[int, int, float]]) -> None:
    rates = Rates()
    for everyones, ours, seconds in seen:
        rates.learn(everyones=everyones, ours=ours, seconds=seconds)
    highest = max(everyones / seconds for everyones, _, seconds in seen)
    assert 0 <= rates.everyones <= highest * (1 + 1e-9)


# What a page is worth.


@given(
    st.lists(st.integers(0, 20), max_size=60), st.integers(0, 20), st.integers(1, 70), st.integers(1, 70), st.randoms()
)
def test_a_page_that_reaches_back_misses_nothing(
    times: list[int], between: int, before: int, limit: int, rng: random.Random
) -> None:
    """Whatever the ties and the limits: REACHED and WHOLE mean that every end since the last complete page is here."""

    def page(until: int, limit: int) -> list[Row]:
        over = [(time, rng.random(), name) for name, time in enumerate(times) if time <= until]
        return [row(name, time) for time, _, name in sorted(over, reverse=True)[:limit]]

    # What ends on the server's clock at the very instant of a sweep may come after it.
    late = {name for name, time in enumerate(times) if time == between and rng.random() < 0.5}
    first = [one for one in page(between, 100) if int(one.job_id) not in late]
    known = {one.job_id for one in first[:before]}
    if len(known) < len(first):
        known = {one.job_id for one in first}  # an earlier sweep that was not complete says nothing
    second = page(20, limit)
    if judge(second, limit=limit, known=known) in (Verdict.REACHED, Verdict.WHOLE):
        missed = {str(name) for name in range(len(times))} - known - {one.job_id for one in second}
        assert missed == set()


SEEN = {"1", "2", "3"}


@pytest.mark.parametrize(
    ("rows", "limit", "known", "asked", "verdict"),
    [
        ([], 50, set(), 0, Verdict.WHOLE),
        ([], 50, SEEN, 0, Verdict.WHOLE),  # it shows nothing: looks will tell
        ([row(9, 9), row(3, 3), row(2, 2)], 3, SEEN, 0, Verdict.REACHED),
        ([row(9, 9), row(8, 8), row(7, 7)], 3, SEEN, 0, Verdict.MORE),
        ([row(9, 9), row(8, 8), row(7, 7)], 3, set(), 0, Verdict.MORE),
        ([row(9, 9), row(8, 8), row(3, 3)], 3, SEEN, 0, Verdict.MORE),  # more may have ended at 3
        ([row(9, 3), row(2, 3), row(3, 3)], 3, SEEN, 0, Verdict.MORE),
        ([row(9, 9), row(8, 8)], 3, set(), 0, Verdict.WHOLE),
        ([row(9, 9), row(8, 8)], 3, SEEN, 0, Verdict.CAPPED),
        ([row(9, 9), row(8, 8)], 8, set(), 2, Verdict.CAPPED),  # two before, two again
        ([row(9, 9), *(row(n, 5 - n) for n in (1, 2, 3)), row(7, 1)], 9, SEEN, 0, Verdict.WHOLE),  # one came late
        ([row(1, 1), row(2, 2)], 9, set(), 0, Verdict.UNSORTED),
        ([row(1, 2), row(2, None), row(3, 1)], 9, set(), 0, Verdict.WHOLE),
        ([row(1, None, finished=False), row(2, 2)], 9, set(), 0, Verdict.UNFILTERED),
        # A job that ended in the year 3000 stays on top for ever: it proves nothing about the rest.
        ([row(1, 3e10), row(9, 9), row(8, 8)], 3, SEEN, 0, Verdict.MORE),
    ],
)
def test_pages(rows: list[Row], limit: int, known: set[str], asked: int, verdict: Verdict) -> None:
    assert judge(rows, limit=limit, known=known, asked=asked) is verdict


# The watchlist.


def watchlist(
    names: Iterable[int] = (),
    *,
    timeout: float | None = None,
    chance: Callable[[], float] = lambda: 0.5,
    policy: WatchPolicy | None = None,
) -> Watchlist:
    made = Watchlist(policy or WatchPolicy(), polls=8, timeout=timeout, now=0.0, chance=chance)
    for name in names:
        made.add(str(name), now=0.0)
    return made


def settled(names: Iterable[int], **more: object) -> tuple[Watchlist, float]:
    """A watchlist after its first sweep and its first looks, which found nothing ended; and the time of its next."""
    made = watchlist(names, **more)  # type: ignore[arg-type]
    assert made.plan(0.0) == Sweep(50)
    made.page([], limit=50, now=0.0)
    step = made.plan(0.0)
    if isinstance(step, Look):
        for job_id in step.jobs:
            assert not made.found(job_id, Row(job_id=job_id, finished=False), now=0.0)
        step = made.plan(0.0)
    assert isinstance(step, Wait)
    assert step.seconds is not None
    return made, step.seconds


def test_nothing_open_costs_nothing() -> None:
    assert watchlist().plan(0.0) == Wait(None)
    assert watchlist().plan(1e9) == Wait(None)


def test_the_first_thing_is_a_sweep_then_a_look_at_a_few() -> None:
    made = watchlist(range(10_000))
    assert made.plan(0.0) == Sweep(50)
    made.page([], limit=50, now=0.0)
    assert made.plan(0.0) == Look(("0", "1", "2", "3"))


def test_a_job_is_followed_once() -> None:
    made, _ = settled([1])
    assert not made.add("1", now=1.0)
    assert [one.job_id for one in made.page([row(1), row(1)], limit=50, now=2.0)] == ["1"]
    assert made.open == 0
    assert not made.add("1", now=3.0)
    assert made.plan(3.0) == Wait(None)


def test_ends_come_in_order() -> None:
    made, _ = settled([1, 2, 3])
    assert [one.job_id for one in made.page([row(3, 3), row(9, 2.5), row(1, 2)], limit=50, now=2.0)] == ["1", "3"]


def test_a_page_that_does_not_reach_back_is_asked_again_with_more() -> None:
    made, wait = settled(range(1000))
    made.page([row(0, 0, size=100)], limit=50, now=wait)
    step = made.plan(wait + 100)
    assert isinstance(step, Sweep)
    assert step.limit < 200
    full = [row(name, name, size=100) for name in range(500, 500 - step.limit, -1)]
    made.page(full, limit=step.limit, now=wait + 100)
    assert made.plan(wait + 100) == Sweep(4 * step.limit)
    made.page([row(name, name, size=100) for name in range(500, -1, -1)], limit=4 * step.limit, now=wait + 100)
    assert not has_sweep(made, wait + 100)
    assert made.open == 499


def test_large_rows_make_small_pages() -> None:
    policy = WatchPolicy(page_bytes=1_000_000)
    made = watchlist(range(1000), policy=policy)
    limit = 50
    for _ in range(9):
        step = made.plan(0.0)
        if not isinstance(step, Sweep):
            break
        limit = step.limit
        made.page([row(n, -n, size=10_000) for n in range(10**6, 10**6 + limit)], limit=limit, now=0.0)
    assert limit == 100


def test_a_refused_limit_is_made_smaller_then_the_list_is_left_alone() -> None:
    made = watchlist(range(100))
    made.page([row(n, -n) for n in range(1000, 1050)], limit=50, now=0.0)
    assert made.plan(0.0) == Sweep(200)
    made.list_refused(0.0, limit=200)
    assert made.plan(0.0) == Sweep(50)
    made.list_refused(0.0, limit=50)
    looks = {job for second in range(40) for job in looked(made, float(second))}
    assert looks == {str(n) for n in range(100)}


def looked(made: Watchlist, now: float) -> list[str]:
    """Everything that is to be looked at now; none of it has ended."""
    jobs: list[str] = []
    while isinstance(step := made.plan(now), Look):
        jobs += step.jobs
        for job_id in step.jobs:
            made.found(job_id, Row(job_id=job_id, finished=False), now=now)
    return jobs


def test_a_list_of_no_use_gets_another_chance() -> None:
    made, wait = settled(range(10))
    made.page([row(1, 1), row(2, 2)], limit=50, now=wait)
    sweeps = [second for second in range(1, 2000) if not looked(made, wait + second) and has_sweep(made, wait + second)]
    assert sweeps[0] == 900
    made.page([row(2, 2), row(1, 1)], limit=50, now=wait + 2000)
    step = made.plan(wait + 2000)
    assert isinstance(step, Wait)


def test_a_list_that_shows_nothing_of_ours_gets_no_other_chance() -> None:
    made, wait = settled(range(10))
    made.page([row(1, 1), row(2, 2)], limit=50, now=wait)
    for number, rows in enumerate(([], [row(100, 2), row(101, 1)]), 1):
        made.page(rows, limit=50, now=wait + 1000 * number)
        assert len(looked(made, wait + 1000 * number + 890)) == 8
        assert not has_sweep(made, wait + 1000 * number + 890)


def waits(made: Watchlist, now: float) -> float | None:
    step = made.plan(now)
    assert isinstance(step, Wait)
    return step.seconds


def has_sweep(made: Watchlist, now: float) -> bool:
    return isinstance(made.plan(now), Sweep)


@given(st.lists(st.tuples(st.sampled_from("12345xyz"), st.floats(0, 10)), max_size=200))
def test_hints_cost_at_most_one_look_per_job(hints: list[tuple[str, float]]) -> None:
    made, _ = settled(range(1, 5))
    taken = [name for name, _ in hints if made.hint(name)]
    assert taken == list(dict.fromkeys(name for name, _ in hints if name in "1234"))
    assert looked(made, 0.0) == taken
    assert not any(made.hint(name) for name in "12345xyz" if name in taken or name not in "1234")


def test_many_hints_keep_to_the_rate() -> None:
    made, wait = settled(range(1000), policy=WatchPolicy(looks_per_second=10))
    for name in range(1000):
        assert made.hint(str(name))
    first = looked(made, 0.0)
    assert len(first) <= 20
    made.page([], limit=50, now=wait)
    assert len(looked(made, wait)) <= 10 * wait + 1


def test_an_end_that_was_seen_before_the_job_was_known_is_fetched_at_once() -> None:
    made, _ = settled([1, 2])
    made.page([row(7, 7)], limit=50, now=1.0)
    assert made.add("7", now=1.5)
    step = made.plan(1.5)
    assert isinstance(step, Look)
    assert step.jobs[0] == "7"
    assert made.found("7", row(7, 7), now=1.5)


def test_deadlines_get_one_last_sweep_together() -> None:
    made, wait = settled(range(101), timeout=1.0)
    assert wait == pytest.approx(1.0)
    assert [one.job_id for one in made.page([row(100)], limit=50, now=0.5)] == ["100"]
    assert waits(made, 0.5) == pytest.approx(0.5, abs=1e-3)
    # Less than a period ago, a sweep has been: that one was the last.
    assert made.plan(1.0) == Expire(tuple(str(n) for n in range(100)))
    made, _ = settled(range(3), timeout=60.0)
    assert isinstance(made.plan(60.0), Sweep)
    made.page([row(1)], limit=50, now=60.0)
    assert made.plan(60.0) == Expire(("0", "2"))
    assert made.open == 0


def test_a_list_that_has_shown_none_of_the_jobs_does_not_speak_for_those_whose_time_is_up() -> None:
    everybody = tuple(str(n) for n in range(100))
    made, _ = settled(range(100), timeout=60.0)
    assert isinstance(made.plan(60.0), Sweep)
    made.page([], limit=50, now=60.0)
    # None of a few has ended: the others are believed to go on, too.
    step = made.plan(60.0)
    looks: list[str] = []
    while isinstance(step, Look):
        looks += step.jobs
        step = made.plan(60.0)
    assert len(set(looks)) == len(looks) == 16
    assert step == Expire(everybody)
    # All have ended: each is found, at the permitted rate.
    made, _ = settled(range(100), timeout=60.0)
    made.plan(60.0)
    made.page([], limit=50, now=60.0)
    now, found = 60.0, 0
    while made.open and now < 90:
        match made.plan(now):
            case Look(jobs):
                assert made.until_deadline(now) == 0
                found += sum(made.found(job_id, row(int(job_id)), now=now) for job_id in jobs)
            case Wait(seconds):
                assert seconds is not None
                now += seconds
            case step:
                pytest.fail(f"{step} while looks find ends")
    assert found == 100
    assert now > 60
    # It does not last: half a minute later, time is up.
    made, _ = settled(range(100), timeout=60.0)
    made.plan(60.0)
    made.page([], limit=50, now=60.0)
    assert isinstance(made.plan(60.0), Look)
    assert made.plan(91.0) == Expire(everybody)


def test_a_deadline_in_an_outage_is_a_deadline() -> None:
    made, _ = settled(range(3), timeout=10.0)
    made.list_failed(9.9)
    assert made.plan(10.0) == Expire(("0", "1", "2"))


def test_no_time_is_one_sweep() -> None:
    made = watchlist([1, 2], timeout=0.0)
    assert made.plan(0.0) == Sweep(50)
    made.page([row(2)], limit=50, now=0.0)
    assert made.plan(0.0) == Expire(("1",))


def test_a_job_is_gone_when_it_was_missing_twice() -> None:
    made = watchlist([1])
    made.page([], limit=50, now=0.0)
    assert made.plan(0.0) == Look(("1",))
    assert not made.gone("1", now=0.0)
    times = [second for second in range(1, 40) if looked_missing(made, float(second))]
    assert times == [30]
    assert made.open == 0


def looked_missing(made: Watchlist, now: float) -> bool:
    step = made.plan(now)
    if isinstance(step, Sweep):
        made.page([], limit=step.limit, now=now)
        step = made.plan(now)
    return isinstance(step, Look) and all(made.gone(job_id, now=now) for job_id in step.jobs)


def test_a_job_that_turns_up_after_all_is_not_gone() -> None:
    made = watchlist([1])
    made.page([], limit=50, now=0.0)
    assert made.plan(0.0) == Look(("1",))
    assert not made.gone("1", now=0.0)
    assert not made.found("1", Row(job_id="1", finished=False), now=30.0)
    assert not made.gone("1", now=60.0)
    assert made.gone("1", now=90.0)


def test_failures_are_followed_by_silence_that_grows() -> None:
    made = watchlist(range(100), chance=lambda: 0.99)
    now, tries = 0.0, 0
    while now < 3600:
        match made.plan(now):
            case Sweep(_):
                tries += 1
                made.list_failed(now)
            case Wait(seconds):
                assert seconds is not None
                now += seconds
            case step:
                pytest.fail(f"{step} in an outage")
    assert tries < 75
    assert has_sweep(made, now)


def test_what_the_server_asks_for_is_kept_to() -> None:
    made = watchlist([1])
    made.list_failed(0.0, floor=500.0)
    step = made.plan(0.0)
    assert isinstance(step, Wait)
    assert step.seconds is not None
    assert step.seconds >= 500


def test_one_bad_job_does_not_stop_the_others() -> None:
    made, _ = settled([1, 2])
    assert made.look_failed("1", now=0.0, final=True)
    assert not made.look_failed("2", now=0.0, unreadable=True)
    assert not made.look_failed("2", now=1.0, unreadable=True)
    assert made.look_failed("2", now=2.0, unreadable=True)
    assert made.open == 0


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("quickest", [0, -1, float("nan"), float("inf"), True, "2"]),
        ("slowest", [0, 1.9]),
        ("jitter", [-0.1, 1, float("nan")]),
        ("overlap", [-1, float("inf")]),
        ("page_rows", [0, 1.5, -1]),
        ("page_bytes", [0, 1.5]),
        ("straggler", [0]),
        ("looks_per_second", [0, -1]),
    ],
)
def test_policies_that_make_no_sense_are_refused(field: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(hb.ConfigError) as caught:
            WatchPolicy(**{field: value})  # type: ignore[arg-type]
        assert caught.value.field == field
