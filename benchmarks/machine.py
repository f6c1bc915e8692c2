"""What every table says about where its figures come from."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path


def facts() -> dict[str, str]:
    """Commit, versions and machine, as text."""
    root = Path(__file__).parent.parent
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True).stdout
    dirty = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True).stdout
    versions = {name: importlib.metadata.version(name) for name in ("humebatch", "aiohttp", "msgspec", "anyio")}
    return {
        "commit": (commit.strip() or "unknown") + (" with changes" if dirty.strip() else ""),
        "python": platform.python_version(),
        **versions,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()} {platform.release()}",
    }


def print_facts() -> None:
    """One line above a table."""
    print(", ".join(f"{name} {value}" for name, value in facts().items()))
