"""One watcher for thousands of jobs: it does what a `Watchlist` says, and hands over an `Outcome` per job.

It knows no service: it follows anything `Pollable`. One loop acts and one sleeper waits; nothing is decided here.
Outcomes go through a channel without a buffer, so that a slow reader slows the asking and not the memory.
`BatchJobs` is the batch API as something pollable.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Generic, Protocol, TypeVar

import anyio
import anyio.lowlevel
import msgspec
from anyio.streams.memory import MemoryObjectReceiveStream

from .._transport.clock import Clock
from .._wire import batch as wire
from .._wire import codec
from .._wire.message import WireReply, WireRequest
from .._wire.sweep import Expire, Look, Row, Sweep, Wait
from .._wire.watchlist import Watchlist
from ..config import WatchPolicy
from ..errors import (
    ApiError,
    AuthError,
    ConfigError,
    DecodeError,
    HumebatchError,
    JobFailed,
    NotFound,
    RateLimited,
    ServerError,
    TransportError,
    WaitTimeout,
)
from ..jobs import JobDetails, Status
from .outcome import Outcome

__all__ = ["BatchJobs", "Finished", "HasId", "Pollable", "watch"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# A request gets this many seconds although a deadline is nearer, and looks at single jobs at most this many before
# the next sweep has its turn.
_LEAST_PATIENCE = 5.0
_MOST_PATIENCE = 30.0
_AT_A_TIME = 200  # rows decoded, or jobs taken in, between two turns of the event loop
_HEAD_START = 0.5  # seconds for an asynchronous iterable to come up with jobs before the first sweep
_PASSING = frozenset({408, 425, 429})


class HasId(Protocol):
    """A job as far as watching is concerned."""

    @property
    def id(self) -> str:
        """The job's id."""
        ...


class Pollable(Protocol[T_co]):
    """A service whose jobs can be watched. Its methods raise what the client raises (`humebatch.errors`)."""

    def check(self, job_id: str, /) -> None:
        """Raise `ConfigError` for what cannot be an id."""
        ...

    async def details(self, job_id: str, /) -> Row:
        """One job. Raises `NotFound` when there is none."""
        ...

    async def ended(self, limit: int, /) -> list[Row]:
        """The jobs that have ended, at most `limit`, the latest end first."""
        ...

    def read(self, row: Row, /) -> T_co:
        """What a row of an ended job says. Raises `JobFailed`, or `DecodeError`."""
        ...


Jobs = Iterable[str | HasId] | AsyncIterable[str | HasId]


class Finished(Generic[T]):
    """The outcomes of a watch in the order of the jobs' ends, as `async for` takes them."""

    def __init__(self, watcher: _Watcher[T], receive: MemoryObjectReceiveStream[Outcome[str, T]]) -> None:
        self._watcher = watcher
        self._receive = receive

    def __aiter__(self) -> AsyncIterator[Outcome[str, T]]:
        return self

    async def __anext__(self) -> Outcome[str, T]:
        try:
            return await self._receive.receive()
        except anyio.EndOfStream:
            pass
        except anyio.ClosedResourceError:
            raise ConfigError("this watch is over: iterate inside its `async with` block") from None
        # Outside of the `except`, so that the caller's own exception keeps its own cause.
        if self._watcher.failure is not None:
            raise self._watcher.failure
        raise StopAsyncIteration

    @property
    def open(self) -> int:
        """How many jobs are still followed."""
        return self._watcher.list.open

    def hint(self, job_id: str) -> bool:
        """Somebody, a callback for instance, says that a job has ended: it is asked for soon. Never trusted.

        A hint costs at most one request per job, within `WatchPolicy.looks_per_second`; hints about jobs that
        are not followed are ignored. Returns whether it will be asked for. Call it on the watch's event loop.
        """
        return self._watcher.hint(job_id)


@contextlib.asynccontextmanager
async def watch(
    pollable: Pollable[T],
    jobs: Jobs,
    *,
    policy: WatchPolicy,
    clock: Clock,
    polls: int,
    timeout: float | None = None,
    chance: Callable[[], float] = random.random,
) -> AsyncGenerator[Finished[T]]:
    """Follow jobs until each has ended; see `BatchClient.watch`. At most `polls` requests at once."""
    if timeout is not None and not timeout >= 0:  # NaN is no deadline either
        raise ConfigError(f"timeout: must not be negative, got {timeout!r}", field="timeout")
    if isinstance(jobs, (str, bytes)):
        raise ConfigError("jobs: must be several jobs or ids, got a string", field="jobs")
    watchlist = Watchlist(policy, polls=polls, timeout=timeout, now=clock.now(), chance=chance)
    send, receive = anyio.create_memory_object_stream[Outcome[str, T]](0)
    watcher = _Watcher(pollable, watchlist, clock, timeout, send.send)
    raised: BaseException | None = None

    async def run() -> None:
        with send:
            await watcher.run(jobs)

    with receive:
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            try:
                yield Finished(watcher, receive)
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # noqa: BLE001 - raised again below: a task group would wrap it
                raised = error
            group.cancel_scope.cancel()
    if raised is not None:
        raise raised


