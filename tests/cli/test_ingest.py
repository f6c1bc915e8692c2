"""`humebatch run` and its journal: stopped, gone on with, refused, killed, repeated; and `humebatch journal show`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from humebatch.testing import jobs_in

from .process import KEY, Ran, humebatch
from .scripted import answering, measured, source
from .test_interrupt import started, until


def texts(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"text of {name}")


def shown(journal: str, cwd: Path, *more: str) -> list[dict[str, Any]]:
    ran = humebatch("journal", "show", journal, "--json", *more, cwd=cwd)
    assert ran.code == 0, ran.err
    return [json.loads(line) for line in ran.out.splitlines()]


def run(cwd: Path, remote: dict[str, str], *more: str) -> Ran:
    return humebatch("run", "in", "--models", "language", "--out", "out", *more, cwd=cwd, **remote)


def test_the_same_command_again_submits_nothing(tmp_path: Path, remote: dict[str, str]) -> None:
    texts(tmp_path, "in/a.txt", "in/b/c.txt")
    first, second = run(tmp_path, remote), run(tmp_path, remote)
    assert (first.code, second.code) == (0, 0)
    assert sorted(first.out.splitlines()) == sorted(second.out.splitlines())
    *inputs, last = shown("out/journal.db", tmp_path)
    assert [(one["input"], one["state"]) for one in inputs] == [("in/a.txt", "DONE"), ("in/b/c.txt", "DONE")]
    assert (last["report"]["jobs"], last["report"]["attempts"]) == (1, 1)
    assert "0 bytes sent" in second.err
    index = [json.loads(line) for line in (tmp_path / "out" / "index.jsonl").read_text().splitlines()]
    assert index == inputs
    assert (tmp_path / "out" / index[1]["predictions"]).is_file()


def test_journal_show_says_what_is_where_and_why(tmp_path: Path, remote: dict[str, str]) -> None:
    texts(tmp_path, "in/a.txt", "in/line\nbreak.txt")
    (tmp_path / "in" / "empty.txt").write_bytes(b"")
    (tmp_path / "in" / "same.txt").write_text("text of a.txt".replace("a.txt", "in/a.txt"))
    ran = run(tmp_path, remote, "--journal", "run.db")
    assert ran.code == 1
    assert "retry" not in ran.err  # an empty file needs another content, and not another try
    assert not (tmp_path / "out" / "journal.db").exists()
    told = humebatch("journal", "show", "run.db", cwd=tmp_path)
    lines = told.out.splitlines()
    assert len(lines) == 4
    assert any(line.startswith("FAILED(EMPTY)  in/empty.txt") for line in lines)
    assert any("same as in/a.txt" in line for line in lines)
    assert any(r"in/line\nbreak.txt" in line for line in lines)
    assert "3 done, 1 failed, 0 parked, 0 open; 1 job, 1 submission" in told.err
    assert [one["input"] for one in shown("run.db", tmp_path, "--state", "FAILED")[:-1]] == ["in/empty.txt"]
    assert KEY.encode() not in (tmp_path / "run.db").read_bytes()


@pytest.mark.parametrize(("content", "said"), [(None, "no such file"), (b"text", "not a database")])
def test_journal_show_refuses_what_is_none(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "x.db").write_bytes(content)
    ran = humebatch("journal", "show", "x.db", cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


def test_another_configuration_is_refused_unless_told_otherwise(tmp_path: Path, remote: dict[str, str]) -> None:
    texts(tmp_path, "in/a.txt")
    assert run(tmp_path, remote).code == 0
    arguments = ("run", "in", "--models", '{"language": {"granularity": "sentence"}}', "--out", "out")
    refused = humebatch(*arguments, cwd=tmp_path, **remote)
    assert refused.code == 2
    assert "its config is" in refused.err
    assert "--rebind" in refused.err
    again = humebatch(*arguments, "--rebind", cwd=tmp_path, **remote)
    assert again.code == 0
    assert "; 2 jobs" in again.err, "measured as it is asked for now"


def test_a_journal_in_use_is_refused_with_its_holder(tmp_path: Path, remote: dict[str, str]) -> None:
    texts(tmp_path, "in/a.txt")
    assert run(tmp_path, remote).code == 0
    holder = (
        "import fcntl, sys\nlock = open('out/journal.db.lock', 'a+')\nfcntl.flock(lock, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        refused = run(tmp_path, remote)
        other.communicate()
    assert refused.code == 2
    assert "is in use by process " in refused.err
    assert f" on {socket.gethostname()} since " in refused.err
    assert run(tmp_path, remote).code == 0


def test_include_and_exclude(tmp_path: Path, remote: dict[str, str]) -> None:
    texts(tmp_path, "in/a.txt", "in/a.md", "in/old/b.txt", "in/c.txt")
    ran = run(tmp_path, remote, "--include", "*.txt", "--exclude", "old/", "--exclude", "c.*")
    assert (ran.code, ran.out) == (0, "out/in/a.txt/predictions.json\n"), ran.err


def test_more_than_a_hundred_files_per_job_go_as_one_archive(tmp_path: Path, remote: dict[str, str]) -> None:
    texts(tmp_path, *(f"in/{number:03}.txt" for number in range(120)))
    ran = run(tmp_path, remote, "--files-per-job", "500")
    assert ran.code == 0, ran.err
    assert "120 files: 120 measured" in ran.err
    assert "; 1 job;" in ran.err
    (source,) = json.loads((tmp_path / "out" / "in" / "077.txt" / "predictions.json").read_text())
    assert source["source"]["filename"] == "077.txt"
    assert [one["file"] for one in source["results"]["predictions"]] == ["077.txt"]


def test_failed_files_are_submitted_again_when_asked(tmp_path: Path) -> None:
    texts(tmp_path, "in/a.txt", "in/b.txt")
    attempts = []
    with answering([source("a.txt", predictions=[measured("a.txt")])]) as base_url:
        for more in ((), (), ("--retry-failed",)):
            ran = run(tmp_path, {}, "--base-url", base_url, *more)
            assert ran.code == 1 and "--retry-failed tries them again." in ran.err
            report = shown("out/journal.db", tmp_path)[-1]["report"]
            attempts.append(report["attempts"])
            assert report["failures"] == {"FAILED(NOT_MEASURED)": 1}
    assert attempts == [1, 1, 2]


def test_artifacts_are_saved_by_job_and_not_unpacked(tmp_path: Path, remote: dict[str, str]) -> None:
    texts(tmp_path, "in/a.txt", "in/artifacts")
    ran = run(tmp_path, remote, "--artifacts")
    assert ran.code == 0, ran.err
    (archive,) = (tmp_path / "out" / "artifacts").iterdir()
    assert archive.stem == shown("out/journal.db", tmp_path)[0]["job"]
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        assert opened.namelist()


@pytest.mark.parametrize("more", ["", "--json"])
def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path: Path, remote: dict[str, str], more: str) -> None:
    texts(tmp_path, *(f"in/{number:03}.txt" for number in range(60)))
    command = f"{sys.executable} -m humebatch run in --models language --out out --files-per-job 5 {more}"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -1; exit ${{PIPESTATUS[0]}}"],
        cwd=tmp_path,
        env={**os.environ, "LC_ALL": "C", "NO_COLOR": "1", **remote},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert len(list((tmp_path / "out").rglob("predictions.json"))) == 60


def test_nothing_to_measure(tmp_path: Path, remote: dict[str, str]) -> None:
    (tmp_path / "in").mkdir()
    ran = run(tmp_path, remote)
    assert (ran.code, ran.out) == (2, "")
    assert "in: no files in there" in ran.err


@contextlib.contextmanager
def silent() -> Iterator[tuple[str, threading.Event]]:
    """A server that takes submissions and never answers them; the event says that it has one."""
    taken = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            head = [lines.readline()]
            while head[-1].strip():
                head.append(lines.readline())
            if head[0].startswith(b"POST"):
                taken.set()
                over.wait()
                return
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nX-Humebatch-Capabilities: idempotency-key\r\nConnection: close\r\n"
                b"Content-Length: 2\r\n\r\n[]"
            )

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", taken
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_second_signal_is_immediate(tmp_path: Path, number: signal.Signals, code: int) -> None:
    texts(tmp_path, "in/a.txt")
    with silent() as (url, taken):
        with started("run", "in", "--base-url", url, cwd=tmp_path) as process:
            assert taken.wait(30)
            process.send_signal(number)
            # The first one lets what is in flight end; it does not, so the second must be what ends it.
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=0.5)
            process.send_signal(number)
            _, err = process.communicate(timeout=5)
        assert process.returncode == code
        assert err.splitlines()[-1] == "humebatch: interrupted"
    assert shown("humebatch-out/journal.db", tmp_path)[0]["state"] in ("SENDING", "UNKNOWN")


def test_a_signal_lets_what_is_in_flight_end_and_says_how_to_go_on(tmp_path: Path, remote: dict[str, str]) -> None:
    texts(tmp_path, *(f"in/{number:03}.txt" for number in range(60)))
    arguments = ("run", "in", "--models", "language", "--out", "out", "--files-per-job", "1")
    with started(*arguments, cwd=tmp_path, **remote) as process:
        until(lambda: any((tmp_path / "out").rglob("predictions.json")), "nothing was saved")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "Run the same command again to go on." in err
    again = humebatch(*arguments, cwd=tmp_path, **remote)
    assert again.code == 0, again.err
    report = shown("out/journal.db", tmp_path)[-1]["report"]
    assert (report["done"], report["jobs"], report["duplicates"]) == (60, 60, [])


def test_killed_and_run_again_there_is_one_job_per_group(tmp_path: Path) -> None:
    texts(tmp_path, *(f"in/{number:03}.txt" for number in range(40)))
    environment = {**os.environ, "HUME_API_KEY": KEY}
    serve = [sys.executable, "-m", "humebatch", "serve", "--data", "data", "--port", "0", "--measure", "fixed"]
    with subprocess.Popen(serve, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        remote = {"HUMEBATCH_BASE_URL": server.stdout.readline().strip(), "HUME_API_KEY": KEY}
        arguments = ("run", "in", "--models", "language", "--out", "out", "--files-per-job", "4")
        with started(*arguments, cwd=tmp_path, **remote) as process:
            until(lambda: any((tmp_path / "data").glob("jobs/*")), "nothing was accepted")
            process.kill()
            process.communicate(timeout=30)
        again = humebatch(*arguments, cwd=tmp_path, **remote)
        server.terminate()
        server.wait(30)
    assert again.code == 0, again.err
    jobs = jobs_in(tmp_path / "data")
    assert len(jobs) == 10
    assert len({file.md5sum for job in jobs for file in job.request.files}) == 40


def test_a_server_that_is_away_is_temporary(tmp_path: Path) -> None:
    texts(tmp_path, "in/a.txt")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with started("run", "in", "--base-url", url, cwd=tmp_path) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 75
    assert "no connection to" in err
