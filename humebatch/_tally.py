"""Scores summed up row by row: what `tables.timeline`, the summaries and the report are made of.

Sources and files are taken both ways, decoded (`SourceResult`, `Prediction`) and read bit by bit (`SourceReader`,
`PredictionReader`). What is held are sums, and of faces the times of their frames: eight bytes a row.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import os
import re
from array import array
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Final, Generic, NamedTuple, TypeVar

from .errors import ConfigError
from .jobs import MODEL_NAMES
from .predictions import (
    FacePrediction,
    PositionInterval,
    Prediction,
    PredictionReader,
    PredictionsReader,
    Score,
    Source,
    SourceReader,
    SourceResult,
    read,
)
from .vocabulary import LANGUAGE_EMOTIONS

__all__ = [
    "AnyFile",
    "AnyResults",
    "AnySource",
    "Frames",
    "Means",
    "Stretches",
    "Strong",
    "Tally",
    "files",
    "joined",
    "models",
    "rows",
    "source_name",
    "sources",
    "span",
]

AnyFile = Prediction | PredictionReader
AnySource = SourceResult | SourceReader
AnyResults = Iterable[AnySource] | AnySource | str | os.PathLike[str] | bytes | bytearray | memoryview
"""Sources, decoded or read bit by bit, one of them, the path of a saved file, or the JSON itself."""

_COLUMN: Final = {name: number for number, name in enumerate(LANGUAGE_EMOTIONS)}
_NO_SUMS: Final = array("d", [0.0] * len(_COLUMN))
_NO_COUNTS: Final = array("I", [0] * len(_COLUMN))
# Thai, Lao, Tibetan, Burmese, Khmer, Chinese and Japanese with their punctuation; Korean has spaces.
_NO_SPACES: Final = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3000-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff00-\uff9f\U00020000-\U0003ffff]"
)


def sources(results: AnyResults) -> Iterable[AnySource]:
    """The sources of whatever may be given as results: themselves, one of them, a saved file's path, its bytes.

    Raises `ConfigError` for anything else; for what is no source among others when it is its turn.
    """
    if isinstance(results, (SourceResult, SourceReader)):
        return (results,)
    if isinstance(results, (str, os.PathLike)):
        return read(results)
    if isinstance(results, (bytes, bytearray, memoryview)):
        return PredictionsReader(results)
    if not isinstance(results, Iterable):
        raise _no_results(results)
    return _checked(results)


def _checked(results: Iterable[AnySource]) -> Iterator[AnySource]:
    for source in results:
        if not isinstance(source, (SourceResult, SourceReader)):
            raise _no_results(source)
        yield source


def _no_results(given: object) -> ConfigError:
    return ConfigError(
        "results: must be sources (of predictions.decode or predictions.read), the path of a saved answer or its "
        f"JSON as bytes, not {type(given).__name__}",
        field="results",
    )


def source_name(source: Source) -> str:
    """The file's name, the URL, or `text`."""
    return source.filename or source.url or source.type


def files(source: AnySource) -> Iterable[AnyFile]:
    """The files of a source; none if the source as a whole could not be read."""
    if isinstance(source, SourceReader):
        return source
    return source.results.predictions if source.results else ()


def models(file: AnyFile) -> tuple[str, ...]:
    """The models that say something about a file, in the API's order."""
    if isinstance(file, PredictionReader):
        return tuple(model for model in MODEL_NAMES if model in file.present)
    return tuple(model for model in MODEL_NAMES if getattr(file.models, model))


def rows(file: AnyFile, model: str) -> Iterator[tuple[str, Any]]:
    """The rows of one model of a file, each with the id of its group."""
    if isinstance(file, PredictionReader):
        yield from file.rows(model)
        return
    found = getattr(file.models, model)
    for group in found.grouped_predictions if found else ():
        for row in group.predictions:
            yield group.id, row


def span(row: Any) -> tuple[float, float] | None:
    """From when to when a row speaks, in seconds; None for texts and face meshes. A frame is a moment."""
    if isinstance(row, FacePrediction):
        return row.time, row.time
    time = getattr(row, "time", None)
    return None if time is None else (time.begin, max(time.begin, time.end))


def joined(texts: Iterable[tuple[str, PositionInterval | None]]) -> str:
    """What consecutive rows say, as one text. Positions tell whether a space belongs between two of them; where there
    are none, or they do not fit the texts, the script does."""
    parts: list[str] = []
    before: tuple[str, PositionInterval | None] | None = None
    for text, position in texts:
        if before is not None and _apart(*before, text, position):
            parts.append(" ")
        parts.append(text)
        before = text, position
    return "".join(parts)


def _apart(before: str, left: PositionInterval | None, text: str, right: PositionInterval | None) -> bool:
    # Positions may count other things than characters, or begin anew: they are believed when they fit both texts.
    if left and right and (left.end - left.begin, right.end - right.begin) == (len(before), len(text)):
        gap = right.begin - left.end
        if gap >= 0:
            return gap > 0
    return not (_NO_SPACES.match(before[-1:]) and _NO_SPACES.match(text[:1]))


