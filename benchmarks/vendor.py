"""The vendor's client in an environment of its own: it pins libraries that we need newer."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

BUILD = Path(__file__).parent.parent / "build"


def environment(requirement: str) -> Path:
    """The Python of an environment below `build/` that has `requirement`, made when it is missing or incomplete.

    Raises `subprocess.CalledProcessError` with pip's words on stderr when it cannot be made.
    """
    folder = BUILD / f"vendor-{requirement.replace('==', '-')}"
    python = folder / "bin" / "python"
    # Written last, so an environment that was broken off is made anew; an other Python needs another one.
    complete = folder / "complete"
    wanted = f"{requirement} {sys.version}"
    if not (complete.exists() and complete.read_text() == wanted and python.exists()):
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=280)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement]
        subprocess.run(install, check=True, timeout=280)
        complete.write_text(wanted)
    return python
