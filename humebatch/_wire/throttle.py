"""How hard to press: pure state that learns from answers. Time comes in as an argument, nothing waits here.

One `Throttle` per class of requests (submissions, looks, downloads) decides how many run at once and
when the next may start; one `RetryBudget` and one `Breaker` per server keep retries from making an
outage worse. Nothing here loses a request: it only says how long to hold it back.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

__all__ = ["Breaker", "RetryBudget", "Throttle", "rate_limit_pause"]


class Throttle(msgspec.Struct):
    """Additive increase, multiplicative decrease of what runs at once, and a gate for the whole class.

    `most`: the bound that the caller set, where it starts. Every `window` successes in a row open one
    more place; a sign of overload (429, 503, a timeout) takes 30 %, at most once per `settle` seconds,
    because all requests in flight report the same overload. Never below one.
    """

    most: int
    settle: float = 1.0
    window: float = 0.0
    gate: float = 0.0
    decreased_at: float = float("-inf")

    def __post_init__(self) -> None:
        self.window = float(self.most)

    @property
    def places(self) -> int:
        """How many requests of this class may run at once."""
        return max(1, int(self.window))

    def succeeded(self) -> None:
        """An answer without complaint."""
        self.window = min(float(self.most), self.window + 1 / self.window)

    def pushed_back(self, *, now: float, pause: float | None) -> None:
        """The server complained; with `pause` it said for how long (seconds), and that holds for the whole class."""
        if now - self.decreased_at >= self.settle:
            self.window = max(1.0, self.window * 0.7)
            self.decreased_at = now
        if pause is not None:
            self.hold(until=now + pause)

    def hold(self, *, until: float) -> None:
        """Let nothing of this class start before `until`."""
        self.gate = max(self.gate, until)

    def wait(self, *, now: float) -> float:
        """Seconds until the next request of this class may start."""
        return max(0.0, self.gate - now)


class RetryBudget(msgspec.Struct):
    """A bucket of tokens that retries spend and successes earn back.

    A few failures are retried freely; when most requests fail the bucket runs dry, and errors reach the
    caller instead of multiplying the load.
    """

    capacity: float = 500.0
    tokens: float = 500.0

    COST = 5.0
    COST_OF_TIMEOUT = 10.0

    def spend(self, *, timeout: bool) -> bool:
        """Take the price of one retry; False if it is not there, and then nothing is taken."""
        cost = self.COST_OF_TIMEOUT if timeout else self.COST
        if self.tokens < cost:
            return False
        self.tokens -= cost
        return True

    def succeeded(self) -> None:
        """A first try that succeeded earns one token."""
        self.tokens = min(self.capacity, self.tokens + 1.0)


class Breaker(msgspec.Struct):
    """Opens after `limit` failures in a row and then lets one request through at a time, until one succeeds.

    Closed: no delay. Open: everybody waits `pause` seconds (`first`, doubling to `cap`), then the first to
    come is the probe; the others wait on. Only a probe that fails doubles the pause: what was sent before the breaker
    opened and fails later reports the same outage. Being refused (4xx) is an answer, not a failure.
    """

    limit: int = 10
    first: float = 5.0
    cap: float = 60.0
    failures: int = 0
    pause: float = 0.0
    opened: float = 0.0
    closed_until_probe: float = 0.0

    @property
    def open(self) -> bool:
        """Whether requests are held back."""
        return self.failures >= self.limit

    def wait(self, *, now: float) -> float:
        """Seconds before the caller may send. Zero while open makes the caller the probe: others wait on."""
        if not self.open:
            return 0.0
        left = self.closed_until_probe - now
        if left > 0:
            return left
        self.closed_until_probe = now + self.pause
        return 0.0

    def failed(self, *, now: float, began: float) -> None:
        """No answer, or a 5xx, to a request that was let through at `began`."""
        self.failures += 1
        # A probe begins a pause later than the opening.
        if self.open and (not self.pause or began > self.opened):
            self.pause = min(self.cap, self.pause * 2 if self.pause else self.first)
            self.opened, self.closed_until_probe = now, now + self.pause

    def answered(self) -> None:
        """Any answer below 500."""
        self.failures = 0
        self.pause = 0.0


# Where epoch seconds, epoch milliseconds and plain seconds-from-now can be told apart by their size alone.
_EPOCH = 10**9
_EPOCH_MS = 10**12
_LONGEST = 900.0


def rate_limit_pause(headers: Mapping[str, str], *, now: float) -> float | None:
    """Seconds to hold a class back by `x-ratelimit-remaining: 0` and `x-ratelimit-reset`, None without them.

    `reset` is seen as Unix seconds, Unix milliseconds or seconds from now; `now` is Unix time in seconds.
    At most 15 minutes.
    """
    if headers.get("x-ratelimit-remaining", "").strip() != "0":
        return None
    text = headers.get("x-ratelimit-reset", "").strip()
    whole, _, fraction = text.partition(".")
    if not (text.isascii() and whole.isdigit() and len(whole) <= 15 and (not fraction or fraction.isdigit())):
        return None
    reset = float(text)
    if reset >= _EPOCH_MS:
        reset = reset / 1000 - now
    elif reset >= _EPOCH:
        reset -= now
    return min(max(0.0, reset), _LONGEST)
