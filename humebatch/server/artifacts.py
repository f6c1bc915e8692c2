"""The artifacts ZIP: a CSV per source, file and model, its entries stored and not deflated, as in real ones."""

from __future__ import annotations

import io
import mmap
import os
import secrets
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from .._wire.artifact_csv import Cell, cells, file_folder, source_folder, write_csv
from ..jobs import MODEL_NAMES
from ..predictions import (
    BurstPrediction,
    FacemeshPrediction,
    FacePrediction,
    LanguagePrediction,
    NerPrediction,
    ProsodyPrediction,
    Source,
)

__all__ = ["build"]


# The structs of a predictions file down to its rows, each level decoded when its turn comes.
class _Predictions(msgspec.Struct):
    predictions: list[msgspec.Raw]


class _Result(msgspec.Struct):
    source: Source
    results: _Predictions | None = None


class _Prediction(msgspec.Struct):
    file: str
    models: dict[str, msgspec.Raw]


class _Group(msgspec.Struct):
    id: str
    predictions: list[msgspec.Raw]


class _Groups(msgspec.Struct):
    grouped_predictions: list[_Group]


_sources = msgspec.json.Decoder(list[msgspec.Raw])
_source = msgspec.json.Decoder(_Result)
_prediction = msgspec.json.Decoder(_Prediction)
_model = msgspec.json.Decoder(_Groups)
_ROWS: dict[str, msgspec.json.Decoder[object]] = {
    model: msgspec.json.Decoder[object](kind)
    for model, kind in {
        "face": FacePrediction,
        "burst": BurstPrediction,
        "prosody": ProsodyPrediction,
        "language": LanguagePrediction,
        "ner": NerPrediction,
        "facemesh": FacemeshPrediction,
    }.items()
}


def build(predictions: Path, target: Path) -> None:
    """Make the ZIP at `target` from a predictions file; it appears whole or not at all. Blocks.

    The file is mapped and decoded row by row, so memory does not grow with it.
    """
    draft = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    try:
        with (
            predictions.open("rb") as file,
            open(draft, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as out,
            zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive,
        ):
            # Not closed by name: what is decoded points into it, and lives a little longer after an error.
            _fill(archive, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def _fill(archive: zipfile.ZipFile, mapped: mmap.mmap) -> None:
    for number, raw in enumerate(_sources.decode(mapped)):
        result = _source.decode(raw)
        top = source_folder(number, result.source)
        archive.mkdir(top)
        for name, model, json in _tables(result):
            info = zipfile.ZipInfo(f"{top}/csv/{name}", date_time=time.localtime()[:6])
            info.external_attr = 0o600 << 16
            # A CSV is smaller than its JSON; only a huge one gets the fields of ZIP64, which real ones have not.
            large = len(memoryview(json)) > 2**31
            with (
                archive.open(info, "w", force_zip64=large) as entry,
                io.TextIOWrapper(entry, "utf-8", newline="") as out,
            ):
                write_csv(out, model, _rows(model, json))


def _rows(model: str, json: msgspec.Raw) -> Iterator[list[Cell]]:
    decoder = _ROWS[model]
    for group in _model.decode(json).grouped_predictions:
        for row in group.predictions:
            yield cells(model, group.id, decoder.decode(row))


def _tables(result: _Result) -> Iterator[tuple[str, str, msgspec.Raw]]:
    if result.results is None:
        return
    used: dict[str, int] = {}
    for raw in result.results.predictions:
        prediction = _prediction.decode(raw)
        name = file_folder(prediction.file, used)
        for model in MODEL_NAMES:
            found = prediction.models.get(model)
            if found is not None and bytes(memoryview(found)[:4]) != b"null":
                yield f"{name}/{model}.csv", model, found
