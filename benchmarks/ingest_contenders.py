"""The contenders of the ingest benchmark: `python -m benchmarks.ingest_contenders NAME`, told the rest on stdin.

Each runs in a process of its own, reads one line of JSON, does its work and prints one line of JSON. `hume` runs in an
environment of its own and must not need anything of ours, so nothing here is imported at the top.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import resource
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

KEY = "benchmark"
FILES_PER_JOB = 100
# A caller of the vendor's client has to follow the job; seconds.
_POLL = 0.1
_PATIENCE = 60.0


def _peak() -> int:
    # VmHWM, for ru_maxrss still holds the size of the process which started this one; elsewhere there is no better.
    try:
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# The fault script: per scene a server and some files, one call for each, all calls at once.


async def hume_calls(scenes: list[dict[str, Any]], **_: Any) -> Any:
    """The vendor's client: a call per file with the retry that it has by default, then the predictions of its job."""

    async def call(client: Any, file: str, out: str) -> dict[str, Any]:
        job_id: str | None = None
        saved = Path(out, f"{Path(file).name}.json")
        try:
            (job_id,) = await _hume_jobs(client, [[file]], [[saved]])
        except Exception as error:  # noqa: BLE001 - whatever it raises ended the call
            return {"file": file, "job_id": job_id, "error": f"{type(error).__name__}: {error}"[:200], "saved": None}
        return {"file": file, "job_id": job_id, "error": None, "saved": str(saved)}

    async def play(scene: dict[str, Any]) -> dict[str, Any]:
        client = _hume_client(scene["base_url"])
        began = time.perf_counter()
        calls = await asyncio.gather(*(call(client, file, scene["out"]) for file in scene["files"]))
        return {"calls": calls, "seconds": time.perf_counter() - began}

    return await asyncio.gather(*map(play, scenes))


def _hume_client(base_url: str) -> Any:
    from hume import AsyncHumeClient  # type: ignore[import-not-found]  # lives in an environment of its own

    client = AsyncHumeClient(api_key=KEY, base_url=base_url)
    # Its first access builds the client and imports what it needs.
    _ = client.expression_measurement.batch
    return client


async def _hume_jobs(client: Any, groups: list[list[str]], saved: list[list[Path]]) -> list[str]:
    """A job per group, followed to its end; each file's source of the predictions is written to its path."""
    from hume.expression_measurement.batch.types import (  # type: ignore[import-not-found]
        InferenceBaseRequest,
        Language,
        Models,
    )

    batch = client.expression_measurement.batch
    slots = asyncio.Semaphore(8)

    async def one(group: list[str], paths: list[Path]) -> str:
        async with slots:
            job_id = await batch.start_inference_job_from_local_file(
                file=_read(group),
                json=InferenceBaseRequest(models=Models(language=Language())),
            )
        deadline = time.monotonic() + _PATIENCE
        while (await batch.get_job_details(id=job_id)).state.status not in ("COMPLETED", "FAILED"):
            if time.monotonic() > deadline:
                raise TimeoutError(job_id)
            await asyncio.sleep(_POLL)
        sources = await batch.get_job_predictions(id=job_id)
        for path, source in zip(paths, sources, strict=True):
            path.write_text(json.dumps([source.dict()], default=str))
        return str(job_id)

    return await asyncio.gather(*(one(group, paths) for group, paths in zip(groups, saved, strict=True)))


def _read(group: list[str]) -> list[tuple[str, bytes]]:
    return [(os.path.basename(file), Path(file).read_bytes()) for file in group]


async def humebatch_calls(scenes: list[dict[str, Any]], grace: float, **_: Any) -> Any:
    """Ours: one ingest per scene, a job per file. `grace` matters where the server honours no keys."""
    import humebatch as hb

    async def play(scene: dict[str, Any]) -> dict[str, Any]:
        calls = []
        began = time.perf_counter()
        async with (
            hb.BatchClient(base_url=scene["base_url"], api_key=KEY) as client,
            client.ingest(
                scene["files"], models=hb.Models(language=hb.Language()), journal=Path(scene["out"], "run.db"),
                out=Path(scene["out"], "results"), files_per_job=1, policy=hb.IngestPolicy(grace=grace),
            ) as outcomes,
        ):  # fmt: skip
            async for outcome in outcomes:
                value = outcome.value
                calls.append(
                    {
                        "file": outcome.item,
                        "job_id": value.job_id if value else None,
                        "error": str(outcome.error)[:200] if outcome.error else None,
                        "saved": value.predictions if value else None,
                    }
                )
            report = await outcomes.report()
        return {"calls": calls, "seconds": time.perf_counter() - began, "told": len(report.duplicates)}

    return await asyncio.gather(*map(play, scenes))


