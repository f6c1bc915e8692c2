"""Planted faults do what they say: seen by a real client and on bare sockets, with the server's database as witness."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sqlite3
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

import humebatch as hb
from humebatch.server import RunnerLimits
from humebatch.testing import (
    Answer,
    Before,
    Cut,
    Proxy,
    Reset,
    RunningServer,
    Slow,
    Stall,
    Trouble,
    jobs_in,
    running_server,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("stray_exceptions")]

PATIENCE = 30.0
LANGUAGE = hb.Models(language=hb.Language())
BURST = hb.Models(burst=hb.Burst())
TEXT = hb.Submission(text=["one two"], models=LANGUAGE)
ONCE = hb.RetryPolicy(attempts=1)
AT_ONCE = hb.RetryPolicy(attempts=3, base=0.001, cap=0.001)


@pytest.fixture(
    scope="module",
    params=[("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@contextlib.asynccontextmanager
async def troubled(
    trouble: Trouble, *, retry: hb.RetryPolicy = ONCE, data: Path | None = None, **settings: Any
) -> AsyncIterator[tuple[RunningServer, hb.BatchClient]]:
    """A server like the hosted one, which knew no idempotency keys, with these troubles, and a client on it."""
    async with running_server(trouble=trouble, data=data, idempotency=False) as server:
        url = settings.pop("base_url", server.base_url)
        async with hb.BatchClient(
            base_url=url, api_key=server.api_key, retry=retry, poll=hb.PollPolicy(first=0.01, cap=0.05), **settings
        ) as client:
            yield server, client


async def jobs(server: RunningServer) -> list[hb.JobDetails]:
    return await asyncio.to_thread(server.jobs)


async def eventually(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.001)


@contextlib.asynccontextmanager
async def line(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        with anyio.fail_after(PATIENCE):
            yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def post(body: bytes = b'{"text": ["one"]}', *, length: int | None = None) -> bytes:
    count = len(body) if length is None else length
    return (
        b"POST /v0/batch/jobs HTTP/1.1\r\nHost: test\r\nX-Hume-Api-Key: test-key\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % count
    ) + body


async def everything(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """What still arrives, and whether a reset ended it."""
    got = b""
    try:
        while data := await reader.read(2**16):
            got += data
    except ConnectionResetError:
        return got, True
    return got, False


# In the server: submissions


@pytest.mark.parametrize("fault", ["drop", "cut", 502, 503, 408, 409, Answer(200, body=b"<p>Welcome to our Wi-Fi</p>")])
async def test_the_job_is_made_and_the_client_does_not_know(fault: Any) -> None:
    trouble = Trouble()
    async with troubled(trouble, retry=AT_ONCE) as (server, client):
        trouble.submissions(fault)
        with pytest.raises(hb.SubmissionUnknown):
            await client.submit(TEXT)
        assert [job.job_id for job in await jobs(server)] == trouble.accepted
        assert len(trouble.accepted) == 1 and trouble.left == 0
        job = await client.submit(TEXT)
        await job.wait()
        assert [job.job_id for job in await jobs(server)] == trouble.accepted
        assert trouble.accepted[1:] == [job.id]


async def test_a_status_after_the_job_can_be_any() -> None:
    trouble = Trouble()
    async with troubled(trouble) as (server, client):
        trouble.submissions(Answer(429, headers={"Retry-After": "7"}, body=b"slow down"))
        with pytest.raises(hb.RateLimited) as caught:
            await client.submit(TEXT)
        assert caught.value.retry_after == 7
        assert len(await jobs(server)) == 1


async def test_refused_before_there_is_a_job() -> None:
    trouble = Trouble()
    async with troubled(trouble) as (server, client):
        trouble.submissions(Before(503), Before(429, headers={"Retry-After": "7"}))
        with pytest.raises(hb.SubmissionUnknown):  # as after a 503 behind which there is one
            await client.submit(TEXT)
        with pytest.raises(hb.RateLimited) as caught:
            await client.submit(TEXT)
        assert caught.value.retry_after == 7
        assert await jobs(server) == [] == trouble.accepted


async def test_reset_before_the_body_was_read() -> None:
    trouble = Trouble()
    async with troubled(trouble) as (server, client):
        trouble.submissions("reset", "reset")
        async with line(server.base_url) as (reader, writer):
            writer.write(post(b"{", length=1000))
            assert await everything(reader) == (b"", True)
        with pytest.raises(hb.TransportError):
            await client.submit(TEXT)
        assert await jobs(server) == []


async def test_a_dropped_connection_is_reset() -> None:
    trouble = Trouble()
    trouble.submissions("drop", "late")
    async with troubled(trouble) as (server, _):
        for _ in range(2):
            async with line(server.base_url) as (reader, writer):
                writer.write(post())
                assert await everything(reader) == (b"", True)
        assert len(await jobs(server)) == 1


async def test_a_cut_answer_is_half_an_answer() -> None:
    trouble = Trouble()
    trouble.submissions("cut")
    async with troubled(trouble) as (server, _), line(server.base_url) as (reader, writer):
        writer.write(post())
        got, reset = await everything(reader)
        head, _, body = got.partition(b"\r\n\r\n")
        assert not reset and head.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nContent-Length: 49\r\n" in head
        assert len(body) == 24 and body.startswith(b'{"job_id":"')


async def test_late_is_delivered_when_nobody_waits_any_more(tmp_path: Path) -> None:
    trouble = Trouble()
    (tmp_path / "a.txt").write_bytes(b"one two three")
    async with troubled(trouble) as (server, client):
        trouble.submissions("late", "late")
        for submission in (hb.Submission(files=[tmp_path / "a.txt"], models=LANGUAGE), TEXT):
            with pytest.raises(hb.SubmissionUnknown):
                await client.submit(submission)
        assert (await jobs(server), trouble.held, trouble.accepted) == ([], 2, [])
        trouble.submissions("drop")  # is not for those that are released
        assert await trouble.release() == 2
        first, second = await jobs(server)
        assert [file.filename for file in first.request.files] == ["a.txt"]
        assert second.request.text == ["one two"]
        assert trouble.accepted == [first.job_id, second.job_id]
        assert (trouble.held, trouble.left, await trouble.release()) == (0, 1, 0)
        await client.job(first.job_id).wait()


async def test_late_outlasts_the_server(tmp_path: Path) -> None:
    trouble = Trouble()
    trouble.submissions("late")
    async with troubled(trouble, data=tmp_path) as (_, client):
        with pytest.raises(hb.SubmissionUnknown):
            await client.submit(TEXT)
    with pytest.raises(OSError, match="Connect"):
        await trouble.release()
    async with troubled(trouble, data=tmp_path) as (server, _):
        assert await trouble.release() == 1
        assert len(await jobs(server)) == 1


async def test_a_submission_that_is_none_leaves_its_fault_to_the_next() -> None:
    trouble = Trouble()
    async with troubled(trouble) as (server, client):
        for fault in ("drop", "late"):
            trouble.submissions(fault)
            async with line(server.base_url) as (_, writer):
                writer.write(post(b"{", length=1000))
                await eventually(lambda: trouble.left == 0)
            await eventually(lambda: trouble.left == 1)
            if fault == "drop":
                async with line(server.base_url) as (reader, writer):
                    writer.write(post(b"{}"))
                    assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
                assert trouble.left == 1
            with pytest.raises(hb.SubmissionUnknown):
                await client.submit(TEXT)
            assert trouble.left == 0
        assert len(await jobs(server)) == 1


async def test_one_after_the_other() -> None:
    trouble = Trouble()
    trouble.submissions("drop", None)
    trouble.submissions(Before(500))
    async with troubled(trouble) as (server, client):
        seen: list[str] = []
        for _ in range(4):
            try:
                await client.submit(TEXT)
                seen.append("job")
            except hb.SubmissionUnknown as error:
                seen.append(type(error.earlier[-1]).__name__)
        assert seen == ["TransportError", "job", "ServerError", "job"]
        assert len(await jobs(server)) == 3


async def test_many_at_once_take_one_fault_each() -> None:
    trouble = Trouble()

    async def send() -> None:
        async with line(server.base_url) as (reader, writer):
            writer.write(post())
            said.append((await everything(reader))[0][9:12])

    faults: list[Any] = ["drop", 502, "cut", Answer(409), "late", "reset", Before(503), None]
    trouble.submissions(*faults * 5)
    async with troubled(trouble) as (server, _):
        said: list[bytes] = []
        async with anyio.create_task_group() as group:
            for _ in range(40):
                group.start_soon(send)
            # Connections that were answered are left open by the server.
            await eventually(lambda: trouble.left == 0 and len(trouble.accepted) == 25)
            await eventually(lambda: len(said) == 20)
            group.cancel_scope.cancel()
        assert sorted(job.job_id for job in await jobs(server)) == sorted(trouble.accepted)
        assert await trouble.release() == 5
        assert len(await jobs(server)) == 30


# In the server: lists and answers


async def test_new_jobs_are_hidden_from_the_list_and_nowhere_else() -> None:
    trouble = Trouble()

    async def listed(**how: Any) -> list[str]:
        return [details.job_id async for details in client.list_jobs(direction="asc", **how)]

    async with troubled(trouble) as (_, client):
        old = [(await client.submit(TEXT)).id for _ in range(3)]
        trouble.hide_new_jobs = True
        new = [(await client.submit(TEXT)).id for _ in range(2)]
        assert await listed() == old
        assert [job.job_id async for job in client.list_jobs(limit=2)] == [old[2], old[1]]  # a full page
        assert await listed(limit=2) == old[:2]
        assert (await client.job(new[0]).wait()).job_id == new[0]
        assert await listed(status=["COMPLETED", "QUEUED", "IN_PROGRESS"]) == old
        with pytest.raises(hb.InvalidRequest):
            await listed(timestamp_ms=-(10**30))
        trouble.hide_new_jobs = False
        assert await listed() == old + new


@pytest.mark.parametrize("limit", ["0", "-1", "x", "9" * 19, "%D9%A3"])
async def test_a_wrong_list_request_is_refused_as_ever(limit: str) -> None:
    trouble = Trouble()
    trouble.hide_new_jobs = True
    async with troubled(trouble) as (server, client):
        await client.submit(TEXT)
        async with line(server.base_url) as (reader, writer):
            writer.write(
                f"GET /v0/batch/jobs?limit={limit} HTTP/1.1\r\nHost: t\r\nX-Hume-Api-Key: test-key\r\n\r\n".encode()
            )
            assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")


async def test_answers_of_one_kind_of_request(tmp_path: Path) -> None:
    trouble = Trouble()
    async with troubled(trouble, retry=AT_ONCE) as (_, client):
        job = await client.submit(TEXT)
        await job.wait()
        whole = await job.predictions()
        before = client.stats.resends
        trouble.answers("GET", "/predictions", 503, "reset", Answer(200, body=b"[{"), None, "cut")
        assert await job.details()  # not meant
        with pytest.raises(hb.DecodeError):
            await job.predictions()
        assert client.stats.resends == before + 2
        assert await job.predictions() == whole
        await job.save_predictions(tmp_path / "p.json")
        assert client.stats.resends == before + 3 and trouble.left == 0
        assert hb.predictions.decode((tmp_path / "p.json").read_bytes()) == whole
        trouble.answers("GET", "/jobs/{id}", 500, "cut")
        trouble.answers("GET", "/jobs", "cut")
        trouble.answers("GET", "/artifacts", 502)
        assert [one.job_id async for one in client.list_jobs()] == [job.id]
        assert (await job.details()).job_id == job.id
        await job.save_artifacts(tmp_path / "a.zip")
        assert client.stats.resends == before + 7 and trouble.left == 0


async def test_a_gateway_does_not_announce_what_the_service_can_do() -> None:
    async def headers() -> bytes:
        async with line(server.base_url) as (reader, writer):
            writer.write(b"GET /v0/batch/jobs HTTP/1.1\r\nHost: t\r\nX-Hume-Api-Key: test-key\r\n\r\n")
            return (await reader.readuntil(b"\r\n\r\n")).lower()

    trouble = Trouble()
    trouble.answers("GET", "/jobs", 503)
    async with running_server(trouble=trouble) as server:
        planted, own = await headers(), await headers()
        assert planted.startswith(b"http/1.1 503 ") and b"x-humebatch-" not in planted
        assert own.startswith(b"http/1.1 200 ") and b"x-humebatch-capabilities: " in own


WRONG: list[Callable[[], Any]] = [
    lambda: Trouble().submissions("dropp"),  # type: ignore[arg-type]
    lambda: Trouble().submissions(99),
    lambda: Trouble().submissions(True),
    lambda: Trouble().submissions(["drop"]),  # type: ignore[arg-type]
    lambda: Trouble().answers("GET", "/jobs", "late"),  # type: ignore[arg-type]
    lambda: Before(600),
    Reset,
    lambda: Cut(after_down=1, after_up=1),
    lambda: Stall(after_up=-1),
    lambda: Slow(0),
    lambda: Slow(float("nan")),
]


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_fault_that_there_is_not_is_refused(wrong: Callable[[], Any]) -> None:
    with pytest.raises(hb.ConfigError):
        wrong()


# The database as witness


async def test_jobs_are_read_beside_the_server_and_without_it(tmp_path: Path) -> None:
    def read() -> list[hb.JobDetails]:
        return jobs_in(tmp_path)

    with pytest.raises(sqlite3.OperationalError):
        await asyncio.to_thread(read)
    async with running_server(data=tmp_path) as server:
        assert await jobs(server) == []
        async with hb.BatchClient(base_url=server.base_url, api_key=server.api_key) as client:
            job = await client.submit(hb.Submission(text=["one two"], models=LANGUAGE, notify=True))
            told = await job.wait()
        assert await jobs(server) == [told]
    assert await asyncio.to_thread(read) == [told]


# The line


@contextlib.asynccontextmanager
async def talker(
    says: bytes = b"", *, listen: int = 0, forever: bool = False
) -> AsyncIterator[tuple[str, list[tuple[bytes, bool]], list[int]]]:
    """A server that says something once it has heard `listen` bytes: its URL, all it heard, how much it could say."""
    heard: list[tuple[bytes, bool]] = []
    said = [0]
    begun = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal begun
        begun += 1
        try:
            first = await reader.readexactly(listen)
            while True:
                writer.write(says)
                await writer.drain()
                said[0] += len(says)
                if not forever:
                    break
            rest, reset = await everything(reader)
            heard.append((first + rest, reset))
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            heard.append((getattr(error, "partial", b""), isinstance(error, ConnectionError)))
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard, said
    finally:
        server.close()
        await eventually(lambda: len(heard) == begun)


@contextlib.asynccontextmanager
async def proxied(url: str, *faults: Any) -> AsyncIterator[Proxy]:
    async with Trouble().proxy(url) as proxy:
        proxy.connections(*faults)
        yield proxy


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks into /proc")
async def test_a_line_without_trouble_changes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(bytes(1_400_000))
    trouble = Trouble()
    # Its measuring process keeps its pipes.
    async with running_server(warm=True, running=RunnerLimits(workers=1)) as server:
        tasks, descriptors = asyncio.all_tasks(), open_descriptors()
        async with trouble.proxy(server.base_url + "/") as proxy:
            assert proxy.base_url.startswith("http://127.0.0.1:") and proxy.base_url.endswith("/")
            async with hb.BatchClient(base_url=proxy.base_url, api_key=server.api_key) as client:
                job = await client.submit(hb.Submission(files=[tmp_path / "a.wav"], models=BURST))
                for _ in range(20):
                    await job.details()
                assert proxy.opened == 2  # connections are used again
                assert proxy.bytes_up > 1_400_000 and proxy.bytes_down > 2000
            async with line(proxy.base_url):  # left open
                await eventually(lambda: proxy.opened == 3)
        # The server notices a little later.
        await eventually(lambda: asyncio.all_tasks() <= tasks and open_descriptors() <= descriptors)
        assert len(await jobs(server)) == 1


@pytest.mark.parametrize("count", [0, 1, 70_000, 3_000_000])
@pytest.mark.parametrize("kind", [Reset, Cut])
async def test_up_to_the_byte(kind: type[Reset | Cut], count: int) -> None:
    data = os.urandom(count)
    async with talker() as (url, heard, _), proxied(url, kind(after_up=count)) as proxy:
        async with line(proxy.base_url) as (reader, writer):
            with contextlib.suppress(ConnectionError):
                writer.write(data + b"and more")
                await writer.drain()
            got, reset = await everything(reader)
            if kind is Cut:
                writer.write(bytes(1_000_000))  # goes nowhere, but nobody says so
                await writer.drain()
        await eventually(lambda: len(heard) == 1)
        assert (got, reset) == (b"", kind is Reset)
        assert heard == [(data, False)]
        assert proxy.bytes_up == count


@pytest.mark.parametrize("count", [0, 1, 70_000, 3_000_000])
@pytest.mark.parametrize("kind", [Reset, Cut])
async def test_down_to_the_byte(kind: type[Reset | Cut], count: int) -> None:
    data = os.urandom(count)
    async with talker(data + b"and more", listen=2) as (url, _, _), proxied(url, kind(after_down=count)) as proxy:
        async with line(proxy.base_url) as (reader, writer):
            writer.write(b"hi")
            got, reset = await everything(reader)
        assert (got == data, reset) == (True, kind is Reset)
        assert (proxy.bytes_up, proxy.bytes_down) == (2, count)


@pytest.mark.parametrize("kind", [Reset, Cut])
async def test_a_slow_reader_has_every_byte_before_the_end(kind: type[Reset | Cut]) -> None:
    loop = asyncio.get_running_loop()
    async with talker(bytes(200_000), listen=2) as (url, _, _), proxied(url, kind(after_down=40_000)) as proxy:
        with socket.socket() as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.setblocking(False)
            where = urlsplit(proxy.base_url)
            await loop.sock_connect(reader, (where.hostname, where.port))
            await loop.sock_sendall(reader, b"hi")
            await eventually(lambda: proxy.bytes_down == 40_000)
            got, ended = 0, False
            with contextlib.suppress(ConnectionResetError):
                while data := await loop.sock_recv(reader, 1000):
                    got += len(data)
                ended = True
            assert (got, ended) == (40_000, kind is Cut)


async def test_half_closed_connections_stay_half_open() -> None:
    async with talker(b"answer", listen=4) as (url, heard, _), proxied(url) as proxy:
        async with line(proxy.base_url) as (reader, writer):
            writer.write(b"question")
            writer.write_eof()
            assert await everything(reader) == (b"answer", False)
        assert heard == [(b"question", False)]


async def test_a_reset_of_one_side_reaches_the_other() -> None:
    async with talker(b"x" * 100, listen=1) as (url, heard, _), proxied(url) as proxy:
        async with line(proxy.base_url) as (reader, writer):
            writer.write(b"question")
            await reader.readexactly(10)
            linger(writer)
        await eventually(lambda: len(heard) == 1)
        assert heard[0][1]

    trouble = Trouble()
    trouble.submissions("reset")
    async with (
        running_server(trouble=trouble) as server,
        proxied(server.base_url) as proxy,
        line(proxy.base_url) as (reader, writer),
    ):
        writer.write(post())
        assert await everything(reader) == (b"", True)


def linger(writer: asyncio.StreamWriter) -> None:
    """Say RST at the end of this connection."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def test_an_upload_that_is_reset_on_its_way_is_sent_again_and_makes_one_job(tmp_path: Path) -> None:
    with (tmp_path / "a.wav").open("wb") as file:
        file.truncate(30_000_000)
    trouble = Trouble()
    async with running_server(idempotency=False) as server, trouble.proxy(server.base_url) as proxy:
        proxy.connections(Reset(after_up=100_000), Reset(after_up=1_000_000), None)
        async with hb.BatchClient(base_url=proxy.base_url, api_key=server.api_key, retry=AT_ONCE) as client:
            await client.submit(hb.Submission(files=[tmp_path / "a.wav"], models=BURST))
            assert client.stats.resends == 2
        assert len(await jobs(server)) == 1


