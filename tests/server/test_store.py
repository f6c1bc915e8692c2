"""The job table: legal moves only, recovery after a crash, one owner per folder, keys and lists as in plain models."""

from __future__ import annotations

import contextlib
import hashlib
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
from humebatch.server import store as store_module
from humebatch.server.store import SCHEMA_VERSION, JobKey, JobRow, ListFilter, Store

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


# ---- idempotency keys ---------------------------------------------------------------------------

DAY_MS = 24 * 3600 * 1000
START_MS = 1_735_689_600_000


def accept_keyed(store: Store, job_id: str, key: str, *, now_ms: int = START_MS, tenant: str = "a") -> None:
    digest = hashlib.sha256(job_id.encode()).digest()
    store.accept(job_id=job_id, tenant=tenant, created_ms=now_ms, request=b"{}", key=JobKey(key=key, digest=digest))


def job_with(store: Store, key: str, *, now_ms: int = START_MS, tenant: str = "a") -> str | None:
    found = store.keyed(key, tenant=tenant, now_ms=now_ms)
    if found is None:
        return None
    digest, job_id = found
    assert digest == hashlib.sha256(job_id.encode()).digest()
    return job_id


def test_a_key_makes_one_job(store: Store) -> None:
    """Whoever forgot to look first: the database refuses, and the second job is not there either."""
    accept_keyed(store, "first", "k")
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        accept_keyed(store, "second", "k")
    assert store.known() == {"first"}
    assert job_with(store, "k") == "first"
    accept_keyed(store, "third", "k", tenant="b")
    assert (job_with(store, "k"), job_with(store, "k", tenant="b")) == ("first", "third")
    # The failed transaction is over: the next change is one of its own.
    assert not store._db.in_transaction


def test_a_job_and_its_key_are_on_disk_at_once(store: Store, tmp_path: Path) -> None:
    accept_keyed(store, "job", "k")
    with contextlib.closing(sqlite3.connect(f"file:{tmp_path}/jobs.db?mode=ro", uri=True)) as reader:
        assert reader.execute("SELECT id, key FROM job JOIN job_key ON id = job_id").fetchall() == [("job", "k")]


@pytest.mark.parametrize("when", ["BEFORE", "AFTER"])
def test_neither_the_job_nor_its_key(store: Store, when: str) -> None:
    store._db.execute(f"CREATE TRIGGER broken {when} INSERT ON job_key BEGIN SELECT RAISE(ABORT, 'no room'); END")
    with pytest.raises(sqlite3.IntegrityError, match="no room"):
        accept_keyed(store, "job", "k")
    assert store.known() == set()
    assert job_with(store, "k") is None
    accept(store, "unkeyed")
    assert store.known() == {"unkeyed"}


def test_a_clock_that_was_set_back_ages_no_key(store: Store) -> None:
    accept_keyed(store, "before", "k1")
    # Set back by a month; what comes in now must not look a month old once the clock is put right.
    accept_keyed(store, "meanwhile", "k2", now_ms=START_MS - 30 * DAY_MS)
    assert job_with(store, "k1", now_ms=START_MS - 30 * DAY_MS) == "before"
    accept_keyed(store, "after", "k3", now_ms=START_MS + 7 * DAY_MS)
    assert [job_with(store, key, now_ms=START_MS + 7 * DAY_MS) for key in ("k1", "k2")] == ["before", "meanwhile"]


def test_old_keys_are_forgotten_a_few_at_a_time(store: Store) -> None:
    store._db.executemany(
        "INSERT INTO job_key (tenant, key, digest, job_id, created_ms) VALUES ('a', ?, x'', 'job', ?)",
        [(f"old-{number}", START_MS + number) for number in range(1000)],
    )

    def left() -> list[str]:
        return [key for (key,) in store._db.execute("SELECT key FROM job_key ORDER BY seq")]

    later = START_MS + 9 * DAY_MS
    accept(store, "unkeyed", created_ms=later)
    assert len(left()) == 1000
    accept_keyed(store, "new", "new", now_ms=later)
    assert 1 < len(left()) < 1000
    assert left() == [f"old-{number}" for number in range(1001 - len(left()), 1000)] + ["new"], "the oldest first"
    # One of those that are still there, though its time is over.
    assert job_with(store, "old-999", now_ms=later) is None
    accept_keyed(store, "again", "old-999", now_ms=later)
    assert job_with(store, "old-999", now_ms=later) == "again"
    for number in range(20):
        accept_keyed(store, f"job-{number}", f"key-{number}", now_ms=later)
    assert left() == ["new", "old-999", *(f"key-{number}" for number in range(20))]


