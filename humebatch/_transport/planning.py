"""From what a submission names to what is sent: every source is looked at before a byte leaves."""

from __future__ import annotations

import hashlib
import io
import mimetypes
import os
import stat
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Mapping, Sequence
from typing import Any, TypeGuard

import anyio.to_thread
import msgspec

from .._wire.message import BodyPart, FilePart, StreamPart
from .._wire.multipart import FileUpload
from ..errors import ConfigError, SourceError
from ..sources import Bundle, FileLike, FileSource
from .reading import changed, reason, until_done

__all__ = ["KnownFile", "archive_md5", "plan_archive", "plan_known", "plan_uploads"]


class KnownFile(msgspec.Struct, frozen=True):
    """A file whose content was written down: nothing else may be sent in its place. `name` is that on the wire."""

    path: str
    name: str
    size: int
    mtime_ns: int
    md5: str


async def plan_uploads(files: Sequence[FileLike], *, piece: int) -> list[FileUpload]:
    """What is needed to send each file. Raises `SourceError` for the first that cannot be sent.

    Streams that are made here come in pieces of about `piece` bytes. Files that are together not larger than one
    are read here, in the same visit to a thread: for small files another visit to open and read them costs more
    than all the rest. What is sent of them is what they were at that moment.
    """
    return await anyio.to_thread.run_sync(_plan_all, files, piece)


async def plan_known(files: Sequence[KnownFile], *, piece: int) -> list[FileUpload]:
    """As `plan_uploads`, for files with a known content. Raises `SourceError` for one that is not what it was."""
    return await anyio.to_thread.run_sync(_plan_known, files, piece)


def _plan_known(files: Sequence[KnownFile], piece: int) -> list[FileUpload]:
    parts = [(file, _known(file)) for file in files]
    small = sum(file.size for file in files) <= piece
    return [_upload(file.name, None, _read(part) if small else part) for file, part in parts]


def _known(file: KnownFile) -> FilePart:
    part = msgspec.structs.replace(_path(file.path), md5=file.md5)
    if (part.size, part.mtime_ns) != (file.size, file.mtime_ns):
        raise changed(part)
    return part


def archive_md5(members: Mapping[str, KnownFile], *, piece: int) -> str:
    """The md5 of the ZIP that `plan_archive` sends of the same members; blocks while it reads them all, twice.

    Raises `SourceError` for one that is not what it was.
    """
    digest = hashlib.md5(usedforsecurity=False)
    planned = {inside: _known(file) for inside, file in members.items()}
    for data in _archive_pieces("archive", planned, piece):
        digest.update(data)
    # After the archive was read: what is in it is what they are now, whatever their dates say.
    for part in planned.values():
        if _md5(part.path) != part.md5:
            raise changed(part)
    return digest.hexdigest()


