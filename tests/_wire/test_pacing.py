"""Decisions about time, for every value."""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import humebatch as hb
from humebatch._wire.pacing import may_have_created, may_resend, next_poll, retry_after, retry_wait

POSITIVE = st.floats(1e-6, 1e9)
CHANCE = st.floats(0, 1, exclude_max=True)
RETRY = st.builds(hb.RetryPolicy, attempts=st.integers(1, 50), base=POSITIVE, cap=POSITIVE, max_retry_after=POSITIVE)
POLL = st.builds(
    hb.PollPolicy, first=POSITIVE, factor=st.floats(1, 100), cap=POSITIVE, jitter=st.floats(0, 1, exclude_max=True)
)
STATUSES = st.none() | st.integers(100, 599)
PHASES = st.sampled_from(["before", "sending", "sent"])


@given(RETRY, st.integers(1, 2000), st.none() | st.floats(0, 1e9), CHANCE)
def test_a_retry_never_comes_before_the_server_said(
    policy: hb.RetryPolicy, failures: int, floor: float | None, chance: float
) -> None:
    wait = retry_wait(policy, failures=failures, floor=floor, chance=chance)
    if failures >= policy.attempts or (floor is not None and floor > policy.max_retry_after):
        assert wait is None
        return
    assert wait is not None
    assert wait >= (floor or 0)
    most = min(policy.cap, policy.base * 2.0 ** min(failures - 1, 1000))
    assert wait <= (floor or 0) + most
    assert math.isfinite(wait)


def test_waits_grow_to_the_cap() -> None:
    policy = hb.RetryPolicy(attempts=10, base=1, cap=20)
    waits = [retry_wait(policy, failures=failures, floor=None, chance=0.999) or 0 for failures in range(1, 10)]
    assert waits[:5] == pytest.approx([0.999, 1.998, 3.996, 7.992, 15.984])
    assert waits[5:] == pytest.approx([19.98] * 4)
    assert retry_wait(policy, failures=3, floor=None, chance=0) == 0


@given(POLL, st.integers(1, 5000), st.none() | st.floats(-10, 1e9), CHANCE)
def test_a_poll_never_goes_past_the_deadline(
    policy: hb.PollPolicy, polls: int, remaining: float | None, chance: float
) -> None:
    wait = next_poll(policy, polls=polls, remaining=remaining, chance=chance)
    if remaining is not None and remaining <= 0:
        assert wait is None
        return
    assert wait is not None
    assert 0 < wait <= policy.cap * (1 + policy.jitter) * (1 + 1e-9)
    if remaining is not None:
        assert wait <= remaining
    else:
        assert wait >= min(policy.first, policy.cap) * (1 - policy.jitter) * (1 - 1e-9)


@given(POLL)
def test_polls_grow_and_stay_below_the_cap(policy: hb.PollPolicy) -> None:
    waits = [next_poll(policy, polls=polls, remaining=None, chance=0.5) or 0 for polls in range(1, 60)]
    assert waits[0] == pytest.approx(min(policy.first, policy.cap))
    assert waits == sorted(waits)
    assert waits[-1] <= policy.cap * (1 + 1e-9)


def test_ten_million_polls_cost_no_time() -> None:
    steady = hb.PollPolicy(first=1, factor=1, cap=15)
    assert next_poll(steady, polls=10_000_000, remaining=None, chance=0.5) == 1
    assert next_poll(hb.PollPolicy(), polls=10_000_000, remaining=None, chance=0.5) == 15


@given(PHASES, STATUSES)
def test_what_may_exist_is_never_sent_again(phase: str, status: int | None) -> None:
    again = may_resend(creates=True, phase=phase, status=status)  # type: ignore[arg-type]
    if phase == "sent":
        assert again == (status == 429)
    assert not (again and may_have_created(phase=phase, status=status))  # type: ignore[arg-type]
    # Who does not believe a 429 either says so.
    once = may_resend(creates=True, phase=phase, status=status, once=True)  # type: ignore[arg-type]
    assert once == (again and phase != "sent")


