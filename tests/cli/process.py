"""`humebatch` as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

KEY = "canary-key-9f3b"


class Ran(NamedTuple):
    code: int
    out: str
    err: str


def humebatch(*arguments: str | Path, cwd: Path, **environment: str) -> Ran:
    done = subprocess.run(
        [sys.executable, "-m", "humebatch", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert KEY not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)