def _md5(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    except OSError as error:
        raise SourceError(f"{path}: {reason(error)}", path=path) from error


async def plan_archive(name: str, members: Mapping[str, KnownFile], md5: str, *, piece: int) -> FileUpload:
    """Files as one ZIP with a known content. Raises `SourceError` for one that is not what it was."""

    def planned() -> FileUpload:
        parts = {inside: _known(file) for inside, file in members.items()}
        return _archive(name, parts, piece, md5=md5)

    return await anyio.to_thread.run_sync(planned)


def _plan_all(files: Sequence[FileLike], piece: int) -> list[FileUpload]:
    uploads = [_plan(file, piece) for file in files]
    if sum(one.content.size for one in uploads if _on_disk(one.content)) > piece:
        return uploads
    return [
        msgspec.structs.replace(one, content=_read(one.content)) if _on_disk(one.content) else one for one in uploads
    ]


def _on_disk(part: BodyPart) -> TypeGuard[FilePart]:
    # A file that the caller has open is read from where it stands, which may be no place of any path.
    return isinstance(part, FilePart) and part.descriptor is None


def _read(part: FilePart) -> bytes:
    try:
        with open(part.path, "rb", buffering=0) as file:
            data = file.read(part.size)
            facts = os.fstat(file.fileno())
    except OSError as error:
        raise SourceError(f"{part.path}: {reason(error)}", path=part.path) from error
    if len(data) != part.size or (facts.st_size, facts.st_mtime_ns) != (part.size, part.mtime_ns):
        raise changed(part)
    if part.md5 not in (None, hashlib.md5(data, usedforsecurity=False).hexdigest()):
        raise changed(part)
    return data


def _plan(file: Any, piece: int) -> FileUpload:
    if isinstance(file, Bundle):
        return _plan_bundle(file, piece)
    if not isinstance(file, FileSource):
        if not isinstance(file, (str, os.PathLike)):
            return _upload(os.path.basename(file.name), None, _open_file(file, file.name, piece))
        path = os.fsdecode(file)
        return _upload(os.path.basename(path), None, _path(path))
    content: Any = file.content
    if isinstance(content, AsyncIterable):
        part: BodyPart = StreamPart(name=file.name, size=file.size, chunks=lambda: aiter(content), again=False)
    elif isinstance(content, (bytes, bytearray, memoryview)):
        part = bytes(content)
        if not part:
            raise SourceError(f"{file.name}: there are no bytes in it; there is nothing to measure", path=file.name)
    else:
        part = _open_file(content, file.name, piece)
    return _upload(file.name, file.content_type, part)


def _upload(name: str, content_type: str | None, part: BodyPart) -> FileUpload:
    kind = content_type or mimetypes.guess_type(name)[0] or "application/octet-stream"
    return FileUpload(filename=name, content_type=kind, content=part)


def _path(path: str) -> FilePart:
    try:
        facts = os.stat(path)
        # Before open(): opening a FIFO would block, opening a device could do anything.
        if not stat.S_ISREG(facts.st_mode):
            kind = "a folder" if stat.S_ISDIR(facts.st_mode) else "not a regular file"
            raise SourceError(f"{path}: {kind}; give the path of a file", path=path)
        os.close(os.open(path, os.O_RDONLY))
    except SourceError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise SourceError(f"{path}: {reason(error)}", path=path) from error
    if facts.st_size == 0:
        raise SourceError(f"{path}: the file is empty; there is nothing to measure", path=path)
    return FilePart(path=path, size=facts.st_size, mtime_ns=facts.st_mtime_ns)


def _open_file(file: Any, name: str, piece: int) -> BodyPart:
    """A caller's open file: at its own offsets if it is a regular file, else as a stream that is read once."""
    if getattr(file, "closed", False):
        raise SourceError(f"{name}: the file is closed", path=name)
    inner = _unwrapped(file)
    if isinstance(inner, io.TextIOBase) or isinstance(getattr(inner, "encoding", None), str):
        raise ConfigError(f'files: {name}: open it in binary mode ("rb")', field="files")
    if isinstance(inner, io.BytesIO):
        rest = inner.getvalue()[inner.tell() :]
        if not rest:
            raise SourceError(f"{name}: nothing left to read from where it stands", path=name)
        return rest
    descriptor = _descriptor(inner)
    facts = None if descriptor is None else os.fstat(descriptor)
    if facts is None or not stat.S_ISREG(facts.st_mode):
        return StreamPart(name=name, size=None, chunks=lambda: _read_through(file, name, piece), again=False)
    offset = inner.tell()
    if offset >= facts.st_size:
        raise SourceError(f"{name}: nothing left to read from where the file stands", path=name)
    return FilePart(
        path=name, size=facts.st_size - offset, mtime_ns=facts.st_mtime_ns, offset=offset, descriptor=descriptor
    )


def _unwrapped(file: Any) -> Any:
    """The file inside what `tempfile` makes."""
    if isinstance(file, tempfile._TemporaryFileWrapper):
        return file.file
    if isinstance(file, tempfile.SpooledTemporaryFile):
        return file._file
    return file


def _descriptor(file: Any) -> int | None:
    """The descriptor to read `file` at, None if what `read` gives may be something else than what is behind it."""
    # A file that decompresses, decrypts or counts has the descriptor of the file that it reads from as well.
    raw = file.raw if isinstance(file, (io.BufferedReader, io.BufferedRandom)) else file
    return raw.fileno() if isinstance(raw, io.FileIO) else None


async def _read_through(file: Any, name: str, piece: int) -> AsyncGenerator[bytes]:
    while True:
        try:
            data = await anyio.to_thread.run_sync(file.read, piece)
        except Exception as error:  # decompressors and the like raise what they want
            raise SourceError(f"{name}: {reason(error)} while it was being sent", path=name) from error
        if not data:
            return
        yield data
        del data  # not held while the next is read


def _plan_bundle(bundle: Bundle, piece: int) -> FileUpload:
    planned = {inside: _path(path) for inside, path in bundle.members().items()}
    return _archive(bundle.name, planned, piece)


def _archive(name: str, planned: Mapping[str, FilePart], piece: int, *, md5: str | None = None) -> FileUpload:
    size = len(_built(planned))
    part = StreamPart(
        name=name, size=size, chunks=lambda: _in_thread(_archive_pieces(name, planned, piece)), again=True, md5=md5
    )
    return _upload(name, "application/zip", part)


def _built(planned: Mapping[str, FilePart]) -> Any:
    try:
        from zipstream import ZipStream  # type: ignore[import-untyped]  # ships no types
    except ImportError:
        raise ConfigError("files: a Bundle needs the extra: pip install 'humebatch[bundle]'", field="files") from None
    archive = ZipStream(sized=True)
    for inside, part in planned.items():
        try:
            archive.add_path(part.path, inside)
        except (OSError, ValueError, OverflowError) as error:  # the latter two: a date that no calendar has
            raise SourceError(f"{part.path}: {reason(error)}; nothing was submitted", path=part.path) from error
    return archive


def _archive_pieces(name: str, planned: Mapping[str, FilePart], piece: int) -> Generator[bytes]:
    """The archive piece by piece; blocks while it reads."""
    waiting: list[bytes] = []
    size = 0
    try:
        for data in _built(planned):
            waiting.append(data)
            size += len(data)
            # Half a piece, for while they are put together they are held twice.
            if size >= piece // 2:
                yield _taken(waiting)
                size = 0
    except SourceError:
        raise
    except (OSError, RuntimeError, ValueError, OverflowError) as error:  # RuntimeError: not as long as it was
        where = getattr(error, "filename", None) or name
        raise SourceError(f"{where}: {reason(error)}; nothing was submitted", path=where) from error
    # Looked at before the caller lets the end of the request go: a job must not be made of changed files.
    _check_unchanged(planned)
    yield _taken(waiting)


def _taken(waiting: list[bytes]) -> bytes:
    data = b"".join(waiting)
    waiting.clear()
    return data


def _check_unchanged(planned: Mapping[str, FilePart]) -> None:
    for part in planned.values():
        try:
            facts = os.stat(part.path)
        except OSError as error:
            raise SourceError(f"{part.path}: {reason(error)}; nothing was submitted", path=part.path) from error
        if (facts.st_size, facts.st_mtime_ns) != (part.size, part.mtime_ns):
            raise changed(part)


async def _in_thread(pieces: Generator[bytes]) -> AsyncGenerator[bytes]:
    """Pieces that block while they are made, each made in a thread."""

    def another() -> bytes:
        return next(pieces, b"")

    try:
        while data := await until_done(another):
            yield data
            del data  # not held while the next is made
    finally:
        pieces.close()  # and with it the file that it reads
