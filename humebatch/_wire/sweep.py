"""Plain decisions about following many jobs by one list: what a page is worth, how much to ask for, how long to wait.

Times of the server are compared with each other, never with ours. Nothing is believed about a list that its pages do
not show: order and filter are checked on each, and whether a page reaches back is judged by ids that were seen
before, so that equal times and a wrong clock do no harm. `watchlist` keeps the state that goes with it.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Collection, Sequence

import msgspec

from ..config import WatchPolicy

__all__ = [
    "FIRST_LIMIT",
    "Expire",
    "Look",
    "Rates",
    "Row",
    "Step",
    "Sweep",
    "Verdict",
    "Wait",
    "judge",
    "next_limit",
    "next_look",
    "next_period",
    "setback",
]

FIRST_LIMIT = 50  # the API's own default: what every server must allow
_OVERLAP_ROWS = 500  # of the overlap, at most so many rows: a fast server ends more in two minutes than one may ask for
_LONGEST_LOOK = 900.0
_LONGEST_SETBACK = 60.0
_RATE_MEMORY = 60.0


class Row(msgspec.Struct, frozen=True):
    """A job as a list or a look shows it. `ended` is in seconds on the server's clock; `body` is what it was read from.

    A job whose status is not known to this version is not `finished`.
    """

    job_id: str
    finished: bool
    ended: float | None = None
    body: bytes | msgspec.Raw = b""
    size: int = 0


class Sweep(msgspec.Struct, frozen=True):
    """Ask for the newest `limit` ended jobs."""

    limit: int


class Look(msgspec.Struct, frozen=True):
    """Ask for each of these jobs."""

    jobs: tuple[str, ...]


class Expire(msgspec.Struct, frozen=True):
    """The time of these jobs is up."""

    jobs: tuple[str, ...]


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do for so many seconds; None: until a job is added."""

    seconds: float | None


Step = Sweep | Look | Expire | Wait


class Verdict(enum.Enum):
    """What a page of the list is worth."""

    REACHED = enum.auto()  # down to jobs that were seen before: nothing is missing in between
    WHOLE = enum.auto()  # all that has ended
    MORE = enum.auto()  # full, and does not reach back
    CAPPED = enum.auto()  # shorter than asked for, and yet it does not reach back
    UNSORTED = enum.auto()
    UNFILTERED = enum.auto()


def judge(rows: Sequence[Row], *, limit: int, known: Collection[str], asked: int = 0) -> Verdict:
    """The verdict on a page of at most `limit` rows, the latest end first.

    `known`: ids seen by earlier sweeps; `asked`: the smaller limit that a page of the same sweep filled.
    """
    if not all(row.finished for row in rows):
        return Verdict.UNFILTERED
    times = [row.ended for row in rows if row.ended is not None]
    if any(later > earlier for earlier, later in itertools.pairwise(times)):
        return Verdict.UNSORTED
    # A seen job that ended later than the last row: without it, more of the last row's own instant may be cut off.
    if (
        times
        and rows[-1].job_id in known
        and any(row.ended is not None and row.ended > times[-1] and row.job_id in known for row in rows)
    ):
        return Verdict.REACHED
    if len(rows) >= limit:
        return Verdict.MORE
    if asked and len(rows) <= asked:
        return Verdict.CAPPED
    # Shorter than asked for: everything, or a limit that the server keeps to itself. Everything holds what was seen.
    if not rows or not known or rows[-1].job_id in known:
        return Verdict.WHOLE
    return Verdict.WHOLE if sum(row.job_id in known for row in rows) == len(known) else Verdict.CAPPED


class Rates(msgspec.Struct):
    """Jobs ending per second, averaged over about a minute: everyone's that the list shows, and ours."""

    everyones: float = 0.0
    ours: float = 0.0

    def learn(self, *, everyones: int, ours: int, seconds: float) -> None:
        """So many ended in so many seconds."""
        weight = 1 - math.exp(-seconds / _RATE_MEMORY) if self.everyones else 1.0
        self.everyones += weight * (everyones / seconds - self.everyones)
        self.ours += weight * (ours / seconds - self.ours)


def next_limit(policy: WatchPolicy, *, rate: float, seconds: float, most: int) -> int:
    """Rows to ask for when `rate` jobs ended per second for so many `seconds`: room to spare, and the overlap."""
    wanted = 1.25 * rate * seconds + min(rate * policy.overlap, _OVERLAP_ROWS) + 25
    return max(1, min(most, max(FIRST_LIMIT, math.ceil(min(wanted, most)))))


def next_period(policy: WatchPolicy, *, age: float, open_jobs: int, rates: Rates, room: int, chance: float) -> float:
    """Seconds to the next sweep: between `quickest` and `slowest`, see `WatchPolicy`.

    `age`: seconds watched so far. `room`: rows that one page can hold; a
    period must not end more than half of them. `chance` is a random number in [0, 1).
    """
    middle = age / 8
    if rates.ours > 0:
        middle = min(middle, open_jobs / rates.ours / 20)
    if rates.everyones > 0:
        middle = min(middle, room / 2 / rates.everyones)
    return min(max(middle, policy.quickest), policy.slowest) * (1 - policy.jitter * chance)


def next_look(policy: WatchPolicy, *, age: float, open_jobs: int, previous: float, chance: float) -> float:
    """Seconds to the next look at one of `open_jobs` jobs that no list shows: decorrelated jitter.

    The base is what keeps all jobs together within `looks_per_second`, and for few jobs the period of a sweep.
    """
    base = max(policy.quickest, min(age / 8, policy.slowest), open_jobs / policy.looks_per_second)
    cap = max(base, min(_LONGEST_LOOK, 4 * base))
    return min(cap, base + chance * max(0.0, 3 * previous - base))


def setback(*, failures: int, floor: float | None, chance: float) -> float:
    """Seconds of silence after so many failures in a row; `floor` is what the server asked for."""
    spread = min(_LONGEST_SETBACK, 2.0 ** min(failures, 10))
    return max(spread * (0.5 + chance / 2), 0.0 if floor is None else floor + spread * chance)
