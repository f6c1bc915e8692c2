"""What a client sends and what became of it, drawn as one line on a terminal. Where stderr is none, nothing is."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

import anyio
import rich.progress
from rich.progress import BarColumn, DownloadColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TransferSpeedColumn

from .._client.batch import BatchClient
from .._client.progress import Progress
from .output import talk

__all__ = ["caption", "drawn", "spinning"]


def caption(progress: Progress) -> str:
    """How many files are sent, and how many jobs stand where: `3 of 8 files sent · 1 sending, 2 in progress`."""
    files = f"{progress.files_sent} of {progress.files_planned} files sent"
    jobs = ", ".join(f"{count} {status.lower().replace('_', ' ')}" for status, count in sorted(progress.jobs.items()))
    return f"{files} · jobs: {jobs}" if jobs else files


def _bar(*more: rich.progress.ProgressColumn) -> rich.progress.Progress:
    return rich.progress.Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        *more,
        TimeElapsedColumn(),
        console=talk,
        # Lines that move make no sense in a log file.
        disable=not talk.is_terminal,
        transient=True,
    )


@contextlib.contextmanager
def spinning(what: str) -> Iterator[None]:
    """Say what is being waited for, for as long as the block runs."""
    with _bar() as bar:
        bar.add_task(what, total=None)
        yield


@contextlib.asynccontextmanager
async def drawn(client: BatchClient) -> AsyncIterator[None]:
    """Draw `client.progress()` for as long as the block runs."""
    with _bar(BarColumn(bar_width=24), DownloadColumn(), TransferSpeedColumn()) as bar:
        async with anyio.create_task_group() as group:
            group.start_soon(_draw, client, bar)
            try:
                yield
            finally:
                group.cancel_scope.cancel()


async def _draw(client: BatchClient, bar: rich.progress.Progress) -> None:
    task = bar.add_task("", total=None)
    async with client.progress() as updates:
        async for progress in updates:
            bar.update(
                task,
                description=caption(progress),
                completed=progress.bytes_sent,
                total=max(progress.bytes_planned, progress.bytes_sent) or None,
            )
            # The bar is painted ten times a second; being told more often would only cost the sender.
            await anyio.sleep(0.1)
