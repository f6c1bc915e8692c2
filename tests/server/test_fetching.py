"""URLs of submissions: what arrives of them, what is refused, and what is said of it. Over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import io
import json
import logging
import socket
import ssl
import tracemalloc
import wave
import zipfile
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

import humebatch as hb
from humebatch._wire.artifact_csv import source_folder
from humebatch.predictions import Source
from humebatch.server import FetchLimits, RunnerLimits, create_app, serve
from humebatch.server.fetching import fetch, file_name
from humebatch.server.guard import Guard
from humebatch.server.measure import Media, Unmeasurable
from humebatch.testing import running_server
from tests.server.process import served
from tests.server.raw import eventually, request, talk
from tests.server.tls import certificate

pytestmark = pytest.mark.anyio

LOOPBACK = Guard(["127.0.0.0/8", "::1"], option="fetch_allow")
LIMITS = FetchLimits(waits=(0.0, 0.0))
LANGUAGE = hb.Models(language=hb.Language(granularity="conversational_turn"))
POLL = hb.PollPolicy(first=0.02, cap=0.1)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Site:
    """A web server on this machine. Every path is answered by `answer`; `asked` lists what was asked for."""

    def __init__(self, answer: Handler) -> None:
        self.answer = answer
        self.asked: list[web.Request] = []
        self.url = ""

    async def handle(self, asked: web.Request) -> web.StreamResponse:
        self.asked.append(asked)
        return await self.answer(asked)


@contextlib.asynccontextmanager
async def site(answer: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
    made = Site(answer)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield made
    finally:
        await runner.cleanup()


def body(data: bytes, status: int = 200, **headers: str) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(
            body=data, status=status, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    return answer


def in_turn(*answers: Handler) -> Handler:
    """The first request gets the first answer; the last one answers all that follow."""
    left = list(answers)

    async def answer(asked: web.Request) -> web.StreamResponse:
        return await (left.pop(0) if len(left) > 1 else left[0])(asked)

    return answer


def redirect(to: str, status: int = 302) -> Handler:
    return body(b"moved", status, Location=to)


async def cut(asked: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(asked)
    await response.write(b"only this")
    assert asked.transport is not None
    asked.transport.close()
    return response


async def drop(asked: web.Request) -> web.StreamResponse:
    assert asked.transport is not None
    asked.transport.close()
    return web.Response()


async def silent(asked: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(asked)
    await response.write(b"a beginning")
    await anyio.sleep(60)
    return response


async def dripping(asked: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(asked)
    for _ in range(1000):
        await response.write(b".")
        await anyio.sleep(0.01)
    return response


async def fetched(url: str, folder: Path, limits: FetchLimits = LIMITS) -> Media:
    """Fetch `url` to `folder/got`, from this machine."""
    return await fetch(url, folder / "got", guard=LOOPBACK, limits=limits)


async def failure(url: str, folder: Path, guard: Guard = LOOPBACK, limits: FetchLimits = LIMITS) -> str:
    """Why `url` is not fetched. Nothing may be left of it."""
    with pytest.raises(Unmeasurable) as refused:
        await fetch(url, folder / "got", guard=guard, limits=limits)
    assert list(folder.iterdir()) == []
    return str(refused.value)


# ---- what arrives ---------------------------------------------------------------------------------


async def test_a_file_arrives_with_name_type_and_md5(tmp_path: Path, stray_exceptions: object) -> None:
    data = bytes(range(256)) * 20_000
    async with site(body(data, Content_Type="audio/x-wav")) as there:
        found = await fetched(f"{there.url}/a/my%20talk.wav?sig=1%2F2#end", tmp_path)
        (asked,) = there.asked
    assert found == Media(str(tmp_path / "got"), "my talk.wav", "unknown", hashlib.md5(data).hexdigest())
    assert (tmp_path / "got").read_bytes() == data
    assert (tmp_path / "got").stat().st_mode & 0o077 == 0
    assert asked.raw_path == "/a/my%20talk.wav?sig=1%2F2"
    assert "Cookie" not in asked.headers and "Authorization" not in asked.headers


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(b"Hello. " * 1000)),
        ("x-gzip", gzip.compress(b"Hello. " * 500) + gzip.compress(b"Hello. " * 500)),
        ("GZIP", gzip.compress(b"Hello. " * 1000) + b"\0" * 512),
        ("deflate", zlib.compress(b"Hello. " * 1000)),
        ("deflate", zlib.compress(b"Hello. " * 1000, wbits=-15)),
        ("identity", b"Hello. " * 1000),
    ],
)
async def test_compressed_content_is_undone(tmp_path: Path, encoding: str, packed: bytes) -> None:
    async with site(body(packed, Content_Encoding=encoding)) as there:
        found = await fetched(f"{there.url}/a.txt", tmp_path)
    assert (tmp_path / "got").read_bytes() == b"Hello. " * 1000
    assert found.md5sum == hashlib.md5(b"Hello. " * 1000).hexdigest()


async def test_content_that_expands_to_exactly_what_is_written_at_once(tmp_path: Path) -> None:
    for size in (2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20):
        async with site(body(gzip.compress(b"\0" * size), Content_Encoding="gzip")) as there:
            await fetched(there.url, tmp_path)
        assert (tmp_path / "got").stat().st_size == size


async def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    async def large(asked: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(asked)
        for _ in range(64):
            await response.write(b"x" * 2**20)
        return response

    async with site(large) as there:
        tracemalloc.start()
        try:
            await fetched(there.url, tmp_path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert (tmp_path / "got").stat().st_size == 64 * 2**20
    assert peak < 16 * 2**20


# ---- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("disposition", "names", "kind", "name"),
    [
        ("", ["talk.mp4"], "", "talk.mp4"),
        ('attachment; filename="a talk; really.mp4"', ["x"], "", "a talk; really.mp4"),
        ("inline; filename=talk.mp4; size=3", ["x"], "", "talk.mp4"),
        ("attachment; filename=\"x\"; filename*=UTF-8''r%C3%A9sum%C3%A9.txt", ["x"], "", "résumé.txt"),
        ("attachment; filename=\"x.txt\"; filename*=UTF-16''%00a", ["x"], "", "x.txt"),
        ('attachment; filename="../../etc/passwd.txt"', ["x"], "", "passwd.txt"),
        ('attachment; filename="C:\\\\temp\\\\a.wav"', ["x"], "", "a.wav"),
        ("attachment; filename*=UTF-8''..%2F..%2Fa%00b%0d%0ac.wav", ["x"], "", "a_b__c.wav"),
        ("attachment; filename*=UTF-8''gpj%E2%80%AEexe.txt", ["x"], "", "gpj_exe.txt"),
        ('attachment; filename=".."', ["talk.wav"], "", "talk.wav"),
        ('attachment; filename=""', ["talk.wav"], "", "talk.wav"),
        ('attachment; filename="unclosed', ["talk.wav"], "", "talk.wav"),
        ("", ["../a/b.wav"], "", "b.wav"),
        ("", ["", ""], "", "download"),
        ("", ["7f3a", "talk.wav"], "", "talk.wav"),
        ("", ["final.wav", "short.wav"], "", "final.wav"),
        ("", ["mesh"], "application/json; charset=utf-8", "mesh.json"),
        ("", ["blob"], "application/octet-stream", "blob"),
        ("", ["blob"], "no/such type", "blob"),
    ],
)
def test_the_name_of_a_file(disposition: str, names: list[str], kind: str, name: str) -> None:
    assert file_name(disposition, names, kind) == name


@given(
    st.one_of(
        st.text().map('attachment; filename="{}"'.format),
        st.text().map("attachment; filename*=UTF-8''{}".format),
        st.text(),
    ),
    st.lists(st.text(), min_size=2, max_size=2),
    st.text(),
)
def test_whatever_it_is_called_it_leads_into_no_folder(disposition: str, names: list[str], kind: str) -> None:
    name = file_name(disposition, names, kind)
    assert name and name.isprintable() and len(name) < 200
    assert not set("/\\") & set(name) and not name.startswith(".")
    name.encode()


async def test_the_name_comes_from_where_the_redirects_end(tmp_path: Path) -> None:
    async with site(in_turn(redirect("/files/talk.wav"), body(b"x"))) as there:
        assert (await fetched(f"{there.url}/s/7f3a", tmp_path)).name == "talk.wav"
    async with site(body(b"x", Content_Disposition='attachment; filename="told.wav"')) as there:
        assert (await fetched(f"{there.url}/s.mp4", tmp_path)).name == "told.wav"


# ---- redirects and addresses ----------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(tmp_path: Path, status: int) -> None:
    async with site(in_turn(redirect("../b?x=%2F", status), redirect("c", status), body(b"there"))) as there:
        await fetched(f"{there.url}/a/d", tmp_path)
        assert [asked.raw_path for asked in there.asked] == ["/a/d", "/b?x=%2F", "/c"]
    assert (tmp_path / "got").read_bytes() == b"there"


async def test_redirects_in_a_circle_end(tmp_path: Path) -> None:
    async with site(redirect("/again")) as there:
        assert "more than 5 redirects" in await failure(there.url, tmp_path)
        assert len(there.asked) == 6


async def test_a_redirect_to_a_private_address_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By name the first server may be fetched from; the second stands at the same, private, address."""
    guard = Guard(["localhost"], option="fetch_allow")
    async with site(body(b"secret")) as inside:
        for to in (inside.url, inside.url.replace("127.0.0.1", "2130706433"), "http://169.254.169.254/latest?key=1"):
            async with site(redirect(f"{to}/meta-data?token=hidden")) as there:
                sentence = await failure(there.url.replace("127.0.0.1", "localhost"), tmp_path, guard)
            assert "has no public address" in sentence
            assert "--fetch-allow" in sentence
            assert "hidden" not in sentence
        assert inside.asked == []
    assert "--fetch-allow 127.0.0.1 would permit it" in caplog.text
    assert "hidden" not in caplog.text


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/a", "gopher://x", "http://[", "http://h:99999/"])
async def test_a_redirect_to_no_web_address_is_refused(tmp_path: Path, to: str) -> None:
    async with site(redirect(to)) as there:
        assert "redirects to something that is not an http or https URL" in await failure(there.url, tmp_path)


