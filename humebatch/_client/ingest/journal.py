"""The journal: what is known of every input, every group of inputs that becomes one job, and every try to send it.

    PLANNED ─▶ SENDING ─▶ SUBMITTED ─▶ ENDED ─▶ DONE
       ▲        │   ▲▼        │
       │        │  UNKNOWN ─▶ PARKED          SENDING, UNKNOWN ─▶ DROPPED (its inputs go into other groups)
       └────────┘                             SENDING, SUBMITTED, ENDED ─▶ FAILED

Every change names the state that it leaves, so a group moves once or not at all. Changes that wait at the same time
are committed together, in the order in which they came; each is all or nothing, and is on disk when its call returns.
After a failed commit nothing is changed any more: what SQLite could not write may not be sent either.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

import anyio
import msgspec

from ...errors import DiskError
from .schema import Binding, bind, hold, open_journal, unusable
from .threads import to_its_end

__all__ = ["Group", "Journal", "Sent", "end_attempt", "log", "move", "now_ms"]

T = TypeVar("T")


class Sent(msgspec.Struct, frozen=True, array_like=True):
    """A file as it went over the wire: its name there, and its md5."""

    name: str
    md5: str


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs that become one job. `uuid` is its idempotency key, `tag` is in its wire names.

    `sent`: what went over the wire; None until the first try. `since_ms`: when that began, on the server's clock.
    `keyed`: whether every try so far went to a server that honours keys. `bundle`: the name of the one archive that it
    is sent as.
    """

    id: int
    uuid: str
    tag: str | None
    config: str
    bundle: str | None
    bytes: int
    state: str
    sent: tuple[Sent, ...] | None
    since_ms: int | None
    keyed: bool
    job_id: str | None

    @classmethod
    def of(cls, row: tuple[Any, ...]) -> Group:
        """A row of `COLUMNS`."""
        sent = None if row[7] is None else _sent.decode(row[7])
        return cls(
            id=row[0],
            uuid=row[1],
            tag=row[2],
            config=row[3],
            bundle=row[4],
            bytes=row[5],
            state=row[6],
            sent=sent,
            since_ms=row[8],
            keyed=row[9] != 0,
            job_id=row[10],
        )

    @classmethod
    def by_id(cls, db: sqlite3.Connection, group_id: int) -> Group:
        """The group with this id."""
        return cls.of(db.execute(f"SELECT {_COLUMNS} WHERE grp.id = ?", (group_id,)).fetchone())


_sent = msgspec.json.Decoder(tuple[Sent, ...])
_COLUMNS = (
    "grp.id, uuid, tag, config.request, bundle, bytes, state, sent, since_ms, keyed, job_id "
    "FROM grp JOIN config ON config.id = grp.config"
)


class _Waiting(Generic[T]):
    def __init__(self, work: Callable[[sqlite3.Connection], T]) -> None:
        self.work = work
        self.done = False
        self.result: T | None = None
        self.error: BaseException | None = None


