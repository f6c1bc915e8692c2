"""How long an ingest leaves a server alone that takes nothing."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import anyio
import pytest

from humebatch._client.ingest.outage import Outage
from humebatch.errors import RateLimited
from humebatch.testing import Before, FakeClock, Trouble, running_server
from tests._client.ingest.runs import KEY, Work, clip

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("stray_exceptions")]
AT_ONCE = 8


async def test_an_outage_ends_when_nothing_is_wanted_any_more() -> None:
    now = 0.0
    failed: list[Exception] = []
    outage = Outage(lambda: now, failed.append, patience=100)
    outage.refused(RateLimited("no", status=429))
    outage.over()
    now = 1000.0
    outage.refused(RateLimited("no", status=429))
    assert failed == []
    now = 1101.0
    outage.refused(RateLimited("no", status=429))
    assert len(failed) == 1 and outage.successes == 0


class AfterAll(FakeClock):
    """No time passes until every try of the first round has failed. `pauses`: sleeps until something is accepted."""

    def __init__(self, journal: Path, trouble: Trouble) -> None:
        super().__init__()
        self.pauses: list[float] = []
        self._journal = journal
        self._trouble = trouble

    async def sleep(self, seconds: float, /) -> None:
        if not self._trouble.accepted:
            self.pauses.append(seconds)
            while await asyncio.to_thread(self._failed) < AT_ONCE:
                await anyio.sleep(0.001)
        await super().sleep(seconds)

    def _failed(self) -> int:
        db = sqlite3.connect(self._journal)
        try:
            (count,) = db.execute("SELECT count(*) FROM attempt WHERE state <> 'SENDING'").fetchone()
        finally:
            db.close()
        return int(count)


@pytest.mark.parametrize("status", [502, 507])
async def test_submissions_that_fail_together_are_one_failure(status: int, tmp_path: Path) -> None:
    work, trouble = Work(tmp_path), Trouble()
    work.make({f"{n}.wav": clip(n) for n in range(AT_ONCE)})
    trouble.submissions(*[Before(status)] * AT_ONCE)
    clock = AfterAll(work.journal, trouble)
    async with running_server(api_key=KEY, trouble=trouble) as server:
        ran = await work.run(server, clock=clock, files_per_job=1)
        await work.check(server)
    assert ran.report.done == ran.report.jobs == AT_ONCE
    assert ran.report.attempts == 2 * AT_ONCE
    assert 0 < max(clock.pauses) <= 2
