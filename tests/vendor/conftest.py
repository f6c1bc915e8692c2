"""The vendor's own clients, each in an environment of its own: they pin libraries that we need newer."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BUILD = Path(__file__).parent.parent.parent / "build"


def environment(requirement: str) -> Path:
    """The Python of an environment that has `requirement`, made when it is missing or incomplete."""
    folder = BUILD / f"vendor-{requirement.replace('==', '-')}"
    python = folder / "bin" / "python"
    # Written last, so an environment that was broken off is made anew; an other Python needs another one.
    complete = folder / "complete"
    wanted = f"{requirement} {sys.version}"
    if not (complete.exists() and complete.read_text() == wanted and python.exists()):
        shutil.rmtree(folder, ignore_errors=True)
        for command in (
            [sys.executable, "-m", "venv", str(folder)],
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement],
        ):
            ended = subprocess.run(command, capture_output=True, text=True, timeout=280)
            assert ended.returncode == 0, f"{' '.join(command)}\n{ended.stdout}{ended.stderr}"
        complete.write_text(wanted)
    return python


@pytest.fixture(scope="session")
def hume_python() -> Path:
    """A Python with the last release of the vendor's client that speaks this API."""
    return environment("hume==0.13.13")


@pytest.fixture(scope="session")
def legacy_python() -> Path:
    """A Python with the vendor's first-generation client (`HumeBatchClient`, on requests)."""
    return environment("hume==0.4.2")
