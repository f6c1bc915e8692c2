"""An ingest over a line that breaks: at every byte of a request and of an answer, before, after, and for good.

Also an ingest that is cancelled, at any step: what it had sent is found again, and nothing is sent twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import humebatch as hb
from humebatch.cli.output import exit_code
from humebatch.server import IntakeLimits
from humebatch.testing import Answer, Before, Cut, FakeClock, Proxy, Reset, Slow, Stall
from tests._transport.scripted import ScriptedServer, answering, closed_port

from .scene import Scene, scene

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("stray_exceptions")]

both = pytest.mark.parametrize("keyed", [True, False], ids=["keyed", "old"])
# Requests of a kind share one connection, so that the first one is for looks and those after it for submissions.
ONE = hb.Limits(uploads=1, polls=1)
AFTER = 1000  # submissions are shorter than this; a connection that carried so much has carried one whole


@contextlib.asynccontextmanager
async def line(folder: Path, *, keyed: bool, **settings: Any) -> AsyncIterator[tuple[Scene, Proxy]]:
    """A scene whose clients go through a proxy."""
    async with scene(folder, keyed=keyed, **settings) as it, it.trouble.proxy(it.url) as proxy:
        it.url = proxy.base_url
        yield it, proxy


@pytest.fixture
def rng() -> random.Random:
    """Another one each time; the log of a test that fails has its seed."""
    seed = random.SystemRandom().randrange(10**6)
    logging.getLogger("tests").warning("seed %d", seed)
    return random.Random(seed)


# ── requests that do not arrive whole


async def length_of_a_submission(it: Scene) -> int:
    """Bytes of the request by which a file of three characters is submitted, head and all."""
    listed = answering(200, b"[]", "X-Humebatch-Capabilities: idempotency-key")
    refused = answering(400, b"{}")
    it.write("abc")
    async with ScriptedServer(listed, refused) as server:
        await it.run(client=it.client(url=server.url, limits=ONE), journal=it.journal.with_name("other.db"))
        exchange = server.exchanges[1]
    return len(exchange.head) + len(exchange.body)


@both
async def test_reset_before_the_last_byte(keyed: bool, tmp_path: Path, rng: random.Random) -> None:
    """So small a request has left this machine whole long before it arrives: nobody here knows that it has not."""
    async with line(tmp_path, keyed=keyed) as (it, proxy):
        whole = await length_of_a_submission(it)
        offsets = [0, 1, whole - 2, whole - 1, *(rng.randrange(whole) for _ in range(20))]
        for number, offset in enumerate(offsets):
            (it.inputs / "0.txt").write_text(f"{number:03}")
            proxy.connections(None, Reset(after_up=offset))
            opened = proxy.opened
            told = await it.run(client=it.client(limits=ONE))
            assert (told.error, told.states) == (None, {"0.txt": "DONE"}), offset
            assert proxy.opened - opened >= 3, "the fault has happened"
            await it.check()
            assert len(await it.jobs()) == number + 1, offset


@both
async def test_reset_before_a_large_request_has_left(keyed: bool, tmp_path: Path) -> None:
    """That is no submission, and none is looked for: it is simply made again."""
    async with line(tmp_path, keyed=keyed) as (it, proxy):
        for number, offset in enumerate([100, 1000, 100_000, 1_000_000]):
            (it.inputs / "0.txt").write_bytes(b"%d" % number + bytes(12_000_000))
            proxy.connections(None, Reset(after_up=offset))
            told = await it.run(client=it.client(limits=ONE), models=hb.Models(burst=hb.Burst()))
            assert (told.error, told.resends) == (None, 1), offset
            ledger = await it.check()
            assert ledger.attempts == len(await it.jobs()) == number + 1, "the repeat is part of the try"


@both
@pytest.mark.parametrize("kind", [Reset, Cut])
async def test_lines_that_break_anywhere(kind: Any, keyed: bool, tmp_path: Path, rng: random.Random) -> None:
    """Two hundred connections break after any number of bytes, with whole requests on them or parts of one."""
    async with line(tmp_path, keyed=keyed) as (it, proxy):
        it.write(*(f"one two {number}" for number in range(60)))
        faults: list[Any] = [kind(after_up=rng.randrange(1, 3 * AFTER)) for _ in range(100)]
        faults += [kind(after_down=rng.randrange(3 * AFTER)) for _ in range(100)]
        rng.shuffle(faults)
        proxy.connections(None, *faults)
        told = await it.run()
        assert told.error is None
        assert proxy.opened > 30
        await it.settled(jobs=60)


# ── answers that do not arrive whole


@both
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("fault", [Reset(after_down=0), Cut(after_down=0), Reset(after_down=20), Cut(after_down=200)])
async def test_the_answer_is_lost_on_the_line(fault: Any, groups: int, keyed: bool, tmp_path: Path) -> None:
    async with line(tmp_path, keyed=keyed) as (it, proxy):
        it.write(*(f"one two {number}" for number in range(groups)))
        proxy.connections(None, *[fault] * groups)
        told = await it.run(client=it.client(limits=hb.Limits(uploads=groups, polls=1)))
        assert told.error is None
        assert it.trouble.requests["POST /jobs"] >= (groups + 1 if keyed else groups)
        await it.settled(jobs=groups)


@both
async def test_the_answer_does_not_come(keyed: bool, tmp_path: Path) -> None:
    async with line(tmp_path, keyed=keyed) as (it, proxy):
        it.write("one two", "three four")
        proxy.connections(None, Stall(after_down=0), Stall(after_down=100))
        client = it.client(limits=ONE, timeouts=hb.Timeouts(answer=0.05, read=0.5))
        told = await it.run(client=client)
        assert told.error is None
        await it.settled(jobs=2)


@both
@pytest.mark.parametrize("noticed", [True, False])
async def test_an_upload_that_does_not_go_on(noticed: bool, keyed: bool, tmp_path: Path) -> None:
    """Until the server notices, it says of a second request with the same key that the first one is under way."""
    intake = IntakeLimits(stall=0.2 if noticed else 60.0)
    async with line(tmp_path, keyed=keyed, intake=intake) as (it, proxy):
        it.write(b"a" * 8_000_000)
        proxy.connections(None, Stall(after_up=100_000))
        clock = None if noticed else FakeClock()  # an hour passes while the server waits for the rest
        more: dict[str, Any] = {} if clock is None else {"clock": clock}
        client = it.client(limits=ONE, timeouts=hb.Timeouts(read=0.1), **more)
        told = await it.run(client=client, models=hb.Models(burst=hb.Burst()))
        if keyed and not noticed:
            assert told.error is not None and exit_code(told.error) == 75 and "409" in str(told.error)
            assert await it.jobs() == []
            await it.check(finished=False)
        else:
            assert told.error is None and told.resends >= 1
            assert len(await it.jobs()) == 1
            await it.check()


async def test_a_download_that_breaks_off(tmp_path: Path) -> None:
    async with line(tmp_path, keyed=False) as (it, proxy):
        it.write("one two " * 400, "three four " * 400)
        told = await it.run(client=it.client(limits=ONE), policy=hb.IngestPolicy(open_jobs=1))
        assert told.error is None
        for path in it.out.rglob("predictions.json"):
            path.unlink()
        proxy.connections(
            Cut(after_down=20_000), Reset(after_down=50_000), Slow(10**7), Stall(after_down=10_000), Cut(after_down=0)
        )
        client = it.client(limits=ONE, timeouts=hb.Timeouts(read=0.1))
        told = await it.run(client=client)
        assert told.error is None and told.bytes_sent == 0 and told.resends >= 2
        await it.check()
        assert len(await it.jobs()) == 2


# ── nobody there


@pytest.mark.parametrize("url", ["http://no-such-host.invalid", None], ids=["no such host", "nobody listens"])
async def test_nobody_there_at_the_start(url: str | None, tmp_path: Path) -> None:
    async with scene(tmp_path, keyed=True) as it, closed_port() as closed:
        it.write("one two")
        told = await it.run(url=url or closed)
        assert isinstance(told.error, hb.ConnectFailed) and exit_code(told.error) == 75
        assert (url or closed).rpartition("/")[2] in str(told.error)
        ledger = await it.check(finished=False)
        assert ledger.attempts == 0
        assert (await it.run(rebind=True)).error is None
        await it.settled(jobs=1)


async def test_one_of_two_addresses_is_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def two(host: Any, port: Any, *more: Any, **how: Any) -> Any:
        if host != "two-addresses.test":
            return real(host, port, *more, **how)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{end}", port)) for end in (77, 1)]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    async with scene(tmp_path, keyed=True) as it:
        it.write("one two", "three four")
        it.url = it.url.replace("127.0.0.1", "two-addresses.test")
        told = await it.run()
        assert (told.error, told.resends) == (None, 0)
        await it.settled(jobs=2)


@both
@pytest.mark.parametrize("back", [True, False])
async def test_the_server_goes_away_in_the_middle(back: bool, keyed: bool, tmp_path: Path) -> None:
    async with line(tmp_path, keyed=keyed) as (it, proxy):
        it.write(*(f"one two {number}" for number in range(30)))
        client = it.client(limits=hb.Limits(uploads=2))

        async def away() -> None:
            while len(it.trouble.accepted) < 10:
                await asyncio.sleep(0)
            proxy.down = True
            if back:
                assert it.trouble.clock is not None
                await it.trouble.clock.sleep(1800)
                proxy.down = False

        async with asyncio.TaskGroup() as group:
            group.create_task(away())
            told = await it.run(client=client)
        if not back:
            assert told.error is not None and exit_code(told.error) == 75
            assert told.clock.now() >= 3600
            await it.check(finished=False)
            proxy.down = False
            told = await it.run()
        assert told.error is None
        await it.settled(jobs=30)


# ── all of it


@both
@pytest.mark.parametrize("go", range(3))
async def test_everything_at_once(go: int, keyed: bool, tmp_path: Path, rng: random.Random) -> None:
    """Whatever happens, and however often the run is given up and begun again: one job for each group."""
    del go
    page = Answer(200, body=b"<p>Welcome to our Wi-Fi</p>")
    lost: list[Any] = ["drop", "cut", 500, 502, 503, 504, 408, 409, page]
    refused: list[Any] = ["reset", Before(429), Before(503), Before(507), Before(429, headers={"Retry-After": "20"})]
    broken: list[Any] = [500, 503, 429, "cut", "reset"]
    async with line(tmp_path, keyed=keyed) as (it, proxy):
        it.write(*(f"one two {number}" for number in range(24)))
        it.trouble.submissions(*rng.choices([*lost, *refused, None, None, None], k=60))
        for route, odd in (("/jobs", [*broken, page]), ("/jobs/{id}", broken), ("/predictions", broken)):
            it.trouble.answers("GET", route, *rng.choices([*odd, *[None] * 4], k=50))
        cuts: list[Any] = [kind(after_up=rng.randrange(4000)) for kind in (Reset, Cut) for _ in range(10)]
        cuts += [kind(after_down=rng.randrange(9000)) for kind in (Reset, Cut) for _ in range(10)]
        proxy.connections(*rng.choices([*cuts, None, None], k=40))
        for _ in range(20):
            client = it.client(limits=hb.Limits(uploads=rng.randint(1, 8), polls=rng.randint(1, 8)))
            policy = hb.IngestPolicy(max_outage=rng.choice([5, 60, 3600]), grace=rng.choice([20, 300]))
            told = await it.run(client=client, policy=policy, files_per_job=2)
            ledger = await it.check(finished=told.error is None)
            if set(ledger.states) == {"DONE"}:
                break
        it.trouble._submissions.clear()
        it.trouble._answers.clear()
        assert (await it.run(files_per_job=2)).error is None
        await it.settled(jobs=12)


# ── cancellation


async def cancelled_after(it: Scene, steps: int, how: str, *, sent: bool = False) -> bool:
    """An ingest that is cancelled after so many steps of the event loop; False if it had ended by then.

    `sent`: counted from when a submission is at the server.
    """
    client = it.client(limits=hb.Limits(uploads=2))
    ended = False

    async def the_time() -> None:
        while sent and not it.trouble.busy:
            await asyncio.sleep(0)
        for _ in range(steps):
            await asyncio.sleep(0)

    async def go() -> None:
        nonlocal ended
        async with client, it.ingest(client) as outcomes:
            async for _ in outcomes:
                pass
        ended = True

    before = asyncio.all_tasks()
    if how == "asyncio":
        task = asyncio.ensure_future(go())
        await the_time()
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            assert not ended
    else:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(go)
                await the_time()
                scope.cancel()
    left = {task for task in asyncio.all_tasks() - before if "humebatch/_" in repr(task)}
    assert not left, left
    # What was on its way to the server gets there.
    for _ in range(50):
        await asyncio.sleep(0)
    while it.trouble.busy:
        await asyncio.sleep(0.001)
    return not ended


@both
@pytest.mark.parametrize("how", ["asyncio", "anyio"])
async def test_cancelled_at_any_step(how: str, keyed: bool, tmp_path: Path, rng: random.Random) -> None:
    cancelled = 0
    async with scene(tmp_path, keyed=keyed) as it:
        for number in range(16):
            it.write(f"one two {number} a", f"one two {number} b")
            if not number:
                await it.run()  # so that there is a journal from the first step on
            if await cancelled_after(it, rng.randrange(600), how):
                cancelled += 1
                await it.check(finished=False)
            told = await it.run()
            assert told.error is None
            assert len(await it.jobs()) == 2 * (number + 1)
        assert cancelled > 4
        await it.settled(jobs=32)


@both
@pytest.mark.parametrize("how", ["asyncio", "anyio"])
async def test_cancelled_while_a_submission_is_answered(how: str, keyed: bool, tmp_path: Path) -> None:
    """There is a job, or there will be: it is found again."""
    async with scene(tmp_path, keyed=keyed) as it:
        for number in range(12):
            it.write(f"one two {number}")
            assert await cancelled_after(it, 3 * number, how, sent=True)
            await it.check(finished=False)
            assert (await it.run()).error is None
            assert len(await it.jobs()) == number + 1
        await it.settled(jobs=12)


@both
async def test_cancelled_again_and_again(keyed: bool, tmp_path: Path) -> None:
    """Runs that each get a little further, and one that is left alone."""
    async with scene(tmp_path, keyed=keyed) as it:
        it.write("one two")
        await it.run()  # so that there is a journal from the first step on
        it.write(*(f"one two {number}" for number in range(8)))
        steps = 50
        while await cancelled_after(it, steps, "asyncio"):
            await it.check(finished=False)
            steps += 120
        assert steps > 100
        await it.settled(jobs=9)
