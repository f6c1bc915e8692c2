"""The job table: legal moves only, recovery after a crash, one owner per folder, lists as in a plain model."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import humebatch as hb
from humebatch.server.store import SCHEMA_VERSION, JobRow, ListFilter, Store

STATUSES = ("QUEUED", "IN_PROGRESS", "COMPLETED", "FAILED")
TENANTS = ("a", "b")
SETTINGS = settings(max_examples=40, stateful_step_count=30, deadline=None)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with contextlib.closing(Store(tmp_path)) as opened:
        yield opened


def accept(store: Store, job_id: str, *, tenant: str = "a", created_ms: int = 1) -> None:
    store.accept(job_id=job_id, tenant=tenant, created_ms=created_ms, request=b"{}")


def row(store: Store, job_id: str, tenant: str = "a") -> JobRow:
    found = store.get(job_id, tenant=tenant)
    assert found is not None
    return found


class Jobs(RuleBasedStateMachine):
    """Any order of calls, crashes and restarts among them; the model is a list of dictionaries."""

    MAX_ATTEMPTS = 3

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = Store(Path(self.folder.name))
        self.jobs: list[dict[str, Any]] = []
        self.now = 1000

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    def tick(self, by: int) -> int:
        self.now += by
        return self.now

    @rule(tenant=st.sampled_from(TENANTS), by=st.integers(0, 3))
    def accept(self, tenant: str, by: int) -> None:
        job_id = f"job-{len(self.jobs)}"
        accept(self.store, job_id, tenant=tenant, created_ms=self.tick(by))
        self.jobs.append(
            {"id": job_id, "tenant": tenant, "status": "QUEUED", "created_ms": self.now, "attempts": 0}
            | dict.fromkeys(("started_ms", "ended_ms", "message", "num_predictions", "num_errors"))
        )

    @rule(by=st.integers(-2, 3))
    def claim(self, by: int) -> None:
        now = self.tick(by)
        taken = self.store.claim(now_ms=now)
        queued = [job for job in self.jobs if job["status"] == "QUEUED"]
        if not queued:
            assert taken is None
            return
        job = queued[0]
        job["status"] = "IN_PROGRESS"
        job["attempts"] += 1
        job["started_ms"] = now if job["started_ms"] is None else job["started_ms"]
        assert taken is not None
        assert taken.id == job["id"]

    def running(self) -> list[dict[str, Any]]:
        return [job for job in self.jobs if job["status"] == "IN_PROGRESS"]

    @precondition(lambda self: self.running())
    @rule(data=st.data(), by=st.integers(-2, 3))
    def end(self, data: st.DataObject, by: int) -> None:
        job = data.draw(st.sampled_from(self.running()))
        now = self.tick(by)
        if data.draw(st.booleans()):
            self.store.finish(job["id"], ended_ms=now, num_predictions=2, num_errors=1)
            job |= {"status": "COMPLETED", "num_predictions": 2, "num_errors": 1}
        else:
            self.store.fail(job["id"], ended_ms=now, message="why")
            job |= {"status": "FAILED", "message": "why"}
        # The clock may have been set back; a job still does not end before it began.
        job["ended_ms"] = max(now, job["started_ms"])

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def requeue(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.running()))
        self.store.requeue(job["id"])
        job |= {"status": "QUEUED", "attempts": job["attempts"] - 1}

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def moves_out_of_a_state_that_the_job_is_not_in(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from([*self.jobs, {"id": "unknown", "status": "none"}]))
        if job["status"] == "IN_PROGRESS":
            return
        with pytest.raises(RuntimeError, match="is not IN_PROGRESS"):
            self.store.finish(job["id"], ended_ms=1, num_predictions=0, num_errors=0)
        with pytest.raises(RuntimeError, match="is not IN_PROGRESS"):
            self.store.fail(job["id"], ended_ms=1, message="no")
        with pytest.raises(RuntimeError, match="is not IN_PROGRESS"):
            self.store.requeue(job["id"])

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def the_same_id_again(self, data: st.DataObject) -> None:
        with pytest.raises(sqlite3.IntegrityError):
            accept(self.store, data.draw(st.sampled_from(self.jobs))["id"])

    @rule(by=st.integers(0, 3))
    def restart(self, by: int) -> None:
        self.store.close()
        self.store = Store(Path(self.folder.name))
        now = self.tick(by)
        failed = self.store.recover(now_ms=now, max_attempts=self.MAX_ATTEMPTS)
        expected = []
        for job in self.running():
            if job["attempts"] >= self.MAX_ATTEMPTS:
                job |= {"status": "FAILED", "ended_ms": max(now, job["started_ms"])}
                job["message"] = "the server went down 3 times while measuring this job"
                expected.append(job["id"])
            else:
                job["status"] = "QUEUED"
        assert sorted(failed) == sorted(expected)

    @invariant()
    def the_table_is_the_model(self) -> None:
        for job in self.jobs:
            found = row(self.store, job["id"], job["tenant"])
            assert {name: getattr(found, name) for name in job} == job
            assert self.store.get(job["id"], tenant="somebody else") is None
        assert self.store.known() == {job["id"] for job in self.jobs}
        assert self.store.unfinished() == {job["id"] for job in self.jobs if job["status"] in ("QUEUED", "IN_PROGRESS")}


Jobs.TestCase.settings = SETTINGS
TestJobs = Jobs.TestCase


def test_attempts_run_out(tmp_path: Path) -> None:
    for attempt in range(1, 4):
        with contextlib.closing(Store(tmp_path)) as store:
            if attempt == 1:
                accept(store, "job")
            assert store.recover(now_ms=attempt, max_attempts=3) == []
            claimed = store.claim(now_ms=attempt * 10)
            assert claimed is not None
            assert claimed.attempts == attempt
    with contextlib.closing(Store(tmp_path)) as store:
        assert store.recover(now_ms=99, max_attempts=3) == ["job"]
        job = row(store, "job")
        assert (job.status, job.started_ms, job.ended_ms) == ("FAILED", 10, 99)
        assert "3 times" in (job.message or "")


def test_two_servers_on_one_folder(store: Store, tmp_path: Path) -> None:
    with pytest.raises(hb.errors.ConfigError, match="in use by another server") as refusal:
        Store(tmp_path)
    assert refusal.value.field == "data"
    store.close()
    Store(tmp_path).close()


def test_a_newer_schema(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as database:
        database.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    with pytest.raises(hb.errors.ConfigError, match=f"schema {SCHEMA_VERSION + 1}") as refusal:
        Store(tmp_path)
    assert refusal.value.field == "data"
    # Refusing let go of the folder, and changed nothing.
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION + 1,)
        database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    Store(tmp_path).close()


def test_something_else_in_the_place_of_the_database(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"holiday pictures" * 1000)
    with pytest.raises(hb.errors.ConfigError, match=r"jobs\.db") as refusal:
        Store(tmp_path)
    assert refusal.value.field == "data"
    assert (tmp_path / "jobs.db").read_bytes() == b"holiday pictures" * 1000


def test_closing_waits_for_threads_that_are_at_work(tmp_path: Path) -> None:
    """SQLite crashes the process when a connection is closed under a statement."""
    for _ in range(20):
        store = Store(tmp_path)
        begun = threading.Event()
        ends: list[BaseException] = []

        def work(store: Store = store, begun: threading.Event = begun, ends: list[BaseException] = ends) -> None:
            try:
                while True:
                    store.recover(now_ms=1, max_attempts=3)
                    begun.set()
            except sqlite3.ProgrammingError as error:
                ends.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        begun.wait()
        store.close()
        thread.join()
        assert "closed" in str(ends[0])


def test_an_accepted_job_is_on_disk_at_once(store: Store, tmp_path: Path) -> None:
    accept(store, "job")
    with contextlib.closing(sqlite3.connect(f"file:{tmp_path}/jobs.db?mode=ro", uri=True)) as reader:
        assert reader.execute("SELECT id, status FROM job").fetchall() == [("job", "QUEUED")]
    # FULL: the write-ahead log is flushed to the disk with every commit.
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# ---- lists, against a plain model ---------------------------------------------------------------

# Few values, so that ties are the rule.
TIMES = st.integers(0, 3)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "tenant": st.sampled_from(TENANTS),
            "status": st.sampled_from(STATUSES),
            "created_ms": TIMES,
            "started_ms": st.none() | TIMES,
            "ended_ms": st.none() | TIMES,
        }
    ),
    max_size=12,
)
FILTERS = st.builds(
    ListFilter,
    limit=st.sampled_from([1, 2, 5, 50]),
    statuses=st.lists(st.sampled_from(STATUSES), max_size=3),
    when=st.sampled_from([None, "created_before", "created_after"]),
    timestamp_ms=st.none() | st.integers(-1, 4),
    sort_by=st.sampled_from(["created", "started", "ended"]),
    direction=st.sampled_from(["asc", "desc"]),
)


def expected(rows: Sequence[dict[str, Any]], wanted: ListFilter, tenant: str) -> list[str]:
    kept = [
        job
        for job in rows
        if job["tenant"] == tenant
        and (not wanted.statuses or job["status"] in wanted.statuses)
        and (
            wanted.timestamp_ms is None
            or (
                (job["created_ms"] > wanted.timestamp_ms) == (wanted.when == "created_after")
                and job["created_ms"] != wanted.timestamp_ms
            )
        )
    ]
    column = f"{wanted.sort_by}_ms"
    # Ties fall in the order of arrival, in the direction asked for; jobs without the time come last.
    ordered = sorted(
        kept,
        key=lambda job: (-1 if job[column] is None else job[column], job["number"]),
        reverse=wanted.direction == "desc",
    )
    ordered = [job for job in ordered if job[column] is not None] + [job for job in ordered if job[column] is None]
    return [job["id"] for job in ordered][: wanted.limit]


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, filters=st.lists(FILTERS, min_size=1, max_size=8), tenant=st.sampled_from(TENANTS))
def test_lists(rows: list[dict[str, Any]], filters: list[ListFilter], tenant: str) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Store(Path(folder))) as store:
        for number, job in enumerate(rows):
            job |= {"id": f"job-{number}", "number": number}
            store._db.execute(
                "INSERT INTO job (id, tenant, status, created_ms, started_ms, ended_ms, request) "
                "VALUES (:id, :tenant, :status, :created_ms, :started_ms, :ended_ms, x'7b7d')",
                job,
            )
        for wanted in filters:
            assert [found.id for found in store.list_jobs(wanted, tenant=tenant)] == expected(rows, wanted, tenant)
