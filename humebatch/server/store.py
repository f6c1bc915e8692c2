"""Jobs in SQLite: one file, one owner, one connection used from one thread at a time; legal state changes only.

    QUEUED ──claim──▶ IN_PROGRESS ──finish──▶ COMPLETED
      ▲                   │ └──────fail─────▶ FAILED
      └─────requeue───────┘

A change names the state that it leaves, so a job moves once or not at all. `accept` returns after the
row is on disk (`synchronous=FULL`): a 200 that the client saw is never taken back by a crash.

The end of a job with a `callback_url` puts a row into the outbox (`callback`) in the same statement, by a
trigger: whatever ends a job, now or in a later version, cannot forget it, and no crash comes in between.

An idempotency key is written in the transaction of its job, and forgotten in that of a much later one.
"""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from ..errors import ConfigError

__all__ = ["CallbackEnd", "CallbackRow", "JobKey", "JobRow", "ListFilter", "Store"]

T = TypeVar("T")
CallbackEnd = Literal["DELIVERED", "REFUSED", "GAVE_UP"]

_VERSION_1 = """
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
    num_errors      INTEGER
) STRICT;
CREATE INDEX job_created ON job (tenant, created_ms);
CREATE INDEX job_started ON job (tenant, started_ms);
CREATE INDEX job_ended ON job (tenant, ended_ms);
CREATE INDEX job_queue ON job (status, seq);
"""
# Jobs that had ended under version 1 get no callback now: their callers stopped expecting one.
_VERSION_2 = """
ALTER TABLE job ADD COLUMN callback_url TEXT;
ALTER TABLE job ADD COLUMN measure TEXT NOT NULL DEFAULT 'unknown';
UPDATE job SET callback_url = nullif(json_extract(CAST(request AS TEXT), '$.callback_url'), '')
    WHERE status IN ('QUEUED', 'IN_PROGRESS') AND json_valid(CAST(request AS TEXT));
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
"""
_VERSION_3 = """
CREATE TABLE job_key (
    seq        INTEGER PRIMARY KEY,
    tenant     TEXT NOT NULL,
    key        TEXT NOT NULL,
    digest     BLOB NOT NULL,
    job_id     TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    UNIQUE (tenant, key)
) STRICT;
CREATE INDEX job_key_created ON job_key (created_ms);
"""
_VERSION_4 = """
ALTER TABLE job ADD COLUMN files_done INTEGER NOT NULL DEFAULT 0;
"""
# Each step leads from one version to the next; a new database goes through all of them, so old and new are alike.
_STEPS = (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4)
SCHEMA_VERSION = len(_STEPS)

# A day more than the seven that are promised.
_KEY_KEPT_MS = 8 * 24 * 3600 * 1000
# Each new key makes room for more than itself, and none pays for all that ran out while nobody came.
_KEYS_FORGOTTEN = 100

_COLUMNS = (
    "id, tenant, status, created_ms, started_ms, ended_ms, attempts, request, message, num_predictions, num_errors, "
    "measure, files_done"
)


class JobRow(msgspec.Struct, frozen=True):
    """A job as stored. Times are Unix milliseconds; `request` is the echo of the request as JSON."""

    id: str
    tenant: str
    status: str
    created_ms: int
    started_ms: int | None
    ended_ms: int | None
    attempts: int
    request: bytes
    message: str | None
    num_predictions: int | None
    num_errors: int | None
    measure: str
    """What measured it at its latest claim; `unknown` before the first, and for jobs of schema version 1."""
    files_done: int
    """Files, members of archives and texts that are measured; 0 for jobs that ended under schema version 3."""


class JobKey(msgspec.Struct, frozen=True):
    """An idempotency key, and the SHA-256 of the request that came with it."""

    key: str
    digest: bytes


class CallbackRow(msgspec.Struct, frozen=True):
    """A callback to be sent: the ended job, where to, and how many tries failed."""

    job_id: str
    url: str
    status: str
    message: str | None
    tries: int


class ListFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What a job list is asked for."""

    limit: int = 50
    statuses: Sequence[str] = ()
    when: Literal["created_before", "created_after"] | None = None
    timestamp_ms: int | None = None
    sort_by: Literal["created", "started", "ended"] = "created"
    direction: Literal["asc", "desc"] = "desc"


class Store:
    """The job table. Methods block; the server calls them in a worker thread, one at a time."""

    def __init__(self, folder: Path) -> None:
        """Open or create `folder/jobs.db`.

        Raises `ConfigError` when the folder cannot be used, when another server uses it, or when a newer
        version wrote it.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = (folder / "lock").open("a")
        except OSError as error:
            raise ConfigError(f"data: {folder} cannot be used: {error}", field="data") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _shut(folder)
            self._db = _open(folder / "jobs.db")
        except BlockingIOError as error:
            self._lock.close()
            raise ConfigError(f"data: {folder} is in use by another server", field="data") from error
        except BaseException:
            self._lock.close()
            raise
        self._turn = threading.Lock()

    def close(self) -> None:
        """Close the database and let another server have the folder."""
        # A thread that is still inside a statement must come out first: SQLite crashes otherwise.
        with self._turn:
            self._db.close()
        self._lock.close()

    def accept(
        self,
        *,
        job_id: str,
        tenant: str,
        created_ms: int,
        request: bytes,
        callback_url: str | None = None,
        key: JobKey | None = None,
    ) -> None:
        """Record a new job as QUEUED, durably, and its `key` with it.

        Raises `sqlite3.IntegrityError`, and records neither, when the tenant's key belongs to another job.
        """
        with self._turn, self._db as db:
            db.execute("BEGIN IMMEDIATE")
            db.execute(
                "INSERT INTO job (id, tenant, status, created_ms, request, callback_url) "
                "VALUES (?, ?, 'QUEUED', ?, ?, ?)",
                (job_id, tenant, created_ms, request, callback_url),
            )
            if key is not None:
                self._keep_key(key, job_id=job_id, tenant=tenant, now_ms=created_ms)

    def _keep_key(self, key: JobKey, *, job_id: str, tenant: str, now_ms: int) -> None:
        ended_ms = now_ms - _KEY_KEPT_MS
        self._db.execute(
            "DELETE FROM job_key WHERE tenant = ? AND key = ? AND created_ms < ?", (tenant, key.key, ended_ms)
        )
        self._db.execute(
            "DELETE FROM job_key WHERE seq IN "
            "(SELECT seq FROM job_key WHERE created_ms < ? ORDER BY created_ms LIMIT ?)",
            (ended_ms, _KEYS_FORGOTTEN),
        )
        # Never older than the latest: a clock that was set back and is put right again must not age what came between.
        self._db.execute(
            "INSERT INTO job_key (tenant, key, digest, job_id, created_ms) "
            "VALUES (?, ?, ?, ?, max(?, coalesce((SELECT max(created_ms) FROM job_key), 0)))",
            (tenant, key.key, key.digest, job_id, now_ms),
        )

    def keyed(self, key: str, *, tenant: str, now_ms: int) -> tuple[bytes, str] | None:
        """The digest and the job id that `key` was recorded with, for at least seven days; None for a new key."""
        with self._turn:
            row: tuple[bytes, str] | None = self._db.execute(
                "SELECT digest, job_id FROM job_key WHERE tenant = ? AND key = ? AND created_ms >= ?",
                (tenant, key, now_ms - _KEY_KEPT_MS),
            ).fetchone()
        return row

    def claim(self, *, now_ms: int, measure: str = "unknown") -> JobRow | None:
        """Take the oldest QUEUED job and make it IN_PROGRESS, measured by `measure`; None if there is none."""
        with self._turn:
            row = self._db.execute(
                "UPDATE job SET status = 'IN_PROGRESS', started_ms = coalesce(started_ms, ?), attempts = attempts + 1, "
                "measure = ?, files_done = 0 "
                "WHERE seq = (SELECT seq FROM job WHERE status = 'QUEUED' ORDER BY seq LIMIT 1) "
                f"RETURNING {_COLUMNS}",
                (now_ms, measure),
            ).fetchone()
        return None if row is None else JobRow(*row)

    def progress(self, job_id: str, *, files_done: int) -> None:
        """How far an IN_PROGRESS job has come."""
        self._change("UPDATE job SET files_done = ? WHERE id = ? AND status = 'IN_PROGRESS'", (files_done, job_id))

    def finish(self, job_id: str, *, ended_ms: int, num_predictions: int, num_errors: int, files_done: int = 0) -> None:
        """IN_PROGRESS to COMPLETED; the results are on disk already."""
        self._move(
            "UPDATE job SET status = 'COMPLETED', ended_ms = max(?, started_ms), num_predictions = ?, num_errors = ?, "
            "files_done = ? WHERE id = ? AND status = 'IN_PROGRESS'",
            (ended_ms, num_predictions, num_errors, files_done, job_id),
        )

    def fail(self, job_id: str, *, ended_ms: int, message: str) -> None:
        """IN_PROGRESS to FAILED with the reason that the client will read."""
        self._move(
            "UPDATE job SET status = 'FAILED', ended_ms = max(?, started_ms), message = ? "
            "WHERE id = ? AND status = 'IN_PROGRESS'",
            (ended_ms, message, job_id),
        )

    def requeue(self, job_id: str) -> None:
        """IN_PROGRESS back to QUEUED because the server stops; the broken-off try does not count."""
        self._move(
            "UPDATE job SET status = 'QUEUED', attempts = attempts - 1 WHERE id = ? AND status = 'IN_PROGRESS'",
            (job_id,),
        )

    def recover(self, *, now_ms: int, max_attempts: int) -> list[str]:
        """After a crash: queue again what was IN_PROGRESS, but fail what was begun `max_attempts` times.

        Returns the ids of the jobs that failed. A job whose measuring kills the server must not do so for ever.
        """
        with self._turn:
            failed = self._db.execute(
                "UPDATE job SET status = 'FAILED', ended_ms = max(?, started_ms), message = ? "
                "WHERE status = 'IN_PROGRESS' AND attempts >= ? RETURNING id",
                (now_ms, f"the server went down {max_attempts} times while measuring this job", max_attempts),
            ).fetchall()
            self._db.execute("UPDATE job SET status = 'QUEUED' WHERE status = 'IN_PROGRESS'")
        return [job_id for (job_id,) in failed]

    def get(self, job_id: str, *, tenant: str) -> JobRow | None:
        """One job of this tenant, or None."""
        with self._turn:
            row = self._db.execute(
                f"SELECT {_COLUMNS} FROM job WHERE id = ? AND tenant = ?", (job_id, tenant)
            ).fetchone()
        return None if row is None else JobRow(*row)

    def known(self) -> set[str]:
        """The ids of all jobs, for sweeping folders that belong to none."""
        with self._turn:
            return {job_id for (job_id,) in self._db.execute("SELECT id FROM job")}

    def unfinished(self) -> set[str]:
        """The ids of the jobs whose inputs are still needed."""
        with self._turn:
            rows = self._db.execute("SELECT id FROM job WHERE status IN ('QUEUED', 'IN_PROGRESS')")
            return {job_id for (job_id,) in rows}

    def list_jobs(self, wanted: ListFilter, *, tenant: str) -> list[JobRow]:
        """Jobs by filter. Jobs without the timestamp that is sorted by come last in either direction."""
        where, values = ["tenant = ?"], [tenant]
        if wanted.statuses:
            where.append(f"status IN ({', '.join('?' * len(wanted.statuses))})")
            values += wanted.statuses
        parameters: list[str | int] = [*values]
        if wanted.timestamp_ms is not None:
            where.append("created_ms > ?" if wanted.when == "created_after" else "created_ms < ?")
            parameters.append(wanted.timestamp_ms)
        # Column and direction come from the Literals of ListFilter, never from the request's text.
        column, way = f"{wanted.sort_by}_ms", wanted.direction.upper()
        query = (
            f"SELECT {_COLUMNS} FROM job WHERE {' AND '.join(where)} "
            f"ORDER BY {column} IS NULL, {column} {way}, seq {way} LIMIT ?"
        )
        with self._turn:
            rows = self._db.execute(query, (*parameters, wanted.limit)).fetchall()
        return [JobRow(*row) for row in rows]

    def next_callback(
        self, *, now_ms: int, latest_ms: int, under_way: Collection[str], crowded: Collection[str]
    ) -> CallbackRow | None:
        """The callback that has been due longest; None if none is due.

        `latest_ms`: nothing is ever put off further than this, so what is due later was written by a clock that
        has been set back since, and is due now. `under_way`: jobs to leave out. `crowded`: beginnings of URLs to
        leave out.
        """
        where = ["state = 'DUE'", "(due_ms <= ? OR due_ms > ?)"]
        where += ["job_id <> ?"] * len(under_way) + ["instr(job.callback_url, ?) <> 1"] * len(crowded)
        query = (
            "SELECT job_id, job.callback_url, job.status, job.message, tries "
            f"FROM callback JOIN job ON job.id = job_id WHERE {' AND '.join(where)} "
            "ORDER BY due_ms, callback.seq LIMIT 1"
        )
        with self._turn:
            row = self._db.execute(query, (now_ms, latest_ms, *under_way, *crowded)).fetchone()
        return None if row is None else CallbackRow(*row)

    def next_callback_ms(self, *, now_ms: int, latest_ms: int) -> int | None:
        """When the first of the callbacks that are not due yet will be due; None if there are none."""
        with self._turn:
            (due_ms,) = self._db.execute(
                "SELECT min(due_ms) FROM callback WHERE state = 'DUE' AND due_ms > ? AND due_ms <= ?",
                (now_ms, latest_ms),
            ).fetchone()
        return None if due_ms is None else int(due_ms)

    def put_off_callback(self, job_id: str, *, due_ms: int, error: str) -> None:
        """A try failed; there will be another one."""
        self._change(
            "UPDATE callback SET due_ms = ?, tries = tries + 1, last_error = ? WHERE job_id = ? AND state = 'DUE'",
            (due_ms, error, job_id),
        )

    def end_callback(self, job_id: str, state: CallbackEnd, *, error: str | None) -> None:
        """There will be no further try."""
        self._change(
            "UPDATE callback SET state = ?, tries = tries + 1, last_error = ? WHERE job_id = ? AND state = 'DUE'",
            (state, error, job_id),
        )

    def _change(self, statement: str, values: tuple[str | int | bytes | None, ...]) -> int:
        with self._turn:
            return self._db.execute(statement, values).rowcount

    def _move(self, statement: str, values: tuple[str | int | bytes | None, ...]) -> None:
        if self._change(statement, values) != 1:
            raise RuntimeError(f"job {values[-1]!r} is not IN_PROGRESS: its state change was refused")


