"""Ingest side by side: `python -m benchmarks.ingest [--only faults|planning|whole] [--files N] [--json FILE]`.

Three tables, every contender in a fresh process (`benchmarks.ingest_contenders`), every figure from this run:

- The fault script: the same list of faults, planted by `humebatch.testing.Trouble` in servers of their own, for the
  vendor's client with its default retry and for `client.ingest`. The jobs are counted in the server's own database.
  Lost is a call that ends without the id of a job that exists.
- Planning: small files scanned, hashed, grouped and written to the journal, beside a script as one writes it by hand.
- The whole way: small files sent, measured by `fixed`, and their results saved.

`hume` is installed into `build/` on first use.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.ingest_contenders import FILES_PER_JOB, KEY
from benchmarks.machine import facts, print_facts
from benchmarks.vendor import environment
from humebatch.testing import Before, RunningServer, Trouble, jobs_in, running_server
from humebatch.testing.trouble import SubmissionFault

HUME = "hume==0.13.13"
ROOT = Path(__file__).parent.parent
CALLS = 3
# Seconds. What is held comes so long after it was sent, and is in the list so long after that; the grace of an ingest
# is for both, and has some to spare for a busy machine.
LATE, LATE_LIST, GRACE = 1.0, 1.0, 3.5
MEMORY_GOAL = 150.0
WHOLE = 1000


# The fault script.


class Fault(NamedTuple):
    """What happens to the first submissions; `late_list`: what is made meanwhile is listed `LATE_LIST` later."""

    title: str
    submissions: tuple[SubmissionFault, ...] = ()
    late_list: bool = False


def _each(fault: SubmissionFault, tries: int) -> tuple[SubmissionFault, ...]:
    # All calls are made at once, so these are the first tries of them all, then the second, then the third.
    return (fault,) * (CALLS * tries)


FAULTS = (
    Fault("no fault"),
    Fault("accepted, then 502, once", _each(502, 1)),
    Fault("accepted, then 502, three times", _each(502, 3)),
    Fault("accepted, then 503, three times", _each(503, 3)),
    Fault("accepted, then 504, three times", _each(504, 3)),
    Fault("accepted, then 408, three times", _each(408, 3)),
    Fault("accepted, then 409, three times", _each(409, 3)),
    Fault("accepted, then 429, once", _each(429, 1)),
    Fault("accepted, then 429, three times", _each(429, 3)),
    Fault("accepted, then reset", _each("drop", 1)),
    Fault("accepted, then the answer is cut", _each("cut", 1)),
    Fault("reset, accepted a second later", _each("late", 1)),
    Fault("the same, listed another second later", _each("late", 1), late_list=True),
)


async def contend(name: str, **told: Any) -> Any:
    """A contender in a fresh process: what it printed."""
    vendor = name.startswith("hume_")
    python = str(environment(HUME)) if vendor else sys.executable
    process = await asyncio.create_subprocess_exec(
        python, str(Path(__file__).with_name("ingest_contenders.py")), name, env={
            **os.environ, "PYTHONPATH": "" if vendor else str(ROOT)
        }, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, why = await process.communicate(json.dumps(told).encode() + b"\n")
    if process.returncode:
        raise RuntimeError(f"{name}: {why.decode()[-2000:]}")
    return json.loads(said)


@contextlib.asynccontextmanager
async def troubled(fault: Fault, *, keyed: bool) -> AsyncIterator[tuple[RunningServer, Trouble]]:
    """A server with this fault planted in it, and somebody who delivers what it holds."""
    trouble = Trouble()
    trouble.submissions(*fault.submissions)
    async with running_server(api_key=KEY, idempotency=keyed, trouble=trouble) as server:
        trouble.hide_new_jobs = fault.late_list

        async def deliver() -> None:
            while True:
                await asyncio.sleep(0.01)
                if trouble.held:
                    await asyncio.sleep(LATE)
                    await trouble.release()
                    await asyncio.sleep(LATE_LIST)
                    trouble.hide_new_jobs = False

        late = asyncio.create_task(deliver())
        try:
            yield server, trouble
        finally:
            late.cancel()


async def play(contender: str, *, keyed: bool) -> list[dict[str, Any]]:
    """All faults at once, each with a server and files of its own; what was made, and what the caller knows of it."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="humebatch-benchmark-")))
        scenes, played = [], []
        for number, fault in enumerate(FAULTS):
            played.append(await stack.enter_async_context(troubled(fault, keyed=keyed)))
            out = folder / str(number)
            (out / "files").mkdir(parents=True)
            files = [out / "files" / f"clip-{call}.txt" for call in range(CALLS)]
            for call, path in enumerate(files):
                path.write_text(f"this is clip {call} of scene {number}")
            scenes.append({"base_url": played[-1][0].base_url, "out": str(out), "files": list(map(str, files))})
        results = await contend(contender, scenes=scenes, grace=GRACE)
        rows = []
        for fault, result, (server, trouble) in zip(FAULTS, results, played, strict=True):
            await trouble.release()  # what nobody waited for comes all the same
            rows.append(
                {
                    "fault": fault.title,
                    **await asyncio.to_thread(_counted, result, server.data),
                }
            )
        return rows


