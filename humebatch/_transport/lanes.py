"""Classes of requests that are held back together: how many at once, and from when on."""

from __future__ import annotations

import anyio

from .._wire.throttle import Breaker, Throttle
from .clock import Clock

__all__ = ["Lane"]


class Lane:
    """One class of requests to one server: a bounded number of places that shrinks under pushback.

    `places` is the limiter to hold while a request of this class is planned, sent and waited for.
    """

    def __init__(self, most: int, breaker: Breaker, clock: Clock) -> None:
        self._throttle = Throttle(most=most)
        self._breaker = breaker
        self._clock = clock
        self.places = anyio.CapacityLimiter(most)
        self._refusal = 429  # the status with which the server last asked for a pause

    async def ready(self, longest: float) -> tuple[float, int | None] | None:
        """Wait until the server's pause is over and the breaker lets a request through.

        A wait of more than `longest` seconds is not begun. Then it returns that time, and the status with which
        the server asked for it; None for a server that just fails.
        """
        while True:
            pause = self._throttle.wait(now=self._clock.now())
            wait = pause or self._breaker.wait(now=self._clock.now())
            if wait <= 0:
                return None
            if wait > longest:
                return wait, self._refusal if pause else None
            await self._clock.sleep(wait)

    def answered(self, *, ok: bool) -> None:
        """An answer below 500 came."""
        self._breaker.answered()
        if ok:
            self._throttle.succeeded()
            self._resize()

    def failed(self, *, began: float) -> None:
        """No answer, or a 5xx, to a request that was let through at `began` on the clock."""
        self._breaker.failed(now=self._clock.now(), began=began)

    def pushed_back(self, pause: float | None, *, status: int) -> None:
        """The server is overloaded; `pause` in seconds if it said, with this status, for how long."""
        self._refusal = self._refusal if pause is None else status
        self._throttle.pushed_back(now=self._clock.now(), pause=pause)
        self._resize()

    def hold(self, pause: float) -> None:
        """The server said that it will take nothing of this class for `pause` seconds."""
        self._refusal = 429
        self._throttle.hold(until=self._clock.now() + pause)

    def _resize(self) -> None:
        if self.places.total_tokens != self._throttle.places:
            self.places.total_tokens = self._throttle.places
