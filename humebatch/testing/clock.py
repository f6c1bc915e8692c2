"""A clock for tests: hours pass in no time."""

from __future__ import annotations

import heapq

import anyio.lowlevel

__all__ = ["FakeClock"]

_TURNS = 16  # of the event loop, for other tasks to begin sleeps of their own


class FakeClock:
    """A `Clock` whose sleeps take no time: `now()` jumps to the end of the earliest sleep. `sleeps` lists them all.

    Several tasks may sleep at once and wake in the right order; before time jumps, the others get a few turns.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._sleepers: list[tuple[float, int]] = []
        self.sleeps: list[float] = []

    def now(self) -> float:
        """Virtual seconds."""
        return self._now

    async def sleep(self, seconds: float, /) -> None:
        """Let other tasks run, and move on by `seconds`; a sleep that is cancelled moves nothing."""
        self.sleeps.append(seconds)
        me = (self._now + seconds, len(self.sleeps))
        heapq.heappush(self._sleepers, me)
        try:
            for _ in range(_TURNS):
                await anyio.lowlevel.checkpoint()
            while self._sleepers[0] != me:
                await anyio.lowlevel.checkpoint()
            self._now = max(self._now, me[0])
        finally:
            self._sleepers.remove(me)
            heapq.heapify(self._sleepers)