def _counted(result: dict[str, Any], data: Path) -> dict[str, Any]:
    jobs = Counter(job.request.files[0].md5sum for job in jobs_in(data))
    calls = [(hashlib.md5(Path(call["file"]).read_bytes()).hexdigest(), call) for call in result["calls"]]
    assert len(calls) == CALLS
    assert jobs.keys() <= {md5 for md5, _ in calls}
    return {
        "jobs": jobs.total(),
        "duplicates": sum(count - 1 for count in jobs.values()),
        "lost": sum(call["job_id"] is None and jobs[md5] > 0 for md5, call in calls),
        "saved": sum(
            call["saved"] is not None and len(json.loads(Path(call["saved"]).read_bytes())) for _, call in calls
        ),
        "seconds": result["seconds"],
        "told": result.get("told", 0),
        "errors": sorted({call["error"] for _, call in calls if call["error"]}),
    }


def show_faults(title: str, vendor: list[dict[str, Any]], ours: list[dict[str, Any]]) -> None:
    """Both contenders side by side, a line per fault, and the totals."""
    widths = {"jobs": 8, "duplicates": 12, "lost": 6, "saved": 7}
    print(f"\n{title}")
    print(f"  {'':40}{HUME:>40}{'humebatch':>40}")
    print(
        f"  {f'of {CALLS} calls each':40}"
        + 2 * ("".join(f"{name:>{width}}" for name, width in widths.items()) + "      s")
    )
    for one, other in zip(vendor, ours, strict=True):
        cells = ""
        for row in (one, other):
            cells += "".join(f"{row[name]:>{width}}" for name, width in widths.items()) + f"{row['seconds']:>7.1f}"
        print(f"  {one['fault']:40}{cells}")
    totals = ""
    for rows in (vendor, ours):
        totals += "".join(f"{sum(row[name] for row in rows):>{width}}" for name, width in widths.items()) + 7 * " "
    print(f"  {f'all {CALLS * len(FAULTS)} calls':40}{totals}".rstrip())


async def faults() -> dict[str, Any]:
    """Both kinds of servers; prints a table for each."""
    found: dict[str, Any] = {"calls": CALLS, "late": LATE, "late_list": LATE_LIST, "grace": GRACE}
    for kind, keyed, title in (
        ("keys", True, "Faults, on a server that honours idempotency keys"),
        (
            "no keys",
            False,
            f"Faults, on a server without idempotency keys; late by {LATE:g} s, grace of the ingest {GRACE:g} s",
        ),
    ):
        vendor = await play("hume_calls", keyed=keyed)
        ours = await play("humebatch_calls", keyed=keyed)
        found[kind] = {"hume": vendor, "humebatch": ours}
        show_faults(title, vendor, ours)
        goals: dict[str, Callable[[dict[str, Any]], bool]] = {
            "no call makes more than one job": lambda row: not row["duplicates"],
            "no job is lost": lambda row: not row["lost"],
            "its report names every job too many": lambda row: row["told"] == row["duplicates"],
            "all results are saved": lambda row: row["saved"] == CALLS,
        }
        for goal, holds in goals.items():
            missed = [row["fault"] for row in ours if not holds(row)]
            print(f"  goal: humebatch: {goal}: {_met(not missed)}{': ' * bool(missed)}{'; '.join(missed)}")
    return found


