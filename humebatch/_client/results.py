"""Predictions that may be larger than memory: spooled to a file of our own, then read source by source."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

import anyio
import anyio.to_thread

from .._transport.reading import until_done
from ..errors import DecodeError
from ..predictions import PredictionsReader, SourceReader
from ..predictions.reading import mapped

__all__ = ["opened"]


@contextlib.asynccontextmanager
async def opened(save: Callable[[str], Awaitable[int]]) -> AsyncIterator[AsyncIterator[SourceReader]]:
    """The sources of what `save` puts into the file that it is given the path of.

    The file goes with the block, unless something in it cannot be decoded: then it is kept, as `DecodeError.file`.
    """
    folder = await anyio.to_thread.run_sync(tempfile.gettempdir)
    # Only a name: a file that a thread makes is there even if nobody waits for the thread any more.
    path = os.path.join(folder, f"humebatch-predictions-{secrets.token_hex(8)}.json")
    kept = False
    try:
        await save(path)
        reader = await until_done(functools.partial(_reader, path))
        try:
            async with contextlib.aclosing(_sources(reader)) as sources:
                yield sources
        finally:
            kept = reader.broken
    except DecodeError as error:
        kept = kept or error.file == path
        raise
    finally:
        if not kept:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_discard, path)


async def _sources(reader: PredictionsReader) -> AsyncGenerator[SourceReader]:
    for number in range(len(reader)):
        # Finding the rows' places in a large source takes a while.
        yield await anyio.to_thread.run_sync(reader.__getitem__, number)


def _discard(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _reader(path: str) -> PredictionsReader:
    with open(path, "rb") as file:
        return PredictionsReader(mapped(file), file=path)
