"""Uploads side by side: `python -m benchmarks.uploads [--rows plain,tls,small,memory] [--rounds N] [--json FILE]`.

Every contender runs in a fresh process against the same kind of sink (`benchmarks.sink`, a fresh one per run), the
contenders of a row take turns, and the ratio is that of the medians. Absolute figures drift with the machine; the
ratios of one run are what counts. `hume` is installed into `build/` on first use; `curl` must be on the PATH.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import facts, print_facts
from benchmarks.vendor import environment

MIB = 1024 * 1024
HUME = "hume==0.13.13"


class Row(NamedTuple):
    """One table: `files` files of `size` bytes, `at_once` at a time; `goals` are ours against each contender."""

    title: str
    files: int
    size: int
    at_once: int
    tls: bool
    contenders: Sequence[str]
    goals: dict[str, float]
    unit: str
    sparse: bool = False


ROWS = {
    "plain": Row(
        "8 × 128 MiB, 4 at once, plain HTTP", 8, 128 * MIB, 4, False,
        ("humebatch", "humebatch+uvloop", "hume", "aiohttp", "curl", "sendfile"),
        {"hume": 2.0, "curl": 1.1, "sendfile": 0.7}, "MB/s",
    ),
    "tls": Row(
        "8 × 128 MiB, 4 at once, TLS", 8, 128 * MIB, 4, True,
        ("humebatch", "humebatch+uvloop", "hume", "aiohttp", "curl"),
        {"hume": 1.5, "curl": 1.1}, "MB/s",
    ),
    "small": Row(
        "400 × 256 KiB, one job each, 16 at once", 400, MIB // 4, 16, False,
        ("humebatch", "humebatch+uvloop", "hume", "aiohttp"), {"hume": 4.0}, "files/s",
    ),
    "memory": Row(
        "4 × 2 GiB (sparse), 4 at once: peak memory", 4, 2048 * MIB, 4, False,
        ("humebatch", "humebatch+uvloop", "hume", "aiohttp"), {}, "MB RSS", sparse=True,
    ),
}  # fmt: skip
MEMORY_GOAL = 80.0


def make_files(folder: Path, row: Row) -> list[str]:
    """The row's files, written once so that they are in the page cache."""
    paths = []
    block = os.urandom(min(row.size, MIB))
    for number in range(row.files):
        path = folder / f"{number:04}.wav"
        with path.open("wb") as file:
            if row.sparse:
                file.truncate(row.size)
            else:
                for _ in range(row.size // len(block)):
                    file.write(block)
        paths.append(str(path))
    return paths


def certificate(folder: Path) -> tuple[str, str]:
    """A self-signed certificate for 127.0.0.1."""
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", key, "-out", cert, "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


def command(contender: str, base_url: str, row: Row, files: list[str]) -> list[str]:
    """What starts a contender."""
    if contender == "curl":
        parts = ["curl", "--silent", "--show-error", "--fail", "--parallel", "--parallel-max", str(row.at_once)]
        for number, path in enumerate(files):
            if number:
                parts += ["--next", "--silent", "--show-error", "--fail"]
            parts += ["-F", 'json={"models":{"face":{}}}', "-F", f"file=@{path}", "-o", os.devnull]
            parts.append(base_url + "/v0/batch/jobs")
        return parts
    python = str(environment(HUME)) if contender == "hume" else sys.executable
    script = str(Path(__file__).with_name("senders.py"))
    return [python, script, contender, base_url, str(row.at_once), *files]


def run_once(contender: str, row: Row, files: list[str], tls: tuple[str, str] | None) -> dict[str, Any]:
    """One contender in a fresh process against a fresh sink."""
    sink_command = [sys.executable, "-m", "benchmarks.sink"]
    if tls:
        sink_command += ["--tls", *tls]
    root = Path(__file__).parent.parent
    with subprocess.Popen(sink_command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sink:
        assert sink.stdin is not None
        assert sink.stdout is not None
        base_url = f"http{'s' if tls else ''}://127.0.0.1:{sink.stdout.readline().strip()}"
        # The variable by which all of them can be told to trust the certificate.
        trust = {"SSL_CERT_FILE": tls[0], "CURL_CA_BUNDLE": tls[0]} if tls else {}
        began = time.perf_counter()
        done = subprocess.run(
            command(contender, base_url, row, files),
            env={**os.environ, **trust, "PYTHONPATH": str(root) if contender != "hume" else ""},
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        took = time.perf_counter() - began
        sink.stdin.close()
        sink.wait()
    if done.returncode:
        raise RuntimeError(f"{contender}: {done.stderr[-2000:]}")
    # curl says nothing of itself: its whole run is timed, a few milliseconds of start included.
    return json.loads(done.stdout) if done.stdout else {"seconds": took, "peak": None}


def measure(row: Row, rounds: int) -> dict[str, Any]:
    """All contenders of a row, in turns."""
    contenders = [one for one in row.contenders if one != "curl" or shutil.which("curl")]
    runs: dict[str, list[dict[str, Any]]] = {contender: [] for contender in contenders}
    with tempfile.TemporaryDirectory(prefix="humebatch-benchmark-") as name:
        folder = Path(name)
        tls = certificate(folder) if row.tls else None
        files = make_files(folder, row)
        for _ in range(rounds):
            for contender in contenders:
                runs[contender].append(run_once(contender, row, files, tls))
    figures = {}
    for contender, results in runs.items():
        seconds = statistics.median(result["seconds"] for result in results)
        amount = row.files if row.unit == "files/s" else row.files * row.size / 1e6
        peaks = [result["peak"] for result in results if result["peak"]]
        figures[contender] = {
            "seconds": seconds,
            "speed": amount / seconds,
            "peak_mb": max(peaks) / 1e6 if peaks else None,
        }
    return figures


def show(row: Row, figures: dict[str, Any]) -> None:
    """The row's table: losers too, and how far each goal is met."""
    print(f"\n{row.title}")
    ours = figures["humebatch"]
    unit = "files/s" if row.unit == "files/s" else "MB/s"
    print(f"  {'':18}{unit:>10}{'peak MB':>10}{'humebatch is':>16}{'goal':>8}")
    for contender, figure in figures.items():
        peak = f"{figure['peak_mb']:.0f}" if figure["peak_mb"] else "–"
        ratio, goal = "", ""
        if not contender.startswith("humebatch"):
            ratio = f"{ours['speed'] / figure['speed']:.2f}×"
            goal = f"{row.goals[contender]:.1f}×" if contender in row.goals else ""
        elif row.unit == "MB RSS":
            goal = f"<{MEMORY_GOAL:.0f} MB"
        print(f"  {contender:18}{figure['speed']:>10,.0f}{peak:>10}{ratio:>16}{goal:>8}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help="which tables")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there")
    chosen = parser.parse_args()
    print_facts()
    everything: dict[str, Any] = {"facts": facts(), "rounds": chosen.rounds}
    for name in chosen.rows.split(","):
        row = ROWS[name]
        everything[name] = {"title": row.title, "goals": row.goals, "figures": measure(row, chosen.rounds)}
        show(row, everything[name]["figures"])
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
