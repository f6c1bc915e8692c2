"""`Idempotency-Key` over real sockets: whatever is sent again, cut, raced or killed, one key makes one job."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from aiohttp import web
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import humebatch as hb
from humebatch.server import IntakeLimits, RunnerLimits, create_app
from humebatch.testing import RunningServer, running_server
from tests.server.process import served
from tests.server.raw import (
    BOUNDARY,
    Reply,
    connection,
    eventually,
    form,
    form_request,
    left_behind,
    part,
    path_of_input,
    read_reply,
    request,
    rows,
    talk,
)

pytestmark = pytest.mark.anyio

DAY_MS = 24 * 3600 * 1000
CAPABILITIES = "x-humebatch-capabilities"
JSON: dict[str, Any] = {"models": {"language": {}}, "text": ["Test!"]}
WAV = part("file", b"RIFF wave", "Content-Type: audio/wav", filename="a.wav")
# Jobs stay as they are: nothing is measured.
STILL = RunnerLimits(workers=0)


def header(key: str) -> list[str]:
    return [f"Idempotency-Key: {key}"]


def submission(key: str, /, body: object = JSON, **more: Any) -> bytes:
    return request(body=json.dumps(body).encode(), headers=header(key), **more)


def upload(key: str, /, *parts: bytes, **more: Any) -> bytes:
    return form_request(form(*(parts or (WAV,))), headers=header(key), **more)


async def accepted(server: RunningServer, data: bytes) -> str:
    reply = await talk(server, data)
    assert reply.status == 200, reply
    return str(reply.json["job_id"])


def database(data: Path, statement: str, *values: object) -> list[Any]:
    """What a statement returns, run past the server."""
    with contextlib.closing(sqlite3.connect(data / "jobs.db", isolation_level=None)) as opened:
        return opened.execute(statement, values).fetchall()


def kept(server: RunningServer) -> dict[str, str]:
    """The keys on disk and their jobs."""
    return dict(database(server.data, "SELECT key, job_id FROM job_key"))


@contextlib.asynccontextmanager
async def with_keys(data: Path, *api_keys: str) -> AsyncIterator[RunningServer]:
    """A server of several tenants, which `running_server` is not."""
    runner = web.AppRunner(create_app(data, api_keys=api_keys, measure="fixed", running=STILL), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield RunningServer(base_url=f"http://127.0.0.1:{runner.addresses[0][1]}", api_key=api_keys[0], data=data)
    finally:
        await runner.cleanup()


@pytest.fixture
async def still(stray_exceptions: object) -> AsyncIterator[RunningServer]:
    """A server that accepts jobs and leaves them QUEUED; an upload may pause for a fifth of a second."""
    async with running_server(running=STILL, intake=IntakeLimits(stall=0.2, request_bytes=10_000)) as running:
        yield running


# ---- the same request again -----------------------------------------------------------------------


async def test_the_same_request_again(still: RunningServer) -> None:
    for key, data in (("k-json", submission("k-json")), ("k-form", upload("k-form"))):
        job_id = await accepted(still, data)
        folders = left_behind(still)
        assert [await accepted(still, data) for _ in range(3)] == [job_id] * 3
        assert left_behind(still) == folders, "the files that came again are dropped"
        assert kept(still)[key] == job_id
    assert len(rows(still)) == 2


async def test_the_same_request_in_other_bytes(still: RunningServer) -> None:
    """What counts is what the server understood, not how it was written."""
    text = part("json", b'{"models": {"language": {}}, "notify": false}')
    job_id = await accepted(still, upload("k", WAV, text))
    spelt_out = b'{"urls": null, "text": [], "models": {"language": {"granularity": "word"}, "face": null}}'
    turned = form(part("json", spelt_out, filename="json"), WAV).replace(BOUNDARY.encode(), b"another")
    again = request(body=turned, content_type="multipart/form-data; boundary=another", headers=header("k"))
    assert await accepted(still, again) == job_id
    assert len(rows(still)) == 1


@pytest.mark.parametrize("status", ["IN_PROGRESS", "COMPLETED", "FAILED"])
async def test_the_job_may_have_moved_on_and_the_server_been_restarted(tmp_path: Path, status: str) -> None:
    async with running_server(data=tmp_path, running=STILL) as server:
        job_id = await accepted(server, upload("k"))
    await anyio.to_thread.run_sync(
        database, tmp_path, "UPDATE job SET status = ?, started_ms = 1, ended_ms = 2, message = 'no'", status
    )
    async with running_server(data=tmp_path, running=STILL) as server:
        assert await accepted(server, upload("k")) == job_id
        assert len(rows(server)) == 1


async def test_an_answer_given_again_needs_no_room(still: RunningServer) -> None:
    """The job is there: a full disk, or a table that takes nothing more, does not make its id unknown."""
    job_id = await accepted(still, submission("k"))
    for table in ("job", "job_key"):
        database(
            still.data, f"CREATE TRIGGER full_{table} BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    assert await accepted(still, submission("k")) == job_id


async def test_without_a_key_every_request_is_a_new_one(still: RunningServer) -> None:
    data = request(body=json.dumps(JSON).encode())
    assert len({await accepted(still, data) for _ in range(3)} | {await accepted(still, submission("k"))}) == 4
    assert list(kept(still)) == ["k"]


# ---- another request with the same key --------------------------------------------------------------

OTHER_JSON: dict[str, dict[str, Any]] = {
    "models": JSON | {"models": {"ner": {}}},
    "an option": JSON | {"models": {"language": {"granularity": "sentence"}}},
    "transcription": JSON | {"transcription": None},
    "transcription.language": JSON | {"transcription": {"language": "de"}},
    "urls": JSON | {"urls": ["https://a.example/a.wav"]},
    "text": JSON | {"text": ["Test?"]},
    "order": JSON | {"text": ["Test!", "Test?"]},
    "callback_url": JSON | {"callback_url": "https://a.example/"},
    "notify": JSON | {"notify": True},
}
OTHER_FILES = {
    "content": [part("file", b"RIFF wavy", "Content-Type: audio/wav", filename="a.wav")],
    "name": [part("file", b"RIFF wave", "Content-Type: audio/wav", filename="b.wav")],
    "no name": [part("file", b"RIFF wave", "Content-Type: audio/wav")],
    "type": [part("file", b"RIFF wave", "Content-Type: audio/x-wav", filename="a.wav")],
    "twice": [WAV, WAV],
    "json": [WAV, part("json", b'{"models": {"burst": {}}}')],
}


async def belongs_to(server: RunningServer, job_id: str, data: bytes) -> None:
    before = left_behind(server), rows(server), kept(server)
    reply = await talk(server, data)
    assert (reply.status, reply.json["field"]) == (422, "Idempotency-Key")
    assert f"job {job_id}" in reply.json["message"]
    assert "different content" in reply.json["message"]
    assert (left_behind(server), rows(server), kept(server)) == before


@pytest.mark.parametrize("other", OTHER_JSON.values(), ids=OTHER_JSON)
async def test_another_json_body(still: RunningServer, other: dict[str, Any]) -> None:
    job_id = await accepted(still, submission("k"))
    await belongs_to(still, job_id, submission("k", other))
    # The key still is the first request's.
    assert await accepted(still, submission("k")) == job_id


@pytest.mark.parametrize("parts", OTHER_FILES.values(), ids=OTHER_FILES)
async def test_other_files(still: RunningServer, parts: list[bytes]) -> None:
    job_id = await accepted(still, upload("k"))
    await belongs_to(still, job_id, upload("k", *parts))
    assert await accepted(still, upload("k")) == job_id


async def test_the_order_of_files_counts(still: RunningServer) -> None:
    other = part("file", b"RIFF", filename="b.wav")
    job_id = await accepted(still, upload("k", WAV, other))
    await belongs_to(still, job_id, upload("k", other, WAV))


# ---- while the first request is still coming in -------------------------------------------------------


@contextlib.asynccontextmanager
async def half_sent(
    server: RunningServer, data: bytes
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]]:
    """An upload whose first file has arrived; the rest of it is yielded."""
    at = data.index(WAV) + len(WAV) * 2
    async with connection(server) as (reader, writer):
        writer.write(data[:at])
        await writer.drain()
        await eventually(lambda: path_of_input(server.data) is not None)
        yield reader, writer, data[at:]


async def test_the_same_key_at_the_same_time(server: RunningServer) -> None:
    async with half_sent(server, upload("k", WAV, WAV, WAV)) as (reader, writer, rest):
        # Only its head is sent: the answer does not wait for a body.
        early = await talk(server, upload("k", length=2**30))
        assert (early.status, early.headers["retry-after"], early.json["field"]) == (409, "1", "Idempotency-Key")
        assert "still being received" in early.json["message"]
        assert (await talk(server, submission("k"))).status == 409
        other = await accepted(server, upload("K"))
        assert kept(server) == {"K": other}
        writer.write(rest)
        first = await read_reply(reader)
    assert first.status == 200
    assert await accepted(server, upload("k", WAV, WAV, WAV)) == first.json["job_id"]
    assert len(rows(server)) == 2


async def free(server: RunningServer, *, wait: bool = False) -> None:
    """No key and no file is left, and the key may be had by any other request."""
    assert rows(server) == []
    assert kept(server) == {}
    with anyio.fail_after(30):
        while (reply := await talk(server, submission("k"))).status == 409 and wait:
            await anyio.sleep(0.005)
    assert reply.status == 200, reply
    assert left_behind(server) == [f"jobs/{reply.json['job_id']}", f"jobs/{reply.json['job_id']}/input"]
    assert kept(server) == {"k": reply.json["job_id"]}


async def test_a_cut_upload_frees_the_key() -> None:
    async with running_server(running=STILL) as server:
        async with half_sent(server, upload("k", WAV, WAV, WAV)):
            assert (await talk(server, submission("k"))).status == 409
        await free(server, wait=True)


REFUSED = {
    "no such part": (400, upload("k", WAV, part("other", b"x"))),
    "bad json": (400, submission("k", {"text": "x"})),
    "too large": (413, upload("k", length=10_001)),
    "too large on the way": (413, submission("k", {"text": ["x" * 10_001]})),
    "stalled": (408, upload("k", length=9000)),
    "compressed": (415, request(body=b"{}", headers=[*header("k"), "Content-Encoding: gzip"])),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_refused_upload_frees_the_key(still: RunningServer, name: str) -> None:
    status, data = REFUSED[name]
    assert (await talk(still, data)).status == status
    await free(still)


@pytest.mark.parametrize("table", ["job", "job_key"])
async def test_a_failure_of_the_server_frees_the_key(still: RunningServer, table: str) -> None:
    """Job and key are recorded together: whichever of them cannot be, neither is."""
    database(still.data, f"CREATE TRIGGER broken AFTER INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'no'); END")
    assert (await talk(still, upload("k"))).status == 500
    database(still.data, "DROP TRIGGER broken")
    await free(still)


async def test_twenty_at_once(still: RunningServer) -> None:
    replies = await asyncio.gather(*(talk(still, upload("k")) for _ in range(20)))
    assert {reply.status for reply in replies} <= {200, 409}
    (job_id,) = {reply.json["job_id"] for reply in replies if reply.status == 200}
    assert [one for one, _ in rows(still)] == [job_id]
    assert left_behind(still) == [f"jobs/{job_id}", f"jobs/{job_id}/input", f"jobs/{job_id}/input/0"]
    assert await accepted(still, upload("k")) == job_id


async def test_twenty_different_ones_at_once(still: RunningServer) -> None:
    """One of them gets the key; nobody is told of a job that is not theirs."""
    replies = await asyncio.gather(*(talk(still, submission("k", JSON | {"text": [str(n)]})) for n in range(20)))
    assert sorted(reply.status for reply in replies if reply.status not in (409, 422)) == [200]
    assert len(rows(still)) == 1


# ---- whose key, and for how long ----------------------------------------------------------------------


async def test_each_tenant_has_keys_of_its_own(tmp_path: Path) -> None:
    async with with_keys(tmp_path, "one", "two") as server:
        first = await accepted(server, submission("k", key="one"))
        async with half_sent(server, upload("k2", WAV, WAV, WAV, key="one")):
            second = await accepted(server, submission("k", JSON | {"text": ["other"]}, key="two"))
            third = await accepted(server, upload("k2", key="two"))
        assert len({first, second, third}) == 3
        assert await accepted(server, submission("k", key="one")) == first
        # Who has no key of the server learns nothing about anybody's.
        assert (await talk(server, submission("k", key="three"))).status == 401


@pytest.mark.parametrize(("days", "same"), [(7, True), (7.9, True), (8.1, False), (-30, True)])
async def test_how_long_a_key_is_kept(still: RunningServer, days: float, same: bool) -> None:
    """-30 days: the clock has been set back by a month since."""
    job_id = await accepted(still, submission("k"))
    created_ms = time.time_ns() // 1_000_000 - int(days * DAY_MS)
    database(still.data, "UPDATE job_key SET created_ms = ?", created_ms)
    # Others come and go, and clear away what is too old.
    await accepted(still, submission("other"))
    assert ("k" in kept(still)) == same
    other = JSON | {"text": ["another"]}
    if same:
        await belongs_to(still, job_id, submission("k", other))
    else:
        assert await accepted(still, submission("k", other)) != job_id


async def test_a_key_that_ran_out_is_free_though_nobody_cleared_it_away(still: RunningServer) -> None:
    before = await accepted(still, submission("k"))
    database(still.data, "UPDATE job_key SET created_ms = 1")
    after = await accepted(still, submission("k"))
    assert before != after
    assert await accepted(still, submission("k")) == after
    assert kept(still) == {"k": after}


@pytest.mark.skipif(sys.platform == "win32", reason="kills")
async def test_a_killed_server_knows_the_keys_of_what_it_accepted(tmp_path: Path) -> None:
    """The answer may have been lost with it: the client sends again, and hears of the job that was made."""

    async def one(key: str) -> str:
        with served(tmp_path / "data") as process:
            server = RunningServer(base_url=process.base_url, api_key="test-key", data=tmp_path / "data")
            job_id = await accepted(server, upload(key))
            async with half_sent(server, upload("never-whole", WAV, WAV, WAV)):
                process.process.send_signal(signal.SIGKILL)
                await anyio.to_thread.run_sync(process.end)
            assert kept(server) == {"k": job_id}
            return job_id

    assert await one("k") == await one("k")


# ---- what a key may be ----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", " ", "a b", "a\tb", "é", "\x7f", "\u200b", "k" * 256], ids=ascii)
async def test_no_key(still: RunningServer, key: str) -> None:
    reply = await talk(still, submission(key))
    assert (reply.status, reply.json["field"]) == (400, "Idempotency-Key" if key != "\x7f" else "body")
    assert (rows(still), left_behind(still), kept(still)) == ([], [], {})


async def test_two_keys(still: RunningServer) -> None:
    data = request(body=json.dumps(JSON).encode(), headers=[*header("a"), "idempotency-key: b"])
    reply = await talk(still, data)
    assert (reply.status, reply.json["field"]) == (400, "Idempotency-Key")
    assert rows(still) == []


@pytest.fixture
def threaded() -> Iterator[tuple[RunningServer, dict[str, str]]]:
    """A server in a loop of its own, and the keys and jobs that it was told so far."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(running_server(running=STILL)) as server,
    ):
        yield server, {}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=6)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=6)
    | st.integers(250, 260).map(lambda length: "x" * length)
)
@example(key="!")
@example(key="~" * 255)
@example(key='"8e03978e-40d5-43e8-bc93-6894a57f9324"')
def test_any_key(threaded: tuple[RunningServer, dict[str, str]], key: str) -> None:
    """Exactly 1 to 255 visible ASCII characters are a key; keys are one only if they are equal to the letter."""
    server, jobs = threaded
    reply: Reply = asyncio.run(talk(server, submission(key)))
    sent = key.strip(" ")
    if not re.fullmatch(r"[!-~]{1,255}", sent):
        assert (reply.status, reply.json["field"]) == (400, "Idempotency-Key")
        return
    assert reply.status == 200, reply
    job_id = reply.json["job_id"]
    assert jobs.setdefault(sent, job_id) == job_id
    assert len(set(jobs.values())) == len(jobs)


