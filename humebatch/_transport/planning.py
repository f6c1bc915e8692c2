"""From what a submission names to what is sent: every source is looked at before a byte leaves."""

from __future__ import annotations

import io
import mimetypes
import os
import stat
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from typing import Any, TypeGuard

import anyio.to_thread
from msgspec import structs

from .._wire.message import BodyPart, FilePart, StreamPart
from .._wire.multipart import FileUpload
from ..errors import ConfigError, SourceError
from ..sources import Bundle, FileLike, FileSource
from .reading import changed, reason

__all__ = ["plan_uploads"]

_CHUNK = 256 * 1024


async def plan_uploads(files: Sequence[FileLike], *, held: int) -> list[FileUpload]:
    """What is needed to send each file. Raises `SourceError` for the first that cannot be sent.

    Files that are together not larger than `held` bytes are read here, in the same visit to a thread: for small
    files another visit to open and read them costs more than all the rest.
    """
    return await anyio.to_thread.run_sync(_plan_all, files, held)


def _plan_all(files: Sequence[FileLike], held: int) -> list[FileUpload]:
    uploads = [_plan(file) for file in files]
    if sum(one.content.size for one in uploads if _on_disk(one.content)) > held:
        return uploads
    return [structs.replace(one, content=_read(one.content)) if _on_disk(one.content) else one for one in uploads]


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
    return data


def _plan(file: Any) -> FileUpload:
    if isinstance(file, Bundle):
        return _plan_bundle(file)
    if not isinstance(file, FileSource):
        if not isinstance(file, (str, os.PathLike)):
            return _upload(os.path.basename(file.name), None, _open_file(file, file.name))
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
        part = _open_file(content, file.name)
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


def _open_file(file: Any, name: str) -> BodyPart:
    """A caller's open file: at its own offsets if it is a regular file, else as a stream that is read once."""
    if getattr(file, "closed", False):
        raise SourceError(f"{name}: the file is closed", path=name)
    if "b" not in getattr(file, "mode", "b") or isinstance(getattr(file, "encoding", None), str):
        raise ConfigError(f'files: {name}: open it in binary mode ("rb")', field="files")
    if isinstance(file, io.BytesIO):
        rest = file.getvalue()[file.tell() :]
        if not rest:
            raise SourceError(f"{name}: nothing left to read from where it stands", path=name)
        return rest
    try:
        descriptor = file.fileno()
        facts = os.fstat(descriptor)
    except (AttributeError, OSError):
        descriptor, facts = None, None
    if descriptor is None or facts is None or not stat.S_ISREG(facts.st_mode):
        return StreamPart(name=name, size=None, chunks=lambda: _read_through(file, name), again=False)
    offset = file.tell()
    if offset >= facts.st_size:
        raise SourceError(f"{name}: nothing left to read from where the file stands", path=name)
    return FilePart(
        path=name, size=facts.st_size - offset, mtime_ns=facts.st_mtime_ns, offset=offset, descriptor=descriptor
    )


async def _read_through(file: Any, name: str) -> AsyncIterator[bytes]:
    while True:
        try:
            data = await anyio.to_thread.run_sync(file.read, _CHUNK)
        except (OSError, ValueError) as error:
            raise SourceError(f"{name}: {reason(error)} while it was being sent", path=name) from error
        if not data:
            return
        yield data


def _plan_bundle(bundle: Bundle) -> FileUpload:
    try:
        from zipstream import ZipStream  # type: ignore[import-untyped]  # ships no types
    except ImportError:
        raise ConfigError("files: a Bundle needs the extra: pip install 'humebatch[bundle]'", field="files") from None
    members = bundle.members()
    planned = {inside: _path(path) for inside, path in members.items()}

    def built() -> Any:
        archive = ZipStream(sized=True)
        for inside, path in members.items():
            archive.add_path(path, inside)
        return archive

    async def chunks() -> AsyncIterator[bytes]:
        pieces = await anyio.to_thread.run_sync(lambda: iter(built()))
        # Its own reads block, so the pieces are made in a thread, several for one hop.
        while data := await anyio.to_thread.run_sync(_gather, pieces, bundle.name):
            yield data
        # Looked at before the caller lets the end of the request go: a job must not be made of changed files.
        await anyio.to_thread.run_sync(_unchanged, planned)

    part = StreamPart(name=bundle.name, size=len(built()), chunks=chunks, again=True)
    return _upload(bundle.name, "application/zip", part)


def _gather(pieces: Iterator[bytes], name: str) -> bytes:
    data = bytearray()
    try:
        for piece in pieces:
            data += piece
            if len(data) >= _CHUNK:
                break
    except (OSError, RuntimeError) as error:  # RuntimeError: a file is not as long as it was
        raise SourceError(f"{name}: {reason(error)}; nothing was submitted", path=name) from error
    return bytes(data)


def _unchanged(planned: dict[str, FilePart]) -> None:
    for part in planned.values():
        facts = os.stat(part.path)
        if (facts.st_size, facts.st_mtime_ns) != (part.size, part.mtime_ns):
            raise changed(part)
