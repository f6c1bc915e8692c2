"""Artifact ZIPs that were saved, of the hosted service or of `humebatch.server`, as the tables that predictions give.

A ZIP is somebody else's: nothing of it is laid down on disk, what it inflates to is counted while it is read, and
names are data and no places. What is not `<type>-<index>-<name>/csv/<file>/<model>.csv` is passed over.
"""

from __future__ import annotations

import csv
import io
import os
import re
import stat
import threading
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any, Final, NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc

from .._tally import source_name
from .._wire.artifact_csv import HEADERS
from ..errors import SourceError
from ..predictions import Source
from ..predictions.reading import inflates_too_far
from .columns import FIELDS, MODELS, SCORES, schema

__all__ = ["ArtifactZip", "Sheet", "artifact_blocks", "read_artifacts"]

_TOP = re.compile(r"([a-z_]+)-([0-9]{1,6})(?:-(.*))?", re.DOTALL)
_TABLES: Final = {f"{model}.csv": model for model in MODELS}
_COLUMNS: Final = {
    "frame": "Frame",
    "time": "Time",
    "prob": "Probability",
    "box_x": "FaceX0",
    "box_y": "FaceY0",
    "box_w": "FaceWidth",
    "box_h": "FaceHeight",
    "text": "Text",
    "position_begin": "BeginPosition",
    "position_end": "EndPosition",
    "begin": "BeginTime",
    "end": "EndTime",
    "confidence": "Confidence",
    "speaker_confidence": "SpeakerConfidence",
    "entity": "Entity",
    "entity_confidence": "EntityConfidence",
    "support": "Support",
    "uri": "Uri",
    "link_word": "LinkWord",
}

# Real entries are stored; what somebody packed again shrinks to a half or a fourth.
_MOST = 4 * 2**30  # of one entry
_MOST_IN_SUM = 32 * 2**30
# The list of entries is held in memory, at many times its size; this is room for some 100,000.
_LIST = 16 * 2**20
# A row is at most so long; a text is the only long thing in it.
_LINE = 8 * 2**20
_ROWS = 2048
_CHARACTERS = 8 * 2**20
_FIELDS = threading.Lock()


_Count = Callable[[int], None]


class Sheet(NamedTuple):
    """One CSV of a ZIP: whose it is. `source` has the type and name that the folder is called by."""

    source: Source
    source_index: int
    file: str
    model: str
    entry: zipfile.ZipInfo


_Placed = tuple[Sheet, int, list[str]]  # a row, and the number of its line


def read_artifacts(path: str | os.PathLike[str]) -> dict[str, pa.Table]:
    """The tables of a saved artifacts ZIP, by model: those that the ZIP has a CSV of.

    They have the columns of `schema(model)`. `source` is the name in the ZIP, which for a URL is its last part, and
    `source_index` the number there; `file_type` and `other_scores` are null, an empty text is null too, and columns
    that are not in the schema are left out. Blocks.

    It is all or nothing: raises `SourceError`, which names the entry, for one that is damaged, encrypted, a link,
    there twice, no CSV of that model, or inflates beyond reason; and for a file that is no artifacts ZIP.
    """
    with ArtifactZip(path) as archive:
        found: dict[str, list[pa.RecordBatch]] = {sheet.model: [] for sheet in archive.sheets}
        for model, batch in artifact_blocks(archive):
            found[model].append(batch)
    return {model: pa.Table.from_batches(found[model], schema(model)) for model in MODELS if model in found}