# Planning, and the whole way.


def make_files(folder: Path, count: int, more: str = "") -> None:
    """So many different small texts, a thousand to a folder."""
    for number in range(count):
        parent = folder / f"{number // 1000:03}"
        if number % 1000 == 0:
            parent.mkdir(parents=True)
        (parent / f"clip-{number:06}.txt").write_text(f"clip {number}{more}")


async def planning(count: int) -> dict[str, Any]:
    """Prints the table of planning."""
    with tempfile.TemporaryDirectory(prefix="humebatch-benchmark-") as name:
        folder = Path(name)
        make_files(folder / "files", count, more=". Everything is fine." * 9)
        # A server that is there, and takes nothing: every submission is read and answered by 503.
        trouble = Trouble()
        trouble.submissions(*[Before(503)] * 1000)
        async with running_server(api_key=KEY, trouble=trouble) as server:
            found: dict[str, Any] = {}
            for contender, shown in (("humebatch_plan", "humebatch"), ("by_hand_plan", "by hand")):
                journal = folder / f"{contender}.db"
                told = {"folder": str(folder / "files"), "journal": str(journal), "out": str(folder / "results")}
                found[shown] = await contend(contender, base_url=server.base_url, count=count, **told)
                with contextlib.closing(sqlite3.connect(journal)) as db:
                    rows = db.execute("SELECT count(DISTINCT md5) FROM file").fetchone()[0]
                assert rows == count, f"{shown}: {rows} files are in the journal"
                found[shown]["disk"] = journal.stat().st_size
        show_speeds(
            f"{count:,} files of some 200 bytes: found, hashed, in groups of {FILES_PER_JOB}, journaled", found, count
        )
    peak = found["humebatch"]["peak"] / 1e6
    print(f"  goal: humebatch: under {MEMORY_GOAL:.0f} MB RSS: {_met(peak < MEMORY_GOAL)}")
    return found


async def whole(count: int) -> dict[str, Any]:
    """Prints the table of the whole way."""
    with tempfile.TemporaryDirectory(prefix="humebatch-benchmark-") as name:
        folder = Path(name)
        make_files(folder / "files", count)
        found: dict[str, Any] = {}
        for contender, shown in (("humebatch_whole", "humebatch"), ("hume_whole", HUME)):
            out = folder / contender
            told = {"folder": str(folder / "files"), "journal": f"{out}.db", "out": str(out)}
            async with running_server(api_key=KEY) as server:
                found[shown] = await contend(contender, base_url=server.base_url, **told)
            saved = sum(len(json.loads(path.read_bytes())) for path in out.rglob("*.json"))
            assert saved == count, f"{shown}: {saved} results"
        show_speeds(
            f"{count:,} files of two words, {FILES_PER_JOB} to a job: sent, measured by `fixed`, saved", found, count
        )
    return found


def show_speeds(title: str, found: dict[str, Any], count: int) -> None:
    """A table of speeds, with ours against each."""
    print(f"\n{title}")
    disk = "disk" in found["humebatch"]
    print(f"  {'':18}{'files/s':>10}{'peak MB':>10}{'journal MB' if disk else '':>12}{'humebatch is':>16}")
    ours = found["humebatch"]["seconds"]
    for contender, row in found.items():
        ratio = "" if contender == "humebatch" else f"{row['seconds'] / ours:.2f}×"
        journal = f"{row['disk'] / 1e6:.1f}" if disk else ""
        print(f"  {contender:18}{count / row['seconds']:>10,.0f}{row['peak'] / 1e6:>10.0f}{journal:>12}{ratio:>16}")


def _met(yes: bool) -> str:
    return "met" if yes else "MISSED"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("faults", "planning", "whole"), help="one table")
    parser.add_argument("--files", type=int, default=100_000, help=f"to plan; the whole way has {WHOLE} of them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    chosen = parser.parse_args()
    print_facts()
    found: dict[str, Any] = {"facts": facts(), "files": chosen.files}
    if chosen.only in (None, "faults"):
        found["faults"] = asyncio.run(faults())
    if chosen.only in (None, "planning"):
        found["planning"] = asyncio.run(planning(chosen.files))
    if chosen.only in (None, "whole"):
        found["whole"] = asyncio.run(whole(min(WHOLE, chosen.files)))
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
