"""A job's answer into the results of its inputs: each durable and whole, or not there.

Everything blocks and is called in a worker thread. The answer is mapped and not loaded: what is held of it is the
places of its parts.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import msgspec

from ..._decoding import decode
from ..._transport.files import draft_name, is_draft, settle, sync_folder
from ..._wire.codec import encode
from ..._wire.multipart import quote_name
from ...errors import DecodeError, DiskError
from ...ingestion import Reason
from ...predictions import ResultError, Source
from ...predictions.reading import FileOutline, SourceOutline, inflates_too_far, mapped
from .renaming import Pieces, Unclear, renamed_entry, renamed_source

__all__ = ["NotStored", "Stored", "Target", "check_zip", "store", "sweep_parts"]

T = TypeVar("T")

_NAME = b"predictions.json"
_WHAT = "predictions"
_PIECE = 1024 * 1024
_SILENT = "the answer says nothing about it"
# What the next result would meet as well. Running out of descriptors passes, and is no fault of the input.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE}

_ENTRIES = 100_000
_LIST = 16 * 2**20  # of entries, which zipfile reads in one go
_INFLATED = 32 * 2**30
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError, LookupError,
    OverflowError,
)  # fmt: skip


class Target(msgspec.Struct, frozen=True):
    """An input whose part of an answer is to be stored.

    `file`: its id in the journal. `name`: its own base name, which the saved JSON says; valid Unicode. `wire`: its
    name on the wire, in a bundle its name inside of the archive. `md5`: of its bytes, in hex. `folder`: absolute,
    gets the `predictions.json`; it is made if need be.
    """

    file: int
    name: str
    wire: str
    md5: str
    folder: bytes


class Stored(msgspec.Struct, frozen=True):
    """The results of the input `file` are in `path`, durably: `size` bytes.

    `errors`: how many of its parts the server could not measure.
    """

    file: int
    path: bytes
    size: int
    sha256: str
    errors: int


class NotStored(msgspec.Struct, frozen=True):
    """There are no results of the input `file`, or they cannot be stored; `detail` is for people."""

    file: int
    reason: Reason
    detail: str


# What is to be written for a target, and how many errors it names.
_Part = tuple[Pieces, int]

_Models = dict[str, msgspec.Raw]


class _Head(msgspec.Struct):
    source: Source


class _Results(msgspec.Struct):
    predictions: list[msgspec.Raw]
    errors: list[msgspec.Raw]


class _Archive(msgspec.Struct):
    results: _Results | None = None
    error: str | None = None


_elements = msgspec.json.Decoder(list[msgspec.Raw])
_head = msgspec.json.Decoder(_Head)
_outline = msgspec.json.Decoder(SourceOutline[_Models])
_archive = msgspec.json.Decoder(_Archive)
_prediction = msgspec.json.Decoder(FileOutline[_Models])
_error = msgspec.json.Decoder(ResultError)


def store(
    answer: str, targets: Sequence[Target], *, bundle: bool = False, stop: Callable[[], None] | None = None
) -> list[Stored | NotStored]:
    """Write each target's part of an answer to `predictions.json` in its folder. Returns one finding per target.

    `answer`: the path of the whole answer. `bundle`: the targets are the files of its only source, an archive.
    `stop` is called before each target and may raise.

    Raises `DecodeError` for an answer that is cut or no array, then nothing was written; `DiskError` when the disk is
    full, read-only or broken: what was stored until then stays, and no half file.
    """
    whole = _Whole(answer)
    parts = _archive_parts(whole, targets) if bundle else _file_parts(whole, targets)
    done: list[Stored | NotStored] = []
    # One after the other: each part is put together when its turn comes.
    for target, part in zip(targets, parts, strict=True):
        if stop is not None:
            stop()
        done.append(part if isinstance(part, NotStored) else _save(target, part))
    return done


class _Whole:
    """A mapped answer and its sources."""

    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:
            self._data = mapped(file)
        self._file = path
        self.sources = decode(_elements, self._data, _WHAT, file=path)

    def read(self, decoder: msgspec.json.Decoder[T], part: msgspec.Raw, path: str) -> T | str:
        """The part at `path`, or what is wrong with it."""
        try:
            return decoder.decode(part)
        except (ValueError, RecursionError):
            try:
                return decode(decoder, part, _WHAT, path=path, whole=self._data, file=self._file)
            except DecodeError as error:
                return str(error).removeprefix(f"{self._file}: ")


def _said(name: str) -> frozenset[str]:
    return frozenset((name, quote_name(name)))


def _file_parts(whole: _Whole, targets: Sequence[Target]) -> Iterator[_Part | NotStored]:
    heads: dict[int, Source] = {}
    broken: list[str] = []
    for number, raw in enumerate(whole.sources):
        head = whole.read(_head, raw, f"$[{number}]")
        if isinstance(head, str):
            broken.append(head)
        else:
            heads[number] = head.source
    # Inputs with the same bytes were sent as one: its source is that of them all.
    sent = {(target.wire, target.md5): target for target in targets}
    found = _matched(heads, list(sent.values()))
    for target in targets:
        its = found.get(sent[target.wire, target.md5].file)
        if its is not None:
            yield _file_part(whole, its, heads[its], target)
        elif broken:
            yield NotStored(target.file, Reason.BAD_RESULT, broken[0])
        else:
            yield NotStored(target.file, Reason.NOT_MEASURED, _SILENT)


def _matched(heads: dict[int, Source], targets: Sequence[Target]) -> dict[int, int]:
    """The target's id to the number of its source: by name and content, then by what there is only one of."""
    found: dict[int, int] = {}
    left = dict(heads)
    exact: dict[tuple[str, str], int] = {}
    for number, source in heads.items():
        exact.setdefault((quote_name(source.filename or ""), _md5(source)), number)
    for target in targets:
        number = exact.get((quote_name(target.wire), target.md5.lower()), -1)
        if left.pop(number, None):
            found[target.file] = number
    for by_content in (True, False):
        asked = {
            target.file: target.md5.lower() if by_content else quote_name(target.wire)
            for target in targets
            if target.file not in found
        }
        said = {
            number: _md5(source) if by_content else "" if _md5(source) else quote_name(source.filename or "")
            for number, source in left.items()
        }
        numbers = _single(said)
        for key, file in _single(asked).items():
            if key in numbers:
                found[file] = numbers[key]
                del left[numbers[key]]
    return found


