"""READY inputs become groups, and groups are taken apart again; plain functions for `Journal.change`."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Sequence

import msgspec

from ...jobs import MAX_ITEMS
from .journal import Group, end_attempt, log, move
from .naming import bundle_name, new_tag, wire_names

__all__ = ["Grouping", "drop_plans", "give_back", "group_inputs", "members", "set_aside", "split"]

_ARCHIVES = (b".zip", b".tar.gz", b".tar.bz2", b".tar.xz")


class Grouping(msgspec.Struct, frozen=True, kw_only=True):
    """How inputs are put together: so many files or bytes to a job, as files up to 100, as one archive above."""

    config: int
    files: int
    bytes: int
    tagged: bool


def drop_plans(db: sqlite3.Connection) -> None:
    """Take groups apart that are no job for certain: this run may put them together in another way."""
    for (group_id,) in db.execute("SELECT id FROM grp WHERE state = 'PLANNED'").fetchall():
        move(db, group_id, ("PLANNED",), "DROPPED", detail="planned again")
        _free(db, group_id)


def _free(db: sqlite3.Connection, group_id: int) -> None:
    db.execute(
        "UPDATE file SET state = 'READY', grp = NULL, position = NULL, wire = NULL WHERE grp = ? AND state = 'GROUPED'",
        (group_id,),
    )


def group_inputs(db: sqlite3.Connection, grouping: Grouping, *, most: int, final: bool) -> int:
    """Put READY inputs into at most `most` groups; the last, smaller one only when it is `final`. Returns how many."""
    made = 0
    while made < most:
        rows = db.execute(
            "SELECT id, path, size FROM file WHERE state = 'READY' ORDER BY id LIMIT ?", (grouping.files,)
        ).fetchall()
        chosen, whole = _choose(rows, grouping)
        if not chosen or not (whole or final):
            return made
        _make(db, grouping, chosen)
        made += 1
    return made


def _choose(
    rows: Sequence[tuple[int, bytes, int]], grouping: Grouping
) -> tuple[Sequence[tuple[int, bytes, int]], bool]:
    """The inputs of the next group, and whether it is as large as groups may be."""
    bundling = grouping.files > MAX_ITEMS
    if bundling and rows and rows[0][1].lower().endswith(_ARCHIVES):
        return rows[:1], True  # nobody looks for an archive inside of an archive
    total = 0
    for number, (_, path, size) in enumerate(rows):
        total += size
        if number and (total > grouping.bytes or (bundling and path.lower().endswith(_ARCHIVES))):
            return rows[:number], True
    return rows, len(rows) == grouping.files or total >= grouping.bytes


def _make(db: sqlite3.Connection, grouping: Grouping, rows: Sequence[tuple[int, bytes, int]]) -> None:
    tag = new_tag() if grouping.tagged else None
    archive = len(rows) == 1 and rows[0][1].lower().endswith(_ARCHIVES)
    bundle = bundle_name(tag) if grouping.files > MAX_ITEMS and not archive else None
    (group_id,) = db.execute(
        "INSERT INTO grp (uuid, tag, config, bundle, bytes, state) VALUES (?, ?, ?, ?, ?, 'PLANNED') RETURNING id",
        (str(uuid.uuid4()), tag, grouping.config, bundle, sum(size for _, _, size in rows)),
    ).fetchone()
    log(db, group_id, None, "PLANNED", f"{len(rows)} files")
    # Inside of an archive the archive's own name carries the tag.
    names = wire_names([path for _, path, _ in rows], None if bundle else tag)
    db.executemany(
        "UPDATE file SET state = 'GROUPED', grp = ?, position = ?, wire = ? WHERE id = ?",
        [(group_id, position, names[position], file_id) for position, (file_id, _, _) in enumerate(rows)],
    )


def members(db: sqlite3.Connection, group_id: int) -> list[tuple[bytes, str, int, int, str]]:
    """The inputs of a group in order: path, name on the wire, size, mtime_ns, md5."""
    return db.execute(
        "SELECT path, wire, size, mtime_ns, md5 FROM file WHERE grp = ? AND state = 'GROUPED' ORDER BY position",
        (group_id,),
    ).fetchall()


def set_aside(db: sqlite3.Connection, group: Group, path: bytes | None, *, detail: str) -> bool:
    """An input of the group is not what it was (`path`; all of them if None): it is looked at again.

    The others go into other groups. False if an earlier try of the group may be a job: then all stay, and whether it is
    one is for the job list to say, for the same request cannot be made again.
    """
    # Of one that waited for another try, not even what was answered is taken for certain.
    doubtful = "REFUSED" if group.state == "UNKNOWN" else "UNKNOWN"
    query = "SELECT 1 FROM attempt WHERE grp = ? AND state IN ('UNKNOWN', ?)"
    tried = db.execute(query, (group.id, doubtful)).fetchone()
    end_attempt(db, group.id, ("SENDING",), "NOT_SENT", detail)
    if tried:
        db.execute("UPDATE grp SET keyed = 0 WHERE id = ?", (group.id,))
        (state,) = db.execute("SELECT state FROM grp WHERE id = ?", (group.id,)).fetchone()
        if state != "UNKNOWN":
            move(db, group.id, (state,), "UNKNOWN", detail=detail)
        return False
    move(db, group.id, ("PLANNED", "SENDING", "UNKNOWN"), "DROPPED", detail=detail)
    looked_at = (
        "UPDATE file SET state = 'FOUND', grp = NULL, position = NULL, wire = NULL, changes = changes + 1 WHERE "
    )
    if path is None or not db.execute(looked_at + "path = ? AND grp = ?", (path, group.id)).rowcount:
        db.execute(looked_at + "grp = ? AND state = 'GROUPED'", (group.id,))
    _free(db, group.id)
    return True


def give_back(db: sqlite3.Connection, group_id: int, detail: str) -> None:
    """No try has made a job of a group that an earlier run has asked for: its inputs go into this run's."""
    end_attempt(db, group_id, ("UNKNOWN",), "ABSENT", None)
    move(db, group_id, ("UNKNOWN",), "DROPPED", detail=detail)
    _free(db, group_id)


def split(db: sqlite3.Connection, group: Group, grouping: Grouping, *, detail: str) -> bool:
    """The server refuses the group: make two of it, to find out which part. False for a group of one input."""
    rows = db.execute(
        "SELECT id, path, size FROM file WHERE grp = ? AND state = 'GROUPED' ORDER BY position", (group.id,)
    ).fetchall()
    if len(rows) < 2:
        return False
    end_attempt(db, group.id, ("SENDING",), "REFUSED", detail)
    move(db, group.id, ("SENDING",), "DROPPED", detail=detail)
    middle = len(rows) // 2
    _make(db, grouping, rows[:middle])
    _make(db, grouping, rows[middle:])
    return True
