"""No server at hand: a child process that serves one client and ends with it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import textwrap
from pathlib import Path

import anyio
import pytest

import humebatch as hb
from humebatch._client.embedded import embedded_server

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("stray_exceptions")]

TEXT = hb.Submission(text=["Test!"], models=hb.Models(language=hb.Language()))
linux = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks into /proc")


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that must be empty again when the client is closed."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def children() -> dict[int, bytes]:
    """Command lines of this process's children."""
    found: dict[int, bytes] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(stat[1]) == os.getpid() and stat[0] != "Z":
                    found[int(entry.name)] = (entry / "cmdline").read_bytes()
            except OSError:
                continue
    return found


def servers() -> dict[int, bytes]:
    return {pid: line for pid, line in children().items() if b"humebatch.server" in line}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@linux
async def test_made_up_scores_without_a_server(own_temporary_folder: Path) -> None:
    async with hb.local.client(measure="fixed", poll=hb.PollPolicy(first=0.02, cap=0.1)) as client:
        assert client.base_url is not None
        assert client.base_url.startswith("http://127.0.0.1:")
        job = await client.submit(TEXT)
        await job.wait(timeout=30)
        assert len(await job.predictions()) == 1
        ((pid, line),) = servers().items()
        key = client._key
        assert key is not None
        assert key.reveal().encode() not in line
        assert os.listdir(own_temporary_folder)
        async with hb.BatchClient(base_url=client.base_url, api_key="a guess") as stranger:
            with pytest.raises(hb.AuthError):
                await stranger.details(job.id)
    assert not alive(pid)
    assert os.listdir(own_temporary_folder) == []


@linux
async def test_a_client_without_a_base_url_brings_its_own_server(
    monkeypatch: pytest.MonkeyPatch, own_temporary_folder: Path
) -> None:
    # The vendor's key of the caller has no business with a server of our own.
    monkeypatch.setenv("HUME_API_KEY", "the-vendors-key")
    client = hb.BatchClient(poll=hb.PollPolicy(first=0.05, cap=0.2))
    assert client.base_url is None
    async with client:
        (pid,) = servers()
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"the-vendors-key" not in environment
        job = await client.submit(TEXT)
        with anyio.fail_after(60):
            found = await job.details()
        assert found.job_id == job.id
    assert not alive(pid)
    assert os.listdir(own_temporary_folder) == []


@linux
async def test_the_child_ends_although_the_block_is_cancelled(own_temporary_folder: Path) -> None:
    pid = 0
    with anyio.CancelScope() as scope:
        async with hb.local.client(measure="fixed") as client:
            (pid,) = servers()
            await client.submit(TEXT)
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert pid
    assert not alive(pid)
    assert os.listdir(own_temporary_folder) == []


@linux
async def test_a_start_that_is_cancelled_leaves_nothing(own_temporary_folder: Path) -> None:
    client = hb.BatchClient()
    with anyio.move_on_after(0.1) as scope:
        async with client:
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert servers() == {}
    assert os.listdir(own_temporary_folder) == []


@linux
async def test_a_start_that_is_cancelled_by_asyncio_leaves_nothing(own_temporary_folder: Path) -> None:
    task = asyncio.create_task(hb.BatchClient().__aenter__())
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert servers() == {}
    assert os.listdir(own_temporary_folder) == []


async def test_a_folder_of_ones_own_keeps_the_results(tmp_path: Path) -> None:
    data = tmp_path / "new" / "kept"
    fast = hb.PollPolicy(first=0.02, cap=0.1)
    async with hb.local.client(measure="fixed", data=data, poll=fast) as client:
        job = await client.submit(TEXT)
        await job.wait(timeout=30)
        before = await job.predictions()
    async with hb.local.client(measure="fixed", data=str(data), poll=fast) as client:
        assert [found.job_id async for found in client.list_jobs()] == [job.id]
        assert await client.job(job.id).predictions() == before
    assert (data / "embedded.key").stat().st_mode & 0o777 == 0o600


