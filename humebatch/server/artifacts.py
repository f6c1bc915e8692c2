"""The artifacts ZIP: a CSV per source, file and model, and saved faces; stored and not deflated, as in real ones."""

from __future__ import annotations

import io
import mmap
import os
import secrets
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from .._wire.artifact_csv import Cell, cells, file_folder, source_folder, write_csv
from ..jobs import MODEL_NAMES
from ..predictions import Source
from .measure.rows import ROWS

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
    model: msgspec.json.Decoder[object](kind) for model, kind in ROWS.items()
}


def build(predictions: Path, target: Path, faces: Path | None = None) -> None:
    """Make the ZIP at `target` from a predictions file; it appears whole or not at all. Blocks.

    `faces`: saved faces, `<number of the source>/<number of the file>/<group>/<name>`; they go to
    `<source>/faces/<file>/<group>/<name>`. The predictions are mapped and decoded row by row, so memory does not grow
    with them.
    """
    draft = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    try:
        with (
            predictions.open("rb") as file,
            open(draft, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as out,
            zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive,
        ):
            # Not closed by name: what is decoded points into it, and lives a little longer after an error.
            _fill(archive, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), faces)
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def _fill(archive: zipfile.ZipFile, mapped: mmap.mmap, faces: Path | None) -> None:
    for number, raw in enumerate(_sources.decode(mapped)):
        result = _source.decode(raw)
        top = source_folder(number, result.source)
        archive.mkdir(top)
        for file, (name, tables) in enumerate(_files(result)):
            for model, json in tables:
                # A CSV is smaller than its JSON; only a huge one gets the fields of ZIP64, which real ones have not.
                large = len(memoryview(json)) > 2**31
                with (
                    archive.open(_entry(f"{top}/csv/{name}/{model}.csv"), "w", force_zip64=large) as entry,
                    io.TextIOWrapper(entry, "utf-8", newline="") as out,
                ):
                    write_csv(out, model, _rows(model, json))
            for picture in sorted((faces / str(number) / str(file)).glob("*/*")) if faces else ():
                with (
                    picture.open("rb") as saved,
                    archive.open(_entry(f"{top}/faces/{name}/{picture.parent.name}/{picture.name}"), "w") as entry,
                ):
                    shutil.copyfileobj(saved, entry)


def _entry(path: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(path, date_time=time.localtime()[:6])
    info.external_attr = 0o600 << 16
    return info


def _rows(model: str, json: msgspec.Raw) -> Iterator[list[Cell]]:
    decoder = _ROWS[model]
    for group in _model.decode(json).grouped_predictions:
        for row in group.predictions:
            yield cells(model, group.id, decoder.decode(row))


def _files(result: _Result) -> Iterator[tuple[str, list[tuple[str, msgspec.Raw]]]]:
    """Each file's folder in the ZIP, and the models that found something in it."""
    used: dict[str, int] = {}
    for raw in result.results.predictions if result.results else ():
        prediction = _prediction.decode(raw)
        found = [(model, prediction.models.get(model)) for model in MODEL_NAMES]
        yield (
            file_folder(prediction.file, used),
            [(model, json) for model, json in found if json is not None and bytes(memoryview(json)[:4]) != b"null"],
        )