def _shut(folder: Path) -> None:
    """Keep other users of the machine out: the requests hold people's texts. SQLite gives -wal and -shm the same mode.

    A folder that was there before keeps its mode: what it is shared for is its owner's matter.
    """
    # What cannot be made or changed here is a matter for the opening that follows.
    with contextlib.suppress(OSError):
        (folder / "jobs.db").touch(0o600)
    for name in ("lock", "jobs.db", "jobs.db-wal", "jobs.db-shm"):
        with contextlib.suppress(OSError):
            (folder / name).chmod(0o600)


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000", "trusted_schema=OFF"):
            db.execute(f"PRAGMA {pragma}")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if 0 <= version < SCHEMA_VERSION:
            # One transaction: a crash leaves the old version, which the next start brings up to date.
            steps = "".join(_STEPS[version:])
            db.executescript(f"BEGIN IMMEDIATE;{steps}PRAGMA user_version={SCHEMA_VERSION};COMMIT;")
        elif version != SCHEMA_VERSION:
            raise ConfigError(
                f"data: {path} was written by another version of humebatch (schema {version}, "
                f"this one reads {SCHEMA_VERSION}); use that version or an empty folder",
                field="data",
            )
    except sqlite3.Error as error:
        db.close()
        raise ConfigError(f"data: {path} cannot be used: {error}", field="data") from error
    except BaseException:
        db.close()
        raise
    return db
