"""Callbacks as receivers see them, with real sockets: delivered at least once, and only where it is allowed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pytest

import humebatch as hb
from humebatch import callbacks
from humebatch._wire.signature import key_from
from humebatch.server import CallbackLimits, RunnerLimits, create_app
from humebatch.server.callbacks import Outbox
from humebatch.server.folders import Folders
from humebatch.server.guard import Guard, Refusal
from humebatch.server.store import SCHEMA_VERSION, Store
from humebatch.testing import FakeClock, RunningServer, running_server
from tests.server.process import served
from tests.server.raw import eventually, request, talk
from tests.server.tls import certificate

pytestmark = pytest.mark.anyio

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
START = 1_735_689_600.0
LOOPBACK = ("127.0.0.0/8", "::1")
LANGUAGE = hb.Models(language=hb.Language(granularity="conversational_turn"))
POLL = hb.PollPolicy(first=0.02, cap=0.1)
# Receivers that stall are waited for in real time.
QUICK = CallbackLimits(answer=1.0)
USUAL = CallbackLimits()


# ---- a receiver that behaves as it is told --------------------------------------------------------


class Call(msgspec.Struct):
    """One request that arrived whole; header names are lower case."""

    target: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """An HTTP server whose answers are listed: a status, raw bytes, `stall` or `close`; after the last one 200."""

    def __init__(self, answers: Iterable[int | bytes | str]) -> None:
        self.answers = list(answers)
        self.calls: list[Call] = []
        self.open = self.most_open = self.connections = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await self.answer(reader, writer)
        finally:
            self.open -= 1
            writer.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        method, target, _ = first.split(" ")
        assert method == "POST"
        self.calls.append(Call(target, headers, await reader.readexactly(int(headers["content-length"]))))
        answer = self.answers.pop(0) if self.answers else 200
        if answer == "stall":
            assert await reader.read() == b"", "nothing comes after the body"
        elif isinstance(answer, bytes):
            writer.write(answer)
        elif isinstance(answer, int):
            writer.write(f"HTTP/1.1 {answer} X\r\nContent-Length: 0\r\n\r\n".encode())


@contextlib.asynccontextmanager
async def receiver(
    *answers: int | bytes | str, port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    made = Receiver(answers)
    listening = await asyncio.start_server(made.serve, "127.0.0.1", port, ssl=tls)
    made.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        listening.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return int(unused.getsockname()[1])


# ---- the outbox alone, in virtual time -------------------------------------------------------------


class Office:
    """A store, folders and an outbox over them. Jobs end when `end` is called."""

    def __init__(self, root: Path, clock: FakeClock) -> None:
        self.root, self.clock = root, clock
        self.folders = Folders(root)
        self.outbox: Outbox

    async def open(self, limits: CallbackLimits, guard: Guard, key: bytes | None) -> None:
        self.store = await anyio.to_thread.run_sync(Store, self.root)
        await anyio.to_thread.run_sync(lambda: self.folders.prepare(self.store.known()))
        self.outbox = Outbox(self.store, self.folders, guard, key=key, limits=limits, clock=self.clock)

    async def end(self, url: str | None, *, failed: str | None = None, results: bytes = b"[]", name: str = "") -> str:
        job_id = name or f"job-{len(self.rows())}"

        def work() -> None:
            self.store.accept(job_id=job_id, tenant="", created_ms=1, request=b"{}", callback_url=url)
            assert self.store.claim(now_ms=2)
            if failed is not None:
                self.store.fail(job_id, ended_ms=3, message=failed)
                return
            path = self.folders.predictions(job_id)
            path.parent.mkdir()
            path.write_bytes(results)
            self.store.finish(job_id, ended_ms=3, num_predictions=0, num_errors=0)

        await anyio.to_thread.run_sync(work)
        self.outbox.wake()
        return job_id

    def rows(self) -> dict[str, tuple[str, int, str | None]]:
        return outbox_rows(self.root)

    async def until(self, job_id: str, *states: str) -> None:
        await eventually(lambda: self.rows()[job_id][0] in states)


def outbox_rows(data: Path) -> dict[str, tuple[str, int, str | None]]:
    """Per job: state, tries, last error."""
    with contextlib.closing(sqlite3.connect(f"file:{data}/jobs.db?mode=ro", uri=True)) as database:
        found = database.execute("SELECT job_id, state, tries, last_error FROM callback ORDER BY seq").fetchall()
    return {job_id: (state, tries, error) for job_id, state, tries, error in found}


@contextlib.asynccontextmanager
async def office(
    root: Path, limits: CallbackLimits = USUAL, guard: Guard | None = None, key: bytes | None = None
) -> AsyncIterator[Office]:
    made = Office(root, FakeClock(START))
    await made.open(limits, guard or Guard(LOOPBACK), key)
    task = asyncio.create_task(made.outbox.run())
    try:
        yield made
    finally:
        task.cancel()
        with anyio.fail_after(5):
            await asyncio.wait([task])
        assert task.cancelled()
        await anyio.to_thread.run_sync(made.store.close)


REDIRECT = b"HTTP/1.1 307 X\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n"
TROUBLE: dict[str, int | bytes | str] = {
    "500": 500,
    "404": 404,
    "429": 429,
    "redirect": REDIRECT % b"http://127.0.0.1:1/",
    "close": "close",
    "stall": "stall",
    "noise": b"\0\1\2\3 this is no HTTP\r\n\r\n",
    "half an answer": b"HTTP/1.1 20",
    "huge header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("answer", TROUBLE.values(), ids=TROUBLE)
async def test_receivers_in_trouble(tmp_path: Path, answer: int | bytes | str, stray_exceptions: object) -> None:
    limits = QUICK if answer == "stall" else USUAL
    async with receiver(answer, answer) as there, office(tmp_path, limits) as here:
        job_id = await here.end(f"{there.url}/hook")
        await here.until(job_id, "DELIVERED")
        assert here.rows()[job_id] == ("DELIVERED", 3, None)
        assert len(there.calls) == 3
        # The same letter each time, under the same name.
        assert len({(call.target, call.body, call.headers["webhook-id"]) for call in there.calls}) == 1
        times = [int(call.headers["webhook-timestamp"]) - START for call in there.calls]
        assert times[0] == 0
        assert 5 <= times[1] <= 7
        assert 35 <= times[2] <= 44


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_any_2xx_is_a_yes(tmp_path: Path, status: int) -> None:
    async with receiver(status) as there, office(tmp_path) as here:
        job_id = await here.end(there.url)
        await here.until(job_id, "DELIVERED")
        assert len(there.calls) == 1


async def test_redirects_are_not_followed(tmp_path: Path) -> None:
    async with receiver() as elsewhere:
        there_answers = [
            REDIRECT.replace(b"307", b"%d" % code) % elsewhere.url.encode() for code in (301, 302, 303, 308)
        ]
        async with receiver(*there_answers) as there, office(tmp_path) as here:
            job_id = await here.end(there.url)
            await here.until(job_id, "DELIVERED")
            assert (len(there.calls), elsewhere.connections) == (5, 0)


async def test_nobody_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Eight tries over about an hour, then it is given up; neither the log nor the row quotes path or query."""
    caplog.set_level(logging.DEBUG)
    async with office(tmp_path) as here:
        port = free_port()
        url = f"http://user:pass-word@127.0.0.1:{port}/secret-path?token=secret-query"
        job_id = await here.end(url)
        await here.until(job_id, "GAVE_UP")
        state, tries, error = here.rows()[job_id]
        assert (state, tries) == ("GAVE_UP", 8)
        assert error
        assert 4055 <= here.clock.now() - START <= 4055 * 1.2 + 8
    said = caplog.text + error
    assert f"http://127.0.0.1:{port} given up" in said
    assert job_id in said
    for private in ("secret-path", "secret-query", "pass-word"):
        assert private not in said


