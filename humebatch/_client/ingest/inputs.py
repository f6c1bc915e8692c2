"""Inputs in the journal: hashed, and ended; plain functions for `Journal.change`. How they get there: `taking`.

    FOUND ─▶ READY ─▶ GROUPED ─▶ DONE | FAILED | PARKED
      └────▶ SAME as another input ────────┘

Every function that ends inputs returns them as `Ended`, so that each is told once per run.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from ...errors import HumebatchError, InputFailed
from ...ingestion import Ingested, InputState, Reason
from ..outcome import Outcome
from .hashing import Hashed, Unusable
from .journal import end_attempt, move
from .naming import own_name
from .storing import NotStored, Stored, Target

__all__ = [
    "RESULT",
    "Ended",
    "asked_so",
    "copies",
    "end_group",
    "fail",
    "fetch_again",
    "hashed",
    "left",
    "outcome",
    "overtaken",
    "promote",
    "revive",
    "size_of",
    "stored",
    "targets",
    "to_hash",
    "told",
    "unsave",
]

RESULT = b"predictions.json"
# A file that changes each time that it is looked at is given up after so many looks.
_CHANGES = 3


class Ended(msgspec.Struct, frozen=True):
    """An input in its final state."""

    path: bytes
    place: bytes
    state: str
    reason: str | None
    detail: str | None
    job_id: str | None
    errors: int | None


def outcome(ended: Ended, out: bytes) -> Outcome[str, Ingested]:
    """What the caller is told of an input."""
    path = os.fsdecode(ended.path)
    if ended.state == InputState.DONE:
        saved = os.fsdecode(os.path.join(out, ended.place, RESULT))
        return Outcome(
            item=path, value=Ingested(predictions=saved, job_id=ended.job_id or "", errors=ended.errors or 0)
        )
    error: HumebatchError = InputFailed(
        f"{path}: {ended.detail or ended.reason}",
        path=path,
        state=ended.state,
        reason=ended.reason or "",
        job_id=ended.job_id,
    )
    return Outcome(item=path, error=error)


_ENDED = (
    "SELECT file.path, file.place, file.state, file.reason, file.detail, grp.job_id, file.errors FROM file "
    "LEFT JOIN file AS original ON original.id = file.same_as "
    "LEFT JOIN grp ON grp.id = coalesce(file.grp, original.grp) WHERE file.id = ?"
)


def told(db: sqlite3.Connection, file_id: int) -> Ended:
    """The input as it has ended, which is said in this run with that."""
    # The scan may come to it later in this run: it is told now.
    db.execute("UPDATE file SET seen = coalesce((SELECT max(id) FROM run), seen) WHERE id = ?", (file_id,))
    return Ended(*db.execute(_ENDED, (file_id,)).fetchone())


def size_of(path: bytes) -> int | None:
    """Its bytes, None if it is not there."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def fetch_again(db: sqlite3.Connection, file_id: int) -> None:
    """The saved results of an input are gone: its job has them still, unless that went with its server."""
    group_id, state, original, its_state = db.execute(
        "SELECT coalesce(original.grp, file.grp), file.state, original.id, original.state FROM file "
        "LEFT JOIN file AS original ON original.id = file.same_as WHERE file.id = ?",
        (file_id,),
    ).fetchone()
    if original is not None and its_state != "FAILED":
        db.execute("UPDATE file SET state = 'SAME' WHERE id = ?", (file_id,))
        return
    if original is not None:
        _stand_alone(db, original, state, only=file_id)
    if _gone(db, group_id):
        # Nothing is left of its job: measured again there is no second one of it anywhere.
        db.execute(
            "UPDATE file SET state = 'FOUND', grp = NULL, position = NULL, wire = NULL, saved = NULL WHERE id = ?",
            (file_id,),
        )
        return
    db.execute("UPDATE file SET state = 'GROUPED' WHERE id = ?", (file_id,))
    _reopen(db, group_id)


