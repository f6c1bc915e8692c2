"""Sources that are not what they look like: what they give is what is sent, or an error that names them."""

from __future__ import annotations

import asyncio
import bz2
import contextlib
import gzip
import hashlib
import io
import lzma
import os
import tempfile
import tracemalloc
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import humebatch as hb
from humebatch.testing import FakeClock, RunningServer

from .scripted import ACCEPTED, Exchange, ScriptedServer, accepting

pytestmark = pytest.mark.anyio

TEXT = b"I am so happy today, thank you! " * 3000


async def md5_of(client: hb.BatchClient, *files: Any) -> list[str]:
    job = await client.submit(hb.Submission(files=files))
    return [file.md5sum for file in (await job.details()).request.files]


@pytest.mark.parametrize("module", [gzip, bz2, lzma])
async def test_what_decompresses_is_sent_decompressed(module: Any, client: hb.BatchClient, tmp_path: Path) -> None:
    path = tmp_path / "a.packed"
    path.write_bytes(module.compress(TEXT))
    with module.open(path, "rb") as file:
        source = hb.FileSource(content=file, name="a.txt")
        assert await md5_of(client, source) == [hashlib.md5(TEXT).hexdigest()]


async def test_a_packed_file_that_is_cut_off_is_named(client: hb.BatchClient, tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(os.urandom(100_000))[:-500])
    with gzip.open(path, "rb") as file, pytest.raises(hb.SourceError, match=r"a\.txt: .*end-of-stream"):
        await md5_of(client, hb.FileSource(content=file, name="a.txt"))  # type: ignore[arg-type]
    assert [job async for job in client.list_jobs()] == []


@pytest.mark.parametrize(
    "made",
    [
        lambda folder: tempfile.TemporaryFile(dir=folder),  # noqa: SIM115 - the test closes it
        lambda folder: tempfile.NamedTemporaryFile(dir=folder),  # noqa: SIM115
        lambda folder: tempfile.SpooledTemporaryFile(),  # noqa: SIM115
        lambda folder: tempfile.SpooledTemporaryFile(max_size=10, dir=folder),  # noqa: SIM115
        lambda folder: (folder / "raw").open("wb+", buffering=0),
    ],
)
async def test_temporary_files_can_be_sent_again(made: Callable[[Path], Any], tmp_path: Path) -> None:
    async def busy(exchange: Exchange) -> None:
        await exchange.read_all()
        await exchange.reply(429)

    async with (
        ScriptedServer(busy, accepting) as server,
        hb.BatchClient(base_url=server.url, clock=FakeClock()) as client,
    ):
        with made(tmp_path) as file:
            file.write(b"skipped" + TEXT)
            file.seek(7)
            await client.submit(hb.Submission(files=[hb.FileSource(content=file, name="a.txt")]))
            assert file.tell() == 7
        first, second = server.exchanges
    assert TEXT in first.body and b"skipped" not in first.body
    assert TEXT in second.body


async def yielding(chunk: Any) -> AsyncIterator[Any]:
    yield b"some bytes"
    yield chunk


class AsynchronousFile:
    async def read(self, _: int) -> bytes:
        return TEXT


class TextFile:
    def read(self, _: int) -> Any:
        return "text"


NO_BYTES: dict[str, tuple[Callable[[], Any], type[hb.HumebatchError]]] = {
    "x.txt: gives int": (lambda: yielding(65), hb.SourceError),
    "x.txt: gives str": (lambda: yielding("text"), hb.SourceError),
    "x.txt: gives coroutine": (AsynchronousFile, hb.SourceError),
    "x.txt: gives str where": (TextFile, hb.SourceError),
    "binary mode": (lambda: io.StringIO("text"), hb.ConfigError),
}


