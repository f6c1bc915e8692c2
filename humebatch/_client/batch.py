"""`BatchClient`: the operations of the batch API, and the doors to what is done with many files and jobs."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import anyio
import anyio.to_thread
from msgspec import UNSET, UnsetType

from .._transport.clock import Clock
from .._transport.http import Stats, Transport
from .._transport.planning import plan_uploads
from .._transport.upload import Progress as Sent
from .._wire import batch as wire
from .._wire import codec
from .._wire.message import BodyPlan, WireReply, WireRequest
from ..config import (
    IngestPolicy,
    Limits,
    PollPolicy,
    RetryPolicy,
    Secret,
    Timeouts,
    WatchPolicy,
    api_key_from,
    base_url_from,
)
from ..errors import ConfigError, DecodeError, SubmissionUnknown
from ..jobs import MAX_ITEMS, JobDetails, Models, Submission, Transcription
from .embedded import embedded_server
from .job import Job
from .outcome import Outcome
from .progress import Board, Progress, may_be_a_job
from .submit import Submissions, submit_many
from .watch import BatchJobs, Finished, Jobs, watch

if TYPE_CHECKING:
    from .ingest.run import Ingest

__all__ = ["BatchClient", "Job"]


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
        self._embedded: str | None = None

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
                self._embedded = server.identity
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
    def _identity(self) -> str:
        """What server this is, for as long as anybody may ask: the URL, unless it is one of our own."""
        return self._embedded or self._open.base_url

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

        async def planned() -> WireRequest:
            files = await plan_uploads(submission.files, piece=self._limits.piece)
            return wire.submit_request(submission, files)

        return self.job(await self._submit(planned, progress))

    async def _submit(self, planned: Callable[[], Awaitable[WireRequest]], progress: Sent | None = None) -> str:
        """Send what `planned` makes when there is a place for it; returns the id of the job."""
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
                request = await planned()
                body = request.body
                board.planned(request)
                reply = await transport.send(request, progress=sent)
                job_id = self._accepted(request, reply, began)
            except BaseException as error:
                board.failed(unknown=may_be_a_job(error, body, gone))
                raise
        board.accepted(job_id, len(request.filenames))
        return job_id

    def _accepted(self, request: WireRequest, reply: WireReply, began: float) -> str:
        try:
            return self.job(codec.decode_job_id(reply.body)).id
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

    def ingest(
        self,
        paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        models: Models | UnsetType | None = UNSET,
        transcription: Transcription | UnsetType | None = UNSET,
        journal: str | os.PathLike[str],
        out: str | os.PathLike[str],
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        files_per_job: int = MAX_ITEMS,
        artifacts: bool = False,
        retry_failed: bool = False,
        rebind: bool = False,
        tag_names: bool | None = None,
        policy: IngestPolicy | None = None,
    ) -> contextlib.AbstractAsyncContextManager[Ingest]:
        """Measure files, and all files below folders, each once, whatever happens on the way.

            async with client.ingest(["recordings"], models=..., journal="run.db", out="results") as outcomes:
                async for outcome in outcomes:
                    outcome.item, outcome.value, outcome.error  # path, Ingested or InputFailed
                print(await outcomes.report())

        Every input ends in one state: DONE, its results in `out/<input>/predictions.json`, or FAILED or PARKED with a
        reason. What is known is kept in `journal`, so the same call, made again after whatever ended the first,
        goes on where that stopped, submits nothing twice, and tells the outcomes of all inputs again.

        `paths`: read in a thread, as a stream, any number. `include`, `exclude`: patterns for what lies below folders
        (`*.wav`, `**/old/**`); hidden files are passed over. `files_per_job`: above 100 they go as one ZIP (extra
        `bundle`). `artifacts`: save the ZIP of each job, checked and not unpacked, as `out/artifacts/<job>.zip`, too.
        `retry_failed`: submit FAILED inputs again, and PARKED ones whose job the server's list can
        neither show nor rule out, which may make a second job. `rebind`: go on with a journal of another server,
        key, configuration or output folder. `tag_names`: put a random tag into file names on the wire, by which jobs
        are found again; None does so where the server honours no idempotency keys. Results have your names.

        Raises, when entered, `ConfigError` for arguments that make no sense, a journal that is in use or belongs to
        another run, and where there is no such API; `AuthError`; `TransportError` when the server cannot be reached.
        Later `AuthError`, `DiskError` and a server that takes nothing for `IngestPolicy.max_outage` end the run and are
        raised when what was in flight has ended. Leaving the block early breaks off what is in flight; `stop()` ends
        in good order.
        """
        from .ingest.run import ingest

        return ingest(
            self,
            paths,
            models=models,
            transcription=transcription,
            journal=journal,
            out=out,
            include=include,
            exclude=exclude,
            files_per_job=files_per_job,
            artifacts=artifacts,
            retry_failed=retry_failed,
            rebind=rebind,
            tag_names=tag_names,
            policy=policy or IngestPolicy(),
        )

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