K = TypeVar("K", bound=Hashable)


class Means(Generic[K]):
    """The mean of each of the 53 emotions, for any number of keys; about 700 bytes for each of them."""

    def __init__(self) -> None:
        self._places: dict[K, int] = {}
        self._sums = array("d")
        self._counts = array("I")

    def __iter__(self) -> Iterator[K]:
        """The keys, in the order of their first row."""
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def add(self, key: K, emotions: Iterable[Score]) -> None:
        """One row's scores: of a name that comes twice the last. Names that are none of the 53 are passed over."""
        place = self._places.setdefault(key, len(self._places)) * len(_COLUMN)
        if place == len(self._sums):
            self._sums.extend(_NO_SUMS)
            self._counts.extend(_NO_COUNTS)
        for name, score in _once(emotions).items():
            column = _COLUMN.get(name)
            if column is not None:
                self._sums[place + column] += score
                self._counts[place + column] += 1

    def means(self, key: K) -> list[float | None]:
        """In the order of `LANGUAGE_EMOTIONS`; None for what no row of this key has."""
        place = self._places[key] * len(_COLUMN)
        return [
            self._sums[at] / self._counts[at] if self._counts[at] else None for at in range(place, place + len(_COLUMN))
        ]


def _once(emotions: Iterable[Score]) -> dict[str, float]:
    return {score.name: score.score for score in emotions}


class Strong(NamedTuple):
    """An emotion, its mean over some rows and its highest score in any of them."""

    name: str
    mean: float
    highest: float


class Tally:
    """Mean and highest score under every name, those of no vocabulary too."""

    def __init__(self) -> None:
        self.rows = 0
        self._sums: dict[str, list[float]] = {}

    def add(self, emotions: Iterable[Score]) -> None:
        """One row's scores: of a name that comes twice the last."""
        self.rows += 1
        for name, score in _once(emotions).items():
            known = self._sums.get(name)
            if known is None:
                self._sums[name] = [score, 1, score]
            else:
                known[0] += score
                known[1] += 1
                if score > known[2]:
                    known[2] = score

    def strongest(self, count: int) -> list[Strong]:
        """The `count` highest means, highest first; equal ones in the order of their names."""
        found = (Strong(name, total / number, highest) for name, (total, number, highest) in self._sums.items())
        return sorted(found, key=lambda one: (-one.mean, one.name))[:count]


class Stretches:
    """How many seconds intervals cover together, however they come and overlap: two numbers for each stretch."""

    def __init__(self) -> None:
        self._begins = array("d")
        self._ends = array("d")

    def add(self, begin: float, end: float) -> None:
        """One interval; those that it touches become one with it."""
        first = bisect.bisect_left(self._ends, begin)
        last = bisect.bisect_right(self._begins, end)
        if first < last:
            begin, end = min(begin, self._begins[first]), max(end, self._ends[last - 1])
        self._begins[first:last] = array("d", [begin])
        self._ends[first:last] = array("d", [end])

    @property
    def seconds(self) -> float:
        """What they cover, counted once."""
        return math.fsum(end - begin for begin, end in zip(self._begins, self._ends, strict=True))


class Frames:
    """How far apart the frames of a file are that were looked at: the median of the steps from time to time of a face.

    A face that is away for a while makes one long step among many short ones, which a median does not mind. All rows
    are added before anything is asked.
    """

    def __init__(self) -> None:
        self._times: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))

    def add(self, face: str, time: float) -> None:
        """One row of a face."""
        times = self._times[face]
        if not times or times[-1] != time:
            times.append(time)

    @functools.cached_property
    def _seen(self) -> dict[str, array[float]]:
        """The times of each face, each once and in order."""
        return {face: _in_order(times) for face, times in self._times.items()}

    @functools.cached_property
    def step(self) -> float | None:
        """Seconds from frame to frame; None where no face has two (a picture)."""
        # By milliseconds (1/3 s is not always the same float): how often, and how long together.
        steps: defaultdict[float, list[float]] = defaultdict(lambda: [0, 0.0])
        for times in self._seen.values():
            for before, time in itertools.pairwise(times):
                some = steps[round(time - before, 3)]
                some[0] += 1
                some[1] += time - before
        left = sum(count for count, _ in steps.values()) / 2
        for _, (count, seconds) in sorted(steps.items()):
            left -= count
            if left <= 0:
                return seconds / count
        return None

    def seconds(self, face: str) -> float | None:
        """How long a face was seen: its frames, each for one step."""
        return None if self.step is None else len(self._seen.get(face, ())) * self.step


def _in_order(times: array[float]) -> array[float]:
    if all(before < time for before, time in itertools.pairwise(times)):
        return times
    return array("d", sorted(set(times)))
