"""The README is true: its code blocks and commands are run as they stand, and it names every command."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.demo_media import MEDIA
from humebatch.server.measure import carried
from tests.tables import answers

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
MAKE = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line.startswith("make ")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files that the README's examples speak of."""
    # The model file too: on a new machine nobody may have run `make demo` before the tests.
    found = carried.fetch_all([*carried.TABLE.values(), MEDIA["astronaut.png"]])
    shutil.copy(found["astronaut.png"], tmp_path)
    answers.saved(tmp_path, name="talk.json")
    answers.zipped(tmp_path).rename(tmp_path / "saved.zip")
    (tmp_path / "letter.txt").write_text("I miss you every single day. Thank you for the photographs!\n")
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=120)
        finally:
            # A block that fails half-way may leave its server behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, out + err
    return out


def blocks(kind: str) -> list[str]:
    return [text for name, text in BLOCKS if name == kind and not text.startswith("make ")]


def one_job(out: str, folder: Path) -> None:
    assert "Joy" in out
    assert "Gratitude" in out
    assert (folder / "artifacts.zip").stat().st_size > 0


def many_jobs(out: str, _: Path) -> None:
    lines = out.splitlines()
    assert len({line.split()[0] for line in lines[:-1]}) == 20
    assert all(line.split()[1] == "1" for line in lines[:-1])
    assert lines[-1].startswith("Stats(")


def every_file_once(out: str, folder: Path) -> None:
    *inputs, report = out.splitlines()
    assert inputs
    assert all("predictions.json" in line for line in inputs)
    assert report.startswith("IngestReport(")
    assert (folder / "results/letter.txt/predictions.json").is_file()
    assert (folder / "results/index.jsonl").is_file()


def rows_of_faces(out: str, _: Path) -> None:
    rows = out.splitlines()
    assert rows
    assert all("Score(name=" in row for row in rows)


def tables_of_all_kinds(out: str, folder: Path) -> None:
    assert "Anger" in out
    assert 'a "quoted", one' in out
    assert (folder / "dataset/face/part-00000.parquet").is_file()
    assert (folder / "csv/file-0-talk.mp4/csv/talk.mp4/face.csv").is_file()


@pytest.mark.parametrize(
    ("number", "check"),
    [(0, one_job), (1, many_jobs), (2, every_file_once), (3, rows_of_faces), (4, tables_of_all_kinds)],
)
def test_python_blocks_run(number: int, check: Callable[[str, Path], None], folder: Path) -> None:
    (folder / "block.py").write_text(blocks("python")[number])
    check(run([sys.executable, "block.py"], folder), folder)


@pytest.mark.parametrize("number", range(len(blocks("bash"))))
def test_shell_blocks_run(number: int, folder: Path) -> None:
    # As written, but for the port: 8765 may be taken on the machine that runs the tests.
    with socket.create_server(("127.0.0.1", 0)) as free:
        script = blocks("bash")[number].replace("8765", str(free.getsockname()[1]))
    run(["bash", "-euo", "pipefail", "-c", script], folder)
    made = re.findall(r"--out (\S+)", script)
    assert made and all((folder / name).exists() for name in made)


def test_no_block_goes_untested() -> None:
    assert {kind for kind, _ in BLOCKS} == {"python", "bash"}
    assert len(blocks("python")) == 5, "each is run by test_python_blocks_run with a check of its own"
    assert BLOCKS[0] == ("bash", "make demo\nmake test\n"), "the two commands stand at the top"


def test_ci_runs_the_make_commands() -> None:
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in {*MAKE, *re.findall(r"`(make \w+)`", README)}:
        assert line.split()[1] in targets
        assert line in ci


def test_every_command_is_named() -> None:
    out = run([sys.executable, "-m", "humebatch", "--help"], ROOT)
    commands = re.findall(r"^│ ([a-z]+) ", out, re.MULTILINE)
    assert "serve" in commands
    for command in commands:
        assert re.search(rf"humebatch {command}\b", README), f"README does not name `humebatch {command}`"


def test_the_picture_of_the_house_is_the_house() -> None:
    picture = README[README.index("```\nhumebatch/\n") :].split("```")[1]
    drawn = set(re.findall(r"(\w+\.py)\b", picture))
    built = {
        path.name
        for path in (ROOT / "humebatch").rglob("*.py")
        if "measure" not in path.parts and "cli" not in path.parts and path.name != "__init__.py"
    }
    assert built - drawn == set() or built - drawn == {"__main__.py"}
    assert drawn - built - {"__init__.py", "__main__.py"} == set()


def test_changelog_has_this_version() -> None:
    import importlib.metadata

    assert f"## {importlib.metadata.version('humebatch')}" in (ROOT / "CHANGELOG.md").read_text()