# ---- what the server says of it -------------------------------------------------------------------------


async def test_every_answer_announces_it(server: RunningServer, client: hb.BatchClient) -> None:
    job_id = await accepted(server, request(body=json.dumps(JSON).encode()))
    await client.job(job_id).wait(timeout=30)
    home = f"/v0/batch/jobs/{job_id}"
    etag = (await talk(server, request(home + "/predictions"))).headers["etag"]
    for status, data in [
        (200, request("/", key=None)),
        (200, request()),
        (200, request(home)),
        (200, request(home + "/predictions")),
        (206, request(home + "/predictions", headers=["Range: bytes=0-1"])),
        (416, request(home + "/predictions", headers=["Range: bytes=99999999-"])),
        (304, request(home + "/predictions", headers=[f"If-None-Match: {etag}"])),
        (200, request(home + "/artifacts")),
        (200, submission("k")),
        (422, submission("k", JSON | {"text": ["x"]})),
        (400, request(body=b"{")),
        (401, request(key="wrong")),
        (404, request("/nowhere")),
        (404, request(home[:-4] + "0000")),
        (405, request(method="DELETE")),
        (417, request(headers=["Expect: the unexpected"])),
    ]:
        reply = await talk(server, data)
        assert (reply.status, reply.headers.get(CAPABILITIES)) == (status, "idempotency-key"), data
    assert (await talk(server, request("/", key=None))).json["capabilities"] == ["idempotency-key"]


async def test_a_server_without_it(stray_exceptions: object) -> None:
    """What the hosted service did: the header means nothing, whatever stands in it."""
    async with running_server(running=STILL, idempotency=False) as server:
        assert len({await accepted(server, submission(key)) for key in ("k", "k", "", "a b")}) == 4
        await accepted(server, submission("k", JSON | {"text": ["x"]}))
        assert kept(server) == {}
        for data in (request("/", key=None), request(), request("/nowhere"), submission("k")):
            assert CAPABILITIES not in (await talk(server, data)).headers
        assert (await talk(server, request("/", key=None))).json["capabilities"] == []


async def test_what_is_kept_of_a_request_is_its_digest(still: RunningServer) -> None:
    job_id = await accepted(still, submission("k"))
    ((digest, stored),) = database(
        still.data, "SELECT digest, request FROM job_key JOIN job ON job.id = job_id WHERE job_id = ?", job_id
    )
    assert digest == hashlib.sha256(stored).digest()