async def test_a_private_address_is_not_even_connected_to(tmp_path: Path) -> None:
    async with site(body(b"secret")) as inside:
        for host in ("127.0.0.1", "localhost", "2130706433", "127.1", "[::ffff:127.0.0.1]"):
            sentence = await failure(inside.url.replace("127.0.0.1", host), tmp_path, Guard(option="fetch_allow"))
            assert "has no public address" in sentence
        assert inside.asked == []


async def test_callers_are_not_told_what_a_private_name_resolves_to(tmp_path: Path) -> None:
    async def resolve(_host: str, _port: int) -> list[str]:
        return ["10.11.12.13"]

    sentence = await failure("http://intranet.test/x", tmp_path, Guard(resolve=resolve, option="fetch_allow"))
    assert "intranet.test" in sentence
    assert "10.11" not in sentence


async def test_the_address_that_was_looked_at_is_the_one_that_is_used(tmp_path: Path) -> None:
    answers = [["127.0.0.1"], ["10.0.0.1"]]

    async def resolve(_host: str, _port: int) -> list[str]:
        return answers.pop(0)

    async with site(in_turn(redirect("/again"), body(b"secret"))) as there:
        guard = Guard(["127.0.0.1"], resolve=resolve, option="fetch_allow")
        url = there.url.replace("127.0.0.1", "rebinding.test")
        assert "rebinding.test has no public address" in await failure(url, tmp_path, guard)
        assert [asked.host for asked in there.asked] == [url.removeprefix("http://")]


