"""What a client has sent and what became of it, as totals that anybody may follow.

Subscribers get snapshots, not single events: a slow one misses steps but never a total, and costs the sender
nothing. Finished jobs are counted and forgotten, so memory follows what is open.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable

import anyio
import msgspec

from .._wire.message import BodyPlan, WireRequest
from ..errors import HumebatchError, SubmissionUnknown
from ..jobs import Status

__all__ = ["Board", "Progress", "Updates", "may_be_a_job"]


# Open jobs whose ids are kept, at about 180 bytes each.
_FOLLOWED = 100_000


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Totals since the client was opened.

    `bytes_sent`: handed to the network, framing included; goes back when a failed try starts over, and stays
    when there is no other try, for these bytes were sent. `bytes_planned`, `files_planned`: of all submissions
    whose sources were found in order, whatever became of them; framing counts, streams of unknown length do not,
    and without those `bytes_sent` never exceeds `bytes_planned`. `files_sent`: in submissions that were accepted.
    `jobs`: how many stand where, by the last that was heard of them: `SENDING` (from the look at the sources on),
    the statuses of the service, `REFUSED` for submissions that made no job, and `UNKNOWN` for those that may have
    made one: sent to the last byte, but no answer came or could be read, or nobody waited for it.
    What is heard of a job comes from `watch`, `Job.wait` and `details`: a job that nobody asks for stays where it was.
    Beyond 100,000 open jobs the one unheard of for longest is let go, and counts as `UNWATCHED` from then on.
    """

    bytes_sent: int
    bytes_planned: int
    files_sent: int
    files_planned: int
    jobs: dict[str, int]


class Updates:
    """Snapshots as `async for` takes them: the first at once, then one after each change, or after several.

    They end when the block of `BatchClient.progress` is left. Two readers of one `Updates` share them.
    """

    def __init__(self, snapshot: Callable[[], Progress]) -> None:
        self._snapshot = snapshot
        self._new = True
        self._over = False
        self._changed = anyio.Event()

    def __aiter__(self) -> AsyncIterator[Progress]:
        return self

    async def __anext__(self) -> Progress:
        while not self._new and not self._over:
            await self._changed.wait()
        if self._over:
            raise StopAsyncIteration
        self._new = False
        return self._snapshot()

    def tell(self) -> None:
        """There is something new."""
        self._new = True
        self._changed.set()
        self._changed = anyio.Event()

    def end(self) -> None:
        """There will be nothing new."""
        self._over = True
        self._changed.set()


class Board:
    """Where a client's flows write what happens, and subscribers read it."""

    def __init__(self) -> None:
        self._bytes_sent = self._bytes_planned = self._files_sent = self._files_planned = 0
        self._jobs: Counter[str] = Counter()
        self._open: dict[str, str] = {}
        self._followers: list[Updates] = []

    def snapshot(self) -> Progress:
        """The totals as they are."""
        return Progress(
            bytes_sent=self._bytes_sent,
            bytes_planned=self._bytes_planned,
            files_sent=self._files_sent,
            files_planned=self._files_planned,
            jobs={status: count for status, count in self._jobs.items() if count},
        )

    def begun(self) -> None:
        """A submission is about to be planned and sent; one of `accepted` and `failed` ends it."""
        self._jobs["SENDING"] += 1
        self._tell()

    def planned(self, request: WireRequest) -> None:
        """This is what will be sent."""
        self._files_planned += len(request.filenames)
        self._bytes_planned += (request.body and request.body.length) or 0
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

    def failed(self, *, unknown: bool) -> None:
        """The submission ended without a job id. `unknown`: it may have made a job all the same."""
        self._jobs["SENDING"] -= 1
        self._jobs["UNKNOWN" if unknown else "REFUSED"] += 1
        self._tell()

    def looked(self, job_id: str, status: str) -> None:
        """The server said where a job stands; jobs of others, and of other runs, are not counted."""
        if job_id in self._open:
            self.heard(job_id, status)

    def heard(self, job_id: str, status: str) -> None:
        """A job of ours stands there now."""
        before = self._open.pop(job_id, None)
        if before is not None:
            self._jobs[before] -= 1
        self._jobs[str(status)] += 1
        if status not in (Status.COMPLETED, Status.FAILED):
            self._open[job_id] = str(status)
            if len(self._open) > _FOLLOWED:
                self._jobs[self._open.pop(next(iter(self._open)))] -= 1
                self._jobs["UNWATCHED"] += 1
        self._tell()

    def _tell(self) -> None:
        # Called for every piece that is sent, so without a reader it costs nothing.
        for follower in self._followers:
            follower.tell()

    @contextlib.asynccontextmanager
    async def follow(self) -> AsyncIterator[Updates]:
        """Take part in what is told, for as long as the block runs."""
        updates = Updates(self.snapshot)
        self._followers.append(updates)
        try:
            yield updates
        finally:
            self._followers.remove(updates)
            updates.end()


def may_be_a_job(error: BaseException, body: BodyPlan | None, sent: int) -> bool:
    """Whether a submission that ended by `error` may exist: `sent` bytes of its request, if there was one, went out."""
    if isinstance(error, HumebatchError):
        return isinstance(error, SubmissionUnknown)
    # Cancelled, or the caller's own exception. Where the length is not known, the end may have gone out.
    return body is not None and sent > 0 and (body.length is None or sent >= body.length)
