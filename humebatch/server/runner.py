"""The runner: bounded workers that take queued jobs, measure their files and write the results.

Media are opened and measured in child processes, so a hostile file can kill its process but not the
server. Results are on disk before a job is COMPLETED; the uploaded files are
deleted when the job ends, for nobody should keep recordings of people longer than needed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_process
import anyio.to_thread
import msgspec
from anyio import BrokenWorkerProcess

from .._wire.codec import encode
from ..jobs import MODEL_NAMES, InferenceRequest, Models
from ..predictions import ModelsPredictions, Prediction, ResultError, Results, Source, SourceResult
from .folders import Folders
from .measure import APPLIES_TO, Measured, MeasureMode, Media, Unmeasurable, home, measure
from .media import ArchiveLimits, is_archive, members, single
from .store import JobRow, Store

__all__ = ["Runner", "RunnerLimits"]

_log = logging.getLogger("humebatch.server")
_request_decoder = msgspec.json.Decoder(InferenceRequest)


class RunnerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """`workers`: jobs measured at once. `file_seconds`: time for one model on one file.

    `attempts`: how often a job is begun when the server goes down under it.
    """

    workers: int = os.cpu_count() or 1
    file_seconds: float = 900.0
    attempts: int = 3
    archives: ArchiveLimits = ArchiveLimits()


class Runner:
    """Works off the queue in `store`. `run` goes on until it is cancelled; `wake` says that there is work."""

    def __init__(self, store: Store, folders: Folders, mode: MeasureMode, limits: RunnerLimits) -> None:
        self._store = store
        self._folders = folders
        self._mode: MeasureMode = mode
        self._limits = limits
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
            job = await anyio.to_thread.run_sync(lambda: self._store.claim(now_ms=_now_ms()))
            if job is None:
                await self._work.wait()
                continue
            # One event wakes all workers, and the first to clear it must not leave the others asleep.
            self._work.set()
            await self._one(job)

    async def _one(self, job: JobRow) -> None:
        try:
            predictions, errors = await self._measure_job(job)
            await anyio.to_thread.run_sync(
                lambda: self._store.finish(job.id, ended_ms=_now_ms(), num_predictions=predictions, num_errors=errors)
            )
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._store.requeue, job.id)
            raise
        except Exception as error:  # noqa: BLE001
            # The job's end must be told whatever went wrong: disk full, a bug. Its message is the client's.
            _log.exception("job %s failed", job.id)
            reason = f"the server could not measure this job: {type(error).__name__}: {error}"
            await anyio.to_thread.run_sync(lambda: self._store.fail(job.id, ended_ms=_now_ms(), message=reason))
        await anyio.to_thread.run_sync(self._folders.forget_inputs, job.id)

    async def _measure_job(self, job: JobRow) -> tuple[int, int]:
        request = _request_decoder.decode(job.request)
        models = request.models or Models()
        wanted = {name: config for name in MODEL_NAMES if (config := getattr(models, name))}
        rows = failures = 0
        async with await anyio.open_file(self._folders.draft(job.id), "wb") as out:
            separator = b"["
            async for result in self._sources(job.id, request, wanted):
                rows += _rows(result)
                failures += len(result.results.errors) if result.results else 1
                await out.write(separator + encode(result))
                separator = b","
            await out.write(b"[]" if separator == b"[" else b"]")
            await out.flush()
            await anyio.to_thread.run_sync(os.fsync, out.wrapped.fileno())
        await anyio.to_thread.run_sync(self._folders.publish, job.id)
        return rows, failures

    async def _sources(
        self, job_id: str, request: InferenceRequest, wanted: dict[str, Any]
    ) -> AsyncIterator[SourceResult]:
        for url in request.urls or ():
            yield SourceResult(
                source=Source(type="url", url=url),
                error="this server does not fetch URLs: download the file and send it itself",
            )
        for number, file in enumerate(request.files):
            path = self._folders.input(job_id, number)
            name = file.filename or str(number)
            source = Source(type="file", filename=file.filename, content_type=file.content_type, md5sum=file.md5sum)
            results = Results(predictions=[], errors=[])
            try:
                async for media in self._media(path, name, file.md5sum, job_id):
                    await self._file(media, wanted, results)
            except Unmeasurable as error:
                results.errors.append(ResultError(message=str(error), file=name))
            yield SourceResult(source=source, results=results)
        if request.text:
            results = Results(predictions=[], errors=[])
            for number, text in enumerate(request.text, start=1):
                # Real answers call the strings of `text` by their number.
                media = await anyio.to_thread.run_sync(self._folders.write_text, job_id, number, text)
                await self._file(media, wanted, results)
            yield SourceResult(source=Source(type="text"), results=results)

    async def _media(self, path: Path, name: str, md5sum: str, job_id: str) -> AsyncIterator[Media]:
        if not await anyio.to_thread.run_sync(is_archive, path, name):
            yield await anyio.to_thread.run_sync(single, path, name, md5sum)
            return
        scratch = await anyio.to_thread.run_sync(self._folders.scratch, job_id)
        files = members(path, name, scratch, self._limits.archives)
        while (media := await anyio.to_thread.run_sync(_next, files)) is not None:
            yield media

    async def _file(self, media: Media, wanted: dict[str, Any], results: Results) -> None:
        applicable = {name: config for name, config in wanted.items() if media.file_type in APPLIES_TO[name]}
        if not applicable:
            kind = "its kind is not recognised" if media.file_type == "unknown" else f"it is {media.file_type}"
            results.errors.append(
                ResultError(
                    message=f"none of the models {', '.join(wanted)} measures this file: {kind}", file=media.name
                )
                if wanted
                else ResultError(message="the request switches every model off", file=media.name)
            )
            return
        found = ModelsPredictions()
        for model, config in applicable.items():
            try:
                measured = await self._measure(model, media, config)
            except Unmeasurable as error:
                results.errors.append(ResultError(message=str(error), file=media.name, model=model))
                continue
            setattr(found, model, measured.predictions)
            results.errors += [ResultError(message=note, file=media.name, model=model) for note in measured.notes]
        if any(getattr(found, model) for model in applicable):
            file_type = None if media.file_type in ("landmarks", "unknown") else media.file_type
            results.predictions.append(Prediction(file=media.name, models=found, file_type=file_type))

    async def _measure(self, model: str, media: Media, config: Any) -> Measured:
        mode = self._mode
        home(model, mode)
        if mode == "fixed":  # opens nothing and takes no time: not worth a process
            return await anyio.to_thread.run_sync(measure, model, mode, media, config)
        seconds = self._limits.file_seconds
        try:
            with anyio.fail_after(seconds):
                return await anyio.to_process.run_sync(
                    measure, model, mode, media, config, cancellable=True, limiter=self._processes
                )
        except TimeoutError:
            raise Unmeasurable(f"measuring {model} took longer than {seconds:g} s and was stopped") from None
        except BrokenWorkerProcess:
            raise Unmeasurable(f"the process that measured {model} on this file died; is the file damaged?") from None
        except Unmeasurable:
            raise
        except Exception as error:
            # One file that a measurer trips over must not take the other files of the job with it.
            _log.exception("%s failed on a file of a job", model)
            raise Unmeasurable(f"measuring {model} failed: {type(error).__name__}: {error}") from error


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _next(files: Iterator[Media]) -> Media | None:
    return next(files, None)


def _rows(result: SourceResult) -> int:
    if result.results is None:
        return 0
    return sum(
        len(group.predictions)
        for prediction in result.results.predictions
        for model in MODEL_NAMES
        if (found := getattr(prediction.models, model))
        for group in found.grouped_predictions
    )
