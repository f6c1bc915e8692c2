"""A service in virtual time: jobs end when a model of slots says, and the list misbehaves as it is told."""

from __future__ import annotations

import bisect
import heapq
import math
import random
from collections.abc import Sequence

import humebatch as hb
from humebatch._wire.sweep import Row
from humebatch.testing import FakeClock

EPOCH = 1_700_000_000.0


def model(
    count: int, *, slots: int = 50, rate: float = 5.0, median: float = 60.0, sigma: float = 0.8, seed: int = 1
) -> list[tuple[float, float]]:
    """(submitted, ended) of each job: so many slots, so many submissions a second, lognormal durations."""
    rng = random.Random(seed)
    free = [0.0] * slots
    jobs = []
    for index in range(count):
        submitted = index / rate
        ended = max(submitted, heapq.heappop(free)) + rng.lognormvariate(math.log(median), sigma)
        heapq.heappush(free, ended)
        jobs.append((submitted, ended))
    return jobs


def name(index: int) -> str:
    return f"job-{index:06d}"


class World:
    """A `Pollable`. Times of `jobs` are on the test's clock; the server's own is `skew` seconds ahead, since 2023."""

    def __init__(
        self,
        clock: FakeClock,
        jobs: Sequence[tuple[float, float]],
        *,
        skew: float = EPOCH,
        sort: str = "ended",
        filtered: bool = True,
        cap: int | None = None,
        refused_above: int | None = None,
        refused: bool = False,
        late: float = 0.0,
        late_by: Sequence[float] = (),
        grain: float = 0.001,
        hidden: frozenset[int] = frozenset(),
        down: tuple[float, float] = (math.inf, math.inf),
        failed: frozenset[int] = frozenset(),
        status: dict[int, str] | None = None,
        size: int = 400,
        told: bool = True,
    ) -> None:
        self.clock = clock
        self.jobs = jobs
        self.ids = {name(index): index for index in range(len(jobs))}
        self.sweeps = self.looks = self.rows = 0
        self.looked: list[str] = []
        self.limits: list[int] = []
        self.times: list[float] = []
        self._skew, self._sort, self._filtered, self._cap = skew, sort, filtered, cap
        self._refused_above, self._refused, self._grain, self._down = refused_above, refused, grain, down
        self._failed, self._status, self._size, self._told = failed, status or {}, size, told
        lateness = late_by or [late] * len(jobs)
        self._coming = sorted(
            ((jobs[index][1] + lateness[index], index) for index in range(len(jobs)) if index not in hidden),
            reverse=True,
        )
        self._shown: list[tuple[float, int]] = []

    @property
    def requests(self) -> int:
        return self.sweeps + self.looks

    def check(self, job_id: str) -> None:
        if not job_id:
            raise hb.ConfigError("job_id: empty", field="job_id")

    def _ended(self, index: int) -> float:
        return math.floor((self.jobs[index][1] + self._skew) / self._grain) * self._grain

    def _row(self, index: int) -> Row:
        over = self.jobs[index][1] <= self.clock.now() and index not in self._status
        return Row(
            job_id=name(index),
            finished=over,
            ended=self._ended(index) if over and self._told else None,
            body=str(index).encode(),
            size=self._size,
        )

    def _answer(self) -> None:
        self.times.append(self.clock.now())
        if self._down[0] <= self.clock.now() < self._down[1]:
            raise hb.ConnectFailed("no connection")

    async def details(self, job_id: str) -> Row:
        self.looks += 1
        self.looked.append(job_id)
        self._answer()
        index = self.ids.get(job_id)
        if index is None or self.jobs[index][0] > self.clock.now():
            raise hb.NotFound("404: job not found", status=404)
        return self._row(index)

    async def ended(self, limit: int) -> list[Row]:
        self.sweeps += 1
        self.limits.append(limit)
        self._answer()
        if self._refused or (self._refused_above is not None and limit > self._refused_above):
            raise hb.InvalidRequest("400: limit", status=400)
        now = self.clock.now()
        while self._coming and self._coming[-1][0] <= now:
            _, index = self._coming.pop()
            bisect.insort(self._shown, (self._ended(index) if self._sort == "ended" else self.jobs[index][0], index))
        limit = limit if self._cap is None else min(limit, self._cap)
        running: list[int] = []
        if not self._filtered:
            running = [index for index, (begun, end) in enumerate(self.jobs) if begun <= now < end]
        page = [*reversed(running), *(index for _, index in reversed(self._shown[-limit:]))][:limit]
        self.rows += len(page)
        return [self._row(index) for index in page]

    def read(self, row: Row) -> float:
        index = int(bytes(row.body))
        if index in self._failed:
            raise hb.JobFailed("failed", job_id=row.job_id)
        return self.jobs[index][1]
