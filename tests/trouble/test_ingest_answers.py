"""What servers and gateways answer to submissions, and what an ingest makes of it: one job per group, whatever it is.

`keyed` is a server that honours idempotency keys, the other one is like the hosted service, which did not.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import humebatch as hb
from humebatch._transport.clock import SystemClock
from humebatch.cli.output import exit_code
from humebatch.server import IntakeLimits
from humebatch.testing import Answer, Before, Trouble, running_server

from .scene import KEY, Handler, scene

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("stray_exceptions")]

both = pytest.mark.parametrize("keyed", [True, False], ids=["keyed", "old"])
PAGE = b"<html><body>Welcome to our Wi-Fi</body></html>"


# ── the job is made, and its answer is not what it should be


STRANGE = [
    408, 409, 500, 503, 504, Answer(503, headers={"Retry-After": "30"}),
    Answer(200, body=PAGE), Answer(200, body=b""), Answer(200, body=b"{}"), Answer(200, body=b'{"job_id":null}'),
    Answer(200, body=b'{"job_id":"../jobs"}'), Answer(200, body=b'{"job_id":"\xff"}'),
]  # fmt: skip


@both
@pytest.mark.parametrize(
    ("fault", "groups"),
    [*((fault, groups) for fault in ("drop", "cut", 502) for groups in (1, 5)), *((fault, 3) for fault in STRANGE)],
    ids=str,
)
async def test_accepted_and_not_told(fault: Any, groups: int, keyed: bool, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=keyed) as it:
        it.write(*(f"one two {number}" for number in range(groups)))
        it.trouble.submissions(*[fault] * groups)
        told = await it.run()
        assert (told.error, it.trouble.left) == (None, 0)
        assert told.report is not None
        assert (told.report.done, told.report.jobs, told.report.duplicates) == (groups, groups, [])
        # The one asks again with the same key, the other looks into the list and sends nothing.
        assert it.trouble.requests["POST /jobs"] == (2 * groups if keyed else groups)
        await it.settled(jobs=groups)


@both
async def test_every_answer_is_lost_for_a_while(keyed: bool, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=keyed) as it:
        it.write(*(f"one two {number}" for number in range(4)))
        faults: list[Any] = ["drop", 502, "cut", 409, *["drop", 504] * 6]
        it.trouble.submissions(*faults)
        told = await it.run()
        assert told.error is None
        await it.settled(jobs=4)


@both
@pytest.mark.parametrize("fault", [Answer(429), Answer(429, headers={"Retry-After": "700"}), 425, 507], ids=str)
async def test_accepted_and_told_to_come_later(fault: Any, keyed: bool, tmp_path: Path) -> None:
    """That says that nothing was done. Where it is not true a key helps, and else a look before it is sent again."""
    async with scene(tmp_path, keyed=keyed) as it:
        it.write(*(f"one two {number}" for number in range(3)))
        it.trouble.submissions(*[fault] * 3)
        told = await it.run()
        assert (told.error, it.trouble.left) == (None, 0)
        assert told.report is not None and told.report.audited
        assert it.trouble.requests["POST /jobs"] == (6 if keyed else 3)
        await it.settled(jobs=3)


@both
@pytest.mark.parametrize("how", ["impatient", "stopped"])
async def test_told_to_come_another_day(how: str, keyed: bool, tmp_path: Path) -> None:
    """The run is over before that, and the next one knows that there may be a job all the same."""
    async with scene(tmp_path, keyed=keyed) as it:
        it.write(*(f"one two {number}" for number in range(3)))
        it.trouble.submissions(*[Answer(429, headers={"Retry-After": "100000"})] * 3)
        if how == "impatient":
            it.trouble.answers("GET", "/jobs", None, *[503] * 50)
            told = await it.run(policy=hb.IngestPolicy(max_outage=200, grace=1000))
            assert told.error is not None
            it.trouble._answers.clear()
        else:
            async with it.client(clock=SystemClock()) as client, it.ingest(client) as outcomes:
                while len(it.trouble.accepted) < 3 or it.trouble.busy:
                    await asyncio.sleep(0.001)
                outcomes.stop()
                assert [outcome async for outcome in outcomes] == []
        await it.check(finished=False)
        told = await it.run()
        assert told.error is None
        await it.settled(jobs=3)


@both
async def test_a_file_that_changes_while_its_group_is_told_to_wait(keyed: bool, tmp_path: Path) -> None:
    """The job is there, made of what the files were: the others are not measured again."""
    async with scene(tmp_path, keyed=keyed) as it:
        it.write("one two", "three four", "five six")
        it.trouble.submissions(Answer(429, headers={"Retry-After": "700"}))

        async def edits(request: web.Request, handler: Handler) -> web.StreamResponse:
            response = await handler(request)
            if it.trouble.requests["POST /jobs"] == 1 and request.method == "POST":
                (it.inputs / "1.txt").write_text("three four five")
            return response

        it.trouble.odd = edits
        told = await it.run(files_per_job=3)
        it.trouble.odd = None
        assert told.error is None and told.report is not None
        assert (told.report.done, told.report.duplicates) == (3, [])
        await it.run(files_per_job=3)  # one that was adopted as it was is another one by now
        await it.settled(jobs=2)


async def test_a_server_that_makes_jobs_and_never_says_so_is_no_outage(tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=False) as it:
        it.write(*(f"one two {number}" for number in range(60)))
        faults: list[Any] = [Answer(429), "drop", 504] * 20
        it.trouble.submissions(*faults)
        client = it.client(limits=hb.Limits(uploads=2))
        told = await it.run(client=client, policy=hb.IngestPolicy(max_outage=30))
        assert told.error is None
        assert told.clock.now() > 30  # longer than its patience with nothing at all
        await it.settled(jobs=60)


@pytest.mark.parametrize("status", [500, 429])
async def test_told_to_come_later_by_a_server_that_has_no_list_for_us(status: int, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=False) as it:
        it.write("one two")
        it.trouble.submissions(Before(429))

        async def no_list(request: web.Request, handler: Handler) -> web.StreamResponse:
            return web.Response(status=status) if "timestamp_ms" in request.query else await handler(request)

        it.trouble.odd = no_list
        told = await it.run()
        assert told.error is None and told.report is not None
        assert (told.report.done, told.report.audited) == (1, False)
        assert it.trouble.posted[1] >= hb.IngestPolicy().grace  # so long the list may take to come back
        it.trouble.odd = None
        await it.settled(jobs=1)


async def test_a_list_that_fails_only_where_it_is_needed(tmp_path: Path) -> None:
    """A job that is watched all the while, and asked for in other ways, does not keep the run waiting."""
    async with scene(tmp_path, keyed=False) as it:
        it.write("one two", "three four")
        it.trouble.submissions(None, "drop")

        async def odd(request: web.Request, handler: Handler) -> web.StreamResponse:
            if "timestamp_ms" in request.query:
                return web.Response(status=500)
            response = await handler(request)
            if request.method == "GET" and isinstance(response, web.Response) and isinstance(response.body, bytes):
                response.body = response.body.replace(b'"COMPLETED"', b'"IN_PROGRESS"')
            return response

        it.trouble.odd = odd
        client = it.client(limits=hb.Limits(uploads=1))
        told = await it.run(client=client, policy=hb.IngestPolicy(max_outage=600))
        assert isinstance(told.error, hb.ServerError)
        assert 600 <= told.clock.now() < 1200
        it.trouble.odd = None
        await it.check(finished=False)
        assert (await it.run()).error is None
        await it.settled(jobs=2)


@pytest.mark.parametrize("fault", [Before(429), Answer(429), Before(503), "drop"], ids=str)
async def test_a_list_that_takes_no_time_window(fault: Any, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=False) as it:
        it.write("one two")
        it.trouble.submissions(fault)

        async def plain(request: web.Request, handler: Handler) -> web.StreamResponse:
            return web.Response(status=400) if "timestamp_ms" in request.query else await handler(request)

        it.trouble.odd = plain
        told = await it.run()
        assert told.error is None and told.report is not None and told.report.audited
        await it.settled(jobs=1)


async def test_told_to_come_later_by_a_server_whose_list_is_no_help(tmp_path: Path) -> None:
    """Then its word is all there is."""
    async with scene(tmp_path, keyed=False) as it:
        it.write("one two", "three four")
        it.trouble.submissions(*[Before(429)] * 5)
        job = b'{"job_id":"%s","user_id":"","request":{"files":[],"models":{}},"state":{"status":"QUEUED",'
        job += b'"created_timestamp_ms":%d}}'
        page = b"[" + b",".join(job % (b"%08d-0000-4000-8000-000000000000" % n, 10**15 - n) for n in range(60)) + b"]"
        it.trouble.answers("GET", "/jobs", None, *[Answer(200, body=page)] * 100)
        told = await it.run()
        assert told.error is None and told.report is not None and not told.report.audited
        assert told.clock.now() < hb.IngestPolicy().grace  # nothing is waited for but the pauses
        assert it.trouble.requests["POST /jobs"] == 7
        it.trouble._answers.clear()
        await it.settled(jobs=2)


async def test_told_to_come_later_while_another_one_is_looked_for(tmp_path: Path) -> None:
    """Whoever got a no does not wait as long as whoever got no answer."""
    async with scene(tmp_path, keyed=False) as it:
        it.write("one two", "three four", "five six")
        it.trouble.submissions(Before(503), Before(429), Before(429))
        told = await it.run(client=it.client(limits=hb.Limits(uploads=1)))
        assert told.error is None
        assert len(it.trouble.posted) == 6
        assert it.trouble.posted[4] < hb.IngestPolicy().grace <= it.trouble.posted[5]
        await it.settled(jobs=3)


# ── no job is made


@pytest.mark.parametrize("fault", [Before(500), Before(502), Before(503), Before(408), Before(200, body=PAGE)], ids=str)
@both
async def test_not_accepted_and_not_told(fault: Any, keyed: bool, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=keyed) as it:
        it.write("one two", "three four")
        it.trouble.submissions(fault, fault)
        told = await it.run()
        assert told.error is None
        # Without keys the list must have shown nothing for all of the grace time.
        assert (it.trouble.posted[-1] - it.trouble.posted[0] >= 300) == (not keyed)
        assert it.trouble.requests["POST /jobs"] == 4
        await it.settled(jobs=2)


@both
async def test_an_answer_that_never_comes_is_asked_for_a_few_times(keyed: bool, tmp_path: Path) -> None:
    """Nothing is ever accepted. Where no key is honoured each new try is a risk: there are few, and it is parked."""
    async with scene(tmp_path, keyed=keyed) as it:
        it.write("one two")
        it.trouble.submissions(*[Before(503)] * 10_000)
        told = await it.run(policy=hb.IngestPolicy(max_outage=600 if keyed else 7200))
        if keyed:
            assert told.error is not None and exit_code(told.error) == 75
            assert 600 <= told.clock.now() < 700
            assert it.trouble.requests["POST /jobs"] < 40
        else:
            assert told.error is None and told.states == {"0.txt": "PARKED(UNKNOWN)"}
            assert it.trouble.requests["POST /jobs"] == 4
        await it.check(finished=told.error is None)
        it.trouble._submissions.clear()
        told = await it.run()
        assert told.error is None
        await it.settled(jobs=1)


# ── the server has enough


@both
async def test_a_pause_that_is_asked_for_is_kept(keyed: bool, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=keyed) as it:
        it.write("one two", "three four")
        it.trouble.submissions(Before(429, headers={"Retry-After": "700"}))
        told = await it.run(client=it.client(limits=hb.Limits(uploads=1)))
        assert told.error is None
        assert 700 <= it.trouble.posted[1] - it.trouble.posted[0] < 800  # nothing is looked for: it was a no
        assert it.trouble.requests["POST /jobs"] == 3
        ledger = await it.settled(jobs=2)
        assert ledger.attempts == 3


@both
@pytest.mark.parametrize(
    "headers",
    [
        {}, {"Retry-After": "junk"}, {"Retry-After": "-5"}, {"retry-after-ms": "1500"},
        {"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"}, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "20"},
    ],
    ids=str,
)  # fmt: skip
async def test_a_storm_of_429s(headers: dict[str, str], keyed: bool, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=keyed) as it:
        it.write(*(f"one two {number}" for number in range(6)))
        it.trouble.submissions(*[Before(429, headers=headers)] * 40)
        told = await it.run()
        assert told.error is None
        assert it.trouble.requests["POST /jobs"] == 46
        await it.settled(jobs=6)


async def test_a_pause_longer_than_our_patience(tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=True) as it:
        it.write("one two", "three four")
        it.trouble.submissions(Before(429, headers={"Retry-After": str(10**9)}))
        told = await it.run(client=it.client(limits=hb.Limits(uploads=1)), policy=hb.IngestPolicy(max_outage=1800))
        assert isinstance(told.error, hb.RateLimited) and exit_code(told.error) == 75
        assert it.trouble.requests["POST /jobs"] == 1
        await it.check(finished=False)
        assert (await it.run()).error is None
        await it.settled(jobs=2)


@both
@pytest.mark.parametrize("patient", [True, False])
async def test_a_full_server(patient: bool, keyed: bool, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=keyed) as it:
        it.write(*(f"one two {number}" for number in range(3)))
        it.trouble.submissions(None, *[Before(507)] * (10 if patient else 10_000))
        told = await it.run(policy=hb.IngestPolicy(max_outage=900))
        if patient:
            assert told.error is None
        else:
            assert isinstance(told.error, hb.StorageFull) and exit_code(told.error) == 75
            assert list(told.states.values()) == ["DONE"]  # what was accepted is fetched meanwhile
            assert it.trouble.requests["POST /jobs"] < 100
            await it.check(finished=False)
            it.trouble._submissions.clear()
            assert (await it.run()).error is None
        await it.settled(jobs=3)


# ── the server says no


@both
async def test_a_key_that_is_wrong_from_the_start(keyed: bool, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=keyed) as it:
        it.write("one two")
        it.trouble.answers("GET", "/jobs", 401)
        told = await it.run()
        assert isinstance(told.error, hb.AuthError) and exit_code(told.error) == 4
        assert dict(it.trouble.requests) == {"GET /jobs": 1}
        assert (await it.run()).error is None
        await it.settled(jobs=1)


@both
@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_that_is_withdrawn_in_the_middle(status: int, keyed: bool, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=keyed) as it:
        it.write(*(f"one two {number}" for number in range(40)))
        it.trouble.submissions(*[None] * 10, *[Before(status)] * 10_000)
        told = await it.run(client=it.client(limits=hb.Limits(uploads=4)))
        assert isinstance(told.error, hb.AuthError) and exit_code(told.error) == 4
        assert it.trouble.requests["POST /jobs"] <= 10 + 4 + 1
        ledger = await it.check(finished=False)
        assert sum(job_id is not None for _, job_id in ledger.groups.values()) == 10
        it.trouble._submissions.clear()
        assert (await it.run()).error is None
        await it.settled(jobs=40)


@pytest.mark.parametrize("route", ["/jobs", "/jobs/{id}", "/predictions"])
async def test_a_key_that_is_withdrawn_from_looks(route: str, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=False) as it:
        it.write(*(f"one two {number}" for number in range(4)))
        it.trouble.answers("GET", route, *([None] if route == "/jobs" else []), *[401] * 100)
        told = await it.run()
        assert isinstance(told.error, hb.AuthError)
        await it.check(finished=False)
        it.trouble._answers.clear()
        assert (await it.run()).error is None
        await it.settled(jobs=4)


async def test_there_is_no_batch_api(tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=True) as it:
        it.write("one two")
        told = await it.run(url=it.server.base_url + "/elsewhere")
        assert isinstance(told.error, hb.ConfigError) and exit_code(told.error) == 2
        assert "no batch API" in str(told.error)
        it.trouble.answers("GET", "/jobs", Answer(200, body=PAGE))
        told = await it.run(rebind=True)
        assert isinstance(told.error, hb.ConfigError) and "no batch API" in str(told.error)
        assert it.trouble.requests["POST /jobs"] == 0
        assert (await it.run()).error is None
        await it.settled(jobs=1)


@both
async def test_submissions_have_moved_away(keyed: bool, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=keyed) as it:
        it.write("one two", "three four")
        it.trouble.answers("POST", "/jobs", *[404] * 100)
        told = await it.run()
        assert isinstance(told.error, hb.ConfigError) and exit_code(told.error) == 2
        assert it.trouble.requests["POST /jobs"] <= 2
        await it.check(finished=False)
        it.trouble._answers.clear()
        assert (await it.run()).error is None
        await it.settled(jobs=2)


@both
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_nothing_is_sent_elsewhere(method: str, status: int, keyed: bool, tmp_path: Path) -> None:
    other = Trouble()
    async with (
        running_server(trouble=other, api_key=KEY) as elsewhere,
        other.proxy(elsewhere.base_url) as sink,
        scene(tmp_path, keyed=keyed) as it,
    ):
        it.write("one two")
        where = {"Location": sink.base_url + "/v0/batch/jobs"}
        it.trouble.answers(method, "/jobs", *[Answer(status, headers=where)] * 3)
        told = await it.run()
        assert isinstance(told.error, hb.HumebatchError)
        assert str(status) in str(told.error)
        assert sink.opened == 0 and await it.jobs() == []
        it.trouble._answers.clear()
        assert (await it.run()).error is None
        await it.settled(jobs=1)
        assert sink.opened == 0


@both
@pytest.mark.parametrize("early", [True, False])
async def test_one_file_of_a_group_is_too_large(early: bool, keyed: bool, tmp_path: Path) -> None:
    intake = IntakeLimits(request_bytes=7000) if early else IntakeLimits(file_bytes=5000)
    async with scene(tmp_path, keyed=keyed, intake=intake) as it:
        it.write(*(f"one two {number}" for number in range(4)), "large " * 1500, *(f"three {n}" for n in range(3)))
        told = await it.run(files_per_job=8)
        assert told.error is None
        assert told.states == {f"{n}.txt": "FAILED(TOO_LARGE)" if n == 4 else "DONE" for n in range(8)}
        ledger = await it.check()
        assert len(await it.jobs()) == len([1 for _, job_id in ledger.groups.values() if job_id is not None]) < 7
        sent = it.trouble.requests["POST /jobs"]
        assert set((await it.run()).states.values()) == {"DONE", "FAILED(TOO_LARGE)"}
        assert it.trouble.requests["POST /jobs"] == sent


@both
@pytest.mark.parametrize("status", [400, 422])
async def test_one_file_of_a_group_is_refused(
    status: int, keyed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from humebatch.server import app, intake

    async def receive(*given: Any) -> intake.Received:
        received = await intake.receive(*given)
        if any(file.md5sum == "343b3cd505e2e1ab44f7102e420230c4" for file in received.files):
            raise intake.Refused(status, "this file is not for us")
        return received

    monkeypatch.setattr(app, "receive", receive)
    async with scene(tmp_path, keyed=keyed) as it:
        it.write(*(f"one two {number}" for number in range(5)), "not for them")
        told = await it.run(files_per_job=6)
        assert told.error is None
        assert told.states == {f"{n}.txt": "FAILED(REFUSED)" if n == 5 else "DONE" for n in range(6)}
        await it.check()
        assert any("this file is not for us" in line for line in it.said)


@both
async def test_a_request_that_is_wrong_for_every_file(keyed: bool, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=keyed) as it:
        it.write(*(f"one two {number}" for number in range(200)))
        it.trouble.submissions(*[Before(422, body=b'{"message":"models.language: not here"}')] * 1000)
        told = await it.run()
        assert isinstance(told.error, hb.InvalidRequest) and "not here" in str(told.error)
        assert it.trouble.requests["POST /jobs"] < 20  # nobody has to be told 200 times
        await it.check(finished=False)
        assert await it.jobs() == []


@both
@pytest.mark.parametrize("status", [405, 406, 415, 417, 431, 451])
async def test_other_refusals_end_the_run(status: int, keyed: bool, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=keyed) as it:
        it.write("one two")
        it.trouble.submissions(Before(status))
        told = await it.run()
        assert isinstance(told.error, hb.ApiError) and told.error.status == status
        await it.check(finished=False)
        assert (await it.run()).error is None
        await it.settled(jobs=1)


# ── how much is asked


async def test_a_server_that_fails_for_an_hour_is_not_hammered(tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=True) as it:
        it.write(*(f"one two {number}" for number in range(50)))

        async def failing(request: web.Request, handler: Handler) -> web.StreamResponse:
            if sum(it.trouble.requests.values()) < 10:
                return await handler(request)
            return web.Response(status=500)

        it.trouble.odd = failing
        told = await it.run(client=it.client(limits=hb.Limits(uploads=8)))
        assert told.error is not None and exit_code(told.error) == 75
        assert told.clock.now() >= 3600
        assert told.requests < 300  # in an hour, with fifty files and eight at once
        await it.check(finished=False)
        it.trouble.odd = None
        assert (await it.run()).error is None
        await it.settled(jobs=50)


async def test_nothing_goes_wrong(tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=True) as it:
        it.write(*(f"one two {number}" for number in range(20)))
        told = await it.run(files_per_job=5)
        assert (told.error, told.resends) == (None, 0)
        assert (it.trouble.requests["POST /jobs"], it.trouble.requests["GET /predictions"]) == (4, 4)
        await it.settled(jobs=4)