class _Watcher(Generic[T]):
    """The loop, the intake, and how failures are sorted."""

    def __init__(
        self,
        pollable: Pollable[T],
        watchlist: Watchlist,
        clock: Clock,
        timeout: float | None,
        deliver: Callable[[Outcome[str, T]], Awaitable[None]],
    ) -> None:
        self.list = watchlist
        self.failure: Exception | None = None
        self._pollable = pollable
        self._clock = clock
        self._timeout = timeout
        self._deliver = deliver
        self._fed = False
        self._wake = anyio.Event()

    def hint(self, job_id: str) -> bool:
        taken = self.list.hint(job_id)
        if taken:
            self._wake.set()
        return taken

    async def run(self, jobs: Jobs) -> None:
        """Until all jobs have ended. What goes wrong is kept in `failure`, for whoever iterates."""
        async with anyio.create_task_group() as group:

            async def feed() -> None:
                try:
                    await self._take_in(jobs)
                except Exception as error:  # noqa: BLE001 - the caller's iterable may raise anything
                    self.failure = self.failure or error
                    group.cancel_scope.cancel()

            if isinstance(jobs, AsyncIterable):
                group.start_soon(feed)
                # A page that comes before the jobs that it shows is worth little.
                await self._pause(_HEAD_START)
            else:
                await feed()
            try:
                await self._follow()
            except HumebatchError as error:
                self.failure = self.failure or error
            group.cancel_scope.cancel()

    async def _take_in(self, jobs: Jobs) -> None:
        if isinstance(jobs, AsyncIterable):
            async for job in jobs:
                self._add(job)
        else:
            for count, job in enumerate(jobs, 1):
                self._add(job)
                if not count % _AT_A_TIME:
                    await anyio.lowlevel.checkpoint()
        self._fed = True
        self._wake.set()

    def _add(self, job: str | HasId) -> None:
        job_id = job if isinstance(job, str) else job.id
        self._pollable.check(job_id)
        if self.list.add(job_id, now=self._clock.now()):
            self._wake.set()

    async def _follow(self) -> None:
        while not (self._fed and not self.list.open):
            match self.list.plan(self._clock.now()):
                case Sweep(limit):
                    await self._sweep(limit)
                case Look(jobs):
                    await self._look(jobs)
                case Expire(jobs):
                    for job_id in jobs:
                        await self._deliver(Outcome(item=job_id, error=self._timed_out(job_id)))
                case Wait(seconds):
                    await self._pause(seconds)

    async def _pause(self, seconds: float | None) -> None:
        """Until the time has passed, or there is something new to plan for."""
        wake, self._wake = self._wake, self._wake if not self._wake.is_set() else anyio.Event()
        if wake.is_set():
            return
        if seconds is None:
            await wake.wait()
            return
        async with anyio.create_task_group() as group:

            async def woken() -> None:
                await wake.wait()
                group.cancel_scope.cancel()

            group.start_soon(woken)
            await self._clock.sleep(seconds)
            group.cancel_scope.cancel()

    async def _sweep(self, limit: int) -> None:
        rows: list[Row] | None = None
        try:
            with anyio.move_on_after(self._patience(None)):
                rows = await self._pollable.ended(limit)
        except (AuthError, ConfigError):
            raise
        except DecodeError:
            self.list.list_failed(self._clock.now(), unreadable=True)
        except HumebatchError as error:
            if _is_passing(error):
                self.list.list_failed(self._clock.now(), floor=_asked_for(error))
            else:
                self.list.list_refused(self._clock.now(), limit=limit)
        else:
            if rows is None:
                self.list.list_failed(self._clock.now())
                return
            for row in self.list.page(rows, limit=limit, now=self._clock.now()):
                await self._hand_over(row.job_id, row)

    async def _look(self, jobs: tuple[str, ...]) -> None:
        ends: list[HumebatchError] = []
        async with anyio.create_task_group() as group:

            async def one(job_id: str) -> None:
                try:
                    await self._look_at(job_id)
                except (AuthError, ConfigError) as error:
                    # A wrong key is wrong for every job; raised in here, the task group would wrap it.
                    ends.append(error)
                    group.cancel_scope.cancel()

            for job_id in jobs:
                group.start_soon(one, job_id)
        if ends:
            raise ends[0]

    async def _look_at(self, job_id: str) -> None:
        now = self._clock.now
        row: Row | None = None
        try:
            with anyio.move_on_after(self._patience(_MOST_PATIENCE)):
                row = await self._pollable.details(job_id)
        except (AuthError, ConfigError):
            raise
        except NotFound as error:
            failed: HumebatchError = error
            over = self.list.gone(job_id, now=now())
        except HumebatchError as error:
            failed = error
            unreadable = isinstance(error, DecodeError)
            final = not unreadable and not _is_passing(error)
            floor = _asked_for(error)
            over = self.list.look_failed(job_id, now=now(), floor=floor, unreadable=unreadable, final=final)
        else:
            if row is None:
                self.list.look_failed(job_id, now=now())
            elif self.list.found(job_id, row, now=now()):
                await self._hand_over(job_id, row)
            return
        if over:
            await self._deliver(Outcome(item=job_id, error=failed))

    async def _hand_over(self, job_id: str, row: Row) -> None:
        try:
            outcome = Outcome(item=job_id, value=self._pollable.read(row))
        except HumebatchError as error:
            outcome = Outcome(item=job_id, error=error)
        await self._deliver(outcome)

    def _patience(self, most: float | None) -> float | None:
        """Seconds that a request may take: it must not hold up a deadline, nor a slow job a sweep."""
        left = self.list.until_deadline(self._clock.now())
        if left is not None:
            most = left if most is None else min(left, most)
        return None if most is None else max(most, _LEAST_PATIENCE)

    def _timed_out(self, job_id: str) -> WaitTimeout:
        return WaitTimeout(
            f"job {job_id} was not seen to end within {self._timeout:g} s; nothing has stopped it: watch it again, "
            f'or take it up with client.job("{job_id}")',
            job_id=job_id,
        )


