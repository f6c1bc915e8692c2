"""`humebatch report`: saved predictions in, one HTML page out."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated

import anyio.to_thread
import typer

from .._transport.files import save_atomically
from ..errors import ConfigError, SourceError
from .interrupt import in_thread
from .options import AsJson
from .output import emit, printable, say

__all__ = ["report"]


async def report(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULT", help="Saved predictions (JSON, also .gz); folders are searched for them."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the page is saved.")] = Path("report.html"),
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    as_json: AsJson = False,
) -> int:
    """Make one HTML page of predictions: charts over time, per face and speaker, transcripts, errors."""
    try:
        from .. import report as pages
        from ..report.content import search
    except ModuleNotFoundError as error:
        if error.name not in ("jinja2", "plotly"):
            raise
        raise ConfigError("report needs its extra: pip install 'humebatch[report]'") from error

    def make(check: Callable[[], None]) -> pages.Page | int:
        paths, _ = search(results)
        if os.path.realpath(out) in map(os.path.realpath, paths):
            raise ConfigError(f"--out: {out} is a file to read; give another one for the page", field="out")
        if out.is_dir():
            raise ConfigError(f"--out: {out} is a folder", field="out")
        try:
            return pages.page(results, check)
        except SourceError as error:
            for line in error.message.splitlines():
                say(line)
            # Nothing to read is a slip of whoever typed the command, what is broken is not.
            return 1 if paths else 2

    page = await in_thread(make)
    if isinstance(page, int):
        return page
    try:
        await save_atomically(out, _once(page.html.encode("utf-8", "replace")))
    except OSError as error:
        raise ConfigError(f"--out: cannot write {out}: {error.strerror}", field="out") from error
    if as_json:
        broken = [{"path": given.path, "error": given.error} for given in page.broken]
        emit({"path": printable(out), "broken": broken})
    else:
        # As bytes: what reads this opens the file, whatever its name is made of.
        typer.echo(os.fsencode(out))
    for given in page.broken:
        say(f"{given.path}: {'not read to its end' if given.written else 'not read'}: {given.error}")
    say(f"Wrote {printable(out)} ({len(page.html) / 1e6:.1f} MB).")
    # Without a terminal there is no one to show it to, and a text browser would block the calling script.
    if (
        open_page
        and sys.stdout.isatty()
        and not await anyio.to_thread.run_sync(webbrowser.open, out.absolute().as_uri())
    ):
        say("Could not open a browser.")
    return 1 if page.broken else 0


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
