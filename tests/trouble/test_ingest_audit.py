"""Jobs that nobody wanted: whatever made them, and whoever was killed before looking, they are reported once."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any, Literal

import pytest
from aiohttp import web

import humebatch as hb
from humebatch._transport.clock import SystemClock
from humebatch.testing import Answer, Before

from .scene import Handler, Scene, Told, scene

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("stray_exceptions")]

both = pytest.mark.parametrize("keyed", [True, False], ids=["keyed", "old"])
LISTS = "GET /jobs"


async def broken_off(it: Scene, how: Literal["stopped", "left"] = "stopped", **options: Any) -> None:
    """A run that ends after its first outcome, and looks at nothing any more."""
    async with it.client() as client, it.ingest(client, **options) as outcomes:
        async for outcome in outcomes:
            assert outcome.error is None
            if how == "left":
                break
            outcomes.stop()
        if how == "stopped":
            assert not (await outcomes.report()).audited


def listed_late(it: Scene) -> None:
    """The list does not show the first job before there is a second."""
    it.trouble.hide_new_jobs = True

    async def odd(request: web.Request, handler: Handler) -> web.StreamResponse:
        if it.trouble.requests["POST /jobs"] > 1:
            it.trouble.hide_new_jobs = False
        return await handler(request)

    it.trouble.odd = odd


# ── what is found


@pytest.mark.parametrize(("keyed", "fault"), [(True, 413), (False, 413), (False, 429)])
async def test_a_bundle_that_is_there_twice(fault: int, keyed: bool, tmp_path: Path) -> None:
    """What the server lists is the archive, and not the files in it."""
    async with scene(tmp_path, keyed=keyed) as it:
        it.write(*(f"one two {number}" for number in range(3)))
        it.trouble.submissions(fault)
        if fault == 429:
            listed_late(it)
        told = await it.run(files_per_job=101)
        assert told.error is None and told.report is not None
        assert told.report.audited and told.report.duplicates == it.trouble.accepted[:1]
        await it.check(duplicates=1)


@both
@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refusal_that_made_a_job(status: int, keyed: bool, tmp_path: Path) -> None:
    """Its inputs are in other groups by then, each a part of it."""
    async with scene(tmp_path, keyed=keyed) as it:
        it.write(*(f"one two {number}" for number in range(4)))
        it.trouble.submissions(status)
        told = await it.run(files_per_job=4)
        assert told.error is None and told.report is not None
        assert told.report.duplicates == it.trouble.accepted[:1]
        await it.settled(jobs=3, duplicates=1)


@both
async def test_an_input_that_was_refused_and_is_a_job(keyed: bool, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=keyed) as it:
        it.write("one two", "three four")
        it.trouble.submissions(413)
        told = await it.run(client=it.client(limits=hb.Limits(uploads=1)))
        assert told.error is None and told.report is not None
        assert told.states == {"0.txt": "FAILED(TOO_LARGE)", "1.txt": "DONE"}
        assert told.report.duplicates == it.trouble.accepted[:1]
        await it.check(duplicates=1)


@both
async def test_a_plan_that_is_given_up_and_is_a_job(keyed: bool, tmp_path: Path) -> None:
    """Told to come another day, and the content is another one by then: what was sent counts."""
    async with scene(tmp_path, keyed=keyed) as it:
        it.write("one two")
        it.trouble.submissions(Answer(429, headers={"Retry-After": "100000"}))
        listed_late(it)
        told = await it.run(policy=hb.IngestPolicy(max_outage=600))
        assert isinstance(told.error, hb.RateLimited)
        (it.inputs / "0.txt").write_text("one two three four")
        told = await it.run()
        assert told.error is None and told.report is not None and told.states == {"0.txt": "DONE"}
        assert told.report.duplicates == it.trouble.accepted[:1]
        await it.settled(jobs=2, duplicates=1)


async def test_a_refusal_that_was_not_looked_into_is_looked_into_by_the_next_run(tmp_path: Path) -> None:
    """Before anything is sent: a job that is found has an owner, though its file is another one by now."""
    async with scene(tmp_path, keyed=False) as it:
        it.write("one two")
        it.trouble.submissions(Answer(429, headers={"Retry-After": "500"}))
        async with it.client() as client, it.ingest(client) as outcomes:

            async def look(request: web.Request, handler: Handler) -> web.StreamResponse:
                if "timestamp_ms" in request.query:
                    outcomes.stop()
                return await handler(request)

            it.trouble.odd = look
            assert [outcome async for outcome in outcomes] == []
        it.trouble.odd = None
        await it.check(finished=False)
        (it.inputs / "0.txt").write_text("one two three four")
        told = await it.run()
        assert told.error is None and told.report is not None and told.states == {"0.txt": "DONE"}
        assert (told.report.jobs, told.report.duplicates) == (2, [])
        await it.settled(jobs=2)


@both
@pytest.mark.parametrize("fault", [429, Before(429)], ids=str)
async def test_what_waited_for_another_try_is_not_asked_for_as_before(fault: Any, keyed: bool, tmp_path: Path) -> None:
    """Stopped in the pause after a 429, and then other models are wanted: nothing is sent for the old ones."""
    async with scene(tmp_path, keyed=keyed) as it:
        it.write(*(f"one two {number}" for number in range(3)))
        it.trouble.submissions(*[fault] * 3)
        async with it.client(clock=SystemClock()) as client, it.ingest(client) as outcomes:
            while it.trouble.left or it.trouble.busy:
                await asyncio.sleep(0.001)
            outcomes.stop()
            assert [outcome async for outcome in outcomes] == []
        made = len(it.trouble.accepted)
        told = await it.run(models=hb.Models(prosody=hb.Prosody()), rebind=True)
        assert told.error is None and told.report is not None
        assert (told.report.inputs, told.report.open, told.report.duplicates) == (3, 0, [])
        # Those that were made all the same are found, and then measured as is asked for now.
        assert it.trouble.requests["POST /jobs"] == 3 + 3
        assert len(it.trouble.accepted) == made + 3


# ── by whom


@pytest.mark.parametrize("how", ["stopped", "left"])
async def test_what_a_run_did_not_come_to_look_at_is_looked_at_by_the_next(
    how: Literal["stopped", "left"], tmp_path: Path
) -> None:
    async with scene(tmp_path, keyed=False) as it:
        it.write("one two")
        it.trouble.submissions(Answer(429))
        listed_late(it)
        await broken_off(it, how)
        assert len(it.trouble.accepted) == 2
        told = await it.run()
        assert (told.error, told.bytes_sent) == (None, 0) and told.report is not None
        assert told.report.audited and told.report.duplicates == it.trouble.accepted[:1]
        # Once is enough: then nothing is asked but whether the server is there.
        before = it.trouble.requests[LISTS]
        told = await it.run()
        assert told.report is not None
        assert told.report.audited and told.report.duplicates == it.trouble.accepted[:1]
        assert it.trouble.requests[LISTS] == before + 1
        await it.settled(jobs=2, duplicates=1)


async def test_what_may_be_the_job_of_a_parked_group_is_no_duplicate(tmp_path: Path) -> None:
    """Another group, with a job of its own and never audited, has sent the same under the same name."""
    async with scene(tmp_path, keyed=False) as it:
        it.write("one two")
        await broken_off(it, tag_names=False)
        (it.inputs / "0.txt").write_text("three four")
        await broken_off(it, tag_names=False)
        (it.inputs / "0.txt").write_text("one two")
        it.trouble.submissions("drop")
        it.trouble.hide_new_jobs = True
        greeting_and_looks = it.trouble.requests[LISTS] + 1 + 2 * 2

        async def then(request: web.Request, handler: Handler) -> web.StreamResponse:
            if it.trouble.requests[LISTS] > greeting_and_looks:
                it.trouble.hide_new_jobs = False
            return await handler(request)

        it.trouble.odd = then
        told = await it.run(tag_names=False, policy=hb.IngestPolicy(grace=0, attempts=1))
        assert told.states == {"0.txt": "PARKED(UNKNOWN)"} and told.report is not None
        assert not it.trouble.hide_new_jobs
        assert told.report.audited and told.report.duplicates == []
        told = await it.run(tag_names=False)
        assert (told.error, told.bytes_sent, told.states) == (None, 0, {"0.txt": "DONE"})
        assert told.report is not None
        assert (told.report.jobs, told.report.duplicates) == (len(await it.jobs()), [])


async def test_a_look_that_failed_is_made_up_for(tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=False) as it:
        it.write("one two")
        it.trouble.submissions(Answer(429))
        listed_late(it)
        it.trouble.answers("GET", "/jobs", None, None, *[Answer(200, body=b"<html>")] * 100)
        told = await it.run()
        assert told.error is None and told.report is not None
        assert (told.report.audited, told.report.duplicates) == (False, [])
        it.trouble._answers.clear()
        told = await it.run()
        assert told.report is not None and told.report.audited
        assert told.report.duplicates == it.trouble.accepted[:1]
        await it.settled(jobs=2, duplicates=1)


# ── how often the list is asked


async def looks(it: Scene, faults: list[Any], **how: Any) -> tuple[Told, list[float]]:
    """A run, and when it began to look through the list."""
    times: list[float] = []

    async def odd(request: web.Request, handler: Handler) -> web.StreamResponse:
        if "timestamp_ms" in request.query and it.trouble.clock is not None:
            times.append(it.trouble.clock.now())
        return await handler(request)

    it.trouble.odd = odd
    it.trouble.answers("GET", "/jobs", None, *faults)  # not the greeting
    return await it.run(**how), times


@pytest.mark.parametrize("grace", [0.0, 0.1, 300.0])
async def test_a_list_that_nobody_can_read_is_asked_with_pauses(grace: float, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=False) as it:
        it.write("one two")
        it.trouble.submissions("drop")
        policy = hb.IngestPolicy(grace=grace, max_outage=600)
        told, times = await looks(it, [Answer(200, body=b"<html>")] * 10_000, policy=policy)
        assert told.error is not None
        assert 600 <= times[-1] < 700 and len(times) < 40
        assert all(later - earlier >= 0.999 for earlier, later in itertools.pairwise(times))
        await it.check(finished=False)


async def test_a_list_that_proves_nothing_is_asked_with_pauses(tmp_path: Path) -> None:
    """It never shows again what it has shown before."""
    async with scene(tmp_path, keyed=False) as it:
        it.write("one two")
        it.trouble.submissions(Before(503))
        job = b'{"job_id":"%s","user_id":"","request":{"files":[],"models":{}},"state":{"status":"QUEUED",'
        job += b'"created_timestamp_ms":%d}}'
        page = b"[" + b",".join(job % (b"%08d-0000-4000-8000-000000000000" % n, 10**15 - n) for n in range(60)) + b"]"
        told, times = await looks(it, [Answer(200, body=page)] * 10_000, policy=hb.IngestPolicy(grace=0))
        assert told.error is None and told.states == {"0.txt": "PARKED(UNKNOWN)"}
        assert len(times) == 4  # three looks, and the audit
        assert all(later - earlier >= 0.999 for earlier, later in itertools.pairwise(times[:-1]))


# ── how often something is sent again


async def test_tries_with_a_key_leave_those_without_one_their_number(tmp_path: Path) -> None:
    """A server that honours keys loses five answers, and then a refusal makes the list the judge: still sent again."""
    async with scene(tmp_path, keyed=True) as it:
        it.write("one two")
        it.trouble.submissions(*[Before(503)] * 5, Before(422))
        told = await it.run()
        assert (told.error, told.states) == (None, {"0.txt": "DONE"})
        assert it.trouble.requests["POST /jobs"] == 7
        await it.settled(jobs=1)
