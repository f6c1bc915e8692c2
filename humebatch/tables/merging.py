"""Any number of saved answers, predictions files and artifact ZIPs, as one dataset."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeVar

import pyarrow as pa

from .._wire.artifact_csv import file_folder, source_folder
from ..errors import DecodeError, SourceError
from ..predictions import PredictionsReader, SourceReader, read
from .artifacts import ArtifactZip, artifact_blocks
from .writing import CsvFile, csv_files, numbered, save_csv, save_parquet, table_blocks

__all__ = ["Format", "Merged", "merge"]

Format = Literal["csv", "parquet"]

_Answer = PredictionsReader | ArtifactZip
_Piece = TypeVar("_Piece")
_BROKEN: Final = (SourceError, DecodeError)


class Merged(NamedTuple):
    """The files that were written, per input that is not in them what is wrong with it, and how many errors of the
    others are not in them either: CSV has no place for what could not be measured."""

    written: list[Path]
    bad: dict[Path, SourceError | DecodeError]
    errors: int


def merge(paths: Sequence[Path], folder: Path, to: Format, check: Callable[[], None]) -> Merged:
    """Write saved predictions (JSON, .gz) and artifact ZIPs into one new or empty folder; see `write_parquet`.

    `source_index` goes on from input to input. Of an input that cannot be read to its end nothing is written; the
    others are written without it. `check` is called between parts, and may raise to end it all. Blocks.
    """
    bad: dict[Path, SourceError | DecodeError] = {}
    while good := [path for path in paths if path not in bad]:
        inputs = _Inputs(good, check)
        try:
            if to == "parquet":
                written = save_parquet(inputs.pieces(_blocks), folder)
            else:
                # Between rows, too: one file may have hours of them.
                checked = (one._replace(rows=inputs.rows(one.rows)) for one in inputs.pieces(inputs.csvs))
                written = save_csv(checked, folder)
        except _NothingReadable:
            return Merged([], bad | inputs.bad, 0)
        except _BROKEN as error:
            # Found when some of it was written: all over again without it.
            if inputs.current is None:
                raise
            bad |= {**inputs.bad, inputs.current: error}
        else:
            bad |= inputs.bad
            return Merged(written, bad, inputs.errors)
    return Merged([], bad, 0)


class _NothingReadable(Exception):
    pass


class _Inputs:
    """Inputs one after the other. `bad`: those that could not be opened; `current`: the one that is read; `errors`:
    how many of the answers' errors `csvs` has passed."""

    def __init__(self, paths: Sequence[Path], check: Callable[[], None]) -> None:
        self.bad: dict[Path, SourceError | DecodeError] = {}
        self.current: Path | None = None
        self.errors = 0
        self._paths = paths
        self._check = check

    def pieces(self, of: Callable[[_Answer, int], Iterator[_Piece]]) -> Iterator[_Piece]:
        first = 0
        for path in self._paths:
            self._check()
            try:
                answer: _Answer = ArtifactZip(path) if _is_zip(path) else read(path)
            except _BROKEN as error:
                self.bad[path] = error
                continue
            self.current = path
            with answer:
                for piece in of(answer, first):
                    self._check()
                    yield piece
                first += len(answer)
            self.current = None
        if len(self.bad) == len(self._paths):
            # Raised, so that no empty folder is left.
            raise _NothingReadable

    def rows(self, rows: Iterable[_Piece]) -> Iterator[_Piece]:
        for row in rows:
            self._check()
            yield row

    def csvs(self, answer: _Answer, first: int) -> Iterator[CsvFile]:
        if isinstance(answer, ArtifactZip):
            yield from _csvs(answer, first)
        else:
            yield from csv_files(self._counted(answer), first)

    def _counted(self, answer: PredictionsReader) -> Iterator[SourceReader]:
        for source in answer:
            self.errors += (source.error is not None) + len(source.errors)
            yield source


def _is_zip(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            # Not what zipfile asks: a ZIP that is cut off is a broken ZIP, and no broken JSON.
            return file.read(2) == b"PK"
    except OSError:  # whoever reads it says why it cannot be read
        return False


def _blocks(answer: _Answer, first: int) -> Iterator[tuple[str, pa.RecordBatch]]:
    if isinstance(answer, PredictionsReader):
        yield from table_blocks(answer, first)
    else:
        for model, batch in artifact_blocks(answer):
            yield model, numbered(batch, first)


def _csvs(answer: ArtifactZip, first: int) -> Iterator[CsvFile]:
    places: dict[tuple[int, str], Path] = {}
    used: dict[int, dict[str, int]] = defaultdict(dict)
    for sheet in answer.sheets:
        number, file = sheet.source_index, sheet.file
        if (place := places.get((number, file))) is None:
            top = Path(source_folder(first + number, sheet.source))
            place = places[number, file] = top / "csv" / file_folder(file, used[number])
        yield CsvFile(place, sheet.model, answer.rows(sheet))
