"""The results of a job on their way to disk: what was measured goes there fragment by fragment, never held together.

The file is exactly the API's array of source results. Methods block.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from .._wire.codec import encode
from ..predictions import MeasuredBy, ResultError, Results, Source, SourceResult
from .measure import Media

__all__ = ["Draft"]

_PIECE = 1024 * 1024


class Draft:
    """The results file while it grows.

    Per source either `failed`, or `begin`, then `add` per file, then `end` with the errors, which follow the
    predictions. `finish` makes it whole and durable. `rows` and `failures` count what it holds; `sources` and `files`
    are the numbers that the next source, and the next file of this source, will have.
    """

    def __init__(self, path: Path) -> None:
        self.rows = self.failures = 0
        self.sources = self.files = 0
        # Shut to other users from the start: it says what people look and sound like.
        self._out: IO[bytes] = open(  # noqa: SIM115 - closed by `close`
            path, "wb", buffering=_PIECE, opener=lambda name, flags: os.open(name, flags, 0o600)
        )
        self._measured_by: dict[str, MeasuredBy] = {}

    def failed(self, source: Source, error: str) -> None:
        """A source of which nothing can be measured.

        Its results are there and empty: readers of the service's answers index them without looking.
        """
        self.failures += 1
        empty = Results(predictions=[], errors=[])
        self._next_source(encode(SourceResult(source=source, results=empty, error=error)))

    def begin(self, source: Source) -> None:
        """A source that `add` and `end` are about."""
        self.files = 0
        self._measured_by = {}
        self._next_source(b'{"source":' + encode(source) + b',"results":{"predictions":[')

    def add(self, media: Media, found: Mapping[str, Path], rows: int, by: Mapping[str, MeasuredBy]) -> None:
        """One file: for each model the file that holds its predictions as JSON, `rows` of them in all."""
        self._out.write((b"," if self.files else b"") + b'{"file":' + encode(media.name) + b',"models":{')
        for number, (model, fragment) in enumerate(found.items()):
            self._out.write((b"," if number else b"") + encode(model) + b":")
            with fragment.open("rb") as file:
                shutil.copyfileobj(file, self._out, _PIECE)
        file_type = None if media.file_type in ("landmarks", "unknown") else media.file_type
        self._out.write(b'},"file_type":' + encode(file_type) + b"}")
        self.files += 1
        self.rows += rows
        self._measured_by |= by

    def end(self, errors: list[ResultError]) -> None:
        """The end of the source that `begin` began."""
        self.failures += len(errors)
        self._out.write(b'],"errors":' + encode(errors) + b'},"error":null')
        if self._measured_by:
            self._out.write(b',"measured_by":' + encode(self._measured_by))
        self._out.write(b"}")

    def finish(self) -> None:
        """Nothing more comes: the file is whole and on disk."""
        self._out.write(b"]" if self.sources else b"[]")
        self._out.flush()
        os.fsync(self._out.fileno())

    def close(self) -> None:
        """Close the file, whole or not."""
        self._out.close()

    def _next_source(self, beginning: bytes) -> None:
        self._out.write((b"," if self.sources else b"[") + beginning)
        self.sources += 1
