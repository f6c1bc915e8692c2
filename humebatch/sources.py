"""What a submission sends besides plain paths: bytes, open files and streams with a name, and bundles.

A path is the best source: it can be sent again after a failure and is checked for changes. An asynchronous stream
can be sent only once, and without a `size` it goes in chunks, because its length is not known in advance.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import AsyncIterable, Sequence
from pathlib import PurePath
from typing import IO, Any

import msgspec

from .errors import ConfigError

__all__ = ["Bundle", "FileLike", "FileSource"]

# What stands in a `str` for the bytes of a file name that are not UTF-8.
_NO_CHARACTER = re.compile("[\ud800-\udfff]")


class FileSource(msgspec.Struct, frozen=True, kw_only=True):
    """Content with a name: `bytes`, a binary file that is open for reading, or an asynchronous iterable of bytes.

    `name`: the file name on the wire; results carry it. `content_type`: guessed from the name unless given.
    `size`: bytes of an asynchronous iterable, if they are known; it must then yield exactly so many.
    An open file is sent from where it stands and is left open. Regular files are read at their own
    offsets and can be sent again. Everything else that can be read (pipes, sockets, what decompresses
    or decrypts on the way) is a stream: its `read(n)` is called in a thread, and it is sent once.

    Raises `ConfigError` when the content is none of these, or the name is empty.
    """

    content: bytes | IO[bytes] | AsyncIterable[bytes]
    name: str
    size: int | None = None
    content_type: str | None = None

    def __post_init__(self) -> None:
        content: Any = self.content
        if not self.name or not isinstance(self.name, str):
            raise ConfigError("files: a FileSource needs a name", field="files")
        stream = isinstance(content, AsyncIterable)
        if not stream and not isinstance(content, (bytes, bytearray, memoryview)) and not hasattr(content, "read"):
            raise ConfigError(
                f"files: {self.name}: content must be bytes, a file open in binary mode or an async iterable of bytes, "
                f"not {type(content).__name__}",
                field="files",
            )
        if self.size is not None and (not stream or self.size < 1):
            raise ConfigError(
                f"files: {self.name}: size is for async iterables, and at least 1; other content knows its own",
                field="files",
            )


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """Many files as one ZIP that is streamed while it is built (extra `bundle`): stored, not deflated.

    `files`: paths; a bundle may hold more than 100. `name`: of the archive on the wire. `root`: the folder that
    names inside are relative to; without one they are base names, numbered where two are the same.
    What is not UTF-8 in a name becomes U+FFFD. The archive's length is known before its first byte, and it
    can be sent again.

    Raises `ConfigError` for an empty bundle, and for a file that is not below `root` as both are written.
    """

    files: Sequence[str | os.PathLike[str]]
    name: str = "bundle.zip"
    root: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if not self.files or isinstance(self.files, (str, bytes)):
            raise ConfigError("files: a Bundle needs a list with at least one path", field="files")
        if not self.name.lower().endswith(".zip"):
            raise ConfigError(f"files: a Bundle's name ends in .zip, not {self.name!r}", field="files")
        if self.root is not None:
            self.members()

    def members(self) -> dict[str, str]:
        """Name inside the archive to the caller's own path, in the order of `files`."""
        found: dict[str, str] = {}
        last: dict[str, int] = {}
        for path in map(os.fsdecode, self.files):
            inside = _NO_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", self._inside(path))
            stem, ending = posixpath.splitext(inside)
            unique, number = inside, last.get(inside, 1)
            while unique in found:
                number += 1
                unique = f"{stem}~{number}{ending}"
            last[inside] = number
            found[unique] = path
        return found

    def _inside(self, path: str) -> str:
        if self.root is None:
            return os.path.basename(path)
        try:
            inside = PurePath(path).relative_to(self.root)
        except ValueError:
            inside = None
        # A ".." may lead anywhere, and where to is for the file system to say.
        if inside is None or not inside.parts or ".." in inside.parts:
            raise ConfigError(f"files: {path} is not below {os.fspath(self.root)} as both are written", field="files")
        return inside.as_posix()


FileLike = str | os.PathLike[str] | IO[bytes] | FileSource | Bundle
"""What may stand in `Submission.files`; an open file must have been opened by name."""