class ArtifactZip:
    """An open ZIP: its `sheets`, in the order of their sources. Enter it to have it closed."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._inflated = 0
        self._stack = ExitStack()
        with self._refusing(None), ExitStack() as stack:
            file = stack.enter_context(_File(path))
            self._size = os.fstat(file.fileno()).st_size
            self._archive = stack.enter_context(zipfile.ZipFile(file))
            self.sheets, self._sources = _sheets(self._archive.infolist())
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __len__(self) -> int:
        """The number of sources, also of those without a CSV."""
        return self._sources

    def rows(self, sheet: Sheet) -> Iterator[list[str]]:
        """The rows of a CSV, cells in the order of `HEADERS[sheet.model]`, "" for null. Raises `SourceError`."""
        return (row for _, row in self.numbered_rows(sheet))

    def numbered_rows(self, sheet: Sheet) -> Iterator[tuple[int, list[str]]]:
        """The rows, each with the number of the line that it ends in."""
        _allow_long_fields()
        with self._refusing(sheet), self._archive.open(sheet.entry) as member:
            counted = io.BufferedReader(_Counted(member, self._counts(sheet.entry)))
            lines = _Lines(io.TextIOWrapper(counted, "utf-8-sig", newline=""))
            reader = csv.reader(lines, strict=True)
            header = next(reader, [])
            places = _places(header, HEADERS[sheet.model])
            for row in reader:
                if len(row) == len(header):
                    # The last place is that of columns which are missing.
                    row.append("")
                    yield reader.line_num, [row[place] for place in places]
                elif row:
                    raise _Wrong(f"line {reader.line_num} has {len(row)} cells and not {len(header)}")

    def wrong(self, sheet: Sheet | None, why: object) -> SourceError:
        """The error that says what is wrong with an entry, or with the ZIP."""
        where = self._path if sheet is None else f"{self._path}: {sheet.entry.filename}"
        return SourceError(f"{where}: {why}", path=self._path)

    @contextmanager
    def _refusing(self, sheet: Sheet | None) -> Iterator[None]:
        try:
            yield
        except SourceError:
            raise
        except OSError as error:
            raise self.wrong(sheet, error.strerror or error) from error
        except EOFError as error:
            raise self.wrong(sheet, "it is cut off") from error
        except UnicodeDecodeError as error:
            raise self.wrong(sheet, "it is not UTF-8") from error
        # RuntimeError, NotImplementedError: what zipfile says of ZIPs that it cannot read.
        except (_Wrong, zipfile.BadZipFile, zlib.error, csv.Error, RuntimeError, ValueError) as error:
            raise self.wrong(sheet, error) from error

    def _counts(self, entry: zipfile.ZipInfo) -> _Count:
        inflated = 0

        def count(more: int) -> None:
            nonlocal inflated
            inflated += more
            self._inflated += more
            for what, size, packed, most in (
                ("it", inflated, entry.compress_size, _MOST),
                ("the ZIP", self._inflated, self._size, _MOST_IN_SUM),
            ):
                if size > most or inflates_too_far(size, packed):
                    raise _Wrong(f"{what} inflates to more than {size - more:,} bytes, from {packed:,}")

        return count


def artifact_blocks(archive: ArtifactZip) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Record batches of all models in one pass, as `building.blocks` gives them. Raises `SourceError`."""
    waiting: dict[str, list[_Placed]] = defaultdict(list)
    characters: dict[str, int] = defaultdict(int)
    for sheet in archive.sheets:
        model = sheet.model
        for line, row in archive.numbered_rows(sheet):
            waiting[model].append((sheet, line, row))
            characters[model] += sum(map(len, row))
            if len(waiting[model]) == _ROWS or characters[model] > _CHARACTERS:
                yield model, _block(archive, model, waiting.pop(model))
                characters[model] = 0
    for model, rows in waiting.items():
        yield model, _block(archive, model, rows)


def _block(archive: ArtifactZip, model: str, rows: Sequence[_Placed]) -> pa.RecordBatch:
    sheets = [sheet for sheet, _, _ in rows]
    cells = dict(zip(HEADERS[model], zip(*(row for _, _, row in rows), strict=True), strict=True))
    columns: dict[str, Any] = {
        "source": pa.array([source_name(sheet.source) for sheet in sheets]),
        "source_index": pa.array([sheet.source_index for sheet in sheets], pa.int32()),
        "file": pa.array([sheet.file for sheet in sheets]),
        "id": pa.array(cells["Id"], pa.string()),
    }
    wanted = schema(model)
    named = {field.name: _COLUMNS[field.name] for field in FIELDS[model]}
    named |= {name: name for names in SCORES[model].values() for name in names}
    for name, column in named.items():
        kind = wanted.field(name).type
        try:
            columns[name] = _column(cells[column], kind)
        except pa.ArrowInvalid:
            for (sheet, line, _), value in zip(rows, cells[column], strict=True):
                try:
                    _column([value], kind)
                except pa.ArrowInvalid:
                    why = f"line {line}: {value[:40]!r} in the column {column} is no number"
                    raise archive.wrong(sheet, why) from None
            raise
    arrays = [columns.get(field.name, pa.nulls(len(rows), field.type)) for field in wanted]
    return pa.RecordBatch.from_arrays(arrays, schema=wanted)