async def test_a_name_that_does_not_exist(tmp_path: Path) -> None:
    async with office(tmp_path, CallbackLimits(waits=(1.0,))) as here:
        job_id = await here.end("http://nobody.invalid/hook?x=1")
        await here.until(job_id, "GAVE_UP")
        assert "gaierror" in (here.rows()[job_id][2] or "")


async def test_the_receiver_sets_the_pace(tmp_path: Path) -> None:
    slow = b"HTTP/1.1 503 X\r\nRetry-After: %d\r\nContent-Length: 0\r\n\r\n"
    async with receiver(slow % 600, slow % 1, slow % 10**9) as there, office(tmp_path) as here:
        job_id = await here.end(there.url)
        await here.until(job_id, "DELIVERED")
        times = [int(call.headers["webhook-timestamp"]) for call in there.calls]
        first, second, third = (later - earlier for earlier, later in itertools.pairwise(times))
        assert 600 <= first <= 602
        assert 30 <= second <= 37  # a floor, not an order to hurry
        assert 3600 <= third <= 3602  # and nothing is put off for ever


async def test_a_receiver_that_wants_no_more(tmp_path: Path) -> None:
    async with receiver(410) as there, office(tmp_path) as here:
        job_id = await here.end(there.url)
        await here.until(job_id, "GAVE_UP")
        assert len(there.calls) == 1


