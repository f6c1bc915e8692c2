"""What all parts of a running ingest share: the journal, what has happened, and what ends the run."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import msgspec

from ..._wire.message import WireReply
from ..._wire.pacing import clock_offset
from ...config import IngestPolicy
from ...ingestion import Ingested
from ..outcome import Outcome
from .grouping import Grouping
from .inputs import Ended, outcome
from .journal import Journal
from .outage import Outage

if TYPE_CHECKING:
    from ..batch import BatchClient

__all__ = ["Flow", "Options"]

# Outcomes that wait to be taken before whoever makes more of them waits.
_UNREAD = 1000


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller asked for. `journal`, `out`, and `here`, the working folder, are absolute.

    `tag_names`: None where the server's manners decide.
    """

    journal: Path
    out: bytes
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    files_per_job: int
    retry_failed: bool
    rebind: bool
    here: bytes
    artifacts: bool
    tag_names: bool | None
    policy: IngestPolicy


class Flow:
    """One run. `keyed`: the server honours idempotency keys. `over`: nothing more is to be begun.

    `config`: the id in the journal of what is asked for; `request`: the JSON of it.
    """

    def __init__(
        self,
        client: BatchClient,
        journal: Journal,
        options: Options,
        *,
        config: int,
        request: str,
    ) -> None:
        self.client = client
        self.journal = journal
        self.options = options
        self.policy = options.policy
        self.before = msgspec.structs.replace(client.stats)
        self.keyed = False
        self.config = config
        self.request = request
        self.scanned = False
        self.over = False
        self.stopped = False
        self.failure: Exception | None = None
        self.open: set[str] = set()
        self.loops = anyio.CancelScope()
        self.auditing = anyio.CancelScope()
        self.flights: anyio.abc.TaskGroup
        # Without bounds, so that what has ended is told although whoever tells it is stopped; `tell` keeps them small.
        self.outcomes, self.received = anyio.create_memory_object_stream[Outcome[str, Ingested]](math.inf)
        self._accepted, self.jobs = anyio.create_memory_object_stream[str](math.inf)
        self._taken = anyio.Event()
        self._offset = 0.0
        self._event = anyio.Event()
        # A server may list and not accept, or the other way round.
        self.sending = Outage(self.now, self.fail, patience=self.policy.max_outage)
        self.asking = Outage(self.now, self.fail, patience=self.policy.max_outage)

    def heard(self, reply: WireReply) -> None:
        """Set our idea of the server's clock by an answer."""
        self._offset = clock_offset(reply.headers, received=reply.received)

    def server_ms(self) -> int:
        """Unix milliseconds on the server's clock, as far as its `Date` tells."""
        return int((time.time() + self._offset) * 1000)

    def now(self) -> float:
        """Seconds on the client's clock, for waits."""
        return self.client._open.clock.now()

    @property
    def open_jobs(self) -> int:
        """How many accepted jobs have not ended."""
        return len(self.open)

    @property
    def grouping(self) -> Grouping:
        """How this run puts inputs together."""
        tagged = self.options.tag_names
        return Grouping(
            config=self.config,
            files=self.options.files_per_job,
            bytes=self.policy.group_bytes,
            tagged=not self.keyed if tagged is None else tagged,
        )

    @property
    def event(self) -> anyio.Event:
        """Set at the next change. To be taken before looking for something to do."""
        return self._event

    def wake(self) -> None:
        """Something has changed: whoever rests looks again."""
        self._event.set()
        self._event = anyio.Event()

    async def rest(self, event: anyio.Event, seconds: float | None = None) -> None:
        """Until the next change since `event` was taken, or so many seconds."""
        if seconds is None:
            await event.wait()
            return
        async with anyio.create_task_group() as group:

            async def changed() -> None:
                await event.wait()
                group.cancel_scope.cancel()

            group.start_soon(changed)
            await self.client._open.clock.sleep(seconds)
            group.cancel_scope.cancel()

    async def tell(self, ended: Iterable[Ended]) -> None:
        """Hand over what has ended, and wake whoever waits for changes."""
        self.wake()
        for one in ended:
            self.outcomes.send_nowait(outcome(one, self.options.out))
        while self.received.statistics().current_buffer_used > _UNREAD:
            await self._taken.wait()

    def taken(self) -> None:
        """Somebody has taken an outcome."""
        self._taken.set()
        self._taken = anyio.Event()

    def accepted(self, job_id: str) -> None:
        """There is a job, to be watched."""
        if self.over:
            return  # the next run takes it up
        self.open.add(job_id)
        self._accepted.send_nowait(job_id)
        self.wake()

    def fail(self, error: Exception) -> None:
        """End the run by this error: nothing new is begun, what is in flight may end."""
        self.failure = self.failure or error
        self.finish()
        self.loops.cancel()

    def stop(self) -> None:
        """End the run because somebody asked for it."""
        if not self.over:
            self.stopped = True
        self.finish()
        self.loops.cancel()
        self.auditing.cancel()

    def finish(self) -> None:
        """There is nothing more to begin."""
        self.over = True
        self._accepted.close()
        self.wake()

    def close(self) -> None:
        """Nobody listens any more."""
        for stream in (self.outcomes, self.received, self._accepted, self.jobs):
            stream.close()