def _single(keys: dict[int, str]) -> dict[str, int]:
    """Key to whose it is, for the keys that only one has."""
    count = Counter(keys.values())
    return {key: whose for whose, key in keys.items() if key and count[key] == 1}


def _md5(source: Source) -> str:
    return (source.md5sum or "").lower()


def _file_part(whole: _Whole, number: int, source: Source, target: Target) -> _Part | NotStored:
    raw = whole.sources[number]
    path = f"$[{number}]"
    outline = whole.read(_outline, raw, path)
    if isinstance(outline, str):
        return NotStored(target.file, Reason.BAD_RESULT, outline)
    if outline.results is None:
        return NotStored(target.file, Reason.NOT_MEASURED, outline.error or _SILENT)
    # Whatever the server calls it: it was shown to be this file.
    said = (_said(target.wire) | ({source.filename} if source.filename else set())) - {target.name}
    try:
        pieces: Pieces = [memoryview(raw)]
        if said:
            pieces = renamed_source(raw, said, target.name)
    except Unclear as error:
        return NotStored(target.file, Reason.BAD_RESULT, f"{_WHAT}: {error} at {path}")
    return pieces, len(outline.results.errors)


def _archive_parts(whole: _Whole, targets: Sequence[Target]) -> Iterator[_Part | NotStored]:
    if len(whole.sources) != 1:
        reason = Reason.BAD_RESULT if whole.sources else Reason.NOT_MEASURED
        detail = f"the answer has {len(whole.sources)} sources and not one" if whole.sources else _SILENT
        yield from (NotStored(target.file, reason, detail) for target in targets)
        return
    archive = whole.read(_archive, whole.sources[0], "$[0]")
    if isinstance(archive, str):
        yield from (NotStored(target.file, Reason.BAD_RESULT, archive) for target in targets)
        return
    if archive.results is None:
        why = archive.error or _SILENT
        yield from (NotStored(target.file, Reason.NOT_MEASURED, why) for target in targets)
        return
    results = archive.results
    known = {name for target in targets for name in _said(target.wire)}
    predictions: dict[str, list[msgspec.Raw]] = {}
    errors: dict[str, list[msgspec.Raw]] = {}
    # Of entries that are about none of the targets, the first: they may explain why a target has none.
    general = broken = ""
    for number, raw in enumerate(results.predictions):
        one = whole.read(_prediction, raw, f"$[0].results.predictions[{number}]")
        if isinstance(one, str):
            broken = broken or one
        else:
            predictions.setdefault(one.file, []).append(raw)
    for number, raw in enumerate(results.errors):
        error = whole.read(_error, raw, f"$[0].results.errors[{number}]")
        if isinstance(error, str):
            broken = broken or error
        elif error.file in known:
            errors.setdefault(error.file, []).append(raw)
        else:
            general = general or f"; it says of {error.file}: {error.message}"
    for target in targets:
        said = _said(target.wire)
        measured = [raw for name in said for raw in predictions.get(name, [])]
        failed = [raw for name in said for raw in errors.get(name, [])]
        if measured or failed:
            try:
                yield _member_part(target, measured, failed), len(failed)
            except Unclear as error:
                yield NotStored(target.file, Reason.BAD_RESULT, f"{_WHAT}: {error}")
        elif broken:
            yield NotStored(target.file, Reason.BAD_RESULT, broken)
        else:
            yield NotStored(target.file, Reason.NOT_MEASURED, _SILENT + general)