def _gone(db: sqlite3.Connection, group_id: int) -> bool:
    """Whether the group's server, one of our own, is gone with its jobs. One that has lost a job is another matter."""
    return bool(db.execute("SELECT gone FROM grp WHERE id = ?", (group_id,)).fetchone()[0])


def _stand_alone(db: sqlite3.Connection, original: int, state: str, *, only: int | None = None) -> int:
    """Inputs in `state` that are the same as this one belong to its job themselves. Returns how many."""
    return db.execute(
        "UPDATE file SET same_as = NULL, grp = original.grp, position = original.position, wire = original.wire "
        "FROM file AS original WHERE original.id = ? AND file.same_as = original.id AND file.state = ? "
        "AND file.id = coalesce(?, file.id)",
        (original, state, only),
    ).rowcount


def _reopen(db: sqlite3.Connection, group_id: int) -> None:
    """Results of a group whose job had completed are wanted again."""
    (state,) = db.execute("SELECT state FROM grp WHERE id = ?", (group_id,)).fetchone()
    # FAILED: the job was gone when another of its inputs was fetched again.
    if state in ("DONE", "FAILED"):
        move(db, group_id, (state,), "ENDED", detail="results are missing")
        db.execute("UPDATE grp SET reason = NULL, detail = NULL WHERE id = ?", (group_id,))


# ── hashed


def to_hash(db: sqlite3.Connection, limit: int) -> list[tuple[int, bytes, int]]:
    """Inputs that are not hashed yet: id, path and size as found, oldest first."""
    return db.execute("SELECT id, path, size FROM file WHERE state = 'FOUND' ORDER BY id LIMIT ?", (limit,)).fetchall()


def hashed(
    db: sqlite3.Connection, config: int, results: Sequence[tuple[int, Hashed | Unusable]], *, out: bytes
) -> list[Ended]:
    """Write down what hashing found: a content of its own, that of another input, the old one, or none at all."""
    ended: list[Ended] = []
    for file_id, result in results:
        before, saved, changes, place = db.execute(
            "SELECT md5, saved, changes, place FROM file WHERE id = ?", (file_id,)
        ).fetchone()
        if isinstance(result, Unusable):
            fail(db, file_id, result.reason, result.detail)
            promote(db, file_id)
            ended.append(told(db, file_id))
            continue
        facts = (result.md5, result.size, result.mtime_ns, result.dev, result.ino, file_id)
        db.execute("UPDATE file SET md5 = ?, size = ?, mtime_ns = ?, dev = ?, ino = ?, stale = 0 WHERE id = ?", facts)
        if before == result.md5 and saved is not None and not asked_so(db, file_id):
            unsave(db, file_id)
        elif before == result.md5 and saved is not None:  # touched, not changed
            if size_of(os.path.join(out, place, RESULT)) == saved:
                db.execute("UPDATE file SET state = 'DONE' WHERE id = ?", (file_id,))
                ended.append(told(db, file_id))
                continue
            if _measured(db, file_id):
                fetch_again(db, file_id)
                continue
        if before not in (None, result.md5) or changes >= _CHANGES:
            promote(db, file_id)
        if changes >= _CHANGES:
            fail(db, file_id, Reason.CHANGED, "it changes again and again while it is sent")
            ended.append(told(db, file_id))
            continue
        original = db.execute(
            "SELECT file.id FROM file LEFT JOIN grp ON grp.id = file.grp WHERE md5 = ? AND size = ? AND file.id <> ? "
            "AND same_as IS NULL AND file.state IN ('READY', 'GROUPED', 'DONE', 'PARKED') "
            "AND coalesce(grp.config, ?) = ? LIMIT 1",
            (result.md5, result.size, file_id, config, config),
        ).fetchone()
        state, same_as = ("READY", None) if original is None else ("SAME", original[0])
        db.execute(
            "UPDATE file SET state = ?, same_as = ?, grp = NULL, position = NULL, wire = NULL, saved = NULL, "
            "sha256 = NULL, errors = NULL WHERE id = ?",
            (state, same_as, file_id),
        )
        if same_as is not None:
            # Whatever waits for this one waits for that one now: nobody follows two steps.
            db.execute("UPDATE file SET same_as = ? WHERE same_as = ?", (same_as, file_id))
            ended += _follow(db, same_as)
    return ended


