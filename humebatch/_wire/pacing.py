"""Pure decisions about time: how long to wait, whether a request may be sent again, what `Retry-After` means.

Randomness and the clock come in as arguments, so every decision can be tested for every value.
"""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from datetime import UTC
from typing import Literal

from ..config import PollPolicy, RetryPolicy

__all__ = [
    "Phase",
    "clock_offset",
    "kept_open",
    "may_have_created",
    "may_resend",
    "next_poll",
    "retry_after",
    "retry_wait",
]

Phase = Literal["before", "sending", "sent"]
"""How far a request came: nothing left this machine; a part of it; all of it."""

# What a server or a gateway says when the same request may succeed a little later.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


def may_resend(*, creates: bool, phase: Phase, status: int | None, once: bool = False) -> bool:
    """Whether a failed request may be sent again. `status` is None when no answer came.

    A request that creates something is repeated only when it certainly was not accepted: it never
    left whole (its Content-Length was announced, so a part of it is no request), or the answer was
    429, and the request does not have to be sent `once`. After the last byte even a 503 may come from a gateway that
    had already passed it on.
    """
    if creates and phase == "sent":
        return status == 429 and not once
    return status is None or status in _PASSING


def may_have_created(*, phase: Phase, status: int | None) -> bool:
    """Whether a creating request that failed may have been accepted all the same.

    507 is the service's own word that it stored nothing; every other answer from 500 up, and 408 and
    409, may come from something between the service and us.
    """
    return phase == "sent" and (status is None or status in (408, 409) or (status >= 500 and status != 507))


def retry_after(headers: Mapping[str, str], *, now: float) -> float | None:
    """Seconds to wait by `retry-after-ms` or `Retry-After` (seconds or HTTP date), None if absent or unreadable.

    A date is read against the server's own `Date` when it sends one, so that a wrong clock here does no
    harm. `now` is Unix time in seconds.
    """
    milliseconds = headers.get("retry-after-ms", "").strip()
    if milliseconds.isdigit() and milliseconds.isascii():
        return int(milliseconds[:15]) / 1000
    value = headers.get("retry-after", "").strip()
    if value.isdigit() and value.isascii():
        return float(int(value[:15]))
    then = _http_date(value)
    if then is None:
        return None
    server_now = _http_date(headers.get("date", ""))
    return max(0.0, then - (now if server_now is None else server_now))


def kept_open(headers: Mapping[str, str]) -> float:
    """Seconds that the server promises by `Keep-Alive: timeout=N` to leave an idle connection open; 0 without one."""
    for parameter in headers.get("keep-alive", "").lower().split(","):
        name, _, value = parameter.partition("=")
        value = value.strip()
        if name.strip() == "timeout" and value.isdigit() and value.isascii():
            return float(int(value[:15]))
    return 0.0


def clock_offset(headers: Mapping[str, str], *, received: float) -> float:
    """Seconds that the server's clock is ahead of ours, by its `Date`; 0 without one. `received` is Unix time here."""
    server_now = _http_date(headers.get("date", ""))
    return 0.0 if server_now is None else server_now - received


def _http_date(value: str) -> float | None:
    if not value:
        return None
    try:
        then = email.utils.parsedate_to_datetime(value)
        # The forms without a zone (asctime, "-0000") are UTC in HTTP, but local time to Python.
        return (then if then.tzinfo else then.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def retry_wait(policy: RetryPolicy, *, failures: int, floor: float | None, chance: float) -> float | None:
    """Seconds before the next try after `failures` failed ones, or None to give up.

    `floor` is what the server asked for, `chance` a random number in [0, 1).
    """
    if failures >= policy.attempts:
        return None
    spread = min(policy.cap, policy.base * 2.0 ** min(failures - 1, 60)) * chance
    if floor is None:
        return spread
    if floor > policy.max_retry_after:
        return None
    # Spread over the floor, not under it: all clients of a restarted server got the same number.
    return floor + min(spread, max(floor, policy.base))


def next_poll(policy: PollPolicy, *, polls: int, remaining: float | None, chance: float) -> float | None:
    """Seconds until the next look at a job after `polls` looks, or None when the deadline is reached.

    `remaining` is the time left to the caller's deadline: the last wait is cut to it so that the
    job is looked at once more at the deadline itself. `chance` is a random number in [0, 1).
    """
    if remaining is not None and remaining <= 0:
        return None
    wait = policy.first
    for _ in range(polls - 1):
        wait = min(wait * policy.factor, policy.cap)
        if wait >= policy.cap or policy.factor == 1:
            break
    wait = min(wait, policy.cap) * (1 + policy.jitter * (2 * chance - 1))
    return wait if remaining is None else min(wait, remaining)