async def test_passwords_of_a_url_go_to_its_own_host_only(tmp_path: Path) -> None:
    async with site(body(b"x")) as other:
        to = other.url.replace("127.0.0.1", "localhost")
        async with site(in_turn(redirect("/next"), redirect(to))) as there:
            url = there.url.replace("://", "://me:hush@")
            await fetched(url, tmp_path)
            assert ["Authorization" in asked.headers for asked in (*there.asked, *other.asked)] == [True, True, False]


# ---- limits ---------------------------------------------------------------------------------------


async def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    limits = msgspec.structs.replace(LIMITS, file_bytes=1000)
    async with site(body(b"x" * 1000)) as there:
        assert (await fetched(there.url, tmp_path, limits)).md5sum == hashlib.md5(b"x" * 1000).hexdigest()
        (tmp_path / "got").unlink()
    async with site(body(b"x" * 1001)) as there:
        assert "larger than the 1000 bytes" in await failure(there.url, tmp_path, limits=limits)
        assert len(there.asked) == 1

    async def unannounced(asked: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(asked)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b"x" * 100_000)
        return response

    async with site(unannounced) as there:
        assert "larger than the 1000 bytes" in await failure(there.url, tmp_path, limits=limits)


async def test_a_bomb_is_counted_by_what_it_expands_to(tmp_path: Path) -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    limits = msgspec.structs.replace(LIMITS, file_bytes=1_000_000)
    assert len(bomb) < 100_000
    async with site(body(bomb, Content_Encoding="gzip")) as there:
        tracemalloc.start()
        try:
            assert "larger than the 1000000 bytes" in await failure(there.url, tmp_path, limits=limits)
            assert tracemalloc.get_traced_memory()[1] < 10_000_000
        finally:
            tracemalloc.stop()


