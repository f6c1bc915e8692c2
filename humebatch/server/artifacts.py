"""The artifacts ZIP: one CSV per source, file and model, laid out and written like the hosted service did it.

Layout and dialect come from real ZIPs: entries stored, not deflated; one top-level folder per source;
`file-<index>-<filename>/csv/<file>/<model>.csv`; comma, CRLF, no BOM, minimal quoting, an empty cell
for null. What URL and text sources were called there is not known; here they are `url-<index>-…` and
`text-<index>`. The files `ner.csv` and `facemesh.csv` were never seen either: their columns are the
fields of the predictions.
"""

from __future__ import annotations

import csv
import io
import mmap
import os
import secrets
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import msgspec

from ..jobs import MODEL_NAMES
from ..predictions import (
    BurstPrediction,
    FacemeshPrediction,
    FacePrediction,
    LanguagePrediction,
    NerPrediction,
    ProsodyPrediction,
    Score,
    Source,
    TimeInterval,
)
from ..vocabulary import (
    BURST_DESCRIPTIONS,
    EMOTIONS_CSV,
    FACE_DESCRIPTIONS,
    FACS,
    LANGUAGE_EMOTIONS_CSV,
    SENTIMENT,
    TOXICITY,
)

__all__ = ["HEADERS", "build", "write_csv"]

_SPOKEN = ("BeginTime", "EndTime", "Confidence", "SpeakerConfidence")
HEADERS: dict[str, tuple[str, ...]] = {
    "face": (
        *("Id", "Frame", "Time", "Probability", "FaceX0", "FaceY0", "FaceWidth", "FaceHeight"),
        *EMOTIONS_CSV,
        *FACS,
        *FACE_DESCRIPTIONS,
    ),
    "prosody": ("Id", "Text", *_SPOKEN, *EMOTIONS_CSV),
    "language": (
        *("Id", "Text", "BeginPosition", "EndPosition"),
        *_SPOKEN,
        *LANGUAGE_EMOTIONS_CSV,
        *SENTIMENT,
        *TOXICITY,
    ),
    "burst": ("Id", "BeginTime", "EndTime", *EMOTIONS_CSV, *BURST_DESCRIPTIONS),
    "ner": (
        *("Id", "Entity", "BeginPosition", "EndPosition", "EntityConfidence", "Support", "Uri", "LinkWord"),
        *_SPOKEN,
        *LANGUAGE_EMOTIONS_CSV,
    ),
    "facemesh": ("Id", *EMOTIONS_CSV),
}

_TABLES = frozenset(f"{model}.csv" for model in HEADERS)
# File systems take 255 bytes; `file-99-` and what makes a name unique come on top.
_NAME_BYTES = 200

Cell = str | int | float | None


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
        top = _folder(number, result.source)
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


def write_csv(out: TextIO, model: str, rows: Iterable[tuple[str, object]]) -> None:
    """One model's predictions, each with the id of its group, as a CSV."""
    writer = csv.writer(out, dialect="excel")  # comma, CRLF, minimal quoting
    header = HEADERS[model]
    writer.writerow(header)
    for group, row in rows:
        cells: dict[str, Cell] = {"Id": group, **_cells(row)}
        writer.writerow([_text(cells.get(column)) for column in header])


def _rows(model: str, json: msgspec.Raw) -> Iterator[tuple[str, object]]:
    decoder = _ROWS[model]
    for group in _model.decode(json).grouped_predictions:
        for row in group.predictions:
            yield group.id, decoder.decode(row)


def _text(cell: Cell) -> Cell:
    return "" if cell is None else cell


_FIELDS = {
    "frame": "Frame",
    "prob": "Probability",
    "text": "Text",
    "confidence": "Confidence",
    "speaker_confidence": "SpeakerConfidence",
    "entity": "Entity",
    "entity_confidence": "EntityConfidence",
    "support": "Support",
    "uri": "Uri",
    "link_word": "LinkWord",
}


def _cells(row: object) -> dict[str, Cell]:
    cells: dict[str, Cell] = {column: getattr(row, field) for field, column in _FIELDS.items() if hasattr(row, field)}
    time = getattr(row, "time", None)
    if isinstance(time, TimeInterval):
        cells |= {"BeginTime": time.begin, "EndTime": time.end}
    else:
        cells["Time"] = time
    if position := getattr(row, "position", None):
        cells |= {"BeginPosition": position.begin, "EndPosition": position.end}
    if box := getattr(row, "box", None):
        cells |= {"FaceX0": box.x, "FaceY0": box.y, "FaceWidth": box.w, "FaceHeight": box.h}
    for field in ("emotions", "facs", "descriptions", "sentiment", "toxicity"):
        scores: Sequence[Score] = getattr(row, field, None) or ()
        cells |= {score.name: score.score for score in scores}
    return cells


def _folder(number: int, source: Source) -> str:
    if source.type == "file":
        return f"file-{number}-{_safe(source.filename or str(number))}"
    if source.type == "url":
        return f"url-{number}-{_safe((source.url or '').rstrip('/').rsplit('/', 1)[-1])}"
    return f"{source.type}-{number}"


def _safe(name: str) -> str:
    """A name that cannot leave its folder when somebody unpacks the ZIP, and that a file system takes."""
    kept = "".join("_" if ch in '/\\:*?"<>|' or ord(ch) < 32 else ch for ch in name)
    return kept.encode()[:_NAME_BYTES].decode("utf-8", "ignore").strip(". ") or "_"


def _tables(result: _Result) -> Iterator[tuple[str, str, msgspec.Raw]]:
    if result.results is None:
        return
    used: set[str] = set()
    for raw in result.results.predictions:
        prediction = _prediction.decode(raw)
        # Paths inside an archive keep their folders; each step is made safe.
        first, *more = [_safe(step) for step in prediction.file.split("/") if step not in ("", ".", "..")] or ["_"]
        # A folder called like a table would be in the way of the table of a file called like its parent.
        name = "/".join([first, *(f"{step}_" if step in _TABLES else step for step in more)])
        while name in used:
            name += "_"
        used.add(name)
        for model in MODEL_NAMES:
            found = prediction.models.get(model)
            if found is not None and bytes(memoryview(found)[:4]) != b"null":
                yield f"{name}/{model}.csv", model, found
