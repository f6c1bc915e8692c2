"""Scores as columns: what `[{"name": "Joy", "score": 0.5}, …]` says in thousands of rows, without an object per score.

In a real answer the names come in the same order in every row, so that all rows are the same text but for the
numbers. The first row tells the text. In the others the closing braces give the places of all numbers at once; what
stands between the numbers is put together and compared with the first row's text, byte for byte, and the numbers are
parsed by Arrow. A row that differs in anything (other names, another order, other spaces, null) sends its batch down
the plain way: structs and dictionaries.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..predictions import Score

__all__ = ["Chunks", "Scored", "from_lists", "from_raws"]

# Rows that are parsed together: what they need fits into the caches.
_CHUNK = 512
_LARGEST = 2**31 - 1  # offsets are of 32 bits
_LARGEST_ROW = 64 * 1024  # what is held of a layout is a thousand times as much
_NULL = b"null"
_required = msgspec.json.Decoder(list[Score])
_optional = msgspec.json.Decoder(list[Score] | None)
# An escaped quote in front of `score` would be the end of another key.
_NUMBER = re.compile(rb'(?<!\\)"score"\s*:\s*(-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)(\s*)\}')
_END = ord("}")


class Scored(NamedTuple):
    """`columns`: Arrow arrays of float64 for the names that were asked for. `others`: per row the scores of other
    names, None if no row has any."""

    columns: dict[str, Any]
    others: list[dict[str, float]] | None


Chunks = Callable[[Callable[[int], bool], Iterable[int]], Iterable[bool]]
"""`map`, or that of an executor: chunks do not depend on each other."""


class _Layout:
    """The text of a row but for its numbers. `between[k]` stands in front of number k, from the end of the last one
    on, of which it is `spaces[k - 1]` bytes to the `}`."""

    def __init__(self, names: list[str], between: list[bytes], spaces: list[int], tail: bytes) -> None:
        self.names = names
        self._between = between
        self._spaces = np.array(spaces, np.int64)
        self._tail = tail
        self._ahead = np.array([len(text) for text in between], np.int64)
        # What most chunks need.
        self._chunk = self._text(_CHUNK)
        self._texts, self._places = self._which(_CHUNK)

    @classmethod
    def of(cls, row: bytes) -> _Layout | None:
        """The layout of a row; None if it is none in which the numbers can be found by the braces behind them."""
        if len(row) > _LARGEST_ROW:
            return None
        names = [str(score.name) for score in _required.decode(row)]
        numbers = list(_NUMBER.finditer(row))
        # As many objects as numbers that stand at the end of one: there is no other object, and no brace in a name.
        if not names or not (len(numbers) == len(set(names)) == len(names) == row.count(b"}")):
            return None
        ends = [0, *(number.end(1) for number in numbers)]
        between = [row[end : number.start(1)] for end, number in zip(ends, numbers, strict=False)]
        return cls(names, between, [len(number[2]) for number in numbers], row[ends[-1] :])

    def _text(self, rows: int) -> pa.Buffer:
        """What stands between the numbers of so many rows, all of it."""
        row = b"".join(self._between)
        return pa.py_buffer((row + self._tail) * rows)

    def _which(self, rows: int) -> tuple[Any, Any]:
        """The places of the texts and of the numbers among the pieces of so many rows."""
        every = np.arange(2 * rows * len(self.names) + 1, dtype=np.int32)
        return pa.array(every[0::2]), pa.array(every[1::2])

    def parse(self, raws: Sequence[msgspec.Raw], out: npt.NDArray[np.float64], start: int) -> bool:
        """Write the scores of `raws` into `out[:, start:]`; False if a row is laid out differently."""
        rows, count = len(raws), len(self.names)
        text = b"".join(raws)
        ends = np.flatnonzero(np.frombuffer(text, np.uint8) == _END)
        if len(ends) != rows * count or len(text) > _LARGEST:
            return False
        # Offsets of: text, number, text, number, …, text. A row's tail and the next row's head are one text.
        offsets = np.empty(2 * rows * count + 2, np.int32)
        offsets[0], offsets[-1] = 0, len(text)
        pairs = offsets[1:-1].reshape(rows, count, 2)
        grid = ends.reshape(rows, count) - self._spaces
        pairs[:, :, 1] = grid
        pairs[:, 1:, 0] = grid[:, :-1] + self._ahead[1:]
        pairs[1:, 0, 0] = grid[:-1, -1] + len(self._tail) + self._ahead[0]
        pairs[0, 0, 0] = self._ahead[0]
        if not (pairs[:, :, 0] < pairs[:, :, 1]).all():
            return False
        pieces = pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets.data), pa.py_buffer(text))
        texts, places = (self._texts, self._places) if rows == _CHUNK else self._which(rows)
        fixed = pieces.take(texts).buffers()[2]
        if fixed is None or not fixed.equals(self._chunk if rows == _CHUNK else self._text(rows)):
            return False
        try:
            numbers = pc.cast(pieces.take(places), pa.float64()).to_numpy()
        except pa.ArrowInvalid:
            return False
        if not np.isfinite(numbers).all():  # 1e999, which is no number to others
            return False
        out[:, start : start + rows] = numbers.reshape(rows, count).T
        return True


def from_raws(raws: Sequence[msgspec.Raw], names: Collection[str], chunks: Chunks, *, required: bool) -> Scored:
    """The scores of rows of JSON, a column per name; null where a row has none.

    Raises `ValueError` as msgspec does, for null too if scores are `required`.
    """
    first = bytes(raws[0])
    if first == _NULL and not required and b"".join(raws) == _NULL * len(raws):
        return Scored({}, None)
    layout = None if first == _NULL else _Layout.of(first)
    if layout is not None:
        out = np.empty((len(layout.names), len(raws)))

        def parse(start: int) -> bool:
            return layout.parse(raws[start : start + _CHUNK], out, start)

        if all(chunks(parse, range(0, len(raws), _CHUNK))):
            columns = dict(zip(layout.names, out, strict=True))
            known = {name: pa.array(column) for name, column in columns.items() if name in names}
            rest = {name: column.tolist() for name, column in columns.items() if name not in names}
            if not rest:
                return Scored(known, None)
            return Scored(known, [dict(zip(rest, row, strict=True)) for row in zip(*rest.values(), strict=True)])
    decode = _required.decode if required else _optional.decode
    return from_lists([decode(raw) for raw in raws], names)


def from_lists(rows: Sequence[Sequence[Score] | None], names: Collection[str]) -> Scored:
    """The same for scores that are decoded already."""
    known: dict[str, list[float | None]] = {}
    rest: list[dict[str, float]] = [{} for _ in rows]
    for number, row in enumerate(rows):
        for score in row or ():
            column = known.get(score.name)
            if column is None and score.name in names:
                column = known[str(score.name)] = [None] * len(rows)
            if column is None:
                rest[number][score.name] = score.score
            else:
                column[number] = score.score
    return Scored(
        {name: pa.array(column, pa.float64()) for name, column in known.items()},
        rest if any(rest) else None,
    )
