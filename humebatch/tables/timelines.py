"""Joins that people do by hand: all models of a file on one timeline, and what speakers, faces and files sum up to.

Emotions are columns under the 53 names of `humebatch.vocabulary.LANGUAGE_EMOTIONS`, which hold the 48 of the other
models; a name that a model does not have is null. What is held in memory is sums, not predictions.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

import pyarrow as pa

from .._tally import (
    AnyFile,
    AnyResults,
    AnySource,
    Frames,
    Means,
    Stretches,
    Tally,
    files,
    joined,
    models,
    rows,
    source_name,
    sources,
    span,
)
from ..errors import ConfigError
from ..predictions import PositionInterval, Prediction, PredictionReader, SourceReader, SourceResult
from ..vocabulary import LANGUAGE_EMOTIONS

__all__ = ["SUMMARY", "TIMELINE", "TOP_EMOTIONS", "faces", "speakers", "timeline", "top_emotions"]

_PLACE: Final[list[tuple[str, pa.DataType]]] = [
    ("source", pa.string()),
    ("source_index", pa.int32()),
    ("file", pa.string()),
    ("model", pa.string()),
    ("id", pa.string()),
]


def _schema(*columns: tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema([*columns, *((name, pa.float64()) for name in LANGUAGE_EMOTIONS)])


TIMELINE: Final = _schema(
    ("file", pa.string()),
    ("time", pa.float64()),
    ("model", pa.string()),
    ("id", pa.string()),
    ("text", pa.string()),
)
"""The columns of `timeline`."""

SUMMARY: Final = _schema(
    *_PLACE,
    ("predictions", pa.int64()),
    ("seconds", pa.float64()),
    ("first", pa.float64()),
    ("last", pa.float64()),
)
"""The columns of `speakers` and `faces`."""

TOP_EMOTIONS: Final = pa.schema(
    [
        *_PLACE,
        ("rank", pa.int32()),
        ("name", pa.string()),
        ("mean", pa.float64()),
        ("max", pa.float64()),
    ]
)
"""The columns of `top_emotions`."""

_SPOKEN: Final = frozenset({"prosody", "burst", "language", "ner"})
_SEEN: Final = frozenset({"face", "facemesh"})
# Rows of one record batch.
_ROWS: Final = 4096
# Of one file. One wrong time may cover any number of bins.
_MOST_BINS: Final = 1_000_000
# Sorts behind every bin.
_NO_TIME: Final = math.inf
# As a part of one bin: 0.3 / 0.1 is 2.9999999999999996, and yet 0.3 begins the fourth bin.
_SAME: Final = 1e-9


def timeline(source: AnySource | AnyFile, step: float = 0.5) -> pa.Table:
    """What every model says at a time, as a table: one row per file, time bin, model and id (schema `TIMELINE`).

    Bin number k reaches from k × `step` to just before (k + 1) × `step` seconds; `time` is where it begins. A face
    counts in the bin in which its frame is; stretches of speech (prosody, language, burst, ner) count in each bin
    that they overlap. Scores are the mean of the rows of one id in a bin, `text` is what these rows say, with spaces
    between them where the text or its script has them (for ner the entities, joined by spaces). Bins in which nothing
    was found have no row.

    What has no time (texts, face meshes) is in one row of its id whose `time` is null. Rows are in the order of the
    files, then of time (null last), of the API's models, and of the ids' first appearance.

    `source` is one source, decoded or from `humebatch.predictions.read`, or one file of it. Raises `ConfigError`
    for anything else, when `step` is no positive number, or so small that one file makes more than 1,000,000 rows.
    """
    if isinstance(source, (Prediction, PredictionReader)):
        given: Iterable[AnyFile] = (source,)
    elif isinstance(source, (SourceResult, SourceReader)):
        given = files(source)
    else:
        raise ConfigError(
            f"source: must be one source or one file of it, not {type(source).__name__}; "
            "predictions.read(path) and predictions.decode(data) give sources",
            field="source",
        )
    width = _seconds(step)
    return _table(TIMELINE, (row for file in given for row in _on_one_line(file, width)))


def _seconds(step: object) -> float:
    try:
        seconds = float(step) if isinstance(step, numbers.Real) else math.nan
    except OverflowError:  # a whole number beyond all floats
        seconds = math.inf
    if not (math.isfinite(seconds) and seconds > 0):
        raise ConfigError("step: must be a positive, finite number of seconds", field="step")
    return seconds


def speakers(results: AnyResults) -> pa.Table:
    """One row per file, model and speaker (schema `SUMMARY`): how long each spoke and the mean of each emotion.

    Models are prosody, burst, language and ner. `predictions` counts the rows, `seconds` is how much time their
    stretches cover (counted once where they overlap), `first` and `last` are where the first begins and the last
    ends. Texts have no speaker and are left out. Ids tell speakers apart within one file only; `unknown` is who was
    not told apart.

    `results`: sources, decoded or from `humebatch.predictions.read`, one of them, the path of a saved file, or its
    bytes. Raises `ConfigError` for anything else.
    """
    return _table(SUMMARY, _summaries(results, _SPOKEN))


def faces(results: AnyResults) -> pa.Table:
    """One row per file, model (face, facemesh) and face (schema `SUMMARY`): how long each was seen, and emotions.

    `predictions` counts the rows, `first` and `last` are the times of the first and last frame. `seconds` is the
    number of frames in which the face was found, each for as long as it usually took to the next frame; null for
    pictures. Ids tell faces apart within one file only; `unknown` is all that were not told apart.

    `results` as for `speakers`.
    """
    return _table(SUMMARY, _summaries(results, _SEEN))


def top_emotions(results: AnyResults, n: int = 5) -> pa.Table:
    """The `n` emotions with the highest means of each file, model and id (schema `TOP_EMOTIONS`).

    One row per emotion: `rank` from 1, the `mean` over all rows of the id, and the highest score (`max`) in any of
    them. Equal means are in the order of their names; names of no vocabulary are ranked like all others.

    `results` as for `speakers`. Raises `ConfigError` when `n` is no positive whole number.
    """
    try:
        count = operator.index(n)
    except TypeError:
        count = 0
    if count < 1:
        raise ConfigError("n: must be a whole number from 1 on", field="n")
    return _table(TOP_EMOTIONS, _tops(results, count))


def _table(schema: pa.Schema, found: Iterable[Sequence[Any]]) -> pa.Table:
    """Rows as a table. A few thousand at a time: a number takes four times as much room while it is Python's."""
    batches: list[pa.RecordBatch] = []
    left = iter(found)
    while some := list(islice(left, _ROWS)):
        columns = zip(zip(*some, strict=True), schema, strict=True)
        batches.append(pa.record_batch([pa.array(column, field.type) for column, field in columns], schema=schema))
    return pa.Table.from_batches(batches, schema=schema)


