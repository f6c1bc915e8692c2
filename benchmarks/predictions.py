"""Decoding side by side: `python -m benchmarks.predictions [--rows decode,memory,tables,parquet] [--json FILE]`.

Face and prosody rows of a seeded generator (`benchmarks.data`), in one source. Every contender runs in a fresh process
(`benchmarks.decoders`), imported and warmed up by a few rows, does its work once, and the contenders of a row take
turns; the ratio is that of the medians. Memory is anonymous memory (RssAnon) above what the process held before, at
its peak, read by the parent every few milliseconds. `hume` is installed into `build/` on first use.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.data import write_predictions, write_rows
from benchmarks.machine import facts, print_facts
from benchmarks.vendor import environment

HUME = "hume==0.13.13"
MB = 1_000_000
SIZE = 46 * MB
BIG = 2000 * MB
# The vendor's client takes half a minute for the whole: it gets a tenth of it, and is compared by MB/s.
SMALL = 4.6 * MB
ROOT = Path(__file__).parent.parent


def run_once(contender: str, path: Path) -> dict[str, Any]:
    """A contender in a fresh process: seconds, and the peak of its anonymous memory above what it held before."""
    python = str(environment(HUME)) if contender == "hume" else sys.executable
    command = [python, str(Path(__file__).with_name("decoders.py")), contender, str(path)]
    variables = {**os.environ, "PYTHONPATH": "" if contender == "hume" else str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        if not first:
            raise RuntimeError(f"{contender} ended before it began")
        held = json.loads(first)["held"]
        over = threading.Event()
        peaks = [held]
        watcher = threading.Thread(target=_watch, args=(process.pid, peaks, over))
        watcher.start()
        last = process.stdout.readline()
        over.set()
        watcher.join()
        if not last:
            raise RuntimeError(f"{contender} ended before it was done")
        done = json.loads(last)
        process.stdout.read()
    return {"seconds": done["seconds"], "extra": max(*peaks, done["after"]) - held, "peak": max(*peaks, done["after"])}


def _watch(pid: int, peaks: list[int], over: threading.Event) -> None:
    while not over.wait(0.005):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            peaks.append(int(status.split("RssAnon:")[1].split()[0]) * 1024)
        except (OSError, IndexError):  # gone, or just going
            return


def measure(contenders: Sequence[str], path: Path, small: Path, rounds: int) -> dict[str, Any]:
    """Speed in MB of JSON per second and extra memory in sizes of the input, medians over `rounds`."""
    runs: dict[str, list[dict[str, Any]]] = {contender: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            runs[contender].append(run_once(contender, small if contender == "hume" else path))
    figures = {}
    for contender, results in runs.items():
        size = (small if contender == "hume" else path).stat().st_size
        figures[contender] = {
            "speed": size / MB / statistics.median(result["seconds"] for result in results),
            "extra": statistics.median(result["extra"] for result in results) / size,
            "peak_mb": max(result["peak"] for result in results) / MB,
        }
    return figures


def show(title: str, figures: dict[str, Any], goals: dict[str, float], ours: str) -> None:
    """A table: speeds, ratios of ours to each, and the extra memory."""
    print(f"\n{title}")
    print(f"  {'':30}{'MB/s':>9}{'extra memory':>15}{f'{ours} is':>26}{'goal':>8}")
    for contender, figure in figures.items():
        ratio = "" if contender == ours else f"{figures[ours]['speed'] / figure['speed']:.1f}×"
        goal = f"{goals[contender]:g}×" if contender in goals else ""
        print(f"  {contender:30}{figure['speed']:>9,.1f}{figure['extra']:>13.2f} ×{ratio:>26}{goal:>8}")


ROWS: dict[str, tuple[str, tuple[str, ...], dict[str, float], str]] = {
    "decode": (
        "typed decode, face and prosody, 46 MB",
        ("humebatch", "humebatch+scores", "humebatch iterating", "hume", "json", "msgspec"),
        {"hume": 200, "json": 5},
        "humebatch",
    ),
    "tables": (
        "JSON to Arrow tables of all scores, 46 MB (the others get the rows as lines, taken apart for them)",
        ("humebatch.tables", "humebatch.tables of structs", "pyarrow.json", "polars"),
        {"pyarrow.json": 2},
        "humebatch.tables",
    ),
}
MEMORY_GOALS = {"humebatch iterating": 0.35, "humebatch": 3.0}
PARQUET_GOAL_MB = 300


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="decode,tables,parquet", help="which tables")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contender")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there")
    chosen = parser.parse_args()
    print_facts()
    everything: dict[str, Any] = {"facts": facts(), "rounds": chosen.rounds}
    with tempfile.TemporaryDirectory(prefix="humebatch-benchmark-") as name:
        path, small = Path(name, "predictions.json"), Path(name, "small.json")
        write_predictions(path, SIZE)
        write_predictions(small, int(SMALL))
        write_rows(Path(name, "rows"), path)
        for row in chosen.rows.split(","):
            if row in ROWS:
                title, contenders, goals, ours = ROWS[row]
                everything[row] = measure(contenders, path, small, chosen.rounds)
                show(title, everything[row], goals, ours)
        if "decode" in everything:
            print()
            for contender, most in MEMORY_GOALS.items():
                extra = everything["decode"][contender]["extra"]
                print(f"  goal: {contender}: at most {most:g} × the input: {'met' if extra <= most else 'MISSED'}")
        if "parquet" in chosen.rows.split(","):
            big = Path(name, "big.json")
            write_predictions(big, BIG)
            everything["parquet"] = found = measure(["parquet"], big, small, 1)["parquet"]
            print(f"\n{BIG / 1e9:g} GB of predictions to Parquet: {found['speed']:,.0f} MB/s")
            met = "met" if found["peak_mb"] < PARQUET_GOAL_MB else "MISSED"
            print(
                f"  anonymous memory: {found['peak_mb']:.0f} MB at its peak (goal: under {PARQUET_GOAL_MB} MB: {met})"
            )
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