def _member_part(target: Target, measured: Sequence[msgspec.Raw], failed: Sequence[msgspec.Raw]) -> Pieces:
    """A file of an archive as a source of its own."""
    said = _said(target.wire) - {target.name}
    source = encode(Source(type="file", filename=target.name, md5sum=target.md5))
    pieces: Pieces = [b'{"source":' + source + b',"results":{"predictions":[']
    for number, raw in enumerate(measured):
        pieces += [b","] * (number > 0) + renamed_entry(raw, said, target.name)
    pieces.append(b'],"errors":[')
    for number, raw in enumerate(failed):
        pieces += [b","] * (number > 0) + renamed_entry(raw, said, target.name)
    return [*pieces, b"]}}"]


def _save(target: Target, part: _Part) -> Stored | NotStored:
    pieces, errors = part
    path = os.path.join(target.folder, _NAME)
    try:
        _make_folder(target.folder)
        if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
            return NotStored(target.file, Reason.NOT_SAVED, f"{_shown(path)} is there and is not a file")
        size, sha256 = _write(path, [b"[", *pieces, b"]"])
    except OSError as error:
        words = f"{_shown(path)}: {error.strerror or error}"
        if error.errno in _DISK:
            raise DiskError(f"{words}; nothing is lost", path=_shown(path)) from error
        return NotStored(target.file, Reason.NOT_SAVED, words)
    return Stored(target.file, path, size, sha256, errors)


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "replace")


def _make_folder(folder: bytes) -> None:
    """Like `os.makedirs`, and durable."""
    missing: list[bytes] = []
    while not os.path.isdir(folder):
        missing.append(folder)
        parent = os.path.dirname(folder)
        if parent == folder:
            break
        folder = parent
    for one in reversed(missing):
        try:
            os.mkdir(one)
        except FileExistsError:
            # Another thread was faster, and may not have come to the next line yet.
            if not os.path.isdir(one):
                raise
        sync_folder(os.path.dirname(one))


def _write(path: bytes, pieces: Pieces) -> tuple[int, str]:
    draft = os.path.join(os.path.dirname(path), os.fsencode(draft_name()))
    digest = hashlib.sha256()
    size = 0
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        try:
            for piece in pieces:
                view = memoryview(piece)
                for start in range(0, len(view), _PIECE):
                    chunk = view[start : start + _PIECE]
                    digest.update(chunk)
                    size += len(chunk)
                    while chunk:
                        chunk = chunk[os.write(descriptor, chunk) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        settle(draft, path)
    except BaseException:
        _discard(draft)
        raise
    return size, digest.hexdigest()


def _discard(draft: bytes) -> None:
    try:
        os.unlink(draft)
    except OSError:
        # It has its last name already, or the disk is broken; the error that led here says more.
        return


def sweep_parts(folder: bytes) -> int:
    """Remove what a killed run has left half written directly inside a folder. Returns how many files that were.

    A folder that is not there has none. Raises `OSError` for one that cannot be read or written.
    """
    try:
        with os.scandir(folder) as entries:
            drafts = [
                entry.path
                for entry in entries
                if is_draft(os.fsdecode(entry.name)) and entry.is_file(follow_symlinks=False)
            ]
    except (FileNotFoundError, NotADirectoryError):
        return 0
    for draft in drafts:
        os.unlink(draft)
    return len(drafts)


class _Archived(io.FileIO):
    """A file that zipfile cannot be talked into reading whole."""

    def read(self, size: int | None = -1, /) -> bytes:
        """At most 16 MiB at once; without a size the end of the file, where a ZIP has at most 64 KiB of comment."""
        if size is None or size < 0:
            size = 2**17
        if size > _LIST:
            raise zipfile.BadZipFile("its list of entries is too long")
        return super().read(size) or b""


def check_zip(path: str) -> None:
    """Read a ZIP of artifacts through: its list of entries, and the CRC of each. Nothing of it is laid down.

    Entries are stored or deflated. Raises `DecodeError` (with the `file`) for one that is cut, damaged, encrypted,
    packed in another way, or inflates beyond reason; `OSError` when the file cannot be read.
    """
    try:
        with _Archived(path) as file, zipfile.ZipFile(file) as archive:
            _check_entries(archive, os.fstat(file.fileno()).st_size)
    except (*_DAMAGED, OSError) as error:
        # EINVAL: it says that something stands before its first byte.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        why = str(error) or "it is cut off"
        raise DecodeError(f"{path}: artifacts: {why}", file=path) from error


def _check_entries(archive: zipfile.ZipFile, packed: int) -> None:
    entries = archive.infolist()
    if len(entries) > _ENTRIES:
        raise zipfile.BadZipFile(f"it has more than {_ENTRIES:,} entries")
    inflated = 0
    for entry in entries:
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # Others may ask for gigabytes to be read with.
            raise zipfile.BadZipFile(f"{entry.filename!r} is neither stored nor deflated")
        with archive.open(entry) as member:
            while data := member.read(_PIECE):
                inflated += len(data)
                if inflated > _INFLATED or inflates_too_far(inflated, packed):
                    raise zipfile.BadZipFile(f"it inflates to more than {inflated - len(data):,} bytes")
