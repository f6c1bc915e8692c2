"""Signals: one line, an exit code, and nobody's recordings left lying in a temporary folder."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from humebatch.cli import interrupt


def started(*arguments: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "humebatch", *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(true: object, what: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not callable(true) or not true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def uploads(temporary: Path) -> list[Path]:
    """What the server in there has accepted."""
    return list(temporary.glob("*/jobs/*/input/0"))


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_run_that_is_ended_leaves_no_uploads(tmp_path: Path, number: signal.Signals, code: int) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    (tmp_path / "long.txt").write_text("I am happy, and you are not. " * 200_000)
    with started("run", "long.txt", "--models", "language", cwd=tmp_path, TMPDIR=str(temporary)) as process:
        until(lambda: uploads(temporary), "nothing was uploaded")
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    if number != signal.SIGKILL:
        assert "Stopped; not finished: 1 file. Run the same command again to go on." in err
        assert err.splitlines()[-1] == "humebatch: interrupted"
        assert os.listdir(temporary) == []
    until(lambda: os.listdir(temporary) == [], "the child did not remove its folder")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("module", ["typer"])
def test_a_signal_during_the_imports(tmp_path: Path, number: signal.Signals, code: int, module: str) -> None:
    stub = tmp_path / "stubs" / f"{module}.py"
    stub.parent.mkdir()
    stub.write_text(f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(20)\n")
    with started("--help", cwd=tmp_path, PYTHONPATH=str(stub.parent)) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, "", "humebatch: interrupted\n")


def test_a_signal_during_the_import_of_the_command_line(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import os, runpy, signal, sys

        class Finder:
            def find_spec(self, name, path=None, target=None):
                if name == "humebatch.cli":
                    os.kill(os.getpid(), signal.SIGINT)

        sys.meta_path.insert(0, Finder())
        runpy.run_module("humebatch", run_name="__main__")
        """
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "humebatch: interrupted\n")


def test_retries_are_told_and_can_be_interrupted(tmp_path: Path) -> None:
    with started("status", "x", "--base-url", "http://127.0.0.1:9", cwd=tmp_path) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "no connection to http://127.0.0.1:9" in line
        assert "trying again in" in line
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "humebatch: interrupted"


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    script = f"trap '' HUP; exec {sys.executable} -m humebatch status x --base-url http://127.0.0.1:9"
    with subprocess.Popen(["sh", "-c", script], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 143


@pytest.mark.anyio
async def test_work_in_a_thread_ends_with_its_command() -> None:
    began, ended = threading.Event(), threading.Event()

    def work(check: Callable[[], None]) -> None:
        began.set()
        try:
            while True:
                check()
        finally:
            ended.set()

    task = asyncio.create_task(interrupt.in_thread(work))
    await asyncio.to_thread(began.wait)
    task.cancel()  # as the first signal does
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(ended.wait, 60)