async def test_a_server_that_pauses(tmp_path: Path) -> None:
    limits = FetchLimits(stall=0.1, waits=())
    async with site(silent) as there:
        assert "sent nothing for 0.1 s" in await failure(there.url, tmp_path, limits=limits)

    async def never(_: web.Request) -> web.StreamResponse:
        await anyio.sleep(60)
        return web.Response()

    async with site(never) as there:
        assert "sent nothing for 0.1 s" in await failure(there.url, tmp_path, limits=limits)


async def test_a_server_that_is_slow_without_a_pause(tmp_path: Path) -> None:
    async with site(dripping) as there:
        sentence = await failure(there.url, tmp_path, limits=FetchLimits(total=0.3))
        assert "not fetched within 0.3 s" in sentence
        assert len(there.asked) == 1


async def test_the_urls_of_a_job_share_a_time_limit() -> None:
    async with (
        site(dripping) as there,
        running_server(fetch=True, fetch_allow=["127.0.0.1"], running=RunnerLimits(fetch_seconds=0.3)) as server,
        hb.BatchClient(base_url=server.base_url, api_key=server.api_key, poll=POLL) as client,
    ):
        urls = [f"{there.url}/{number}.txt" for number in range(50)]
        job = await client.submit(hb.Submission(urls=urls, text=["Hello."], models=LANGUAGE))
        await job.wait(timeout=60)
        *sources, text = await job.predictions()
    assert len(sources) == 50
    assert all("took longer than 0.3 s together" in str(source.error) for source in sources)
    assert len(there.asked) < 50
    assert text.results is not None
    assert text.results.errors == []


async def test_cancellation_leaves_nothing(tmp_path: Path, stray_exceptions: object) -> None:
    async with site(silent) as there:
        task = asyncio.create_task(fetched(there.url, tmp_path))
        with anyio.fail_after(10):
            while not there.asked:
                await anyio.sleep(0.01)
        await anyio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert list(tmp_path.iterdir()) == []


# ---- servers in trouble ---------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [body(b"", 503), body(b"busy", 500), body(b"", 429), cut, drop])
async def test_what_passes_is_tried_again(tmp_path: Path, trouble: Handler) -> None:
    async with site(in_turn(trouble, trouble, body(b"at last"))) as there:
        found = await fetched(there.url, tmp_path)
        assert len(there.asked) == 3
    assert (tmp_path / "got").read_bytes() == b"at last"
    assert found.md5sum == hashlib.md5(b"at last").hexdigest()


