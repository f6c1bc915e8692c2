"""The world of `test_ingest_machine`: files, a server behind a line, runs that end in every way, and what must hold.

What may be there twice is worked out from what was done, and not from what humebatch believes: a second job of a group
is excused only by a request that was delivered when it had been given up, or by a job that the list did not show.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from aiohttp import web
from msgspec.structs import replace

import humebatch as hb
from humebatch.ingestion import Ingested, IngestReport
from humebatch.jobs import JobDetails
from humebatch.testing import FakeClock, Proxy, RunningServer, Trouble, jobs_in, running_server

from .invariants import check

__all__ = ["Ending", "Meanwhile", "Run", "World"]

T = TypeVar("T")
KEY = "CANARY-machine-key"
MODELS = hb.Models(language=hb.Language())
# No run of a handful of small files takes so long: it hangs.
HANGS = 90.0
FINAL = {"DONE", "FAILED", "PARKED"}
ON_THE_WAY = {"FOUND", "READY", "GROUPED", "SAME"}


class Ending(msgspec.Struct, frozen=True):
    """How a run ends: by itself, or at its `at`th commit.

    `cancel`: the caller is cancelled `steps` turns of the event loop later. `hang up`: the same, but when the `at`th
    submission has arrived at the server. `die`: the journal's connection is closed, before the commit or (`steps` odd)
    after it, and the caller is cancelled. `stop`: told to stop.
    """

    how: Literal["end", "cancel", "hang up", "die", "stop"] = "end"
    at: int = 0
    steps: int = 0


class Meanwhile(msgspec.Struct, frozen=True):
    """Something that happens at a run's `at`th commit."""

    at: int
    what: Literal["release", "show", "hide", "edit", "touch", "remove", "nothing"] = "nothing"
    path: str = ""


class Run(msgspec.Struct, kw_only=True):
    """What came of a run. `ended`: by itself, with everything in its final state."""

    told: list[hb.Outcome[str, Ingested]] = []
    ended: bool = False
    error: Exception | None = None
    report: IngestReport | None = None
    commits: int = 0


class _Row(msgspec.Struct, frozen=True):
    path: str
    place: str
    state: str
    reason: str | None
    md5: str | None
    saved: int | None
    sha256: str | None


class _Group(msgspec.Struct, frozen=True):
    id: int
    uuid: str
    tag: str | None
    state: str
    job_id: str | None
    attempts: Counter[str]

    @property
    def in_doubt(self) -> bool:
        return self.job_id is None and (self.state in ("SENDING", "UNKNOWN") or bool(self.attempts["UNKNOWN"]))

    @property
    def let_go(self) -> bool:
        """A try of it was looked for, and sent again."""
        tries = sum(self.attempts[state] for state in ("SENDING", "UNKNOWN", "REFUSED"))
        return bool(self.attempts["ABSENT"]) or (bool(self.attempts["REFUSED"]) and tries > 1)


class _Told(msgspec.Struct, frozen=True):
    """The journal, read by somebody else."""

    rows: dict[str, _Row] = {}
    groups: list[_Group] = []
    duplicates: dict[str, int] = {}
    attempts: int = 0


