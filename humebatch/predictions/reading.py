"""Predictions of any size: all at once, or source by source, file by file and row by row.

A saved answer is copied to a temporary file of our own and mapped: nobody can shorten it under the map, the kernel
may drop its pages at any time, and what is held is the rows' places and the one row that is looked at. Finding the
places is one pass over the text (about a second per GB), which also finds out whether it is whole.
"""

from __future__ import annotations

import codecs
import contextlib
import gc
import gzip
import io
import mmap
import os
import tempfile
import zlib
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Generic, Literal, Self, TypeVar, overload

import msgspec
from msgspec import UNSET, UnsetType

from .._decoding import decode as decode_as
from ..errors import ConfigError, DecodeError, SourceError
from .structs import (
    BurstPrediction,
    FacemeshPrediction,
    FacePrediction,
    GroupedPredictions,
    LanguagePrediction,
    MeasuredBy,
    ModelPredictions,
    ModelsPredictions,
    NerPrediction,
    Prediction,
    ProsodyPrediction,
    ResultError,
    Results,
    Source,
    SourceResult,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "FileOutline",
    "PredictionReader",
    "PredictionsReader",
    "ResultsOutline",
    "SourceOutline",
    "SourceReader",
    "decode",
    "inflates_too_far",
    "mapped",
    "read",
]

T = TypeVar("T")
M = TypeVar("M")

RowModel = Literal["face", "burst", "prosody", "language", "ner", "facemesh"]

_Groups = ModelPredictions[msgspec.Raw]


# What an answer is made of down to its rows, which stay JSON until they are asked for.
class _Models(msgspec.Struct, gc=False):
    face: _Groups | UnsetType | None = UNSET
    burst: _Groups | UnsetType | None = UNSET
    prosody: _Groups | UnsetType | None = UNSET
    language: _Groups | UnsetType | None = UNSET
    ner: _Groups | UnsetType | None = UNSET
    facemesh: _Groups | UnsetType | None = UNSET


class FileOutline(msgspec.Struct, Generic[M], gc=False):
    """A `Prediction`, with its models as `M`."""

    file: str
    models: M
    file_type: str | None = None


class ResultsOutline(msgspec.Struct, Generic[M], gc=False):
    """`Results`, with the models of its files as `M`."""

    predictions: list[FileOutline[M]]
    errors: list[ResultError]


class SourceOutline(msgspec.Struct, Generic[M], gc=False):
    """A `SourceResult`, with the models of its files as `M`."""

    source: Source
    results: ResultsOutline[M] | None = None
    error: str | None = None
    measured_by: dict[str, MeasuredBy] | UnsetType | None = UNSET


# What tells the body of a callback apart.
class _Callback(msgspec.Struct, gc=False):
    job_id: str
    status: str


_everything = msgspec.json.Decoder(list[SourceResult])
_elements = msgspec.json.Decoder(list[msgspec.Raw])
_outline = msgspec.json.Decoder(SourceOutline[_Models])
_callback = msgspec.json.Decoder(_Callback)
_ROWS: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    "face": msgspec.json.Decoder(FacePrediction),
    "burst": msgspec.json.Decoder(BurstPrediction),
    "prosody": msgspec.json.Decoder(ProsodyPrediction),
    "language": msgspec.json.Decoder(LanguagePrediction),
    "ner": msgspec.json.Decoder(NerPrediction),
    "facemesh": msgspec.json.Decoder(FacemeshPrediction),
}
_MODELS: Final[tuple[RowModel, ...]] = ("face", "burst", "prosody", "language", "ner", "facemesh")
_WHAT = "predictions"
_COPIED = 1024 * 1024
_GZIP = b"\x1f\x8b"
_MARK = codecs.BOM_UTF8
_OTHERWISE: Final = {
    b"PK": "it is a ZIP and no JSON; a ZIP of artifacts is for humebatch.tables.read_artifacts",
    codecs.BOM_UTF16_LE: "it is UTF-16 and not UTF-8",
    codecs.BOM_UTF16_BE: "it is UTF-16 and not UTF-8",
    b"[\0": "it is UTF-16 and not UTF-8",
    b"\0[": "it is UTF-16 and not UTF-8",
}
# Scores shrink to a tenth; deflate can do a thousandth.
_RATIO = 200
_FREE = 16 * 2**20  # so much may come out of anything


