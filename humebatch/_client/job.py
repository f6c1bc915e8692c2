"""`Job`: one job on the server, its state and its results."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import anyio

from .._wire import batch as wire
from .._wire import codec
from .._wire.pacing import next_poll
from ..config import PollPolicy
from ..errors import ConfigError, JobFailed, WaitTimeout
from ..jobs import JobDetails, Status
from ..predictions import SourceReader, SourceResult
from .results import opened

if TYPE_CHECKING:
    from .batch import BatchClient

__all__ = ["Job"]

# A look at a job gets this many seconds, however little is left of the caller's time: it is cheap, and
# without it a short timeout could never be answered by a server that is a little slow.
_LEAST_LOOK = 5.0


class Job:
    """One job on the server: made by `BatchClient.submit` or `BatchClient.job`."""

    def __init__(self, client: BatchClient, job_id: str) -> None:
        self.id = job_id
        self._client = client

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    async def details(self) -> JobDetails:
        """The request as the server understood it, and the state. Raises `NotFound`."""
        return await self._client.details(self.id)

    async def wait(
        self,
        *,
        timeout: float | None = None,
        poll: PollPolicy | None = None,
        on_state: Callable[[JobDetails], None] | None = None,
    ) -> JobDetails:
        """Wait until the job is COMPLETED and return its details.

        `timeout` in seconds, None waits for ever; a look at the job that has begun gets at least five.
        `on_state` is called with every answer on the way.
        Raises `JobFailed` with the server's message, `WaitTimeout` when the time is up (the job goes
        on; its id is on the exception), and what `details` raises.
        """
        # NaN is no deadline either.
        if timeout is not None and not (isinstance(timeout, (int, float)) and timeout >= 0):
            raise ConfigError(f"timeout: must not be negative, got {timeout!r}", field="timeout")
        client = self._client
        clock = client._open.clock
        deadline = None if timeout is None else clock.now() + timeout
        polls = 0
        while True:
            # The request itself may hang or be tried again for longer than the caller has time.
            details: JobDetails | None = None
            with anyio.move_on_after(None if deadline is None else max(deadline - clock.now(), _LEAST_LOOK)):
                details = await self.details()
            if details is None:
                raise self._timed_out(timeout, "the server did not answer")
            if on_state is not None:
                on_state(details)
            state = details.state
            if state.status == Status.COMPLETED:
                return details
            if state.status == Status.FAILED:
                raise JobFailed(
                    f"job {self.id} failed: {state.message or 'the server gave no reason'}",
                    job_id=self.id,
                    details=details,
                )
            polls += 1
            wait = next_poll(
                poll or client._poll,
                polls=polls,
                remaining=None if deadline is None else deadline - clock.now(),
                chance=random.random(),
            )
            if wait is None:
                raise self._timed_out(timeout, f"it is {state.status}")
            await clock.sleep(wait)

    def _timed_out(self, timeout: float | None, why: str) -> WaitTimeout:
        return WaitTimeout(
            f"job {self.id} has not ended within {timeout:g} s ({why}); it goes on: "
            f'take it up again with client.job("{self.id}")',
            job_id=self.id,
        )

    async def predictions(self) -> list[SourceResult]:
        """All predictions, one `SourceResult` per file, URL or text list sent.

        Takes about three times the size of the answer in memory; `open_predictions` does not. Raises
        `InvalidRequest` while the job has not completed, `DecodeError` for an answer that is not what the
        schema says.
        """
        reply = await self._client._ask(wire.predictions_request(self.id))
        return codec.decode_predictions(reply.body)

    def open_predictions(self) -> contextlib.AbstractAsyncContextManager[AsyncIterator[SourceReader]]:
        """The predictions source by source and row by row, in bounded memory, however large the answer.

            async with job.open_predictions() as sources:
                async for source in sources:
                    for file in source:
                        for person, face in file.rows("face"):
                            ...

        The answer is spooled to a temporary file first (`TMPDIR` says where). Finding the rows takes about a
        second per GB, in which nothing else runs. Raises what `predictions` raises; a `DecodeError` keeps the
        spooled answer and names it as `file`.
        """
        return opened(self.save_predictions)

    async def save_predictions(self, path: str | os.PathLike[str]) -> int:
        """Save the predictions as the server sent them; the file appears whole or not at all. Returns its bytes."""
        return await self._client._save(wire.predictions_request(self.id), path)

    async def save_artifacts(self, path: str | os.PathLike[str]) -> int:
        """Save the artifacts ZIP (CSV per file and model); the file appears whole or not at all. Returns its bytes."""
        return await self._client._save(wire.artifacts_request(self.id), path)
