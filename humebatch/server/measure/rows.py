"""Rows on their way to disk: as many as come, never held together, grouped by person at the end."""

from __future__ import annotations

import math
import os
import re
import shutil
from array import array
from pathlib import Path
from typing import IO, Any, Final, SupportsFloat

import msgspec

from ..._wire.codec import encode
from ...predictions import (
    BurstPrediction,
    FacemeshPrediction,
    FacePrediction,
    LanguagePrediction,
    NerPrediction,
    ProsodyPrediction,
    Score,
    Scores,
    TranscriptionMetadata,
)
from ...vocabulary import SCORES
from .selection import Unmeasured

__all__ = ["FACES", "ROWS", "ContractBroken", "RowFile", "as_json"]

FACES: Final = "faces"
"""Folder of saved faces below a file's folder of measured things: `faces/<group>/<name>`."""

ROWS: Final[dict[str, type[msgspec.Struct]]] = {
    "face": FacePrediction,
    "burst": BurstPrediction,
    "prosody": ProsodyPrediction,
    "language": LanguagePrediction,
    "ner": NerPrediction,
    "facemesh": FacemeshPrediction,
}
"""What a row of each model is."""

_PIECE: Final = 1024 * 1024
_GROUP: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NAME: Final = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9_=.-]{0,99}")


class ContractBroken(Exception):
    """A measurer did what no measurer may do, such as giving a score that is not a number."""


class RowFile:
    """The rows of one model on one file.

    Rows go to `folder/<model>.rows` in the order in which they come; `finish` writes `folder/<model>.json`, the
    `ModelPredictions` as the API spells it, group by group in order of first appearance.
    """

    def __init__(self, folder: Path, model: str, unmeasured: Unmeasured = "absent") -> None:
        self.rows = 0
        self.filled = False
        self._folder = folder
        self._model = model
        self._zero = unmeasured == "zero"
        self._decoder = msgspec.json.Decoder[object](ROWS[model])
        self._path = folder / f"{model}.rows"
        self._out: IO[bytes] = self._path.open("wb", buffering=_PIECE)
        self._at = 0
        # Per group: begin and end of each run of its rows in the file, flat. Rows that follow each other are one run.
        self._runs: dict[str, array[int]] = {}

    def add(self, group: str, prediction: Any) -> None:
        """One row. Raises `ContractBroken` when it holds a score, or any number, that is not a finite number."""
        _plain(_GROUP, group)
        for field, vocabulary in SCORES[self._model].items():
            scores: Scores | None = getattr(prediction, field)
            if scores is None:
                continue
            for one in scores:
                if not math.isfinite(one.score):
                    raise ContractBroken(f"the score of {one.name!r} in {field} is {one.score}, not a finite number")
            if self._zero:
                # In the service's order, for programs that read scores by position.
                given = {one.name: one for one in scores}
                setattr(prediction, field, Scores(given.get(name) or Score(name, 0.0) for name in vocabulary))
                self.filled = self.filled or not given.keys() >= set(vocabulary)
        row = as_json(prediction)
        try:
            # NaN becomes null, and one row that nobody can read would make the whole answer unreadable.
            self._decoder.decode(row)
        except msgspec.ValidationError as error:
            raise ContractBroken(f"a prediction is not of the form that {self._model} has: {error}") from None
        runs = self._runs.setdefault(group, array("Q"))
        if runs and runs[-1] == self._at:
            self._out.write(b"," + row)
            self._at += len(row) + 1
            runs[-1] = self._at
        else:
            self._out.write(row)
            runs.extend((self._at, self._at + len(row)))
            self._at += len(row)
        self.rows += 1

    def attach(self, group: str, name: str, data: bytes) -> None:
        """A file that belongs to a row of `group`; durable when this returns."""
        folder = self._folder / FACES / _plain(_GROUP, group)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _plain(_NAME, name)).open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())

    def merge(self, group: str, into: str) -> None:
        """From now on what `group` has is what `into` has. The rows of both keep their order."""
        _plain(_GROUP, into)
        moved = self._runs.pop(group, None)
        if moved is None or group == into:
            raise ContractBroken(f"group {group!r} cannot be merged into {into!r}: expected two groups with rows")
        kept = self._runs.setdefault(into, array("Q"))
        runs = sorted([*zip(kept[::2], kept[1::2], strict=True), *zip(moved[::2], moved[1::2], strict=True)])
        self._runs[into] = array("Q", [edge for run in runs for edge in run])
        faces = self._folder / FACES
        if (faces / group).is_dir():
            (faces / into).mkdir(exist_ok=True)
            for face in (faces / group).iterdir():
                face.rename(faces / into / face.name)
            (faces / group).rmdir()

    def finish(self, metadata: TranscriptionMetadata | None) -> Path:
        """Write the model's predictions; where they are. The rows' own file is removed."""
        self._out.close()
        target = self._folder / f"{self._model}.json"
        with self._path.open("rb") as rows, target.open("wb", buffering=_PIECE) as out:
            out.write(b'{"grouped_predictions":[')
            for number, (group, runs) in enumerate(self._runs.items()):
                out.write((b"," if number else b"") + b'{"id":' + encode(group) + b',"predictions":[')
                for run, begin in enumerate(runs[::2]):
                    if run:
                        out.write(b",")
                    rows.seek(begin)
                    _copy(rows, out, runs[2 * run + 1] - begin)
                out.write(b"]}")
            out.write(b'],"metadata":' + as_json(metadata) + b"}")
        self._path.unlink()
        return target

    def close(self) -> None:
        """Give up: nothing of this model counts."""
        self._out.close()
        self._path.unlink(missing_ok=True)
        (self._folder / f"{self._model}.json").unlink(missing_ok=True)
        if self._model == "face":
            shutil.rmtree(self._folder / FACES, ignore_errors=True)


def _number(value: Any) -> Any:
    """numpy's scalars, which measurers are full of, as Python's."""
    item = getattr(value, "item", None)
    if isinstance(value, SupportsFloat) and callable(item):
        return item()
    raise ContractBroken(f"a prediction holds a {type(value).__name__}, which JSON cannot hold")


_encoder: Final = msgspec.json.Encoder(enc_hook=_number)


def as_json(value: msgspec.Struct | None) -> bytes:
    """A prediction, or metadata, as JSON. Raises `ContractBroken` when it holds what JSON cannot hold."""
    return _encoder.encode(value)


def _plain(pattern: re.Pattern[str], text: str) -> str:
    # They become names of files and folders.
    if not pattern.fullmatch(text):
        raise ContractBroken(f"{text!r} is not a plain name")
    return text


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    while size:
        piece = source.read(min(size, _PIECE))
        if not piece:
            raise RuntimeError("the file of rows is shorter than what was written to it")
        target.write(piece)
        size -= len(piece)