def decode(data: Buffer) -> list[SourceResult]:
    """The whole answer, one `SourceResult` per file, URL or text list that was sent.

    Takes up to about three times the size of `data`. Raises `DecodeError` for what is cut or not what the schema says.
    """
    with _no_collecting(), _recognizing(data):
        return decode_as(_everything, data, _WHAT)


@contextlib.contextmanager
def _recognizing(data: Buffer) -> Iterator[None]:
    """Have the error say so if what is no answer is the body of a callback."""
    try:
        yield
    except DecodeError as error:
        if error.path == "$":
            with contextlib.suppress(ValueError, RecursionError):
                _callback.decode(data)
                error.message += "; it is the body of a callback, which humebatch.callbacks.parse decodes"
        raise


@contextlib.contextmanager
def _no_collecting() -> Iterator[None]:
    """Hold the garbage collector off while a great many objects are made that cannot be garbage.

    It would look through all of them, again and again while they are made and once more at the end: a quarter of the
    time. So they are moved to its oldest generation unseen, where a later full collection finds what has become of
    them. Somebody who has frozen objects keeps them frozen; then the last look is not saved.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        if gc.get_freeze_count() == 0:
            gc.freeze()
            gc.unfreeze()
    finally:
        gc.enable()


class _Answer:
    """The JSON that readers are made of; `broken` once a part of it could not be decoded."""

    def __init__(self, data: Buffer, file: str | None) -> None:
        self.data = data
        self.file = file
        self.broken = False

    def decoded(self, decoder: msgspec.json.Decoder[T], part: Buffer, path: str) -> T:
        """The part that stands at `path`. Raises `DecodeError` that says where in the whole."""
        try:
            return decode_as(decoder, part, _WHAT, path=path, whole=self.data, file=self.file)
        except ValueError:
            self.broken = True
            raise


class PredictionReader:
    """One file of a source: like `Prediction`, but its rows are decoded when they are asked for."""

    def __init__(self, outline: FileOutline[_Models], path: str, answer: _Answer) -> None:
        self._outline = outline
        self._path = path
        self._answer = answer

    def __repr__(self) -> str:
        return f"PredictionReader({self.file!r}, present={self.present})"

    @property
    def file(self) -> str:
        """The file's path inside the source; for text it is "1", "2", …"""
        return self._outline.file

    @property
    def file_type(self) -> str | None:
        """`image`, `video`, `video_no_audio`, `audio` or `text`; None in answers from before mid-2023."""
        return self._outline.file_type

    @property
    def present(self) -> tuple[RowModel, ...]:
        """The models that say something about the file."""
        return tuple(model for model in _MODELS if getattr(self._outline.models, model))

    @property
    def models(self) -> ModelsPredictions:
        """All rows of all models, decoded."""
        return ModelsPredictions(**{model: self._whole(model) for model in self.present})

    def groups(self, model: str) -> list[GroupedPredictions[msgspec.Raw]]:
        """A model's groups, their rows as JSON; empty if the model says nothing. Raises `ConfigError` for no model."""
        if model not in _ROWS:
            raise ConfigError(f"model: must be one of {', '.join(_ROWS)}, not {model!r}", field="model")
        found: _Groups | UnsetType | None = getattr(self._outline.models, model)
        return found.grouped_predictions if found else []

    @overload
    def rows(self, model: Literal["face"]) -> Iterator[tuple[str, FacePrediction]]: ...
    @overload
    def rows(self, model: Literal["burst"]) -> Iterator[tuple[str, BurstPrediction]]: ...
    @overload
    def rows(self, model: Literal["prosody"]) -> Iterator[tuple[str, ProsodyPrediction]]: ...
    @overload
    def rows(self, model: Literal["language"]) -> Iterator[tuple[str, LanguagePrediction]]: ...
    @overload
    def rows(self, model: Literal["ner"]) -> Iterator[tuple[str, NerPrediction]]: ...
    @overload
    def rows(self, model: Literal["facemesh"]) -> Iterator[tuple[str, FacemeshPrediction]]: ...
    @overload
    def rows(self, model: str) -> Iterator[tuple[str, Any]]: ...
    def rows(self, model: str) -> Iterator[tuple[str, Any]]:
        """A model's rows, one at a time, each with the id of its group.

        Raises `ConfigError` if there is no such model, `DecodeError` for a row that is not what the schema says.
        """
        return ((group, row) for group, rows in self.runs(model) for row in rows)

    def runs(
        self, model: str, decoder: msgspec.json.Decoder[T] | None = None
    ) -> Iterator[tuple[str, Iterator[T | Any]]]:
        """A model's groups: each one's id, and its rows as `decoder` makes them (as the model's structs if None)."""
        groups = self.groups(model)
        path = f"{self._path}.models.{model}.grouped_predictions"
        return (
            (group.id, self._decoded(group, decoder or _ROWS[model], f"{path}[{number}].predictions"))
            for number, group in enumerate(groups)
        )

    def _decoded(
        self, group: GroupedPredictions[msgspec.Raw], decoder: msgspec.json.Decoder[T], path: str
    ) -> Iterator[T]:
        for place, raw in enumerate(group.predictions):
            try:
                row = decoder.decode(raw)
            except (ValueError, RecursionError):
                # Once more, for an error that says where.
                row = self._answer.decoded(decoder, raw, f"{path}[{place}]")
            yield row

    def _whole(self, model: RowModel) -> ModelPredictions[Any]:
        found: _Groups = getattr(self._outline.models, model)
        groups = [GroupedPredictions(group, list(rows)) for group, rows in self.runs(model)]
        return ModelPredictions(groups, found.metadata)