def test_keys_are_looked_up_and_forgotten_by_index(store: Store) -> None:
    statements: list[str] = []
    store._db.set_trace_callback(statements.append)
    accept_keyed(store, "job", "k")
    job_with(store, "k")
    store._db.set_trace_callback(None)
    asked = [text for text in statements if "job_key" in text]
    assert len(asked) == 4
    for text in asked:
        plan = [row[3] for row in store._db.execute(f"EXPLAIN QUERY PLAN {text}")]
        assert not [step for step in plan if step.startswith("SCAN job_key")], (text, plan)


class Keys(RuleBasedStateMachine):
    """Tenants, keys, time that passes, clocks that are set back and put right, and restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = Store(Path(self.folder.name))
        self.now = START_MS
        self.latest = 0  # reading of the clock that came with a key
        self.jobs: dict[tuple[str, str], tuple[str, int]] = {}
        self.made = 0

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    @rule(hours=st.sampled_from([0, 1, 24, 100]))
    def time_passes(self, hours: int) -> None:
        self.now += hours * 3600 * 1000

    @rule(days=st.integers(1, 40))
    def set_back(self, days: int) -> None:
        self.now -= days * DAY_MS

    @rule()
    def put_right(self) -> None:
        self.now = max(self.now, self.latest)

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = Store(Path(self.folder.name))

    @rule(tenant=st.sampled_from(TENANTS), key=st.sampled_from("xyz"))
    def submit(self, tenant: str, key: str) -> None:
        found = job_with(self.store, key, now_ms=self.now, tenant=tenant)
        if found is None:
            self.made += 1
            accept_keyed(self.store, f"job-{self.made}", key, now_ms=self.now, tenant=tenant)
            self.latest = max(self.latest, self.now)
            self.jobs[tenant, key] = f"job-{self.made}", self.latest
        else:
            assert found == self.jobs[tenant, key][0]
            with pytest.raises(sqlite3.IntegrityError):
                accept_keyed(self.store, "none", key, now_ms=self.now, tenant=tenant)

    @invariant()
    def keys_are_kept_for_a_week(self) -> None:
        assert len(self.store.known()) == self.made
        for (tenant, key), (job_id, since) in self.jobs.items():
            found = job_with(self.store, key, now_ms=self.now, tenant=tenant)
            assert found in (job_id, None)
            # Once a key has come by a later clock, setting that back does not bring forgotten ones again.
            if max(self.now, self.latest) - since <= 7 * DAY_MS:
                assert found == job_id
            if self.now - since > 8 * DAY_MS:
                assert found is None


Keys.TestCase.settings = SETTINGS
TestKeys = Keys.TestCase

# A database as version 2 left it.
VERSION_2 = """
CREATE TABLE job (
    seq             INTEGER PRIMARY KEY,
    id              TEXT NOT NULL UNIQUE,
    tenant          TEXT NOT NULL,
    status          TEXT NOT NULL CHECK (status IN ('QUEUED', 'IN_PROGRESS', 'COMPLETED', 'FAILED')),
    created_ms      INTEGER NOT NULL,
    started_ms      INTEGER,
    ended_ms        INTEGER,
    attempts        INTEGER NOT NULL DEFAULT 0,
    request         BLOB NOT NULL,
    message         TEXT,
    num_predictions INTEGER,
    num_errors      INTEGER,
    callback_url    TEXT,
    measure         TEXT NOT NULL DEFAULT 'unknown'
) STRICT;
CREATE INDEX job_created ON job (tenant, created_ms);
CREATE INDEX job_started ON job (tenant, started_ms);
CREATE INDEX job_ended ON job (tenant, ended_ms);
CREATE INDEX job_queue ON job (status, seq);
CREATE TABLE callback (
    seq        INTEGER PRIMARY KEY,
    job_id     TEXT NOT NULL UNIQUE,
    state      TEXT NOT NULL DEFAULT 'DUE' CHECK (state IN ('DUE', 'DELIVERED', 'REFUSED', 'GAVE_UP')),
    due_ms     INTEGER NOT NULL DEFAULT 0,
    tries      INTEGER NOT NULL DEFAULT 0,
    last_error TEXT
) STRICT;
CREATE INDEX callback_due ON callback (due_ms, seq) WHERE state = 'DUE';
CREATE TRIGGER job_ended AFTER UPDATE OF status ON job
    WHEN NEW.callback_url IS NOT NULL AND NEW.status IN ('COMPLETED', 'FAILED') AND OLD.status <> NEW.status
    BEGIN INSERT INTO callback (job_id) VALUES (NEW.id); END;
