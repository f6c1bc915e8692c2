"""Corners of an ingest that a reader has found: twins, poison, slow callers, two runs on one folder."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import humebatch as hb
from humebatch._client.ingest import fetching, inputs
from humebatch._client.ingest.fetching import Fetcher
from humebatch._client.ingest.grouping import Grouping, group_inputs, set_aside
from humebatch._client.ingest.journal import Group, Journal
from humebatch._client.ingest.storing import store
from humebatch.config import IngestPolicy
from humebatch.errors import ConfigError, DiskError, InputFailed
from humebatch.testing import Answer, Before, FakeClock, RunningServer, Trouble, running_server
from tests._client.ingest.runs import BURST, KEY, Work, clip, md5_of
from tests._client.ingest.test_grouping import hash_all, journal, take

pytestmark = pytest.mark.anyio


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


@pytest.fixture
async def trouble() -> Trouble:
    return Trouble()


@pytest.fixture
async def troubled(stray_exceptions: list[Any], trouble: Trouble) -> Any:
    async with running_server(api_key=KEY, trouble=trouble) as running:
        yield running


def group_of(db: Any, path: str) -> Group:
    (group_id,) = db.execute("SELECT grp FROM file WHERE path = ?", (os.fsencode(path),)).fetchone()
    return Group.by_id(db, group_id)


ALONE = Grouping(config=1, files=1, bytes=1000, tagged=False)


def test_the_twin_of_a_file_that_is_given_up_is_measured() -> None:
    with journal() as db:
        take(db, "a", "b")
        ended: list[inputs.Ended] = []
        states: dict[bytes, str] = {}
        for _ in range(4):
            ended = hash_all(db, md5s={"a": "m", "b": "m"})
            group_inputs(db, ALONE, most=9, final=True)
            states = dict(db.execute("SELECT path, state FROM file"))
            if states[b"a"] == "GROUPED":
                assert set_aside(db, group_of(db, "a"), b"a", detail="touched")
        assert [one.path for one in ended] == [b"a"], "it changed again and again"
        assert states == {b"a": "FAILED", b"b": "GROUPED"}


def test_nobody_is_the_same_as_somebody_who_is_the_same_as_another() -> None:
    with journal() as db:
        take(db, "a", "b")
        hash_all(db, md5s={"a": "m", "b": "m"})
        group_inputs(db, ALONE, most=9, final=True)
        set_aside(db, group_of(db, "a"), b"a", detail="touched")
        # Found while the first one is looked at again.
        take(db, "c")
        (first,) = db.execute("SELECT id FROM file WHERE path = X'61'").fetchone()
        db.execute("UPDATE file SET state = 'READY' WHERE id = ?", (first,))
        hash_all(db, md5s={"c": "m"})
        db.execute("UPDATE file SET state = 'FOUND' WHERE id = ?", (first,))
        db.execute("UPDATE file SET state = 'READY', same_as = NULL WHERE path = X'63'")
        hash_all(db, md5s={"a": "m"})
        assert db.execute(
            "SELECT count(*) FROM file JOIN file AS other ON other.id = file.same_as WHERE other.same_as IS NOT NULL"
        ).fetchone() == (0,)
        assert dict(db.execute("SELECT path, state FROM file")) == {b"a": "SAME", b"b": "SAME", b"c": "READY"}


async def test_a_group_that_never_gets_an_answer_is_parked_while_others_get_theirs(
    troubled: RunningServer, trouble: Trouble, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.make({f"{number}.wav": clip(number) for number in range(12)} | {"0-poison.wav": clip("poison")})
    submit = hb.BatchClient._submit

    async def poisoned(client: hb.BatchClient, planned: Any, progress: Any = None) -> str:
        request = await planned()
        if "0-poison.wav" in request.filenames:
            raise hb.SubmissionUnknown("502 to everything")

        async def again() -> Any:
            return request

        return await submit(client, again, progress)

    monkeypatch.setattr(hb.BatchClient, "_submit", poisoned)
    ran = await work.run(troubled, files_per_job=1, client={"limits": hb.Limits(uploads=1)})
    assert ran.report.failures == {"PARKED(UNKNOWN)": 1}
    assert ran.reason(work.inputs / "0-poison.wav") == "UNKNOWN"
    assert ran.report.done == 12
    monkeypatch.undo()
    again = await work.run(troubled, files_per_job=1)
    assert again.report.done == 13
    await work.check(troubled)


async def test_results_that_never_come_are_left_to_the_next_run(
    troubled: RunningServer, trouble: Trouble, work: Work
) -> None:
    work.make({"a.wav": clip("a")})
    trouble.answers("GET", "/predictions", *[Answer(500)] * 100)
    ran = await work.run(troubled, client={"retry": hb.RetryPolicy(attempts=1)}, policy=IngestPolicy(max_outage=86400))
    assert ran.report.failures in ({"PARKED(STALLED)": 1}, {})
    trouble.answers("GET", "/predictions")
    while trouble.left:
        await work.run(troubled, client={"retry": hb.RetryPolicy(attempts=1)})
    again = await work.run(troubled)
    assert (again.report.done, again.report.jobs) == (1, 1)


async def test_a_full_disk_while_results_are_copied_is_a_disk_error(
    troubled: RunningServer, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.make({"a.wav": clip("same")})
    assert (await work.run(troubled)).report.done == 1
    work.make({"b.wav": clip("same")})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("humebatch._client.ingest.fetching._copy_saved", full)
    with pytest.raises(DiskError, match="No space left"):
        await work.run(troubled)
    monkeypatch.undo()
    assert (await work.run(troubled)).report.done == 2
    await work.check(troubled)


async def test_two_runs_do_not_share_a_folder_for_results(troubled: RunningServer, work: Work) -> None:
    work.make({"a.wav": clip("a")})
    async with (
        hb.BatchClient(base_url=troubled.base_url, api_key=KEY) as client,
        client.ingest(work.inputs, models=BURST, journal=work.journal, out=work.out) as first,
    ):
        with pytest.raises(ConfigError, match="in use by another run") as refused:
            await work.run(troubled, journal=work.folder / "other.db")
        assert refused.value.field == "out"
        assert [outcome.error async for outcome in first] == [None]


async def test_a_caller_that_takes_its_time_holds_up_nobody(troubled: RunningServer, work: Work) -> None:
    first, second = work.make({"a.wav": clip("a"), "b.wav": clip("b")})
    go_on = threading.Event()

    def slowly() -> Iterator[Path]:
        yield first
        go_on.wait(30)
        yield second

    try:
        async with hb.BatchClient(base_url=troubled.base_url, api_key=KEY) as client:
            given = slowly()
            async with client.ingest(
                given, models=BURST, journal=work.journal, out=work.out, files_per_job=1
            ) as running:
                with anyio.fail_after(20):
                    running.stop()
                    assert [outcome async for outcome in running] == []
                assert running.stopped
    finally:
        go_on.set()
    ran = await work.run(troubled, [first, second])
    assert ran.report.done == 2


async def test_a_folder_with_the_name_of_the_index(troubled: RunningServer, work: Work) -> None:
    work.make({"index.jsonl/a.wav": clip("a"), "journal.db/b.wav": clip("b")})
    ran = await work.run(troubled, [work.inputs / "index.jsonl", work.inputs / "journal.db"])
    assert ran.report.done == 2
    assert (work.out / "index.jsonl").is_file()
    assert (work.out / "index.jsonl~2" / "a.wav" / "predictions.json").is_file()


async def test_a_file_and_its_results_both_gone(troubled: RunningServer, work: Work) -> None:
    (path,) = work.make({"a.wav": clip("a")})
    ran = await work.run(troubled, [path])
    saved = ran.outcomes[str(path)].unwrap().predictions
    path.unlink()
    os.unlink(saved)
    again = await work.run(troubled, [path])
    assert again.outcomes[str(path)].unwrap().predictions == saved
    assert os.path.exists(saved)
    assert again.report.attempts == 1


async def test_a_report_is_of_its_run_and_can_be_had_after_it(troubled: RunningServer, work: Work) -> None:
    work.make({"a.wav": clip("a")})
    async with hb.BatchClient(base_url=troubled.base_url, api_key=KEY, clock=FakeClock()) as client:
        for run in range(2):
            async with client.ingest(work.inputs, models=BURST, journal=work.journal, out=work.out) as running:
                if run == 0:
                    async for outcome in running:
                        assert not isinstance(outcome.error, InputFailed)
            report = await running.report()
            assert (report.done, report.sent > 0) == (1, run == 0)


async def test_hashing_ends_when_nobody_waits_for_it(troubled: RunningServer, work: Work) -> None:
    work.inputs.joinpath("huge.wav").touch()
    os.truncate(work.inputs / "huge.wav", 200 * 2**30)
    async with (
        hb.BatchClient(base_url=troubled.base_url, api_key=KEY) as client,
        client.ingest(work.inputs, models=BURST, journal=work.journal, out=work.out) as running,
    ):
        while not running._flow.scanned:
            await asyncio.sleep(0.01)
        running.stop()
        assert [outcome async for outcome in running] == []
    ours = str(work.inputs)
    with anyio.fail_after(20):  # the thread lets go of the file after the piece that it reads
        while any(ours in path for path in open_files()):
            await asyncio.sleep(0.01)


def open_files() -> list[str]:
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return found


async def test_another_configuration_is_measured_anew(troubled: RunningServer, work: Work) -> None:
    work.make({"a.wav": clip("a"), "same.wav": clip("a"), "b.wav": clip("b")})
    assert (await work.run(troubled)).report.jobs == 1
    prosody = hb.Models(prosody=hb.Prosody())
    ran = await work.run(troubled, models=prosody, rebind=True)
    assert (ran.report.done, ran.report.jobs) == (3, 2)
    for name in ("a.wav", "same.wav", "b.wav"):
        (measured,) = work.result(os.path.join(b"in", name.encode()))["results"]["predictions"]
        assert list(measured["models"]) == ["prosody"]
    assert (await work.run(troubled, models=prosody)).report.attempts == 2


@pytest.mark.parametrize("where", ["under way", "touched"])
async def test_what_an_earlier_configuration_left_on_the_way_is_measured_anew(
    where: str, troubled: RunningServer, work: Work
) -> None:
    work.make({"a.wav": clip("a"), "same.wav": clip("a")})
    if where == "under way":
        async with (
            hb.BatchClient(base_url=troubled.base_url, api_key=KEY) as client,
            client.ingest(work.inputs, models=BURST, journal=work.journal, out=work.out) as running,
        ):
            while not running._flow.open_jobs:
                await asyncio.sleep(0.001)
    else:
        await work.run(troubled)
        work.change("UPDATE file SET state = 'FOUND'")  # as a run leaves it that is killed after the scan
    prosody = hb.Models(prosody=hb.Prosody())
    ran = await work.run(troubled, models=prosody, rebind=True)
    assert (ran.report.done, ran.report.jobs) == (2, 2)
    for name in ("a.wav", "same.wav"):
        (measured,) = work.result(os.path.join(b"in", name.encode()))["results"]["predictions"]
        assert list(measured["models"]) == ["prosody"]
    assert (await work.run(troubled, models=prosody)).report.attempts == 2


async def test_what_was_refused_as_asked_before_is_asked_anew(
    troubled: RunningServer, trouble: Trouble, work: Work
) -> None:
    work.make({"a.wav": clip("a")})
    trouble.submissions(Before(422))
    for _ in range(2):
        assert (await work.run(troubled)).report.failures == {"FAILED(REFUSED)": 1}
    assert (await work.run(troubled, models=hb.Models(prosody=hb.Prosody()), rebind=True)).report.done == 1


PROSODY = hb.Models(prosody=hb.Prosody())


def measured_as(work: Work, name: str) -> tuple[str, list[str]]:
    """The md5 and the models of an input's saved results."""
    source = work.result(os.path.join("in", name))
    (found,) = source["results"]["predictions"]
    return source["source"]["md5sum"], list(found["models"])


