"""Commands for jobs on a server: submit, status, wait, list, predictions, artifacts."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import anyio
import anyio.to_thread
import typer
from msgspec import UNSET

from ..errors import HumebatchError, JobFailed
from ..jobs import JobDetails, Submission
from .media import find_files
from .options import ApiKey, AsJson, BaseUrl, JobIds, ModelsText, models_from, remote
from .output import emit, exit_code, say, worst

__all__ = ["artifacts", "list_jobs", "predictions", "status", "submit", "wait"]

Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to save it.")]
OneJob = Annotated[str, typer.Argument(metavar="JOB_ID", help="Id of a job.")]


async def submit(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH", help="Files; folders are searched. At most 100.")
    ] = None,
    text: Annotated[list[str] | None, typer.Option("--text", help="A text to measure; may be repeated.")] = None,
    url: Annotated[list[str] | None, typer.Option("--url", help="A media URL; may be repeated.")] = None,
    models: ModelsText = None,
    transcription: Annotated[
        bool, typer.Option("--transcription/--no-transcription", help="Whether speech is transcribed.")
    ] = True,
    callback_url: Annotated[str | None, typer.Option("--callback-url", help="Where the server POSTs the end.")] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Start one job and print its id."""
    files = await anyio.to_thread.run_sync(find_files, paths or [])
    submission = Submission(
        files=files,
        text=text or [],
        urls=url or [],
        models=models_from(models),
        transcription=UNSET if transcription else None,
        callback_url=callback_url,
    )
    async with remote(base_url, api_key) as client:
        job = await client.submit(submission)
    if as_json:
        emit({"job_id": job.id})
    else:
        typer.echo(job.id)


def _line(details: JobDetails) -> str:
    state = details.state
    words = [details.job_id, state.status]
    if state.num_predictions not in (UNSET, None):
        words.append(f"{state.num_predictions} predictions, {state.num_errors or 0} errors")
    if state.message:
        words.append(str(state.message))
    return "  ".join(words)


def _show(details: JobDetails, as_json: bool) -> None:
    if as_json:
        emit(details)
    else:
        typer.echo(_line(details))


async def status(job_id: JobIds, base_url: BaseUrl = None, api_key: ApiKey = None, as_json: AsJson = False) -> int:
    """Show where jobs stand."""
    codes: list[int] = []
    async with remote(base_url, api_key) as client:
        for one in job_id:
            try:
                _show(await client.job(one).details(), as_json)
            except HumebatchError as error:
                codes.append(_complain(error))
    return worst(codes)


async def wait(
    job_id: JobIds,
    timeout: Annotated[float | None, typer.Option("--timeout", min=0, help="Seconds; default: for ever.")] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> int:
    """Wait until jobs have ended and show how. Exit 1 if one failed, 75 if the time was up first."""
    codes: list[int] = []

    async def one(wanted: str) -> None:
        try:
            _show(await client.job(wanted).wait(timeout=timeout), as_json)
        except JobFailed as error:
            _show(error.details, as_json)
            codes.append(exit_code(error))
        except HumebatchError as error:
            codes.append(_complain(error))

    async with remote(base_url, api_key) as client, anyio.create_task_group() as group:
        for wanted in job_id:
            group.start_soon(one, wanted)
    return worst(codes)


async def list_jobs(
    status: Annotated[
        list[str] | None, typer.Option("--status", help="QUEUED, IN_PROGRESS, COMPLETED or FAILED; may be repeated.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many; default 50.")] = None,
    when: Annotated[str | None, typer.Option("--when", help="created_before or created_after --timestamp-ms.")] = None,
    timestamp_ms: Annotated[int | None, typer.Option("--timestamp-ms", help="Unix time in milliseconds.")] = None,
    sort_by: Annotated[str | None, typer.Option("--sort-by", help="created, started or ended.")] = None,
    direction: Annotated[str | None, typer.Option("--direction", help="asc or desc (default).")] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    filters: dict[str, Any] = {
        "status": status,
        "limit": limit,
        "when": when,
        "timestamp_ms": timestamp_ms,
        "sort_by": sort_by,
        "direction": direction,
    }
    async with remote(base_url, api_key) as client:
        async for details in client.list_jobs(**filters):
            _show(details, as_json)


async def predictions(job_id: OneJob, out: Out = None, base_url: BaseUrl = None, api_key: ApiKey = None) -> None:
    """Get the predictions JSON of a completed job: to stdout, or to a file with --out."""
    async with remote(base_url, api_key) as client:
        job = client.job(job_id)
        if out is not None:
            size = await job.save_predictions(out)
            say(f"{out}: {size:,} bytes")
            return
        # By way of a file: what reaches stdout is whole or nothing.
        with tempfile.TemporaryDirectory(prefix="humebatch-") as folder:
            path = Path(folder, "predictions.json")
            await job.save_predictions(path)
            async with await anyio.open_file(path, "rb") as file:
                while data := await file.read(1024 * 1024):
                    sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


async def artifacts(job_id: OneJob, out: Out = None, base_url: BaseUrl = None, api_key: ApiKey = None) -> None:
    """Save the artifacts ZIP of a completed job, as JOB_ID.zip unless --out says otherwise."""
    async with remote(base_url, api_key) as client:
        target = out or Path(f"{job_id}.zip")
        size = await client.job(job_id).save_artifacts(target)
    say(f"{target}: {size:,} bytes")


def _complain(error: HumebatchError) -> int:
    say(f"humebatch: {error}")
    return exit_code(error)
