"""Bytes on real sockets: exact uploads, what is sent again and what never is, and a key that stays where it belongs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import ssl
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import humebatch as hb
from humebatch.testing import FakeClock, RunningServer

from .scripted import ACCEPTED, JOB, Exchange, Script, ScriptedServer, accepting, answering, closed_port

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("stray_exceptions")]

CANARY = "canary-7f3a9-key"
DETAILS = (
    b'{"type":"INFERENCE","job_id":"' + JOB.encode() + b'","request":{"files":[],"models":{}},'
    b'"state":{"status":"COMPLETED","created_timestamp_ms":1}}'
)
TEXT = hb.Submission(text=["hello"])
detailing = answering(200, DETAILS)


def client_on(server: ScriptedServer | str, **more: Any) -> hb.BatchClient:
    url = server if isinstance(server, str) else server.url
    return hb.BatchClient(**{"base_url": url, "api_key": CANARY, "clock": FakeClock(), **more})


def sleeps_of(client: hb.BatchClient) -> list[float]:
    clock = client._clock
    assert isinstance(clock, FakeClock)
    return clock.sleeps


def once(**more: Any) -> dict[str, Any]:
    return {"retry": hb.RetryPolicy(attempts=1), **more}


async def resetting(exchange: Exchange) -> None:
    await exchange.read_all()
    exchange.reset()


async def silent(exchange: Exchange) -> None:
    await exchange.read_all()
    await exchange.read_rest()


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """More than all buffers of a connection hold together, and nothing on the disk."""
    path = tmp_path / "big.wav"
    with path.open("wb") as file:
        file.truncate(30_000_000)
    return path


# ── uploads ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_large_file_is_streamed_in_flat_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.wav"
    size = 300_000_000
    with path.open("wb") as file:
        file.truncate(size)
    taken = 0

    async def swallowing(exchange: Exchange) -> None:
        nonlocal taken
        await exchange.read_head()
        left = int(exchange.headers["content-length"])
        while left and (data := await exchange._reader.read(min(left, 2**20))):
            left -= len(data)
            taken += len(data)
        await exchange.reply(200, ACCEPTED)

    child = textwrap.dedent(
        """
        import asyncio, resource, sys
        import humebatch as hb

        async def main():
            async with hb.BatchClient(base_url=sys.argv[1], api_key="k") as client:
                small = hb.Submission(text=["warm up"])
                await client.submit(small)
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                await client.submit(hb.Submission(files=[sys.argv[2]]))
                print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, client.stats.bytes_sent)

        asyncio.run(main())
        """
    )
    async with ScriptedServer(swallowing) as server:
        running = await asyncio.create_subprocess_exec(
            sys.executable, "-c", child, server.url, str(path), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await running.communicate()
    grown, sent = map(int, out.split())
    assert taken == sent > size
    assert grown < 20_000  # kilobytes; the file is 300 MB


async def test_the_length_is_announced_and_exact_and_the_body_is_not_chunked(tmp_path: Path) -> None:
    names = ["plain.wav", "höher 日本.wav", 'quo"te.wav', "line\nbreak.wav", "semi;colon.wav"]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(bytes([number + 65]) * (70_000 * number + 1))
    async with ScriptedServer(accepting) as server, client_on(server, limits=hb.Limits(chunk=4096)) as client:
        job = await client.submit(hb.Submission(files=[tmp_path / name for name in names]))
        (exchange,) = server.exchanges
        assert client.stats.bytes_sent == len(exchange.body)
    assert job.id == JOB
    assert exchange.line == "POST /v0/batch/jobs HTTP/1.1"
    assert int(exchange.headers["content-length"]) == len(exchange.body)
    assert "transfer-encoding" not in exchange.headers
    assert "expect" not in exchange.headers
    assert exchange.headers["x-hume-api-key"] == CANARY
    assert exchange.headers["user-agent"].startswith("humebatch/")
    assert 'filename="höher 日本.wav"'.encode() in exchange.body
    assert b'filename="quo%22te.wav"' in exchange.body
    assert b'filename="line%0Abreak.wav"' in exchange.body
    assert b"\r\n\r\n" + b"E" * 280_001 + b"\r\n--" in exchange.body
    boundary = exchange.headers["content-type"].partition("boundary=")[2].encode()
    assert exchange.body.endswith(b"\r\n--" + boundary + b"--\r\n")


@pytest.mark.parametrize("after", [0, 100_000])
async def test_a_refusal_in_the_middle_of_an_upload_is_read(after: int, big: Path) -> None:
    async def refusing(exchange: Exchange) -> None:
        await exchange.read_head()
        await exchange.read_body(after)
        await exchange.reply(413, b'{"message":"at most 1 MB"}')
        await exchange.read_rest()

    with big.open("r+b") as file:
        file.truncate(1_000_000_000)
    told: list[int] = []
    async with ScriptedServer(refusing) as server:
        async with client_on(server) as client:
            with pytest.raises(hb.TooLarge, match="at most 1 MB") as caught:
                await client.submit(hb.Submission(files=[big]), progress=told.append)
            assert client.stats.requests == 1
            count = len(told)
        await server.quiet()
        (exchange,) = server.exchanges
    assert caught.value.attempts == 1
    assert len(exchange.body) < 500_000_000  # the rest was not sent after the answer
    assert len(told) == count


async def test_a_429_in_the_middle_of_an_upload_is_tried_again(big: Path) -> None:
    async def refusing(exchange: Exchange) -> None:
        await exchange.read_head()
        await exchange.reply(429, b'{"message":"later"}', "Retry-After: 3")
        await exchange.read_rest()

    told: list[int] = []
    async with ScriptedServer(refusing, accepting) as server, client_on(server) as client:
        await client.submit(hb.Submission(files=[big]), progress=told.append)
        assert sum(told) == len(server.exchanges[1].body)
        assert sleeps_of(client)[0] >= 3
        assert client.stats.rate_limited == 1


async def test_an_upload_may_take_longer_than_its_answer(big: Path) -> None:
    async def slow(exchange: Exchange) -> None:
        await exchange.read_head()
        for _ in range(6):
            await exchange.read_body(1000)
            await asyncio.sleep(0.05)
        await exchange.read_body(int(exchange.headers["content-length"]) - 6000)
        await exchange.reply(200, ACCEPTED)

    async with ScriptedServer(slow) as server, client_on(server, timeouts=hb.Timeouts(answer=0.15)) as client:
        assert (await client.submit(hb.Submission(files=[big]))).id == JOB


async def test_a_server_that_takes_no_data_is_a_timeout(big: Path) -> None:
    async def stalling(exchange: Exchange) -> None:
        await exchange.read_head()
        await asyncio.sleep(60)

    async with ScriptedServer(stalling) as server:
        async with client_on(server, **once(timeouts=hb.Timeouts(read=0.1))) as client:
            with pytest.raises(hb.RequestTimeout, match="took no data") as caught:
                await client.submit(hb.Submission(files=[big]))
        assert len(server.exchanges) == 1
    assert (caught.value.method, caught.value.path) == ("POST", "/v0/batch/jobs")


async def test_progress_that_fails_is_the_callers_own_error(big: Path) -> None:
    class Stop(Exception):
        pass

    def stop(_: int) -> None:
        raise Stop

    async with ScriptedServer(accepting) as server, client_on(server) as client:
        with pytest.raises(Stop):
            await client.submit(hb.Submission(files=[big]), progress=stop)
        assert client.stats.requests == 1


async def test_progress_that_fails_at_the_last_piece_leaves_a_submission_unknown(big: Path) -> None:
    class Stop(Exception):
        pass

    class Counting:
        left: int = 0

        def __call__(self, count: int) -> None:
            self.left -= count
            if not self.left:
                raise Stop("at the end")

    stop = Counting()
    async with ScriptedServer(accepting) as server, client_on(server) as client:
        await client.submit(hb.Submission(files=[big]))
        stop.left = len(server.exchanges[0].body)
        with pytest.raises(hb.SubmissionUnknown, match="at the end") as caught:
            await client.submit(hb.Submission(files=[big]), progress=stop)
        await server.quiet()
        assert len(server.exchanges[1].body) == len(server.exchanges[0].body)
    assert isinstance(caught.value.__cause__, Stop)
    assert caught.value.earlier == (caught.value.__cause__,)


# ── redirects and the key ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_an_answer_and_the_key_stays_here(status: int) -> None:
    async with ScriptedServer(detailing) as elsewhere:
        moved = answering(status, b"", f"Location: {elsewhere.url}/v0/batch/jobs/{JOB}")
        async with ScriptedServer(moved) as server, client_on(server) as client:
            for attempt in (client.details(JOB), client.submit(TEXT)):
                with pytest.raises(hb.ApiError) as caught:
                    await attempt
                assert caught.value.status == status
            assert len(server.exchanges) == 2
        assert elsewhere.exchanges == []


async def echoing(exchange: Exchange) -> None:
    """A gateway that shows the request in its refusal."""
    await exchange.read_all()
    await exchange.reply(401, b'{"message":"bad request: ' + exchange.headers["x-hume-api-key"].encode() + b'"}')


@pytest.mark.parametrize(
    "script",
    [
        echoing,
        answering(401, b'{"message":"no"}'),
        answering(429, b"", "Retry-After: 1"),
        answering(500, b"<html>"),
        answering(302, b"", "Location: http://127.0.0.1:1/"),
        answering(200, b"not json"),
        resetting,
        answering(200, b"{}", "Content-Encoding: gzip"),
    ],
)
async def test_the_key_is_in_no_log_error_or_counter(script: Script, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with ScriptedServer(script) as server, client_on(server, retry=hb.RetryPolicy(attempts=2)) as client:
        for attempt in (client.details(JOB), client.submit(TEXT)):
            with pytest.raises(hb.HumebatchError) as caught:
                await attempt
            error: BaseException | None = caught.value
            while error is not None:
                assert CANARY not in f"{error!r} {error} {vars(error)}"
                error = error.__cause__ or error.__context__
        assert CANARY not in f"{client!r} {client.stats!r}"
        assert server.exchanges[0].headers["x-hume-api-key"] == CANARY
    assert CANARY not in caplog.text
    assert all(CANARY not in str(vars(record)) for record in caplog.records)


async def test_no_key_no_header() -> None:
    async with ScriptedServer(detailing) as server, client_on(server, api_key=None) as client:
        await client.details(JOB)
    assert "x-hume-api-key" not in server.exchanges[0].headers


async def test_a_proxy_of_the_environment_is_not_given_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedServer(detailing) as proxy, ScriptedServer(detailing) as server:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        async with client_on(server) as client:
            await client.details(JOB)
        assert (len(server.exchanges), len(proxy.exchanges)) == (1, 0)


# ── reading is repeated ──────────────────────────────────────────────────────────────────────────


async def test_a_get_is_repeated_until_it_works() -> None:
    down = answering(503)
    async with ScriptedServer(down, down, detailing) as server, client_on(server) as client:
        details = await client.details(JOB)
        assert (client.stats.requests, client.stats.resends) == (3, 2)
        assert client.stats.bytes_received == len(DETAILS)
        first, second = sleeps_of(client)
    assert details.job_id == JOB
    assert 0 <= first < 1
    assert 0 <= second < 2
    assert len(server.exchanges) == 3


@pytest.mark.parametrize("status", [429, 503])
async def test_the_servers_wish_is_honoured(status: int) -> None:
    later = answering(status, b"", "Retry-After: 7")
    async with ScriptedServer(later, detailing) as server, client_on(server) as client:
        await client.details(JOB)
        (wait,) = sleeps_of(client)
    assert 7 <= wait < 9


async def test_a_wish_that_is_too_long_gets_no_further_try() -> None:
    async with ScriptedServer(answering(429, b"", "Retry-After: 901")) as server, client_on(server) as client:
        with pytest.raises(hb.RateLimited) as caught:
            await client.details(JOB)
        assert sleeps_of(client) == []
    assert caught.value.retry_after == 901
    assert len(server.exchanges) == 1


@pytest.mark.parametrize(("status", "kind"), [(429, hb.RateLimited), (503, hb.ServerError)])
async def test_during_a_long_pause_everything_fails_at_once_and_says_so(status: int, kind: type[hb.ApiError]) -> None:
    later = answering(status, b"", "Retry-After: 2000")
    async with ScriptedServer(later, detailing) as server, client_on(server) as client:
        with pytest.raises(kind) as first:
            await client.details(JOB)
        await client._open.clock.sleep(500)
        for left in (1500, 1000):
            with pytest.raises(kind, match=f"not sent.* {left} s") as caught:
                await client.details(JOB)
            assert (caught.value.status, caught.value.attempts) == (status, 0)
            assert caught.value.retry_after == pytest.approx(left)  # type: ignore[attr-defined]
            await client._open.clock.sleep(500)
        assert len(server.exchanges) == client.stats.requests == 1
        # What is left now is short enough to be waited for.
        assert (await client.details(JOB)).job_id == JOB
        assert sleeps_of(client)[-1] == pytest.approx(500)
    assert first.value.attempts == 1


async def test_a_pause_is_believed_for_an_hour() -> None:
    later = answering(429, b"", "Retry-After: 99999999")
    async with ScriptedServer(later, accepting) as server, client_on(server) as client:
        with pytest.raises(hb.RateLimited):
            await client.submit(TEXT)
        await client._open.clock.sleep(3600)
        assert (await client.submit(TEXT)).id == JOB


async def test_those_who_wait_already_learn_of_a_longer_pause() -> None:
    short = answering(429, b"", "Retry-After: 60")
    long = answering(429, b"", "Retry-After: 2000")
    async with ScriptedServer(short, long) as server, client_on(server, **once()) as client:
        with pytest.raises(hb.RateLimited):
            await client.details(JOB)
        errors = []

        async def look() -> None:
            try:
                await client.details(JOB)
            except hb.RateLimited as error:
                errors.append(error.attempts)

        await asyncio.gather(*(look() for _ in range(10)))
        assert len(server.exchanges) == 1 + errors.count(1) <= 11
        with pytest.raises(hb.RateLimited, match="not sent"):
            await client.details(JOB)


@pytest.mark.parametrize("reset", ["5.²", "٥", "1e5", "-3", "5.", "", "9" * 400])
async def test_an_answer_with_a_strange_header_is_an_answer(reset: str) -> None:
    strange = answering(200, ACCEPTED, "x-ratelimit-remaining: 0", f"x-ratelimit-reset: {reset}")
    async with ScriptedServer(strange) as server, client_on(server) as client:
        assert (await client.submit(TEXT)).id == JOB


async def test_what_one_restart_cuts_is_one_failure_more_or_less() -> None:
    """Sixteen looks that die together open the breaker, for its first pause."""
    inside: list[Exchange] = []

    async def restarting(exchange: Exchange) -> None:
        await exchange.read_all()
        inside.append(exchange)
        if len(inside) == 16:
            for one in inside:
                one.reset()
        await exchange.read_rest()

    async with ScriptedServer(*[restarting] * 16, detailing) as server, client_on(server, **once()) as client:
        lost = await asyncio.gather(*(client.details(JOB) for _ in range(16)), return_exceptions=True)
        assert all(isinstance(error, hb.TransportError) for error in lost)
        assert (await client.details(JOB)).job_id == JOB
        assert sleeps_of(client) == [5.0]


async def test_who_cannot_wait_is_told_at_once_that_the_server_fails() -> None:
    impatient = once(retry=hb.RetryPolicy(attempts=1, max_retry_after=3))
    async with ScriptedServer(*[answering(500)] * 10, detailing) as server, client_on(server, **impatient) as client:
        for _ in range(10):
            with pytest.raises(hb.ServerError):
                await client.details(JOB)
        with pytest.raises(hb.ConnectFailed, match="again in 5 s"):
            await client.details(JOB)
        assert sleeps_of(client) == []
        await client._open.clock.sleep(2)
        assert (await client.details(JOB)).job_id == JOB


async def test_who_cannot_wait_any_more_is_told_what_happened_before() -> None:
    patient_no_more = {"retry": hb.RetryPolicy(attempts=20, base=0.1, cap=0.1, max_retry_after=3)}
    async with ScriptedServer(answering(500)) as server, client_on(server, **patient_no_more) as client:
        with pytest.raises(hb.ConnectFailed, match="not sent") as caught:
            await client.details(JOB)
        assert len(server.exchanges) == 10
    assert caught.value.attempts == 10
    assert [type(error) for error in caught.value.earlier] == [hb.ServerError] * 10
    assert caught.value.__cause__ is caught.value.earlier[-1]


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
async def test_tries_are_bounded(status: int) -> None:
    async with ScriptedServer(answering(status)) as server, client_on(server) as client:
        with pytest.raises(hb.ApiError) as caught:
            await client.details(JOB)
        assert len(sleeps_of(client)) == 5
    assert (caught.value.status, caught.value.attempts) == (status, 6)
    assert len(server.exchanges) == 6


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 501, 507])
async def test_a_no_is_a_no(status: int) -> None:
    async with ScriptedServer(answering(status)) as server, client_on(server) as client:
        with pytest.raises(hb.ApiError):
            await client.details(JOB)
    assert len(server.exchanges) == 1


async def test_earlier_failures_are_kept_in_order() -> None:
    four = hb.RetryPolicy(attempts=4)
    scripts = (answering(503), resetting, answering(429), resetting)
    async with ScriptedServer(*scripts) as server, client_on(server, retry=four) as client:
        with pytest.raises(hb.TransportError) as caught:
            await client.details(JOB)
    assert [type(error) for error in caught.value.earlier] == [hb.ServerError, hb.TransportError, hb.RateLimited]
    assert caught.value.attempts == 4
    assert (caught.value.method, caught.value.path) == ("GET", f"/v0/batch/jobs/{JOB}")


async def test_no_answer_is_a_timeout() -> None:
    async with (
        ScriptedServer(silent) as server,
        client_on(server, **once(timeouts=hb.Timeouts(read=0.05))) as client,
    ):
        with pytest.raises(hb.RequestTimeout) as caught:
            await client.details(JOB)
    assert isinstance(caught.value, TimeoutError)


async def half_a_body(exchange: Exchange) -> None:
    await exchange.read_all()
    await exchange.reply(200, ACCEPTED, length=len(ACCEPTED) + 5)


async def half_a_head(exchange: Exchange) -> None:
    await exchange.read_all()
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Le")


async def no_http(exchange: Exchange) -> None:
    await exchange.read_all()
    await exchange.send(b"SSH-2.0-OpenSSH_9.9\r\n")


async def long_head(exchange: Exchange) -> None:
    await exchange.read_all()
    await exchange.reply(200, DETAILS, "X: " + "y" * 1_000_000)


async def bad_chunks(exchange: Exchange) -> None:
    await exchange.read_all()
    await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n")


ODD = [resetting, half_a_body, half_a_head, no_http, long_head, bad_chunks,
       answering(200, b"no gzip at all", "Content-Encoding: gzip"),
       answering(200, b"no deflate", "Content-Encoding: deflate")]  # fmt: skip


@pytest.mark.parametrize("script", ODD)
async def test_an_answer_that_is_no_answer(script: Script) -> None:
    async with ScriptedServer(script) as server, client_on(server, retry=hb.RetryPolicy(attempts=3)) as client:
        with pytest.raises(hb.TransportError) as caught:
            await client.details(JOB)
        assert type(caught.value) is hb.TransportError
        assert caught.value.attempts == 3
        assert caught.value.__cause__ is not None


@pytest.mark.parametrize("script", [*ODD, answering(500), answering(503), answering(504), answering(408)])
async def test_a_submission_sent_whole_is_never_sent_again(script: Script, tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).write_bytes(b"RIFF")
    async with ScriptedServer(script, accepting) as server, client_on(server) as client:
        with pytest.raises(hb.SubmissionUnknown) as caught:
            await client.submit(hb.Submission(files=[tmp_path / "a.wav", tmp_path / "b.wav"]))
        assert sleeps_of(client) == []
    assert len(server.exchanges) == 1
    assert caught.value.filenames == ("a.wav", "b.wav")
    assert caught.value.since > 1_500_000_000
    assert len(caught.value.earlier) == 1
    assert caught.value.attempts == 1


async def test_a_submission_whose_answer_trickles_is_unknown() -> None:
    async def trickling(exchange: Exchange) -> None:
        await exchange.read_all()
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(500):
                await exchange.send(b" ")  # each piece well within the time between two pieces
                await asyncio.sleep(0.01)

    async with ScriptedServer(trickling) as server, client_on(server, timeouts=hb.Timeouts(answer=0.2)) as client:
        with pytest.raises(hb.SubmissionUnknown, match="did not answer in time"):
            await client.submit(TEXT)
        assert client.stats.requests == 1


async def test_a_submission_whose_answer_does_not_come_is_never_sent_again() -> None:
    async with ScriptedServer(silent, accepting) as server:
        async with client_on(server, timeouts=hb.Timeouts(answer=0.05)) as client:
            with pytest.raises(hb.SubmissionUnknown) as caught:
                await client.submit(TEXT)
        assert len(server.exchanges) == 1
    assert isinstance(caught.value.earlier[0], hb.RequestTimeout)


@pytest.mark.parametrize("body", [b"", b"{", b'{"job_id":', b'{"job_id":5}', b'{"job_id":"../x"}', b"<html>"])
async def test_an_accepted_submission_with_an_unreadable_id(body: bytes) -> None:
    async with ScriptedServer(answering(200, body), accepting) as server, client_on(server) as client:
        with pytest.raises(hb.SubmissionUnknown):
            await client.submit(TEXT)
    assert len(server.exchanges) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 507])
async def test_a_refused_submission_is_refused(status: int) -> None:
    async with ScriptedServer(answering(status, b'{"message":"no"}'), accepting) as server, client_on(server) as client:
        with pytest.raises(hb.ApiError) as caught:
            await client.submit(TEXT)
    assert caught.value.status == status
    assert len(server.exchanges) == 1


async def test_a_submission_is_sent_again_after_a_429() -> None:
    later = answering(429, b"", "Retry-After: 2")
    async with ScriptedServer(later, later, accepting) as server, client_on(server) as client:
        assert (await client.submit(TEXT)).id == JOB
        assert all(wait >= 2 for wait in sleeps_of(client))
        assert (client.stats.requests, client.stats.resends, client.stats.rate_limited) == (3, 2, 2)
    assert len({exchange.body for exchange in server.exchanges}) == 1


async def test_a_submission_that_finds_nobody_is_tried_and_given_up() -> None:
    async with closed_port() as url, client_on(url) as client:
        with pytest.raises(hb.ConnectFailed) as caught:
            await client.submit(TEXT)
        assert len(sleeps_of(client)) == 5
    assert caught.value.attempts == 6
    assert [type(error) for error in caught.value.earlier] == [hb.ConnectFailed] * 5
    assert url in str(caught.value)


async def test_a_submission_cut_in_the_middle_is_sent_again_and_progress_goes_back(big: Path) -> None:
    async def cutting(exchange: Exchange) -> None:
        await exchange.read_head()
        await exchange.read_body(1_000_000)
        exchange.reset()

    told: list[int] = []
    async with ScriptedServer(cutting, cutting, accepting) as server, client_on(server) as client:
        await client.submit(hb.Submission(files=[big]), progress=told.append)
        length = int(server.exchanges[2].headers["content-length"])
        assert sum(told) == length == len(server.exchanges[2].body)
        assert len([count for count in told if count < 0]) == 2
        assert client.stats.bytes_sent == sum(count for count in told if count > 0)
    assert len(server.exchanges) == 3
    assert len({exchange.headers["content-length"] for exchange in server.exchanges}) == 1


def keeping(*headers: str) -> Script:
    """Accept one submission after the other on the same connection."""

    async def script(exchange: Exchange) -> None:
        while True:
            await exchange.read_all()
            lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(ACCEPTED)}", *headers]
            await exchange.send("\r\n".join(lines).encode() + b"\r\n\r\n" + ACCEPTED)

    return script


@pytest.mark.parametrize(
    ("promise", "connections"),
    [
        ((), 4),
        (("Keep-Alive: timeout=5",), 2),
        (("Keep-Alive: max=100, Timeout=60",), 2),
        (("Keep-Alive: timeout=2",), 4),
        (("Keep-Alive: timeout=²",), 4),
        (("Keep-Alive: timeout",), 4),
    ],
)
async def test_a_submission_has_a_connection_of_its_own_unless_the_server_promised_to_keep_them(
    promise: tuple[str, ...], connections: int
) -> None:
    async with ScriptedServer(keeping(*promise)) as server, client_on(server) as client:
        for _ in range(4):
            await client.submit(TEXT)
        assert len(server.exchanges) == connections


async def test_a_connection_that_idled_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("humebatch._transport.http._KEPT_FOR_SUBMISSIONS", 0.0)
    async with ScriptedServer(keeping("Keep-Alive: timeout=5")) as server, client_on(server) as client:
        for _ in range(4):
            await client.submit(TEXT)
        assert len(server.exchanges) == 4


async def test_a_server_that_breaks_its_promise_is_not_believed_again() -> None:
    async def breaking(exchange: Exchange) -> None:
        await exchange.read_all()
        lines = f"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nContent-Length: {len(ACCEPTED)}\r\n\r\n"
        await exchange.send(lines.encode() + ACCEPTED)
        await exchange.read_all()
        exchange.reset()

    outcomes = []
    async with ScriptedServer(breaking) as server, client_on(server) as client:
        for _ in range(8):
            try:
                outcomes.append((await client.submit(TEXT)).id)
            except hb.SubmissionUnknown:
                outcomes.append("unknown")
        assert outcomes.count("unknown") == 1
        assert len(server.exchanges) == 7


async def test_a_server_behind_a_balancer_that_promises_nothing_takes_the_promise_back() -> None:
    promising = keeping("Keep-Alive: timeout=5")
    async with ScriptedServer(promising, keeping(), promising) as server, client_on(server) as client:
        for _ in range(5):
            await client.submit(TEXT)
        assert len(server.exchanges) == 5


async def test_the_real_server_keeps_its_connections(server: RunningServer) -> None:
    ports: set[int] = set()

    async def through(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ports.add(writer.get_extra_info("peername")[1])
        host, _, port = server.base_url.removeprefix("http://").partition(":")
        onward, back = await asyncio.open_connection(host, int(port))

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(2**16):
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, back), pump(onward, writer))

    relay = await asyncio.start_server(through, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{relay.sockets[0].getsockname()[1]}"
    try:
        async with client_on(url, api_key=server.api_key) as client:
            for _ in range(6):
                await client.submit(TEXT)
    finally:
        relay.close()
        await relay.wait_closed()
    assert len(ports) == 2


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80) | st.binary(max_size=60).map(b"HTTP/1.1 200 OK\r\n".__add__))
async def test_whatever_comes_back_is_an_error_of_ours(data: bytes) -> None:
    async def babbling(exchange: Exchange) -> None:
        await exchange.read_all()
        await exchange.send(data)

    async with ScriptedServer(babbling) as server, client_on(server, **once()) as client:
        for attempt, expected in (
            (client.details(JOB), (hb.TransportError, hb.DecodeError, hb.ApiError)),
            (client.submit(TEXT), (hb.SubmissionUnknown, hb.DecodeError, hb.ApiError)),
        ):
            with pytest.raises(expected):
                await attempt


@pytest.mark.parametrize("cut", [*range(0, 180, 9)])
async def test_an_answer_cut_anywhere_is_never_taken_for_a_whole_one(cut: int) -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(DETAILS) + DETAILS

    async def cutting(exchange: Exchange) -> None:
        await exchange.read_all()
        await exchange.send(whole[:cut])

    async with ScriptedServer(cutting, detailing) as server, client_on(server) as client:
        assert (await client.details(JOB)).job_id == JOB
        assert client.stats.resends == 1


async def test_a_name_that_does_not_resolve_is_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async with client_on("http://no-such-host.invalid", **once()) as client:
        with pytest.raises(hb.ConnectFailed):
            await client.details(JOB)


async def test_a_server_that_does_not_speak_tls_is_no_connection() -> None:
    async def banner(exchange: Exchange) -> None:
        await exchange.send(b"220 smtp.example ESMTP\r\n")

    async with ScriptedServer(banner) as server, client_on(server.url.replace("http:", "https:"), **once()) as client:
        with pytest.raises(hb.ConnectFailed):
            await client.details(JOB)


async def test_a_certificate_that_is_not_trusted_is_not_tried_again(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    made = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
        *("-keyout", key, "-out", certificate),
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await made.wait() == 0
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    await asyncio.to_thread(context.load_cert_chain, certificate, key)
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with client_on(url) as client:
            for attempt in (client.submit(TEXT), client.details(JOB)):
                with pytest.raises(hb.ConnectFailed, match="ertificate") as caught:
                    await attempt
                assert caught.value.attempts == 1
            assert client.stats.requests == 2
            assert sleeps_of(client) == []


async def test_a_handshake_that_does_not_come_is_no_connection() -> None:
    async def mute(exchange: Exchange) -> None:
        await exchange.read_rest()

    impatient = once(timeouts=hb.Timeouts(connect=0.1))
    async with ScriptedServer(mute) as server, client_on(server.url.replace("http:", "https:"), **impatient) as client:
        with pytest.raises(hb.ConnectFailed):
            await client.submit(TEXT)


@pytest.mark.parametrize("prefix", ["", "/prefix", "/a/b/"])
async def test_a_prefix_of_the_base_url_is_kept(prefix: str) -> None:
    async with ScriptedServer(detailing) as server, client_on(server.url + prefix) as client:
        await client.details(JOB)
        assert server.lines == [f"GET {prefix.rstrip('/')}/v0/batch/jobs/{JOB} HTTP/1.1"]
