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
import os
import secrets
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from .._wire.codec import decode_predictions
from ..jobs import MODEL_NAMES
from ..predictions import Score, SourceResult, TimeInterval
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


def build(predictions: Path, target: Path) -> None:
    """Make the ZIP at `target` from a predictions file; it appears whole or not at all. Blocks."""
    results = decode_predictions(predictions.read_bytes())
    draft = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    try:
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
            for number, result in enumerate(results):
                top = _folder(number, result)
                archive.mkdir(top)
                for name, text in _tables(result):
                    archive.writestr(f"{top}/csv/{name}", text)
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def write_csv(model: str, groups: Iterable[object]) -> str:
    """One model's grouped predictions as the text of its CSV."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, dialect="excel")  # comma, CRLF, minimal quoting
    header = HEADERS[model]
    writer.writerow(header)
    for group in groups:
        for row in getattr(group, "predictions"):  # noqa: B009 - groups of six types
            cells: dict[str, Cell] = {"Id": getattr(group, "id"), **_cells(row)}  # noqa: B009
            writer.writerow([_text(cells.get(column)) for column in header])
    return out.getvalue()


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


def _folder(number: int, result: SourceResult) -> str:
    source = result.source
    if source.type == "file":
        return f"file-{number}-{_safe(source.filename or str(number))}"
    if source.type == "url":
        return f"url-{number}-{_safe((source.url or '').rstrip('/').rsplit('/', 1)[-1])}"
    return f"{source.type}-{number}"


def _safe(name: str) -> str:
    """A name that cannot leave its folder when somebody unpacks the ZIP, and that a file system takes."""
    kept = "".join("_" if ch in '/\\:*?"<>|' or ord(ch) < 32 else ch for ch in name)
    return kept.encode()[:_NAME_BYTES].decode("utf-8", "ignore").strip(". ") or "_"


def _tables(result: SourceResult) -> Iterator[tuple[str, str]]:
    if result.results is None:
        return
    used: set[str] = set()
    for prediction in result.results.predictions:
        # Paths inside an archive keep their folders; each step is made safe.
        first, *more = [_safe(step) for step in prediction.file.split("/") if step not in ("", ".", "..")] or ["_"]
        # A folder called like a table would be in the way of the table of a file called like its parent.
        name = "/".join([first, *(f"{step}_" if step in _TABLES else step for step in more)])
        while name in used:
            name += "_"
        used.add(name)
        for model in MODEL_NAMES:
            if found := getattr(prediction.models, model):
                yield f"{name}/{model}.csv", write_csv(model, found.grouped_predictions)
