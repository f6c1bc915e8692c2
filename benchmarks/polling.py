"""Watching 10,000 jobs: `python -m benchmarks.polling [--jobs N] [--json FILE] [--only model|server]`.

Two tables. The first is a model in virtual time: 50 server slots, 5 submissions a second, durations lognormal with
a median of 60 s: how many status requests each way of asking spends, and how late it knows of an end. The second is
a real `python -m humebatch.server --measure fixed` process: all jobs are submitted and watched by a client in a
process of its own, fresh for every contender and with a fresh server; requests are counted where they are sent.
"The loop stood still" is the longest that a 5 ms ticker on the client's event loop overslept.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import heapq
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio

import humebatch as hb
from benchmarks.machine import facts, print_facts
from humebatch._client.watch import watch
from humebatch._wire.sweep import Row
from humebatch.config import WatchPolicy
from humebatch.testing import FakeClock

KEY = "benchmark"
Timeline = list[tuple[float, float]]
GOALS = {"requests": 1500, "still_ms": 50.0, "rss_mb": 200.0}
SCENES = {
    "A": ("50 slots, 5 submissions/s, median 60 s", {"slots": 50, "rate": 5.0, "median": 60.0, "sigma": 0.8}),
    "B": ("500 slots, 20 submissions/s, median 60 s", {"slots": 500, "rate": 20.0, "median": 60.0, "sigma": 0.8}),
    "C": ("8 slots, 50 submissions/s, median 5 s", {"slots": 8, "rate": 50.0, "median": 5.0, "sigma": 0.6}),
}


# The model.


def timeline(count: int, *, slots: int, rate: float, median: float, sigma: float, seed: int = 1) -> Timeline:
    """(submitted, ended) of every job, in seconds."""
    rng = random.Random(seed)
    free = [0.0] * slots
    jobs = []
    for index in range(count):
        submitted = index / rate
        ended = max(submitted, heapq.heappop(free)) + rng.lognormvariate(math.log(median), sigma)
        heapq.heappush(free, ended)
        jobs.append((submitted, ended))
    return jobs


class Model:
    """A service in virtual time, as something that `watch` can follow."""

    def __init__(self, clock: FakeClock, jobs: Timeline) -> None:
        self.requests = 0
        self._clock = clock
        self._jobs = jobs
        self._order = sorted(range(len(jobs)), key=lambda index: jobs[index][1])
        self._ends = [jobs[index][1] for index in self._order]

    def check(self, job_id: str) -> None:
        """Every id is one."""

    def _row(self, index: int) -> Row:
        ended = self._jobs[index][1]
        over = ended <= self._clock.now()
        return Row(job_id=str(index), finished=over, ended=ended if over else None, body=str(index).encode(), size=450)

    async def details(self, job_id: str) -> Row:
        """One job."""
        self.requests += 1
        return self._row(int(job_id))

    async def ended(self, limit: int) -> list[Row]:
        """The newest ends."""
        self.requests += 1
        over = bisect.bisect_right(self._ends, self._clock.now())
        return [self._row(index) for index in reversed(self._order[max(0, over - limit) : over])]

    def read(self, row: Row) -> float:
        """When it ended."""
        return self._jobs[int(bytes(row.body))][1]


def ours(jobs: Timeline) -> tuple[int, list[float]]:
    """`watch`, the real thing, on a virtual clock, while the jobs are being submitted."""

    async def run() -> tuple[int, list[float]]:
        clock = FakeClock()
        service = Model(clock, jobs)

        async def submitted() -> AsyncIterator[str]:
            for index, (at, _) in enumerate(jobs):
                if at > clock.now():
                    await clock.sleep(at - clock.now())
                yield str(index)

        lags: dict[str, float] = {}
        async with watch(service, submitted(), policy=WatchPolicy(), clock=clock, polls=64) as finished:
            async for outcome in finished:
                assert outcome.item not in lags
                lags[outcome.item] = clock.now() - outcome.unwrap()
        assert len(lags) == len(jobs)
        return service.requests, list(lags.values())

    return anyio.run(run)


def each_job(next_wait: Callable[[float], float]) -> Callable[[Timeline], tuple[int, list[float]]]:
    """A GET per job after each wait; `next_wait` makes a wait from the one before (0 at first)."""

    def run(jobs: Timeline) -> tuple[int, list[float]]:
        requests, lags = 0, []
        for at, ended in jobs:
            now, wait = at, 0.0
            while now < ended:
                wait = next_wait(wait)
                now += wait
                requests += 1
            lags.append(now - ended)
        return requests, lags

    return run


_rng = random.Random(2)
MODELS: dict[str, Callable[[Timeline], tuple[int, list[float]]]] = {
    "humebatch watch": ours,
    "GET per job, every 5 s": each_job(lambda _: 5.0),
    "GET per job, 1, 2, 4 … 300 s (old SDK)": each_job(lambda last: min(300.0, 2 * last or 1.0)),
    "GET per job, decorrelated 2..60 s": each_job(lambda last: min(60.0, _rng.uniform(2.0, max(2.0, 3 * last)))),
}


def model_tables(count: int) -> list[dict[str, Any]]:
    """Print a table per scene; the rows as data."""
    rows: list[dict[str, Any]] = []
    for scene, (title, numbers) in SCENES.items():
        jobs = timeline(count, **numbers)  # type: ignore[arg-type]  # slots is the one int among them
        hours = max(end for _, end in jobs) / 3600
        print(f"\n{scene}: {count:,} jobs, {title}; {hours:.1f} h in virtual time")
        print(f"  {'':<40}{'requests':>12}{'lag p50':>10}{'p99':>10}")
        for name, run in MODELS.items():
            requests, lags = run(jobs)
            lags.sort()
            p50, p99 = lags[len(lags) // 2], lags[int(len(lags) * 0.99)]
            print(f"  {name:<40}{requests:>12,}{p50:>8.1f} s{p99:>8.1f} s")
            rows.append({"scene": scene, "contender": name, "requests": requests, "lag_p50": p50, "lag_p99": p99})
    return rows


# The real server.


async def _ticker(longest: list[float]) -> None:
    while True:
        before = time.perf_counter()
        await asyncio.sleep(0.005)
        longest[0] = max(longest[0], time.perf_counter() - before - 0.005)


def _submission(number: int) -> hb.Submission:
    return hb.Submission(text=[f"this is text number {number}"], models=hb.Models(language=hb.Language()))


async def _watched(client: hb.BatchClient, count: int) -> int:
    """Submit and watch at the same time: every job goes to the watch as soon as it has an id."""

    async def submitted() -> AsyncIterator[hb.Job]:
        async with client.submit_many(map(_submission, range(count))) as outcomes:
            async for outcome in outcomes:
                yield outcome.unwrap()

    delivered: set[str] = set()
    async with client.watch(submitted()) as finished:
        async for outcome in finished:
            assert outcome.item not in delivered
            assert outcome.unwrap().state.status == hb.Status.COMPLETED
            delivered.add(outcome.item)
    return len(delivered)


async def _waited(client: hb.BatchClient, count: int) -> int:
    """`Job.wait` for each, all at once: a task per job, and the client's own limit on requests."""
    async with client.submit_many(map(_submission, range(count))) as outcomes:
        waiting = [asyncio.create_task(outcome.unwrap().wait()) async for outcome in outcomes]
    return sum(details.state.status == hb.Status.COMPLETED for details in await asyncio.gather(*waiting))


