"""Ingests for tests: a folder of clips, one run over it, and what is to be seen of it afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

import humebatch as hb
from humebatch._client.outcome import Outcome
from humebatch.errors import InputFailed
from humebatch.ingestion import Ingested, IngestReport
from humebatch.testing import FakeClock, RunningServer
from tests.trouble.invariants import Ledger, check

__all__ = ["BURST", "KEY", "Ran", "Work", "clip", "contents_of", "md5_of"]

BURST = hb.Models(burst=hb.Burst())
KEY = "canary-4f1d9be2"


def clip(what: object, size: int = 0) -> bytes:
    """Bytes that are sound by their beginning, whatever the file is called; `what` makes them different."""
    said = str(what).encode("utf-8", "surrogateescape") + b"."
    return (b"RIFF\0\0\0\0WAVE" + said * max(1, -(-size // len(said))))[: max(size, 12 + len(said))]


def md5_of(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class Ran(msgspec.Struct):
    """What a run said."""

    outcomes: dict[str, Outcome[str, Ingested]]
    report: IngestReport
    requests: int
    clock: FakeClock

    def reason(self, path: str | os.PathLike[str]) -> str | None:
        """Why this input is not done; None if it is."""
        error = self.outcomes[os.fspath(path)].error
        assert error is None or isinstance(error, InputFailed)
        return None if error is None else error.reason

    @property
    def reasons(self) -> Counter[str | None]:
        return Counter(self.reason(path) for path in self.outcomes)


class Work:
    """A folder with inputs, results and a journal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inputs = folder / "in"
        self.out = folder / "out"
        self.journal = folder / "journal.db"
        self.inputs.mkdir(exist_ok=True)

    def make(self, contents: dict[str, bytes]) -> list[Path]:
        paths = [self.inputs / name for name in contents]
        for path, content in zip(paths, contents.values(), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return paths

    async def run(
        self,
        server: RunningServer,
        paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
        *,
        client: dict[str, Any] | None = None,
        clock: FakeClock | None = None,
        each: Callable[[Outcome[str, Ingested]], object] | None = None,
        **asked: Any,
    ) -> Ran:
        """One run to its end, over the whole folder unless told otherwise. `each`: called with each outcome."""
        clock = clock or FakeClock()
        asked = {"models": BURST, "journal": self.journal, "out": self.out, **asked}
        # base_url: a proxy's, maybe.
        opened = hb.BatchClient(
            **{"base_url": server.base_url, "api_key": server.api_key, "clock": clock, **(client or {})}
        )
        outcomes: dict[str, Outcome[str, Ingested]] = {}
        async with opened, opened.ingest(self.inputs if paths is None else paths, **asked) as running:
            async for outcome in running:
                assert outcome.item not in outcomes, "told twice"
                outcomes[outcome.item] = outcome
                if each is not None:
                    each(outcome)
            report = await running.report()
        return Ran(outcomes=outcomes, report=report, requests=opened.stats.requests, clock=clock)

    async def check(self, server: RunningServer, **said: Any) -> Ledger:
        """The invariants, with the server's database as the witness."""
        return await asyncio.to_thread(
            lambda: check(self.journal, self.out, server.jobs(), **{"key": server.api_key, **said})
        )

    def result(self, place: str | bytes) -> Any:
        """The saved results of an input, decoded: the one source in them."""
        path = os.path.join(os.fsencode(self.out), os.fsencode(place), b"predictions.json")
        with open(path, "rb") as file:
            (source,) = json.loads(file.read())
        return source

    def query(self, sql: str) -> list[Any]:
        """Rows of the journal."""
        with contextlib.closing(sqlite3.connect(self.journal)) as db:
            return db.execute(sql).fetchall()

    def change(self, sql: str) -> None:
        """Change the journal, as somebody else would."""
        with contextlib.closing(sqlite3.connect(self.journal)) as db, db:
            db.execute(sql)


async def contents_of(server: RunningServer) -> list[str]:
    """The md5 of every file of every job, sorted."""
    jobs = await asyncio.to_thread(server.jobs)
    return sorted(file.md5sum for job in jobs for file in job.request.files)