@pytest.mark.parametrize("said", NO_BYTES)
async def test_what_is_no_bytes_is_the_fault_of_the_source(said: str, client: hb.BatchClient) -> None:
    make, error = NO_BYTES[said]
    # More often than a server may fail before it is left alone for a while.
    for _ in range(12):
        with pytest.raises(error, match=said):
            await client.submit(hb.Submission(files=[hb.FileSource(content=make(), name="x.txt")]))
    assert [job async for job in client.list_jobs()] == []
    # A request that the breaker holds back is refused without being sent.
    await client.submit(hb.Submission(text=["fine"]))
    assert client.stats.resends == 0


async def test_a_caller_may_use_one_buffer_for_all_chunks(client: hb.BatchClient) -> None:
    parts = [os.urandom(700_000) for _ in range(10)]
    buffer = bytearray(700_000)

    async def refilled() -> AsyncIterator[Any]:
        for part in parts:
            buffer[:] = part
            yield memoryview(buffer).cast("H")

    source = hb.FileSource(content=refilled(), name="a.wav")
    assert await md5_of(client, source) == [hashlib.md5(b"".join(parts)).hexdigest()]


async def test_a_small_file_is_sent_as_it_was_when_it_was_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"o" * 50_000)

    async def busy(exchange: Exchange) -> None:
        await exchange.read_all()
        path.write_bytes(b"n" * 50_000)
        await exchange.reply(429)

    async with (
        ScriptedServer(busy, accepting) as server,
        hb.BatchClient(base_url=server.url, clock=FakeClock()) as client,
    ):
        await client.submit(hb.Submission(files=[path]))
        _, again = server.exchanges
    assert b"o" * 50_000 in again.body
    assert b"nn" not in again.body


# Bundles.


def members_of(server: RunningServer) -> list[str]:
    (archive,) = [path for path in server.data.rglob("*") if path.is_file() and zipfile.is_zipfile(path)]
    with zipfile.ZipFile(archive) as opened:
        return opened.namelist()


@pytest.mark.skipif(os.name != "posix", reason="names that are no Unicode")
async def test_a_bundle_of_names_that_are_not_utf_8(
    server: RunningServer, client: hb.BatchClient, tmp_path: Path
) -> None:
    names = [os.fsencode(tmp_path / "caf") + last + b".txt" for last in (b"\xe9", b"\xe8")]
    for name in names:
        with open(name, "wb") as file:
            file.write(b"coffee")
    bundle = hb.Bundle(files=[os.fsdecode(name) for name in names])
    await client.submit(hb.Submission(files=[bundle]))
    assert members_of(server) == list(bundle.members()) == ["caf\ufffd.txt", "caf\ufffd~2.txt"]
    assert [os.fsencode(path) for path in bundle.members().values()] == names


async def in_two_steps(exchange: Exchange, between: Callable[[], Any]) -> None:
    await exchange.read_head()
    await exchange.read_body(100_000)
    between()
    await exchange.read_body(int(exchange.headers["content-length"]) - len(exchange.body))
    await exchange.reply(200, ACCEPTED)