async def test_one_that_stalls_does_not_hold_up_the_others(tmp_path: Path) -> None:
    limits = CallbackLimits(at_once=4, per_receiver=2, answer=20.0)
    async with receiver(*["stall"] * 6) as bad, receiver() as good, office(tmp_path, limits) as here:
        stalled = [await here.end(bad.url) for _ in range(6)]
        await eventually(lambda: len(bad.calls) == 2)
        delivered = [await here.end(good.url) for _ in range(6)]
        for job_id in delivered:
            await here.until(job_id, "DELIVERED")
        assert (bad.connections, bad.most_open) == (2, 2)
        assert good.most_open <= 2
        assert {here.rows()[job_id] for job_id in stalled} == {("DUE", 0, None)}


async def test_at_most_so_many_at_once(tmp_path: Path) -> None:
    limits = CallbackLimits(at_once=3, per_receiver=10, answer=20.0)
    async with receiver(*["stall"] * 10) as there, office(tmp_path, limits) as here:
        for _ in range(10):
            await here.end(there.url)
        await eventually(lambda: len(there.calls) == 3)
        for _ in range(100):
            await anyio.sleep(0.001)
        assert there.connections == 3


async def test_a_stop_waits_for_nobody(tmp_path: Path, stray_exceptions: object) -> None:
    async with receiver("stall") as there:
        async with office(tmp_path, CallbackLimits(answer=1000.0)) as here:
            job_id = await here.end(there.url)
            await eventually(lambda: len(there.calls) == 1)
        assert here.rows()[job_id] == ("DUE", 0, None)
        async with office(tmp_path) as here:
            await here.until(job_id, "DELIVERED")
        assert len({call.headers["webhook-id"] for call in there.calls}) == 1


async def test_a_clock_that_was_set_back(tmp_path: Path) -> None:
    """What was put off into a future that has become far away is not waited for."""

    async def for_ever(seconds: float, /) -> None:
        await anyio.sleep_forever()

    async with receiver(503) as there:
        async with office(tmp_path, CallbackLimits(waits=(3600.0,))) as here:
            here.clock._now += 10**7
            here.clock.sleep = for_ever  # type: ignore[method-assign]
            job_id = await here.end(there.url)
            await eventually(lambda: here.rows()[job_id][1] == 1)
        async with office(tmp_path) as here:
            await here.until(job_id, "DELIVERED")
            assert here.clock.now() < START + 1


async def test_large_results_are_streamed_and_signed(tmp_path: Path) -> None:
    results = b"[" + b" " * 8_000_000 + b"]"
    key = key_from(SECRET)
    async with receiver() as there, office(tmp_path, USUAL, key=key) as here:
        job_id = await here.end(there.url, results=results)
        await here.until(job_id, "DELIVERED")
        (call,) = there.calls
        assert call.body == b'{"job_id":"%s","status":"COMPLETED","predictions":%s}' % (job_id.encode(), results)
        callbacks.verify(call.headers, call.body, secret=SECRET, now=START)
        # Signed anew with each try, or it would be too old some day.
        with pytest.raises(hb.CallbackRejected):
            callbacks.verify(call.headers, call.body, secret=SECRET, now=START + 301)


