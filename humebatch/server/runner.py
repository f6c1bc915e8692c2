"""The runner: bounded workers that take queued jobs, measure their files and write the results.

Media are opened and measured in child processes, so a hostile file can kill its process but not the
server. Results are on disk before a job is COMPLETED; the uploaded files are
deleted when the job ends, for nobody should keep recordings of people longer than needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import anyio
import anyio.to_thread
import msgspec

from ..jobs import MODEL_NAMES, InferenceRequest, Models
from ..predictions import ResultError, Source
from .children import in_child
from .folders import Folders
from .measure import APPLIES_TO, Fragment, MeasureMode, Media, Unmeasurable, home, measure
from .media import ArchiveLimits, is_archive, single
from .results import Draft
from .store import JobRow, Store
from .unpacking import unpacked

__all__ = ["Runner", "RunnerLimits"]

T = TypeVar("T")
_log = logging.getLogger("humebatch.server")
_DATABASE_PAUSE = 5.0
_request_decoder = msgspec.json.Decoder(InferenceRequest)


class RunnerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """`workers`: jobs measured at once. `file_seconds`: time for one model on one file.

    `attempts`: how often a job is begun when the server goes down under it.
    """

    workers: int = os.cpu_count() or 1
    file_seconds: float = 900.0
    attempts: int = 3
    archives: ArchiveLimits = ArchiveLimits()


class _Job(NamedTuple):
    """A job while it is measured: its request, the models that run with their options, and where results go."""

    id: str
    request: InferenceRequest
    wanted: dict[str, Any]
    draft: Draft


class Runner:
    """Works off the queue in `store`. `run` goes on until it is cancelled; `wake` says that there is work.

    `ended` is called after each job's end.
    """

    def __init__(
        self,
        store: Store,
        folders: Folders,
        mode: MeasureMode,
        limits: RunnerLimits,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._folders = folders
        self._mode: MeasureMode = mode
        self._limits = limits
        self._ended = ended
        self._work = asyncio.Event()
        self._processes = anyio.CapacityLimiter(limits.workers)

    def wake(self) -> None:
        """A job was queued."""
        self._work.set()

    async def run(self) -> None:
        """Measure for ever."""
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
            job = await self._recorded(lambda: self._store.claim(now_ms=_now_ms(), measure=self._mode))
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
            predictions, errors = await self._measure_job(job)
            await self._recorded(
                lambda: self._store.finish(job.id, ended_ms=_now_ms(), num_predictions=predictions, num_errors=errors)
            )
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                try:
                    await anyio.to_thread.run_sync(self._store.requeue, job.id)
                except Exception:  # noqa: BLE001 - the next start takes the job up all the same
                    _log.exception("job %s could not be handed back", job.id)
            raise
        except Exception as error:  # noqa: BLE001
            # The job's end must be told whatever went wrong: disk full, a bug. Its message is the client's.
            _log.exception("job %s failed", job.id)
            reason = f"the server could not measure this job: {type(error).__name__}: {error}"
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

    async def _measure_job(self, job: JobRow) -> tuple[int, int]:
        request = await anyio.to_thread.run_sync(_request_decoder.decode, job.request)
        models = request.models or Models()
        wanted = {name: config for name in MODEL_NAMES if (config := getattr(models, name))}
        draft = await anyio.to_thread.run_sync(Draft, self._folders.draft(job.id))
        try:
            await self._sources(_Job(job.id, request, wanted, draft))
            await anyio.to_thread.run_sync(draft.finish)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(draft.close)
        await anyio.to_thread.run_sync(self._folders.publish, job.id)
        return draft.rows, draft.failures

    async def _sources(self, job: _Job) -> None:
        for url in job.request.urls or ():
            await anyio.to_thread.run_sync(
                job.draft.failed,
                Source(type="url", url=url),
                "this server does not fetch URLs: download the file and send it itself",
            )
        for number, file in enumerate(job.request.files):
            path = self._folders.input(job.id, number)
            name = file.filename or str(number)
            source = Source(type="file", filename=file.filename, content_type=file.content_type, md5sum=file.md5sum)
            errors: list[ResultError] = []
            await anyio.to_thread.run_sync(job.draft.begin, source)
            try:
                async with contextlib.aclosing(self._media(path, name, file.md5sum, job.id)) as files:
                    async for media in files:
                        await self._file(job, media, errors)
            except Unmeasurable as error:
                errors.append(ResultError(message=str(error), file=name))
            await anyio.to_thread.run_sync(job.draft.end, errors)
        if job.request.text:
            errors = []
            await anyio.to_thread.run_sync(job.draft.begin, Source(type="text"))
            for number, text in enumerate(job.request.text, start=1):
                # Real answers call the strings of `text` by their number.
                media = await anyio.to_thread.run_sync(self._folders.write_text, job.id, number, text)
                await self._file(job, media, errors)
            await anyio.to_thread.run_sync(job.draft.end, errors)

    async def _media(self, path: Path, name: str, md5sum: str, job_id: str) -> AsyncGenerator[Media]:
        if not await anyio.to_thread.run_sync(is_archive, path, name):
            yield await anyio.to_thread.run_sync(single, path, name, md5sum)
            return
        scratch = await anyio.to_thread.run_sync(self._folders.scratch, job_id)
        seconds = self._limits.file_seconds
        async with contextlib.aclosing(unpacked(path, name, scratch, self._limits.archives, seconds=seconds)) as files:
            async for media in files:
                yield media

    async def _file(self, job: _Job, media: Media, errors: list[ResultError]) -> None:
        applicable = {name: config for name, config in job.wanted.items() if media.file_type in APPLIES_TO[name]}
        if not applicable:
            kind = "its kind is not recognised" if media.file_type == "unknown" else f"it is {media.file_type}"
            errors.append(
                ResultError(
                    message=f"none of the models {', '.join(job.wanted)} measures this file: {kind}", file=media.name
                )
                if job.wanted
                else ResultError(message="the request switches every model off", file=media.name)
            )
            return
        spill = self._folders.spill(job.id)
        for model, config in applicable.items():
            try:
                fragment = await self._measure(model, media, config, spill)
            except Unmeasurable as error:
                errors.append(ResultError(message=str(error), file=media.name, model=model))
                continue
            await anyio.to_thread.run_sync(job.draft.add, media, model, fragment, spill)
            errors += [ResultError(message=note, file=media.name, model=model) for note in fragment.notes]

    async def _measure(self, model: str, media: Media, config: Any, spill: Path) -> Fragment:
        mode = self._mode
        home(model, mode)
        try:
            if mode == "fixed":  # opens nothing and takes no time: not worth a process
                return await anyio.to_thread.run_sync(measure, model, mode, media, config, str(spill))
            return await in_child(
                measure,
                *(model, mode, media, config, str(spill)),
                what=f"measuring {model}",
                limiter=self._processes,
                seconds=self._limits.file_seconds,
            )
        except Unmeasurable:
            raise
        except Exception as error:
            # One file that a measurer trips over must not take the other files of the job with it.
            _log.exception("%s failed on a file of a job", model)
            raise Unmeasurable(f"measuring {model} failed: {type(error).__name__}: {error}") from error


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
