"""From the rows of one face or speaker to the lines of one chart, in two looks at the rows.

The first look (`Person`) finds out how many there are, what is strongest and from when to when they reach; then it is
known which few names are drawn and how wide a bin is. The second (`Points`) sums up these names only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from .._tally import Stretches, Strong, Tally, span

__all__ = ["MOST_POINTS", "Chart", "Person", "Point", "Points", "place"]

MOST_POINTS: Final = 240
"""Points of one line. A chart is some 700 pixels wide, and the table beneath it is still one to look at."""

# Seconds (or characters) that a bin may last, so that bins begin at round times.
_STEPS: Final = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
# Beyond it a number of seconds is no date that a chart's axis can show.
_LATEST: Final = 1e9


class Point(msgspec.Struct, frozen=True):
    """Mean scores of a moment (`begin` equals `end`) or a stretch; None for names that no row there has."""

    begin: float
    end: float
    values: list[float | None]


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """Lines over time (in seconds) or over the characters of a text.

    `step`: the width of its bins, None where every row is drawn as it is. `gap`: what lies further apart is not
    joined. `begin`, `end`: what the axis shows.
    """

    axis: str
    names: list[str]
    points: list[Point]
    step: float | None
    gap: float
    begin: float
    end: float


def place(row: Any, axis: str) -> tuple[float, float] | None:
    """Where a row stands on an axis, `time` or `characters`; None if nowhere."""
    if axis == "time":
        return span(row)
    position = getattr(row, "position", None)
    return None if position is None else (float(position.begin), float(max(position.begin, position.end)))


class Person:
    """What a first look at the rows of a face or speaker says."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.spoken = Stretches()
        self.limits: dict[str, tuple[float, float]] = {}

    def add(self, row: Any) -> None:
        """One row."""
        self.tally.add(row.emotions)
        for axis in ("time", "characters"):
            where = place(row, axis)
            if where is None or not (abs(where[0]) < _LATEST and abs(where[1]) < _LATEST):
                continue
            begin, end = self.limits.get(axis, where)
            self.limits[axis] = min(begin, where[0]), max(end, where[1])
            if axis == "time" and where[0] < where[1]:
                self.spoken.add(*where)

    def axis(self) -> str | None:
        """What its rows can be drawn over: time if they have any; None if all are in one place, as in a picture."""
        for axis in ("time", "characters"):
            if axis in self.limits:
                begin, end = self.limits[axis]
                return axis if begin < end and self.tally.rows > 1 else None
        return None

    def strongest(self, count: int) -> list[Strong]:
        """The names to draw."""
        return self.tally.strongest(count)


class Points:
    """What a second look at the same rows says: the points of a chart of at most `MOST_POINTS`."""

    def __init__(self, person: Person, axis: str, names: Sequence[str]) -> None:
        self.axis = axis
        self.names = list(names)
        self._column = {name: number for number, name in enumerate(names)}
        begin, end = person.limits[axis]
        self.step = None if person.tally.rows <= MOST_POINTS else _step(begin, end)
        # A place to the number of rows, the sums and the counts per name.
        self._sums: dict[tuple[float, float], tuple[list[float], list[int]]] = {}

    def add(self, row: Any) -> None:
        """One row. It counts in every bin that it overlaps."""
        where = place(row, self.axis)
        if where is None or not (abs(where[0]) < _LATEST and abs(where[1]) < _LATEST):
            return
        # Of a name that comes twice the last.
        scores = {self._column[score.name]: score.score for score in row.emotions if score.name in self._column}
        for key in self._keys(*where):
            sums, counts = self._sums.setdefault(key, ([0.0] * len(self.names), [0] * len(self.names)))
            for column, value in scores.items():
                sums[column] += value
                counts[column] += 1

    def _keys(self, begin: float, end: float) -> Iterable[tuple[float, float]]:
        if self.step is None:
            return ((begin, end),)
        first = math.floor(begin / self.step)
        if begin == end:
            middle = (first + 0.5) * self.step
            return ((middle, middle),)
        last = max(first + 1, math.ceil(end / self.step))
        return ((number * self.step, (number + 1) * self.step) for number in range(first, last))

    def chart(self, gap: float, limits: tuple[float, float]) -> Chart:
        """The chart; points further apart than `gap` (or than two bins) are not joined."""
        return Chart(
            axis=self.axis,
            names=self.names,
            points=[Point(*key, self._means(key)) for key in sorted(self._sums)],
            step=self.step,
            gap=max(gap, 1.5 * (self.step or 0)),
            begin=limits[0],
            end=limits[1],
        )

    def _means(self, key: tuple[float, float]) -> list[float | None]:
        sums, counts = self._sums[key]
        return [total / number if number else None for total, number in zip(sums, counts, strict=True)]


def _step(begin: float, end: float) -> float:
    least = (end - begin) / (MOST_POINTS - 2)  # bins may stick out at both ends
    return next((step for step in _STEPS if step >= least), 3600 * math.ceil(least / 3600))