def _measured(db: sqlite3.Connection, file_id: int) -> bool:
    """Whether there is a job of the input's, as far as we know."""
    query = (
        "SELECT 1 FROM file LEFT JOIN file AS original ON original.id = file.same_as "
        "JOIN grp ON grp.id = coalesce(original.grp, file.grp) WHERE file.id = ? AND grp.state IN ('ENDED', 'DONE')"
    )
    return db.execute(query, (file_id,)).fetchone() is not None


def _follow(db: sqlite3.Connection, original: int) -> list[Ended]:
    """Inputs that are the same as one that failed or was parked share its fate."""
    state, reason, detail = db.execute("SELECT state, reason, detail FROM file WHERE id = ?", (original,)).fetchone()
    if state not in ("FAILED", "PARKED"):
        return []
    rows = db.execute(
        "UPDATE file SET state = ?, reason = ?, detail = ? WHERE same_as = ? AND state = 'SAME' RETURNING id",
        (state, reason, detail, original),
    ).fetchall()
    return [told(db, file_id) for (file_id,) in rows]


def fail(db: sqlite3.Connection, file_id: int, reason: Reason, detail: str) -> None:
    """The input is FAILED."""
    # What was saved of it is still that job's, should it be again what it was.
    db.execute(
        "UPDATE file SET grp = original.grp, position = original.position, wire = original.wire "
        "FROM file AS original WHERE file.id = ? AND original.id = file.same_as AND file.saved IS NOT NULL",
        (file_id,),
    )
    db.execute(
        "UPDATE file SET state = 'FAILED', reason = ?, detail = ?, same_as = NULL WHERE id = ?",
        (reason, detail or None, file_id),
    )


def promote(db: sqlite3.Connection, file_id: int) -> None:
    """The content of this input is no more what it was: of those that were the same, the first one stands for them."""
    # What has ended, or is looked at again since, keeps the job that its results or its failure came from.
    for state in ("DONE", "FAILED", "FOUND"):
        _stand_alone(db, file_id, state)
    waiting = "SELECT id FROM file WHERE same_as = ? AND state = 'SAME' ORDER BY id"
    heirs = [heir for (heir,) in db.execute(waiting, (file_id,))]
    group_id, saved = db.execute("SELECT grp, saved FROM file WHERE id = ?", (file_id,)).fetchone()
    if heirs and group_id is not None and saved is not None and not _gone(db, group_id):
        _stand_alone(db, file_id, "SAME")
        db.executemany("UPDATE file SET state = 'GROUPED' WHERE id = ?", [(heir,) for heir in heirs])
        _reopen(db, group_id)
    elif heirs:
        db.execute("UPDATE file SET state = 'READY', same_as = NULL WHERE id = ?", (heirs[0],))
        db.executemany("UPDATE file SET same_as = ? WHERE id = ?", [(heirs[0], heir) for heir in heirs[1:]])


def unsave(db: sqlite3.Connection, file_id: int) -> None:
    """What was saved of this input is not what is asked for now."""
    db.execute("UPDATE file SET saved = NULL WHERE id = ?", (file_id,))
    promote(db, file_id)


# ── ended


def _look_again(db: sqlite3.Connection, file_ids: Iterable[int]) -> None:
    """Hashing tells whether what was measured of these inputs is what they are and what is asked for."""
    db.executemany(
        "UPDATE file SET state = 'FOUND', reason = NULL, detail = NULL, changes = 0, stale = 0 WHERE id = ?",
        [(file_id,) for file_id in file_ids],
    )