async def test_what_does_not_pass_is_tried_three_times(tmp_path: Path) -> None:
    for trouble, words in (
        (body(b"", 503), "answered 503 (Service Unavailable) (3 tries)"),
        (cut, "content ends too early (3 tries)"),
        (body(gzip.compress(b"Hello." * 100)[:-20], Content_Encoding="gzip"), "content ends too early (3 tries)"),
    ):
        async with site(trouble) as there:
            assert words in await failure(there.url, tmp_path)
            assert len(there.asked) == 3
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    assert "no connection to its server" in await failure(f"http://127.0.0.1:{port}/", tmp_path)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (body(b"not here", 404), "answered 404 (Not Found)"),
        (body(b"", 403), "answered 403 (Forbidden)"),
        (body(b"", 451), "answered 451"),
        (body(b"", 304), "answered 304 (Not Modified)"),
        (body(b"x", 302), "answered 302"),
        (body(b""), "the file is empty"),
        (body(b"", 204), "the file is empty"),
        (body(gzip.compress(b""), Content_Encoding="gzip"), "the file is empty"),
        (body(b"no gzip at all", Content_Encoding="gzip"), "compressed content is damaged"),
        (body(b"x", Content_Encoding="br"), "Content-Encoding 'br' is not supported"),
        (body(b"x", Content_Encoding="gzip, gzip"), "is not supported"),
    ],
)
async def test_what_is_final_is_asked_for_once(tmp_path: Path, answer: Handler, words: str) -> None:
    async with site(answer) as there:
        sentence = await failure(f"{there.url}/a/b.mp4?sig=hidden", tmp_path)
        assert words in sentence
        assert sentence.startswith(f"{there.url}/a/b.mp4: ")
        assert "hidden" not in sentence
        assert len(there.asked) == 1


async def test_what_is_no_http(tmp_path: Path) -> None:
    async def noise(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"\0\1\2 this is no HTTP\r\n\r\n")
        writer.close()

    listening = await asyncio.start_server(noise, "127.0.0.1", 0)
    async with listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/?sig=hidden"
        assert "not valid HTTP" in await failure(url, tmp_path)
        sentence = await failure(url.replace("http:", "https:"), tmp_path)
        assert "TLS" in sentence and "hidden" not in sentence


@pytest.mark.parametrize("url", ["ftp://x/a", "http://[::1", "http://h:99999/", "file:///etc/passwd", "", "x"])
async def test_urls_that_cannot_be_used(tmp_path: Path, url: str) -> None:
    assert "not an http or https URL" in await failure(url, tmp_path)


async def test_a_name_that_is_not_known(tmp_path: Path) -> None:
    assert "name of its server is not known" in await failure("http://nowhere.example/", tmp_path)

    async def later(_host: str, _port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    assert "for now (3 tries)" in await failure("http://nowhere.example/", tmp_path, Guard(resolve=later))


async def test_a_host_name_that_is_none(tmp_path: Path) -> None:
    assert "host name" in await failure(f"http://{'a' * 70}.example/", tmp_path)


# ---- the whole server -----------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def service(limits: FetchLimits = LIMITS) -> AsyncIterator[hb.BatchClient]:
    async with (
        running_server(fetching=limits) as server,
        hb.BatchClient(base_url=server.base_url, api_key=server.api_key, poll=POLL) as client,
    ):
        yield client


async def measured(
    client: hb.BatchClient, *urls: str, models: hb.Models = LANGUAGE
) -> list[hb.predictions.SourceResult]:
    job = await client.submit(hb.Submission(urls=urls, models=models))
    details = await job.wait(timeout=60)
    assert details.request.urls == list(urls)
    return await job.predictions()


def zipped(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("_", "."), data)
    return out.getvalue()


def recording() -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16_000))
    return out.getvalue()


async def test_a_url_is_measured_like_an_upload(stray_exceptions: object, tmp_path: Path) -> None:
    async with service() as client, site(body(b"Hello there.", Content_Type="text/plain")) as there:
        (found,) = await measured(client, f"{there.url}/hello.txt?sig=1")
        (tmp_path / "hello.txt").write_bytes(b"Hello there.")
        job = await client.submit(hb.Submission(files=[tmp_path / "hello.txt"], models=LANGUAGE))
        await job.wait(timeout=60)
        (uploaded,) = await job.predictions()
    assert found.source == Source(type="url", url=f"{there.url}/hello.txt?sig=1")
    assert found.results is not None
    assert found.results == uploaded.results
    assert found.error is None
    assert source_folder(0, found.source) == "url-0-hello.txt_sig=1"


async def test_an_archive_is_opened(stray_exceptions: object) -> None:
    data = zipped(a_txt=b"One.", b_txt=b"Two.")
    async with service() as client:
        for answer, path in (
            (body(data), "/texts.zip"),
            (body(data, Content_Type="application/zip"), "/get"),
            (body(data, Content_Disposition='attachment; filename="t.zip"'), "/get.php"),
        ):
            async with site(answer) as there:
                (found,) = await measured(client, there.url + path)
            assert found.results is not None
            assert [one.file for one in found.results.predictions] == ["a.txt", "b.txt"]


