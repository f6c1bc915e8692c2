"""The state of a watch: which jobs are open, what the job list is worth, what to do next. No clock, no socket.

`Watchlist.plan` says what to do next (`Sweep`, `Look`, `Expire`, `Wait`) and is told what came of it. One sweep asks
for the newest ends in the job list; single jobs are asked for only where the list leaves a doubt:

- the first few, so that a wrong key or wrong ids show at once;
- a sample, when more had ended before the watch began than a page holds; all of them, once a sample was missed;
- all, when a sweep could not reach back to the one before;
- in turns, the first few of them, for as long as the list has shown none of our jobs: it may be blind;
- stragglers, that no sweep has shown for long: the more of them turn out to have ended, the more are asked for;
- every job on a schedule of its own, while the list is of no use (`_unlist`); it gets another chance now and then;
- jobs whose time is up, when the list cannot tell that they go on.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

import msgspec

from ..config import WatchPolicy
from .listing import Listing, Sight
from .sweep import Expire, Look, Row, Step, Sweep, Wait, next_look, setback

__all__ = ["Watchlist"]

_SURE = 4
_SAMPLED = 16
_SAMPLE_EVERY = 128
_FEW = 32
_SHARE = 0.1  # looks at stragglers per sweep while the list deserves trust
_REFUND = 0.8  # of a look that found an end: it was not one too many, yet no reason for a storm
_GONE_AFTER = 30.0  # seconds between the first and the last time that a job was not there
_PROBE = 900.0  # seconds until a list that was of no use gets another chance
_STRIKES = 3
_LAST_LOOKS = 16  # at jobs whose time is up; as many again after each that has ended
_OVERTIME = 30.0  # seconds for these looks
_NEVER = float("-inf")
_TICK = 1e-6  # sums of seconds do not meet exactly


class _Entry(msgspec.Struct, gc=False):
    number: int
    checked: float
    wait: float = 0.0
    due: float = math.inf
    missing_since: float | None = None
    strikes: int = 0
    queued: bool = False
    hinted: bool = False
    unsure: bool = False


class Watchlist:
    """The jobs that are open, what the list is worth, and what to do next. Every method returns at once.

    Memory: about 0.5 KB per open job and 0.1 KB per job that was watched, and at most 20,000 ids of ended jobs.
    """

    def __init__(
        self, policy: WatchPolicy, *, polls: int, timeout: float | None, now: float, chance: Callable[[], float]
    ) -> None:
        self._policy = policy
        self._polls = self._pool = polls
        self._timeout = timeout
        self._chance = chance
        self._open: OrderedDict[str, _Entry] = OrderedDict()  # the one that was not looked at for longest comes first
        self._ever: set[str] = set()
        self._deadlines: deque[tuple[float, str]] = deque()
        self._began = now
        self._listing = Listing(policy)
        self._sweep_at = now
        # Single jobs.
        self._soon: deque[str] = deque()
        self._doubtful: deque[str] = deque()
        self._due: list[tuple[float, str]] = []
        self._sample: deque[str] = deque()
        self._suspicious = False
        self._share = _SHARE
        self._credit = 0.0
        self._burst = 2 * max(1.0, policy.looks_per_second)
        self._spare, self._spare_at = self._burst, now
        # Jobs whose time is up, and those of them that may be worth a last look.
        self._overdue: list[str] = []
        self._last: deque[str] = deque()
        self._allowance, self._overtime = 0, now
        # Trouble.
        self._failures = self._strikes = 0
        self._retry_at = _NEVER
        self._paused = False

    @property
    def open(self) -> int:
        """How many jobs are still followed."""
        return len(self._open)

    def add(self, job_id: str, *, now: float) -> bool:
        """Follow a job, once. True when a plan made before this is worth making anew."""
        if job_id in self._ever:
            return False
        idle = not self._open
        self._open[job_id] = entry = _Entry(number=len(self._ever), checked=now)
        self._ever.add(job_id)
        if self._timeout is not None:
            self._deadlines.append((now + self._timeout, job_id))
        if idle:
            self._began = now
        if entry.number < _SAMPLED:
            self._sample.append(job_id)
        if job_id in self._listing.known:
            self._queue(self._soon, job_id, entry)  # its end was seen before we were told of it
            return True
        entry.unsure = self._listing.whole is False
        if not self._listing.in_use:
            self._schedule(job_id, entry, now + self._look_wait(now) * self._chance())
        elif self._is_sampled(entry):
            self._queue(self._doubtful, job_id, entry)
        return idle or not self._listing.in_use

    def hint(self, job_id: str) -> bool:
        """Somebody says that this job has ended: worth one look, once per job. False when it is ignored."""
        entry = self._open.get(job_id)
        if entry is None or entry.hinted:
            return False
        entry.hinted = True
        self._queue(self._soon, job_id, entry)
        return True

    def until_deadline(self, now: float) -> float | None:
        """Seconds to the next deadline, None without one."""
        if self._overdue:
            return 0.0
        deadline = self._next_deadline()
        return None if deadline is None else max(0.0, deadline - now)

    def plan(self, now: float) -> Step:
        """What to do next."""
        now += _TICK
        deadline = self._next_deadline()
        if deadline is not None and deadline <= now:
            # One last sweep at the deadline itself, for all that end there; jobs added one by one share it.
            tried = self._listing.attempted
            last = tried < deadline and now - tried >= self._policy.quickest
            if self._listing.in_use and last and self._retry_at <= now:
                return Sweep(self._listing.ask(now))
            self._call_time(now)
        if self._overdue:
            return self._last_step(now)
        if not self._open:
            return Wait(None)
        if self._sweep_at <= now:
            return Sweep(self._listing.ask(now))
        if jobs := self._looks(now):
            return Look(jobs)
        return Wait(max(0.0, self._next_event(now) + _TICK - now))

    def page(self, rows: Sequence[Row], *, limit: int, now: float) -> list[Row]:
        """A page of the list. Returns the rows of jobs that are followed and have ended, in order of their ends."""
        self._failures = self._strikes = 0
        self._retry_at, self._paused = _NEVER, False
        ours = sum(row.job_id in self._ever for row in rows)
        mine = [row for row in rows if row.finished and self._open.pop(row.job_id, None) is not None]
        first, left = self._listing.settled_at is None, not self._listing.in_use
        sight = self._listing.page(rows, limit=limit, ours=ours, ended=len(mine), now=now)
        if sight is Sight.USELESS:
            self._unlist(now)
        elif sight is Sight.AGAIN:
            self._sweep_at = now
        else:
            if left:
                self._due, self._pool = [], self._polls
            if sight is Sight.GAP:
                # What ended in it is not known. At the very start that is mostly other people's past: try a sample.
                for job_id, entry in self._open.items():
                    entry.unsure = True
                    if not first or self._is_sampled(entry):
                        self._queue(self._doubtful, job_id, entry)
            self._settle(now)
        return mine[::-1]

    def list_failed(self, now: float, *, floor: float | None = None, unreadable: bool = False) -> None:
        """No page came. `floor`: seconds that the server asked for. An `unreadable` list is left alone after three."""
        self._strikes += unreadable
        if self._strikes >= _STRIKES:
            self._unlist(now)
        elif self._listing.in_use:
            self._set_back(now, floor)
            self._sweep_at, self._paused = self._retry_at, True
        else:
            self._sweep_at = now + _PROBE

    def list_refused(self, now: float, *, limit: int) -> None:
        """The server does not take these parameters: a smaller limit is tried, then the list is left alone."""
        if self._listing.smaller(limit):
            self._sweep_at = now
        else:
            self._unlist(now)

    def found(self, job_id: str, row: Row, *, now: float) -> bool:
        """A job was looked at. True when it has ended and is not followed any more."""
        self._failures = 0
        self._retry_at, self._pool = _NEVER, min(self._polls, self._pool * 2)
        entry = self._open.get(job_id)
        if entry is None:
            return False
        entry.missing_since, entry.strikes = None, 0
        if not row.finished:
            entry.unsure = False
            self._share = max(_SHARE, self._share * 0.95)
            if not self._listing.in_use:
                self._later(job_id, entry, now)
            return False
        self._spare += _REFUND
        self._allowance = _LAST_LOOKS
        del self._open[job_id]
        if self._listing.missed(row, now=now):
            self._leaked(now, unsure=entry.unsure)
        return True

    def gone(self, job_id: str, *, now: float) -> bool:
        """The server does not know a job. True when that is its last word: a new job may take a moment to show."""
        entry = self._open.get(job_id)
        if entry is None:
            return False
        self._retry_at = _NEVER
        if entry.missing_since is not None and now - entry.missing_since >= _GONE_AFTER - _TICK:
            del self._open[job_id]
            return True
        if entry.missing_since is None:
            entry.missing_since = now
        self._schedule(job_id, entry, now + _GONE_AFTER)
        return False

    def look_failed(
        self, job_id: str, *, now: float, floor: float | None = None, unreadable: bool = False, final: bool = False
    ) -> bool:
        """A look came to nothing. True when the job is given up: at once if `final`, or unreadable three times."""
        entry = self._open.get(job_id)
        if entry is None:
            return False
        entry.strikes += unreadable
        if final or entry.strikes >= _STRIKES:
            del self._open[job_id]
            return True
        self._later(job_id, entry, now, at_least=_GONE_AFTER if self._listing.in_use else 0.0)
        if unreadable:
            return False
        if self._listing.in_use:
            self._paused = True  # the next sweep tells whether it is the job or the server
        else:
            self._pool = 1
            if self._retry_at <= now:
                self._set_back(now, floor)
        return False

    # Inside.

    def _settle(self, now: float) -> None:
        """A sweep is complete: say when the next one is due, and how many looks the list deserves."""
        period = self._listing.period(age=now - self._began, open_jobs=self.open, chance=self._chance())
        self._sweep_at = now + period
        share = max(self._share, 1.0) if self.open <= _FEW else self._share
        self._credit += min(share, self.open * period / self._policy.straggler)
        self._credit = min(self._credit, max(1.0, share))
        if not self._listing.proved:
            self._look_at_one()
        for _ in range(self._listing.overdue(now)):
            self._leaked(now, unsure=False)

    def _look_at_one(self) -> None:
        """One of the first jobs, in turns."""
        for _ in range(len(self._sample)):
            job_id = self._sample.popleft()
            if (entry := self._open.get(job_id)) is not None:
                self._sample.append(job_id)
                if entry.missing_since is None:
                    self._queue(self._doubtful, job_id, entry)
                    return

    def _unlist(self, now: float) -> None:
        """Leave the list alone for a while; every job is looked at by itself."""
        self._sweep_at, self._paused = now + _PROBE, False
        self._strikes = 0
        in_use = self._listing.in_use
        self._listing.leave()
        if not in_use:
            return
        base = self._look_wait(now)
        for job_id, entry in self._open.items():
            self._schedule(job_id, entry, now + base * self._chance())

    def _set_back(self, now: float, floor: float | None) -> None:
        self._failures += 1
        self._retry_at = now + setback(failures=self._failures, floor=floor, chance=self._chance())

    def _is_sampled(self, entry: _Entry) -> bool:
        if entry.number < _SURE:
            return True
        if not entry.unsure:
            return False
        return self._suspicious or entry.number < _SAMPLED or entry.number % _SAMPLE_EVERY == 0

    def _leaked(self, now: float, *, unsure: bool) -> None:
        """A job had ended and the list did not show it: look for more of them."""
        self._share = min(float(self._polls), self._share * 2)
        if not unsure and self._listing.blind():
            self._unlist(now)
        if unsure and not self._suspicious:
            self._suspicious = True
            for job_id, entry in self._open.items():
                if entry.unsure:
                    self._queue(self._doubtful, job_id, entry)

    def _queue(self, queue: deque[str], job_id: str, entry: _Entry) -> None:
        if not entry.queued:
            entry.queued = True
            queue.append(job_id)

    def _later(self, job_id: str, entry: _Entry, now: float, *, at_least: float = 0.0) -> None:
        entry.wait = self._look_wait(now, previous=entry.wait, chance=self._chance())
        self._schedule(job_id, entry, now + max(entry.wait, at_least))

    def _look_wait(self, now: float, *, previous: float = 0.0, chance: float = 0.0) -> float:
        age = now - self._began
        return next_look(self._policy, age=age, open_jobs=self.open, previous=previous, chance=chance)

    def _schedule(self, job_id: str, entry: _Entry, due: float) -> None:
        entry.due = due
        heapq.heappush(self._due, (due, job_id))

    def _looks(self, now: float) -> tuple[str, ...]:
        if self._paused or now < self._retry_at:
            return ()
        most = self._room(now)
        jobs: dict[str, None] = {}
        while len(jobs) < most:
            if (job_id := self._next_look(now)) is None:
                break
            if job_id in jobs:
                continue
            jobs[job_id] = None
            self._note_look(job_id, now)
        return tuple(jobs)

    def _note_look(self, job_id: str, now: float) -> None:
        entry = self._open[job_id]
        entry.checked, entry.queued, entry.due = now, False, math.inf
        self._open.move_to_end(job_id)
        self._spare -= 1

    def _room(self, now: float) -> int:
        """How many looks may begin now."""
        self._spare = min(self._burst, self._spare + (now - self._spare_at) * self._policy.looks_per_second)
        self._spare_at = now
        return min(self._pool, int(self._spare + _TICK))

    def _next_look(self, now: float) -> str | None:
        for queue in (self._soon, self._doubtful):
            while queue:
                if (job_id := queue.popleft()) in self._open:
                    return job_id
        while self._due and self._due[0][0] <= now:
            due, job_id = heapq.heappop(self._due)
            if (entry := self._open.get(job_id)) is not None and entry.due == due:
                return job_id
        if self._listing.in_use and self._credit >= 1 and self._open:
            job_id, entry = next(iter(self._open.items()))
            if entry.checked <= now - self._policy.straggler:
                self._credit -= 1
                return job_id
        return None

    def _next_event(self, now: float) -> float:
        times = [self._sweep_at]
        if (deadline := self._next_deadline()) is not None:
            times.append(deadline)
        if not self._paused:
            looks = []
            if self._soon or self._doubtful:
                looks.append(now)
            if self._due:
                looks.append(self._due[0][0])
            ready = now + max(0.0, 1 - self._spare) / self._policy.looks_per_second
            times += [max(time, ready, self._retry_at) for time in looks]
        return min(times)

    def _next_deadline(self) -> float | None:
        while self._deadlines and self._deadlines[0][1] not in self._open:
            self._deadlines.popleft()
        return self._deadlines[0][0] if self._deadlines else None

    def _call_time(self, now: float) -> None:
        if not self._overdue:
            self._allowance, self._overtime = _LAST_LOOKS, now + _OVERTIME
        called: list[str] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            job_id = self._deadlines.popleft()[1]
            if job_id in self._open:
                called.append(job_id)
        self._overdue += called
        # The longer ago the last look, the more can have happened since.
        self._last.extend(sorted(called, key=lambda job_id: self._open[job_id].checked))

    def _last_step(self, now: float) -> Step:
        """For jobs whose time is up: looks, when the list does not tell that they go on, and then the end of it.

        A few looks are enough when none of them finds an end; in an outage there are none.
        """
        told = self._listing.in_use and self._listing.proved
        if not told and not self._paused and self._retry_at <= now < self._overtime:
            most, jobs = self._room(now), list[str]()
            while self._last and self._allowance and len(jobs) < most:
                job_id = self._last.popleft()
                if job_id in self._open:
                    jobs.append(job_id)
                    self._allowance -= 1
                    self._note_look(job_id, now)
            if jobs:
                return Look(tuple(jobs))
            if self._last and self._allowance:
                return Wait(max(_TICK, 1 - self._spare) / self._policy.looks_per_second)
        expired = tuple(job_id for job_id in self._overdue if self._open.pop(job_id, None) is not None)
        self._overdue.clear()
        self._last.clear()
        return Expire(expired)
