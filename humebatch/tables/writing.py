"""Tables on disk: Parquet datasets, and CSV files like those of an artifacts ZIP.

Both are written in one pass, in memory that does not grow, to a hidden folder inside the wanted one, and moved out of
it when all is there. The wanted folder must be new or empty: files of an earlier run would be read along with new ones.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .._tally import AnySource, files, models, rows, sources
from .._wire.artifact_csv import Cell, cells, file_folder, source_folder
from .._wire.artifact_csv import write_csv as write_cells
from ..errors import ConfigError
from .building import Predictions, blocks, errors

__all__ = ["CsvFile", "csv_files", "numbered", "save_csv", "save_parquet", "table_blocks", "write_csv", "write_parquet"]

# Rows of a row group, and how many batches are held before they are made one: each is a hundred arrays, however short.
_ROWS: Final = 16384
_BATCHES: Final = 64


class CsvFile(NamedTuple):
    """A CSV to write: its place below the folder. Without a model it is only that folder."""

    place: Path
    model: str = ""
    rows: Iterable[Sequence[Cell]] = ()


def write_parquet(results: Predictions, folder: str | os.PathLike[str]) -> list[Path]:
    """Predictions as one Parquet dataset per model: `folder/face/part-00000.parquet` (zstd). Returns the files.

    Models without rows have none; if something could not be measured, there is one of `errors` as well. `folder` is
    made; it must be empty if it is there, or `ConfigError` is raised. When anything fails, nothing is left in it.
    """
    return save_parquet(table_blocks(sources(results)), Path(folder))


def write_csv(results: Predictions, folder: str | os.PathLike[str]) -> list[Path]:
    """Predictions as the files of an artifacts ZIP, unpacked. Returns the files.

    `folder/file-<index>-<filename>/csv/<file>/<model>.csv`, byte for byte what the ZIP has. Names are made safe: no
    file lies outside of `folder`, which is made; it must be empty if it is there, or `ConfigError` is raised. When
    anything fails, nothing is left in it.
    """
    return save_csv(csv_files(sources(results)), Path(folder))


def table_blocks(results: Iterable[AnySource], first: int = 0) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Record batches of all models, and at the end of `errors`. Sources are numbered from `first` on."""
    failed: list[pa.RecordBatch] = []

    def seen() -> Iterator[AnySource]:
        for number, source in enumerate(results):
            if (found := errors([source])).num_rows:
                failed.extend(numbered(batch, number) for batch in found.to_batches())
            yield source

    for model, batch in blocks(seen()):
        yield model, numbered(batch, first)
    for batch in failed:
        yield "errors", numbered(batch, first)


def numbered(batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
    """A batch whose sources are numbered from `first` on, and not from 0."""
    if not first:
        return batch
    place = batch.schema.get_field_index("source_index")
    moved = pc.add(batch.column(place), pa.scalar(first, pa.int32()))
    return batch.set_column(place, batch.schema.field(place), moved)


def csv_files(results: Iterable[AnySource], first: int = 0) -> Iterator[CsvFile]:
    """The CSVs of an artifacts ZIP. Sources are numbered from `first` on."""
    for number, source in enumerate(results, first):
        top = Path(source_folder(number, source.source))
        yield CsvFile(top)
        used: dict[str, int] = {}
        for file in files(source):
            place = top / "csv" / file_folder(file.file, used)
            for model in models(file):
                yield CsvFile(place, model, (cells(model, group, row) for group, row in rows(file, model)))


def save_parquet(found: Iterable[tuple[str, pa.RecordBatch]], folder: Path) -> list[Path]:
    """Record batches as one dataset per name. Raises `ConfigError`."""
    parts: dict[str, Path] = {}
    with _draft(folder) as draft, ExitStack() as stack:
        writers: dict[str, pq.ParquetWriter] = {}
        for name, batch in _gathered(found):
            if name not in writers:
                parts[name] = Path(name, "part-00000.parquet")
                (draft / name).mkdir()
                # A dictionary of numbers that hardly ever repeat costs time and saves nothing.
                words: Any = [field.name for field in batch.schema if field.type == pa.string()]
                writers[name] = stack.enter_context(
                    pq.ParquetWriter(draft / parts[name], batch.schema, compression="zstd", use_dictionary=words)
                )
            writers[name].write_batch(batch)
    return [folder / part for part in parts.values()]


def _gathered(found: Iterable[tuple[str, pa.RecordBatch]]) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Batches as large as a row group should be, of any number of small ones."""
    waiting: dict[str, list[pa.RecordBatch]] = defaultdict(list)
    for name, batch in found:
        some = waiting[name]
        some.append(batch)
        full = sum(one.num_rows for one in some) >= _ROWS
        if full or len(some) == _BATCHES:
            waiting[name] = [_one(some)]
        if full:
            yield name, waiting.pop(name)[0]
    for name, some in waiting.items():
        yield name, _one(some)


def _one(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def save_csv(found: Iterable[CsvFile], folder: Path) -> list[Path]:
    """CSV files at their places. Raises `ConfigError`."""
    written: list[Path] = []
    with _draft(folder) as draft:
        for place, model, cell_rows in found:
            (draft / place).mkdir(parents=True, exist_ok=True)
            if model:
                path = place / f"{model}.csv"
                # x: where names of different case are one, no file silently takes another one's place.
                with open(draft / path, "x", encoding="utf-8", newline="") as out:
                    write_cells(out, model, cell_rows)
                written.append(folder / path)
    return written


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """A folder inside `folder`; what is in it when the block ends is moved up, if it ends well. Else it is gone."""
    try:
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(
                f"{folder}: there is something in this folder; give a new or an empty one", field="folder"
            )
        draft = folder / f".humebatch-{secrets.token_hex(4)}.part"
        draft.mkdir()
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}", field="folder") from error
    try:
        yield draft
        for path in sorted(draft.iterdir()):
            path.rename(folder / path.name)
        draft.rmdir()
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        if made:
            with suppress(OSError):  # somebody has put something into it
                folder.rmdir()
        raise
