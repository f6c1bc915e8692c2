"""Local files: what may be sent, what changes under way, and saving that leaves nothing half done."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import humebatch as hb
from humebatch._transport.files import save_atomically

from .scripted import JOB, Exchange, ScriptedServer, accepting, answering

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("stray_exceptions")]


def client_on(server: ScriptedServer, **more: object) -> hb.BatchClient:
    short = hb.Timeouts(connect=10, read=10, answer=10)  # a test that goes wrong should not hang
    settings: dict[str, object] = {"api_key": "k", "retry": hb.RetryPolicy(attempts=1), "timeouts": short, **more}
    return hb.BatchClient(base_url=server.url, **settings)  # type: ignore[arg-type]


def nothing(_: Path) -> str:
    return "missing.wav"


def empty(folder: Path) -> str:
    (folder / "empty.wav").touch()
    return "empty.wav"


def directory(folder: Path) -> str:
    (folder / "folder.wav").mkdir()
    return "folder.wav"


def fifo(folder: Path) -> str:
    os.mkfifo(folder / "pipe.wav")
    return "pipe.wav"


def dangling(folder: Path) -> str:
    (folder / "link.wav").symlink_to(folder / "gone.wav")
    return "link.wav"


def loop(folder: Path) -> str:
    (folder / "loop.wav").symlink_to(folder / "loop.wav")
    return "loop.wav"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (nothing, "no such file"),
        (empty, "empty"),
        (directory, "folder"),
        (fifo, "not a regular file"),
        (dangling, "no such file"),
        (loop, "links"),
        (lambda _: "nul\0byte.wav", "null"),
        (lambda _: "x" * 300, "too long"),
        (lambda _: "a.wav/b.wav", ""),
        (lambda _: "\ud800.wav", ""),
    ],
)
async def test_what_cannot_be_sent_is_said_before_a_connection_is_made(
    make: Callable[[Path], str], says: str, tmp_path: Path
) -> None:
    good = tmp_path / "a.wav"
    good.write_bytes(b"RIFF")
    name = str(tmp_path / make(tmp_path))
    async with ScriptedServer(accepting) as server, client_on(server) as client:
        with pytest.raises(hb.SourceError) as caught:
            await client.submit(hb.Submission(files=[good, name]))
        assert server.exchanges == []
        assert client.stats.requests == 0
    assert caught.value.path == name
    assert says in str(caught.value).lower()
    assert len(str(caught.value).splitlines()) == 1
    assert isinstance(caught.value, OSError)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX permissions")
async def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(b"RIFF")
    secret.chmod(0)
    if os.geteuid() == 0:  # root may read everything: let the kernel's answer be the one that others get
        opened = os.open

        def refusing(path: str, flags: int, mode: int = 0o777) -> int:
            if path == str(secret):
                raise PermissionError(13, "Permission denied", path)
            return opened(path, flags, mode)

        monkeypatch.setattr(os, "open", refusing)
    async with ScriptedServer(accepting) as server, client_on(server) as client:
        with pytest.raises(hb.SourceError, match="not allowed to read it"):
            await client.submit(hb.Submission(files=[secret]))
        assert server.exchanges == []


def shrink(path: Path) -> None:
    os.truncate(path, 100_000)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")
    os.utime(path, ns=(1, 1))


def empty_out(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("change", [shrink, grow, rewrite, empty_out])
async def test_a_file_that_changes_while_it_is_sent_is_never_submitted(
    change: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"a" * 3_000_000)

    async def interfering(exchange: Exchange) -> None:
        await exchange.read_head()
        await exchange.read_body(500_000)
        change(path)
        await exchange.read_rest()

    async with ScriptedServer(interfering) as server:
        async with client_on(server, limits=hb.Limits(chunk=64 * 1024)) as client:
            with pytest.raises(hb.SourceError, match="changed while it was being sent") as caught:
                await client.submit(hb.Submission(files=[path]))
        await server.quiet()
        (exchange,) = server.exchanges
    assert caught.value.path == str(path)
    boundary = exchange.headers["content-type"].partition("boundary=")[2].encode()
    assert b"--" + boundary + b"--" not in exchange.body
    assert len(exchange.body) < int(exchange.headers["content-length"])


async def test_a_file_that_vanishes_before_its_turn(tmp_path: Path) -> None:
    first, second = tmp_path / "a.wav", tmp_path / "b.wav"
    first.write_bytes(b"a" * 3_000_000)
    second.write_bytes(b"b")

    async def interfering(exchange: Exchange) -> None:
        await exchange.read_head()
        await exchange.read_body(1000)
        second.unlink()
        await exchange.read_rest()

    async with ScriptedServer(interfering) as server:
        async with client_on(server, limits=hb.Limits(chunk=64 * 1024)) as client:
            with pytest.raises(hb.SourceError, match="no such file while it was being sent") as caught:
                await client.submit(hb.Submission(files=[first, second]))
        await server.quiet()
        (exchange,) = server.exchanges
    assert caught.value.path == str(second)
    boundary = exchange.headers["content-type"].partition("boundary=")[2].encode()
    assert b"--" + boundary + b"--" not in exchange.body


async def test_a_file_that_changed_is_not_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"a" * 3_000_000)

    async def interfering(exchange: Exchange) -> None:
        await exchange.read_head()
        grow(path)
        await exchange.read_rest()

    async with ScriptedServer(interfering) as server:
        async with client_on(server, retry=hb.RetryPolicy(attempts=5, base=0.001)) as client:
            with pytest.raises(hb.SourceError):
                await client.submit(hb.Submission(files=[path]))
        assert len(server.exchanges) == 1


@pytest.mark.parametrize("chunk", [1, 7, 999, 1000, 1001, 10**6])
async def test_what_is_sent_is_the_file_whatever_the_size_of_a_piece(chunk: int, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(os.urandom(1000))
    told: list[int] = []
    async with ScriptedServer(accepting) as server, client_on(server, limits=hb.Limits(chunk=chunk)) as client:
        await client.submit(hb.Submission(files=[path]), progress=told.append)
        (exchange,) = server.exchanges
    assert b"\r\n\r\n" + path.read_bytes() + b"\r\n--" in exchange.body
    assert sum(told) == len(exchange.body)


async def test_names_and_types(tmp_path: Path) -> None:
    names = {
        "a.wav": "audio/x-wav", "b.mp4": "video/mp4", "c.txt": "text/plain", "noext": "application/octet-stream",
        "UPPER.WAV": "audio/x-wav", "e.zip": "application/zip", "ü.json": "application/json",
    }  # fmt: skip
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    async with ScriptedServer(accepting) as server, client_on(server) as client:
        await client.submit(hb.Submission(files=[tmp_path / name for name in names]))
        (exchange,) = server.exchanges
    for name, kind in names.items():
        assert f'filename="{name}"\r\nContent-Type: {kind}\r\n\r\nx\r\n'.encode() in exchange.body


async def test_a_path_object_that_speaks_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"x")
    entries: list[Any] = [*os.scandir(os.fsencode(tmp_path))]
    async with ScriptedServer(accepting) as server, client_on(server) as client:
        await client.submit(hb.Submission(files=entries))
        assert b'filename="a.wav"' in server.exchanges[0].body


# ── saving ───────────────────────────────────────────────────────────────────────────────────────


async def pieces(*data: bytes | Exception) -> AsyncIterator[bytes]:
    for one in data:
        if isinstance(one, Exception):
            raise one
        yield one


async def test_saving_is_whole_private_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "p.json"
    assert await save_atomically(target, pieces(b"[", b"", b"]")) == 2
    assert target.read_bytes() == b"[]"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["p.json"]
    assert await save_atomically(str(target), pieces(b"new")) == 3
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("before", [None, b"what was there"])
async def test_a_cut_answer_leaves_what_was_there(before: bytes | None, tmp_path: Path) -> None:
    target = tmp_path / "p.json"
    if before is not None:
        target.write_bytes(before)
    with pytest.raises(ConnectionError):
        await save_atomically(target, pieces(b"half", ConnectionError("cut")))
    assert os.listdir(tmp_path) == ([] if before is None else ["p.json"])
    assert before is None or target.read_bytes() == before


async def test_a_name_as_long_as_the_file_system_takes(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 250 + ".json")
    await save_atomically(target, pieces(b"[]"))
    assert os.listdir(tmp_path) == [target.name]


@pytest.mark.parametrize("path", ["missing/p.json", "folder", "file.txt/p.json"])
async def test_a_target_that_cannot_be_written_is_an_os_error(path: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_bytes(b"x")
    with pytest.raises(OSError, match=r"missing|folder|file\.txt"):
        await save_atomically(tmp_path / path, pieces(b"[]"))
    assert sorted(os.listdir(tmp_path)) == ["file.txt", "folder"]
    assert os.listdir(tmp_path / "folder") == []


@pytest.mark.parametrize("path", ["", ".", "/"])
async def test_a_target_without_a_name_is_refused(path: str) -> None:
    with pytest.raises(hb.ConfigError):
        await save_atomically(path, pieces(b"[]"))


async def test_a_download_that_is_cut_each_time_leaves_nothing(tmp_path: Path) -> None:
    async def cutting(exchange: Exchange) -> None:
        await exchange.read_all()
        await exchange.reply(200, b"[" + b" " * 100_000, length=1_000_000)

    target = tmp_path / "p.json"
    target.write_bytes(b"before")
    async with ScriptedServer(cutting) as server:
        async with client_on(server, retry=hb.RetryPolicy(attempts=3, base=0.001)) as client:
            with pytest.raises(hb.TransportError) as caught:
                await client.job(JOB).save_predictions(target)
        assert len(server.exchanges) == 3
    assert caught.value.attempts == 3
    assert len(caught.value.earlier) == 2
    assert os.listdir(tmp_path) == ["p.json"]
    assert target.read_bytes() == b"before"


async def test_a_download_that_is_cut_once_is_whole_in_the_end(tmp_path: Path) -> None:
    async def cutting(exchange: Exchange) -> None:
        await exchange.read_all()
        await exchange.reply(200, b"PK half", length=1_000_000)

    async with (
        ScriptedServer(cutting, answering(200, b"PK whole")) as server,
        client_on(server, retry=hb.RetryPolicy(attempts=3, base=0.001)) as client,
    ):
        assert await client.job(JOB).save_artifacts(tmp_path / "a.zip") == 8
    assert (tmp_path / "a.zip").read_bytes() == b"PK whole"
    assert os.listdir(tmp_path) == ["a.zip"]


def python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


async def test_a_full_disk_leaves_nothing_and_is_an_os_error(tmp_path: Path) -> None:
    # A limit on the size of a file is as near to a full disk as an ordinary user gets.
    done = python(
        """
        import asyncio, os, resource, signal, sys
        from humebatch._transport.files import save_atomically

        async def pieces():
            for _ in range(100):
                yield b"x" * 10_000

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (55_000, 55_000))
        try:
            asyncio.run(save_atomically(sys.argv[1] + "/p.json", pieces()))
        except OSError as error:
            print("OSError", error.errno, os.listdir(sys.argv[1]))
        """,
        str(tmp_path),
    )
    assert (done.stdout, done.stderr) == ("OSError 27 []\n", "")
