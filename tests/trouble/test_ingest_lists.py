"""Jobs that come late, lists that show them late, and lists that cannot be relied on: nothing is concluded from those.

All of this is about servers that honour no idempotency keys, but where it says so: with a key there is nothing to find.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import humebatch as hb
from humebatch.cli.output import exit_code

from .scene import KEY, Handler, Scene, Told, scene

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("stray_exceptions")]

Odd = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]
TEXT = hb.Submission(text=["somebody else's"], models=hb.Models(language=hb.Language()))


async def run_and(it: Scene, when: float, act: Callable[[], Awaitable[object]], **how: Any) -> Told:
    """A run, and something that happens so long after its first submission, while its clock stands still."""
    client, before = it.client(), len(it.trouble.posted)
    clock = it.trouble.clock
    assert clock is not None

    async def later() -> None:
        while len(it.trouble.posted) == before:
            await asyncio.sleep(0)
        await clock.sleep(when)
        it.trouble.busy += 1
        await act()
        it.trouble.busy -= 1

    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(later())
        told = await it.run(client=client, **how)
        waiting.cancel()
    return told


# ── late


@pytest.mark.parametrize("groups", [1, 3])
async def test_a_submission_that_arrives_within_the_grace_time_is_found(groups: int, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=False) as it:
        it.write(*(f"one two {number}" for number in range(groups)))
        faults: list[Any] = ["late"] * groups
        it.trouble.submissions(*faults)
        told = await run_and(it, 200, it.trouble.release)
        assert (told.error, it.trouble.held) == (None, 0)
        assert it.trouble.requests["POST /jobs"] == 2 * groups  # ours, and their deliveries
        await it.settled(jobs=groups)


@pytest.mark.parametrize("groups", [1, 3])
async def test_a_submission_that_arrives_after_it_is_told_of(groups: int, tmp_path: Path) -> None:
    """Sent again by then, it is two jobs. One is the group's, the other one is reported."""
    async with scene(tmp_path, keyed=False) as it:
        it.write(*(f"one two {number}" for number in range(groups)))
        faults: list[Any] = ["late"] * groups
        it.trouble.submissions(*faults)

        async def then(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path.endswith("/predictions"):
                await it.trouble.release()
            return await handler(request)

        it.trouble.odd = then
        told = await it.run()
        assert (told.error, it.trouble.held) == (None, 0)
        assert it.trouble.posted[groups] - it.trouble.posted[groups - 1] >= 300
        assert told.report is not None and told.report.audited
        assert sorted(told.report.duplicates) == sorted(it.trouble.accepted[groups:])
        await it.settled(jobs=2 * groups, duplicates=groups)


async def test_with_a_key_late_is_no_matter(tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=True) as it:
        it.write("one two", "three four")
        it.trouble.submissions("late", "late")

        async def then(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path.endswith("/predictions"):
                await it.trouble.release()
            return await handler(request)

        it.trouble.odd = then
        told = await it.run()
        assert told.error is None and it.trouble.held == 0
        await it.settled(jobs=2)


@pytest.mark.parametrize("groups", [1, 3])
async def test_a_list_that_shows_jobs_late(groups: int, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=False) as it:
        it.write(*(f"one two {number}" for number in range(groups)))
        faults: list[Any] = ["drop"] * groups
        it.trouble.submissions(*faults)
        it.trouble.hide_new_jobs = True

        async def show() -> None:
            it.trouble.hide_new_jobs = False

        told = await run_and(it, 250, show)
        assert told.error is None
        assert it.trouble.requests["POST /jobs"] == groups
        await it.settled(jobs=groups)


async def test_a_list_that_shows_jobs_later_than_that(tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=False) as it:
        it.write("one two")
        it.trouble.submissions("drop")
        it.trouble.hide_new_jobs = True

        async def then(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path.endswith("/predictions"):
                it.trouble.hide_new_jobs = False
            return await handler(request)

        it.trouble.odd = then
        told = await it.run()
        assert told.error is None and told.report is not None
        assert told.report.duplicates == it.trouble.accepted[:1]
        await it.settled(jobs=2, duplicates=1)


async def test_late_and_listed_late(tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=False) as it:
        it.write("one two", "three four", "five six")
        it.trouble.submissions("late", "drop", 502)
        it.trouble.hide_new_jobs = True

        async def both() -> None:
            await it.trouble.release()
            it.trouble.hide_new_jobs = False

        told = await run_and(it, 150, both)
        assert told.error is None
        await it.settled(jobs=3)


async def test_the_same_contents_submitted_by_somebody_else_are_told_apart(tmp_path: Path) -> None:
    """With the same API key at the same time, and lost in the same way: theirs is not taken for ours."""
    async with scene(tmp_path, keyed=False) as it:
        it.write("one two", "three four")
        it.trouble.submissions("drop", "drop")
        async with it.client() as client:
            for path in sorted(it.inputs.iterdir()):
                with contextlib.suppress(hb.SubmissionUnknown):
                    await client.submit(hb.Submission(files=[path], models=hb.Models(language=hb.Language())))
        it.trouble.submissions("drop", "drop")
        told = await it.run()
        assert told.error is None and told.report is not None
        assert told.report.jobs == 2 and told.report.duplicates == []
        it.foreign = set(it.trouble.accepted[:2])
        await it.settled(jobs=2)


# ── lists that do not do what they are asked


def list_without(*names: str, most: int | None = None, turned: bool = False) -> Odd:
    """A list that ignores these parameters, gives no more rows than `most`, and may have them in another order."""

    async def odd(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method != "GET" or not request.path.endswith("/jobs"):
            return await handler(request)
        limit = int(request.query.get("limit", "50"))
        query = [(name, value) for name, value in request.query.items() if name not in names]
        if most is not None:
            query = [(name, value) for name, value in query if name != "limit"]
            query.append(("limit", str(min(limit, most))))
        # The query alone: the path stays that of the route that was found.
        response = await handler(request.clone(rel_url=request.rel_url.with_query(query)))
        if turned and isinstance(response, web.Response) and response.status == 200:
            assert isinstance(response.body, bytes)
            rows = json.loads(response.body)
            response.body = json.dumps(rows[1::2] + rows[::2]).encode()
        return response

    return odd


HONEST_ENOUGH = {
    "caps at 50": list_without(most=50),
    "caps at 10": list_without(most=10),
    "no filter by time": list_without("when", "timestamp_ms"),
    "no order": list_without("sort_by", "direction"),
    "no filter by status": list_without("status"),
    "no sorting by end": list_without("sort_by"),
    "nothing but a limit": list_without("when", "timestamp_ms", "sort_by", "direction", "status"),
    "jumbled": list_without(turned=True),
}
USELESS = {
    "50 at most, no filter": list_without("when", "timestamp_ms", "sort_by", "direction", "status", most=50),
    "50 at most, jumbled": list_without("when", "timestamp_ms", "sort_by", "direction", most=50, turned=True),
}


async def somebody_elses(it: Scene, count: int) -> None:
    async with hb.BatchClient(base_url=it.url, api_key=KEY) as client:
        for _ in range(count):
            it.foreign.add((await client.submit(TEXT)).id)


async def crowd(it: Scene) -> None:
    """Ours are not among the newest any more."""
    left, it.trouble.odd = it.trouble.odd, None
    await somebody_elses(it, 60)
    it.trouble.odd = left
    it.trouble.hide_new_jobs = False


@pytest.mark.parametrize("odd", HONEST_ENOUGH.values(), ids=HONEST_ENOUGH.keys())
async def test_lists_that_show_all_in_their_own_way(odd: Odd, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=False) as it:
        await somebody_elses(it, 70)
        it.write(*(f"one two {number}" for number in range(3)))
        it.trouble.odd = odd
        it.trouble.submissions("drop", 502, "cut")
        told = await it.run()
        assert told.error is None
        assert it.trouble.requests["POST /jobs"] == 70 + 3
        await it.settled(jobs=3)


@pytest.mark.parametrize("odd", USELESS.values(), ids=USELESS.keys())
async def test_lists_that_prove_nothing(odd: Odd, tmp_path: Path) -> None:
    """What they do not show may be there: it is parked, and not sent again. A later run with a better list finds it."""
    async with scene(tmp_path, keyed=False) as it:
        await somebody_elses(it, 70)
        it.write(*(f"one two {number}" for number in range(3)))
        it.trouble.submissions("drop", None, "cut")
        it.trouble.hide_new_jobs, it.trouble.odd = True, odd

        told = await run_and(it, 10, lambda: crowd(it))
        assert told.error is None and told.report is not None and not told.report.audited
        assert sorted(told.states.values()) == ["DONE", "PARKED(UNKNOWN)", "PARKED(UNKNOWN)"]
        assert it.trouble.requests["POST /jobs"] == 130 + 3
        await it.check()
        it.trouble.odd = None
        told = await it.run()
        assert told.error is None and told.bytes_sent == 0
        await it.settled(jobs=3)


async def test_a_person_decides_to_send_again(tmp_path: Path) -> None:
    """`retry_failed` sends what was parked once more, although nothing is proven; the second job is reported."""
    odd = USELESS["50 at most, no filter"]
    async with scene(tmp_path, keyed=False) as it:
        await somebody_elses(it, 70)
        it.write("one two")
        it.trouble.submissions("drop")
        it.trouble.hide_new_jobs, it.trouble.odd = True, odd

        assert (await run_and(it, 10, lambda: crowd(it))).states == {"0.txt": "PARKED(UNKNOWN)"}
        again = await it.run()
        assert again.states == {"0.txt": "PARKED(UNKNOWN)"} and again.bytes_sent == 0

        async def then(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path.endswith("/predictions"):
                it.trouble.odd = None
            return await odd(request, handler)

        it.trouble.odd = then
        told = await it.run(retry_failed=True)
        assert told.states == {"0.txt": "DONE"} and told.report is not None
        ours = [job_id for job_id in it.trouble.accepted if job_id not in it.foreign]
        assert told.report.duplicates == ours[:1]
        await it.settled(jobs=2, duplicates=1)


async def test_a_list_that_fails_proves_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=False) as it:
        it.write("one two", "three four")
        it.trouble.submissions("drop", "drop")
        it.trouble.answers("GET", "/jobs", None, *[503] * 10_000)
        told = await it.run(policy=hb.IngestPolicy(max_outage=1200))
        assert told.error is not None and exit_code(told.error) == 75
        assert it.trouble.requests["POST /jobs"] == 2  # longer than the grace time, and nothing was sent again
        await it.check(finished=False)
        it.trouble._answers.clear()
        told = await it.run()
        assert told.error is None and told.bytes_sent == 0
        await it.settled(jobs=2)


async def test_jobs_of_one_millisecond(tmp_path: Path) -> None:
    """More jobs at once than a page has rows: they are all seen."""
    async with scene(tmp_path, keyed=False) as it:
        await somebody_elses(it, 120)
        it.write("one two", "three four")
        it.trouble.submissions("drop", "cut")

        def crowd() -> None:
            with contextlib.closing(sqlite3.connect(it.server.data / "jobs.db")) as database, database:
                database.execute("UPDATE job SET created_ms = (SELECT max(created_ms) FROM job)")

        async def first(request: web.Request, handler: Handler) -> web.StreamResponse:
            answer = await list_without(most=100)(request, handler)
            if request.method == "POST" and len(it.trouble.accepted) == 122:
                await asyncio.to_thread(crowd)
            return answer

        it.trouble.odd = first
        told = await it.run()
        assert told.error is None
        # Found on a page that happens to have them, or parked; but never sent again.
        assert it.trouble.requests["POST /jobs"] == 122
        assert set(told.states.values()) <= {"DONE", "PARKED(UNKNOWN)"}
        await it.check()
        it.trouble.odd = None
        assert (await it.run()).error is None
        await it.settled(jobs=2)