async def test_an_answer_before_the_body_was_sent(tmp_path: Path, stray_exceptions: object) -> None:
    """A receiver that is satisfied with the headers: the rest is not sent, and the file is closed."""

    async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        await reader.read(1000)
        writer.close()

    listening = await asyncio.start_server(hasty, "127.0.0.1", 0)
    async with listening, office(tmp_path) as here:
        port = listening.sockets[0].getsockname()[1]
        job_id = await here.end(f"http://127.0.0.1:{port}/", results=b"[" + b" " * 50_000_000 + b"]")
        await here.until(job_id, "DELIVERED")


async def test_results_that_are_gone(tmp_path: Path) -> None:
    async with receiver() as there, office(tmp_path, CallbackLimits(waits=())) as here:
        here.folders.predictions = lambda job_id: tmp_path / job_id  # type: ignore[method-assign]
        await anyio.to_thread.run_sync(
            lambda: here.store.accept(job_id="x", tenant="", created_ms=1, request=b"", callback_url=there.url)
        )
        await anyio.to_thread.run_sync(lambda: here.store.claim(now_ms=1))
        await anyio.to_thread.run_sync(lambda: here.store.finish("x", ended_ms=2, num_predictions=0, num_errors=0))
        here.outbox.wake()
        await here.until("x", "GAVE_UP")
        assert there.connections == 0


# ---- where callbacks may go ------------------------------------------------------------------------

PRIVATE = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "10.255.255.255", "172.16.0.1", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "192.0.0.8", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
    "192.88.99.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::808:808", "2002:7f00:1::", "2002:a00:1::1", "100::1",
    "2001::1", "2001:db8::1", "fe80::1", "fe80::1%lo", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1",
]  # fmt: skip
PUBLIC = [
    "8.8.8.8", "1.1.1.1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "2001:4860:4860::8888",
    "2606:4700:4700::1111",
]  # fmt: skip


def answering(*addresses: str) -> Callable[[str, int], Any]:
    async def resolve(host: str, port: int) -> list[str]:
        return list(addresses)

    return resolve


@pytest.mark.parametrize("address", PRIVATE)
async def test_addresses_that_are_refused(address: str) -> None:
    with pytest.raises(Refusal, match=r"receiver\.test resolves to"):
        await Guard(resolve=answering(address)).addresses("receiver.test", 80)
    # One bad answer among good ones is enough.
    with pytest.raises(Refusal):
        await Guard(resolve=answering("8.8.8.8", address)).addresses("receiver.test", 80)
    with pytest.raises(Refusal, match=r"is not a public address; --callback-allow"):
        await Guard(resolve=answering(address)).addresses(address, 80)


@pytest.mark.parametrize("address", PUBLIC)
async def test_addresses_that_are_fine(address: str) -> None:
    assert await Guard(resolve=answering(address)).addresses("receiver.test", 80) == [address]


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "::1", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "localhost", "LOCALHOST.",
     "::ffff:127.0.0.1", "::ffff:7f00:1"],
)  # fmt: skip
async def test_spellings_of_this_machine(host: str) -> None:
    """Through the resolver of the operating system, which is what reads them."""
    with pytest.raises((Refusal, OSError)) as refused:
        await Guard().addresses(host, 80)
    assert isinstance(refused.value, Refusal) or host in ("::1", "LOCALHOST.")


