"""What must not take the server down or fill its memory: bombs, large results, signals, a locked database."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import random
import shutil
import signal
import sqlite3
import stat
import sys
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pytest

import humebatch as hb
from humebatch._wire.codec import decode_predictions, encode
from humebatch.server import RunnerLimits
from humebatch.server.artifacts import build
from humebatch.server.children import in_child, limit_memory
from humebatch.server.folders import Folders
from humebatch.server.measure import FileType, Media, Unmeasurable, load, measure
from humebatch.server.media import ArchiveLimits, members
from humebatch.server.results import Draft
from humebatch.server.store import Store
from humebatch.server.unpacking import unpacked
from humebatch.testing import RunningServer, running_server
from tests.server.process import served
from tests.server.raw import eventually, request, talk

pytestmark = pytest.mark.anyio

POLL = hb.PollPolicy(first=0.02, cap=0.1)
LANGUAGE = hb.Models(language=hb.Language())
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


# ---- results ------------------------------------------------------------------------------------


def media(path: Path, name: str, text: str, file_type: FileType = "text") -> Media:
    path.write_text(text)
    return Media(path=str(path), name=name, file_type=file_type, md5sum="0" * 32)


@pytest.mark.parametrize("words", [1, 2000], ids=["handed over", "spilled"])
def test_a_draft_is_exactly_the_encoded_structs(tmp_path: Path, words: int) -> None:
    models = {"language": hb.Language(), "ner": hb.jobs.Ner()}
    first, second = (media(tmp_path / name, name, f"{name} word" * words) for name in ("a", "b"))
    spill = tmp_path / "spill"
    expected: list[hb.predictions.SourceResult] = []
    draft = Draft(tmp_path / "out")
    with contextlib.closing(draft):
        url = hb.predictions.Source(type="url", url="https://x.example/")
        draft.failed(url, "no")
        empty = hb.predictions.Results(predictions=[], errors=[])
        expected.append(hb.predictions.SourceResult(source=url, results=empty, error="no"))
        for errors in ([], [hb.predictions.ResultError(message="m", file="f", model="face")]):
            source = hb.predictions.Source(type="file", filename="a.zip", content_type=None, md5sum="0" * 32)
            draft.begin(source)
            results = hb.predictions.Results(predictions=[], errors=errors)
            for one in (first, second):
                found = hb.predictions.ModelsPredictions()
                for model, config in models.items():
                    draft.add(one, model, measure(model, "fixed", one, config, str(spill)), spill)
                    setattr(found, model, load(model, "fixed").measure(one, config).predictions)
                results.predictions.append(hb.predictions.Prediction(file=one.name, models=found, file_type="text"))
            draft.end(errors)
            expected.append(hb.predictions.SourceResult(source=source, results=results))
        draft.finish()
    written = (tmp_path / "out").read_bytes()
    assert written == encode(expected)
    assert not spill.exists()
    assert draft.failures == 2
    assert draft.rows == sum(
        len(group.predictions)
        for result in decode_predictions(written)
        if result.results
        for prediction in result.results.predictions
        for found in (prediction.models.language, prediction.models.ner)
        if found
        for group in found.grouped_predictions
    )
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600


def test_a_draft_of_nothing(tmp_path: Path) -> None:
    with contextlib.closing(Draft(tmp_path / "out")) as draft:
        draft.finish()
    assert (tmp_path / "out").read_bytes() == b"[]"


def peak(pid: int) -> int:
    """The most memory that a process has had, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