def _is_passing(error: HumebatchError) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, ApiError):
        return error.status in _PASSING or (error.status >= 500 and error.status != 501)
    return isinstance(error, TransportError)


def _asked_for(error: HumebatchError) -> float | None:
    return error.retry_after if isinstance(error, (RateLimited, ServerError)) else None


class _State(msgspec.Struct, gc=False):
    status: str
    ended_timestamp_ms: float | None = None


class _Glance(msgspec.Struct, gc=False):
    """What a sweep needs of a job; the rest is read when the job is handed over."""

    job_id: str
    state: _State


_glance = msgspec.json.Decoder(_Glance)
_pieces = msgspec.json.Decoder(list[msgspec.Raw])


class BatchJobs:
    """The batch API as a `Pollable`.

    `ask` sends a request and returns the reply; `heard` is told of each job id and status on the way.
    """

    def __init__(
        self, ask: Callable[[WireRequest], Awaitable[WireReply]], *, heard: Callable[[str, str], None]
    ) -> None:
        self._ask = ask
        self._heard = heard

    def check(self, job_id: str, /) -> None:
        """See `Pollable.check`."""
        wire.details_request(job_id)

    async def details(self, job_id: str, /) -> Row:
        """See `Pollable.details`."""
        reply = await self._ask(wire.details_request(job_id))
        return self._row(reply.body, "job details")

    async def ended(self, limit: int, /) -> list[Row]:
        """See `Pollable.ended`."""
        reply = await self._ask(
            wire.list_request(limit=limit, status=(Status.COMPLETED, Status.FAILED), sort_by="ended", direction="desc")
        )
        pieces = codec.decode(_pieces, reply.body, "job list")
        rows: list[Row] = []
        # A thread would not help: the decoder keeps the interpreter to itself. Small portions do.
        for start in range(0, len(pieces), _AT_A_TIME):
            rows += [self._row(piece, "job list") for piece in pieces[start : start + _AT_A_TIME]]
            await anyio.lowlevel.checkpoint()
        return rows

    def read(self, row: Row, /) -> JobDetails:
        """See `Pollable.read`."""
        details = codec.decode_job(bytes(row.body))
        if details.state.status == Status.FAILED:
            raise JobFailed(
                f"job {row.job_id} failed: {details.state.message or 'the server gave no reason'}",
                job_id=row.job_id,
                details=details,
            )
        return details

    def _row(self, body: bytes | msgspec.Raw, what: str) -> Row:
        try:
            seen = _glance.decode(body)
        except (ValueError, RecursionError):
            seen = codec.decode(_glance, bytes(body), what)  # fails again, and says where
        self._heard(seen.job_id, seen.state.status)
        ended = seen.state.ended_timestamp_ms
        return Row(
            job_id=seen.job_id,
            finished=seen.state.status in (Status.COMPLETED, Status.FAILED),
            ended=None if ended is None else ended / 1000,
            body=body,
            size=memoryview(body).nbytes,
        )