@pytest.mark.parametrize(
    ("allow", "host", "address", "fine"),
    [
        ("10.0.0.0/8", "receiver.test", "10.1.2.3", True),
        ("10.0.0.0/8", "receiver.test", "11.0.0.1", True),  # public anyway
        ("10.0.0.0/8", "receiver.test", "192.168.0.1", False),
        ("10.1.2.3", "10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.4", "10.1.2.4", False),
        ("10.1.2.3", "receiver.test", "::ffff:10.1.2.3", True),
        ("fd00::/8", "receiver.test", "fd00::1", True),
        ("[::1]", "::1", "::1", True),
        ("receiver.test", "receiver.test", "10.1.2.3", True),
        ("Receiver.Test.", "receiver.TEST", "127.0.0.1", True),
        ("receiver.test", "other.test", "10.1.2.3", False),
        ("receiver.test", "a.receiver.test", "10.1.2.3", False),
    ],
)
async def test_allowing(allow: str, host: str, address: str, fine: bool) -> None:
    guard = Guard([allow], resolve=answering(address))
    if fine:
        assert await guard.addresses(host, 80) == [address]
    else:
        with pytest.raises(Refusal):
            await guard.addresses(host, 80)


@pytest.mark.parametrize(
    "entry", ["", "http://a.example", "a.example:80", "10.0.0.0/99", "a b", "a/b", "*", "[::1]:80"]
)
async def test_what_cannot_be_allowed(tmp_path: Path, entry: str) -> None:
    with pytest.raises(hb.ConfigError) as refusal:
        create_app(tmp_path, callback_allow=[entry])
    assert refusal.value.field == "callback_allow"


async def test_the_address_that_was_looked_at_is_the_one_that_is_used(tmp_path: Path) -> None:
    """A name server that gives another answer each time finds nobody who asks twice; each try is looked at."""
    answers = [["127.0.0.1"], ["127.0.0.1"], ["127.0.0.1", "10.0.0.1"], ["127.0.0.1"]]
    asked: list[tuple[str, int]] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return answers.pop(0)

    guard = Guard(["127.0.0.1"], resolve=resolve)
    async with receiver(500, 500) as there, office(tmp_path, guard=guard) as here:
        port = int(there.url.rpartition(":")[2])
        job_id = await here.end(f"http://Receiver.Test:{port}/hook")
        await here.until(job_id, "REFUSED")
        assert here.rows()[job_id][1] == 3
        assert [call.headers["host"].lower() for call in there.calls] == [f"receiver.test:{port}"] * 2
        assert [(host.lower(), asked_port) for host, asked_port in asked] == [("receiver.test", port)] * 3


async def test_another_address_with_each_try(tmp_path: Path) -> None:
    guard = Guard(LOOPBACK, resolve=answering("127.0.0.9", "127.0.0.1"))
    async with receiver() as there, office(tmp_path, guard=guard) as here:
        job_id = await here.end(there.url.replace("127.0.0.1", "receiver.test"))
        await here.until(job_id, "DELIVERED")
        assert here.rows()[job_id][1] == 2


@pytest.mark.parametrize("url", ["http://h:99999/", "http://[::1/", "ftp://h/", "http://:80/", "http:///x"])
async def test_urls_that_cannot_be_used(tmp_path: Path, url: str) -> None:
    async with office(tmp_path) as here:
        job_id = await here.end(url)
        await here.until(job_id, "REFUSED")


# ---- the whole server ------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def client_of(server: RunningServer | str) -> AsyncIterator[hb.BatchClient]:
    base_url = server if isinstance(server, str) else server.base_url
    async with hb.BatchClient(base_url=base_url, api_key="test-key", poll=POLL) as client:
        yield client


async def test_a_completed_job(stray_exceptions: object) -> None:
    query = "sid=CA%2F1&x=a+b&empty=&y=%20;z=%zz&q='\"<>"
    async with running_server(callback_secret=SECRET) as server, client_of(server) as client, receiver() as there:
        job = await client.submit(
            hb.Submission(
                text=["Test!"], models=LANGUAGE, callback_url=f"{there.url}/hook/%41?{query}".replace('"', "%22")
            )
        )
        await job.wait(timeout=30)
        await eventually(lambda: outbox_rows(server.data)[job.id][0] == "DELIVERED")
        (call,) = there.calls
        predictions = (await talk(server, request(f"/v0/batch/jobs/{job.id}/predictions"))).body
        assert call.body == b'{"job_id":"%s","status":"COMPLETED","predictions":%s}' % (job.id.encode(), predictions)
        assert call.target == f"/hook/%41?{query}".replace('"', "%22")
        assert call.headers["content-type"] == "application/json"
        assert call.headers["content-length"] == str(len(call.body))
        assert "transfer-encoding" not in call.headers
        assert call.headers["host"] == there.url.removeprefix("http://")
        assert call.headers["webhook-id"] == f"msg_{job.id}"
        callbacks.verify(call.headers, call.body, secret=SECRET)
        done = callbacks.parse(call.body)
        assert done.predictions == await job.predictions()


