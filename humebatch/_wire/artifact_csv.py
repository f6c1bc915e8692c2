"""What stands in an artifacts ZIP: where each CSV lies, its columns, its cells.

Layout and dialect come from real ZIPs: one top-level folder per source, `file-<index>-<filename>`, in it
`csv/<file>/<model>.csv`; comma, CRLF, no BOM, minimal quoting, an empty cell for null. What URL and text sources were
called there is not known; here they are `url-<index>-…` and `text-<index>`. The files `ner.csv` and `facemesh.csv`
were never seen either: their columns are the fields of the predictions.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from typing import Any, Final, TextIO

from ..predictions import Score, Source, TimeInterval
from ..vocabulary import (
    BURST_DESCRIPTIONS,
    EMOTIONS_CSV,
    FACE_DESCRIPTIONS,
    FACS,
    LANGUAGE_EMOTIONS_CSV,
    SENTIMENT,
    TOXICITY,
)

__all__ = ["HEADERS", "Cell", "cells", "file_folder", "source_folder", "write_csv"]

Cell = str | int | float | None

_SPOKEN = ("BeginTime", "EndTime", "Confidence", "SpeakerConfidence")
HEADERS: Final[dict[str, tuple[str, ...]]] = {
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
"""Per model the columns of its CSV, in order."""

_TABLES = frozenset(f"{model}.csv" for model in HEADERS)
# File systems take 255 bytes; `file-99-` and what makes a name unique come on top.
_NAME_BYTES = 200
# They take paths of 4096 bytes, and more may stand in front of ours.
_PATH_BYTES = 2000

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


def source_folder(number: int, source: Source) -> str:
    """The top-level folder of an answer's source number `number`."""
    if source.type == "file":
        return f"file-{number}-{_safe(source.filename or str(number))}"
    if source.type == "url":
        return f"url-{number}-{_safe((source.url or '').rstrip('/').rsplit('/', 1)[-1])}"
    return f"{_safe(source.type)}-{number}"


def file_folder(file: str, used: dict[str, int]) -> str:
    """Where below `<source>/csv/` the tables of a file lie. `used` is filled by the source's earlier files."""
    # Paths inside an archive keep their folders; each step is made safe.
    first, *more = [_safe(step) for step in file.split("/") if step not in ("", ".", "..")] or ["_"]
    # A folder called like a table would be in the way of the table of a file called like its parent.
    wanted = name = "/".join([first, *(f"{step}_" if step in _TABLES else step for step in more)])
    if len(name.encode()) > _PATH_BYTES:
        wanted = name = wanted.rpartition("/")[2]
    while name in used:
        used[wanted] += 1
        name = f"{wanted}~{used[wanted]}"
    used[name] = 1
    return name


def _safe(name: str) -> str:
    """A name that cannot leave its folder when somebody unpacks the ZIP, and that a file system takes."""
    kept = "".join("_" if ch in '/\\:*?"<>|' or ord(ch) < 32 else ch for ch in name)
    return kept.encode("utf-8", "replace")[:_NAME_BYTES].decode("utf-8", "ignore").strip(". ") or "_"


def cells(model: str, group: str, row: object) -> list[Cell]:
    """A prediction of `model` in the order of its CSV's columns."""
    found: dict[str, Cell] = {}
    for field in ("emotions", "facs", "descriptions", "sentiment", "toxicity"):
        scores: Sequence[Score] = getattr(row, field, None) or ()
        found |= {score.name: score.score for score in scores}
    # After the scores, whose names may be any.
    found |= {column: getattr(row, field, None) for field, column in _FIELDS.items()}
    found["Id"] = group
    time: Any = getattr(row, "time", None)
    span = isinstance(time, TimeInterval)
    found["BeginTime"], found["EndTime"] = (time.begin, time.end) if span else (None, None)
    found["Time"] = None if span else time
    if position := getattr(row, "position", None):
        found |= {"BeginPosition": position.begin, "EndPosition": position.end}
    if box := getattr(row, "box", None):
        found |= {"FaceX0": box.x, "FaceY0": box.y, "FaceWidth": box.w, "FaceHeight": box.h}
    return list(map(found.get, HEADERS[model]))


def write_csv(out: TextIO, model: str, rows: Iterable[Sequence[Cell]]) -> None:
    """A model's CSV: its header, and `rows` of cells in that order. `out` must leave line ends alone."""
    writer = csv.writer(out, dialect="excel")  # comma, CRLF, minimal quoting; None is an empty cell
    writer.writerow(HEADERS[model])
    writer.writerows(rows)
