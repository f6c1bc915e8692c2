"""From an accepted job to its end: archives, bombs, damaged files, deleted inputs, and a server that is killed."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import json
import lzma
import shutil
import sqlite3
import stat
import struct
import tarfile
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio.to_thread
import pytest

import humebatch as hb
from humebatch.server import RunnerLimits
from humebatch.server.media import ArchiveLimits
from humebatch.server.store import Store
from humebatch.testing import RunningServer, running_server
from tests.server.process import served
from tests.server.raw import eventually, request, rows, talk

pytestmark = pytest.mark.anyio

LANGUAGE = hb.Models(language=hb.Language(granularity="conversational_turn"))
POLL = hb.PollPolicy(first=0.02, cap=0.1)
Tree = dict[str, bytes]


@contextlib.asynccontextmanager
async def limited(**limits: int) -> AsyncIterator[hb.BatchClient]:
    async with (
        running_server(running=RunnerLimits(archives=ArchiveLimits(**limits))) as server,
        hb.BatchClient(base_url=server.base_url, api_key=server.api_key, poll=POLL) as client,
    ):
        yield client


async def measure(client: hb.BatchClient, *files: Path, models: hb.Models = LANGUAGE) -> list[hb.predictions.Results]:
    """The results of the files, in order; the job must end as COMPLETED and count right."""
    job = await client.submit(hb.Submission(files=files, models=models))
    details = await job.wait(timeout=60)
    found = []
    for result in await job.predictions():
        assert result.error is None
        assert result.results is not None
        found.append(result.results)
    assert details.state.num_errors == sum(len(results.errors) for results in found)
    return found


def names(results: hb.predictions.Results) -> list[str]:
    return [prediction.file for prediction in results.predictions]


def inputs(data: Path) -> list[Path]:
    return [path for path in data.glob("jobs/*/*") if path.name not in ("predictions.json", "artifacts.zip")]


# ---- archives -----------------------------------------------------------------------------------

TREE: Tree = {
    "hello.txt": b"Hello.",
    "deep/er/still/bye.txt": b"Bye.",
    "h\u00e9llo \N{PILE OF POO}.txt": b"Unicode.",
    "empty-name-ending.": b"A dot.",
    "__MACOSX/._hello.txt": b"\0\5\x16\7",
    "__MACOSX/deep/._bye.txt": b"\0\5\x16\7",
    ".DS_Store": b"\0\0\0\1Bud1",
    "deep/Thumbs.db": b"x",
    "deep/._bye.txt": b"x",
}
WANTED = ["hello.txt", "deep/er/still/bye.txt", "h\u00e9llo \N{PILE OF POO}.txt", "empty-name-ending."]


def make_zip(tree: Tree) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("deep")
        for name, data in tree.items():
            archive.writestr(name, data)
    return out.getvalue()


def make_tar(tree: Tree) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        folder = tarfile.TarInfo("deep")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in tree.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


MAKERS: dict[str, Callable[[Tree], bytes]] = {
    ".zip": make_zip,
    ".tar.gz": lambda tree: gzip.compress(make_tar(tree)),
    ".tgz": lambda tree: gzip.compress(make_tar(tree)),
    ".tar.bz2": lambda tree: bz2.compress(make_tar(tree)),
    ".tar.xz": lambda tree: lzma.compress(make_tar(tree)),
}


@pytest.mark.parametrize("ending", MAKERS)
async def test_archives(client: hb.BatchClient, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(MAKERS[ending](TREE))
    (results,) = await measure(client, path)
    assert names(results) == WANTED
    assert results.errors == []
    for prediction in results.predictions:
        assert prediction.models.language
        (group,) = prediction.models.language.grouped_predictions
        assert [row.text.encode() for row in group.predictions] == [TREE[prediction.file]]


async def test_members_score_like_the_same_files_alone(client: hb.BatchClient, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"Hello.")
    (tmp_path / "a.zip").write_bytes(make_zip({"x/a.txt": b"Hello."}))
    alone, packed = await measure(client, tmp_path / "a.txt", tmp_path / "a.zip")
    assert alone.predictions[0].models == packed.predictions[0].models


@pytest.mark.parametrize("ending", MAKERS)
async def test_names_that_lead_elsewhere(
    client: hb.BatchClient, server: RunningServer, tmp_path: Path, ending: str
) -> None:
    hostile = ["../../../evil.txt", "/evil.txt", "a/../../evil.txt", "./b/./evil.txt", "..", "//"]
    path = tmp_path / f"a{ending}"
    path.write_bytes(MAKERS[ending](dict.fromkeys(hostile[:-1], b"Evil.")))
    (results,) = await measure(client, path)
    # Whoever saves results under these names stays where he is.
    assert set(names(results)) == {"evil.txt", "a/evil.txt", "b/evil.txt", "_"}
    assert len(results.predictions) == 5
    for folder in (server.data, server.data.parent, Path("/")):
        assert not (folder / "evil.txt").exists()


async def test_a_tar_name_that_is_not_unicode(client: hb.BatchClient, tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(make_tar({"caf\udce9.txt": b"Latin."})))
    (results,) = await measure(client, path)
    assert names(results) == ["caf\N{REPLACEMENT CHARACTER}.txt"]


async def test_links_and_devices_are_passed_over(client: hb.BatchClient, tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"special-{kind.decode()}.txt")
            info.type = kind
            info.linkname = "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("real.txt")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"Real."))
    (tmp_path / "a.tar.gz").write_bytes(out.getvalue())
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as packed:
        link = zipfile.ZipInfo("link.txt")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(link, "/etc/passwd")
        packed.writestr("real.txt", "Real.")
    for results in await measure(client, tmp_path / "a.tar.gz", tmp_path / "b.zip"):
        assert names(results) == ["real.txt"]
        assert results.errors == []


def encrypted(data: bytes) -> bytes:
    """The ZIP with the flag that says that its members are encrypted."""
    out = bytearray(data)
    for magic, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = 0
        while (found := out.find(magic, start)) >= 0:
            out[found + offset] |= 1
            start = found + 4
    return bytes(out)


def bad_crc(data: bytes) -> bytes:
    at = data.rindex(b"PK\1\2") + 16
    return data[:at] + struct.pack("<I", 1) + data[at + 4 :]


GOOD = {"a.txt": b"Fine.", "b.txt": b"Lost. " * 50}
DAMAGED: dict[str, tuple[bytes, list[str]]] = {
    # what is uploaded under the name: members that are measured all the same
    "encrypted.zip": (encrypted(make_zip(GOOD)), []),
    "cut.zip": (make_zip(GOOD)[:-30], []),
    "checksum.zip": (bad_crc(make_zip(GOOD)), ["a.txt"]),
    "text.zip": (b"This is no archive.", []),
    "text.tar.gz": (b"This is no archive.", []),
    "cut.tar.gz": (gzip.compress(make_tar({**GOOD, "c.txt": bytes(range(256)) * 4000}))[:-100], ["a.txt", "b.txt"]),
    "cut.tar.bz2": (bz2.compress(make_tar(GOOD))[:-20], []),
    "cut.tar.xz": (lzma.compress(make_tar(GOOD))[:-100], []),
    "noise.tar.xz": (b"\xfd7zXZ\0" + bytes(range(256)), []),
    "zip-in-name-only.tgz": (b"\x1f\x8b" + bytes(50), []),
}


@pytest.mark.parametrize("name", DAMAGED)
async def test_damaged_archives(client: hb.BatchClient, tmp_path: Path, name: str) -> None:
    data, kept = DAMAGED[name]
    (tmp_path / name).write_bytes(data)
    (tmp_path / "fine.txt").write_bytes(b"Fine.")
    broken, fine = await measure(client, tmp_path / name, tmp_path / "fine.txt")
    (error,) = broken.errors
    assert error.file == name
    assert name in error.message
    assert names(broken) == kept
    # The next file of the job does not suffer.
    assert names(fine) == ["fine.txt"]
    assert fine.errors == []


@pytest.mark.parametrize("ending", MAKERS)
async def test_a_bomb_by_ratio(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"bomb{ending}"
    path.write_bytes(MAKERS[ending]({"fine.txt": b"Fine.", "bomb.txt": bytes(20_000_000)}))
    async with limited(ratio=50) as client:
        (results,) = await measure(client, path)
    assert names(results) == ["fine.txt"]
    (error,) = results.errors
    assert "more data" in error.message


async def test_a_bomb_by_size(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(make_zip({f"{number}.txt": b"a" * 100 for number in range(10)}))
    async with limited(total_bytes=500) as client:
        (results,) = await measure(client, tmp_path / "a.zip")
    assert len(results.predictions) == 5
    assert "more data" in results.errors[0].message


@pytest.mark.parametrize("ending", MAKERS)
async def test_a_bomb_by_members(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(MAKERS[ending]({f"{number}.txt": b"a" for number in range(10)}))
    async with limited(members=5) as client:
        (results,) = await measure(client, path)
    assert len(results.predictions) == 5
    assert "more than 5 files" in results.errors[0].message


async def test_empty_archives(client: hb.BatchClient, tmp_path: Path) -> None:
    for ending, make in MAKERS.items():
        (tmp_path / f"a{ending}").write_bytes(make({}))
    for results in await measure(client, *[tmp_path / f"a{ending}" for ending in MAKERS]):
        assert results.predictions == []
        (error,) = results.errors
        assert "the archive holds no files" in error.message


# ---- what applies to what -----------------------------------------------------------------------


async def test_models_that_do_not_apply(client: hb.BatchClient, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"Hello.")
    (tmp_path / "b.wav").write_bytes(b"RIFF\x24\0\0\0WAVEfmt ")
    (tmp_path / "c.bin").write_bytes(b"\0\1\2")
    models = hb.Models(face=hb.Face(), prosody=hb.Prosody())
    text, audio, unknown = await measure(client, *sorted(tmp_path.iterdir()), models=models)
    assert [(error.file, error.model) for error in text.errors] == [("a.txt", None)]
    assert text.errors[0].message == "none of the models face, prosody measures this file: it is text"
    assert text.predictions == []
    assert audio.errors == []
    assert audio.predictions[0].file_type == "audio"
    assert not audio.predictions[0].models.face
    assert "not recognised" in unknown.errors[0].message


async def test_all_models_off(client: hb.BatchClient, server: RunningServer) -> None:
    body = json.dumps({"text": ["a"], "models": dict.fromkeys(hb.jobs.MODEL_NAMES)}).encode()
    reply = await talk(server, request(body=body))
    job = client.job(reply.json["job_id"])
    details = await job.wait(timeout=30)
    assert (details.state.num_predictions, details.state.num_errors) == (0, 1)
    (result,) = await job.predictions()
    assert result.results is not None
    assert result.results.errors[0].message == "the request switches every model off"


# ---- ends ---------------------------------------------------------------------------------------


async def test_uploads_are_deleted_when_the_job_has_ended(
    client: hb.BatchClient, server: RunningServer, tmp_path: Path
) -> None:
    (tmp_path / "a.zip").write_bytes(make_zip(GOOD))
    (tmp_path / "b.txt").write_bytes(b"private words")
    await measure(client, tmp_path / "a.zip", tmp_path / "b.txt")
    job = await client.submit(hb.Submission(text=["private words"], models=LANGUAGE))
    await job.wait(timeout=30)
    # COMPLETED is told first, the deletion follows.
    await eventually(lambda: inputs(server.data) == [])
    assert list((server.data / "incoming").iterdir()) == []


async def submit_to_nobody(data: Path, *files: Path) -> str:
    """A job that is accepted by a server without workers, which is stopped then."""
    async with (
        running_server(data=data, running=RunnerLimits(workers=0)) as server,
        hb.BatchClient(base_url=server.base_url, api_key=server.api_key) as client,
    ):
        job = await client.submit(hb.Submission(files=files, models=LANGUAGE))
        assert (await job.details()).state.status == "QUEUED"
    return job.id


async def take_up(data: Path, job_id: str) -> hb.JobDetails:
    async with (
        running_server(data=data) as server,
        hb.BatchClient(base_url=server.base_url, api_key=server.api_key, poll=POLL) as client,
    ):
        with contextlib.suppress(hb.errors.JobFailed):
            await client.job(job_id).wait(timeout=30)
        return await client.details(job_id)


async def test_a_queued_job_outlives_its_server(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"Hello.")
    job_id = await submit_to_nobody(tmp_path / "data", tmp_path / "a.txt")
    assert (await take_up(tmp_path / "data", job_id)).state.status == "COMPLETED"


async def test_a_job_whose_files_are_gone_fails_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"Hello.")
    job_id = await submit_to_nobody(tmp_path / "data", tmp_path / "a.txt")
    shutil.rmtree(tmp_path / "data" / "jobs" / job_id / "input")
    details = await take_up(tmp_path / "data", job_id)
    assert details.state.status == "FAILED"
    assert isinstance(details.state.message, str)
    assert "could not measure" in details.state.message
    async with running_server(data=tmp_path / "data"):
        # A started server has swept what a job's end may have left.
        assert inputs(tmp_path / "data") == []


async def test_what_a_crash_left_is_swept(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (tmp_path / "a.txt").write_bytes(b"Hello.")
    ended, queued = [await submit_to_nobody(data, tmp_path / "a.txt") for _ in range(2)]

    def crash() -> None:
        """The moment between the end of a job and the deletion of its inputs, and other bad moments."""
        with contextlib.closing(Store(data)) as store:
            claimed = store.claim(now_ms=1)
            assert claimed is not None
            assert claimed.id == ended
            store.finish(ended, ended_ms=2, num_predictions=0, num_errors=0)
        (data / "incoming" / "half").mkdir()
        (data / "incoming" / "half" / "0").write_bytes(b"private words")
        (data / "jobs" / "never-recorded" / "input").mkdir(parents=True)

    await anyio.to_thread.run_sync(crash)
    async with running_server(data=data, running=RunnerLimits(workers=0)):
        assert not (data / "jobs" / ended / "input").exists()
        assert (data / "jobs" / queued / "input" / "0").read_bytes() == b"Hello."
        assert list((data / "incoming").iterdir()) == []
        assert not (data / "jobs" / "never-recorded").exists()


async def test_a_job_that_was_begun_too_often_fails(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (tmp_path / "a.txt").write_bytes(b"Hello.")
    job_id = await submit_to_nobody(data, tmp_path / "a.txt")

    def crash() -> None:
        with contextlib.closing(Store(data)) as store:
            for attempt in range(3):
                store.recover(now_ms=attempt, max_attempts=3)
                assert store.claim(now_ms=attempt) is not None

    await anyio.to_thread.run_sync(crash)
    details = await take_up(data, job_id)
    assert details.state.status == "FAILED"
    assert details.state.message == "the server went down 3 times while measuring this job"
    assert inputs(data) == []


JOBS = 30


async def test_a_killed_server_loses_nothing_and_does_nothing_twice(tmp_path: Path) -> None:
    data = tmp_path / "data"
    texts = [f"Text number {number}." for number in range(100)]
    with served(data) as server:
        async with hb.BatchClient(base_url=server.base_url, api_key="test-key", poll=POLL) as client:
            accepted = [(await client.submit(hb.Submission(text=texts, models=LANGUAGE))).id for _ in range(JOBS)]
            await client.job(accepted[0]).wait(timeout=60)
        server.process.kill()
        server.end()

    def table() -> dict[str, tuple[str, int, int]]:
        with contextlib.closing(sqlite3.connect(data / "jobs.db")) as database:
            found = database.execute("SELECT id, status, ended_ms, attempts FROM job ORDER BY seq").fetchall()
        return {job_id: tuple(rest) for job_id, *rest in found}

    before = table()
    assert list(before) == accepted
    done = {job_id for job_id, (status, *_) in before.items() if status == "COMPLETED"}
    assert 0 < len(done) < JOBS, "the server was not killed in the middle of its queue"

    with served(data) as server:
        async with hb.BatchClient(base_url=server.base_url, api_key="test-key", poll=POLL) as client:
            for job_id in accepted:
                details = await client.job(job_id).wait(timeout=60)
                assert details.state.num_predictions == len(texts)
                (result,) = await client.job(job_id).predictions()
                assert result.results is not None
                assert sorted(map(int, names(result.results))) == list(range(1, 101))
            listed = [details.job_id async for details in client.list_jobs(limit=1000)]
        server.process.terminate()
        assert server.end() == 0
    after = table()
    assert sorted(listed) == sorted(accepted)
    assert list(after) == accepted
    # What was COMPLETED was not measured again; what was under way was begun a second time, the rest once.
    for job_id, (status, ended_ms, attempts) in after.items():
        assert status == "COMPLETED"
        assert attempts == (2 if before[job_id][0] == "IN_PROGRESS" else 1)
        if job_id in done:
            assert ended_ms == before[job_id][1]
    assert inputs(data) == []


async def test_a_stopped_server_hands_its_jobs_back(tmp_path: Path) -> None:
    """An orderly stop does not count as an attempt."""
    data = tmp_path / "data"
    async with (
        running_server(data=data) as server,
        hb.BatchClient(base_url=server.base_url, api_key=server.api_key) as client,
    ):
        for _ in range(6):
            await client.submit(hb.Submission(text=["Hello."] * 100, models=LANGUAGE))
    assert {status for _, status in rows(server)} <= {"QUEUED", "COMPLETED"}
    with contextlib.closing(sqlite3.connect(data / "jobs.db")) as database:
        assert database.execute("SELECT count(*) FROM job WHERE status = 'QUEUED' AND attempts > 0").fetchone() == (0,)
        assert database.execute("SELECT count(*) FROM job WHERE status = 'QUEUED'").fetchone() > (0,)


async def test_results_are_flushed_under_their_name_only_when_complete(
    client: hb.BatchClient, server: RunningServer
) -> None:
    job = await client.submit(hb.Submission(text=["Hello."], models=LANGUAGE))
    await job.wait(timeout=30)
    stored = (server.data / "jobs" / job.id / "predictions.json").read_bytes()
    reply = await talk(server, request(f"/v0/batch/jobs/{job.id}/predictions"))
    assert hashlib.sha256(reply.body).digest() == hashlib.sha256(stored).digest()
    assert not (server.data / "jobs" / job.id / "predictions.part").exists()