# Planning: everything that comes before the first job, for many small files.


async def humebatch_plan(base_url: str, folder: str, journal: str, out: str, count: int, **_: Any) -> Any:
    """Ours: the real ingest against a server that takes nothing, stopped when the last group is in the journal."""
    import humebatch as hb

    groups = -(-count // FILES_PER_JOB)

    def planned() -> None:
        db = sqlite3.connect(f"file:{journal}?mode=ro", uri=True)
        while db.execute("SELECT count(*) FROM grp").fetchone()[0] < groups:
            time.sleep(0.01)
        db.close()

    # An ingest plans a little ahead of its uploads, so many uploads let it plan everything; one is tried at a time.
    limits = hb.Limits(uploads=max(8, groups))
    policy = hb.IngestPolicy(open_jobs=1, stop_within=0.1)
    async with hb.BatchClient(base_url=base_url, api_key=KEY, limits=limits) as client:
        began = time.perf_counter()
        async with client.ingest(
            folder, models=hb.Models(language=hb.Language()), journal=journal, out=out, policy=policy
        ) as outcomes:
            await asyncio.to_thread(planned)
            seconds = time.perf_counter() - began
            outcomes.stop()
            async for outcome in outcomes:
                raise RuntimeError(f"{outcome.item} has ended: {outcome.error}")
            report = await outcomes.report()
    assert (report.inputs, report.open) == (count, count), report
    return {"seconds": seconds, "peak": _peak()}


def by_hand_plan(folder: str, journal: str, **_: Any) -> Any:
    """What one writes by hand: walk, md5, a row for each file, a commit for every thousand."""
    began = time.perf_counter()
    db = sqlite3.connect(journal)
    db.execute("CREATE TABLE file (id INTEGER PRIMARY KEY, path TEXT UNIQUE, size INTEGER, md5 TEXT, state TEXT)")
    count = 0
    for parent, _folders, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            with open(path, "rb") as file:
                data = file.read()
            md5 = hashlib.md5(data).hexdigest()
            db.execute("INSERT INTO file (path, size, md5, state) VALUES (?, ?, ?, 'PLANNED')", (path, len(data), md5))
            count += 1
            if count % 1000 == 0:
                db.commit()
    db.commit()
    db.close()
    return {"seconds": time.perf_counter() - began, "peak": _peak()}


# The whole way: from files to results on disk.


async def hume_whole(base_url: str, folder: str, out: str, **_: Any) -> Any:
    """The vendor's client: a call for every hundred files, eight at once, and a file of results for each."""
    client = _hume_client(base_url)
    began = time.perf_counter()
    os.mkdir(out)
    files = sorted(os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names)
    groups = [files[start : start + FILES_PER_JOB] for start in range(0, len(files), FILES_PER_JOB)]
    saved = [[Path(out, f"{Path(file).name}.json") for file in group] for group in groups]
    await _hume_jobs(client, groups, saved)
    return {"seconds": time.perf_counter() - began, "peak": _peak()}


async def humebatch_whole(base_url: str, folder: str, journal: str, out: str, **_: Any) -> Any:
    """Ours: an ingest as anybody would call it."""
    import humebatch as hb

    async with hb.BatchClient(base_url=base_url, api_key=KEY) as client:
        began = time.perf_counter()
        async with client.ingest(
            folder, models=hb.Models(language=hb.Language()), journal=journal, out=out
        ) as outcomes:
            async for outcome in outcomes:
                outcome.unwrap()
    return {"seconds": time.perf_counter() - began, "peak": _peak()}


CONTENDERS: dict[str, Any] = {
    "hume_calls": hume_calls,
    "humebatch_calls": humebatch_calls,
    "humebatch_plan": humebatch_plan,
    "by_hand_plan": by_hand_plan,
    "hume_whole": hume_whole,
    "humebatch_whole": humebatch_whole,
}


def main(name: str, told: dict[str, Any]) -> None:
    """Run one contender."""
    found = CONTENDERS[name](**told)
    print(json.dumps(asyncio.run(found) if asyncio.iscoroutine(found) else found))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.stdin.readline()))