class SourceReader:
    """One source of an answer, to be iterated for its files; `measured_by` is empty where the server does not say."""

    def __init__(self, raw: msgspec.Raw, path: str, answer: _Answer) -> None:
        self._path = path
        self._answer = answer
        outline = answer.decoded(_outline, raw, path)
        self.source: Source = outline.source
        self.error: str | None = outline.error
        self._measured_by = outline.measured_by
        self.measured_by: dict[str, MeasuredBy] = outline.measured_by or {}
        self._results = outline.results

    def __repr__(self) -> str:
        return f"SourceReader({self.source!r}, error={self.error!r})"

    @property
    def errors(self) -> list[ResultError]:
        """Why files of the source, or models on them, could not be measured."""
        return [] if self._results is None else self._results.errors

    def __iter__(self) -> Iterator[PredictionReader]:
        if self._results is not None:
            for number, outline in enumerate(self._results.predictions):
                yield PredictionReader(outline, f"{self._path}.results.predictions[{number}]", self._answer)

    @property
    def predictions(self) -> list[PredictionReader]:
        """The files of the source."""
        return list(self)

    @property
    def results(self) -> Results | None:
        """All files of the source, decoded; None when the source as a whole could not be read."""
        if self._results is None:
            return None
        return Results([Prediction(one.file, one.models, one.file_type) for one in self], self.errors)

    def load(self) -> SourceResult:
        """This source as `decode` gives it."""
        return SourceResult(self.source, self.results, self.error, self._measured_by)