async def test_a_url_that_fails_has_its_error_beside_empty_results(stray_exceptions: object) -> None:
    """Public programs index `results` without looking; as JSON, for that is what they see."""

    async def answer(asked: web.Request) -> web.Response:
        return web.Response(text="Fine.") if asked.path == "/fine.txt" else web.Response(status=404)

    async with service() as client, site(answer) as there:
        job = await client.submit(
            hb.Submission(urls=[f"{there.url}/gone.mp4", f"{there.url}/fine.txt"], text=["Hello."], models=LANGUAGE)
        )
        details = await job.wait(timeout=60)
        raw = json.loads(msgspec.json.encode(await job.predictions()))
    gone, fine, text = raw
    assert gone["results"] == {"predictions": [], "errors": []}
    assert gone["error"] == f"{there.url}/gone.mp4: its server answered 404 (Not Found)"
    assert [one["file"] for one in fine["results"]["predictions"]] == ["fine.txt"]
    assert fine["error"] is None
    assert text["source"] == {"type": "text"}
    assert (details.state.num_predictions, details.state.num_errors) == (2, 1)


async def test_an_archive_that_is_damaged_is_an_error_of_its_file(stray_exceptions: object) -> None:
    async with service() as client, site(body(b"PK\3\4 and no more")) as there:
        (found,) = await measured(client, f"{there.url}/a.zip")
    assert found.error is None
    assert found.results is not None
    (error,) = found.results.errors
    assert error.file == "a.zip"


async def test_the_shape_of_an_answer_is_the_one_that_the_sdk_reads(stray_exceptions: object) -> None:
    """The keys that the vendor's SDK requires of a source of type `url`, whether it was measured or not."""
    models = hb.Models(prosody=hb.Prosody(), burst=hb.Burst())
    async with (
        running_server(fetching=LIMITS) as server,
        hb.BatchClient(base_url=server.base_url, api_key=server.api_key, poll=POLL) as client,
        site(in_turn(body(recording(), Content_Type="audio/wav"), body(b"", 404))) as there,
    ):
        job = await client.submit(hb.Submission(urls=[f"{there.url}/a.wav", f"{there.url}/b.wav"], models=models))
        await job.wait(timeout=60)
        reply = await talk(server, request(f"/v0/batch/jobs/{job.id}/predictions"))
    for source in reply.json:
        assert set(source) >= {"source", "results", "error"}
        assert set(source["source"]) == {"type", "url"}
        assert source["source"]["type"] == "url"
        assert set(source["results"]) == {"predictions", "errors"}
    (prediction,) = reply.json[0]["results"]["predictions"]
    assert prediction["file"] == "a.wav"
    assert prediction["file_type"] == "audio"
    assert set(prediction["models"]) == {"prosody", "burst"}


async def test_nothing_fetched_stays_on_disk(stray_exceptions: object) -> None:
    async with (
        running_server(fetching=LIMITS) as server,
        hb.BatchClient(base_url=server.base_url, api_key=server.api_key, poll=POLL) as client,
        site(body(b"Hello.")) as there,
    ):
        await measured(client, f"{there.url}/a.txt", f"{there.url}/b.txt")
        await eventually(lambda: not list(server.data.glob("jobs/*/input")))


# ---- who may fetch --------------------------------------------------------------------------------


async def test_where_it_is_switched_off_a_submission_is_refused() -> None:
    async with running_server(fetch=False) as server:
        reply = await talk(server, request(body=b'{"urls": ["https://x.example/a.wav"]}'))
        assert (reply.status, reply.json["field"]) == (400, "urls")
        assert "upload the files" in reply.json["message"]
        assert "--fetch" in reply.json["message"]
        for empty in (b'{"urls": [], "text": ["a"]}', b'{"urls": null, "text": ["a"]}'):
            assert (await talk(server, request(body=empty))).status == 200


