"""How far an ingest looks ahead of what it sends."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

import humebatch as hb
from humebatch.testing import running_server
from tests._client.ingest.runs import KEY, Work, clip

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("stray_exceptions")]


async def test_large_files_are_sent_while_others_are_not_hashed_yet(tmp_path: Path) -> None:
    work = Work(tmp_path)
    # Larger than a group is to be, so each is a group of its own.
    work.make({f"{n:02}.wav": clip(n, 1000) for n in range(40)})
    hashed: list[int] = []

    def look() -> None:
        db = sqlite3.connect(work.journal)
        try:
            hashed.extend(db.execute("SELECT count(md5) FROM file").fetchone())
        finally:
            db.close()

    async with running_server(api_key=KEY) as server:
        ran = await work.run(
            server,
            client={"limits": hb.Limits(uploads=1)},
            policy=hb.IngestPolicy(group_bytes=500, open_jobs=1),
            each=lambda _: look(),
        )
        await work.check(server)
    assert ran.report.done == ran.report.jobs == 40
    assert hashed[0] < 20
    assert hashed[-1] == 40