class PredictionsReader:
    """An answer that is read source by source. Iterate it, as often as needed; enter it to let go of it early.

    Once left it raises `ConfigError`; what was read from it can still be used. The temporary copy behind it goes when
    the reader and everything read from it are gone.
    """

    def __init__(self, data: Buffer, *, file: str | None = None) -> None:
        """`data` holds the JSON; `file` is where errors say that it can be found."""
        self._answer = _Answer(data, file)
        with _recognizing(data):
            self._sources: list[msgspec.Raw] | None = self._answer.decoded(_elements, data, "$")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sources = None
        # Sources that are still in use keep the old one.
        self._answer = _Answer(b"", self._answer.file)

    @property
    def broken(self) -> bool:
        """Whether something in the answer could not be decoded, as far as it was looked at."""
        return self._answer.broken

    def _open(self) -> list[msgspec.Raw]:
        if self._sources is None:
            raise ConfigError("this reader is closed: use it inside of its `with`, or read the file again")
        return self._sources

    def __len__(self) -> int:
        return len(self._open())

    @overload
    def __getitem__(self, number: int) -> SourceReader: ...
    @overload
    def __getitem__(self, number: slice) -> list[SourceReader]: ...
    def __getitem__(self, number: int | slice) -> SourceReader | list[SourceReader]:
        if isinstance(number, slice):
            return [self[one] for one in range(len(self))[number]]
        return SourceReader(self._open()[number], f"$[{range(len(self))[number]}]", self._answer)

    def __iter__(self) -> Iterator[SourceReader]:
        for number in range(len(self)):
            yield self[number]


def read(path: str | os.PathLike[str]) -> PredictionsReader:
    """A saved predictions file, plain or gzip, of any size. Blocks while it is copied and looked through once.

    It need not be able to seek: `/dev/stdin` and pipes will do. A mark of UTF-8 at its beginning is passed over.

    Raises `SourceError` for a file that cannot be read, a ZIP, UTF-16, a gzip file that is cut, damaged or inflates
    beyond reason (to more than 16 MiB and 200 times its size), and when there is no room for the copy (`TMPDIR` says
    where that goes); `DecodeError` for JSON that is cut or no array.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file, tempfile.TemporaryFile(prefix="humebatch-") as copy:
            _copy(file, copy)
            copy.flush()
            data: Buffer = mapped(copy)
    except (OSError, EOFError, zlib.error, _Wrong) as error:
        raise SourceError(f"{name}: {getattr(error, 'strerror', None) or error}", path=name) from error
    return PredictionsReader(data, file=name)


class _Wrong(Exception):
    """What is wrong with a file; becomes a `SourceError` that names it."""


def _copy(file: io.BufferedReader, copy: BinaryIO) -> None:
    """Copy the JSON of a file, inflated. Raises `_Wrong` for what is none."""
    counted = _Counted(file)
    given = io.BufferedReader(counted)
    source = gzip.GzipFile(fileobj=given) if given.peek(2)[:2] == _GZIP else given
    size = 0
    chunk = source.read(len(_MARK))
    if why := _OTHERWISE.get(chunk[:2]):
        raise _Wrong(why)
    if chunk == _MARK:
        # White space instead, so that offsets are those in the file.
        chunk = b" " * len(_MARK)
    while chunk:
        size += len(chunk)
        if inflates_too_far(size, counted.count):
            raise _Wrong(f"it inflates to more than {size - len(chunk):,} bytes, from {counted.count:,}")
        copy.write(chunk)
        chunk = source.read(_COPIED)


class _Counted(io.RawIOBase):
    """What was read of a file, counted. A read comes back short only at the end, also where pipes dribble."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        found = self._file.readinto(buffer)
        self.count += found
        return found


def inflates_too_far(size: int, packed: int) -> bool:
    """Whether so many bytes, out of so many compressed ones, are a bomb."""
    return size > max(_FREE, _RATIO * packed)


def mapped(file: BinaryIO) -> Buffer:
    """A file of our own as bytes that are not held in memory."""
    if os.fstat(file.fileno()).st_size == 0:
        return b""
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
