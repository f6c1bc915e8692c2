"""Disks that are full, broken or may not be written, too few descriptors, and clocks that are set back.

Rows C65 to C67 and C71 to C75 of the README beside this file. The disks that run full are small file systems that a
child process mounts for itself, which takes root; elsewhere those tests are skipped, and the planted errors are left.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import humebatch as hb
from humebatch._client.ingest import reporting, storing
from humebatch._client.ingest.journal import Journal
from humebatch._transport.files import settle
from humebatch._transport.http import Transport
from humebatch.errors import ConfigError, DiskError
from humebatch.testing import FakeClock, RunningServer, Trouble, running_server
from tests._client.ingest.runs import BURST, KEY, Work, clip, contents_of, md5_of

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("stray_exceptions")]


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


@pytest.fixture(params=[True, False], ids=["keyed", "plain"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[RunningServer]:
    """Both kinds: one that honours idempotency keys, and one like the hosted service."""
    async with running_server(api_key=KEY, idempotency=request.param) as running:
        yield running


# ── in a process of its own

CLIENT = """
import asyncio, json, os, resource, shutil, subprocess, sys
import humebatch as hb
from humebatch.testing import FakeClock

url, key, inputs, journal, out, steps = sys.argv[1:]

async def ingest():
    errors, done, requests = [], 0, 0
    async with hb.BatchClient(base_url=url, api_key=key, clock=FakeClock()) as client:
        try:
            asked = {"models": hb.Models(burst=hb.Burst()), "journal": journal, "out": out, "files_per_job": 2}
            async with client.ingest(inputs, **asked) as outcomes:
                async for outcome in outcomes:
                    done += outcome.error is None
                    if outcome.error is not None:
                        errors.append(outcome.error.reason)
        except Exception as error:
            errors.append(type(error).__name__)
            errors.append(str(error))
        return {"errors": errors, "done": done, "requests": client.stats.requests}