@pytest.mark.parametrize("rebind", [False, True])
async def test_a_twin_that_was_empty_for_a_while_has_a_job(rebind: bool, troubled: RunningServer, work: Work) -> None:
    _, twin = work.make({"a.wav": clip("a"), "b.wav": clip("a")})
    await work.run(troubled)
    twin.write_bytes(b"")
    assert (await work.run(troubled)).report.failures == {"FAILED(EMPTY)": 1}
    twin.write_bytes(clip("a"))
    more: dict[str, Any] = {"models": PROSODY, "rebind": True} if rebind else {}
    assert (await work.run(troubled, **more)).report.done == 2
    (work.out / "in" / "b.wav" / "predictions.json").unlink()
    ran = await work.run(troubled, **more)
    assert (ran.report.done, ran.report.jobs) == (2, 2 if rebind else 1)
    assert measured_as(work, "a.wav") == measured_as(work, "b.wav")
    assert measured_as(work, "b.wav") == (md5_of(clip("a")), ["prosody" if rebind else "burst"])


@pytest.mark.parametrize("rebind", [False, True])
async def test_a_twin_that_is_touched_while_the_other_changes(
    rebind: bool, troubled: RunningServer, work: Work
) -> None:
    changed, touched = work.make({"a.wav": clip("a"), "b.wav": clip("a")})
    (job_id,) = {outcome.unwrap().job_id for outcome in (await work.run(troubled)).outcomes.values()}
    changed.write_bytes(clip("other"))
    os.utime(touched, ns=(1, 1))
    more: dict[str, Any] = {"models": PROSODY, "rebind": True} if rebind else {}
    ran = await work.run(troubled, **more)
    assert (ran.outcomes[str(touched)].unwrap().job_id == job_id) is not rebind
    (work.out / "in" / "b.wav" / "predictions.json").unlink()
    assert (await work.run(troubled, **more)).report.done == 2
    model = "prosody" if rebind else "burst"
    assert measured_as(work, "a.wav") == (md5_of(clip("other")), [model])
    assert measured_as(work, "b.wav") == (md5_of(clip("a")), [model])