async def test_it_is_off_unless_an_application_asks_for_it(tmp_path: Path) -> None:
    runner = web.AppRunner(create_app(tmp_path, api_keys=["k"], measure="fixed"), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        async with hb.BatchClient(base_url=f"http://127.0.0.1:{port}", api_key="k") as client:
            with pytest.raises(hb.InvalidRequest, match="urls: this server does not fetch URLs"):
                await client.submit(hb.Submission(urls=["https://x.example/a.wav"]))
    finally:
        await runner.cleanup()


async def test_a_job_that_was_submitted_while_it_was_on(tmp_path: Path) -> None:
    async with (
        running_server(data=tmp_path, running=RunnerLimits(workers=0)) as server,
        hb.BatchClient(base_url=server.base_url, api_key=server.api_key) as client,
    ):
        job_id = (await client.submit(hb.Submission(urls=["https://x.example/a.wav"], models=LANGUAGE))).id
    async with (
        running_server(data=tmp_path, fetch=False) as server,
        hb.BatchClient(base_url=server.base_url, api_key=server.api_key, poll=POLL) as client,
    ):
        await client.job(job_id).wait(timeout=30)
        (found,) = await client.job(job_id).predictions()
    assert "does not fetch URLs" in (found.error or "")


@pytest.mark.parametrize("entry", ["http://a.example", "10.0.0.0/99", "*"])
async def test_what_cannot_be_allowed(tmp_path: Path, entry: str) -> None:
    with pytest.raises(hb.ConfigError) as refusal:
        create_app(tmp_path, fetch=True, fetch_allow=[entry])
    assert refusal.value.field == "fetch_allow"


async def test_allowing_without_fetching_is_a_mistake(tmp_path: Path) -> None:
    for serving in (
        serve(tmp_path, port=0, host="0.0.0.0", api_keys=["k"], fetch_allow=["10.0.0.1"]),
        serve(tmp_path, port=0, fetch=False, fetch_allow=["10.0.0.1"]),
    ):
        with pytest.raises(hb.ConfigError, match="--fetch") as refusal:
            await serving
        assert refusal.value.field == "fetch_allow"


async def test_a_server_on_loopback_fetches_from_this_machine(tmp_path: Path, stray_exceptions: object) -> None:
    async with site(body(b"Hello.")) as there:
        with served(tmp_path / "on") as running:
            async with hb.BatchClient(base_url=running.base_url, api_key="test-key", poll=POLL) as client:
                for host in ("127.0.0.1", "localhost"):
                    (found,) = await measured(client, f"{there.url.replace('127.0.0.1', host)}/a.txt")
                    assert found.error is None
                    assert found.results is not None and found.results.predictions
        with served(tmp_path / "off", "--port", "0", "--no-fetch") as running:
            async with hb.BatchClient(base_url=running.base_url, api_key="test-key", poll=POLL) as client:
                with pytest.raises(hb.InvalidRequest, match="does not fetch URLs"):
                    await measured(client, f"{there.url}/a.txt")


async def test_tls_is_checked_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes to an address, the certificate is for the name: that must fit, and the address must not."""
    context = await anyio.to_thread.run_sync(certificate, tmp_path)
    if context is None:
        pytest.skip("openssl is not installed")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    async with site(body(b"Hello."), tls=context) as there:
        secure = there.url.replace("http:", "https:")
        with served(tmp_path / "data") as running:
            async with hb.BatchClient(base_url=running.base_url, api_key="test-key", poll=POLL) as client:
                named, bare = await measured(client, f"{secure.replace('127.0.0.1', 'localhost')}/a.txt", secure)
    assert named.error is None
    assert "the TLS certificate of its server cannot be verified" in (bare.error or "")


async def test_the_log_says_only_the_origin(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with (
        running_server(fetching=LIMITS, fetch_allow=["127.0.0.1"]) as server,
        hb.BatchClient(base_url=server.base_url, api_key=server.api_key, poll=POLL) as client,
        site(redirect("http://10.1.2.3/inside?token=hidden")) as there,
    ):
        (found,) = await measured(client, f"{there.url.replace('://', '://me:hush@')}/a.txt?sig=hidden")
    assert "http://10.1.2.3 is not fetched" in caplog.text
    for secret in ("hidden", "hush", "inside"):
        assert secret not in caplog.text
    assert "hidden" not in (found.error or "") and "hush" not in (found.error or "")
