"""Larger than memory: what writing takes in a fresh process, looked at every few milliseconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from humebatch.server.artifacts import build

from . import answers

# Anonymous memory: what is the process's own, without the pages of a mapped file.
WATCHED = """
import json, sys, threading, time
from pathlib import Path
from humebatch import tables
from humebatch.tables.merging import merge

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) // 1024

def watch():
    while not done.wait(0.003):
        seen.append(anonymous())

what, path, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
seen, done = [], threading.Event()
before = anonymous()
watcher = threading.Thread(target=watch)
watcher.start()
if what == "merge":
    merge([path], out, "parquet", lambda: None)
else:
    getattr(tables, what)(path, out)
done.set()
watcher.join()
print(json.dumps({"before": before, "peak": max(seen)}))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 MB of rows in a single group of a single file: the largest single thing that there can be."""
    return answers.large(tmp_path_factory.mktemp("large"), 60_000_000)


def growth(what: str, path: Path, out: Path) -> int:
    ran = subprocess.run(
        [sys.executable, "-c", WATCHED, what, str(path), str(out)], capture_output=True, text=True, check=True
    )
    memory: dict[str, int] = json.loads(ran.stdout)
    return memory["peak"] - memory["before"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel does not say")
def test_memory_is_bounded(large: Path, tmp_path: Path) -> None:
    # MB. Structs of all rows take three times the file, which is 180; figures of 2 GB are in the README.
    assert growth("write_parquet", large, tmp_path / "parquet") < 130
    assert growth("write_csv", large, tmp_path / "csv") < 30


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel does not say")
def test_memory_is_bounded_for_zips(large: Path, tmp_path: Path) -> None:
    build(large, tmp_path / "a.zip")
    assert growth("merge", tmp_path / "a.zip", tmp_path / "out") < 150