def _on_one_line(file: AnyFile, step: float) -> Iterator[Sequence[Any]]:
    """The rows of one file. Keys are (bin, person), so that they sort as rows do; persons are models and ids."""
    means = Means[tuple[float, int]]()
    texts: dict[tuple[float, int], list[tuple[str, PositionInterval | None]]] = {}
    persons: dict[tuple[str, str], int] = {}
    for model in models(file):
        for name, row in rows(file, model):
            person = persons.setdefault((model, name), len(persons))
            text = getattr(row, "entity", None) or getattr(row, "text", None)
            for number in _bins(span(row), step):
                means.add((number, person), row.emotions)
                if text:
                    texts.setdefault((number, person), []).append((text, getattr(row, "position", None)))
            if len(means) > _MOST_BINS:
                raise _too_small(step)
    who = list(persons)
    for key in sorted(means):
        time = None if key[0] == _NO_TIME else key[0] * step
        model, name = who[key[1]]
        said = None
        if key in texts:
            # Entities are names apart, however close they stand.
            said = " ".join(text for text, _ in texts[key]) if model == "ner" else joined(texts[key])
        yield [file.file, time, model, name, said, *means.means(key)]


def _bins(seconds: tuple[float, float] | None, step: float) -> Sequence[float]:
    """The numbers of the bins that a row is in."""
    if seconds is None:
        return (_NO_TIME,)
    begin, end = (_whole(second / step) for second in seconds)
    if not end - begin < _MOST_BINS:
        raise _too_small(step)
    first = math.floor(begin)
    return range(first, max(first + 1, math.ceil(end)))


def _whole(number: float) -> float:
    near = round(number) if math.isfinite(number) else number
    # Of late times (1.7e9 s) all that a float can say: less than the millionth of a bin.
    return near if math.isclose(number, near, rel_tol=0, abs_tol=_SAME + 2 * math.ulp(number)) else number


def _too_small(step: float) -> ConfigError:
    return ConfigError(f"step: bins of {step} s make more than {_MOST_BINS:,} rows of one file", field="step")


def _files(results: AnyResults) -> Iterator[tuple[AnyFile, tuple[str, int]]]:
    """All files, each with the name and number of its source."""
    for number, source in enumerate(sources(results)):
        for file in files(source):
            yield file, (source_name(source.source), number)


def _summaries(results: AnyResults, wanted: frozenset[str]) -> Iterator[Sequence[Any]]:
    for file, source in _files(results):
        yield from _summed(file, wanted, source)


def _summed(file: AnyFile, wanted: frozenset[str], source: tuple[str, int]) -> Iterator[Sequence[Any]]:
    for model in models(file):
        if model not in wanted:
            continue
        means, counts = Means[str](), Counter[str]()
        frames, stretches = Frames(), defaultdict[str, Stretches](Stretches)
        limits: dict[str, tuple[float, float]] = {}
        for name, row in rows(file, model):
            seconds = span(row)
            if seconds is None and model in _SPOKEN:
                continue
            means.add(name, row.emotions)
            counts[name] += 1
            if seconds is None:
                continue
            begin, end = limits.get(name, seconds)
            limits[name] = min(begin, seconds[0]), max(end, seconds[1])
            if model in _SPOKEN:
                stretches[name].add(*seconds)
            else:
                frames.add(name, seconds[0])
        for name in means:
            long = stretches[name].seconds if model in _SPOKEN else frames.seconds(name)
            first, last = limits.get(name, (None, None))
            yield [*source, file.file, model, name, counts[name], long, first, last, *means.means(name)]


def _tops(results: AnyResults, n: int) -> Iterator[Sequence[Any]]:
    for file, source in _files(results):
        for model in models(file):
            tallies = defaultdict[str, Tally](Tally)
            for name, row in rows(file, model):
                tallies[name].add(row.emotions)
            for name, tally in tallies.items():
                for rank, strong in enumerate(tally.strongest(n), 1):
                    yield [*source, file.file, model, name, rank, *strong]