INSERT INTO job (id, tenant, status, created_ms, started_ms, ended_ms, request, num_predictions, callback_url, measure)
    VALUES ('done', 'a', 'COMPLETED', 1, 2, 3, x'7b7d', 4, 'https://a.example/', 'local'),
           ('waiting', 'b', 'QUEUED', 5, NULL, NULL, x'7b7d', NULL, NULL, 'unknown');
INSERT INTO callback (job_id, tries, last_error) VALUES ('done', 2, 'no');
PRAGMA user_version=2;
"""


def contents(folder: Path) -> list[Any]:
    """All jobs and all callbacks."""
    with contextlib.closing(sqlite3.connect(folder / "jobs.db")) as database:
        return [database.execute(f"SELECT * FROM {table} ORDER BY seq").fetchall() for table in ("job", "callback")]


def with_files_done(found: list[Any]) -> list[Any]:
    """What version 4 makes of these contents."""
    jobs, callbacks = found
    return [[(*job, 0) for job in jobs], callbacks]


def schema(folder: Path) -> Any:
    with contextlib.closing(sqlite3.connect(folder / "jobs.db")) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY 1")]
        columns = {name: database.execute(f"PRAGMA table_info({name})").fetchall() for name in names}
        others = database.execute("SELECT type, name, sql FROM sqlite_schema WHERE type <> 'table' ORDER BY 2")
        return database.execute("PRAGMA user_version").fetchone(), columns, others.fetchall()


def test_a_database_of_version_2(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as database:
        database.executescript(VERSION_2)
    before = contents(tmp_path)
    with contextlib.closing(Store(tmp_path)) as store:
        assert contents(tmp_path) == with_files_done(before)
        assert (row(store, "done").num_predictions, row(store, "waiting", "b").status) == (4, "QUEUED")
        assert job_with(store, "k") is None
        accept_keyed(store, "new", "k")
        assert job_with(store, "k") == "new"
    Store(tmp_path / "new").close()
    assert schema(tmp_path) == schema(tmp_path / "new")
    assert schema(tmp_path)[0] == (SCHEMA_VERSION,) == (4,)


def test_a_database_of_version_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("humebatch.server.store._STEPS", store_module._STEPS[:3])
    monkeypatch.setattr("humebatch.server.store.SCHEMA_VERSION", 3)
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as database:
        database.executescript(VERSION_2)
    Store(tmp_path).close()
    assert schema(tmp_path)[0] == (3,)
    before = contents(tmp_path)
    monkeypatch.undo()
    with contextlib.closing(Store(tmp_path)) as store:
        assert contents(tmp_path) == with_files_done(before)
        assert row(store, "done").files_done == 0
        assert store.claim(now_ms=6, measure="local") is not None
        store.progress("waiting", files_done=3)
        assert row(store, "waiting", "b").files_done == 3


def test_a_crash_on_the_way_to_version_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as database:
        database.executescript(VERSION_2)
    before = contents(tmp_path), schema(tmp_path)
    monkeypatch.setattr("humebatch.server.store._STEPS", ("", "", "CREATE TABLE job_key (seq INTEGER); boom;"))
    with pytest.raises(hb.errors.ConfigError, match="boom"):
        Store(tmp_path)
    assert (contents(tmp_path), schema(tmp_path)) == before
    monkeypatch.undo()
    Store(tmp_path).close()
    assert contents(tmp_path) == with_files_done(before[0])


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