async def test_a_failed_job(tmp_path: Path) -> None:
    async with receiver() as there:
        data = tmp_path / "data"
        async with running_server(data=data, running=RunnerLimits(workers=0)) as server, client_of(server) as client:
            (tmp_path / "a.txt").write_bytes(b"Hello.")
            job = await client.submit(
                hb.Submission(files=[tmp_path / "a.txt"], models=LANGUAGE, callback_url=there.url)
            )
        shutil.rmtree(data / "jobs" / job.id / "input")
        async with running_server(data=data) as server:
            await eventually(lambda: outbox_rows(data).get(job.id, ("",))[0] == "DELIVERED")
        (call,) = there.calls
        failed = callbacks.parse(call.body)
        assert (failed.job_id, failed.status, failed.predictions) == (job.id, "FAILED", [])
        assert "could not measure" in (failed.message or "")
        # Without a secret there is no signature, but still a name.
        assert "webhook-signature" not in call.headers
        assert call.headers["webhook-id"] == f"msg_{job.id}"


async def test_jobs_without_one(server: RunningServer, client: hb.BatchClient) -> None:
    job = await client.submit(hb.Submission(text=["Test!"], models=LANGUAGE))
    await job.wait(timeout=30)
    assert outbox_rows(server.data) == {}


async def test_a_private_receiver_is_refused_but_the_job_is_done(caplog: pytest.LogCaptureFixture) -> None:
    async with running_server(callback_allow=()) as server, client_of(server) as client, receiver() as there:
        for url in (
            there.url,
            there.url.replace("127.0.0.1", "2130706433"),
            there.url.replace("127.0.0.1", "localhost"),
        ):
            job = await client.submit(hb.Submission(text=["a"], models=LANGUAGE, callback_url=f"{url}/?token=private"))
            assert (await job.wait(timeout=30)).request.callback_url == f"{url}/?token=private"
            await eventually(lambda job_id=job.id: outbox_rows(server.data)[job_id][0] == "REFUSED")  # type: ignore[misc]
            assert job.id in caplog.text
        assert there.connections == 0
    assert "127.0.0.1 is not a public address; --callback-allow 127.0.0.1 would permit it" in caplog.text
    assert "localhost resolves to" in caplog.text
    assert "private" not in caplog.text


