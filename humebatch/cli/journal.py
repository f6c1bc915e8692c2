"""`humebatch journal`: what a run knows, without changing anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import anyio.to_thread
import typer

from .._client.ingest.reporting import Entry, shown
from .options import AsJson
from .output import counted, emit, plain, say

__all__ = ["show"]


async def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The journal of a run.")],
    state: Annotated[
        list[str] | None,
        typer.Option("--state", metavar="STATE", help="Only inputs in this state (DONE, FAILED, …); may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Show every input of a run: where it stands, why, and which job measured it. A run may be writing it."""

    def tell(entry: Entry) -> None:
        if as_json:
            emit(entry)
        else:
            typer.echo(_line(entry))

    bound, report = await anyio.to_thread.run_sync(lambda: shown(file, tell, states=state or ()))
    if as_json:
        emit({"bound": bound, "report": report})
        return 0
    say(f"server {bound['server']}, key {bound['key']}, models {bound['config']}, results in {bound['out']}")
    states = f"{report.done} done, {report.failed} failed, {report.parked} parked, {report.open} open"
    submissions = counted(report.attempts, "submission")
    say(f"{counted(report.inputs, 'file')}: {states}; {counted(report.jobs, 'job')}, {submissions}")
    for why, count in sorted(report.failures.items()):
        say(f"  {count} {why}")
    return 0


def _line(entry: Entry) -> str:
    why = f"({entry.reason})" if entry.reason else ""
    words = [f"{entry.state}{why}", plain(entry.input)]
    if entry.job:
        words.append(f"job {entry.job}")
    if entry.same_as:
        words.append(f"same as {plain(entry.same_as)}")
    if entry.detail:
        words.append(plain(entry.detail))
    return "  ".join(words)