@given(PHASES, STATUSES)
def test_reading_is_repeated_for_what_passes(phase: str, status: int | None) -> None:
    passing = status is None or status in (408, 425, 429, 500, 502, 503, 504)
    assert may_resend(creates=False, phase=phase, status=status) == passing  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("phase", "status", "unknown"),
    [
        ("sent", None, True), ("sent", 500, True), ("sent", 502, True), ("sent", 503, True), ("sent", 408, True),
        ("sent", 409, True), ("sent", 507, False), ("sent", 400, False), ("sent", 413, False), ("sent", 429, False),
        ("sending", None, False), ("sending", 503, False), ("before", None, False),
    ],
)  # fmt: skip
def test_when_a_job_may_exist(phase: str, status: int | None, unknown: bool) -> None:
    assert may_have_created(phase=phase, status=status) == unknown  # type: ignore[arg-type]


# ── Retry-After ──────────────────────────────────────────────────────────────────────────────────

NOW = 1_800_000_000.0
THEN = "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.fixture(params=["UTC", "Asia/Kolkata", "America/Los_Angeles"])
def anywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's time zone must not matter."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0), ("1", 1), (" 120 ", 120), ("00030", 30), ("999999999999999999999", 999999999999999)],
)
def test_seconds(value: str, seconds: float) -> None:
    assert retry_after({"retry-after": value}, now=NOW) == seconds


@pytest.mark.parametrize("value", ["", " ", "-5", "1.5", "soon", "١٢", "1e3", "0x10", "12 s", "+3", "nan", "inf"])
def test_what_is_not_a_number_of_seconds_or_a_date_is_nothing(value: str) -> None:
    assert retry_after({"retry-after": value}, now=NOW) is None


def test_milliseconds_come_first() -> None:
    assert retry_after({"retry-after-ms": "1500", "retry-after": "9"}, now=NOW) == 1.5
    assert retry_after({"retry-after-ms": "x", "retry-after": "9"}, now=NOW) == 9
    assert retry_after({}, now=NOW) is None


@given(st.integers(0, 10_000_000), st.integers(0, 2_000_000_000))
def test_a_date_is_read_against_the_servers_own_clock(ahead: int, server_now: int) -> None:
    headers = {
        "retry-after": email.utils.formatdate(server_now + ahead, usegmt=True),
        "date": email.utils.formatdate(server_now, usegmt=True),
    }
    assert retry_after(headers, now=NOW) == ahead


@given(st.integers(-1000, 10_000_000))
def test_a_date_without_the_servers_clock_is_read_against_ours(ahead: int) -> None:
    headers = {"retry-after": email.utils.formatdate(NOW + ahead, usegmt=True)}
    assert retry_after(headers, now=NOW) == max(0, ahead)
    assert retry_after({**headers, "date": "nonsense"}, now=NOW) == max(0, ahead)


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize(
    "form",
    [
        "Sun, 06 Nov 1994 08:50:07 GMT",
        "Sunday, 06-Nov-94 08:50:07 GMT",
        "Sun Nov  6 08:50:07 1994",
        "Sun, 06 Nov 1994 08:50:07 -0000",
        "Sun, 06 Nov 1994 09:50:07 +0100",
    ],
)
def test_every_form_of_an_http_date(form: str) -> None:
    assert retry_after({"retry-after": form, "date": THEN}, now=NOW) == 30


@given(
    st.text(max_size=40)
    | st.text("SunMoNv 0123456789:,-+GMT", max_size=40)
    | st.from_regex(
        r"\A[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,5} \d{1,3}:\d{1,3}:\d{1,3} (GMT|[+-]\d{1,9}|\w{1,4})\Z"
    )
)
@example("Thu, 01 Jan 0001 00:00:00 +2359")
@example("Fri, 31 Dec 9999 23:59:59 -2359")
@example("Thu, 01 Jan 1970 00:00:00 +99999999")
@example("Thu, 01 Jan 0000 00:00:00 GMT")
def test_garbage_never_raises(value: str) -> None:
    for headers in ({"retry-after": value}, {"retry-after": THEN, "date": value}, {"retry-after-ms": value}):
        wait = retry_after(headers, now=NOW)
        assert wait is None or (wait >= 0 and math.isfinite(wait))