async def test_a_server_that_is_killed_between_the_end_and_the_delivery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL while receivers hold on to the callbacks; the next server delivers them, under the same names."""
    monkeypatch.setenv("HUMEBATCH_CALLBACK_SECRET", SECRET)
    data, options = tmp_path / "data", ("--port", "0", "--callback-allow", "127.0.0.1")
    async with receiver(*["stall"] * 4) as there:
        with served(data, *options) as server:
            async with client_of(server.base_url) as client:
                jobs = [
                    await client.submit(
                        hb.Submission(text=["Hello."], models=LANGUAGE, callback_url=f"{there.url}/?x=1")
                    )
                    for _ in range(10)
                ]
                for job in jobs:
                    await job.wait(timeout=60)
            await eventually(lambda: len(there.calls) == 4)
            server.process.kill()
            server.end()
        assert {row[0] for row in outbox_rows(data).values()} == {"DUE"}
        with served(data, *options) as server:
            await eventually(lambda: {row[0] for row in outbox_rows(data).values()} == {"DELIVERED"})
            server.process.terminate()
            assert server.end() == 0
            said = server.errors()
        # Whoever drops repeats by their name acts once per job.
        assert {call.headers["webhook-id"] for call in there.calls} == {f"msg_{job.id}" for job in jobs}
        assert len(there.calls) == 14
        for call in there.calls:
            callbacks.verify(call.headers, call.body, secret=SECRET)
    assert "Traceback" not in said
    for path in data.rglob("*"):
        assert path.is_dir() or SECRET.removeprefix("whsec_").encode() not in path.read_bytes(), path
    assert SECRET.removeprefix("whsec_") not in said


async def test_a_job_that_a_crash_failed_is_told_of(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with receiver() as there:

        def crash() -> None:
            with contextlib.closing(Store(data)) as store:
                store.accept(job_id="job", tenant="", created_ms=1, request=b"{}", callback_url=there.url)
                for attempt in range(3):
                    store.recover(now_ms=attempt, max_attempts=3)
                    assert store.claim(now_ms=attempt)

        await anyio.to_thread.run_sync(crash)
        async with running_server(data=data):
            await eventually(lambda: len(there.calls) == 1)
        assert json.loads(there.calls[0].body) == {
            "job_id": "job",
            "status": "FAILED",
            "predictions": [],
            "message": "the server went down 3 times while measuring this job",
        }


async def test_tls_is_checked_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes to an address, the certificate is for the name: that must fit, and the address must not."""
    context = await anyio.to_thread.run_sync(certificate, tmp_path)
    if context is None:
        pytest.skip("openssl is not installed")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    data = tmp_path / "data"
    async with receiver(tls=context) as there:
        named = there.url.replace("http://127.0.0.1", "https://localhost")
        with served(data, "--port", "0", "--callback-allow", "127.0.0.0/8", "--callback-allow", "localhost") as server:
            async with client_of(server.base_url) as client:
                jobs = [
                    await client.submit(hb.Submission(text=["a"], models=LANGUAGE, callback_url=url))
                    for url in (named, there.url.replace("http:", "https:"))
                ]
            await eventually(lambda: outbox_rows(data).get(jobs[0].id, ("",))[0] == "DELIVERED")
            await eventually(lambda: outbox_rows(data).get(jobs[1].id, ("", 0))[1] == 1)
        assert outbox_rows(data)[jobs[1].id][0] == "DUE"
        assert "ertificate" in (outbox_rows(data)[jobs[1].id][2] or "")
        assert len(there.calls) == 1


@pytest.mark.parametrize(
    ("module", "options"), [("humebatch.server", ()), ("humebatch", ("serve",))], ids=["module", "command"]
)
@pytest.mark.parametrize(
    ("secret", "allow", "word"), [("whsec_hush-hush", "127.0.0.1", "secret"), (SECRET, "http://x", "http://x")]
)
def test_bad_settings(
    tmp_path: Path, module: str, options: tuple[str, ...], secret: str, allow: str, word: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", module, *options, "--data", str(tmp_path / "data"), "--port", "0", "--measure", "fixed",
         "--callback-allow", allow],
        env={**os.environ, "HUMEBATCH_CALLBACK_SECRET": secret},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (2, "")
    assert word in ended.stderr
    assert "hush-hush" not in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_the_secret_does_not_show(tmp_path: Path) -> None:
    app = create_app(tmp_path, callback_secret=SECRET)
    key = SECRET.removeprefix("whsec_")
    assert key not in repr(app) + repr(vars(app))
    for bad in (SECRET[:-8], "secret!"):
        with pytest.raises(hb.ConfigError) as refusal:
            create_app(tmp_path, callback_secret=bad)
        assert bad not in str(refusal.value)


# ---- databases of version 1 ------------------------------------------------------------------------

VERSION_1 = """
CREATE TABLE job (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('QUEUED', 'IN_PROGRESS', 'COMPLETED', 'FAILED')),
    created_ms INTEGER NOT NULL, started_ms INTEGER, ended_ms INTEGER, attempts INTEGER NOT NULL DEFAULT 0,
    request BLOB NOT NULL, message TEXT, num_predictions INTEGER, num_errors INTEGER
) STRICT;
CREATE INDEX job_created ON job (tenant, created_ms);
CREATE INDEX job_started ON job (tenant, started_ms);
CREATE INDEX job_ended ON job (tenant, ended_ms);
CREATE INDEX job_queue ON job (status, seq);
PRAGMA user_version=1;
"""
OLD = {
    "queued": ("QUEUED", b'{"callback_url": "http://a.example/?x=\\u00e9", "files": []}'),
    "running": ("IN_PROGRESS", b'{"callback_url": "http://b.example"}'),
    "plain": ("QUEUED", b'{"callback_url": null}'),
    "older": ("QUEUED", b"{}"),
    "strange": ("QUEUED", b"{"),
    "done": ("COMPLETED", b'{"callback_url": "http://c.example"}'),
    "failed": ("FAILED", b'{"callback_url": "http://d.example"}'),
}


