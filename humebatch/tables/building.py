"""From predictions, in whatever form they are at hand, to record batches of one schema per model."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from .._allocation import keep_freed_blocks
from .._decoding import decode as decode_as
from .._tally import AnyResults, AnySource, source_name, sources
from ..predictions import (
    BoundingBox,
    ModelPredictions,
    PositionInterval,
    PredictionReader,
    SourceReader,
    TimeInterval,
    decode,
)
from ..predictions.reading import SourceOutline
from ..predictions.structs import Int64
from .columns import FIELDS, MODELS, OTHER, PLACE, SCORES, Field, check_model, schema
from .scoring import Chunks, from_lists, from_raws

__all__ = ["Predictions", "batches", "blocks", "by_model", "errors", "table"]

Predictions = AnyResults
"""Decoded results, an open reader, a single source, the path of a saved file, or the JSON itself."""

# Rows of one record batch: a few MB of numbers.
_ROWS = 16384
# A source of more JSON than this is taken apart row by row, so that its rows are never all held as structs.
_AT_ONCE = 64 * 1024 * 1024
_KEPT = 16 * 1024 * 1024  # more than the chunks in work need
_NULL = msgspec.Raw(b"null")
_BYTES = (bytes, bytearray, memoryview)


# Rows whose scores stay JSON. Fields as in `predictions`.
class _FaceRow(msgspec.Struct, gc=False):
    frame: Int64
    time: float
    prob: float
    box: BoundingBox
    emotions: msgspec.Raw
    facs: msgspec.Raw = _NULL
    descriptions: msgspec.Raw = _NULL


class _ProsodyRow(msgspec.Struct, gc=False):
    time: TimeInterval
    emotions: msgspec.Raw
    text: str | None = None
    confidence: float | None = None
    speaker_confidence: float | None = None


class _BurstRow(msgspec.Struct, gc=False):
    time: TimeInterval
    emotions: msgspec.Raw
    descriptions: msgspec.Raw


class _LanguageRow(msgspec.Struct, gc=False):
    text: str
    position: PositionInterval
    emotions: msgspec.Raw
    time: TimeInterval | None = None
    confidence: float | None = None
    speaker_confidence: float | None = None
    sentiment: msgspec.Raw = _NULL
    toxicity: msgspec.Raw = _NULL


class _NerRow(msgspec.Struct, gc=False):
    entity: str
    position: PositionInterval
    entity_confidence: float
    support: float
    uri: str
    link_word: str
    emotions: msgspec.Raw
    time: TimeInterval | None = None
    confidence: float | None = None
    speaker_confidence: float | None = None


class _FacemeshRow(msgspec.Struct, gc=False):
    emotions: msgspec.Raw


class _Models(msgspec.Struct, gc=False):
    face: ModelPredictions[_FaceRow] | None = None
    burst: ModelPredictions[_BurstRow] | None = None
    prosody: ModelPredictions[_ProsodyRow] | None = None
    language: ModelPredictions[_LanguageRow] | None = None
    ner: ModelPredictions[_NerRow] | None = None
    facemesh: ModelPredictions[_FacemeshRow] | None = None


_Outline = SourceOutline[_Models]
_whole = msgspec.json.Decoder(list[_Outline])
_ROW_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "face": msgspec.json.Decoder(_FaceRow),
    "prosody": msgspec.json.Decoder(_ProsodyRow),
    "burst": msgspec.json.Decoder(_BurstRow),
    "language": msgspec.json.Decoder(_LanguageRow),
    "ner": msgspec.json.Decoder(_NerRow),
    "facemesh": msgspec.json.Decoder(_FacemeshRow),
}
_REQUIRED = {
    (model, field.name)
    for model, decoder in _ROW_DECODERS.items()
    for field in msgspec.structs.fields(decoder.type)
    if field.required
}


class _Place(NamedTuple):
    """Where rows come from; `columns.PLACE`."""

    source: str
    source_index: int
    file: str
    file_type: str | None
    id: str


class _Run(NamedTuple):
    """Consecutive rows of one place. Their scores are lists, or (`raw`) still JSON; `check` decodes them the plain way,
    which raises what is wrong with them."""

    place: _Place
    rows: Sequence[Any]
    raw: bool
    check: Callable[[], object]


def _opened(results: Predictions) -> Iterable[AnySource | _Outline]:
    if isinstance(results, _BYTES) and memoryview(results).nbytes <= _AT_ONCE:
        return decode_as(_whole, results, "predictions")
    return sources(results)


def _runs(results: Predictions, models: Sequence[str]) -> Iterator[tuple[str, _Run]]:
    for index, source in enumerate(_opened(results)):
        name = source_name(source.source)
        if isinstance(source, SourceReader):
            for file in source:
                for model in models:
                    for group, rows in file.runs(model, _ROW_DECODERS[model]):
                        place = _Place(name, index, file.file, file.file_type, group)
                        check = functools.partial(_exhaust, file, model)
                        while some := list(islice(rows, _ROWS)):
                            yield model, _Run(place, some, True, check)
        elif source.results is not None:
            raw = isinstance(source, SourceOutline)
            plainly = functools.partial(decode, results) if isinstance(results, _BYTES) else _nothing
            for one in source.results.predictions:
                for model in models:
                    found = getattr(one.models, model)
                    for group in found.grouped_predictions if found else ():
                        place = _Place(name, index, one.file, one.file_type, group.id)
                        yield model, _Run(place, group.predictions, raw, plainly)


def _exhaust(file: PredictionReader, model: str) -> None:
    for _ in file.rows(model):
        pass


def _nothing() -> None:
    pass


def blocks(results: Predictions, models: Sequence[str] = MODELS) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Record batches of several models in one pass over the answer, each of at most a few thousand rows."""
    waiting: dict[str, list[_Run]] = {check_model(model): [] for model in models}
    room = dict.fromkeys(models, _ROWS)
    keep_freed_blocks(_KEPT)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for model, run in _runs(results, models):
            rest = run
            # A block is of one kind, and full ones are let go.
            if waiting[model] and waiting[model][0].raw != run.raw:
                yield model, _block(model, waiting[model], pool.map)
                waiting[model], room[model] = [], _ROWS
            while rest.rows:
                some = rest._replace(rows=rest.rows[: room[model]])
                rest = rest._replace(rows=rest.rows[room[model] :])
                waiting[model].append(some)
                room[model] -= len(some.rows)
                if not room[model]:
                    yield model, _block(model, waiting[model], pool.map)
                    waiting[model], room[model] = [], _ROWS
        for model, runs in waiting.items():
            if runs:
                yield model, _block(model, runs, pool.map)


