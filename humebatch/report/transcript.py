"""What was said or written, line by line, with the strongest emotion of each line."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from .._tally import Strong, Tally, joined
from .charts import place
from .words import cut

__all__ = ["Line", "Transcript"]

# Rows of single words become lines of about so many characters, ended by a full stop or so many seconds of silence.
_LETTERS: Final = 90
_SILENCE: Final = 1.0
_ENDS: Final = (".", "!", "?", "…", "。", "！", "？")


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """Who said what when; `begin` and `end` are in seconds, None in texts."""

    person: str
    text: str
    begin: float | None
    end: float | None
    strongest: Strong | None


class _Open:
    """A line to which words may still be added."""

    def __init__(self, person: str, row: Any, axis: str, where: tuple[float, float]) -> None:
        self.person = person
        self.axis = axis
        self.words = [row.text.strip()]
        self.positions = [getattr(row, "position", None)]
        self.begin, self.end = where
        self.tally = Tally()
        self.tally.add(row.emotions)

    def takes(self, row: Any, where: tuple[float, float]) -> bool:
        """Whether a row is the next word of this line."""
        words = (self.words[-1], row.text.strip())
        return (
            not any(" " in word for word in words)
            and not words[0].endswith(_ENDS)
            and sum(map(len, self.words)) + len(self.words) + len(words[1]) <= _LETTERS
            and where[0] - self.begin >= 0
            and (self.axis == "characters" or where[0] - self.end <= _SILENCE)
        )

    def add(self, row: Any, where: tuple[float, float]) -> None:
        self.words.append(row.text.strip())
        self.positions.append(getattr(row, "position", None))
        self.end = max(self.end, where[1])
        self.tally.add(row.emotions)


class Transcript:
    """The first `most` lines, in order of time; rows of one person come in order, persons one after the other."""

    def __init__(self, axis: str, most: int) -> None:
        self._axis = axis
        self._most = most
        self._open: _Open | None = None
        self._lines: list[tuple[float, int, Line]] = []
        self._count = 0

    def add(self, person: str, row: Any) -> None:
        """One row of prosody or language."""
        where = place(row, self._axis)
        if where is None or not row.text or not row.text.strip():
            return
        if self._open is not None and self._open.person == person and self._open.takes(row, where):
            self._open.add(row, where)
            return
        self._close()
        self._open = _Open(person, row, self._axis, where)

    def _close(self) -> None:
        if (line := self._open) is None:
            return
        timed = self._axis == "time"
        finished = Line(
            person=line.person,
            text=cut(joined(zip(line.words, line.positions, strict=True))),
            begin=line.begin if timed else None,
            end=line.end if timed else None,
            strongest=next(iter(line.tally.strongest(1)), None),
        )
        self._lines.append((line.begin, self._count, finished))
        self._count += 1
        if len(self._lines) > 2 * self._most + 100:
            self._first()

    def _first(self) -> None:
        self._lines.sort(key=lambda line: line[:2])
        del self._lines[self._most :]

    def finish(self) -> tuple[list[Line], int]:
        """The lines, and how many more there are."""
        self._close()
        self._open = None
        self._first()
        return [line for *_, line in self._lines], self._count - len(self._lines)
