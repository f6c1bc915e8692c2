"""Sources of every kind against a real server, under both event loops: the bytes that arrive are the bytes meant."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import humebatch as hb
from humebatch._transport import reading, upload
from humebatch.testing import running_server

pytestmark = pytest.mark.anyio

BYTES = os.urandom(3_000_001)
MD5 = hashlib.md5(BYTES).hexdigest()


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture
async def client() -> AsyncIterator[hb.BatchClient]:
    async with running_server() as server, hb.BatchClient(base_url=server.base_url, api_key=server.api_key) as opened:
        yield opened


async def arrived(client: hb.BatchClient, *files: Any) -> list[tuple[str | None, str]]:
    job = await client.submit(hb.Submission(files=files))
    details = await job.details()
    return [(file.filename, file.md5sum) for file in details.request.files]


async def pieces(data: bytes = BYTES, step: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), step):
        await asyncio.sleep(0)
        yield data[start : start + step]


async def test_a_path(client: hb.BatchClient, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(BYTES)
    assert await arrived(client, path, str(path)) == [("a.wav", MD5)] * 2


@pytest.mark.parametrize("nowait", [True, False])
@pytest.mark.parametrize("sendfile", [True, False])
async def test_every_way_of_reading(
    nowait: bool, sendfile: bool, client: hb.BatchClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not nowait:
        monkeypatch.setattr(reading, "_NOWAIT", None)
    if not sendfile:
        monkeypatch.setattr(upload, "_SENDFILE_FROM", 10**12)
    path = tmp_path / "a.wav"
    path.write_bytes(BYTES)
    told: list[int] = []
    job = await client.submit(hb.Submission(files=[path]), progress=told.append)
    assert (await job.details()).request.files[0].md5sum == MD5
    assert len(BYTES) < sum(told) < len(BYTES) + 1000


async def test_bytes_and_files_in_memory(client: hb.BatchClient) -> None:
    memory = io.BytesIO(b"skipped" + BYTES)
    memory.seek(7)
    sources = [
        hb.FileSource(content=BYTES, name="b.wav", content_type="audio/x-test"),
        hb.FileSource(content=memory, name="m.wav"),
    ]
    assert await arrived(client, *sources) == [("b.wav", MD5), ("m.wav", MD5)]
    assert memory.tell() == 7, "an open file is left where it stands"


async def test_an_open_file_is_sent_from_where_it_stands(client: hb.BatchClient, tmp_path: Path) -> None:
    path = tmp_path / "o.wav"
    path.write_bytes(b"skipped" + BYTES)
    with path.open("rb") as file:
        file.seek(7)
        assert await arrived(client, file, hb.FileSource(content=file, name="other.wav")) == [
            ("o.wav", MD5),
            ("other.wav", MD5),
        ]
        assert file.tell() == 7
        assert not file.closed


async def test_a_pipe_goes_in_chunks(client: hb.BatchClient) -> None:
    with subprocess.Popen([sys.executable, "-c", "print('x' * 99, end='')"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        source = hb.FileSource(content=process.stdout, name="p.txt")
        assert await arrived(client, source) == [("p.txt", hashlib.md5(b"x" * 99).hexdigest())]


@pytest.mark.parametrize("size", [None, len(BYTES)])
async def test_a_stream(size: int | None, client: hb.BatchClient) -> None:
    assert await arrived(client, hb.FileSource(content=pieces(), name="s.wav", size=size)) == [("s.wav", MD5)]


@pytest.mark.parametrize(("size", "said"), [(len(BYTES) - 1, "more than"), (len(BYTES) + 1, "1 bytes before")])
async def test_a_stream_that_is_not_as_long_as_it_says(size: int, said: str, client: hb.BatchClient) -> None:
    with pytest.raises(hb.SourceError, match=said):
        await arrived(client, hb.FileSource(content=pieces(), name="s.wav", size=size))
    assert [details async for details in client.list_jobs()] == []


async def test_an_empty_stream_is_no_file(client: hb.BatchClient) -> None:
    with pytest.raises(hb.SourceError, match="empty"):
        await arrived(client, hb.FileSource(content=pieces(b""), name="s.wav"))
    assert [details async for details in client.list_jobs()] == []


async def test_what_a_stream_raises_reaches_the_caller(client: hb.BatchClient) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield BYTES
        raise LookupError("the camera is gone")

    with pytest.raises(LookupError, match="camera"):
        await arrived(client, hb.FileSource(content=broken(), name="s.wav"))
    assert [details async for details in client.list_jobs()] == []
    assert client.stats.requests == 2, "it was not sent again"


async def test_a_bundle_is_one_archive_of_all_its_files(client: hb.BatchClient, tmp_path: Path) -> None:
    for name in ("a/x.txt", "b/x.txt", *(f"c/{number}.txt" for number in range(150))):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"I am {name}")
    files = sorted(tmp_path.rglob("*.txt"))
    bundle = hb.Bundle(files=files, root=tmp_path)
    job = await client.submit(hb.Submission(files=[bundle], models=hb.Models(language=hb.Language())))
    await job.wait(timeout=60)
    (result,) = await job.predictions()
    assert result.results is not None
    assert result.results.errors == []
    members = bundle.members()
    texts = {}
    for prediction in result.results.predictions:
        assert prediction.models.language
        (group,) = prediction.models.language.grouped_predictions
        texts[members[prediction.file]] = " ".join(row.text for row in group.predictions)
    assert texts == {str(path): f"I am {path.relative_to(tmp_path)}" for path in files}


async def test_a_bundle_of_files_with_one_name_keeps_them_apart(client: hb.BatchClient, tmp_path: Path) -> None:
    for folder in "abc":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text(folder)
    files = [tmp_path / folder / "x.txt" for folder in "abc"]
    assert hb.Bundle(files=files).members() == dict(zip(("x.txt", "x~2.txt", "x~3.txt"), map(str, files), strict=True))
    with pytest.raises(hb.ConfigError, match="not below"):
        hb.Bundle(files=files, root=tmp_path / "a")
    with pytest.raises(hb.ConfigError, match="at least one"):
        hb.Bundle(files=[])


async def test_a_bundle_is_stored_and_as_long_as_announced(tmp_path: Path) -> None:
    from humebatch._transport.planning import plan_uploads
    from humebatch._wire.message import StreamPart

    (tmp_path / "a.wav").write_bytes(BYTES)
    (planned,) = await plan_uploads([hb.Bundle(files=[tmp_path / "a.wav"])], piece=2**18)
    part = planned.content
    assert isinstance(part, StreamPart)
    data = b"".join([piece async for piece in part.chunks()])
    assert len(data) == part.size
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (info,) = archive.infolist()
        assert info.compress_type == zipfile.ZIP_STORED
        assert archive.read(info) == BYTES


async def test_a_bundle_whose_file_changes_is_never_a_job(client: hb.BatchClient, tmp_path: Path) -> None:
    paths = []
    for number in range(3):
        path = tmp_path / f"{number}.wav"
        path.write_bytes(BYTES)
        paths.append(path)

    def spoil(_: int) -> None:
        os.utime(paths[0], ns=(1, 1))  # as if somebody had written the same number of bytes, after it was sent

    with pytest.raises(hb.SourceError, match="changed"):
        await client.submit(hb.Submission(files=[hb.Bundle(files=paths)]), progress=spoil)
    assert [details async for details in client.list_jobs()] == []


def opened(folder: Path, mode: str, *, close: bool = False) -> Any:
    file = (folder / "x.wav").open(mode)
    if close:
        file.close()
    return file


WRONG: dict[str, Any] = {
    "must be bytes": lambda _: hb.FileSource(content="text", name="t.txt"),  # type: ignore[arg-type]
    "needs a name": lambda _: hb.FileSource(content=b"x", name=""),
    "size is for async": lambda _: hb.FileSource(content=b"x", name="x", size=1),
    "bytes and streams need a name": lambda _: b"bytes",
    "an open file, a FileSource or a Bundle": lambda _: pieces(),
    "nothing to measure": lambda _: hb.FileSource(content=b"", name="e.wav"),
    "the file is closed": lambda folder: opened(folder, "wb", close=True),
    "nothing left to read": lambda folder: opened(folder, "wb+"),
    "binary mode": lambda folder: opened(folder, "w+"),
}


@pytest.mark.parametrize("said", WRONG)
async def test_what_cannot_be_sent_is_refused_first(said: str, client: hb.BatchClient, tmp_path: Path) -> None:
    source: Any = None
    try:
        with pytest.raises((hb.ConfigError, hb.SourceError), match=said):
            source = WRONG[said](tmp_path)
            await client.submit(hb.Submission(files=[source]))
    finally:
        if hasattr(source, "close"):
            source.close()
    assert client.stats.requests == 0


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="needs a page cache that can be emptied")
async def test_what_is_not_cached_is_read_in_a_thread(client: hb.BatchClient, tmp_path: Path) -> None:
    path = tmp_path / "cold.wav"
    path.write_bytes(BYTES)
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    assert await arrived(client, path) == [("cold.wav", MD5)]


SENDER = """
    import asyncio, re, sys
    import humebatch as hb

    async def main(base_url, paths):
        limits = hb.Limits(uploads=4)
        async with hb.BatchClient(base_url=base_url, api_key="k", limits=limits) as client:
            async with client.submit_many(hb.Submission(files=[path]) for path in paths) as outcomes:
                async for outcome in outcomes:
                    outcome.unwrap()
        # Not ru_maxrss: that still holds the size of the process which started this one.
        peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
        print(client.stats.bytes_sent, int(peak[1]) * 1024)

    asyncio.run(main(sys.argv[1], sys.argv[2:]))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the peak from /proc")
@pytest.mark.parametrize("scheme", ["sendfile", "pieces"])
def test_memory_does_not_grow_with_the_files(scheme: str, tmp_path: Path) -> None:
    """4 GB in four sparse files: what `Limits` says it costs, on top of what the process has anyway."""
    script = textwrap.dedent(SENDER)
    if scheme == "pieces":
        script = "import humebatch._transport.upload as u; u._SENDFILE_FROM = 10**12\n" + script
    paths = []
    for number in range(4):
        path = tmp_path / f"{number}.wav"
        with path.open("wb") as file:
            file.truncate(2**30)
        paths.append(str(path))
    sink = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.sink"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with sink:
        assert sink.stdin is not None
        assert sink.stdout is not None
        base_url = f"http://127.0.0.1:{sink.stdout.readline().strip()}"
        done = subprocess.run(
            [sys.executable, "-c", script, base_url, *paths], capture_output=True, text=True, timeout=200
        )
        sink.stdin.close()
    assert done.returncode == 0, done.stderr
    sent, peak = map(int, done.stdout.split())
    assert sent > 4 * 2**30
    assert peak < 80_000_000