def _stale(db: sqlite3.Connection, file_ids: Iterable[int]) -> list[int]:
    """Those of these on the way that were touched meanwhile, or were sent as an earlier run has asked for."""
    query = "SELECT stale FROM file WHERE id = ? AND state IN ('GROUPED', 'SAME')"
    on_the_way = [(file_id, row[0]) for file_id in file_ids if (row := db.execute(query, (file_id,)).fetchone())]
    return [file_id for file_id, stale in on_the_way if stale or not asked_so(db, file_id)]


def asked_so(db: sqlite3.Connection, file_id: int) -> bool:
    """Whether an input was sent as this run asks for, or not at all."""
    query = (
        "SELECT config.request = meta.value FROM meta, file LEFT JOIN file AS original ON original.id = file.same_as "
        "JOIN grp ON grp.id = coalesce(file.grp, original.grp) JOIN config ON config.id = grp.config "
        "WHERE file.id = ? AND meta.name = 'config'"
    )
    row = db.execute(query, (file_id,)).fetchone()
    return row is None or bool(row[0])


def targets(db: sqlite3.Connection, group_id: int, out: bytes) -> list[Target]:
    """Where the results of a group's inputs go that are still wanted, and of the inputs that are the same as one."""
    rows = db.execute(
        "SELECT file.id, file.path, wanted.wire, wanted.md5, file.place FROM file AS wanted "
        "JOIN file ON (file.id = wanted.id AND file.state = 'GROUPED') OR (file.same_as = wanted.id AND "
        "file.state = 'SAME') WHERE wanted.grp = ? ORDER BY wanted.position, file.id",
        (group_id,),
    ).fetchall()
    return [_target(row, out) for row in rows]


def copies(db: sqlite3.Connection, out: bytes, limit: int) -> list[tuple[bytes, str, int, Target]]:
    """Inputs that are the same as one that is DONE: that one's saved results, their sha256, its id, where they go."""
    rows = db.execute(
        "SELECT file.id, file.path, original.path, original.md5, file.place, original.place, original.sha256, "
        "original.id FROM file "
        "JOIN file AS original ON original.id = file.same_as WHERE file.state = 'SAME' AND original.state = 'DONE' "
        "ORDER BY file.id LIMIT ?",
        (limit,),
    ).fetchall()
    return [
        (os.path.join(out, place, RESULT), sha256, original, _target((*row[:2], own_name(row[2]), *row[3:]), out))
        for *row, place, sha256, original in rows
    ]


def _target(row: tuple[Any, ...], out: bytes) -> Target:
    file_id, path, wire, md5, place = row
    return Target(file=file_id, name=own_name(path), wire=wire, md5=md5, folder=os.path.join(out, place))


def overtaken(
    db: sqlite3.Connection, results: Sequence[Stored | NotStored], *, group_id: int | None, original: int | None
) -> tuple[list[Stored | NotStored], list[int]]:
    """Results that are still wanted of this group, or of this input that they were copied from.

    The others are of inputs that were something else before they were saved. Also those of them that are DONE with
    results of their own, which were overwritten just now.
    """
    query = (
        "SELECT file.state, coalesce(file.grp, original.grp), file.same_as FROM file "
        "LEFT JOIN file AS original ON original.id = file.same_as WHERE file.id = ?"
    )
    wanted: list[Stored | NotStored] = []
    overwritten: list[int] = []
    for one in results:
        state, its_group, same_as = db.execute(query, (one.file,)).fetchone()
        if (its_group if original is None else same_as) == (group_id if original is None else original):
            wanted.append(one)
        elif state == "DONE" and isinstance(one, Stored):
            overwritten.append(one.file)
    return wanted, overwritten


