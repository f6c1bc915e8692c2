"""`humebatch run`: any number of files in, predictions out, each measured once, whatever happens on the way."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated

import anyio.to_thread
import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from .. import local
from .._client.batch import BatchClient
from .._client.outcome import Outcome
from ..config import IngestPolicy, base_url_from
from ..errors import ConfigError, DecodeError, HumebatchError, InputFailed, SourceError
from ..ingestion import Ingested, IngestReport, InputState, Reason
from ..jobs import MAX_ITEMS, Models
from .drawing import drawn, spinning
from .findings import Finding, Tally, failure, findings
from .interrupt import stopping
from .options import ApiKey, AsJson, BaseUrl, ModelsText, Paths, models_from
from .output import counted, emit, plain, printable, say, talk, worst
from .weights import offer

__all__ = ["run"]

# More inputs than this are no table for anybody; the index has them all.
_SHOWN = 100


async def run(
    paths: Paths,
    models: ModelsText = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where predictions are saved.")] = Path(
        "humebatch-out"
    ),
    journal: Annotated[
        Path | None,
        typer.Option("--journal", metavar="FILE", help="What is known of the run. Default: DIR/journal.db."),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option("--include", metavar="PATTERN", help="In folders, take only files like this; may be repeated."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="PATTERN", help="Leave out files and folders like this; may be repeated."),
    ] = None,
    files_per_job: Annotated[
        int, typer.Option("--files-per-job", metavar="N", help="More than 100 go as one ZIP (extra bundle).")
    ] = MAX_ITEMS,
    artifacts: Annotated[
        bool, typer.Option("--artifacts", help="Save the ZIP of each job in DIR/artifacts, too.")
    ] = False,
    grace: Annotated[
        float,
        typer.Option(
            "--grace",
            metavar="SECONDS",
            help="On servers without idempotency keys: how long a submission without an answer is waited for.",
        ),
    ] = IngestPolicy().grace,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Submit what failed in earlier runs again; and what was parked.")
    ] = False,
    rebind: Annotated[
        bool, typer.Option("--rebind", help="Go on with a journal of another server, key, models or folder.")
    ] = False,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> int:
    """Measure files and save their predictions as OUT/<path>/predictions.json.

    Interrupted or killed, the same command goes on where it was. Without a base URL (option or HUMEBATCH_BASE_URL) a
    server is started for as long as this takes.
    """
    wanted = models_from(models)
    if api_key is not None and base_url_from(base_url) is None:
        raise ConfigError(
            "--api-key goes with --base-url: a server that is started for this run has a key of its own",
            field="api_key",
        )
    kept = journal or out / "journal.db"
    await anyio.to_thread.run_sync(_look, paths, kept)
    policy = IngestPolicy(grace=grace)
    told = _Told(out, wanted, as_json=as_json)
    async with (
        _client(base_url, api_key) as client,
        drawn(client),
        client.ingest(
            paths,
            models=wanted,
            journal=kept,
            out=out,
            include=include or (),
            exclude=exclude or (),
            files_per_job=files_per_job,
            artifacts=artifacts,
            retry_failed=retry_failed,
            rebind=rebind,
            policy=policy,
        ) as outcomes,
    ):
        error: HumebatchError | None = None
        with stopping(outcomes.stop):
            try:
                async for outcome in outcomes:
                    await told.take(outcome)
            except HumebatchError as ended:
                error = ended
        report = await outcomes.report()
    if report.inputs == 0 and error is None and not outcomes.stopped:
        raise SourceError(f"{', '.join(map(printable, paths))}: no files in there", path=str(paths[0]))
    told.close(report, stopped=outcomes.stopped)
    if error is not None:
        if report.open:
            say("Nothing that was accepted is lost: run the same command again to go on.")
        raise error
    return worst(told.codes)


def _look(paths: list[Path], journal: Path) -> None:
    """A mistyped name ends the command before anything is sent; one that a journal may know is for that to say."""
    if journal.exists():
        return
    for path in paths:
        try:
            os.lstat(path)
        except OSError as error:
            missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
            said = "no such file or folder" if missing else error.strerror
            raise SourceError(f"{path}: {said}", path=str(path)) from error


@contextlib.asynccontextmanager
async def _client(base_url: str | None, api_key: str | None) -> AsyncIterator[BatchClient]:
    if base_url_from(base_url) is not None:
        async with BatchClient(base_url=base_url, api_key=api_key) as client:
            yield client
        return
    await offer()
    async with contextlib.AsyncExitStack() as stack:
        with spinning("starting a local server"):
            client = await stack.enter_async_context(local.client())
        yield client


class _Told:
    """What is printed of the inputs as they end, and the exit code that they make."""

    def __init__(self, out: Path, models: Models | None, *, as_json: bool) -> None:
        self.codes: list[int] = []
        self._out = out
        self._json = as_json
        self._tally = Tally(named=models is not None)
        self._rows: list[Finding] = []
        self._paths: list[str] = []

    async def take(self, outcome: Outcome[str, Ingested]) -> None:
        """One input has ended."""
        found = await anyio.to_thread.run_sync(self._found, outcome)
        if self._tally.take(found):
            self.codes.append(1)
        with _reader_may_leave():
            if self._json:
                for finding in found:
                    emit(finding)
            elif outcome.value is not None:
                self._saved(self._shown(outcome.value.predictions))
        if self._tally.count <= _SHOWN:
            self._rows += found

    def _saved(self, path: str) -> None:
        if not sys.stdout.isatty():
            # As bytes: what reads this opens the files, whatever their names are made of.
            typer.echo(os.fsencode(path))
        elif len(self._paths) < _SHOWN:
            # On a terminal the bar is drawn in the same place.
            self._paths.append(path)

    def _found(self, outcome: Outcome[str, Ingested]) -> list[Finding]:
        if outcome.value is None:
            if isinstance(outcome.error, InputFailed):
                self.codes.append(_code(outcome.error))
            return [failure(outcome.item, outcome.error)]
        saved = outcome.value.predictions
        try:
            return findings(outcome.item, saved, shown=self._shown(saved))
        except (DecodeError, SourceError) as error:
            return [failure(outcome.item, error)]

    def _shown(self, saved: str) -> str:
        """A saved file as the user would write it: below the folder as it was given."""
        return os.path.join(self._out, os.path.relpath(saved, os.path.abspath(self._out)))

    def close(self, report: IngestReport, *, stopped: bool) -> None:
        """The table and the sums."""
        if self._json:
            with _reader_may_leave():
                emit({"report": report})
        elif self._tally.count <= _SHOWN and self._rows:
            _table(sorted(self._rows, key=lambda one: one.file))
        for path in sorted(self._paths):
            typer.echo(plain(printable(path)))
        tally = self._tally
        say(f"{counted(tally.count, 'file')}: {tally.whole} measured, {tally.partly} in part, {tally.failed} not")
        say(_sums(report))
        for why, count in sorted(report.failures.items()):
            say(f"  {count} {why}")
        if not stopped and any(why.startswith(InputState.FAILED) for why in report.failures.keys() - _LOCAL):
            say("--retry-failed tries them again.")
        if report.duplicates:
            say(f"Jobs that the server has made of our files a second time: {', '.join(report.duplicates)}")
        if not (report.audited or stopped or report.open):
            say("The job list could not be looked through for jobs that were made twice.")
        if stopped:
            say(f"Stopped; not finished: {counted(report.open, 'file')}. Run the same command again to go on.")


# Looked at again by every run: these need another file, and not another submission.
_LOCAL = {
    f"{InputState.FAILED}({reason})"
    for reason in (
        Reason.MISSING, Reason.UNREADABLE, Reason.NOT_A_FILE, Reason.OUTSIDE, Reason.EMPTY, Reason.CHANGED,
    )
}  # fmt: skip


@contextlib.contextmanager
def _reader_may_leave() -> Iterator[None]:
    """What is printed is read at once; if nobody reads any more, the run goes on all the same."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _code(error: InputFailed) -> int:
    if error.state != InputState.PARKED:
        return 1
    return 75 if error.reason == Reason.STALLED else 3


def _sums(report: IngestReport) -> str:
    more = f", {report.identical} of them the same as others" if report.identical else ""
    again = f" ({report.resent} of {counted(report.attempts, 'submission')} repeated)" if report.resent else ""
    return (
        f"{counted(report.inputs, 'file')}, {counted(report.bytes, 'byte')}{more}; "
        f"{counted(report.jobs, 'job')}{again}; {counted(report.sent, 'byte')} sent, "
        f"{counted(report.retries, 'request')} repeated; {counted(report.saved, 'byte')} of predictions saved"
    )


def _table(found: list[Finding]) -> None:
    table = Table(box=SIMPLE_HEAD)
    for heading in ("file", "model", "found", "strongest (highest score of any prediction)"):
        table.add_column(heading, overflow="fold")
    for finding in found:
        file = escape(plain(finding.file if finding.inside is None else f"{finding.file} › {finding.inside}"))
        if finding.error is not None:
            table.add_row(file, finding.model or "", "[red]–[/red]", escape(plain(finding.error)))
        else:
            strongest = ", ".join(f"{name} {score:.2f}" for name, score in finding.strongest if score >= 0.01)
            table.add_row(file, finding.model or "", str(finding.predictions), escape(plain(strongest)))
    talk.print(table)
