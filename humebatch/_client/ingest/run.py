"""One run of an ingest: everything that goes on at once, from the scan of the paths to the audit at the end.

The journal is the queue between the parts: each looks there for what is in its state, does it, writes down what came of
it, and wakes the others. So a run that was killed is taken up by the same parts, and there is no second way.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import anyio
import anyio.to_thread
from msgspec import UNSET, UnsetType

from ..._wire import batch as wire
from ..._wire import codec
from ...config import IngestPolicy
from ...errors import ConfigError, DecodeError, DiskError, HumebatchError, NotFound
from ...ingestion import Ingested, IngestReport
from ...jobs import Models, Submission, Transcription
from ..outcome import Outcome
from . import inputs
from .fetching import Fetcher, Watcher
from .flow import Flow, Options
from .grouping import drop_plans, group_inputs
from .hashing import Abandoned, Hashed, Unusable, hash_file, ran_out
from .journal import Journal
from .reporting import report, write_index
from .scan import AnyPath, Found, scan
from .schema import Binding, at_home, hold
from .seeking import Seeker, audit
from .sending import Sender
from .storing import sweep_parts
from .taking import take
from .threads import to_its_end

if TYPE_CHECKING:
    from ..batch import BatchClient

__all__ = ["Ingest", "ingest"]

_SCANNED, _WHILE = 500, 0.2  # inputs to a transaction, and seconds that they may take to come
_HASHED = 256
_VISIT = 16 * 1024 * 1024  # bytes hashed in one visit to a thread
_HASHERS = 2
_AHEAD = 4  # groups planned for each upload that may be in flight: hashed while they are still cached
_MOST_FILES = 100_000


class Ingest:
    """The outcomes of a run, as `async for` takes them: each input of this run once, when it has ended."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self.final: IngestReport | None = None

    def __aiter__(self) -> AsyncIterator[Outcome[str, Ingested]]:
        return self

    async def __anext__(self) -> Outcome[str, Ingested]:
        try:
            taken = await self._flow.received.receive()
            self._flow.taken()
            return taken
        except anyio.EndOfStream:
            pass
        except anyio.ClosedResourceError:
            raise ConfigError("this ingest is over: iterate inside its `async with` block") from None
        # Outside of the `except`, so that the error keeps its own cause.
        if self._flow.failure is not None:
            raise self._flow.failure
        raise StopAsyncIteration

    def stop(self) -> None:
        """Begin nothing new. What is in flight gets `IngestPolicy.stop_within` to end; then the outcomes end, too.

        The same ingest, run again, goes on where this one stopped. Call it on the event loop, as often as you like.
        """
        self._flow.stop()

    @property
    def stopped(self) -> bool:
        """Whether `stop` ended the run, and something may be left to do."""
        return self._flow.stopped

    async def report(self) -> IngestReport:
        """What has become of everything in the journal so far; final when the outcomes have ended."""
        if self.final is not None:
            return self.final
        return await _report(self._flow, audited=False)


async def _report(flow: Flow, *, audited: bool) -> IngestReport:
    sent = flow.client.stats.bytes_sent - flow.before.bytes_sent
    retries = flow.client.stats.resends - flow.before.resends
    return await flow.journal.change(lambda db: report(db, sent=sent, retries=retries, audited=audited))