def batches(results: Predictions, model: str) -> pa.RecordBatchReader:
    """A model's table as a stream of record batches, in memory that does not grow with the answer."""
    found = (batch for _, batch in blocks(results, [check_model(model)]))
    return pa.RecordBatchReader.from_batches(schema(model), found)


def table(results: Predictions, model: str) -> pa.Table:
    """A model's table, all of it."""
    return batches(results, model).read_all()


def by_model(results: Predictions) -> dict[str, pa.Table]:
    """The tables of all models that say anything, by the model's name, in one pass."""
    found: dict[str, list[pa.RecordBatch]] = {}
    for model, batch in blocks(results):
        found.setdefault(model, []).append(batch)
    return {model: pa.Table.from_batches(found[model]) for model in MODELS if model in found}


def _block(model: str, runs: Sequence[_Run], chunks: Chunks) -> pa.RecordBatch:
    rows = [row for run in runs for row in run.rows]
    columns = _places(runs)
    columns += _fields(model, rows)
    missing = pa.nulls(len(rows), pa.float64())
    others: list[list[tuple[str, float]]] = []
    for field, names in SCORES[model].items():
        values = list(map(attrgetter(field), rows))
        try:
            if runs[0].raw:
                found = from_raws(values, names, chunks, required=(model, field) in _REQUIRED)
            else:
                found = from_lists(values, names)
        except ValueError:
            for run in runs:
                run.check()
            raise
        columns += [found.columns.get(name, missing) for name in names]
        if found.others is not None:
            others = others or [[] for _ in rows]
            for row, scores in zip(others, found.others, strict=True):
                row += [(f"{field}.{name}", score) for name, score in scores.items()]
    columns.append(pa.array([row or None for row in others], OTHER.type) if others else pa.nulls(len(rows), OTHER.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema(model))


def _places(runs: Sequence[_Run]) -> list[Any]:
    which: Any = pa.array(np.repeat(np.arange(len(runs)), [len(run.rows) for run in runs]))
    return [pa.array([run.place[number] for run in runs], kind).take(which) for number, (_, kind) in enumerate(PLACE)]


def _fields(model: str, rows: Sequence[Any]) -> list[Any]:
    return [_column(rows, field) for field in FIELDS[model]]


def _column(rows: Sequence[Any], field: Field) -> Any:
    # Column by column: a tuple per row would keep the garbage collector busy.
    values = map(attrgetter(field.path), rows)
    try:
        if field.type == pa.float64():
            # Several times as fast as Arrow's own conversion, which looks at the type of each value.
            # A None becomes NaN, which JSON cannot have, and that a null.
            return pa.array(np.fromiter(values, np.float64, len(rows)), from_pandas=True)
        return pa.array(list(values), field.type)
    except (AttributeError, TypeError):  # a None, or a time that is None and has no begin
        return pa.array([_value(row, field.path) for row in rows], field.type)


def _value(row: Any, path: str) -> Any:
    for step in path.split("."):
        row = None if row is None else getattr(row, step)
    return row


_ERRORS = pa.schema(
    [(name, pa.int32() if name == "source_index" else pa.string()) for name in
     ("source", "source_index", "file", "model", "message")]
)  # fmt: skip


def errors(results: Predictions) -> pa.Table:
    """What could not be measured: `source`, `source_index`, `file` and `model` (null: all of it), `message`."""
    found: list[tuple[str, int, str | None, str | None, str]] = []
    for index, source in enumerate(_opened(results)):
        name = source_name(source.source)
        if source.error is not None:
            found.append((name, index, None, None, source.error))
        failed = source.errors if isinstance(source, SourceReader) else source.results.errors if source.results else []
        found += [(name, index, error.file, error.model, error.message) for error in failed]
    return pa.Table.from_pylist([dict(zip(_ERRORS.names, row, strict=True)) for row in found], _ERRORS)