def stored(db: sqlite3.Connection, group_id: int | None, results: Sequence[Stored | NotStored]) -> list[Ended]:
    """The results of a group are saved, and with them it is done; None for results that were copied."""
    ended: list[Ended] = []
    stale = _stale(db, [one.file for one in results])
    for one in results:
        if isinstance(one, Stored):
            done = db.execute(
                "UPDATE file SET state = 'DONE', reason = NULL, detail = NULL, saved = ?, sha256 = ?, errors = ? "
                "WHERE id = ? AND state IN ('GROUPED', 'SAME')",
                (one.size, one.sha256, one.errors, one.file),
            ).rowcount
        else:
            done = db.execute(
                "UPDATE file SET state = 'FAILED', reason = ?, detail = ? "
                "WHERE id = ? AND state IN ('GROUPED', 'SAME')",
                (one.reason, one.detail, one.file),
            ).rowcount
        if done and one.file not in stale:
            ended.append(told(db, one.file))
    for one in results:
        ended += _follow(db, one.file)  # the same was found while the results were being saved
    _look_again(db, stale)
    # Of more that was missed while the results were being saved, they are fetched once more.
    missed = "SELECT 1 FROM file WHERE grp = ? AND state = 'GROUPED' LIMIT 1"
    if group_id is not None and db.execute(missed, (group_id,)).fetchone() is None:
        move(db, group_id, ("ENDED",), "DONE", detail=None)
    return ended


def end_group(
    db: sqlite3.Connection,
    group_id: int,
    state: InputState,
    reason: Reason,
    detail: str,
    *,
    attempt: str | None = None,
) -> list[Ended]:
    """A group that is not measured: FAILED or PARKED, with all inputs that hang on it. `attempt`: how its try ended."""
    if attempt is not None:
        end_attempt(db, group_id, ("SENDING",), attempt, detail)
    move(db, group_id, ("SENDING", "UNKNOWN", "SUBMITTED", "ENDED"), state, detail=detail)
    db.execute("UPDATE grp SET reason = ?, detail = ? WHERE id = ?", (reason, detail, group_id))
    rows = db.execute(
        "SELECT file.id FROM file AS wanted JOIN file ON (file.id = wanted.id AND file.state = 'GROUPED') OR "
        "(file.same_as = wanted.id AND file.state = 'SAME' AND wanted.state = 'GROUPED') "
        "WHERE wanted.grp = ? ORDER BY wanted.position, file.id",
        (group_id,),
    ).fetchall()
    # What is parked is taken up again as it is.
    stale = _stale(db, [file_id for (file_id,) in rows]) if state == InputState.FAILED else []
    db.executemany(
        "UPDATE file SET state = ?, reason = ?, detail = ? WHERE id = ?",
        [(state, reason, detail, file_id) for (file_id,) in rows],
    )
    ended = [told(db, file_id) for (file_id,) in rows if file_id not in stale]
    _look_again(db, stale)
    return ended


def revive(db: sqlite3.Connection) -> None:
    """What the last run parked is followed again: submissions without an answer, and jobs that had not ended."""
    parked = db.execute("SELECT id, reason FROM grp WHERE state = 'PARKED'").fetchall()
    # Nothing is parked but in these groups, or as the same as what is.
    db.execute(
        "UPDATE file SET state = 'SAME', reason = NULL, detail = NULL WHERE state = 'PARKED' AND same_as IS NOT NULL"
    )
    for group_id, reason in parked:
        again = "SUBMITTED" if reason == Reason.STALLED else "UNKNOWN"
        move(db, group_id, ("PARKED",), again, detail="looked at again")
        db.execute("UPDATE grp SET reason = NULL, detail = NULL WHERE id = ?", (group_id,))
        db.execute(
            "UPDATE file SET state = 'GROUPED', reason = NULL, detail = NULL WHERE state = 'PARKED' AND grp = ?",
            (group_id,),
        )


def left(db: sqlite3.Connection) -> bool:
    """Whether anything is still to be done."""
    files = db.execute("SELECT 1 FROM file WHERE state IN ('FOUND', 'READY', 'SAME') LIMIT 1").fetchone()
    groups = db.execute(
        "SELECT 1 FROM grp WHERE state IN ('PLANNED', 'SENDING', 'UNKNOWN', 'SUBMITTED', 'ENDED') LIMIT 1"
    ).fetchone()
    return files is not None or groups is not None
