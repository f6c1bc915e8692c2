"""What a client has sent and what became of it, as totals that anybody may follow.

Subscribers get snapshots, not single events: a slow one misses steps but never a total, and costs the sender
nothing. Finished jobs are counted and forgotten, so memory follows what is open.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import anyio
import msgspec

from .._wire.message import BodyPart, FilePart, StreamPart
from ..jobs import JobDetails, Status

__all__ = ["Board", "Progress"]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Totals since the client was opened.

    `bytes_sent`: handed to the network, framing included; goes back when a failed try starts over.
    `bytes_planned`, `files_planned`: of all submissions begun so far; streams of unknown length count no bytes.
    `files_sent`: in submissions that were accepted. `jobs`: how many stand where, by the last that was heard of
    them: `SENDING`, the statuses of the service, and `REFUSED` for submissions that made no job.
    """

    bytes_sent: int
    bytes_planned: int
    files_sent: int
    files_planned: int
    jobs: dict[str, int]


class Board:
    """Where a client's flows write what happens, and subscribers read it."""

    def __init__(self) -> None:
        self._bytes_sent = self._bytes_planned = self._files_sent = self._files_planned = 0
        self._jobs: Counter[str] = Counter()
        self._open: dict[str, str] = {}
        self._changed: anyio.Event | None = None

    def snapshot(self) -> Progress:
        """The totals as they are."""
        return Progress(
            bytes_sent=self._bytes_sent,
            bytes_planned=self._bytes_planned,
            files_sent=self._files_sent,
            files_planned=self._files_planned,
            jobs={status: count for status, count in self._jobs.items() if count},
        )

    def begun(self, parts: list[BodyPart]) -> None:
        """A submission of these files is about to be sent."""
        self._files_planned += len(parts)
        self._bytes_planned += sum(_size(part) for part in parts)
        self._jobs["SENDING"] += 1
        self._tell()

    def sent(self, count: int) -> None:
        """Bytes went out, or are taken back."""
        self._bytes_sent += count
        self._tell()

    def accepted(self, job_id: str, files: int) -> None:
        """The submission is a job."""
        self._jobs["SENDING"] -= 1
        self._files_sent += files
        self.heard(job_id, Status.QUEUED)

    def refused(self) -> None:
        """The submission failed."""
        self._jobs["SENDING"] -= 1
        self._jobs["REFUSED"] += 1
        self._tell()

    def looked(self, details: JobDetails) -> None:
        """The server said where a job stands; jobs of others, and of other runs, are not counted."""
        if details.job_id in self._open:
            self.heard(details.job_id, details.state.status)

    def heard(self, job_id: str, status: str) -> None:
        """A job of ours stands there now."""
        before = self._open.pop(job_id, None)
        if before is not None:
            self._jobs[before] -= 1
        self._jobs[str(status)] += 1
        if status not in (Status.COMPLETED, Status.FAILED):
            self._open[job_id] = str(status)
        self._tell()

    def _tell(self) -> None:
        # Told of every piece that is sent, so without a reader it costs nothing.
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    @contextlib.asynccontextmanager
    async def follow(self) -> AsyncIterator[AsyncIterator[Progress]]:
        """Snapshots, the first at once and then one after each change, or after several."""

        async def snapshots() -> AsyncIterator[Progress]:
            while True:
                changed = self._changed = self._changed or anyio.Event()
                yield self.snapshot()
                await changed.wait()

        stream: Any = snapshots()
        async with contextlib.aclosing(stream):
            yield stream


def _size(part: BodyPart) -> int:
    if isinstance(part, (FilePart, StreamPart)):
        return part.size or 0
    return len(part)