@pytest.mark.parametrize("fault", [Reset(after_down=0), Cut(after_down=0), Cut(after_down=200), Stall(after_down=0)])
async def test_the_answer_of_a_submission_is_lost_on_the_line(fault: Any) -> None:
    timeouts = hb.Timeouts(answer=0.3) if isinstance(fault, Stall) else hb.Timeouts()
    async with running_server(idempotency=False) as server, proxied(server.base_url, fault) as proxy:
        async with hb.BatchClient(base_url=proxy.base_url, api_key=server.api_key, timeouts=timeouts) as client:
            with pytest.raises(hb.SubmissionUnknown):
                await client.submit(TEXT)
        found: list[hb.JobDetails] = []
        with anyio.fail_after(PATIENCE):
            while not found:
                found = await jobs(server)
        assert len(found) == 1


async def test_reset_with_the_last_byte_of_a_submission() -> None:
    async with running_server() as server, proxied(server.base_url, Reset(after_up=len(post()))) as proxy:
        async with line(proxy.base_url) as (reader, writer):
            writer.write(post())
            assert await everything(reader) == (b"", True)
        with anyio.fail_after(PATIENCE):
            while not await jobs(server):
                pass


async def test_an_upload_that_stalls(tmp_path: Path) -> None:
    with (tmp_path / "a.wav").open("wb") as file:
        file.truncate(30_000_000)
    async with running_server() as server, proxied(server.base_url, Stall(after_up=100_000)) as proxy:
        timeouts = hb.Timeouts(read=0.3)
        async with hb.BatchClient(base_url=proxy.base_url, api_key="test-key", timeouts=timeouts, retry=ONCE) as client:
            with pytest.raises(hb.RequestTimeout):
                await client.submit(hb.Submission(files=[tmp_path / "a.wav"], models=BURST))
        assert proxy.bytes_up == 100_000
        assert await jobs(server) == []


