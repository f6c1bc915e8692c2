"""Time as two methods, so that tests can own it."""

from __future__ import annotations

import time
from typing import Protocol

import anyio

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """What waiting needs."""

    def now(self) -> float:
        """Seconds on a clock that never goes back."""
        ...

    async def sleep(self, seconds: float, /) -> None:
        """Wait, cancellably."""
        ...


class SystemClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """`time.monotonic()`."""
        return time.monotonic()

    async def sleep(self, seconds: float, /) -> None:
        """`anyio.sleep`."""
        await anyio.sleep(seconds)
