"""`humebatch run`: files in, predictions out."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated

import anyio
import anyio.to_thread
import msgspec
import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from .. import local
from .._client.batch import BatchClient, Job
from ..config import base_url_from
from ..errors import AuthError, ConfigError, HumebatchError, SourceError
from ..jobs import MAX_ITEMS, JobDetails, Models, Submission
from ..predictions import SourceResult
from .findings import Finding, findings, summary
from .media import FoundFile, find_files
from .options import ApiKey, AsJson, BaseUrl, ModelsText, Paths, models_from
from .output import emit, exit_code, talk, worst

__all__ = ["run"]

# Jobs in flight at once; each holds up to 100 files.
_JOBS = 4


async def run(
    paths: Paths,
    models: ModelsText = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where predictions are saved.")] = Path(
        "humebatch-out"
    ),
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> int:
    """Measure files and save their predictions as OUT/<path>/predictions.json.

    Without a base URL (option or HUMEBATCH_BASE_URL) a server is started for as long as this takes.
    """
    wanted = models_from(models)
    files = await anyio.to_thread.run_sync(find_files, paths)
    with _progress() as progress:
        async with _client(base_url, api_key, progress) as client:
            async with anyio.create_task_group() as group:
                batch = _Run(client, wanted, out, progress, group.cancel_scope)
                slots = anyio.CapacityLimiter(_JOBS)
                for start in range(0, len(files), MAX_ITEMS):
                    await slots.acquire_on_behalf_of(start)
                    group.start_soon(batch.one, files[start : start + MAX_ITEMS], slots, start)
    if batch.fatal is not None:
        raise batch.fatal
    found = sorted(batch.found, key=lambda one: one.order)
    if as_json:
        for finding in found:
            emit(finding)
    else:
        _table(found, out)
    count = summary(found, named=wanted is not None)
    talk.print(f"{len(files)} files: {count.whole} measured, {count.partly} in part, {count.failed} not", markup=False)
    return worst([*batch.codes, *([1] if count.failed else [])])


@contextlib.asynccontextmanager
async def _client(base_url: str | None, api_key: str | None, progress: Progress) -> AsyncIterator[BatchClient]:
    if base_url_from(base_url) is not None:
        async with BatchClient(base_url=base_url, api_key=api_key) as client:
            yield client
        return
    task = progress.add_task("starting a server of our own", total=None)
    async with local.client() as client:
        progress.remove_task(task)
        yield client


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TimeElapsedColumn(),
        console=talk,
        # Lines that move make no sense in a log file.
        disable=not talk.is_terminal,
        transient=True,
    )


class _Run:
    """The jobs of one `humebatch run`, and what came of them."""

    def __init__(
        self, client: BatchClient, models: Models | None, out: Path, progress: Progress, scope: anyio.CancelScope
    ) -> None:
        self._client = client
        self._models = models
        self._out = out
        self._progress = progress
        self._scope = scope
        self.fatal: HumebatchError | None = None
        self.found: list[Finding] = []
        self.codes: list[int] = []

    async def one(self, files: list[FoundFile], slots: anyio.CapacityLimiter, start: int) -> None:
        """Send one group of files and take in its results. `start` is the number of its first file."""
        label = f"{files[0].path.name}" + (f" and {len(files) - 1} more" if len(files) > 1 else "")
        try:
            await self._measure(files, label, start)
        except SourceError as error:
            self._failed([file for file in files if str(file.path) == error.path] or files, error, start)
            rest = [file for file in files if str(file.path) != error.path]
            if rest and len(rest) < len(files):
                await self.one(rest, slots, start)
                return
        except HumebatchError as error:
            self._failed(files, error, start)
        finally:
            with contextlib.suppress(RuntimeError):
                slots.release_on_behalf_of(start)

    def _failed(self, files: list[FoundFile], error: HumebatchError, start: int) -> None:
        if isinstance(error, (AuthError, ConfigError)):
            # A wrong key is wrong for every file, and so is a wrong option.
            self.fatal = error
            self._scope.cancel()
        self.codes.append(1 if isinstance(error, SourceError) else exit_code(error))
        for number, file in enumerate(files):
            self.found.append(Finding(order=start + number, file=str(file.path), error=str(error)))

    async def _measure(self, files: list[FoundFile], label: str, start: int) -> None:
        task = self._progress.add_task(f"sending {label}", total=sum(file.path.stat().st_size for file in files))
        submission = Submission(files=[file.path for file in files], models=self._models)
        job = await self._client.submit(submission, progress=lambda sent: self._progress.advance(task, sent))
        talk.print(f"job {job.id}: {label}", markup=False)

        def show(details: JobDetails) -> None:
            self._progress.update(task, description=f"{details.state.status} {label}")

        try:
            await job.wait(on_state=show)
            results = await self._save(job, files)
        finally:
            self._progress.remove_task(task)
        for number, (file, (result, saved)) in enumerate(zip(files, results, strict=True)):
            self.found += findings(start + number, str(file.path), result, saved)

    async def _save(self, job: Job, files: list[FoundFile]) -> list[tuple[SourceResult, Path]]:
        await anyio.to_thread.run_sync(lambda: self._out.mkdir(parents=True, exist_ok=True))
        with tempfile.TemporaryDirectory(prefix="humebatch-") as folder:
            whole = Path(folder, "predictions.json")
            await job.save_predictions(whole)
            return await anyio.to_thread.run_sync(lambda: list(_split(whole, files, self._out)))


def _split(whole: Path, files: list[FoundFile], out: Path) -> Iterator[tuple[SourceResult, Path]]:
    """Each source's part of the answer, byte for byte as the server wrote it, to the file's own place."""
    sources = msgspec.json.decode(whole.read_bytes(), type=list[msgspec.Raw])
    if len(sources) != len(files):
        raise HumebatchError(f"the server answered for {len(sources)} sources, {len(files)} files were sent")
    for file, raw in zip(files, sources, strict=True):
        target = out / file.place / "predictions.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(".predictions.json.part")
        draft.write_bytes(b"[" + bytes(raw) + b"]")
        os.replace(draft, target)
        yield msgspec.json.decode(raw, type=SourceResult), target


def _table(found: list[Finding], out: Path) -> None:
    table = Table(box=SIMPLE_HEAD)
    for heading in ("file", "model", "found", "strongest (highest score of any prediction)"):
        table.add_column(heading, overflow="fold")
    for finding in found:
        file = escape(finding.file if finding.inside is None else f"{finding.file} › {finding.inside}")
        if finding.error is not None:
            table.add_row(file, finding.model or "", "[red]–[/red]", escape(finding.error))
        else:
            strongest = ", ".join(f"{name} {score:.2f}" for name, score in finding.strongest if score >= 0.01)
            table.add_row(file, finding.model or "", str(finding.predictions), strongest)
    talk.print(table)
    talk.print(f"Predictions, one file each, below {out}:", markup=False)
    for path in dict.fromkeys(finding.saved for finding in found if finding.saved):
        typer.echo(path)
