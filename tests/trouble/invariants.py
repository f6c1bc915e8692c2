"""The ten invariants of an ingest, checked after trouble: the server's own database is the oracle, not what we believe.

Numbers are those of the fault catalogue (see the README beside this file).
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections import Counter
from pathlib import Path

import msgspec

from humebatch.jobs import JobDetails

__all__ = ["Ledger", "check", "ledger"]


class Ledger(msgspec.Struct):
    """What a journal says."""

    files: list[tuple[bytes, bytes, str, str | None, int | None, str | None]]
    groups: dict[int, tuple[str, str | None]]
    duplicates: list[str]
    attempts: int

    @property
    def states(self) -> Counter[str]:
        """How many inputs are in each state; those in groups count by their group's."""
        return Counter(state for _, _, state, *_ in self.files)


def ledger(journal: Path) -> Ledger:
    """Read a journal that nobody writes."""
    db = sqlite3.connect(journal)
    try:
        return Ledger(
            files=db.execute("SELECT path, place, state, reason, saved, sha256 FROM file ORDER BY id").fetchall(),
            groups={row[0]: (row[1], row[2]) for row in db.execute("SELECT id, state, job_id FROM grp")},
            duplicates=[row[0] for row in db.execute("SELECT job_id FROM duplicate")],
            attempts=db.execute("SELECT count(*) FROM attempt").fetchone()[0],
        )
    finally:
        db.close()


def check(
    journal: Path,
    out: Path,
    jobs: list[JobDetails],
    *,
    finished: bool = True,
    key: str = "",
    said: str = "",
    duplicates: int = 0,
) -> Ledger:
    """Assert the invariants that can be seen from outside; `jobs` are all that the server has.

    `finished`: the run ended by itself. `said`: everything that was printed and logged, to be searched for the `key`.
    `duplicates`: how many the test has made on purpose; they must be in the journal.
    """
    told = ledger(journal)
    # I1: no input without a final state, or one from which the next run goes on.
    final = {"DONE", "FAILED", "PARKED"}
    known = final | {"FOUND", "READY", "GROUPED", "SAME"}
    assert {state for _, _, state, *_ in told.files} <= (final if finished else known)
    for path, _, state, reason, *_ in told.files:
        assert (reason is None) == (state not in ("FAILED", "PARKED")), (path, state, reason)
    # I2: a group owns one job at most, and no two share one.
    owned = [job_id for _, job_id in told.groups.values() if job_id is not None]
    assert len(owned) == len(set(owned))
    # I3: the server has no job of ours that the journal does not know, unless a group is still undecided.
    there = {job.job_id for job in jobs}
    undecided = [state for state, _ in told.groups.values() if state in ("UNKNOWN", "SENDING", "PARKED")]
    unknown = there - set(owned) - set(told.duplicates)
    assert len(unknown) <= len(undecided), f"jobs that nobody owns: {unknown}"
    assert len(told.duplicates) == duplicates, told.duplicates
    if finished and not undecided:
        assert unknown == set()
    # No content is measured twice, whatever the groups.
    measured = Counter(file.md5sum for job in jobs for file in job.request.files if job.job_id in owned)
    assert all(count == 1 for count in measured.values()) or duplicates, measured
    # I4: every stored result parses, and is what was written down.
    for _, place, state, _, saved, sha256 in told.files:
        if state == "DONE":
            data = Path(out, os.fsdecode(place), "predictions.json").read_bytes()
            assert len(data) == saved
            assert hashlib.sha256(data).hexdigest() == sha256
            assert len(json.loads(data)) == 1
    # I5: nothing half written is left.
    if finished:
        assert not list(out.rglob(".humebatch-*.part"))
    # I6: the key is nowhere.
    if key:
        assert key not in said
        for kept in (journal, journal.with_name(journal.name + "-wal"), journal.with_name(journal.name + ".lock")):
            assert not kept.exists() or key.encode() not in kept.read_bytes()
        for found in out.rglob("*"):
            assert not found.is_file() or key.encode() not in found.read_bytes()
    return told
