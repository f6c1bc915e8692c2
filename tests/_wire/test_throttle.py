"""How hard to press: properties of the throttle, the retry budget and the breaker."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from humebatch._wire.throttle import Breaker, RetryBudget, Throttle, rate_limit_pause

EVENTS = st.lists(st.tuples(st.sampled_from(["ok", "back", "wait"]), st.floats(0, 100)), max_size=200)


@given(st.integers(1, 64), EVENTS)
def test_places_stay_between_one_and_the_callers_bound(most: int, events: list[tuple[str, float]]) -> None:
    throttle, now = Throttle(most=most), 0.0
    for kind, amount in events:
        if kind == "ok":
            throttle.succeeded()
        elif kind == "back":
            throttle.pushed_back(now=now, pause=amount)
        else:
            now += amount
        assert 1 <= throttle.places <= most
        assert throttle.wait(now=now) >= 0


def test_many_complaints_about_one_overload_count_once() -> None:
    throttle = Throttle(most=20)
    for _ in range(20):
        throttle.pushed_back(now=5.0, pause=None)
    assert throttle.places == 14
    throttle.pushed_back(now=6.1, pause=None)
    assert throttle.places == 9


def test_a_full_window_of_successes_opens_one_place() -> None:
    throttle = Throttle(most=20)
    throttle.pushed_back(now=0.0, pause=None)
    for _ in range(15):
        throttle.succeeded()
    assert throttle.places == 15


@given(st.floats(0, 900), st.floats(0, 900), st.floats(0, 1000))
def test_the_longest_pause_holds_for_the_whole_class(first: float, second: float, later: float) -> None:
    throttle = Throttle(most=4)
    throttle.pushed_back(now=0.0, pause=first)
    throttle.pushed_back(now=0.0, pause=second)
    assert throttle.wait(now=later) == max(0.0, max(first, second) - later)


@given(st.lists(st.sampled_from(["ok", "retry", "timeout"]), max_size=300))
def test_a_budget_is_never_overdrawn_nor_overfilled(events: list[str]) -> None:
    budget = RetryBudget(capacity=50.0, tokens=50.0)
    for event in events:
        before = budget.tokens
        if event == "ok":
            budget.succeeded()
        else:
            cost = 10.0 if event == "timeout" else 5.0
            assert budget.spend(timeout=event == "timeout") == (before >= cost)
        assert 0 <= budget.tokens <= 50


def test_a_breaker_opens_lets_one_probe_through_and_closes_on_an_answer() -> None:
    breaker = Breaker()
    for _ in range(9):
        breaker.failed(now=0.0, began=0.0)
    assert breaker.wait(now=0.0) == 0
    breaker.failed(now=0.0, began=0.0)
    assert breaker.wait(now=0.0) == 5
    assert breaker.wait(now=5.0) == 0, "the first to come is the probe"
    assert breaker.wait(now=5.0) == 5, "the others wait on"
    breaker.failed(now=5.5, began=5.0)
    assert breaker.wait(now=5.5) == 10
    assert breaker.wait(now=16.0) == 0
    breaker.answered()
    assert breaker.wait(now=16.0) == breaker.wait(now=16.0) == 0


def test_what_was_in_flight_when_a_breaker_opened_does_not_double_its_pause() -> None:
    breaker = Breaker()
    for number in range(64):
        breaker.failed(now=2.0 + number / 100, began=number / 100)
    assert breaker.wait(now=3.0) == pytest.approx(5 - 1 + 0.09)
    breaker.failed(now=100.0, began=1.0)  # a large upload
    assert breaker.wait(now=100.0) == 0
    breaker.failed(now=100.5, began=100.0)
    assert breaker.wait(now=100.5) == 10


@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 2000)), min_size=10, max_size=60))
def test_a_breaker_waits_a_minute_at_the_most(failures: list[tuple[float, float]]) -> None:
    breaker, now = Breaker(), 0.0
    for step, took in failures:
        now += step
        breaker.failed(now=now, began=now - took)
        assert breaker.wait(now=now) <= 60.001


NOW = 1_800_000_000.0


@given(st.floats(0, 800))
def test_reset_is_read_in_all_three_ways(seconds: float) -> None:
    for text in (f"{NOW + seconds:.3f}", f"{(NOW + seconds) * 1000:.0f}", f"{seconds:.3f}"):
        pause = rate_limit_pause({"x-ratelimit-remaining": "0", "x-ratelimit-reset": text}, now=NOW)
        assert pause is not None
        assert abs(pause - seconds) < 0.01


@given(st.text(max_size=20), st.text("0123456789.e+-²٥ ", max_size=20) | st.text(max_size=20))
@example("0", "5.²")
@example("0", "1" * 15 + "." + "9" * 400)
def test_whatever_stands_in_the_headers_the_pause_is_bounded(remaining: str, reset: str) -> None:
    pause = rate_limit_pause({"x-ratelimit-remaining": remaining, "x-ratelimit-reset": reset}, now=NOW)
    assert pause is None or 0 <= pause <= 900
    pause = rate_limit_pause({"x-ratelimit-remaining": "0", "x-ratelimit-reset": reset}, now=NOW)
    assert pause is None or 0 <= pause <= 900
    assert rate_limit_pause({"x-ratelimit-remaining": "3", "x-ratelimit-reset": "5"}, now=NOW) is None