@pytest.mark.parametrize("number", [0, 9])
async def test_a_bundle_whose_file_vanishes(number: int, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.txt" for number in range(10)]
    for path in paths:
        path.touch()
        os.truncate(path, 3_000_000)  # together more than the sockets hold

    async def removing(exchange: Exchange) -> None:
        await in_two_steps(exchange, paths[number].unlink)

    async with ScriptedServer(removing) as server, hb.BatchClient(base_url=server.url) as client:
        with pytest.raises(hb.SourceError, match=f"{number}.txt: no such file") as caught:
            await client.submit(hb.Submission(files=[hb.Bundle(files=paths)]))
        assert caught.value.path == str(paths[number])
        (exchange,) = server.exchanges
        assert len(exchange.body) < int(exchange.headers["content-length"])


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks into /proc")
async def test_a_bundle_that_is_cancelled_leaves_no_file_open(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.touch()
    os.truncate(path, 100_000_000)
    reached = asyncio.Event()

    async def stuck(exchange: Exchange) -> None:
        await exchange.read_head()
        reached.set()
        await asyncio.Event().wait()

    def opened() -> set[str]:
        found = set()
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(f"/proc/self/fd/{number}"))
        return found

    async with ScriptedServer(stuck) as server, hb.BatchClient(base_url=server.url) as client:
        task = asyncio.create_task(client.submit(hb.Submission(files=[hb.Bundle(files=[path])])))
        await asyncio.wait_for(reached.wait(), 10)
        async with asyncio.timeout(10):
            while str(path) not in opened():
                await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert str(path) not in opened()


async def test_bundles_take_their_place_among_the_open_files(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(bytes(300_000))
    sending: list[int] = []

    async def counting(exchange: Exchange) -> None:
        await in_two_steps(
            exchange,
            lambda: sending.append(sum(0 < len(one.body) - 1000 < 200_000 for one in server.exchanges)),
        )

    limits = hb.Limits(uploads=4, open_files=1)
    async with ScriptedServer(counting) as server, hb.BatchClient(base_url=server.url, limits=limits) as client:
        bundles = (hb.Submission(files=[hb.Bundle(files=[path])]) for _ in range(4))
        async with client.submit_many(bundles) as outcomes:
            assert [outcome.error async for outcome in outcomes] == [None] * 4
    assert sending == [1, 1, 1, 1]


def test_a_bundle_of_many_equal_names_is_numbered_in_good_time() -> None:
    paths = [f"/{number}/frame.jpg" for number in range(50_000)]
    members = hb.Bundle(files=paths).members()  # quadratic, it takes minutes
    assert list(members.values()) == paths
    assert members["frame~50000.jpg"] == paths[-1]


def test_names_in_a_bundle() -> None:
    assert list(hb.Bundle(files=["r/v1.2/a", "r/v1.2/a", "r/./b.x"], root="r").members()) == [
        "v1.2/a",
        "v1.2/a~2",
        "b.x",
    ]
    assert list(hb.Bundle(files=["a/x~2.t", "a/x.t", "b/x.t"]).members()) == ["x~2.t", "x.t", "x~3.t"]
    for outside in ("r/../secret.txt", "r/a/../../secret.txt", "secret.txt", "r"):
        with pytest.raises(hb.ConfigError, match="not below"):
            hb.Bundle(files=[outside], root="r")


class Endless:
    def read(self, size: int) -> bytes:
        return bytes(size)


async def one_large_chunk(chunk: bytes) -> AsyncIterator[bytes]:
    yield chunk


LARGE = bytes(30_000_000)


@pytest.mark.parametrize("kind", ["path", "bundle", "open file", "large chunk"])
async def test_a_server_that_takes_nothing_costs_what_limits_says(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with path.open("wb") as file:
        file.truncate(50_000_000)

    def content() -> Any:
        if kind == "path":
            return path
        if kind == "bundle":
            return hb.Bundle(files=[path])
        endless: Any = Endless()
        return hb.FileSource(content=endless if kind == "open file" else one_large_chunk(LARGE), name="a.wav")

    async def deaf(exchange: Exchange) -> None:
        await exchange.read_head()
        waiting.append(exchange)
        await asyncio.Event().wait()

    waiting: list[Exchange] = []
    limits = hb.Limits(uploads=8, chunk=1_000_000)
    async with (
        ScriptedServer(deaf, limit=2**14) as server,
        hb.BatchClient(base_url=server.url, limits=limits) as client,
    ):
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            async with client.submit_many(hb.Submission(files=[content()]) for _ in range(8)):
                sent = -1
                while len(waiting) < 8 or sent != client.stats.bytes_sent:
                    sent = client.stats.bytes_sent
                    await asyncio.sleep(0.1)
                _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # The caller's own chunk was there before; 64 KiB per connection are for the server's end, in the same process.
    assert peak - before < 8 * (2 * limits.piece + 3 * 64 * 1024 + 64 * 1024) + 2**20
