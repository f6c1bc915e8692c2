"""Ingests in which nothing goes wrong: what is measured, what is told, and what the next run finds to do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import humebatch as hb
from humebatch._client.ingest.run import Ingest
from humebatch.config import IngestPolicy
from humebatch.errors import ConfigError
from humebatch.testing import Answer, FakeClock, RunningServer, Trouble, running_server
from tests._client.ingest.runs import BURST, KEY, Work, clip, contents_of, md5_of

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("stray_exceptions")]


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


@pytest.fixture
async def trouble() -> Trouble:
    return Trouble()


@pytest.fixture(params=[True, False], ids=["keyed", "plain"])
async def server(request: pytest.FixtureRequest, trouble: Trouble) -> AsyncIterator[RunningServer]:
    """Both kinds: one that honours idempotency keys, and one like the hosted service."""
    async with running_server(api_key=KEY, idempotency=request.param, trouble=trouble) as running:
        yield running


@contextlib.asynccontextmanager
async def started(server: RunningServer, work: Work) -> AsyncIterator[Ingest]:
    """A run of one job for each file, to be done with as one likes."""
    asked: dict[str, Any] = {"models": BURST, "journal": work.journal, "out": work.out, "files_per_job": 1}
    async with (
        hb.BatchClient(base_url=server.base_url, api_key=server.api_key, clock=FakeClock()) as client,
        client.ingest(work.inputs, **asked) as running,
    ):
        yield running


async def test_every_file_has_its_results_in_its_place(server: RunningServer, work: Work) -> None:
    contents = {f"{folder}/clip{n}.wav": clip(f"{folder}{n}") for folder in ("a", "b/c") for n in range(4)}
    work.make(contents)
    ran = await work.run(server, files_per_job=3)
    assert set(ran.outcomes) == {str(work.inputs / name) for name in contents}
    for name, content in contents.items():
        outcome = ran.outcomes[str(work.inputs / name)]
        assert outcome.value is not None
        assert outcome.value.predictions == str(work.out / "in" / name / "predictions.json")
        assert outcome.value.errors == 0
        source = work.result(f"in/{name}")["source"]
        assert (source["filename"], source["md5sum"]) == (os.path.basename(name), md5_of(content))
    told = await work.check(server)
    assert {state for state, _ in told.groups.values()} == {"DONE"}
    assert {outcome.value.job_id for outcome in ran.outcomes.values() if outcome.value} == {
        job_id for _, job_id in told.groups.values()
    }
    report = ran.report
    assert (report.inputs, report.done, report.failed, report.parked, report.open) == (8, 8, 0, 0, 0)
    assert (report.jobs, report.attempts, report.resent, report.retries) == (3, 3, 0, 0)
    assert report.bytes == sum(map(len, contents.values()))
    assert report.saved == sum(path.stat().st_size for path in work.out.rglob("predictions.json"))
    assert report.audited and report.duplicates == []


async def test_the_index_names_every_input(server: RunningServer, work: Work) -> None:
    work.make({"a.wav": clip("a"), "b.wav": clip("a"), "empty.wav": b""})
    ran = await work.run(server)
    lines = [json.loads(line) for line in (work.out / "index.jsonl").read_text().splitlines()]
    a, b, empty = lines
    assert [line["input"] for line in lines] == [str(work.inputs / name) for name in ("a.wav", "b.wav", "empty.wav")]
    assert a["predictions"] == "in/a.wav/predictions.json"
    assert (work.out / a["predictions"]).is_file()
    assert b["same_as"] == a["input"] and b["job"] == a["job"] and b["md5"] == a["md5"] == md5_of(clip("a"))
    assert (empty["state"], empty["reason"]) == ("FAILED", "EMPTY") and "predictions" not in empty
    assert ran.report.identical == 1


async def test_a_second_run_sends_nothing_and_tells_everything_again(server: RunningServer, work: Work) -> None:
    work.make({f"{n}.wav": clip(n) for n in range(5)} | {"empty.wav": b""})
    first = await work.run(server, files_per_job=2)
    before = await contents_of(server)
    again = await work.run(server, files_per_job=2)
    assert {path: (one.value, str(one.error)) for path, one in again.outcomes.items()} == {
        path: (one.value, str(one.error)) for path, one in first.outcomes.items()
    }
    assert again.requests == 1  # whether the server is there
    assert again.report.attempts == first.report.attempts
    assert await contents_of(server) == before
    await work.check(server)


async def test_what_is_new_is_measured_and_nothing_else(server: RunningServer, work: Work) -> None:
    work.make({"a.wav": clip("a")})
    await work.run(server)
    work.make({"b.wav": clip("b")})
    ran = await work.run(server)
    assert len(ran.outcomes) == 2 and set(ran.reasons) == {None}
    assert await contents_of(server) == sorted([md5_of(clip("a")), md5_of(clip("b"))])


async def test_a_run_over_some_inputs_tells_of_those(server: RunningServer, work: Work) -> None:
    a, b = work.make({"a.wav": clip("a"), "b.wav": clip("b")})
    await work.run(server)
    ran = await work.run(server, [b])
    assert set(ran.outcomes) == {str(b)}
    assert ran.report.inputs == ran.report.done == 2  # of the journal
    assert a.exists()


async def test_jobs_that_have_not_ended_are_taken_up(server: RunningServer, work: Work) -> None:
    work.make({f"{n}.wav": clip(n) for n in range(4)})
    async with started(server, work) as running:
        async for _ in running:
            break
        # Left after the first outcome: some are jobs, some are not.
    ran = await work.run(server, files_per_job=1)
    assert ran.report.done == ran.report.jobs == 4
    assert len(await contents_of(server)) == 4
    await work.check(server)


async def test_stop_ends_in_good_order(server: RunningServer, work: Work) -> None:
    work.make({f"{n:02}.wav": clip(n) for n in range(30)})
    async with started(server, work) as running:
        seen = 0
        async for _ in running:
            seen += 1
            running.stop()
        assert running.stopped
        report = await running.report()
    assert report.open == 30 - report.done > 0
    assert seen == report.done and not report.audited
    await work.check(server, finished=False)
    assert not work.query("SELECT 1 FROM grp WHERE state IN ('SENDING', 'UNKNOWN')")
    ran = await work.run(server, files_per_job=1)
    assert ran.report.done == ran.report.jobs == len(await contents_of(server)) == 30
    await work.check(server)


async def test_failed_inputs_are_submitted_again_when_told_so(
    server: RunningServer, work: Work, trouble: Trouble
) -> None:
    good, other, empty = work.make({"good.wav": clip("good"), "other.wav": clip("other"), "empty.wav": b""})
    # Each job's answer is for nobody; the second one's comes when it is asked for again.
    nothing = Answer(200, {"Content-Type": "application/json"}, b"[]")
    trouble.answers("GET", "/predictions", nothing, None)
    ran = await work.run(server, files_per_job=1)
    assert sorted(map(str, ran.reasons)) == ["EMPTY", "NOT_MEASURED", "None"]
    (failed,) = (path for path in map(Path, ran.outcomes) if ran.reason(path) == "NOT_MEASURED")
    assert failed in (good, other)

    again = await work.run(server, files_per_job=1)
    assert again.reason(failed) == "NOT_MEASURED"
    assert again.report.attempts == 2

    empty.write_bytes(clip("filled"))
    retried = await work.run(server, files_per_job=1, retry_failed=True)
    assert set(retried.reasons) == {None}
    assert retried.report.attempts == 4
    assert sorted(await contents_of(server)) == sorted(
        [md5_of(clip("good")), md5_of(clip("other")), md5_of(clip("filled")), md5_of(failed.read_bytes())]
    )


async def test_only_what_is_included_and_not_excluded(server: RunningServer, work: Work) -> None:
    work.make({name: clip(name) for name in ("a.wav", "b.mp4", "old/c.wav", "new/d.wav")})
    ran = await work.run(server, include=["*.wav"], exclude="old/")
    assert {Path(path).name for path in ran.outcomes} == {"a.wav", "d.wav"}
    assert len(await contents_of(server)) == 2


async def test_relative_paths_stay_as_given(server: RunningServer, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    work.make({"a.wav": clip("a")})
    monkeypatch.chdir(work.folder)
    ran = await work.run(server, ["in"], journal="journal.db", out="out")
    value = ran.outcomes["in/a.wav"].value
    assert value is not None and os.path.samefile(value.predictions, work.out / "in/a.wav/predictions.json")
    assert (await work.run(server, "in")).report.attempts == 1  # the same places, however they are named


async def test_nothing_to_do(server: RunningServer, work: Work) -> None:
    ran = await work.run(server)
    assert ran.outcomes == {}
    assert ran.report.inputs == ran.report.attempts == 0
    assert (work.out / "index.jsonl").read_bytes() == b""
    assert ran.requests == 1


async def test_no_more_jobs_are_open_than_allowed(server: RunningServer, work: Work) -> None:
    work.make({f"{n}.wav": clip(n) for n in range(6)})
    most = 0

    class Counting(FakeClock):
        async def sleep(self, seconds: float, /) -> None:
            nonlocal most
            jobs = await asyncio.to_thread(server.jobs)
            rows = await asyncio.to_thread(
                work.query, "SELECT count(*) FROM grp WHERE state IN ('SENDING','SUBMITTED')"
            )
            most = max(most, rows[0][0])
            assert len(jobs) <= 6
            await super().sleep(seconds)

    ran = await work.run(server, clock=Counting(), files_per_job=1, policy=IngestPolicy(open_jobs=2))
    assert ran.report.done == ran.report.jobs == 6
    assert 1 <= most <= 2


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"files_per_job": 0}, "files_per_job"),
        ({"files_per_job": True}, "files_per_job"),
        ({"files_per_job": 100_001}, "files_per_job"),
        ({"include": ["a//b"]}, "include"),
        ({"paths": [3]}, "paths"),
    ],
)
async def test_arguments_that_make_no_sense(
    server: RunningServer, work: Work, wrong: dict[str, Any], field: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        await work.run(server, **wrong)
    assert caught.value.field == field
    assert not work.journal.exists()


async def test_errors_of_whoever_iterates_come_out_as_they_are(server: RunningServer, work: Work) -> None:
    class Own(Exception):
        pass

    work.make({f"{n}.wav": clip(n) for n in range(3)})

    def each(outcome: object) -> None:
        raise Own

    with pytest.raises(Own):
        await work.run(server, each=each, files_per_job=1)
    ran = await work.run(server, files_per_job=1)
    assert ran.report.done == 3 and len(await contents_of(server)) == 3


async def test_it_is_over_when_its_block_ends(server: RunningServer, work: Work) -> None:
    async with hb.BatchClient(base_url=server.base_url, api_key=server.api_key) as client:
        async with client.ingest(work.inputs, models=BURST, journal=work.journal, out=work.out) as running:
            pass
        with pytest.raises(ConfigError, match="over"):
            await anext(running)
        # And the journal is free for the next one.
        async with client.ingest(work.inputs, models=BURST, journal=work.journal, out=work.out):
            pass