@contextlib.asynccontextmanager
async def ingest(
    client: BatchClient,
    paths: AnyPath | Iterable[AnyPath],
    *,
    models: Models | UnsetType | None,
    transcription: Transcription | UnsetType | None,
    journal: AnyPath,
    out: AnyPath,
    include: Sequence[str],
    exclude: Sequence[str],
    files_per_job: int,
    artifacts: bool,
    retry_failed: bool,
    rebind: bool,
    tag_names: bool | None,
    policy: IngestPolicy,
) -> AsyncGenerator[Ingest]:
    """See `BatchClient.ingest`."""
    config = _config(models, transcription)
    if isinstance(files_per_job, bool) or not isinstance(files_per_job, int) or not 1 <= files_per_job <= _MOST_FILES:
        raise ConfigError(
            f"files_per_job: must be between 1 and {_MOST_FILES}, got {files_per_job!r}", field="files_per_job"
        )
    here = os.getcwdb()
    options = Options(
        journal=Path(os.fsdecode(os.path.join(here, os.fsencode(journal)))),
        out=os.path.join(here, os.fsencode(out)),
        include=_patterns(include),
        exclude=_patterns(exclude),
        files_per_job=files_per_job,
        artifacts=artifacts,
        retry_failed=retry_failed,
        rebind=rebind,
        here=here,
        tag_names=tag_names,
        policy=policy,
    )
    server, key = client._identity, client._open._key

    def begin() -> _Begun:
        # Wrong paths and patterns are found before a journal is made for them.
        beside = _beside(options.journal)
        found = scan(paths, out=options.out, include=options.include, exclude=options.exclude, beside=beside)
        _prepare(options.out)
        binding = Binding(server=server, key=key, config=config, out=os.fsdecode(os.path.realpath(options.out)))
        # Both are held before the journal is bound to anything: a run that is refused changes nothing.
        lock = hold(options.journal)
        try:
            folder = _held(options.out)
        except BaseException:
            lock.close()
            raise
        try:
            opened = Journal.open(options.journal, binding, rebind=rebind, lock=lock)
        except BaseException:
            os.close(folder)
            raise
        # Not earlier: they may be those of the run that holds the folder.
        with contextlib.suppress(OSError):
            sweep_parts(options.out)
        return _Begun(found, opened, folder)

    begun = await to_its_end(begin, undo=_Begun.give_up)
    opened = begun.journal
    run: _Run | None = None
    raised: BaseException | None = None
    try:
        query = "SELECT id FROM config WHERE request = ?"
        (config_id,) = await opened.change(lambda db: db.execute(query, (config,)).fetchone())
        flow = Flow(client, opened, options, config=config_id, request=config)
        with contextlib.closing(flow):
            await _greet(flow)
            run = _Run(flow, begun.found)
            async with anyio.create_task_group() as group:
                group.start_soon(run.work)
                try:
                    yield run.ingest
                except anyio.get_cancelled_exc_class():
                    raise
                except BaseException as error:  # noqa: BLE001 - raised again below: a task group would wrap it
                    raised = error
                group.cancel_scope.cancel()
    finally:
        try:
            with anyio.CancelScope(shield=True):
                try:
                    if run is not None and run.ingest.final is None:
                        # Whoever left early may still ask how far it came.
                        with contextlib.suppress(HumebatchError):
                            run.ingest.final = await _report(run.flow, audited=False)
                finally:
                    await opened.close()
        finally:
            begun.close()  # not awaited: a second cancellation must not leave it held
    if raised is not None:
        raise raised


class _Begun(NamedTuple):
    """What is held for as long as a run lasts; `folder` is the output folder's descriptor, locked."""

    found: Generator[Found]
    journal: Journal
    folder: int

    def close(self) -> None:
        # ValueError: a caller's iterator that takes its time is still being waited for, by a thread of its own.
        with contextlib.suppress(ValueError):
            self.found.close()
        os.close(self.folder)

    def give_up(self) -> None:
        self.journal.release()
        self.close()


def _config(models: Models | UnsetType | None, transcription: Transcription | UnsetType | None) -> str:
    # A Submission refuses what the API would.
    asked = Submission(text=["-"], models=models, transcription=transcription)
    body = wire.RequestBody(
        models=asked.models if asked.models is not None else UNSET, transcription=asked.transcription
    )
    return codec.encode(body).decode()


