"""`BatchClient` and `Job`: the five operations of the batch API, and waiting for one job."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Self

import anyio
import anyio.to_thread

from .._transport.clock import Clock
from .._transport.http import Stats, Transport
from .._transport.planning import plan_uploads
from .._transport.upload import Progress as Sent
from .._wire import batch as wire
from .._wire import codec
from .._wire.message import BodyPlan, WireReply, WireRequest
from .._wire.pacing import next_poll
from ..config import (
    Limits,
    PollPolicy,
    RetryPolicy,
    Secret,
    Timeouts,
    WatchPolicy,
    api_key_from,
    base_url_from,
)
from ..errors import ConfigError, DecodeError, JobFailed, SubmissionUnknown, WaitTimeout
from ..jobs import JobDetails, Status, Submission
from ..predictions import SourceReader, SourceResult
from .embedded import embedded_server
from .outcome import Outcome
from .progress import Board, Progress, may_be_a_job
from .results import opened
from .submit import Submissions, submit_many
from .watch import BatchJobs, Finished, Jobs, watch

__all__ = ["BatchClient", "Job"]

# A look at a job gets this many seconds, however little is left of the caller's time: it is cheap, and
# without it a short timeout could never be answered by a server that is a little slow.
_LEAST_LOOK = 5.0


@functools.cache
def _user_agent() -> str:
    return f"humebatch/{importlib.metadata.version('humebatch')}"


class BatchClient:
    """The Expression Measurement batch API, v0. Enter it: `async with BatchClient(...) as client`.

    `api_key`: else `HUME_API_KEY`; None for a server that asks for none. `base_url`: else
    `HUMEBATCH_BASE_URL`; with neither, a server is started in a child process for as long as the
    client is open (`humebatch.local.client` has its options). `limits`, `timeouts`, `retry`, `poll`:
    see `humebatch.config`; all times are in seconds.

    Raises `ConfigError` for settings that make no sense. One client serves any number of tasks.
    """

    def __init__(
        self,
        *,
        api_key: str | Secret | None = None,
        base_url: str | None = None,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
        poll: PollPolicy | None = None,
        clock: Clock | None = None,
    ) -> None:
        for name, value, wanted in (
            ("limits", limits, Limits),
            ("timeouts", timeouts, Timeouts),
            ("retry", retry, RetryPolicy),
            ("poll", poll, PollPolicy),
        ):
            if value is not None and not isinstance(value, wanted):
                raise ConfigError(f"{name}: must be a {wanted.__name__}, not {type(value).__name__}", field=name)
        self._key = api_key_from(api_key)
        self._base_url = base_url_from(base_url)
        self._limits = limits or Limits()
        self._timeouts = timeouts or Timeouts()
        self._retry = retry or RetryPolicy()
        self._poll = poll or PollPolicy()
        self._clock = clock
        self._stack: contextlib.AsyncExitStack | None = None
        self._transport: Transport | None = None
        self._last_stats = Stats()
        self._board = Board()

    def __repr__(self) -> str:
        return f"BatchClient(base_url={self._base_url!r})"

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise ConfigError("this client is open already; make another one")
        async with contextlib.AsyncExitStack() as stack:
            # From here on, for an embedded server takes seconds to come up.
            self._stack = stack
            stack.callback(self._forget)
            base_url, key = self._base_url, self._key
            if base_url is None:
                server = await stack.enter_async_context(embedded_server())
                base_url, key = server.base_url, server.api_key
            self._transport = await stack.enter_async_context(
                Transport(
                    wire.BatchService(),
                    base_url=base_url,
                    key=key,
                    limits=self._limits,
                    timeouts=self._timeouts,
                    retry=self._retry,
                    user_agent=await anyio.to_thread.run_sync(_user_agent),
                    clock=self._clock,
                )
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._transport is not None:
            self._last_stats, self._transport = self._transport.stats, None
        if self._stack is not None:
            await self._stack.__aexit__(kind, error, trace)

    def _forget(self) -> None:
        self._stack = self._transport = None

    @property
    def base_url(self) -> str | None:
        """Where requests go; None while an embedded server has not been started."""
        return self._base_url if self._transport is None else self._transport.base_url

    @property
    def stats(self) -> Stats:
        """Counters since the client was opened: requests, resends, 429s, bytes up and down."""
        return self._last_stats if self._transport is None else self._transport.stats

    @property
    def _open(self) -> Transport:
        if self._transport is None:
            raise ConfigError("the client is not open: use it inside `async with BatchClient(...) as client`")
        return self._transport

    async def submit(self, submission: Submission, *, progress: Sent | None = None) -> Job:
        """Start one job and return it; files are streamed, at most `Limits.uploads` submissions at once.

        `progress(n)` is told of every n bytes handed to the network, with a negative n when a failed
        try starts over. Raises `SourceError` for a file that cannot be sent, `ApiError` when the server
        refuses, `TransportError` when it cannot be reached, and `SubmissionUnknown` when the job may
        exist although no answer came: nothing is ever submitted twice behind your back. What a stream
        of yours raises comes out as it is.
        """
        if not isinstance(submission, Submission):
            raise ConfigError(f"submission: must be a Submission, not {type(submission).__name__}", field="submission")
        transport = self._open
        began = time.time()
        board = self._board
        body: BodyPlan | None = None
        gone = 0

        def sent(count: int) -> None:
            nonlocal gone
            gone += count
            board.sent(count)
            if progress is not None:
                progress(count)

        async with transport.submissions.places:
            board.begun()
            try:
                files = await plan_uploads(submission.files, piece=self._limits.piece)
                request = wire.submit_request(submission, files)
                body = request.body
                board.planned(request)
                reply = await transport.send(request, progress=sent)
                job = self._accepted(request, reply, began)
            except BaseException as error:
                board.failed(unknown=may_be_a_job(error, body, gone))
                raise
        board.accepted(job.id, len(files))
        return job

    def _accepted(self, request: WireRequest, reply: WireReply, began: float) -> Job:
        try:
            return self.job(codec.decode_job_id(reply.body))
        except (DecodeError, ConfigError) as error:
            # The server said yes in words that we cannot read: there is a job, and only the list knows its id.
            raise SubmissionUnknown(
                f"the submission was accepted, but its answer holds no job id ({error}); look for it in the job list",
                method=request.method,
                path=request.path,
                since=began,
                filenames=request.filenames,
            ) from error

    def submit_many(
        self, submissions: Submissions
    ) -> contextlib.AbstractAsyncContextManager[AsyncIterator[Outcome[Submission, Job]]]:
        """Submit everything that an iterable (or asynchronous iterable) yields, several at once.

            async with client.submit_many(submissions) as outcomes:
                async for outcome in outcomes:  # in order of completion
                    outcome.item, outcome.value, outcome.error

        At most `Limits.uploads` are in flight, and the next item is asked for only when a place is free.
        An iterable that blocks (a slow generator) blocks the event loop: make it asynchronous. Errors of one
        item are its outcome; what a stream of yours raises is the `__cause__` of a `SourceError`. `AuthError`,
        `ConfigError` and what the iterable raises end the run: no further item is asked for, and the error is
        raised when everything in flight has had its outcome. Leaving the block early cancels what is in flight;
        a generator is closed.
        """
        return submit_many(self, submissions, at_once=self._limits.uploads)

    def watch(
        self, jobs: Jobs, *, timeout: float | None = None, policy: WatchPolicy | None = None
    ) -> contextlib.AbstractAsyncContextManager[Finished[JobDetails]]:
        """Follow any number of jobs with about one request per tick, however many they are.

            async with client.watch(jobs) as finished:
                async for outcome in finished:  # in order of completion
                    outcome.item, outcome.value, outcome.error  # job id, JobDetails or what happened

        `jobs`: `Job`s or ids, each followed once. An iterable is read to its end first; an asynchronous one
        may go on producing while its jobs are watched. `timeout`: seconds for each job from when it was
        taken in; then jobs whose end a list may hide get a last look, for half a minute at most and while such looks
        find ends. Errors of one job are its outcome: `JobFailed`, `WaitTimeout` (nothing stops the job), `NotFound`
        (missing twice), or another `ApiError` or `DecodeError`. A server that cannot be reached ends
        nothing: it is asked again, ever more rarely. `AuthError` and `ConfigError` end the run and are
        raised, as is what the iterable raises. Leaving the block early ends all waiting.
        """
        return watch(
            BatchJobs(self._ask, heard=self._board.looked),
            jobs,
            policy=policy or WatchPolicy(),
            clock=self._open.clock,
            polls=self._limits.polls,
            timeout=timeout,
        )

    def progress(self) -> contextlib.AbstractAsyncContextManager[AsyncIterator[Progress]]:
        """Follow what this client sends and what becomes of it, from as many places as you like.

            async with client.progress() as updates:
                async for progress in updates:
                    progress.bytes_sent, progress.files_sent, progress.jobs

        Each `Progress` holds the totals since the client was opened; a slow reader is given fewer of them. The stream
        ends only when the block is left: read it in a task of its own.
        """
        return self._board.follow()

    def job(self, job_id: str) -> Job:
        """A job by its id. No I/O: whether it exists shows when it is asked."""
        wire.details_request(job_id)  # raises ConfigError for what cannot be an id
        return Job(self, job_id)

    async def list_jobs(
        self,
        *,
        limit: int | None = None,
        status: Iterable[str] | str | None = None,
        when: str | None = None,
        timestamp_ms: int | None = None,
        sort_by: str | None = None,
        direction: str | None = None,
    ) -> AsyncIterator[JobDetails]:
        """Jobs of this key, newest first unless told otherwise: `async for details in client.list_jobs(...)`.

        `limit`: at most so many (the server's default is 50). `status`: one or several statuses.
        `when`: `created_before` or `created_after` the Unix time `timestamp_ms` in milliseconds.
        `sort_by`: `created`, `started` or `ended`; `direction`: `asc` or `desc`.
        Raises `ConfigError` naming the argument.
        """
        request = wire.list_request(
            limit=limit, status=status, when=when, timestamp_ms=timestamp_ms, sort_by=sort_by, direction=direction
        )
        reply = await self._ask(request)
        for details in codec.decode_jobs(reply.body):
            yield details

    async def details(self, job_id: str) -> JobDetails:
        """What the server says of a job. Raises `NotFound` if this key has no such job."""
        reply = await self._ask(wire.details_request(job_id))
        details = codec.decode_job(reply.body)
        self._board.looked(details.job_id, details.state.status)
        return details

    async def _ask(self, request: WireRequest) -> WireReply:
        transport = self._open
        async with transport.looks.places:
            return await transport.send(request)

    async def _save(self, request: WireRequest, path: str | os.PathLike[str]) -> int:
        transport = self._open
        async with transport.looks.places:
            return await transport.save(request, os.fspath(path))


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
