"""`humebatch report`: saved predictions in, one HTML page out."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated

import typer

from .._transport.files import save_atomically
from ..errors import ConfigError
from .interrupt import in_thread
from .output import printable, say

__all__ = ["report"]


async def report(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULT", help="Saved predictions (JSON, also .gz); folders are searched for them."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the page is saved.")] = Path("report.html"),
) -> int:
    """Make one HTML page of predictions: charts over time, per face and speaker, transcripts, errors."""
    try:
        from .. import report as pages
    except ModuleNotFoundError as error:
        if error.name not in ("jinja2", "plotly"):
            raise
        raise ConfigError("report needs its extra: pip install 'humebatch[report]'") from error

    def make(check: Callable[[], None]) -> pages.Page:
        paths = pages.find(results)
        if os.path.realpath(out) in map(os.path.realpath, paths):
            raise ConfigError(f"--out: {out} is a file to read; give another one for the page", field="out")
        if out.is_dir():
            raise ConfigError(f"--out: {out} is a folder", field="out")
        return pages.page(paths, check)

    page = await in_thread(make)
    try:
        await save_atomically(out, _once(page.html.encode("utf-8", "replace")))
    except OSError as error:
        raise ConfigError(f"--out: cannot write {out}: {error.strerror}", field="out") from error
    # As bytes: what reads this opens the file, whatever its name is made of.
    typer.echo(os.fsencode(out))
    for given in page.broken:
        say(f"{given.path}: not read to its end: {given.error}")
    say(f"{printable(out)}: {len(page.html):,} characters")
    return 1 if page.broken else 0


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