def _patterns(given: Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _beside(journal: Path) -> list[str]:
    real = os.path.realpath(journal)
    return [real + ending for ending in ("", "-wal", "-shm", "-journal", ".lock")]


def _prepare(folder: bytes) -> None:
    """Make the output folder, and try it before anything is measured for nothing."""
    shown = os.fsdecode(folder)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=shown):
            pass
    except OSError as error:
        raise ConfigError(f"out: cannot write to {shown}: {error.strerror}", field="out") from error


def _held(folder: bytes) -> int:
    """Hold the output folder: its locked descriptor. Runs with other journals must not have the same one."""
    shown = os.fsdecode(folder)
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"out: cannot use {shown}: {error.strerror}", field="out") from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise ConfigError(f"out: {shown} is in use by another run", field="out") from None
    except OSError:
        pass  # a file system without locks
    return held


async def _greet(flow: Flow) -> None:
    """Ask the server for next to nothing: whether it is there, takes the key, and honours idempotency keys."""
    try:
        reply = await flow.client._ask(wire.list_request(limit=1))
        codec.decode_jobs(reply.body)
    except (NotFound, DecodeError) as error:
        raise ConfigError(f"base_url: no batch API at {flow.client.base_url} ({error})", field="base_url") from error
    flow.heard(reply)
    flow.keyed = wire.honours_keys(reply)

    def prepare(db: sqlite3.Connection) -> None:
        drop_plans(db)
        inputs.revive(db)

    await flow.journal.change(prepare)


class _Run:
    """The parts, and how they end."""

    def __init__(self, flow: Flow, found: Iterator[Found]) -> None:
        self.ingest = Ingest(flow)
        self.flow = self._flow = flow
        self._found = found

    async def work(self) -> None:
        """Until everything has ended, or something ended the run."""
        flow = self._flow
        with flow.outcomes:
            async with anyio.create_task_group() as flights:
                flow.flights = flights
                others = (Sender(flow), Seeker(flow), Watcher(flow), Fetcher(flow))
                with flow.loops:
                    async with anyio.create_task_group() as group:
                        for part in (self._scan, self._plan, *(other.run for other in others)):
                            group.start_soon(self._guarded, part)
                if flow.stopped or flow.failure is not None:
                    # What is in flight may end: an answer that is heard now is one that nobody has to look for.
                    flights.cancel_scope.deadline = anyio.current_time() + flow.policy.stop_within
            await self._close()

    async def _guarded(self, part: Callable[[], Awaitable[None]]) -> None:
        try:
            await part()
        except Exception as error:  # noqa: BLE001 - told by whoever iterates
            self._flow.fail(_told(error))

    async def _close(self) -> None:
        """The audit, the index and the report."""
        flow = self._flow
        try:
            audited = False
            with flow.auditing:
                audited = not flow.stopped and flow.failure is None and await audit(flow)
            await flow.journal.change(lambda db: write_index(db, flow.options.out))
            self.ingest.final = await _report(flow, audited=audited)
            await flow.journal.closed()
        except Exception as error:  # noqa: BLE001 - told by whoever iterates
            flow.fail(error)

    async def _scan(self) -> None:
        """Take in what the paths lead to, without ever holding more than a batch of it."""
        flow = self._flow
        # A caller's iterator may take its time: neither what it gave already nor a stop waits for it.
        while batch := await anyio.to_thread.run_sync(_batch, self._found, abandon_on_cancel=True):
            ended = await flow.journal.change(lambda db: self._taken(db, batch))
            await flow.tell(ended)
        flow.scanned = True
        flow.wake()

    def _taken(self, db: sqlite3.Connection, batch: list[Found]) -> list[inputs.Ended]:
        flow = self._flow
        if any(not one.path.startswith(b"/") for one in batch):
            at_home(db, flow.options.here, rebind=flow.options.rebind)
        out, retry = flow.options.out, flow.options.retry_failed
        return take(db, flow.journal.run, batch, out=out, retry=retry)

    async def _plan(self) -> None:
        """Hash what was found, make groups of it a little ahead of the sending, and see when all is done."""
        flow, journal = self._flow, self._flow.journal
        ahead = _AHEAD * flow.client._limits.uploads
        while not flow.over:
            event = flow.event
            if await journal.count("PLANNED") < ahead:
                rows = _portion(await journal.change(lambda db: inputs.to_hash(db, _HASHED)), flow.policy.group_bytes)
                if rows:
                    results = await self._hashed(rows)
                    await flow.tell(await journal.change(lambda db: self._grouped(db, results)))  # noqa: B023
                    continue
                final = flow.scanned
                if await journal.change(lambda db: group_inputs(db, flow.grouping, most=ahead, final=final)):  # noqa: B023
                    flow.wake()
                    continue
            if flow.scanned and not await journal.change(inputs.left):
                flow.finish()
                return
            await flow.rest(event)

    def _grouped(self, db: sqlite3.Connection, results: list[tuple[int, Hashed | Unusable]]) -> list[inputs.Ended]:
        flow = self._flow
        ended = inputs.hashed(db, flow.config, results, out=flow.options.out)
        group_inputs(db, flow.grouping, most=_HASHED, final=False)
        return ended

    async def _hashed(self, rows: list[tuple[int, bytes, int]]) -> list[tuple[int, Hashed | Unusable]]:
        """Hash files, small ones many to a visit to a thread, in two threads."""
        results: list[tuple[int, Hashed | Unusable]] = []
        visits = list(_visits(rows))
        limiter = anyio.CapacityLimiter(_HASHERS)

        async def visit(files: list[tuple[int, bytes]]) -> None:
            # A thread that reads may be left alone when the run is stopped.
            over = lambda: self._flow.over  # noqa: E731
            results.extend(
                await anyio.to_thread.run_sync(_hash_all, files, over, limiter=limiter, abandon_on_cancel=True)
            )

        async with anyio.create_task_group() as group:
            for files in visits:
                group.start_soon(visit, files)
        return sorted(results, key=lambda one: one[0])