async def test_a_reader_that_stops_stops_the_writer() -> None:
    async with (
        talker(b"x" * 2**16, forever=True) as (url, _, said),
        proxied(url) as proxy,
        line(proxy.base_url) as (_, writer),
    ):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await eventually(lambda: proxy.bytes_down > 0)
        same = 0
        with anyio.fail_after(PATIENCE):
            while same < 50:
                before = said[0]
                await anyio.sleep(0.005)
                same = same + 1 if said[0] == before else 0
        # Small buffers of the proxy's, and those of the sender's and the reader's system.
        assert said[0] < 40 * 2**20


async def test_a_slow_line_passes_little_at_a_time() -> None:
    async with (
        talker(b"x" * 1000, listen=1) as (url, _, _),
        proxied(url, Slow(10), None) as proxy,
        line(proxy.base_url) as (slow, writer),
    ):
        writer.write(b"h")
        await slow.readexactly(1)
        async with line(proxy.base_url) as (quick, other):
            other.write(b"h")
            await quick.readexactly(1000)
        assert 1001 <= proxy.bytes_down < 1100


async def test_while_it_is_down_connections_are_refused() -> None:
    trouble = Trouble()
    async with running_server() as server, trouble.proxy(server.base_url) as proxy:
        async with hb.BatchClient(base_url=proxy.base_url, api_key=server.api_key, retry=AT_ONCE) as client:
            job = await client.submit(TEXT)
            await job.wait()
            for _ in range(2):
                before = proxy.opened
                async with line(proxy.base_url) as (reader, _):
                    while proxy.opened == before:
                        await anyio.sleep(0.001)
                    proxy.down = True
                    assert proxy.down
                    assert await everything(reader) == (b"", True)
                with pytest.raises(hb.ConnectFailed):
                    await job.details()
                proxy.down = True
                proxy.down = False
                proxy.down = False
                assert not proxy.down
                await job.details()
        proxy.down = True


async def test_another_server_takes_the_place(tmp_path: Path) -> None:
    trouble = Trouble()
    async with running_server(data=tmp_path) as server:
        gone = server.base_url
    async with trouble.proxy(gone) as proxy:
        client = hb.BatchClient(base_url=proxy.base_url, api_key="test-key", retry=ONCE)
        async with client:
            with pytest.raises(hb.TransportError):
                await client.job("11111111-2222-4333-8444-555555555555").details()
            async with running_server(data=tmp_path) as server:
                proxy.target = server.base_url
                job = await client.submit(TEXT)
                await job.wait()
                assert [one.job_id for one in await jobs(server)] == [job.id]


async def test_no_fault_of_a_connection() -> None:
    async with Trouble().proxy("http://127.0.0.1:1") as proxy:
        with pytest.raises(hb.ConfigError):
            proxy.connections("drop")  # type: ignore[arg-type]
