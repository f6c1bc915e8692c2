"""`humebatch run`: files in, predictions out."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated

import anyio
import anyio.to_thread
import msgspec
import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from .. import local
from .._client.batch import BatchClient, Job
from .._transport.files import save_atomically
from .._wire import codec
from ..config import base_url_from
from ..errors import AuthError, ConfigError, DecodeError, HumebatchError, SourceError
from ..jobs import MAX_ITEMS, Models, Submission
from .drawing import drawn, spinning
from .findings import Finding, failure, findings, summary
from .media import FoundFile, find_files
from .options import ApiKey, AsJson, BaseUrl, ModelsText, Paths, models_from
from .output import emit, exit_code, say, talk, worst

__all__ = ["run"]

# Jobs in flight at once; each holds up to 100 files.
_JOBS = 4
_sources = msgspec.json.Decoder(list[msgspec.Raw])


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
    if api_key is not None and base_url_from(base_url) is None:
        raise ConfigError(
            "--api-key goes with --base-url: a server that is started for this run has a key of its own",
            field="api_key",
        )
    files = await anyio.to_thread.run_sync(lambda: find_files(paths, out=out))
    # Before anything is measured for nothing.
    await anyio.to_thread.run_sync(_make, out)
    groups = _groups(files)
    batch: _Run | None = None
    async with _client(base_url, api_key) as client, drawn(client), anyio.create_task_group() as group:
        batch = _Run(client, wanted, out, group.cancel_scope)
        for _ in range(_JOBS):
            group.start_soon(batch.work, groups)
    assert batch is not None  # a cancelled block does not get here
    if batch.fatal is not None:
        raise batch.fatal
    found = sorted(batch.found, key=lambda one: one.order)
    if as_json:
        for finding in found:
            emit(finding)
    else:
        _table(found)
        if batch.saved:
            say(f"Predictions, one file each, below {out}:")
        for _, path in sorted(batch.saved.items()):
            # As bytes: what reads this opens the files, whatever their names are made of.
            typer.echo(os.fsencode(path))
    count = summary(found, named=wanted is not None)
    say(f"{len(files)} files: {count.whole} measured, {count.partly} in part, {count.failed} not")
    return worst([*batch.codes, *([1] if count.failed else [])])


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ConfigError(f"--out: cannot write to {out}: {error.strerror}", field="out") from error


def _groups(files: Sequence[FoundFile]) -> Iterator[list[FoundFile]]:
    rest = iter(files)
    while group := list(islice(rest, MAX_ITEMS)):
        yield group


@contextlib.asynccontextmanager
async def _client(base_url: str | None, api_key: str | None) -> AsyncIterator[BatchClient]:
    if base_url_from(base_url) is not None:
        async with BatchClient(base_url=base_url, api_key=api_key) as client:
            yield client
        return
    async with contextlib.AsyncExitStack() as stack:
        with spinning("starting a server of our own"):
            client = await stack.enter_async_context(local.client())
        yield client


class _Run:
    """The jobs of one `humebatch run`, and what came of them. `saved`: number of a file to its predictions."""

    def __init__(self, client: BatchClient, models: Models | None, out: Path, scope: anyio.CancelScope) -> None:
        self._client = client
        self._models = models
        self._out = out
        self._scope = scope
        self.fatal: HumebatchError | None = None
        self.found: list[Finding] = []
        self.saved: dict[int, Path] = {}
        self.codes: list[int] = []

    async def work(self, groups: Iterator[list[FoundFile]]) -> None:
        """Take groups of files, one after the other, from what several workers share."""
        for group in groups:
            await self._group(group)

    async def _group(self, files: list[FoundFile]) -> None:
        """Measure files as one job; one that cannot be sent is left out and the others go without it."""
        left = files
        while left:
            try:
                await self._measure(left)
                return
            except SourceError as error:
                bad = [file for file in left if str(file.path) == error.path] or left
                self._failed(bad, error)
                left = [file for file in left if file not in bad]
            except (HumebatchError, OSError) as error:
                self._failed(left, error)
                return

    def _failed(self, files: Sequence[FoundFile], error: HumebatchError | OSError) -> None:
        if isinstance(error, (AuthError, ConfigError)):
            # A wrong key is wrong for every file, and so is a wrong option.
            self.fatal = error
            self._scope.cancel()
        self.codes.append(1 if isinstance(error, SourceError) else exit_code(error))
        self.found += [failure(file, error) for file in files]

    async def _measure(self, files: list[FoundFile]) -> None:
        label = files[0].path.name + (f" and {len(files) - 1} more" if len(files) > 1 else "")
        job = await self._client.submit(Submission(files=[file.path for file in files], models=self._models))
        say(f"job {job.id}: {label}")
        await job.wait()
        sources = await self._fetch(job)
        if len(sources) != len(files):
            raise DecodeError(f"the server answered for {len(sources)} sources, {len(files)} files were sent")
        for file, raw in zip(files, sources, strict=True):
            try:
                await self._take(file, bytes(raw))
            except (HumebatchError, OSError) as error:
                self._failed([file], error)

    async def _fetch(self, job: Job) -> list[msgspec.Raw]:
        # Below --out and nowhere else: what a killed run leaves behind must not lie in a folder of all users.
        async with anyio.TemporaryDirectory(prefix=".humebatch-", dir=str(self._out)) as folder:
            whole = Path(folder, "predictions.json")
            await job.save_predictions(whole)
            return await anyio.to_thread.run_sync(lambda: codec.decode(_sources, whole.read_bytes(), "predictions"))

    async def _take(self, file: FoundFile, raw: bytes) -> None:
        """Save one source's part of the answer, byte for byte as the server wrote it, at the file's own place."""
        data = b"[" + raw + b"]"
        (result,) = codec.decode_predictions(data)
        target = self._out / file.place / "predictions.json"
        await anyio.to_thread.run_sync(lambda: target.parent.mkdir(parents=True, exist_ok=True))
        await save_atomically(target, _once(data))
        self.saved[file.order] = target
        self.found += findings(file, result, target)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _table(found: list[Finding]) -> None:
    table = Table(box=SIMPLE_HEAD)
    for heading in ("file", "model", "found", "strongest (highest score of any prediction)"):
        table.add_column(heading, overflow="fold")
    for finding in found:
        file = escape(finding.file if finding.inside is None else f"{finding.file} › {finding.inside}")
        if finding.error is not None:
            table.add_row(file, finding.model or "", "[red]–[/red]", escape(finding.error))
        else:
            strongest = ", ".join(f"{name} {score:.2f}" for name, score in finding.strongest if score >= 0.01)
            table.add_row(file, finding.model or "", str(finding.predictions), escape(strongest))
    talk.print(table)
