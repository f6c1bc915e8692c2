"""What a scan found, taken into the journal: new inputs, known ones, and known ones that are not what they were."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable

from ...ingestion import Reason
from .inputs import RESULT, Ended, asked_so, fail, fetch_again, promote, size_of, told, unsave
from .scan import Found

__all__ = ["take"]

# What lies in the output folder itself.
_OURS = frozenset(
    (b"artifacts", b"index.jsonl", *(b"journal.db" + ending for ending in (b"", b"-wal", b"-shm", b".lock")))
)
# What ails these may have passed, and costs no request to find out.
_LOCAL = (Reason.UNREADABLE, Reason.NOT_A_FILE, Reason.CHANGED)


def take(db: sqlite3.Connection, run: int, found: Iterable[Found], *, out: bytes, retry: bool) -> list[Ended]:
    """Write down what a scan found; returns the inputs that have ended, now or in an earlier run.

    An input that changed, or was measured as another run has asked for, is a new one. `retry`: FAILED ones are, too.
    DONE ones whose results are not where they were saved are fetched again.
    """
    ended: list[Ended] = []
    for one in found:
        row = db.execute(
            "SELECT id, state, reason, place, saved, seen, size, mtime_ns, dev, ino FROM file WHERE path = ?",
            (one.path,),
        ).fetchone()
        if row is None:
            file_id = _insert(db, run, one)
            if one.reason is not None:
                ended.append(told(db, file_id))
            continue
        file_id, state, reason, place, saved, seen, *facts = row
        if seen == run:
            continue  # named twice
        db.execute("UPDATE file SET seen = ? WHERE id = ?", (run, file_id))
        if state not in ("DONE", "FAILED"):
            if one.reason is None and facts != [one.size, one.mtime_ns, one.dev, one.ino]:
                _changed(db, file_id, state)
            continue
        if one.reason is None and not asked_so(db, file_id):
            unsave(db, file_id)
            db.execute(
                "UPDATE file SET state = 'FOUND', reason = NULL, detail = NULL, changes = 0 WHERE id = ?", (file_id,)
            )
            continue
        # What was measured stays measured when the file is gone.
        gone = state == "DONE" and one.reason is Reason.MISSING
        same = gone or facts == [one.size, one.mtime_ns, one.dev, one.ino]
        if one.reason is not None and not gone:
            if (state, reason) != ("FAILED", one.reason):
                fail(db, file_id, one.reason, one.detail)
                promote(db, file_id)
        elif same and retry and reason == Reason.NOT_SAVED:
            # It is measured: only its results have no place yet.
            db.execute("UPDATE file SET reason = NULL, detail = NULL WHERE id = ?", (file_id,))
            fetch_again(db, file_id)
            continue
        elif not same or (state == "FAILED" and (retry or reason in _LOCAL)):
            db.execute(
                "UPDATE file SET state = 'FOUND', reason = NULL, detail = NULL, changes = 0 WHERE id = ?", (file_id,)
            )
            continue
        elif state == "DONE" and size_of(os.path.join(out, place, RESULT)) != saved:
            fetch_again(db, file_id)
            continue
        ended.append(told(db, file_id))
    return ended


def _changed(db: sqlite3.Connection, file_id: int, state: str) -> None:
    """An input that is under way is not what it was when it was hashed."""
    if state in ("SAME", "READY"):
        promote(db, file_id)
        db.execute("UPDATE file SET state = 'FOUND', same_as = NULL WHERE id = ?", (file_id,))
    elif state == "GROUPED":
        # Its job may have been made of what it was: that is for later.
        db.execute("UPDATE file SET stale = 1 WHERE id = ?", (file_id,))


def _insert(db: sqlite3.Connection, run: int, one: Found) -> int:
    state = "FOUND" if one.reason is None else "FAILED"
    first, slash, below = one.place.partition(b"/")
    wanted = one.place if first not in _OURS else first + b"~2" + slash + below
    place, number = wanted, 1
    while True:
        try:
            row = db.execute(
                "INSERT INTO file (path, place, size, mtime_ns, dev, ino, state, reason, detail, seen) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
                (one.path, place, one.size, one.mtime_ns, one.dev, one.ino, state, one.reason, one.detail or None, run),
            ).fetchone()
            return int(row[0])
        except sqlite3.IntegrityError:
            number += 1
            place = wanted + b"~%d" % number
