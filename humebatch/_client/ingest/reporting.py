"""What a journal says to people: the report over a run, the index beside the results, and one line per input."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import msgspec

from ..._transport.files import draft_name, private, settle
from ...errors import DiskError
from ...ingestion import IngestReport
from .inputs import RESULT
from .schema import readable

__all__ = ["INDEX", "Entry", "entries", "report", "shown", "write_index"]

INDEX = "index.jsonl"


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One input as the index and `humebatch journal show` tell it.

    `input`: its path as given; what is no valid Unicode in it is replaced, and `bytes` (hex) has it unchanged then.
    `state`: DONE, FAILED or PARKED, and before that where it stands on the way. `predictions`: the file with its
    results, below the output folder. `job`: the id of its job. `same_as`: the input with the same bytes that was
    measured for it. `errors`: parts of it that the server could not measure.
    """

    input: str
    state: str
    bytes: str | None = None
    reason: str | None = None
    detail: str | None = None
    predictions: str | None = None
    job: str | None = None
    md5: str | None = None
    same_as: str | None = None
    errors: int = 0


def report(db: sqlite3.Connection, *, sent: int = 0, retries: int = 0, audited: bool = False) -> IngestReport:
    """The report over everything in the journal; the arguments are what only a run knows of itself."""
    states = dict(db.execute("SELECT state, count(*) FROM file GROUP BY state"))
    failures = {
        f"{state}({reason})": count
        for state, reason, count in db.execute(
            "SELECT state, reason, count(*) FROM file WHERE state IN ('FAILED', 'PARKED') GROUP BY state, reason"
        )
    }
    done, failed, parked = (int(states.get(name, 0)) for name in ("DONE", "FAILED", "PARKED"))
    inputs = sum(states.values())

    def one(query: str) -> int:
        return int(db.execute(query).fetchone()[0] or 0)

    return IngestReport(
        inputs=inputs,
        done=done,
        failed=failed,
        parked=parked,
        open=inputs - done - failed - parked,
        identical=one("SELECT count(*) FROM file WHERE same_as IS NOT NULL"),
        failures=failures,
        bytes=one("SELECT sum(size) FROM file WHERE md5 IS NOT NULL AND same_as IS NULL"),
        sent=sent,
        jobs=one("SELECT count(job_id) FROM grp"),
        attempts=one("SELECT count(*) FROM attempt"),
        resent=one("SELECT count(*) FROM attempt WHERE number > 1"),
        retries=retries,
        duplicates=[job_id for (job_id,) in db.execute("SELECT job_id FROM duplicate ORDER BY created_ms")],
        audited=audited,
        saved=one("SELECT sum(saved) FROM file WHERE state = 'DONE'"),
    )


def entries(db: sqlite3.Connection) -> Iterator[Entry]:
    """Every input of the journal, in the order in which they were found."""
    rows = db.execute(
        "SELECT file.path, file.place, coalesce(CASE file.state WHEN 'GROUPED' THEN grp.state END, file.state), "
        "file.reason, file.detail, grp.job_id, file.md5, original.path, file.errors FROM file "
        "LEFT JOIN file AS original ON original.id = file.same_as "
        "LEFT JOIN grp ON grp.id = coalesce(file.grp, original.grp) ORDER BY file.id"
    )
    for path, place, state, reason, detail, job_id, md5, original, errors in rows:
        shown = _shown(path)
        yield Entry(
            input=shown,
            state=state,
            bytes=None if shown.encode() == path else path.hex(),
            reason=reason,
            detail=detail and _shown(os.fsencode(detail)),
            predictions=_shown(os.path.join(place, RESULT)) if state == "DONE" else None,
            job=job_id,
            md5=md5,
            same_as=original and _shown(original),
            errors=errors or 0,
        )


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "replace")


def shown(
    path: Path, tell: Callable[[Entry], None], *, states: Collection[str] = ()
) -> tuple[dict[str, str], IngestReport]:
    """Tell every input of a journal, or those in some states; returns what it is bound to, and the report. Blocks.

    Raises `ConfigError` for what is no journal.
    """
    with contextlib.closing(readable(path)) as db:
        db.execute("BEGIN")  # one moment of it, whoever is writing
        for entry in entries(db):
            if not states or entry.state in states:
                tell(entry)
        bound = dict(db.execute("SELECT name, value FROM meta WHERE name NOT IN ('salt', 'audited_run')"))
        return bound, report(db)


def write_index(db: sqlite3.Connection, out: bytes) -> None:
    """Write `index.jsonl` into the output folder: one `Entry` per line, whole or as it was before."""
    target = Path(os.fsdecode(out), INDEX)
    draft = target.with_name(draft_name())
    try:
        with open(draft, "xb", opener=private) as file:
            for entry in entries(db):
                file.write(msgspec.json.encode(entry) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        settle(draft, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise DiskError(f"{target}: {error.strerror or error}; nothing is lost", path=str(target)) from error