async def test_a_folder_is_the_same_however_it_is_spelt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an ingest goes on, nothing is measured again."""
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("kept")
    Path("a.wav").write_bytes(b"RIFF\0\0\0\0WAVE")
    fast = hb.PollPolicy(first=0.02, cap=0.1)
    told: set[str] = set()
    for data in ("kept", "./link", Path("..", tmp_path.name, "kept"), tmp_path / "kept"):
        shutil.rmtree("out", ignore_errors=True)
        async with hb.local.client(measure="fixed", data=data, poll=fast) as client:
            async with client.ingest("a.wav", models=hb.Models(burst=hb.Burst()), journal="j.db", out="out") as running:
                told |= {outcome.unwrap().job_id async for outcome in running}
            assert [found.job_id async for found in client.list_jobs()] == list(told)
    with pytest.raises(hb.ConfigError, match="its server is embedded:kept:"):
        async with (
            hb.local.client(measure="fixed", data="other") as client,
            client.ingest("a.wav", models=hb.Models(burst=hb.Burst()), journal="j.db", out="out"),
        ):
            pass


async def test_no_two_temporary_folders_are_the_same() -> None:
    identities: set[str] = set()
    for _ in range(2):
        async with embedded_server(measure="fixed") as server:
            identities.add(server.identity)
    assert len(identities) == 2
    assert all(identity.startswith("embedded:temporary:") for identity in identities)


@linux
async def test_the_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import asyncio, sys
        import humebatch as hb

        async def main():
            async with hb.local.client(measure="fixed") as client:
                print(client.base_url, flush=True)
                await asyncio.sleep(600)

        asyncio.run(main())
        """
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    base_url = (await parent.stdout.readline()).decode().strip()
    child = int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()[0])
    assert base_url.startswith("http://127.0.0.1:")
    assert alive(child)
    os.kill(parent.pid, signal.SIGKILL)
    await parent.communicate()
    with anyio.fail_after(20):
        while alive(child):
            await anyio.sleep(0.02)
    async with hb.BatchClient(base_url=base_url, api_key="k", retry=hb.RetryPolicy(attempts=1)) as late:
        with pytest.raises(hb.ConnectFailed):
            await late.details("x")


async def test_a_child_that_cannot_start_is_quoted(tmp_path: Path, own_temporary_folder: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_bytes(b"not a folder")
    with pytest.raises(hb.ConnectFailed) as caught:
        async with hb.local.client(measure="fixed", data=in_the_way):
            pass
    assert "did not start" in str(caught.value)
    assert str(in_the_way) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert os.listdir(own_temporary_folder) == []


async def test_an_interpreter_that_is_not_there(monkeypatch: pytest.MonkeyPatch, own_temporary_folder: Path) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(hb.ConnectFailed, match="did not start"):
        async with hb.BatchClient():
            pass
    assert os.listdir(own_temporary_folder) == []


async def test_a_folder_in_use_is_said(tmp_path: Path) -> None:
    data = tmp_path / "kept"
    async with embedded_server(data=data, measure="fixed"):
        with pytest.raises(hb.ConnectFailed, match="did not start"):
            async with embedded_server(data=data, measure="fixed"):
                pass


async def test_the_child_has_longer_to_stop_than_it_takes() -> None:
    from humebatch._client import embedded
    from humebatch.server import serving

    assert embedded._STOP_LIMIT > serving._DRAIN + 5


@linux
async def test_the_child_removes_its_folder_when_its_parent_is_killed(own_temporary_folder: Path) -> None:
    script = textwrap.dedent(
        """
        import asyncio
        import humebatch as hb

        async def main():
            async with hb.local.client(measure="fixed") as client:
                await client.submit(hb.Submission(text=["somebody's words"]))
                print("submitted", flush=True)
                await asyncio.sleep(600)

        asyncio.run(main())
        """
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    await parent.stdout.readline()
    assert os.listdir(own_temporary_folder)
    parent.kill()
    await parent.communicate()
    with anyio.fail_after(30):
        while os.listdir(own_temporary_folder):
            await anyio.sleep(0.02)


@linux
async def test_the_folder_goes_although_the_child_is_killed(own_temporary_folder: Path) -> None:
    async with embedded_server(measure="fixed"):
        (pid,) = servers()
        os.kill(pid, signal.SIGKILL)
    assert os.listdir(own_temporary_folder) == []


async def test_no_room_for_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(hb.ConnectFailed, match="did not start"):
        async with embedded_server(measure="fixed"):
            pass
