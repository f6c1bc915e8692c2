"""From an uploaded source to the files to measure: what kind a file is, and what is inside an archive.

Archives are never unpacked by their own names: each member is copied out under a number, counted
against limits while it is decompressed, and removed as soon as it is measured.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import hashlib
import lzma
import mimetypes
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import msgspec

from .measure import FileType, Media, Unmeasurable

__all__ = ["ArchiveLimits", "file_type", "is_archive", "members", "single"]

_HEAD = 4096
_COPY = 1024 * 1024
# A tar of small files is mostly headers and padding, and compresses well: this much is no bomb.
_FRAMING = 16 * 1024 * 1024

# Each is more than a text may begin with: "BMW" and "ID3 tags" are no pictures and no music.
_MAGIC: tuple[tuple[bytes, FileType], ...] = (
    (rb"\x89PNG\r\n\x1a\n", "image"),
    (rb"\xff\xd8\xff", "image"),
    (rb"GIF8[79]a", "image"),
    (rb"BM.{4}\0{4}", "image"),
    (rb"II\*\0", "image"),
    (rb"MM\0\*", "image"),
    (rb"RIFF.{4}WEBP", "image"),
    (rb"RIFF.{4}WAVE", "audio"),
    (rb"RIFF.{4}AVI ", "video"),
    (rb"ID3[\x02-\x04]", "audio"),
    (rb"fLaC", "audio"),
    (rb"OggS\0", "audio"),
    (rb"\x1aE\xdf\xa3", "video"),
    (rb"\0.{3}ftypM4A", "audio"),
    (rb"\0.{3}ftyp(?:avi[fs]|hei[cmsx]|hevc|mif1|msf1)", "image"),
    (rb"\0.{3}ftyp", "video"),
)
# What the three libraries raise for damaged data; RuntimeError is how zipfile says that it is encrypted,
# NotImplementedError that the compression is unknown.
_UNREADABLE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,
    NotImplementedError,
    ValueError,
)
_ARCHIVES = (".zip", ".tar.gz", ".tar.bz2", ".tar.xz", ".tgz")


class ArchiveLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one archive may hold. `ratio`: decompressed bytes per compressed byte, a sign of a bomb.

    `memory`: bytes that the process that unpacks it may take.
    """

    members: int = 10_000
    total_bytes: int = 20 * 2**30
    ratio: int = 200
    memory: int = 2 * 2**30


def file_type(path: Path, name: str) -> FileType:
    """What a file is by its first bytes, else by the ending of `name`, else text if it reads as UTF-8 text."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    for magic, kind in _MAGIC:
        if re.match(magic, head, re.DOTALL):
            return kind
    guess = (mimetypes.guess_type(name)[0] or "").partition("/")[0]
    if name.lower().endswith(".json") and head.lstrip()[:1] in (b"[", b"{"):
        return "landmarks"
    if guess == "text" or name.lower().endswith((".txt", ".md")):
        return "text"
    if guess == "image":
        return "image"
    if guess == "audio":
        return "audio"
    if guess == "video":
        return "video"
    return "text" if _reads_as_text(head) else "unknown"


def _reads_as_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        # The end of a full sample may have cut its last character.
        codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) < _HEAD)
    except UnicodeDecodeError:
        return False
    return True


def is_archive(path: Path, name: str) -> bool:
    """Whether a source is to be opened: an archive by the ending of its name, or a ZIP by content."""
    if name.lower().endswith(_ARCHIVES):
        return True
    if mimetypes.guess_type(name)[0] is not None:
        return False  # .docx, .jar and the like are ZIPs too, but not archives of media
    return zipfile.is_zipfile(path)


def single(path: Path, name: str, md5sum: str) -> Media:
    """A source that is one file."""
    return Media(path=str(path), name=name, file_type=file_type(path, name), md5sum=md5sum)


def members(path: Path, name: str, scratch: Path, limits: ArchiveLimits) -> Iterator[Media]:
    """The files of an archive, one at a time; each lies in `scratch` until the next one is asked for.

    Folders, links and devices are passed over, and so is what operating systems leave in archives
    (`__MACOSX/`, `.DS_Store`). Raises `Unmeasurable` when it is damaged, encrypted, empty, or past `limits`.
    """
    try:
        room = min(limits.total_bytes, max(path.stat().st_size, 1) * limits.ratio)
        opened = _zip(path) if zipfile.is_zipfile(path) else _tar(path, name, room + _FRAMING)
        count = 0
        for raw_name, stream in opened:
            inner = _relative(raw_name)
            if _litter(inner):
                continue
            count += 1
            if count > limits.members:
                raise Unmeasurable(f"{name}: more than {limits.members} files in one archive")
            target = scratch / str(count)
            try:
                digest, size = _copy(stream, target, room, name)
                room -= size
                yield Media(path=str(target), name=inner, file_type=file_type(target, inner), md5sum=digest)
            finally:
                target.unlink(missing_ok=True)
        if not count:
            raise Unmeasurable(f"{name}: the archive holds no files")
    except _UNREADABLE as error:
        raise Unmeasurable(f"{name}: the archive cannot be read: {error}") from error


def _zip(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            mode = info.external_attr >> 16
            if info.is_dir() or (mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode)):
                continue
            with archive.open(info) as stream:
                yield info.filename, stream


def _tar(path: Path, name: str, room: int) -> Iterator[tuple[str, IO[bytes]]]:
    # As a stream: what is passed over (folders, litter, headers of any size) is decompressed too, and counted.
    with (
        _decompressed(path) as stream,
        tarfile.open(fileobj=cast("IO[bytes]", _Metered(stream, room, name)), mode="r|") as archive,
    ):
        for info in archive:
            if not info.isreg():
                continue
            member = archive.extractfile(info)
            if member is not None:
                with member:
                    yield info.name, member


def _decompressed(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        head = file.read(6)
    if head.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.open(path))
    if head.startswith(b"BZh"):
        return cast("IO[bytes]", bz2.open(path))
    if head.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
        return cast("IO[bytes]", lzma.open(path))
    return path.open("rb")


class _Metered:
    """A stream that gives `room` bytes and no more."""

    def __init__(self, stream: IO[bytes], room: int, name: str) -> None:
        self._stream = stream
        self._room = room
        self._name = name

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._room -= len(data)
        if self._room < 0:
            raise _too_much(self._name)
        return data


def _too_much(name: str) -> Unmeasurable:
    return Unmeasurable(f"{name}: the archive holds more data than a server should unpack")


def _relative(name: str) -> str:
    # Whoever saves results by these names must not be led out of a folder; and tar names that are not
    # UTF-8 come as surrogates, which JSON cannot hold.
    steps = [step for step in name.split("/") if step not in ("", ".", "..")]
    return "/".join(steps).encode("utf-8", "surrogateescape").decode("utf-8", "replace") or "_"


def _litter(name: str) -> bool:
    last = name.rsplit("/", 1)[-1]
    return name.startswith("__MACOSX/") or last in (".DS_Store", "Thumbs.db") or last.startswith("._")


def _copy(stream: IO[bytes], target: Path, room: int, name: str) -> tuple[str, int]:
    digest = hashlib.md5(usedforsecurity=False)
    size = 0
    with target.open("wb") as out:
        while data := stream.read(_COPY):
            size += len(data)
            if size > room:
                raise _too_much(name)
            digest.update(data)
            out.write(data)
    return digest.hexdigest(), size