class Journal:
    """One journal, held by this process. Its methods that are coroutines run in a thread, one at a time."""

    def __init__(self, path: Path, lock: IO[str], db: sqlite3.Connection, run: int) -> None:
        self.path = path
        self.run = run
        self.broken: DiskError | None = None
        self._lock = lock
        self._db = db
        self._turn = anyio.Lock()
        self._waiting: list[_Waiting[Any]] = []
        # How many times a group that this run had sent was shown to be no job.
        self._absences: Counter[int] = Counter()

    @classmethod
    def open(cls, path: Path, binding: Binding, *, rebind: bool, lock: IO[str] | None = None) -> Journal:
        """Lock, open, check and bind; blocks. What was being sent when the last run died is UNKNOWN from here on.

        `lock`: of `hold`, if the caller has it; closed when this fails. Raises `ConfigError` and `DiskError`.
        """
        path = Path(os.path.realpath(path))
        lock = lock or hold(path)
        try:
            db = open_journal(path)
            try:
                # One transaction: the next start does not see that the server changed if this one is killed half way.
                db.execute("BEGIN IMMEDIATE")
                if bind(db, path, binding, rebind=rebind):
                    _forget_server(db)
                _recover(db)
                run = db.execute("INSERT INTO run (began_ms) VALUES (?)", (now_ms(),)).lastrowid
                db.execute("COMMIT")
            except BaseException as error:
                db.close()
                if isinstance(error, sqlite3.Error):
                    raise unusable(path, error) from error
                raise
        except BaseException:
            lock.close()
            raise
        assert run is not None
        return cls(path, lock, db, run)

    async def close(self) -> None:
        """Close it and let another process have it."""
        async with self._turn:
            await to_its_end(self.release)

    def release(self) -> None:
        """The same where there is no event loop to be waited on; blocks."""
        self._db.close()
        self._lock.close()

    async def change(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` in a transaction; it is on disk when this returns. What `work` raises undoes it, and comes out.

        Raises `DiskError` when the journal cannot be written, now or earlier. Cancelled, it may be done or not; in a
        shielded scope it is done.
        """
        waiting = _Waiting(work)
        self._waiting.append(waiting)
        async with self._turn:
            if not waiting.done:
                batch, self._waiting = self._waiting, []
                await to_its_end(lambda: self._commit(batch))
        if waiting.error is not None:
            raise waiting.error
        return waiting.result  # type: ignore[return-value]  # set by `_commit` wherever there is no error

    def _commit(self, batch: list[_Waiting[Any]]) -> None:
        try:
            if self.broken is not None:
                raise self.broken
            self._db.execute("BEGIN IMMEDIATE")
            for one in batch:
                self._one(one)
            self._db.execute("COMMIT")
        except (sqlite3.Error, DiskError) as error:
            # A commit that failed may or may not be on disk: the next start finds out, this process does not guess.
            with contextlib.suppress(sqlite3.Error):
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            self.broken = self.broken or DiskError(
                f"journal: {self.path} cannot be written: {error}; nothing more is sent", path=str(self.path)
            )
            for one in batch:
                one.error = self.broken
        for one in batch:
            one.done = True

    def _one(self, one: _Waiting[Any]) -> None:
        self._db.execute("SAVEPOINT one")
        try:
            one.result = one.work(self._db)
        except Exception as error:
            if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
                raise
            self._db.execute("ROLLBACK TO one")
            one.error = error
        self._db.execute("RELEASE one")

    # ── groups

    async def groups(self, *states: str, limit: int, after: int = 0) -> list[Group]:
        """Groups in these states, oldest first, from the one after `after` on."""
        marks = ", ".join("?" * len(states))
        query = f"SELECT {_COLUMNS} WHERE state IN ({marks}) AND grp.id > ? ORDER BY grp.id LIMIT ?"
        return await self.change(
            lambda db: [Group.of(row) for row in db.execute(query, (*states, after, limit)).fetchall()]
        )

    async def count(self, *states: str) -> int:
        """How many groups are in these states."""
        marks = ", ".join("?" * len(states))
        query = f"SELECT count(*) FROM grp WHERE state IN ({marks})"
        return await self.change(lambda db: int(db.execute(query, states).fetchone()[0]))

    async def intend(
        self, group: Group, *, sent: tuple[Sent, ...], length: int | None, keyed: bool, server_ms: int
    ) -> None:
        """A try is about to begin; not a byte leaves before this has returned."""

        def work(db: sqlite3.Connection) -> None:
            encoded = msgspec.json.encode(sent)
            move(db, group.id, (group.state,), "SENDING", detail=None)
            db.execute(
                "UPDATE grp SET sent = ?, since_ms = min(coalesce(since_ms, ?), ?), "
                "keyed = min(coalesce(keyed, 1), ?) WHERE id = ?",
                (encoded, server_ms, server_ms, int(keyed), group.id),
            )
            db.execute(
                "INSERT INTO attempt (grp, number, run, began_ms, length, keyed, state) VALUES (?, "
                "(SELECT 1 + coalesce(max(number), 0) FROM attempt WHERE grp = ?), ?, ?, ?, ?, 'SENDING')",
                (group.id, group.id, self.run, now_ms(), length, int(keyed)),
            )

        await self.change(work)

    async def accepted(self, group_id: int, job_id: str, *, was: tuple[str, ...] = ("SENDING",)) -> None:
        """The group is this job."""

        def work(db: sqlite3.Connection) -> None:
            move(db, group_id, was, "SUBMITTED", detail=job_id)
            db.execute("UPDATE grp SET job_id = ?, reason = NULL, detail = NULL WHERE id = ?", (job_id, group_id))
            db.execute("DELETE FROM duplicate WHERE job_id = ?", (job_id,))
            # Found in the list after nothing but refusals: one of them was not true.
            silent = end_attempt(db, group_id, ("SENDING", "UNKNOWN"), "ACCEPTED", None)
            if not silent:
                end_attempt(db, group_id, ("REFUSED",), "ACCEPTED", None)

        await self.change(work)

    async def not_sent(self, group_id: int, detail: str, *, again: str = "PLANNED") -> None:
        """The try certainly made no job. `again`: UNKNOWN for a group of which an earlier try may have made one."""

        def work(db: sqlite3.Connection) -> None:
            move(db, group_id, ("SENDING",), again, detail=detail)
            end_attempt(db, group_id, ("SENDING",), "NOT_SENT", detail)

        await self.change(work)

    async def unknown(self, group_id: int, detail: str) -> None:
        """The try may have made a job."""

        def work(db: sqlite3.Connection) -> None:
            move(db, group_id, ("SENDING",), "UNKNOWN", detail=detail)
            end_attempt(db, group_id, ("SENDING",), "UNKNOWN", detail)

        await self.change(work)

    async def denied(self, group_id: int, detail: str) -> None:
        """The try was sent whole, and the server says that it made no job and may make one later.

        UNKNOWN until the job list has confirmed it.
        """

        def work(db: sqlite3.Connection) -> None:
            move(db, group_id, ("SENDING",), "UNKNOWN", detail=detail)
            end_attempt(db, group_id, ("SENDING",), "REFUSED", detail)

        await self.change(work)

    async def only_denied(self, group_ids: Iterable[int]) -> set[int]:
        """Those of these UNKNOWN groups whose last try was `denied`, and none before it is without an answer."""
        wanted = list(group_ids)
        query = "SELECT state FROM attempt WHERE grp = ? AND state <> 'NOT_SENT' ORDER BY number DESC"

        def denied(db: sqlite3.Connection, group_id: int) -> bool:
            states = [state for (state,) in db.execute(query, (group_id,))]
            return states[:1] == ["REFUSED"] and "UNKNOWN" not in states

        return await self.change(lambda db: {one for one in wanted if denied(db, one)})

    async def absent(self, group_id: int, why: str, *, most: int) -> bool:
        """No try so far has made a job: the group may be sent again. False the `most`th time it was: parked."""

        def work(db: sqlite3.Connection) -> bool:
            # Verdicts on this run's tries count, and not those: with a key they were safe, however many there were.
            ours = "SELECT 1 FROM attempt WHERE grp = ? AND state = 'UNKNOWN' AND run = ?"
            self._absences[group_id] += db.execute(ours, (group_id, self.run)).fetchone() is not None
            end_attempt(db, group_id, ("UNKNOWN",), "ABSENT", None)
            if self._absences[group_id] >= most:
                return False
            move(db, group_id, ("UNKNOWN",), "PLANNED", detail=why)
            return True

        return await self.change(work)

    async def ended(self, job_id: str) -> None:
        """The group's job has completed; its results are to be fetched."""

        def work(db: sqlite3.Connection) -> None:
            (group_id,) = db.execute("SELECT id FROM grp WHERE job_id = ?", (job_id,)).fetchone()
            move(db, group_id, ("SUBMITTED",), "ENDED", detail=None)

        await self.change(work)

    async def closed(self) -> None:
        """The run has ended by itself or was told to stop."""
        await self.change(lambda db: db.execute("UPDATE run SET ended_ms = ? WHERE id = ?", (now_ms(), self.run)))


def move(db: sqlite3.Connection, group_id: int, was: Iterable[str], now: str, *, detail: str | None) -> None:
    """A guarded change of a group's state, and its line in the history. Raises if the group is not where it was."""
    states = tuple(was)
    (before,) = db.execute("SELECT state FROM grp WHERE id = ?", (group_id,)).fetchone()
    marks = ", ".join("?" * len(states))
    changed = db.execute(
        f"UPDATE grp SET state = ? WHERE id = ? AND state IN ({marks})", (now, group_id, *states)
    ).rowcount
    if changed != 1:
        raise RuntimeError(f"group {group_id} is {before}, not {' or '.join(states)}: it does not become {now}")
    log(db, group_id, before, now, detail)


def log(db: sqlite3.Connection, group_id: int | None, was: str | None, now: str, detail: str | None) -> None:
    """A line in the history, which is only ever added to."""
    db.execute(
        "INSERT INTO event (at_ms, grp, was, now, detail) VALUES (?, ?, ?, ?, ?)",
        (now_ms(), group_id, was, now, detail),
    )


def end_attempt(db: sqlite3.Connection, group_id: int, was: tuple[str, ...], now: str, detail: str | None) -> int:
    """The open tries of a group have come to this; returns how many there were."""
    marks = ", ".join("?" * len(was))
    return db.execute(
        f"UPDATE attempt SET state = ?, detail = coalesce(?, detail) WHERE grp = ? AND state IN ({marks})",
        (now, detail, group_id, *was),
    ).rowcount


def _recover(db: sqlite3.Connection) -> None:
    """Whatever was being sent when the last run died may be a job."""
    for (group_id,) in db.execute("SELECT id FROM grp WHERE state = 'SENDING'").fetchall():
        move(db, group_id, ("SENDING",), "UNKNOWN", detail="the run ended while it was being sent")
        end_attempt(db, group_id, ("SENDING",), "UNKNOWN", "the run ended while it was being sent")


def _forget_server(db: sqlite3.Connection) -> None:
    """The server of our own is gone, with all its jobs: nothing of them can be fetched, or be there twice."""
    lost = db.execute(
        "SELECT id, state FROM grp WHERE state IN ('SENDING', 'UNKNOWN', 'SUBMITTED', 'ENDED', 'PLANNED', 'PARKED')"
    ).fetchall()
    # Nothing is parked but in these groups, or as the same as what is.
    db.execute(
        "UPDATE file SET state = 'SAME', reason = NULL, detail = NULL WHERE state = 'PARKED' AND same_as IS NOT NULL"
    )
    for group_id, state in lost:
        move(db, group_id, (state,), "DROPPED", detail="its server is gone")
        end_attempt(db, group_id, ("SENDING", "UNKNOWN"), "ABSENT", "its server is gone")
        db.execute(
            "UPDATE file SET state = 'READY', grp = NULL, position = NULL, wire = NULL, reason = NULL, detail = NULL "
            "WHERE grp = ? AND state IN ('GROUPED', 'PARKED')",
            (group_id,),
        )
    # Whatever has become of them: what was measured has no job any more that it could be fetched from again.
    db.execute("UPDATE grp SET gone = 1")


def now_ms() -> int:
    """Unix milliseconds on this machine's clock."""
    return time.time_ns() // 1_000_000
