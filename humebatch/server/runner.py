"""The runner: bounded workers that take queued jobs, measure their files and write the results.

Media are opened and measured in child processes, so a hostile file can kill its process but not the server. A job's
files are measured side by side, as far as there are processes for them, and their results written in order. Results
are on disk before a job is COMPLETED; the uploaded files are deleted when the job ends, because recordings of people
are not kept longer than needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import anyio
import anyio.to_thread
import msgspec

from ..jobs import MODEL_NAMES, InferenceRequest, Models
from ..predictions import ResultError, Source
from .children import ChildFailed, Children
from .folders import Folders
from .measure import Media, Selection, Unmeasurable
from .measure.running import Measure, Reached, Told
from .media import ArchiveLimits, is_archive, single
from .results import Draft
from .steps import Begin, Broken, End, File, Step
from .store import JobRow, Store
from .unpacking import unpacked

__all__ = ["Fetcher", "Runner", "RunnerLimits"]

T = TypeVar("T")
_log = logging.getLogger("humebatch.server")
_DATABASE_PAUSE = 5.0
_PROGRESS_SECONDS = 1.0
_LOG_SECONDS = 10.0
_request_decoder = msgspec.json.Decoder(InferenceRequest)


class RunnerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """`workers`: jobs, and files, measured at once. `attempts`: how often a job is begun when the server goes down.

    `file_seconds`: how long a process may measure, or unpack, without getting any further. `fetch_seconds`: how long
    all URLs of a job together may take, because a job holds one of the workers while it waits for them.
    """

    workers: int = os.cpu_count() or 1
    file_seconds: float = 900.0
    fetch_seconds: float = 3600.0
    attempts: int = 3
    archives: ArchiveLimits = ArchiveLimits()


class Fetcher(Protocol):
    """Brings the file behind a URL."""

    def __call__(self, url: str, target: Path, /) -> Awaitable[Media]:
        """Download `url` to `target`. Raises `Unmeasurable` with a sentence for the caller."""
        ...


class _Job(msgspec.Struct):
    """A job while it is measured: its request, the models that run with their options, and where results go."""

    id: str
    request: InferenceRequest
    models: Models
    wanted: dict[str, Any]
    draft: Draft
    errors: list[ResultError] = []
    files_done: int = 0
    fetching: float = 0.0
    """Seconds that its URLs took so far."""
    recorded: int = 0
    """`files_done` as the store has it."""
    recorded_at: float = 0.0
    """When that was, by the monotonic clock."""


class Runner:
    """Works off the queue in `store`. `run` goes on until it is cancelled; `wake` says that there is work.

    `fetch` brings the files behind URLs; None refuses them. `ended` is called after each job's end.
    """

    def __init__(
        self,
        store: Store,
        folders: Folders,
        selection: Selection,
        limits: RunnerLimits,
        children: Children,
        *,
        fetch: Fetcher | None = None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._folders = folders
        self._selection = selection
        self._limits = limits
        self._children = children
        self._fetch = fetch
        self._ended = ended
        self._work = asyncio.Event()

    def wake(self) -> None:
        """A job was queued."""
        self._work.set()

    async def run(self) -> None:
        """Measure until cancelled."""
        async with anyio.create_task_group() as group:
            for _ in range(self._limits.workers):
                group.start_soon(self._worker)

    def recover(self) -> None:
        """Take up what a crash left. Blocks; to be called before jobs come in, whose files it would take for old."""
        self._store.recover(now_ms=_now_ms(), max_attempts=self._limits.attempts)
        self._folders.forget_ended(self._store.unfinished())

    async def _worker(self) -> None:
        while True:
            # Cleared before the look, so a job that is queued in between sets it again.
            self._work.clear()
            job = await self._recorded(lambda: self._store.claim(now_ms=_now_ms(), measure=str(self._selection)))
            if job is None:
                await self._work.wait()
                continue
            # One event wakes all workers, and the first to clear it must not leave the others asleep.
            self._work.set()
            try:
                await self._one(job)
            except Exception:  # noqa: BLE001
                # A worker that ends takes all others with it, and with them every job to come.
                _log.exception("the end of job %s went wrong", job.id)

    async def _one(self, job: JobRow) -> None:
        try:
            predictions, errors, files = await self._measure_job(job)
            await self._recorded(
                lambda: self._store.finish(
                    job.id, ended_ms=_now_ms(), num_predictions=predictions, num_errors=errors, files_done=files
                )
            )
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                try:
                    await anyio.to_thread.run_sync(self._store.requeue, job.id)
                except Exception:  # noqa: BLE001 - the next start takes the job up all the same
                    _log.exception("job %s could not be handed back", job.id)
            raise
        except Exception as error:  # noqa: BLE001
            # The job's end must be recorded whatever went wrong: disk full, a bug. Its message is the client's.
            _log.exception("job %s failed", job.id)
            reason = f"the server could not measure this job: {_reason(error)}"
            await self._recorded(lambda: self._store.fail(job.id, ended_ms=_now_ms(), message=reason))
        self._ended()
        await anyio.to_thread.run_sync(self._folders.forget_inputs, job.id)

    async def _recorded(self, change: Callable[[], T]) -> T:
        """Make a change to the store, however long the database cannot be written: a full disk is cleared some day.

        Giving up would stop the workers, or leave a job IN_PROGRESS, until somebody restarts the server.
        """
        while True:
            try:
                return await anyio.to_thread.run_sync(change)
            except sqlite3.DatabaseError:
                _log.exception("the database cannot be written; trying again in %g s", _DATABASE_PAUSE)
                await anyio.sleep(_DATABASE_PAUSE)

    async def _measure_job(self, job: JobRow) -> tuple[int, int, int]:
        request = await anyio.to_thread.run_sync(_request_decoder.decode, job.request)
        models = request.models or Models()
        wanted = {name: config for name in MODEL_NAMES if (config := getattr(models, name))}
        draft = await anyio.to_thread.run_sync(lambda: Draft(self._folders.begin(job.id)))
        measured = _Job(job.id, request, models, wanted, draft)
        try:
            await self._measured_and_written(measured)
            await anyio.to_thread.run_sync(draft.finish)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(draft.close)
        await anyio.to_thread.run_sync(self._folders.publish, job.id)
        return draft.rows, draft.failures, measured.files_done

    async def _measured_and_written(self, job: _Job) -> None:
        """Measure files as they come, a few ahead of the one that is written next."""
        pending: deque[Step] = deque()
        ahead = 0
        async with contextlib.aclosing(self._steps(job)) as steps, anyio.create_task_group() as group:
            async for step in steps:
                pending.append(step)
                if isinstance(step, File):
                    ahead += 1
                    group.start_soon(self._measure, job, step)
                while ahead > self._limits.workers:
                    written = pending.popleft()
                    ahead -= isinstance(written, File)
                    await self._write(job, written)
            while pending:
                await self._write(job, pending.popleft())

    async def _steps(self, job: _Job) -> AsyncGenerator[Step]:
        """The job's sources and files in the order of the results."""
        for number, url in enumerate(job.request.urls or ()):
            source = Source(type="url", url=url)
            try:
                media = await self._fetched(job, number, url)
            except Unmeasurable as error:
                yield Broken(source, str(error))
                continue
            async with contextlib.aclosing(self._source(job, source, media)) as steps:
                async for step in steps:
                    yield step
        for number, file in enumerate(job.request.files):
            path = self._folders.input(job.id, number)
            name = file.filename or str(number)
            source = Source(type="file", filename=file.filename, content_type=file.content_type, md5sum=file.md5sum)
            media = Media(path=str(path), name=name, file_type="unknown", md5sum=file.md5sum)
            async with contextlib.aclosing(self._source(job, source, media)) as steps:
                async for step in steps:
                    yield step
        if job.request.text:
            yield Begin(Source(type="text"))
            for number, text in enumerate(job.request.text, start=1):
                # Real answers call the strings of `text` by their number.
                media = await anyio.to_thread.run_sync(self._folders.write_text, job.id, number, text)
                yield self._file(job, media)
            yield End()

    async def _source(self, job: _Job, source: Source, media: Media) -> AsyncGenerator[Step]:
        """The steps of one file or archive. The kind of `media` is looked at here."""
        yield Begin(source)
        error = None
        try:
            async with contextlib.aclosing(self._media(media, job.id)) as files:
                async for one in files:
                    yield self._file(job, one)
        except Unmeasurable as unmeasurable:
            error = ResultError(message=str(unmeasurable), file=media.name)
        yield End(error)

    def _file(self, job: _Job, media: Media) -> File:
        return File(media, self._folders.measured(job.id), anyio.Event())

    async def _media(self, media: Media, job_id: str) -> AsyncGenerator[Media]:
        path, name = Path(media.path), media.name
        if not await anyio.to_thread.run_sync(is_archive, path, name):
            yield await anyio.to_thread.run_sync(single, path, name, media.md5sum)
            return
        scratch = await anyio.to_thread.run_sync(self._folders.scratch, job_id)
        seconds = self._limits.file_seconds
        async with contextlib.aclosing(unpacked(path, name, scratch, self._limits.archives, seconds=seconds)) as files:
            async for member in files:
                # The next member is unpacked while this one is still measured: it gets a place of its own.
                kept = await anyio.to_thread.run_sync(self._folders.keep_member, job_id, Path(member.path))
                yield msgspec.structs.replace(member, path=str(kept))
        await anyio.to_thread.run_sync(self._folders.forget_archive, path)

    async def _fetched(self, job: _Job, number: int, url: str) -> Media:
        if self._fetch is None:
            raise Unmeasurable("this server does not fetch URLs: download the file and send it itself")
        target = await anyio.to_thread.run_sync(self._folders.fetched, job.id, number)
        started = time.monotonic()
        try:
            with anyio.fail_after(max(0.0, self._limits.fetch_seconds - job.fetching)):
                return await self._fetch(url, target)
        except TimeoutError:
            raise Unmeasurable(
                f"not fetched: the URLs of this job took longer than {self._limits.fetch_seconds:g} s together; "
                "send the others in another job"
            ) from None
        finally:
            job.fetching += time.monotonic() - started

    async def _measure(self, job: _Job, file: File) -> None:
        """Measure one file; whatever happens becomes part of its results."""
        started = file.logged_at = time.monotonic()

        def take(told: Told) -> None:
            file.take(told)
            now = time.monotonic()
            if isinstance(told, Reached) and now - file.logged_at >= _LOG_SECONDS:
                file.logged_at = now
                _log.info("job %s: %s has reached second %.0f of a file", job.id, told.model, told.second)

        try:
            if not job.wanted:
                return
            try:
                # Nothing is awaited before this, so that files get their processes in their order.
                await self._children.measure(self._request(job, file, job.models), take)
            except ChildFailed as error:
                await self._crashed(job, file, error)
            # One model that crashes on a file must not take the others with it.
            for model in file.remaining():
                alone = Models(**{model: job.wanted[model]})
                # It is to blame also when the process does not come as far as to begin with it.
                file.begun.append(model)
                try:
                    await self._children.measure(self._request(job, file, alone), take)
                except ChildFailed as error:
                    await self._crashed(job, file, error)
        finally:
            taken = time.monotonic() - started
            # Thousands of short texts are not worth a line each.
            level = logging.INFO if taken >= _LOG_SECONDS else logging.DEBUG
            rows = ", ".join(f"{model}: {found.rows} rows" for model, found in file.found.items())
            _log.log(level, "job %s: a file was measured in %.1f s (%s)", job.id, taken, rows or "nothing found")
            file.ready.set()

    async def _crashed(self, job: _Job, file: File, error: ChildFailed) -> None:
        model = file.blame(error)
        _log.warning("job %s: a worker failed on a file: %s", job.id, error)
        await anyio.to_thread.run_sync(self._folders.forget_crash, file.folder, model)

    def _request(self, job: _Job, file: File, models: Models) -> Measure:
        return Measure(
            media=file.media,
            models=models,
            transcription=job.request.transcription or None,
            selection=self._selection,
            folder=str(file.folder),
        )

    async def _write(self, job: _Job, step: Step) -> None:
        match step:
            case Begin(source):
                job.errors = []
                await anyio.to_thread.run_sync(job.draft.begin, source)
            case End(error):
                if error is not None:
                    job.errors.append(error)
                await anyio.to_thread.run_sync(job.draft.end, job.errors)
            case Broken(source, message):
                await anyio.to_thread.run_sync(job.draft.failed, source, message)
                job.files_done += 1
            case File():
                if not step.ready.is_set():
                    # It may take long: what was done until here is told now.
                    await self._record_progress(job)
                    await step.ready.wait()
                await anyio.to_thread.run_sync(self._add, job, step)
                job.files_done += 1
        if time.monotonic() - job.recorded_at >= _PROGRESS_SECONDS:
            await self._record_progress(job)

    async def _record_progress(self, job: _Job) -> None:
        if job.files_done != job.recorded:
            done = job.files_done
            await self._recorded(lambda: self._store.progress(job.id, files_done=done))
            job.recorded, job.recorded_at = done, time.monotonic()

    def _add(self, job: _Job, file: File) -> None:
        """Write a file's results and remove what it left on disk. Blocks."""
        media, draft = file.media, job.draft
        found = {model: file.folder / f"{model}.json" for model in MODEL_NAMES if model in file.found}
        if found:
            self._folders.keep_faces(job.id, file.folder, source=draft.sources - 1, file=draft.files)
            rows = sum(one.rows for one in file.found.values())
            draft.add(media, found, rows, {model: one.by for model, one in file.found.items()})
        elif not file.errors:
            job.errors.append(ResultError(message=_inapplicable(job, media), file=media.name))
        for error in file.errors:
            job.errors.append(ResultError(message=error.message, file=media.name, model=error.model))
        for model, one in file.found.items():
            job.errors += [ResultError(message=note, file=media.name, model=model) for note in one.notes]
        self._folders.forget_file(Path(media.path), file.folder)


def _inapplicable(job: _Job, media: Media) -> str:
    """Why nothing measured this file."""
    if not job.wanted:
        return "the request switches every model off"
    kind = "its kind is not recognised" if media.file_type == "unknown" else f"it is {media.file_type}"
    return f"none of the models {', '.join(job.wanted)} measures this file: {kind}"


def _reason(error: BaseException) -> str:
    # Files are measured in a task group, which wraps what one of them raised.
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