class _Trouble(Trouble):
    """Knows when nothing is on its way into the server any more."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = 0
        self.arrival: tuple[int, Callable[[], Any]] | None = None

    async def _submission(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.inside += 1
        if self.arrival is not None:
            left, event = self.arrival
            self.arrival = (left - 1, event) if left > 1 else None
            if left == 1:
                event()
        try:
            return await super()._submission(request, handler)
        finally:
            self.inside -= 1

    def forget(self) -> None:
        """Nothing more goes wrong."""
        self._submissions.clear()
        self._answers.clear()


class World:
    """One folder of inputs, one journal, one server, and everything that was done to them.

    All of it lives on an event loop of its own, which stands still between two calls.
    """

    def __init__(self, folder: Path, *, keyed: bool, files_per_job: int) -> None:
        self.inputs = folder / "in"
        self.out = folder / "out"
        self.journal = folder / "run.db"
        self._data = folder / "server"
        self.inputs.mkdir()
        self.keyed = keyed
        self.files_per_job = files_per_job
        self.trouble = _Trouble()
        self.files: dict[str, bytes] = {}
        self.retry_failed = False
        self._number = 0
        self._edits: Counter[str] = Counter()
        self._left: Counter[str] = Counter()
        # Edited behind our back: same size, same time.
        self._stealthy: set[str] = set()
        # Changed at a time when they had no final state: what was under way may still come to its end.
        self._unsettled: set[str] = set()
        self._removed_results: set[str] = set()
        self._disturbed: set[str] = set()
        self._hidden_from: int | None = None
        self._excused: set[str] = set()
        self._stray: list[dict[str, Any]] = []
        self._loop = asyncio.Runner()
        self._loop.get_loop().set_exception_handler(lambda _, context: self._stray.append(context))
        self._stack = contextlib.AsyncExitStack()
        self._server = contextlib.AsyncExitStack()
        self._proxy: Proxy
        self._clock: FakeClock
        self._do(self._open())

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run(work)

    async def _open(self) -> None:
        running = await self._serve()
        self._proxy = await self._stack.enter_async_context(self.trouble.proxy(running.base_url))

    async def _serve(self) -> RunningServer:
        return await self._server.enter_async_context(
            running_server(data=self._data, api_key=KEY, idempotency=self.keyed, trouble=self.trouble, warm=True)
        )

    def close(self) -> None:
        """The end of it; nothing may have gone wrong unseen."""

        async def closed() -> None:
            await self._server.aclose()
            await self._stack.aclose()

        self._do(closed())
        self._loop.close()
        assert self._stray == []

    # ── what is done to it

    def restart(self) -> None:
        """The server ends and begins again, with the same data and at the same address."""

        async def again() -> None:
            await self._server.aclose()
            self._proxy.target = (await self._serve()).base_url

        self._do(again())

    def line(self, *faults: Any) -> None:
        """What happens to the next connections."""
        self._proxy.connections(*faults)

    def hide(self) -> None:
        """The job list does not show new jobs."""
        if self._hidden_from is None:
            self.trouble.hide_new_jobs = True
            self._hidden_from = len(self.trouble.accepted)

    def show(self) -> None:
        """The job list is whole again."""
        self._shown(self._given_up(self._hidden))

    def _shown(self, excused: set[str]) -> None:
        self._excused |= excused
        self.trouble.hide_new_jobs = False
        self._hidden_from = None

    @property
    def _hidden(self) -> set[str]:
        return set() if self._hidden_from is None else set(self.trouble.accepted[self._hidden_from :])

    def release(self) -> None:
        """Late submissions arrive."""
        self._excused |= self._given_up(self._do(self._release()))

    async def _release(self) -> set[str]:
        before = set(self.trouble.accepted)
        await self.trouble.release()
        return set(self.trouble.accepted) - before

    def _given_up(self, jobs: set[str]) -> set[str]:
        """Those of these jobs that came too late: nobody waits for them any more."""
        if not jobs:
            return set()
        told = self._read()
        made = self._made(told)
        waiting = [group for group in told.groups if group.in_doubt and not group.let_go]
        return jobs - {job_id for group in waiting for job_id in made[group.id]}

    def add(self, path: str, same_as: str | None = None) -> None:
        """A new file, or another one in its place; the same bytes as another file if asked for."""
        content = self.files[same_as] if same_as in self.files else self._new()
        self._leave(path)
        self._write(path, content)
        self._settle_later(path)

    def edit(self, path: str) -> None:
        """Other content, and another size."""
        self._leave(path)
        self._write(path, self._new() + b" and more" * (1 + self._number % 3))
        self._settle_later(path)

    def edit_unseen(self, path: str) -> None:
        """Other content of the same size, and no trace of it."""
        whole = self.inputs / path
        status = whole.stat()
        old = self.files[path]
        self._leave(path)
        self.files[path] = self._new().ljust(len(old), b".")[: len(old)]
        whole.write_bytes(self.files[path])
        os.utime(whole, ns=(status.st_atime_ns, status.st_mtime_ns))
        self._stealthy.add(path)

    def touch(self, path: str) -> None:
        """Another time, the same content."""
        status = (self.inputs / path).stat()
        os.utime(self.inputs / path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_007))
        self._edits[path] += 1
        self._settle_later(path)

    def remove(self, path: str) -> None:
        """No such file any more."""
        self._leave(path)
        (self.inputs / path).unlink()
        del self.files[path]

    def remove_result(self, path: str) -> None:
        """Somebody tidies up in the output folder."""
        row = self._read().rows.get(path)
        if row is not None and row.state == "DONE":
            (self.out / row.place / "predictions.json").unlink(missing_ok=True)
            self._removed_results.add(path)

    def _new(self) -> bytes:
        # Never the same twice, and always as long: the end tells them apart.
        self._number += 1
        return b"Words that nobody has said before, number %04d." % self._number

    def _write(self, path: str, content: bytes) -> None:
        whole = self.inputs / path
        whole.parent.mkdir(exist_ok=True)
        before = whole.stat().st_mtime_ns if whole.exists() else 0
        whole.write_bytes(content)
        if whole.stat().st_mtime_ns == before:  # file systems count in steps
            os.utime(whole, ns=(before, before + 1_000_000_000))
        self.files[path] = content

    def _leave(self, path: str) -> None:
        if path in self.files:
            self._left[_md5(self.files[path])] += 1
        self._edits[path] += 1

    def _settle_later(self, path: str) -> None:
        self._stealthy.discard(path)
        row = self._read().rows.get(path)
        if row is not None and row.state not in ("DONE", "FAILED"):
            self._unsettled.add(path)

    # ── runs

    def run(self, ending: Ending, meanwhile: Meanwhile | None = None, *, troubled: bool = True) -> Run:
        """One run, and everything that must hold after it. `troubled`: the server may be what ends it."""
        before = self._jobs()
        self._disturbed = set()
        there = set(self.files)
        run = self._do(self._run(ending, meanwhile or Meanwhile(0)))
        if not troubled:
            assert run.error is None, run.error
        assert run.error is None or isinstance(run.error, hb.HumebatchError), run.error
        assert not isinstance(run.error, hb.ConfigError), run.error
        told = self._read()
        if told.groups or told.rows:
            self._check(told, run, before={job.job_id for job in before})
        if run.ended:
            self._check_ended(told, run, there & set(self.files))
        return run

    async def _run(self, ending: Ending, meanwhile: Meanwhile) -> Run:
        loop = asyncio.get_running_loop()
        run = Run()
        task = loop.create_task(self._ingest(run, ending, meanwhile))
        done, _ = await asyncio.wait([task], timeout=HANGS)
        if not done:
            task.cancel()
            await asyncio.wait([task])
            raise AssertionError("the run does not end")
        async with asyncio.timeout(HANGS):
            # What has left a client that is gone would arrive while hours pass for the next one.
            while self._proxy._open or self.trouble.inside:
                await asyncio.sleep(0.001)
        if not task.cancelled():
            task.result()
        return run

    async def _ingest(self, run: Run, ending: Ending, meanwhile: Meanwhile) -> None:
        me = asyncio.current_task()
        assert me is not None
        self._clock = FakeClock()
        try:
            async with (
                asyncio.TaskGroup() as others,
                hb.BatchClient(base_url=self._proxy.base_url, api_key=KEY, clock=self._clock) as client,
                client.ingest(
                    self.inputs,
                    models=MODELS,
                    journal=self.journal,
                    out=self.out,
                    files_per_job=self.files_per_job,
                    retry_failed=self.retry_failed,
                ) as outcomes,
            ):
                beat = _Beat(outcomes._flow.journal, run)
                if meanwhile.what != "nothing":
                    beat.on(meanwhile.at, lambda: others.create_task(self._happens(meanwhile)))
                if ending.how == "stop":
                    beat.on(ending.at, outcomes.stop)
                elif ending.how == "cancel":
                    beat.on(ending.at, lambda: others.create_task(_later(ending.steps, me.cancel)))
                elif ending.how == "hang up":
                    self.trouble.arrival = ending.at, lambda: others.create_task(_later(ending.steps, me.cancel))
                elif ending.how == "die":
                    beat.die(ending.at, after=ending.steps % 2 == 1, told=me.cancel)
                async for outcome in outcomes:
                    run.told.append(outcome)
                run.report = await outcomes.report()
                run.ended = not outcomes.stopped
        except* hb.HumebatchError as errors:
            found: BaseException = errors
            while isinstance(found, BaseExceptionGroup):
                found = found.exceptions[0]
            assert isinstance(found, Exception)
            run.error = found
            run.ended = False
        finally:
            self.trouble.arrival = None

    async def _happens(self, meanwhile: Meanwhile) -> None:
        match meanwhile.what:
            case "release":
                jobs = await self._release()
                self._excused |= await self._late(jobs)
            case "show":
                self._shown(await self._late(self._hidden))
            case "hide":
                self.hide()
            case "edit" | "touch" | "remove" if meanwhile.path in self.files:
                self._disturbed.add(meanwhile.path)
                self._unsettled.add(meanwhile.path)
                await asyncio.to_thread(getattr(self, meanwhile.what), meanwhile.path)
            case _:
                pass

    async def _late(self, jobs: set[str]) -> set[str]:
        """As `_given_up`, in the middle of a run: nothing is given up before the grace time has passed."""
        given_up = await asyncio.to_thread(self._given_up, jobs)
        return jobs if self._clock.now() > hb.IngestPolicy().grace - 50 else given_up

    # ── what is seen

    def _jobs(self) -> list[JobDetails]:
        return jobs_in(self._data)

    def _read(self) -> _Told:
        if not self.journal.exists():
            return _Told()
        db = sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True)
        with contextlib.closing(db):
            if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'grp'").fetchone():
                return _Told()
            attempts: dict[int, Counter[str]] = {}
            for group_id, state in db.execute("SELECT grp, state FROM attempt"):
                attempts.setdefault(group_id, Counter())[state] += 1
            files = db.execute("SELECT path, place, state, reason, md5, saved, sha256 FROM file").fetchall()
            rows = [_Row(os.fsdecode(path), os.fsdecode(place), *more) for path, place, *more in files]
            prefix = f"{self.inputs}/"
            return _Told(
                rows={row.path.removeprefix(prefix): row for row in rows},
                groups=[
                    _Group(group_id, uuid, tag, state, job_id, attempts.get(group_id, Counter()))
                    for group_id, uuid, tag, state, job_id in db.execute("SELECT id, uuid, tag, state, job_id FROM grp")
                ],
                duplicates=dict(db.execute("SELECT job_id, grp FROM duplicate").fetchall()),
                attempts=sum(map(Counter.total, attempts.values())),
            )

    def _made(self, told: _Told) -> dict[int, set[str]]:
        """Group to the jobs that the server made of it, whatever it was told. A job without a group is a fault."""
        by_name: dict[str, int] = {}
        if self.keyed:
            uuids = {group.uuid: group.id for group in told.groups}
            with contextlib.closing(sqlite3.connect(self._data / "jobs.db")) as db:
                by_name = {job_id: uuids[key] for job_id, key in db.execute("SELECT job_id, key FROM job_key")}
        made: dict[int, set[str]] = {group.id: set() for group in told.groups}
        for job in self._jobs():
            if not self.keyed:
                names = [file.filename or "" for file in job.request.files]
                (owner,) = [
                    group.id for group in told.groups if group.tag and all(f"~{group.tag}" in name for name in names)
                ]
                by_name[job.job_id] = owner
            made[by_name[job.job_id]].add(job.job_id)
        return made

    # ── what must hold

    def _check(self, told: _Told, run: Run, *, before: set[str]) -> None:
        assert {row.state for row in told.rows.values()} <= FINAL | ON_THE_WAY
        for row in told.rows.values():
            assert (row.reason is None) == (row.state not in ("FAILED", "PARKED")), row
        owned = [group.job_id for group in told.groups if group.job_id]
        assert len(owned) == len(set(owned))
        assert set(owned).isdisjoint(told.duplicates)
        made = self._made(told)
        excused = self._excused | self._hidden
        undecided: set[str] = set()
        for group in told.groups:
            mine = made[group.id]
            assert len(mine) <= (1 if self.keyed else 1 + group.attempts["ABSENT"] + group.attempts["REFUSED"]), group
            assert group.job_id is None or group.job_id in mine, group
            extra = len(mine) - (group.job_id is not None)
            if group.in_doubt:
                extra -= 1  # the one in doubt
                undecided |= mine
            assert extra <= len(mine & excused), (group, mine, excused)
        for job_id, group_id in told.duplicates.items():
            assert job_id in made[group_id]
        unowned = {job_id for mine in made.values() for job_id in mine} - set(owned) - undecided
        if run.ended and run.report is not None and run.report.audited:
            assert (unowned & before) - self._hidden <= set(told.duplicates), "a duplicate that nobody was told of"
        if run.report is not None:
            assert set(run.report.duplicates) == set(told.duplicates)
        self._check_contents(set(owned))
        self._check_results(told)

    def _check_contents(self, owned: set[str]) -> None:
        """Nothing is measured twice unless all files with that content were changed in between."""
        if self.files_per_job > 100:
            return  # the server sees archives
        measured = Counter(file.md5sum for job in self._jobs() if job.job_id in owned for file in job.request.files)
        for md5, count in measured.items():
            assert count <= 1 + self._left[md5], md5

    def _check_results(self, told: _Told) -> None:
        for name, row in told.rows.items():
            if row.state != "DONE" or name in self._removed_results:
                continue
            data = (self.out / row.place / "predictions.json").read_bytes()
            assert len(data) == row.saved, row
            assert hashlib.sha256(data).hexdigest() == row.sha256, row
            (source,) = json.loads(data)
            assert source["source"]["md5sum"] == row.md5, row
            assert source["source"]["filename"] == Path(name).name, row

    def _check_ended(self, told: _Told, run: Run, there: set[str]) -> None:
        """Everything is in its final state, was told once, and is what the files were."""
        assert {row.state for row in told.rows.values()} <= FINAL, told.rows
        items = [outcome.item.removeprefix(f"{self.inputs}/") for outcome in run.told]
        assert len(items) == len(set(items)), items
        assert there - self._disturbed <= set(items)
        report = run.report
        assert report is not None
        assert report.inputs == report.done + report.failed + report.parked == len(told.rows)
        assert report.open == 0
        index = [json.loads(line) for line in (self.out / "index.jsonl").read_bytes().splitlines()]
        assert {line["input"].removeprefix(f"{self.inputs}/"): line["state"] for line in index} == {
            name: row.state for name, row in told.rows.items()
        }
        assert not list(self.out.rglob(".humebatch-*"))
        for outcome in run.told:
            row = told.rows[outcome.item.removeprefix(f"{self.inputs}/")]
            assert (outcome.error is None) == (row.state == "DONE"), (outcome, row)
        self._removed_results -= there - self._disturbed
        for name in there - self._disturbed:
            row = told.rows[name]
            if row.state == "DONE" and name not in self._stealthy | self._unsettled:
                assert row.md5 == _md5(self.files[name]), row
            if row.state == "FAILED":
                assert row.reason == "REFUSED" or (row.reason == "CHANGED" and self._edits[name] >= 3), row
            if row.state == "PARKED":
                assert row.reason == "UNKNOWN", row
        # What was under way has come to its end, but for what is parked; from here on changes are seen.
        self._unsettled &= self._disturbed | {name for name, row in told.rows.items() if row.state == "PARKED"}

    def settle(self) -> None:
        """No more trouble: everything comes to its end, everything is accounted for, and then nothing is sent."""
        self.trouble.forget()
        self._proxy._script.clear()
        self.release()
        self.show()
        stale = set(self._unsettled)
        run = self.run(Ending(), troubled=False)
        assert run.ended
        assert run.report is not None and run.report.audited
        assert run.report.parked == 0, run.report
        if stale:
            # Their job was made of what they were before; that they are something else by now is seen now.
            self.run(Ending(), troubled=False)
        told = self._read()
        jobs = self._jobs()
        owned = {group.job_id for group in told.groups}
        assert {job.job_id for job in jobs} - owned == set(told.duplicates)
        if not self._removed_results and not self._left and self.files_per_job <= 100:
            check(self.journal, self.out, jobs, key=KEY, duplicates=len(told.duplicates))
        run = self.run(Ending(), troubled=False)
        assert run.report is not None and run.report.sent == 0
        after = self._read()
        assert after.attempts == told.attempts
        # By their ids: a duplicate that nobody watches may still have been measured in between.
        assert [job.job_id for job in self._jobs()] == [job.job_id for job in jobs]
        assert {name: replace(row, place="") for name, row in after.rows.items()} == {
            name: replace(row, place="") for name, row in told.rows.items()
        }


class _Beat:
    """Calls back at a journal's commits."""

    def __init__(self, journal: Any, run: Run) -> None:
        self._run = run
        self._journal = journal
        self._commit = journal._commit
        self._loop = asyncio.get_running_loop()
        self._events: list[tuple[int, Callable[[], Any]]] = []
        self._dies: tuple[int, bool, Callable[[], Any]] | None = None
        journal._commit = self._beat

    def on(self, at: int, event: Callable[[], Any]) -> None:
        self._events.append((at, event))

    def die(self, at: int, *, after: bool, told: Callable[[], Any]) -> None:
        self._dies = at, after, told

    def _beat(self, batch: Any) -> None:
        # In the journal's thread, which is the only place where its connection can be closed without harm.
        self._run.commits += 1
        now = self._run.commits
        for at, event in self._events:
            if at == now:
                self._loop.call_soon_threadsafe(event)
        at, after, told = self._dies or (0, False, None)
        if now == at and not after:
            self._journal._db.close()
        self._commit(batch)
        if now == at and told is not None:
            self._journal._db.close()
            self._loop.call_soon_threadsafe(told)


async def _later(steps: int, event: Callable[[], Any]) -> None:
    for _ in range(steps):
        await asyncio.sleep(0)
    event()


def _md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()