def _batch(found: Iterator[Found]) -> list[Found]:
    """The next inputs, at least one if there are any: as many as come in a while."""
    batch: list[Found] = []
    end = time.monotonic() + _WHILE
    for one in found:
        batch.append(one)
        if len(batch) >= _SCANNED or time.monotonic() >= end:
            break
    return batch


def _portion(rows: list[tuple[int, bytes, int]], most: int) -> list[tuple[int, bytes, int]]:
    """The first of them that make a group by their bytes: it is sent while the next ones are hashed."""
    total = 0
    for number, (_, _, size) in enumerate(rows, 1):
        total += size
        if total >= most and number >= _HASHERS:
            return rows[:number]
    return rows


def _told(error: Exception) -> Exception:
    """What ended a part, out of its task group; what this machine has run out of is no fault of any input."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if not isinstance(error, OSError) or not ran_out(error):
        return error
    path = os.fsdecode(error.filename or "")
    told = DiskError(f"{path}: {error.strerror}; nothing is lost", path=path)
    told.__cause__ = error
    return told


def _visits(rows: list[tuple[int, bytes, int]]) -> Iterator[list[tuple[int, bytes]]]:
    visit: list[tuple[int, bytes]] = []
    total = 0
    for file_id, path, size in rows:
        visit.append((file_id, path))
        total += size
        if total >= _VISIT or len(visit) >= _HASHED // (2 * _HASHERS):
            yield visit
            visit, total = [], 0
    if visit:
        yield visit


def _hash_all(files: list[tuple[int, bytes]], over: Callable[[], bool]) -> list[tuple[int, Hashed | Unusable]]:
    results: list[tuple[int, Hashed | Unusable]] = []
    for file_id, path in files:
        try:
            results.append((file_id, hash_file(path, over=over)))
        except Unusable as error:
            results.append((file_id, error))
        except Abandoned:
            break
    return results
