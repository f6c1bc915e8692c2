"""What the job list has shown so far, how much to ask of it, and whether it can be relied on. No clock, no socket.

A list may ignore its order or its filter, cap its pages, show jobs late, show some of them never, or none at all.
Only what it has shown counts: it is left alone (`Sight.USELESS`, `missed`) as soon as its pages cannot tell which jobs
have ended, and it is `proved` once it has shown one of ours.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Sequence

from ..config import WatchPolicy
from .sweep import FIRST_LIMIT, Rates, Row, Verdict, judge, next_limit, next_period

__all__ = ["Listing", "Sight"]

_GROWTH = 4
_REMEMBERED = 20_000  # ids of ended jobs, ours or not
_OWED = 32
_GAPS = 3  # sweeps in a row that did not reach back: looks at single jobs are cheaper than doubts about all of them
_BLIND = 8  # ends that only looks have found, and none by the list in between: it does not show our jobs
_BLIND_AT_FIRST = 2  # the same, for a list that has never shown any
_NEVER = float("-inf")


class Sight(enum.Enum):
    """What is known after a page."""

    CLEAR = enum.auto()  # every end that the list has
    GAP = enum.auto()  # some may be missing
    AGAIN = enum.auto()  # a larger page tells
    USELESS = enum.auto()  # nothing, and the next page will be like it


class Listing:
    """The job list as one watch knows it. Holds at most 20,000 ids of ended jobs."""

    def __init__(self, policy: WatchPolicy) -> None:
        self.in_use = True
        self.proved = False  # whether it has shown one of our jobs
        self.whole: bool | None = None  # whether `known` holds all that ever ended; None before the first sweep
        self.known: OrderedDict[str, None] = OrderedDict()
        self.attempted = _NEVER
        self.settled_at: float | None = None
        self._policy = policy
        self._settled_to = _NEVER  # on the server's clock: what ended before, a list in order has shown by now
        self._limit = 0  # more than usual, when a page was not enough
        self._asked = 0
        self._bound = policy.page_rows
        self._cap: int | None = None
        self._row_bytes = 0.0
        self._rates = Rates()
        self._ended = self._gaps = self._leaks = 0
        self._owed: dict[str, float] = {}

    @property
    def _most(self) -> int:
        by_bytes = self._policy.page_bytes / self._row_bytes if self._row_bytes else FIRST_LIMIT * _GROWTH
        return max(1, min(self._bound, max(FIRST_LIMIT, int(min(by_bytes, self._bound)))))

    def ask(self, now: float) -> int:
        """How many rows to ask for: as the time since the last sweep wants it, which an outage may have made long."""
        since = now - self.settled_at if self.in_use and self.settled_at is not None else 0.0
        usual = next_limit(self._policy, rate=self._rates.everyones, seconds=since, most=self._most)
        self.attempted = now
        return min(max(self._limit, usual), self._most)

    def page(self, rows: Sequence[Row], *, limit: int, ours: int, ended: int, now: float) -> Sight:
        """A page of at most `limit` rows came, `ours` of which are of jobs ever watched, and `ended` of open ones."""
        verdict = judge(rows, limit=limit, known=self.known, asked=self._asked)
        self._ended += ended
        self._leaks = 0 if ended else self._leaks
        if rows:
            self._row_bytes = max(0.9 * self._row_bytes, sum(row.size for row in rows) / len(rows))
        if verdict in (Verdict.UNSORTED, Verdict.UNFILTERED):
            return Sight.USELESS
        if verdict is Verdict.MORE and limit < self._most:
            self._asked, self._limit = limit, min(limit * _GROWTH, self._most)
            return Sight.AGAIN
        gap = verdict in (Verdict.CAPPED, Verdict.MORE)
        self._gaps = self._gaps + 1 if gap else 0
        if self._gaps >= _GAPS:
            return Sight.USELESS
        # A list that was left alone must show that it has become better.
        if not self.in_use and (not ours or (gap and len({row.ended for row in rows}) == 1)):
            return Sight.USELESS
        self.in_use, self.proved = True, self.proved or ours > 0
        if verdict is Verdict.CAPPED:
            self._cap = len(rows)
        elif self._cap is not None and len(rows) > self._cap:
            self._cap = None
        fresh = sum(row.job_id not in self.known for row in rows)
        self.whole = not gap and self.whole is not False
        self._remember(rows)
        if self.settled_at is not None and now > self.settled_at:
            self._rates.learn(everyones=fresh, ours=self._ended, seconds=now - self.settled_at)
        self.settled_at, self._ended, self._asked, self._limit = now, 0, 0, 0
        return Sight.GAP if gap else Sight.CLEAR

    def smaller(self, limit: int) -> bool:
        """The server refused so many rows. Whether fewer are worth a try."""
        self._bound, self._limit = max(FIRST_LIMIT, limit // _GROWTH), 0
        return limit > FIRST_LIMIT

    def period(self, *, age: float, open_jobs: int, chance: float) -> float:
        """Seconds to the next sweep."""
        room = self._most if self._cap is None else min(self._cap, self._most)
        return next_period(self._policy, age=age, open_jobs=open_jobs, rates=self._rates, room=room, chance=chance)

    def missed(self, row: Row, *, now: float) -> bool:
        """A look found that a job has ended. Whether the list should have shown it by now."""
        self._ended += 1
        if not self.in_use or self.settled_at is None or row.job_id in self.known:
            return False
        if row.ended is None or row.ended < self._settled_to:
            return True
        if len(self._owed) < _OWED:
            # It ended a moment ago, or the list shows nothing at all: it has the overlap's time to show this job.
            self._owed[row.job_id] = now + self._policy.overlap
        return False

    def overdue(self, now: float) -> int:
        """How many ends the list has still not shown although it has had the time; each is told once."""
        owed = {job_id: due for job_id, due in self._owed.items() if job_id not in self.known}
        self._owed = {job_id: due for job_id, due in owed.items() if due > now}
        return len(owed) - len(self._owed)

    def blind(self) -> bool:
        """It did not show one more end that it should have shown. Whether that makes it useless."""
        self._leaks += 1
        return self._leaks >= (_BLIND if self.proved else _BLIND_AT_FIRST)

    def leave(self) -> None:
        """It is of no use for now."""
        self.in_use = self.proved = False
        self._limit = self._asked = self._gaps = self._leaks = 0
        self._owed = {}

    def _remember(self, rows: Sequence[Row]) -> None:
        for row in reversed(rows):
            self.known[row.job_id] = None
        while len(self.known) > _REMEMBERED:
            self.known.popitem(last=False)
            self.whole = False
        times = [row.ended for row in rows if row.ended is not None]
        self._settled_to = max(times[-1], times[0] - self._policy.overlap) if times else _NEVER
