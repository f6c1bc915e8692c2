"""An ingest of 12 files dies at a crash point, is taken up again, and has lost nothing and doubled nothing.

The points lie before and after every flush, rename and send of the process, in all of its threads; the process is
killed there, or the power fails (see `crash_points.c`). They are some 270, and by default one in seven is played. All:

    EVERY_POINT=1 python -m pytest -s tests/trouble/test_crash_points.py
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import pytest

from humebatch.testing import jobs_in, running_server

from .crash_driver import Command, Ended
from .crashes import FILES, JOBS, Driver, Gate, compiled, drivers, inputs, settled_well

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="crash points are preloaded"),
]

# Odd, for before and after take turns.
STEP = 1 if os.environ.get("EVERY_POINT") else 7
_AT_ONCE = 2
# So many points that no run has reached are the end of them: how many a run has differs a little.
_BEYOND = 3
_ENOUGH = 5


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("crash"))


async def played(driver: Driver, point: int, *, keyed: bool, power: bool = False) -> Ended:
    """An ingest that dies at this point, if it has it, and two after it; then everything is checked."""
    with tempfile.TemporaryDirectory() as name:
        folder, gate = Path(name), Gate()
        await asyncio.to_thread(inputs, folder)
        async with running_server(data=folder / "server", idempotency=keyed, trouble=gate) as server:
            command = Command(folder=name, base_url=server.base_url)
            command.crash, command.power = point, power
            first = await driver.play(command)
            assert first.signal in (0, signal.SIGKILL)
            assert (first.signal == 0) == (len(first.runs) == 1)
            assert [line for line in first.points if line.startswith("it ")] == []
            await gate.quiet()
            command.crash, command.runs = None, 2
            rest = await driver.play(command)
            assert rest.signal == 0
            jobs = await asyncio.to_thread(jobs_in, server.data)
        try:
            await asyncio.to_thread(settled_well, folder, jobs, rest.runs)
        except AssertionError as error:
            error.add_note(f"it died {first.points[-1:]}")
            raise
    return first


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("power", [False, True], ids=["killed", "powerless"])
@pytest.mark.parametrize("keyed", [True, False], ids=["keys", "list"])
async def test_dies_at_every_point(library: Path, keyed: bool, power: bool) -> None:
    start = random.randint(1, STEP)
    print(f"every {STEP}. point from {start} on")  # noqa: T201 - to be played again
    points = iter(range(start, 10_000, STEP))
    seen: Counter[str] = Counter()
    beyond: list[int] = []
    wrong: list[str] = []

    async def play(driver: Driver) -> None:
        for point in points:
            try:
                first = await played(driver, point, keyed=keyed, power=power)
            except AssertionError:
                wrong.append(f"point {point}: {traceback.format_exc(limit=-1)}")
            else:
                if first.signal:
                    seen[" ".join(first.points[-1].split("\t")[:2])] += 1
                else:
                    beyond.append(point)
            if len(beyond) >= _BEYOND or len(wrong) >= _ENOUGH:
                return

    async with drivers(_AT_ONCE, library) as them, asyncio.TaskGroup() as group:
        for driver in them:
            group.create_task(play(driver))
    print(f"{seen.total()} points: {dict(seen)}")  # noqa: T201 - with -s
    assert not wrong, "\n".join(wrong)
    assert seen.total() > 200 // STEP


async def test_what_the_points_are(library: Path) -> None:
    """The order that all rests on: a result is on disk before the journal says so, an intent before anything leaves."""
    async with drivers(1, library) as (driver,):
        ended = await played(driver, 0, keyed=True)
    points = [tuple(line.split("\t")) for line in ended.points]
    assert {point[:2] for point in points} == set(itertools.product(("before", "after"), ("flush", "rename", "send")))
    kept = [n for n, (when, what, path, _) in enumerate(points) if (when, what) == ("after", "flush") and is_log(path)]
    results = [n for n, (when, *_, path) in enumerate(points) if when == "after" and path.endswith("/predictions.json")]
    assert len(results) == FILES
    for n in results:
        _, _, draft, target = points[n]
        assert ("after", "flush", draft, "") in points[:n]
        assert points.index(("after", "flush", os.path.dirname(target), ""), n) < kept[-1]
    posts = [n for n, point in enumerate(points) if point == ("before", "send", "POST", "")]
    assert len(posts) == JOBS
    assert kept[0] < posts[0]


def is_log(path: str) -> bool:
    return path.endswith("/run.db-wal")
