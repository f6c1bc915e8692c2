"""Jobs that never end, end badly, or go away, in runs that take days on their clock."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import humebatch as hb
from humebatch.server import RunnerLimits
from humebatch.testing import Answer, Before, running_server

from .scene import KEY, Handler, Scene, scene

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("stray_exceptions")]

both = pytest.mark.parametrize("keyed", [True, False], ids=["keyed", "old"])
IDLE = RunnerLimits(workers=0)  # accepts jobs and measures none


async def change(it: Scene, statement: str, *values: Any) -> int:
    """Something that happens to the jobs behind everybody's back; returns how many it happened to."""

    def work() -> int:
        with contextlib.closing(sqlite3.connect(it.server.data / "jobs.db")) as database, database:
            return database.execute(statement, values).rowcount

    return await asyncio.to_thread(work)


def when_accepted(it: Scene, count: int, act: Callable[[], Awaitable[object]]) -> None:
    """Do something once, at the first look after so many jobs were made."""
    done = False

    async def odd(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal done
        if request.method == "GET" and len(it.trouble.accepted) >= count and not done:
            done = True
            await act()
        return await handler(request)

    it.trouble.odd = odd


# ── jobs that do not end


@both
async def test_jobs_that_never_end_are_parked_and_watched_again(keyed: bool, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with scene(tmp_path, keyed=keyed, data=data, running=IDLE) as it:
        it.write("one two", "three four", "five six")
        told = await it.run(policy=hb.IngestPolicy(job_deadline=7200))  # a day, unless told otherwise
        assert told.error is None
        assert set(told.states.values()) == {"PARKED(STALLED)"}
        assert told.clock.now() >= 7200
        ledger = await it.check()
        assert all(job_id is not None for _, job_id in ledger.groups.values())
        assert any(str(job_id) in "\n".join(it.said) for _, job_id in ledger.groups.values())
        # They are watched again, and not submitted again.
        told = await it.run(policy=hb.IngestPolicy(job_deadline=600))
        assert set(told.states.values()) == {"PARKED(STALLED)"} and told.bytes_sent == 0
        assert 600 <= told.clock.now() < 1200
        await it.check()
    async with scene(tmp_path, keyed=keyed, data=data) as it:
        told = await it.run(rebind=True)
        assert (told.error, told.bytes_sent) == (None, 0)
        await it.settled(jobs=3)


@both
async def test_one_that_never_ends_holds_up_no_other(keyed: bool, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=keyed) as it:
        it.write(*(f"one two {number}" for number in range(5)))

        async def odd(request: web.Request, handler: Handler) -> web.StreamResponse:
            response = await handler(request)
            mine = it.trouble.accepted[:1]
            if request.method == "GET" and mine and isinstance(response, web.Response):
                # The first job is never seen to end.
                assert isinstance(response.body, bytes)
                if request.path.endswith(mine[0]):
                    response.body = response.body.replace(b'"COMPLETED"', b'"IN_PROGRESS"')
                elif request.path.endswith("/jobs") and mine[0].encode() in response.body:
                    rows = response.body[1:-1].replace(b'},{"type"', b'}\n{"type"').split(b"\n")
                    kept = [row for row in rows if mine[0].encode() not in row or b"COMPLETED" not in row]
                    response.body = b"[" + b",".join(kept) + b"]"
            return response

        it.trouble.odd = odd
        told = await it.run(policy=hb.IngestPolicy(job_deadline=7200))
        assert told.error is None
        assert sorted(told.states.values()) == ["DONE"] * 4 + ["PARKED(STALLED)"]
        await it.check()
        it.trouble.odd = None
        told = await it.run()
        assert (told.error, told.bytes_sent) == (None, 0)
        await it.settled(jobs=5)


@both
async def test_a_status_nobody_has_heard_of_is_no_end(keyed: bool, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=keyed) as it:
        it.write("one two", "three four")

        async def odd(request: web.Request, handler: Handler) -> web.StreamResponse:
            response = await handler(request)
            clock = it.trouble.clock
            early = clock is not None and clock.now() < 3000
            if request.method == "GET" and early and isinstance(response, web.Response):
                assert isinstance(response.body, bytes)
                response.body = response.body.replace(b'"COMPLETED"', b'"ARCHIVED"').replace(
                    b'"type":"INFERENCE"', b'"type":"TRAINING","is_new":null'
                )
            return response

        it.trouble.odd = odd
        told = await it.run()
        assert told.error is None and told.clock.now() >= 3000
        await it.settled(jobs=2)


# ── jobs that end badly, or are not there


@both
async def test_a_job_that_fails(keyed: bool, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=keyed, running=IDLE) as it:
        it.write(*(f"one two {number}" for number in range(4)))

        async def fail() -> None:
            count = await change(
                it,
                "UPDATE job SET status = 'FAILED', ended_ms = created_ms, started_ms = created_ms, message = ?",
                "the disk of worker 7 is broken",
            )
            assert count == 2

        when_accepted(it, 2, fail)
        told = await it.run(files_per_job=2)
        assert told.error is None
        assert set(told.states.values()) == {"FAILED(JOB_FAILED)"}
        assert any("the disk of worker 7 is broken" in line for line in it.said)
        await it.check()
        again = await it.run(files_per_job=2)  # nothing is made again that nobody asked for
        assert (again.error, again.bytes_sent, again.states) == (None, 0, told.states)


@both
async def test_a_job_that_goes_away(keyed: bool, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=keyed, running=IDLE) as it:
        it.write("one two", "three four")

        async def vanish() -> None:
            assert await change(it, "DELETE FROM job WHERE id = ?", it.trouble.accepted[0]) == 1
            await change(it, "UPDATE job SET status = 'FAILED', started_ms = created_ms, ended_ms = created_ms")

        when_accepted(it, 2, vanish)
        told = await it.run()
        assert told.error is None
        assert sorted(told.states.values()) == ["FAILED(GONE)", "FAILED(JOB_FAILED)"]
        assert it.trouble.requests["POST /jobs"] == 2
        await it.check()
        again = await it.run()
        assert (again.error, again.bytes_sent, again.states) == (None, 0, told.states)


async def test_results_that_go_away_after_the_end(tmp_path: Path) -> None:
    """Looked for for ten minutes: they may be on their way to where they are kept."""
    async with scene(tmp_path, keyed=True) as it:
        it.write("one two")
        it.trouble.answers("GET", "/predictions", *[404] * 100)
        told = await it.run()
        assert (told.error, told.states) == (None, {"0.txt": "FAILED(GONE)"})
        assert told.clock.now() >= 600 and it.trouble.requests["GET /predictions"] == 6
        await it.check()


async def test_a_job_that_comes_back(tmp_path: Path) -> None:
    """Not there at one look, as where several servers answer, and there at the next."""
    async with scene(tmp_path, keyed=False) as it:
        it.write("one two", "three four", "five six")
        it.trouble.answers("GET", "/jobs", None, *[503] * 3)
        it.trouble.answers("GET", "/jobs/{id}", 404, 404, None, 404)
        told = await it.run()
        assert told.error is None
        await it.settled(jobs=3)


async def test_a_job_with_no_results_for_one_of_its_files(tmp_path: Path) -> None:
    """The server could not measure one part of one file: the file is done, and the part is counted."""
    async with scene(tmp_path, keyed=True) as it:
        it.write("one two", "three four")
        (it.inputs / "9.bin").write_bytes(b"\x00\x01\x02")
        told = await it.run(files_per_job=3)
        assert (told.error, set(told.states.values())) == (None, {"DONE"})
        assert any("errors=1" in line for line in it.said)
        await it.settled(jobs=1)


async def test_done_stays_done(tmp_path: Path) -> None:
    """What the server says of a job whose results are saved does not matter any more."""
    async with scene(tmp_path, keyed=True) as it:
        it.write("one two", "three four")
        assert (await it.run()).error is None
        await change(it, "UPDATE job SET status = 'QUEUED', ended_ms = NULL")
        told = await it.run()
        assert (told.error, told.bytes_sent, set(told.states.values())) == (None, 0, {"DONE"})
        await change(it, "UPDATE job SET status = 'FAILED'")
        it.trouble.requests.clear()
        assert set((await it.run()).states.values()) == {"DONE"}
        assert set(it.trouble.requests) == {"GET /jobs"}


# ── servers that change


@both
async def test_a_server_that_was_set_back_to_yesterday(keyed: bool, tmp_path: Path) -> None:
    """Its database is an older copy: what was accepted since is gone, and that is said, not measured again unasked."""
    data, copy = tmp_path / "data", tmp_path / "copy"
    async with scene(tmp_path, keyed=keyed, data=data, running=IDLE) as it:
        it.write("one two")
        await it.run(policy=hb.IngestPolicy(job_deadline=10))
    await asyncio.to_thread(shutil.copytree, data, copy)
    async with scene(tmp_path, keyed=keyed, data=data, running=IDLE) as it:
        it.write("three four")
        await it.run(rebind=True, policy=hb.IngestPolicy(job_deadline=10))
        assert len(await it.jobs()) == 2
    async with scene(tmp_path, keyed=keyed, data=copy) as it:
        told = await it.run(rebind=True)
        assert told.error is None
        assert told.states == {"0.txt": "DONE", "1.txt": "FAILED(GONE)"}
        assert it.trouble.requests["POST /jobs"] == 0
        await it.check()


@pytest.mark.parametrize("keyed", [(True, False), (False, True)], ids=["keys are switched off", "keys are switched on"])
async def test_a_server_that_changes_its_manners(keyed: tuple[bool, bool], tmp_path: Path) -> None:
    """What was sent to one that honours no keys is looked for in the list, whatever answers now."""
    data = tmp_path / "data"
    async with scene(tmp_path, keyed=keyed[0], data=data) as it:
        it.write("one two", "three four", "five six")
        faults: list[Any] = ["drop", "late", *["drop"] * 1000]
        it.trouble.submissions(*faults)
        it.trouble.answers("GET", "/jobs", None, *[503] * 1000)
        told = await it.run(policy=hb.IngestPolicy(max_outage=60))
        assert told.error is not None
        await it.check(finished=False)
        held = it.trouble
    async with scene(tmp_path, keyed=keyed[1], data=data) as it:
        held.address = it.trouble.address
        told = await it.run(rebind=True)
        assert told.error is None
        assert len(await it.jobs()) == 3
        await it.check()


# ── keys


async def test_another_key_later(tmp_path: Path) -> None:
    """A run never changes its key. The next one may have another one, when it is told that this is meant."""
    async with scene(tmp_path, keyed=True) as it:
        it.write("one two")
        assert (await it.run()).error is None
        client = hb.BatchClient(base_url=it.url, api_key="canary-another-key", clock=it.client()._clock)
        told = await it.run(client=client)
        assert isinstance(told.error, hb.ConfigError) and "key" in str(told.error)
        assert "canary" not in str(told.error)
        await it.settled(jobs=1)


@both
async def test_the_key_is_nowhere(keyed: bool, tmp_path: Path) -> None:
    """Not even where a gateway repeats the request in its answer."""
    async with scene(tmp_path, keyed=keyed) as it:
        it.write("one two", "three four")
        echo = Before(503, body=f"X-Hume-Api-Key: {KEY}".encode())
        it.trouble.submissions(echo, Before(422, body=b'{"message":"key ' + KEY.encode() + b'"}'))
        it.trouble.answers("GET", "/predictions", Answer(500, body=KEY.encode()))
        await it.run()
        ledger = await it.check(finished=False)
        assert ledger.attempts >= 2
        assert KEY not in repr(it.client())


async def test_a_server_of_somebody_else_entirely(tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=True) as it, running_server(api_key=KEY) as other:
        it.write("one two")
        assert (await it.run()).error is None
        told = await it.run(url=other.base_url)
        assert isinstance(told.error, hb.ConfigError) and other.base_url in str(told.error)
        await it.settled(jobs=1)
