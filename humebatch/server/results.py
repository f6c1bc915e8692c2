"""The results of a job on their way to disk: what was measured goes there fragment by fragment, never held together.

The file is exactly the API's array of source results. Methods block.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import IO

from .._wire.codec import encode
from ..predictions import ResultError, Source, SourceResult
from .measure import Fragment, Media

__all__ = ["Draft"]

_PIECE = 1024 * 1024


class Draft:
    """The results file while it grows.

    Per source either `failed`, or `begin`, then `add` per file and model, then `end` with the errors, which follow
    the predictions. `finish` makes it whole and durable. `rows` and `failures` count what it holds.
    """

    def __init__(self, path: Path) -> None:
        self.rows = self.failures = 0
        # Shut to other users from the start: it says what people look and sound like.
        self._out: IO[bytes] = open(  # noqa: SIM115 - closed by `close`
            path, "wb", buffering=_PIECE, opener=lambda name, flags: os.open(name, flags, 0o600)
        )
        self._sources = self._files = 0
        self._media: Media | None = None

    def failed(self, source: Source, error: str) -> None:
        """A source of which nothing can be measured."""
        self.failures += 1
        self._next_source(encode(SourceResult(source=source, error=error)))

    def begin(self, source: Source) -> None:
        """A source that `add` and `end` are about."""
        self._files = 0
        self._next_source(b'{"source":' + encode(source) + b',"results":{"predictions":[')

    def add(self, media: Media, model: str, fragment: Fragment, spill: Path) -> None:
        """What `model` found in `media`. Calls for one file follow each other; a large fragment is taken from `spill`.

        `spill` is removed.
        """
        if self._media is media:
            self._out.write(b",")
        else:
            self._end_file()
            self._out.write((b"," if self._files else b"") + b'{"file":' + encode(media.name) + b',"models":{')
            self._files += 1
            self._media = media
        self._out.write(encode(model) + b":")
        if fragment.json is not None:
            self._out.write(fragment.json)
        else:
            with spill.open("rb") as file:
                shutil.copyfileobj(file, self._out, _PIECE)
            spill.unlink()
        self.rows += fragment.rows

    def end(self, errors: list[ResultError]) -> None:
        """The end of the source that `begin` began."""
        self._end_file()
        self.failures += len(errors)
        self._out.write(b'],"errors":' + encode(errors) + b'},"error":null}')

    def finish(self) -> None:
        """Nothing more comes: the file is whole and on disk."""
        self._out.write(b"]" if self._sources else b"[]")
        self._out.flush()
        os.fsync(self._out.fileno())

    def close(self) -> None:
        """Close the file, whole or not."""
        self._out.close()

    def _next_source(self, beginning: bytes) -> None:
        self._out.write((b"," if self._sources else b"[") + beginning)
        self._sources += 1

    def _end_file(self) -> None:
        if self._media is None:
            return
        kind = self._media.file_type
        file_type = None if kind in ("landmarks", "unknown") else kind
        self._out.write(b'},"file_type":' + encode(file_type) + b"}")
        self._media = None