for step in json.loads(steps):
    if step == "ingest":
        print(json.dumps(asyncio.run(ingest())), flush=True)
    elif step[0] == "files":
        resource.setrlimit(resource.RLIMIT_NOFILE, (step[1], resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    elif step[0] == "fill":
        with open(step[1], "wb") as file:
            try:
                while True:
                    os.write(file.fileno(), bytes(512))
            except OSError:
                pass
    elif step[0] == "copy":
        shutil.copytree(step[1], step[2], dirs_exist_ok=True)
    elif step[0] == "remove":
        os.unlink(step[1])
    else:
        subprocess.run(step, check=True)
"""


async def steps(
    work: Work,
    server: RunningServer,
    *given: Any,
    mounting: bool = False,
    env: dict[str, str] | None = None,
    journal: Path | None = None,
    out: Path | None = None,
) -> list[dict[str, Any]]:
    """Let a process do these steps; what its ingests said."""
    arguments = [server.base_url, KEY, work.inputs, journal or work.journal, out or work.out, json.dumps(given)]
    command = [*(["unshare", "-m"] if mounting else []), sys.executable, "-c", CLIENT, *map(str, arguments)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ, **(env or {})}
    )
    try:
        said, errors = await asyncio.wait_for(process.communicate(), 120)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    assert KEY not in said.decode() + errors.decode()
    return [json.loads(line) for line in said.decode().splitlines()]


@functools.cache
def mountable() -> bool:
    if not shutil.which("unshare"):
        return False
    attempt = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=64k", "none", "/mnt"]
    return subprocess.run(attempt, capture_output=True).returncode == 0


needs_mounts = pytest.mark.skipif("not mountable()", reason="this user may not mount a file system")


def tmpfs(folder: Path, options: str) -> list[str]:
    return ["mount", "-t", "tmpfs", "-o", f"mode=700,{options}", "none", str(folder)]


# ── full (C65)


@needs_mounts
async def test_the_disk_of_the_journal_runs_full(server: RunningServer, work: Work) -> None:
    work.make({f"{n:03}.wav": clip(n) for n in range(60)})
    small = work.folder / "small"
    small.mkdir()
    kept = work.folder / "kept"
    first, second, third = await steps(
        work,
        server,
        tmpfs(small, "size=200k"),
        "ingest",
        ["mount", "-o", "remount,size=20m", str(small)],
        "ingest",
        "ingest",
        ["copy", str(small), str(kept)],
        journal=small / "journal.db",
        mounting=True,
    )
    assert first["errors"][0] == "DiskError" and "journal" in first["errors"][1]
    assert first["done"] < 60
    assert (second["errors"], second["done"]) == ([], 60)
    assert (third["done"], third["requests"]) == (60, 1)
    work.journal = kept / "journal.db"
    await work.check(server)
    assert await contents_of(server) == sorted(md5_of(clip(n)) for n in range(60))


@needs_mounts
async def test_the_disk_of_the_journal_is_full_from_the_beginning(server: RunningServer, work: Work) -> None:
    work.make({"a.wav": clip("a")})
    small = work.folder / "small"
    small.mkdir()
    first, second = await steps(
        work,
        server,
        tmpfs(small, "size=64k"),
        ["fill", str(small / "filling")],
        "ingest",
        ["remove", str(small / "filling")],
        ["mount", "-o", "remount,size=20m", str(small)],
        "ingest",
        journal=small / "journal.db",
        mounting=True,
    )
    assert first["errors"][0] == "DiskError", first
    assert first["requests"] == 0
    assert (second["errors"], second["done"]) == ([], 1)


@needs_mounts
async def test_the_disk_of_the_results_runs_full(server: RunningServer, work: Work) -> None:
    work.make({f"{n:03}.wav": clip(n) for n in range(40)})
    small = work.folder / "small"
    small.mkdir()
    first, second, third = await steps(
        work,
        server,
        tmpfs(small, "size=128k"),
        "ingest",
        ["mount", "-o", "remount,size=20m", str(small)],
        "ingest",
        "ingest",
        ["copy", str(small), str(work.folder / "kept")],
        out=small / "out",
        mounting=True,
    )
    assert first["errors"][0] == "DiskError"
    assert 0 < first["done"] < 40
    assert (second["errors"], second["done"]) == ([], 40)
    assert (third["done"], third["requests"]) == (40, 1)
    work.out = work.folder / "kept/out"
    await work.check(server)
    assert await contents_of(server) == sorted(md5_of(clip(n)) for n in range(40))


@needs_mounts
@pytest.mark.parametrize("which", ["journal", "out"])
async def test_a_folder_that_may_not_be_written_is_refused_first(server: RunningServer, work: Work, which: str) -> None:
    work.make({"a.wav": clip("a")})
    fixed = work.folder / "fixed"
    fixed.mkdir()
    where: dict[str, Any] = {which: fixed / ("journal.db" if which == "journal" else "out")}
    (said,) = await steps(work, server, tmpfs(fixed, "ro"), "ingest", mounting=True, **where)
    assert said["errors"][0] == "ConfigError" and said["errors"][1].startswith(f"{which}: ")
    assert said["requests"] == 0


@pytest.mark.parametrize("out", ["/proc/results", "/dev/null", "/dev/null/results"])
async def test_what_cannot_be_a_folder_for_results(server: RunningServer, work: Work, out: str) -> None:
    work.make({"a.wav": clip("a")})
    with pytest.raises(ConfigError, match="cannot write") as caught:
        await work.run(server, out=out)
    assert caught.value.field == "out"
    assert await asyncio.to_thread(server.jobs) == []


@pytest.mark.parametrize("commits", range(3, 30, 3))
async def test_after_the_journal_has_failed_nothing_is_sent(
    server: RunningServer, work: Work, commits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite says that the disk is full in one commit after the other: before an intent, after an answer, later."""
    work.make({f"{n}.wav": clip(n) for n in range(6)})
    history: list[str] = []
    commit, send = Journal._commit, Transport.send

    def counted(self: Journal, batch: list[Any]) -> None:
        history.append("commit")
        if history.count("commit") == commits:
            (pages,) = self._db.execute("PRAGMA page_count").fetchone()
            self._db.execute(f"PRAGMA max_page_count = {pages}")
            batch[0].work = fill
        commit(self, batch)
        if self.broken is not None:
            history.append("broken")

    def fill(db: Any) -> None:
        db.execute("INSERT INTO event (at_ms, now, detail) VALUES (1, 'NOTE', ?)", ("x" * 100_000,))

    async def sent(self: Transport, request: Any, **more: Any) -> Any:
        history.append(request.method)
        return await send(self, request, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_commit", counted)
        patch.setattr(Transport, "send", sent)
        with pytest.raises(DiskError, match="nothing more is sent"):
            await work.run(server, files_per_job=1)
    assert "POST" not in history[history.index("broken") :]
    await work.check(server, finished=False)
    ran = await work.run(server, files_per_job=1)
    assert ran.report.done == ran.report.jobs == 6
    assert await contents_of(server) == sorted(md5_of(clip(n)) for n in range(6))
    await work.check(server)


def failing(function: Callable[..., Any], code: int, *, at: int) -> Callable[..., Any]:
    """The `at`-th call and all that follow end with this error."""
    calls = 0

    def call(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= at:
            raise OSError(code, os.strerror(code))
        return function(*arguments, **more)

    return call


@pytest.mark.parametrize("at", [1, 2, 5])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("name", ["fsync", "write"])
async def test_results_that_cannot_be_written_end_the_run_and_are_there_after_the_next(
    work: Work, name: str, code: int, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Os:
        """The operating system as `storing` sees it."""

        def __getattr__(self, wanted: str) -> Any:
            return broken if wanted == name else getattr(os, wanted)

    work.make({f"{n}.wav": clip(n) for n in range(6)})
    async with running_server(api_key=KEY) as server:
        with monkeypatch.context() as patch:
            broken = failing(getattr(os, name), code, at=at)
            patch.setattr(storing, "os", Os())
            with pytest.raises(DiskError, match=os.strerror(code)):
                await work.run(server, files_per_job=2)
        await work.check(server, finished=False)
        ran = await work.run(server, files_per_job=2)
        assert ran.report.done == 6
        assert len(await contents_of(server)) == 6
        await work.check(server)
        assert (await work.run(server, files_per_job=2)).report.attempts == 3


async def test_the_index_cannot_be_written(server: RunningServer, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    work.make({"a.wav": clip("a")})
    await work.run(server)
    before = (work.out / "index.jsonl").read_bytes()
    work.make({"b.wav": clip("b")})
    with monkeypatch.context() as patch:
        patch.setattr(reporting, "settle", failing(settle, errno.ENOSPC, at=1))
        with pytest.raises(DiskError, match=r"index\.jsonl"):
            await work.run(server)
    assert (work.out / "index.jsonl").read_bytes() == before
    await work.check(server)
    ran = await work.run(server)
    assert ran.report.attempts == 2 and ran.requests == 1
    assert len((work.out / "index.jsonl").read_bytes().splitlines()) == 2


# ── a disk that does not keep what it is given (C66)

EIO = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Flushing the journal fails from the n-th time on. */
static int fails(int fd) {
    static int count;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, "journal.db") && __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST) >= atoi(getenv("FAIL_AT"));
}
int fsync(int fd) {
    if (fails(fd)) { errno = EIO; return -1; }
    return ((int (*)(int)) dlsym(RTLD_NEXT, "fsync"))(fd);
}
int fdatasync(int fd) {
    if (fails(fd)) { errno = EIO; return -1; }
    return ((int (*)(int)) dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
"""


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
@pytest.mark.parametrize("at", [1, 5, 9, 14])
async def test_the_journal_cannot_be_flushed(server: RunningServer, work: Work, at: int) -> None:
    work.make({f"{n}.wav": clip(n) for n in range(6)})
    source, library = work.folder / "eio.c", work.folder / "eio.so"
    source.write_text(EIO)
    built = await asyncio.create_subprocess_exec("cc", "-shared", "-fPIC", "-o", library, source, "-ldl")
    assert await built.wait() == 0
    (first,) = await steps(work, server, "ingest", env={"LD_PRELOAD": str(library), "FAIL_AT": str(at)})
    assert first["errors"][0] == "DiskError", first
    assert first["done"] < 6
    if at == 1:
        assert first["requests"] <= 1
    (second,) = await steps(work, server, "ingest")
    assert (second["errors"], second["done"]) == ([], 6)
    await work.check(server)
    assert await contents_of(server) == sorted(md5_of(clip(n)) for n in range(6))


# ── too few descriptors (C75)


@pytest.mark.parametrize("files", [12, 16, 20, 24, 32])
async def test_too_few_descriptors_are_nobodys_fault(server: RunningServer, work: Work, files: int) -> None:
    work.make({f"{n}/{n:03}.wav": clip(n, 50_000) for n in range(40)})
    (first,) = await steps(work, server, ["files", files], "ingest")
    # To its end or to an error that is the process's; no input is FAILED for it.
    if first["errors"]:
        assert first["errors"][0] == "DiskError" and "Too many open files; nothing is lost" in first["errors"][1]
    else:
        assert first["done"] == 40
    (second,) = await steps(work, server, "ingest")
    assert (second["errors"], second["done"]) == ([], 40)
    await work.check(server)
    assert await contents_of(server) == sorted(md5_of(clip(n, 50_000)) for n in range(40))


@pytest.mark.parametrize("size", [100, 400_000], ids=["small", "large"])
async def test_running_out_while_sending_is_nobodys_fault(
    server: RunningServer, work: Work, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = work.make({f"{n}.wav": clip(n, size) for n in range(3)})
    given = open

    def opening(path: Any, *arguments: Any, **more: Any) -> Any:
        if path == str(paths[1]):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return given(path, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", opening)
        with pytest.raises(DiskError, match=r"Too many open files.*; nothing is lost"):
            await work.run(server)
    await work.check(server, finished=False)
    ran = await work.run(server)
    assert ran.report.done == 3
    assert work.query("SELECT sum(changes) FROM file") == [(0,)]
    assert len(await contents_of(server)) == 3
    await work.check(server)


# ── clocks (C74)


@pytest.mark.parametrize("days", [-1, 1, -400, 400])
async def test_a_wrong_clock_finds_its_jobs(work: Work, days: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared with the server's times is reckoned by the server's own clock."""
    trouble = Trouble()
    work.make({f"{n}.wav": clip(n) for n in range(4)})
    async with running_server(api_key=KEY, idempotency=False, trouble=trouble) as server:
        monkeypatch.setattr("humebatch._transport.http.time", shifted(lambda: days * 86400.0))
        monkeypatch.setattr("humebatch._client.ingest.flow.time", shifted(lambda: days * 86400.0))
        monkeypatch.setattr("humebatch._client.ingest.journal.time", shifted(lambda: days * 86400.0))
        trouble.submissions("drop", 502, None, "cut")
        ran = await work.run(server, files_per_job=1)
        assert ran.report.done == ran.report.jobs == len(trouble.accepted) == 4
        assert ran.report.audited
        await work.check(server)


async def test_a_clock_that_is_set_back_in_the_middle(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    trouble = Trouble()
    work.make({f"{n}.wav": clip(n) for n in range(6)})

    def back() -> float:
        return -3600.0 * len(trouble.accepted)

    for module in ("humebatch._transport.http", "humebatch._client.ingest.flow", "humebatch._client.ingest.journal"):
        monkeypatch.setattr(f"{module}.time", shifted(back))
    async with running_server(api_key=KEY, idempotency=False, trouble=trouble) as server:
        trouble.submissions("drop", None, 504, None, "drop", None)
        ran = await work.run(server, files_per_job=1)
        assert ran.report.done == ran.report.jobs == len(trouble.accepted) == 6
        await work.check(server)


def shifted(by: Callable[[], float]) -> Any:
    """The module `time` of a machine whose clock is so many seconds ahead."""

    class Shifted:
        def __getattr__(self, name: str) -> Any:
            return getattr(time, name)

        @staticmethod
        def time() -> float:
            return time.time() + by()

        @staticmethod
        def time_ns() -> int:
            return time.time_ns() + int(by() * 1e9)

    return Shifted()


# ── one journal (C71 to C73)


async def test_a_second_ingest_on_one_journal_is_refused(server: RunningServer, work: Work) -> None:
    work.make({f"{n}.wav": clip(n) for n in range(3)})
    async with (
        hb.BatchClient(base_url=server.base_url, api_key=KEY, clock=FakeClock()) as client,
        client.ingest(work.inputs, models=BURST, journal=work.journal, out=work.out, files_per_job=2) as outcomes,
    ):
        await anext(outcomes)
        (other,) = await steps(work, server, "ingest")
        assert other["errors"][0] == "ConfigError" and f"in use by process {os.getpid()} on" in other["errors"][1]
        assert other["requests"] == 0
        assert len([outcome async for outcome in outcomes]) == 2
    (after,) = await steps(work, server, "ingest")
    assert (after["done"], after["requests"]) == (3, 1)
    await work.check(server)


async def test_a_journal_of_another_server_is_refused_until_told_otherwise(work: Work) -> None:
    (a,) = work.make({"a.wav": clip("a")})
    async with running_server(api_key=KEY) as one, running_server(api_key=KEY) as other:
        await work.run(one)
        with pytest.raises(ConfigError, match="its server is"):
            await work.run(other)
        assert await asyncio.to_thread(other.jobs) == []
        assert (await work.run(other, rebind=True)).report.done == 1  # there is nothing to ask it for
        assert await asyncio.to_thread(other.jobs) == []
        a.write_bytes(clip("another"))
        await work.run(other)
        assert await contents_of(other) == [md5_of(clip("another"))]