def _column(values: Sequence[str], kind: Any) -> Any:
    if not any(values):
        return pa.nulls(len(values), kind)
    texts = pa.array([value or None for value in values], pa.string())
    if kind == pa.string():
        return texts
    # By way of float: a spreadsheet may have made 30.0 of a frame.
    numbers = pc.cast(pc.cast(texts, pa.float64()), kind)
    if pa.types.is_floating(kind) and not pc.all(pc.is_finite(numbers)).as_py():
        # As in JSON: no NaN, and nothing that is too large for a number.
        raise pa.ArrowInvalid("not finite")
    return numbers


def _sheets(entries: Sequence[zipfile.ZipInfo]) -> tuple[list[Sheet], int]:
    """The CSVs among the entries, and the number of sources."""
    found: dict[tuple[int, str, str], Sheet] = {}
    sources = 0
    for entry in entries:
        # Some packers write backslashes; next to a slash it is a part of a name.
        steps = entry.filename.split("/" if "/" in entry.filename else "\\")
        # Not always on top: somebody may have unpacked a ZIP into a folder and packed that.
        for place, (step, below) in enumerate(pairwise(steps)):  # noqa: B007 - it is used behind the loop
            if below in ("csv", "") and (top := _TOP.fullmatch(step)):
                break
        else:
            continue
        index = int(top[2])
        sources = max(sources, index + 1)
        model = _TABLES.get(steps[-1])
        if model is None or below != "csv" or place + 3 >= len(steps):
            continue
        if problem := _problem(entry, steps):
            raise _Wrong(f"{entry.filename}: {problem}")
        file = "/".join(steps[place + 2 : -1])
        if found.setdefault((index, file, model), sheet := Sheet(_source(top), index, file, model, entry)) is not sheet:
            raise _Wrong(f"{entry.filename}: it is there twice")
    if not sources:
        raise _Wrong("it is no artifacts ZIP: no folder in it is called like file-0-name")
    return sorted(found.values(), key=lambda sheet: sheet.source_index), sources


def _source(top: re.Match[str]) -> Source:
    kind, _, name = top.groups()
    return Source(kind, url=name) if kind == "url" else Source(kind, filename=name)


def _problem(entry: zipfile.ZipInfo, steps: Sequence[str]) -> str | None:
    if entry.flag_bits & 0x1:
        return "it is encrypted"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "it is a link"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # The others inflate a block at once, however large that is.
        return "it is neither stored nor deflated"
    if not set(steps).isdisjoint(("", ".", "..")):
        return "its name leads elsewhere"
    return None


def _places(header: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Where in a row the wanted columns are; behind its end if it does not have them."""
    places = {name: place for place, name in enumerate(header)}
    if len(places) < len(header):
        raise _Wrong("two of its columns have one name")
    if "Id" not in places:
        raise _Wrong("it has no column Id")
    return [places.get(name, len(header)) for name in wanted]


class _Wrong(Exception):
    """What is wrong with an entry; becomes a `SourceError` that names it."""


class _File(io.FileIO):
    """A file that zipfile cannot be talked into reading whole: the list of entries is read in one go."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:  # the file's end, with a comment of at most 64 KB
            size = 2**17
        if size > _LIST:
            raise _Wrong("its list of entries is too long")
        return super().read(size) or b""


class _Counted(io.RawIOBase):
    """What comes out of an entry, counted."""

    def __init__(self, member: Any, count: _Count) -> None:
        self._member = member
        self._count = count

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        found = self._member.read(len(buffer))
        self._count(len(found))
        buffer[: len(found)] = found
        return len(found)


class _Lines:
    """The lines of a text, none of which is too long to be held."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text

    def __iter__(self) -> Iterator[str]:
        while line := self._text.readline(_LINE):
            if len(line) == _LINE and line[-1] not in "\r\n":
                raise _Wrong(f"a line of it is longer than {_LINE:,} characters")
            yield line


def _allow_long_fields() -> None:
    # The limit is the process's, and smaller than the texts that the API takes. It is only ever raised: whoever put
    # it back would do so under the rows of another thread. How long a line may be is up to `_Lines`.
    with _FIELDS:
        if csv.field_size_limit() < _LINE:
            csv.field_size_limit(_LINE)