def version_1(folder: Path) -> None:
    with contextlib.closing(sqlite3.connect(folder / "jobs.db")) as database:
        database.executescript(VERSION_1)
        for name, (status, body) in OLD.items():
            database.execute(
                "INSERT INTO job (id, tenant, status, created_ms, started_ms, request) VALUES (?, '', ?, 1, 1, ?)",
                (name, status, body),
            )
        database.commit()


def tables(folder: Path) -> Any:
    with contextlib.closing(sqlite3.connect(folder / "jobs.db")) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        columns = [database.execute(f"PRAGMA table_info({name})").fetchall() for name in ("job", "callback")]
        others = database.execute("SELECT type, name, sql FROM sqlite_schema WHERE type <> 'table' ORDER BY name")
        return version, columns, others.fetchall()


def test_an_old_database_is_brought_up_to_date(tmp_path: Path) -> None:
    version_1(tmp_path)
    with contextlib.closing(Store(tmp_path)) as store:
        assert store.known() == set(OLD)
        urls = dict(store._db.execute("SELECT id, callback_url FROM job WHERE callback_url IS NOT NULL").fetchall())
        assert urls == {"queued": "http://a.example/?x=é", "running": "http://b.example"}
        # Callers of jobs that have ended long ago wait for nothing any more.
        assert outbox_rows(tmp_path) == {}
        store.recover(now_ms=1, max_attempts=3)
        while claimed := store.claim(now_ms=2):
            store.finish(claimed.id, ended_ms=3, num_predictions=0, num_errors=0)
        assert list(outbox_rows(tmp_path)) == ["queued", "running"]
    new = tmp_path / "new"
    Store(new).close()
    assert tables(tmp_path) == tables(new)
    assert tables(new)[0] == SCHEMA_VERSION


def test_a_crash_while_it_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version_1(tmp_path)
    before = tables(tmp_path)
    monkeypatch.setattr("humebatch.server.store._STEPS", ("", "ALTER TABLE job ADD COLUMN callback_url TEXT; boom;"))
    with pytest.raises(hb.ConfigError, match="boom"):
        Store(tmp_path)
    assert tables(tmp_path) == before
    monkeypatch.undo()
    Store(tmp_path).close()
    assert tables(tmp_path)[0] == SCHEMA_VERSION


def test_a_row_comes_with_the_end_and_with_nothing_else(tmp_path: Path) -> None:
    with contextlib.closing(Store(tmp_path)) as store:
        for name, url in (("without", None), ("with", "http://a.example")):
            store.accept(job_id=name, tenant="", created_ms=1, request=b"{}", callback_url=url)
            assert store.claim(now_ms=1)
            store.requeue(name)
            assert store.claim(now_ms=1)
            assert store.recover(now_ms=1, max_attempts=3) == []
            assert store.claim(now_ms=1)
            assert outbox_rows(tmp_path) == {}
            if url is not None:
                # If the row cannot be written, the job has not ended either.
                full = "CREATE TRIGGER full BEFORE INSERT ON callback BEGIN SELECT RAISE(ABORT, 'no room'); END"
                store._db.execute(full)
                with pytest.raises(sqlite3.Error, match="no room"):
                    store.finish(name, ended_ms=2, num_predictions=0, num_errors=0)
                found = store.get(name, tenant="")
                assert found is not None
                assert found.status == "IN_PROGRESS"
                store._db.execute("DROP TRIGGER full")
            store.finish(name, ended_ms=2, num_predictions=0, num_errors=0)
        assert outbox_rows(tmp_path) == {"with": ("DUE", 0, None)}