@LINUX
async def test_memory_does_not_grow_with_the_results(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(8):
            archive.writestr(f"{number}.txt", "word " * 4000)
    with served(tmp_path / "data") as server:
        async with hb.BatchClient(base_url=server.base_url, api_key="test-key", poll=POLL) as client:
            job = await client.submit(hb.Submission(files=[tmp_path / "a.zip"], models=LANGUAGE))
            assert (await job.wait(timeout=60)).state.num_predictions == 32_000
            size = (tmp_path / "data" / "jobs" / job.id / "predictions.json").stat().st_size // 2**20
            assert size > 80
            await job.save_artifacts(tmp_path / "out.zip")
            # Together the results took some 350 MiB, and as much again for the artifacts.
            assert peak(server.process.pid) < 200


def test_artifacts_hold_one_row_at_a_time(tmp_path: Path) -> None:
    one = media(tmp_path / "a", "a.txt", "word " * 3000)
    results = tmp_path / "predictions.json"
    with contextlib.closing(Draft(results)) as draft:
        draft.begin(hb.predictions.Source(type="text"))
        draft.add(
            one,
            "language",
            measure("language", "fixed", one, hb.Language(granularity="word"), str(tmp_path / "s")),
            tmp_path / "s",
        )
        draft.end([])
        draft.finish()
    tracemalloc.start()
    try:
        build(results, tmp_path / "artifacts.zip")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < results.stat().st_size / 4
    assert stat.S_IMODE((tmp_path / "artifacts.zip").stat().st_mode) == 0o600


@pytest.mark.parametrize("what", ["predictions", "artifacts"])
async def test_results_removed_by_hand(client: hb.BatchClient, server: RunningServer, what: str) -> None:
    job = await client.submit(hb.Submission(text=["Hello."], models=LANGUAGE))
    await job.wait(timeout=30)
    shutil.rmtree(server.data / "jobs" / job.id)
    reply = await talk(server, request(f"/v0/batch/jobs/{job.id}/{what}"))
    assert reply.status == 404
    assert reply.json["field"] == "id"
    assert "not on the server any more" in reply.json["message"]


# ---- archives -----------------------------------------------------------------------------------


def bomb(kind: str) -> bytes:
    """A small .tar.gz that is large inside, in parts that are never measured."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        big = bytes(60 * 2**20)
        if kind == "header":
            info = tarfile.TarInfo("a.txt")
            info.pax_headers = {"comment": "a" * len(big)}
            archive.addfile(info)
        else:
            info = tarfile.TarInfo("._a.txt" if kind == "litter" else "folder")
            info.type = tarfile.REGTYPE if kind == "litter" else b"Z"
            info.size = len(big)
            archive.addfile(info, io.BytesIO(big))
    return out.getvalue()


@pytest.mark.parametrize("kind", ["header", "litter", "special"])
def test_bombs_in_what_is_passed_over(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.tar.gz").write_bytes(bomb(kind))
    with pytest.raises(Unmeasurable, match="more data"):
        list(members(tmp_path / "a.tar.gz", "a.tar.gz", tmp_path, ArchiveLimits(ratio=2)))


async def collect(path: Path, limits: ArchiveLimits, *, seconds: float = 60) -> list[Media]:
    async with contextlib.aclosing(unpacked(path, path.name, path.parent, limits, seconds=seconds)) as files:
        return [one async for one in files]


async def test_unpacking_takes_only_the_memory_that_it_may(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(bomb("header"))
    with pytest.raises(Unmeasurable, match="more memory"):
        await collect(tmp_path / "a.tar.gz", ArchiveLimits(ratio=10**6, memory=32 * 2**20))


async def test_unpacking_has_a_time_limit(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(bomb("litter"))
    with pytest.raises(Unmeasurable, match=r"took longer than 0\.01 s"):
        await collect(tmp_path / "a.tar.gz", ArchiveLimits(), seconds=0.01)


def children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def slow_archive(tmp_path: Path) -> Path:
    """Gzip members one after the other: 20 GB of litter that takes a minute to pass over."""
    out = io.BytesIO()
    info = tarfile.TarInfo("._noise")
    info.size = 2**33 - 1
    out.write(gzip.compress(info.tobuf()))
    piece = gzip.compress(bytes(2**24))
    out.write(piece * 512)
    path = tmp_path / "slow.tar.gz"
    path.write_bytes(out.getvalue() + random.Random(1).randbytes(2**26))
    return path


@LINUX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
async def test_a_server_ends_at_once_and_its_children_with_it(
    tmp_path: Path, slow_archive: Path, number: signal.Signals
) -> None:
    with served(tmp_path / "data") as server:
        async with hb.BatchClient(base_url=server.base_url, api_key="test-key", poll=POLL) as client:
            await client.submit(hb.Submission(files=[slow_archive], models=LANGUAGE))
        pid = server.process.pid
        await eventually(lambda: children(pid) != [])
        (child,) = children(pid)
        await anyio.sleep(1)
        assert alive(child), "the archive was unpacked before it could be broken off"
        started = time.monotonic()
        server.process.send_signal(number)
        await anyio.to_thread.run_sync(server.end)
        assert time.monotonic() - started < 5
        await eventually(lambda: not alive(child))


# ---- children -----------------------------------------------------------------------------------


def interrupted() -> str:
    os.kill(os.getpid(), signal.SIGINT)
    return "still here"


def leaves() -> None:
    raise SystemExit(3)


def sleeps(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(60)


async def child(function: Any, *arguments: Any, seconds: float = 30.0) -> Any:
    limiter = anyio.CapacityLimiter(1)
    return await in_child(function, *arguments, what="measuring", limiter=limiter, seconds=seconds)


async def test_a_child_leaves_sigint_to_the_server() -> None:
    assert await child(interrupted) == "still here"


async def test_a_child_that_wants_to_exit_does_not_end_the_server() -> None:
    with pytest.raises(Unmeasurable, match="SystemExit"):
        await child(leaves)


async def test_a_child_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    with pytest.raises(Unmeasurable, match="took longer than 1 s"):
        await child(sleeps, str(tmp_path / "pid"), seconds=1)
    await eventually(lambda: not alive(int((tmp_path / "pid").read_text())))


def hungry() -> int:
    limit_memory(64 * 2**20)
    return len(bytes(512 * 2**20))


@LINUX
async def test_memory_can_be_limited() -> None:
    with pytest.raises(MemoryError):
        await child(hungry)


# ---- the database and the workers ---------------------------------------------------------------


@contextlib.contextmanager
def locked(data: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(data / "jobs.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")


async def test_a_locked_database_is_busy_not_broken(client: hb.BatchClient, server: RunningServer) -> None:
    with locked(server.data):
        reply = await talk(server, request(body=b'{"text": ["a"], "models": {"language": {}}}'))
        assert (reply.status, reply.headers["retry-after"]) == (503, "5")
        assert reply.json["message"] == "the server's database cannot be used; its log says more"
        assert list((server.data / "jobs").iterdir()) == []
    job = await client.submit(hb.Submission(text=["Hello."], models=LANGUAGE))
    await job.wait(timeout=30)


async def test_workers_outlive_a_deletion_that_fails(client: hb.BatchClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_folders: Folders, _job_id: str) -> None:
        raise PermissionError("not today")

    monkeypatch.setattr(Folders, "forget_inputs", broken)
    for _ in range(3):
        job = await client.submit(hb.Submission(text=["Hello."], models=LANGUAGE))
        await job.wait(timeout=30)


async def test_data_is_for_its_owner_only(tmp_path: Path) -> None:
    async with running_server(data=tmp_path / "data", running=RunnerLimits(workers=0)):
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data").iterdir()}
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
        assert {modes[name] for name in ("jobs.db", "jobs.db-wal", "jobs.db-shm", "lock")} == {0o600}
        assert {modes[name] for name in ("incoming", "jobs")} == {0o700}


def test_an_old_database_is_shut_too(tmp_path: Path) -> None:
    Store(tmp_path).close()
    (tmp_path / "jobs.db").chmod(0o644)
    with contextlib.closing(Store(tmp_path)):
        assert stat.S_IMODE((tmp_path / "jobs.db").stat().st_mode) == 0o600


# ---- what measured a job ------------------------------------------------------------------------


async def test_a_job_is_labelled_by_what_measured_it(tmp_path: Path) -> None:
    data = tmp_path / "data"

    async def labels(server: RunningServer, job_id: str) -> set[str]:
        return {
            (await talk(server, request(f"/v0/batch/jobs/{job_id}{what}"))).headers["x-humebatch-measure"]
            for what in ("", "/predictions", "/artifacts")
        }

    # Queued under one mode, measured under the other, and asked for under the first again.
    async with (
        running_server(data=data, measure="local", running=RunnerLimits(workers=0)) as server,
        hb.BatchClient(base_url=server.base_url, api_key=server.api_key) as client,
    ):
        job_id = (await client.submit(hb.Submission(text=["Hello."], models=LANGUAGE))).id
        details = await talk(server, request(f"/v0/batch/jobs/{job_id}"))
        assert details.headers["x-humebatch-measure"] == "local"
    async with (
        running_server(data=data) as server,
        hb.BatchClient(base_url=server.base_url, api_key=server.api_key, poll=POLL) as client,
    ):
        await client.job(job_id).wait(timeout=30)
        assert await labels(server, job_id) == {"fixed"}
    async with running_server(data=data, measure="local") as server:
        assert await labels(server, job_id) == {"fixed"}
        with contextlib.closing(sqlite3.connect(data / "jobs.db")) as database, database:
            database.execute("UPDATE job SET measure = 'unknown'")
        assert await labels(server, job_id) == {"unknown"}


# ---- JSON ---------------------------------------------------------------------------------------


async def refusal(server: RunningServer, body: Any) -> dict[str, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = await talk(server, request(body=data))
    assert reply.status == 400, reply
    answer: dict[str, Any] = reply.json
    assert "\n" not in answer["message"]
    return answer


@pytest.mark.parametrize(
    ("model", "switch"),
    [("face", "facs"), ("face", "descriptions"), ("language", "sentiment"), ("language", "toxicity")],
)
async def test_switches_hold_next_to_nothing(server: RunningServer, model: str, switch: str) -> None:
    def body(length: int) -> dict[str, Any]:
        return {"text": ["a"], "models": {model: {switch: {"a": "b" * length}}}}

    assert (await refusal(server, body(2000)))["field"] == f"models.{model}.{switch}"
    assert (await talk(server, request(body=json.dumps(body(500)).encode()))).status == 200


@pytest.mark.parametrize(
    ("body", "field", "meant"),
    [
        ({"texts": ["a"]}, "texts", "text"),
        ({"text": ["a"], "url": []}, "url", "urls"),
        ({"text": ["a"], "callback": "https://x.example"}, "callback", "callback_url"),
        ({"text": ["a"], "models": {"language": {"granularty": "word"}}}, "models.language.granularty", "granularity"),
        ({"text": ["a"], "models": {"face": {"min_facesize": 1}}}, "models.face.min_facesize", "min_face_size"),
    ],
)
async def test_slips_of_the_pen(server: RunningServer, body: Any, field: str, meant: str) -> None:
    answer = await refusal(server, body)
    assert answer["field"] == field
    assert answer["message"] == f"{field}: no such field; did you mean {meant}?"


async def test_other_unknown_fields_pass(server: RunningServer) -> None:
    body = {"text": ["a"], "tag": 1, "notify_everybody": True, "models": {"language": {"raw": [], "speed": "fast"}}}
    body |= {f"unknown-{number}": number for number in range(1000)}
    assert (await talk(server, request(body=json.dumps(body).encode()))).status == 200


async def test_large_json_does_not_hold_up_others(server: RunningServer) -> None:
    deep = b'{"text": ["a"], "unknown": [' + b'{"a":[1,2,3]},' * 2_000_000 + b"0]}"
    # The server lives in this loop: what it blocks, the test sees.
    longest, last = 0.0, time.perf_counter()

    async def watch() -> None:
        nonlocal longest, last
        while True:
            await anyio.sleep(0.005)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        assert (await talk(server, request(body=deep))).status == 200
        group.cancel_scope.cancel()
    assert longest < 0.5


async def test_the_echo_is_spliced_as_it_is_stored(server: RunningServer) -> None:
    reply = await talk(server, request(body=b'{"text": ["a"]}'))
    job_id = reply.json["job_id"]
    stored = b'{"files": [],  "models": {"language": {"later": 1}}, "text": ["a"]}'
    with contextlib.closing(sqlite3.connect(server.data / "jobs.db")) as database, database:
        database.execute("UPDATE job SET request = ?", (stored,))
    one = await talk(server, request(f"/v0/batch/jobs/{job_id}"))
    several = await talk(server, request("/v0/batch/jobs"))
    assert stored in one.body
    assert stored in several.body
    assert msgspec.json.decode(one.body, type=hb.JobDetails).job_id == job_id


@pytest.mark.parametrize(
    ("data", "status", "field"),
    [
        (request("/nowhere"), 404, "path"),
        (request("/no%0Awhere"), 404, "path"),
        (request(method="DELETE"), 405, "method"),
        (request(body=b"{}", headers=["Content-Encoding: gzip"]), 415, "Content-Encoding"),
        (request(body=b"--x", content_type="multipart/form-data; boundary=y"), 400, "body"),
        (request(body=b"--y\r\nno header\r\n", content_type="multipart/form-data; boundary=y"), 400, "body"),
        (request(body=b"x", content_type="multipart/form-data"), 400, "body"),
        (request(f"/v0/batch/jobs/{'0' * 32}"), 404, "id"),
        (request("/v0/batch/jobs", key=None), 401, "X-Hume-Api-Key"),
    ],
)
async def test_every_refusal_names_a_field_in_one_line(
    server: RunningServer, data: bytes, status: int, field: str
) -> None:
    reply = await talk(server, data)
    assert reply.status == status
    assert reply.json["field"] == field
    assert reply.json["message"].splitlines() == [reply.json["message"]]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nX-Hume-Api-Key test-key\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX-Hume-Api-Key: " + b"test-key" * 4000 + b"\r\n\r\n",
        request(body=b"", headers=["Transfer-Encoding: chunked"]),
    ],
)
async def test_what_is_no_http_is_refused_in_json(tmp_path: Path, data: bytes) -> None:
    with served(tmp_path / "data") as server:
        reply = await talk(RunningServer(server.base_url, "test-key", tmp_path / "data"), data)
    assert reply.status == 400
    assert reply.json["field"] == "body"
    assert len(reply.json["message"].splitlines()) == 1
    assert "test-key" not in reply.json["message"]


async def test_unpacking_writes_nothing_to_the_log(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "Hello.")
    with served(tmp_path / "data") as server:
        async with hb.BatchClient(base_url=server.base_url, api_key="test-key", poll=POLL) as client:
            job = await client.submit(hb.Submission(files=[tmp_path / "a.zip"], models=LANGUAGE))
            await job.wait(timeout=60)
        assert "Warning" not in server.errors()


async def test_a_missing_key_and_a_wrong_one(server: RunningServer) -> None:
    missing = (await talk(server, request("/v0/batch/jobs", key=None))).json
    wrong = (await talk(server, request("/v0/batch/jobs", key="x"))).json
    assert missing["message"] == wrong["message"] == "Invalid ApiKey"
    assert "has no API key" in missing["detail"]
    assert "is wrong" in wrong["detail"]


def test_a_model_without_a_measurer() -> None:
    with pytest.raises(Unmeasurable) as caught:
        load("burst", "local")
    assert str(caught.value) == (
        "burst is not measured: this version has no open model for it; it measures face and language"
    )