async def test_the_twin_of_what_was_refused_is_asked_anew(
    troubled: RunningServer, trouble: Trouble, work: Work
) -> None:
    first, twin = work.make({"a.wav": clip("a"), "b.wav": clip("a")})
    trouble.submissions(Before(422))
    assert (await work.run(troubled)).report.failures == {"FAILED(REFUSED)": 2}
    assert (await work.run(troubled, [first], models=PROSODY, rebind=True)).report.done == 1
    ran = await work.run(troubled, [first, twin], models=PROSODY)
    assert (ran.report.done, ran.report.jobs) == (2, 1)
    assert measured_as(work, "b.wav") == (md5_of(clip("a")), ["prosody"])


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_copy_that_is_overtaken_by_another_configuration(
    when: str, troubled: RunningServer, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = work.make({"a.wav": clip("a"), "b.wav": clip("a")})
    await work.run(troubled)
    work.change("UPDATE file SET state = 'SAME', saved = NULL, sha256 = NULL WHERE id = 2")  # killed before its copy
    copying, copied, other = threading.Event(), Fetcher._copied, threading.Event()

    def slowly(*args: Any) -> Any:
        done = copied(*args) if when == "after" else None
        copying.set()
        other.wait(1.0)  # until the scan and a while
        return done if done is not None else copied(*args)

    monkeypatch.setattr(Fetcher, "_copied", slowly)

    def found() -> Iterator[Path]:
        copying.wait(30)
        yield from paths

    ran = await work.run(troubled, found(), models=PROSODY, rebind=True)
    monkeypatch.undo()
    assert ran.report.done == 2
    for _ in range(2):
        assert measured_as(work, "a.wav") == measured_as(work, "b.wav") == (md5_of(clip("a")), ["prosody"])
        assert (await work.run(troubled, models=PROSODY)).report.attempts == ran.report.attempts


@pytest.mark.parametrize("when", ["before", "after"])
async def test_results_that_are_saved_over_those_of_what_the_input_is_by_now(
    when: str, troubled: RunningServer, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = work.make({"a.wav": clip("a"), "b.wav": clip("a")})
    await work.run(troubled)
    # Killed when their job had ended, and then one of them changes.
    work.change("UPDATE file SET state = iif(id = 1, 'GROUPED', 'SAME'), saved = NULL, sha256 = NULL")
    work.change("UPDATE grp SET state = 'ENDED'")
    paths[1].write_bytes(clip("z"))
    storing, told = threading.Event(), threading.Event()

    def slowly(*args: Any, **more: Any) -> Any:
        if storing.is_set():
            return store(*args, **more)
        storing.set()
        done = store(*args, **more) if when == "after" else None
        told.wait(30)
        return done if done is not None else store(*args, **more)

    monkeypatch.setattr(fetching, "store", slowly)

    def found() -> Iterator[Path]:
        storing.wait(30)
        yield from paths

    ran = await work.run(troubled, found(), each=lambda _: told.set())
    monkeypatch.undo()
    assert ran.report.done == 2
    assert measured_as(work, "a.wav")[0] == md5_of(clip("a"))
    assert measured_as(work, "b.wav")[0] == md5_of(clip("z"))
    await work.check(troubled)


async def test_a_rebind_that_is_refused_changes_nothing(troubled: RunningServer, work: Work) -> None:
    work.make({"a.wav": clip("a")})
    await work.run(troubled)
    other = work.folder / "other"
    other.mkdir()
    held = os.open(other, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="in use by another run"):
            await work.run(troubled, out=other, rebind=True)
    finally:
        os.close(held)
    assert (await work.run(troubled)).report.done == 1


async def test_cancelled_twice_while_the_journal_is_opened(
    troubled: RunningServer, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.make({"a.wav": clip("a")})
    there, go = threading.Event(), threading.Event()
    opening = Journal.open

    def slowly(*args: Any, **more: Any) -> Journal:
        opened = opening(*args, **more)
        there.set()
        go.wait(30)
        return opened

    monkeypatch.setattr(Journal, "open", slowly)
    task = asyncio.create_task(work.run(troubled))
    assert await asyncio.to_thread(there.wait, 30)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.undo()
    assert (await work.run(troubled)).report.done == 1


async def test_files_that_change_while_their_job_runs_are_measured_again_in_the_same_run(
    troubled: RunningServer, work: Work
) -> None:
    first, same, _ = work.make({"a.wav": clip("a"), "same.wav": clip("a"), "b.wav": clip("b")})
    async with (
        hb.BatchClient(base_url=troubled.base_url, api_key=KEY) as client,
        client.ingest(work.inputs, models=BURST, journal=work.journal, out=work.out) as running,
    ):
        while not running._flow.open_jobs:
            await asyncio.sleep(0.001)
    first.write_bytes(clip("changed"))
    same.write_bytes(clip("changed, too"))
    ran = await work.run(troubled)
    assert ran.report.done == 3
    for path, content in ((first, "changed"), (same, "changed, too")):
        assert work.result(os.path.join(b"in", os.fsencode(path.name)))["source"]["md5sum"] == md5_of(clip(content))
    assert (await work.run(troubled)).report.attempts == ran.report.attempts


async def test_a_file_that_is_only_touched_while_its_job_runs_is_not_measured_again(
    troubled: RunningServer, work: Work
) -> None:
    (path,) = work.make({"a.wav": clip("a")})
    async with (
        hb.BatchClient(base_url=troubled.base_url, api_key=KEY) as client,
        client.ingest(work.inputs, models=BURST, journal=work.journal, out=work.out) as running,
    ):
        while not running._flow.open_jobs:
            await asyncio.sleep(0.001)
    os.utime(path, ns=(1, 1))
    ran = await work.run(troubled)
    assert (ran.report.done, ran.report.attempts) == (1, 1)
    await work.check(troubled)


async def test_each_input_is_told_once_however_slowly_it_is_found(troubled: RunningServer, work: Work) -> None:
    paths = work.make({f"{number}.wav": clip(number) for number in range(3)})
    async with (
        hb.BatchClient(base_url=troubled.base_url, api_key=KEY) as client,
        client.ingest(paths, models=BURST, journal=work.journal, out=work.out) as running,
    ):
        while not running._flow.open_jobs:
            await asyncio.sleep(0.001)
    told = threading.Event()

    def slowly() -> Iterator[Path]:
        told.wait(30)
        yield from paths

    ran = await work.run(troubled, slowly(), each=lambda _: told.set())  # fails when one is told twice
    assert len(ran.outcomes) == 3


async def test_relative_paths_belong_to_a_folder(
    troubled: RunningServer, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.make({"one/x.wav": clip("one"), "two/x.wav": clip("two")})
    monkeypatch.chdir(work.inputs / "one")
    assert (await work.run(troubled, ["x.wav"])).report.done == 1
    monkeypatch.chdir(work.inputs / "two")
    with pytest.raises(ConfigError, match=r"its relative paths begin at .*/one"):
        await work.run(troubled, ["x.wav"])


async def test_results_that_somebody_has_changed_are_not_copied(troubled: RunningServer, work: Work) -> None:
    (first,) = work.make({"a.wav": clip("same")})
    ran = await work.run(troubled, [first])
    saved = Path(ran.outcomes[str(first)].unwrap().predictions)
    saved.write_bytes(b"[]" + b" " * (saved.stat().st_size - 2))
    (second,) = work.make({"b.wav": clip("same")})
    again = await work.run(troubled, [second])
    assert again.report.done == 2
    await work.check(troubled)