CONTENDERS = {"watch": _watched, "wait": _waited}
_NAMES = {"watch": "client.watch(jobs)", "wait": "job.wait() in a task per job"}


async def _contend(name: str, base_url: str, count: int) -> None:
    """What a contender's process does; prints one line of JSON."""
    longest = [0.0]
    began = time.perf_counter()
    async with hb.BatchClient(base_url=base_url, api_key=KEY, limits=hb.Limits(uploads=32)) as client:
        ticker = asyncio.create_task(_ticker(longest))
        delivered = await CONTENDERS[name](client, count)
        seconds = time.perf_counter() - began
        ticker.cancel()
        stats = client.stats
    print(
        json.dumps(
            {
                "delivered": delivered,
                "requests": stats.requests - count,
                "resends": stats.resends,
                "seconds": seconds,
                "still_ms": longest[0] * 1000,
                "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "mb_received": stats.bytes_received / 1e6,
            }
        )
    )


def _against_a_server(name: str, count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="humebatch-benchmark-") as folder:
        server = subprocess.Popen(
            [sys.executable, "-m", "humebatch.server", "--data", folder, "--port", "0", "--measure", "fixed"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, hb.config.API_KEY_VARIABLE: KEY},
        )
        try:
            assert server.stdout is not None
            base_url = server.stdout.readline().strip()
            command = [sys.executable, "-m", "benchmarks.polling", "--contender", name, "--url", base_url]
            done = subprocess.run([*command, "--jobs", str(count)], stdout=subprocess.PIPE, text=True, check=True)
            usage = Path(f"/proc/{server.pid}/stat")
            ticks = usage.read_text().rpartition(")")[2].split() if usage.exists() else None
        finally:
            server.terminate()
            server.communicate()
    found: dict[str, Any] = {"contender": _NAMES[name], **json.loads(done.stdout)}
    if ticks is not None:
        found["server_cpu_s"] = (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")
    return found


def server_table(count: int) -> list[dict[str, Any]]:
    """Print the table of the real server; the rows as data."""
    print(f"\n{count:,} text jobs against a server process, 32 submissions at once, each contender in a fresh process")
    heads = f"{'delivered':>10}{'requests':>10}{'seconds':>9}{'stood still':>13}{'peak RSS':>10}{'server CPU':>12}"
    print(f"  {'':<32}{heads}")
    rows = []
    for name in CONTENDERS:
        row = _against_a_server(name, count)
        print(
            f"  {row['contender']:<32}{row['delivered']:>10,}{row['requests']:>10,}{row['seconds']:>9.1f}"
            f"{row['still_ms']:>10.1f} ms{row['rss_mb']:>7.0f} MB{row.get('server_cpu_s', 0.0):>10.1f} s"
        )
        rows.append(row)
    return rows


def main() -> None:
    """Print the tables, and whether the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=("model", "server"))
    parser.add_argument("--contender", choices=tuple(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.contender:
        asyncio.run(_contend(chosen.contender, chosen.url, chosen.jobs))
        return
    print_facts()
    found: dict[str, Any] = {"facts": facts(), "jobs": chosen.jobs, "goals": GOALS}
    if chosen.only != "server":
        found["model"] = model_tables(chosen.jobs)
        spent = found["model"][0]
        period = WatchPolicy().slowest
        print(f"\ngoal, A: at most {GOALS['requests']:,} requests: {_met(spent['requests'] <= GOALS['requests'])}")
        print(f"goal, A: p99 lag within one period ({period:g} s): {_met(spent['lag_p99'] <= period)}")
    if chosen.only != "model":
        found["server"] = server_table(chosen.jobs)
        row = found["server"][0]
        print(f"\ngoal: every job delivered: {_met(row['delivered'] == chosen.jobs)}")
        still = _met(row["still_ms"] <= GOALS["still_ms"])
        print(f"goal: the loop never stood still over {GOALS['still_ms']:g} ms: {still}")
        print(f"goal: under {GOALS['rss_mb']:g} MB RSS: {_met(row['rss_mb'] < GOALS['rss_mb'])}")
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")


def _met(yes: bool) -> str:
    return "met" if yes else "MISSED"


if __name__ == "__main__":
    main()
