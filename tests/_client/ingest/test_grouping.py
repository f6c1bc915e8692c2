"""Inputs into groups and groups taken apart: whatever happens to them, each input is in one group or in none."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humebatch._client.ingest import inputs, taking
from humebatch._client.ingest.grouping import Grouping, drop_plans, group_inputs, members, set_aside, split
from humebatch._client.ingest.hashing import Hashed, Unusable
from humebatch._client.ingest.journal import Group, end_attempt, move
from humebatch._client.ingest.scan import Found
from humebatch._client.ingest.schema import open_journal
from humebatch._client.ingest.storing import NotStored, Stored
from humebatch.ingestion import InputState, Reason

OUT = b"/nowhere"


@contextlib.contextmanager
def journal() -> Iterator[sqlite3.Connection]:
    with tempfile.TemporaryDirectory() as folder:
        db = open_journal(Path(folder) / "journal.db")
        try:
            db.execute("INSERT INTO config (id, request) VALUES (1, '{}'), (2, '{\"models\":{}}')")
            yield db
        finally:
            db.close()


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with journal() as db:
        yield db


def take(db: sqlite3.Connection, *names: str, run: int = 1, size: int = 10, **changes: Any) -> list[inputs.Ended]:
    facts = {"mtime_ns": 1, "dev": 1, "ino": 1, **changes}
    found = [Found(os.fsencode(name), os.fsencode(name), size=size, **facts) for name in names]
    return taking.take(db, run, found, out=OUT, retry=False)


def hash_all(db: sqlite3.Connection, *, config: int = 1, md5s: dict[str, str] | None = None) -> list[inputs.Ended]:
    """As if every file had a content of its own, unless `md5s` says otherwise."""
    results: list[tuple[int, Hashed | Unusable]] = []
    for file_id, path, size in inputs.to_hash(db, 1000):
        md5 = (md5s or {}).get(os.fsdecode(path), f"{file_id:032x}")
        results.append((file_id, Hashed(md5, size, 1, 1, 1)))
    return inputs.hashed(db, config, results, out=OUT)


def asked(files: int = 100, size: int = 2**30, *, tagged: bool = False, config: int = 1) -> Grouping:
    return Grouping(config=config, files=files, bytes=size, tagged=tagged)


def groups(db: sqlite3.Connection, state: str = "PLANNED") -> list[list[str]]:
    ids = db.execute("SELECT id FROM grp WHERE state = ? ORDER BY id", (state,)).fetchall()
    return [[os.fsdecode(row[0]) for row in members(db, group_id)] for (group_id,) in ids]


def state_of(db: sqlite3.Connection, name: str) -> str:
    return str(db.execute("SELECT state FROM file WHERE path = ?", (os.fsencode(name),)).fetchone()[0])


def sending(db: sqlite3.Connection, group_id: int = 1, *, number: int = 1) -> Group:
    move(db, group_id, ("PLANNED", "UNKNOWN"), "SENDING", detail=None)
    db.execute(
        "INSERT INTO attempt (grp, number, run, began_ms, keyed, state) VALUES (?, ?, 1, 1, 1, 'SENDING')",
        (group_id, number),
    )
    return Group.by_id(db, group_id)


def submitted(db: sqlite3.Connection, group_id: int = 1) -> None:
    sending(db, group_id)
    move(db, group_id, ("SENDING",), "SUBMITTED", detail=None)
    db.execute("UPDATE grp SET job_id = ? WHERE id = ?", (f"job {group_id}", group_id))
    end_attempt(db, group_id, ("SENDING",), "ACCEPTED", None)


def done(db: sqlite3.Connection, group_id: int = 1) -> list[inputs.Ended]:
    submitted(db, group_id)
    move(db, group_id, ("SUBMITTED",), "ENDED", detail=None)
    return store(db, group_id)


def store(db: sqlite3.Connection, group_id: int | None) -> list[inputs.Ended]:
    if group_id is None:
        wanted = [target for *_, target in inputs.copies(db, OUT, 100)]
    else:
        wanted = inputs.targets(db, group_id, OUT)
    return inputs.stored(db, group_id, [Stored(one.file, b"", 5, "0" * 64, 0) for one in wanted])


# ── how many


def test_whole_groups_are_made_at_once_and_the_rest_at_the_end(db: sqlite3.Connection) -> None:
    take(db, *"abcdefg")
    hash_all(db)
    assert group_inputs(db, asked(3), most=10, final=False) == 2
    assert groups(db) == [list("abc"), list("def")]
    assert group_inputs(db, asked(3), most=10, final=True) == 1
    assert groups(db)[2:] == [["g"]]
    assert group_inputs(db, asked(3), most=10, final=True) == 0


def test_no_more_groups_than_wanted(db: sqlite3.Connection) -> None:
    take(db, *"abcdefg")
    hash_all(db)
    assert group_inputs(db, asked(1), most=4, final=True) == 4


@given(
    sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=40),
    files=st.integers(1, 150),
    most=st.integers(1, 2000),
    final=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_groups_keep_to_both_limits(sizes: list[int], files: int, most: int, final: bool) -> None:
    with journal() as db:
        for number, size in enumerate(sizes):
            take(db, f"{number:03}", size=size)
        hash_all(db)
        group_inputs(db, asked(files, most), most=1000, final=final)
        made = groups(db)
        flat = [int(name) for group in made for name in group]
        assert flat == list(range(len(flat)))  # in the order in which they were found, each once
        for group in made:
            total = sum(sizes[int(name)] for name in group)
            assert len(group) <= files
            assert total <= most or len(group) == 1  # what is larger goes alone
        waiting = sizes[len(flat) :]
        if final:
            assert not waiting
        else:  # what waits is no group yet
            assert len(waiting) < files and sum(waiting) < most
        assert db.execute("SELECT coalesce(sum(bytes), 0) FROM grp").fetchone()[0] == sum(sizes[: len(flat)])


def test_archives_are_not_put_into_archives(db: sqlite3.Connection) -> None:
    take(db, "a.wav", "b.wav", "c.ZIP", "d.tar.gz", "e.wav")
    hash_all(db)
    group_inputs(db, asked(1000, tagged=True), most=10, final=True)
    assert groups(db) == [["a.wav", "b.wav"], ["c.ZIP"], ["d.tar.gz"], ["e.wav"]]
    rows = db.execute("SELECT bundle, tag FROM grp ORDER BY id").fetchall()
    bundles = [bundle for bundle, _ in rows]
    assert [bundle is not None for bundle in bundles] == [True, False, False, True]
    assert all(bundle is None or tag in bundle for bundle, tag in rows)
    # With at most 100 to a job they are files like others.
    drop_plans(db)
    group_inputs(db, asked(100), most=10, final=True)
    assert len(groups(db)) == 1


@pytest.mark.parametrize("tagged", [True, False])
def test_tags_are_in_every_name_on_the_wire(db: sqlite3.Connection, tagged: bool) -> None:
    take(db, "x/a.wav", "y/a.wav")
    hash_all(db)
    group_inputs(db, asked(tagged=tagged), most=1, final=True)
    (tag,) = db.execute("SELECT tag FROM grp").fetchone()
    names = [row[1] for row in members(db, 1)]
    assert len(set(names)) == 2
    if tagged:
        assert len(tag) == 10 and all(tag in name for name in names)
    else:
        assert tag is None and names == ["a.wav", "a~2.wav"]


def test_every_group_has_a_key_of_its_own(db: sqlite3.Connection) -> None:
    take(db, *"abcdef")
    hash_all(db)
    group_inputs(db, asked(1, tagged=True), most=10, final=True)
    assert db.execute("SELECT count(DISTINCT uuid), count(DISTINCT tag) FROM grp").fetchone() == (6, 6)


# ── taken apart


def test_plans_are_dropped_and_what_was_sent_is_kept(db: sqlite3.Connection) -> None:
    take(db, *"abcd")
    hash_all(db)
    group_inputs(db, asked(2), most=10, final=True)
    sending(db)
    drop_plans(db)
    assert groups(db) == [] and groups(db, "SENDING") == [["a", "b"]]
    group_inputs(db, asked(1), most=10, final=True)
    assert groups(db) == [["c"], ["d"]]


def test_one_input_is_set_aside_and_the_others_are_free(db: sqlite3.Connection) -> None:
    take(db, *"abc")
    hash_all(db)
    group_inputs(db, asked(), most=1, final=True)
    assert set_aside(db, sending(db), b"b", detail="it changed")
    assert [state_of(db, name) for name in "abc"] == ["READY", "FOUND", "READY"]
    assert db.execute("SELECT path, changes FROM file WHERE changes > 0").fetchall() == [(b"b", 1)]
    assert db.execute("SELECT state FROM attempt").fetchall() == [("NOT_SENT",)]


@pytest.mark.parametrize("path", [None, b"somebody else", b"bundle.zip"])
def test_all_of_them_when_it_is_not_known_which(db: sqlite3.Connection, path: bytes | None) -> None:
    take(db, *"abc")
    hash_all(db)
    group_inputs(db, asked(), most=1, final=True)
    assert set_aside(db, sending(db), path, detail="it changed")
    assert [state_of(db, name) for name in "abc"] == ["FOUND"] * 3


def test_a_group_that_may_be_a_job_stays_together(db: sqlite3.Connection) -> None:
    take(db, *"abc")
    hash_all(db)
    group_inputs(db, asked(), most=1, final=True)
    sending(db)
    move(db, 1, ("SENDING",), "UNKNOWN", detail=None)
    end_attempt(db, 1, ("SENDING",), "UNKNOWN", None)
    assert not set_aside(db, sending(db, number=2), b"b", detail="it changed")
    assert groups(db, "UNKNOWN") == [list("abc")]
    # And it is not sent again with its key, for it would be another request.
    assert not Group.by_id(db, 1).keyed
    assert db.execute("SELECT state FROM attempt ORDER BY number").fetchall() == [("UNKNOWN",), ("NOT_SENT",)]


def test_after_so_many_changes_it_is_given_up(db: sqlite3.Connection) -> None:
    take(db, "a")
    number = 0
    while not (ended := hash_all(db, md5s={"a": f"{number:032}"})):
        number += 1
        group_inputs(db, asked(), most=1, final=True)
        (group_id,) = db.execute("SELECT id FROM grp WHERE state = 'PLANNED'").fetchone()
        set_aside(db, sending(db, group_id), b"a", detail="it changed")
    assert number == 3
    assert [(one.state, one.reason) for one in ended] == [("FAILED", "CHANGED")]


def test_a_refused_group_is_split_down_to_one_input(db: sqlite3.Connection) -> None:
    take(db, *"abcde")
    hash_all(db)
    group_inputs(db, asked(), most=1, final=True)
    tries = 0
    refused = []
    while planned := db.execute("SELECT id FROM grp WHERE state = 'PLANNED' ORDER BY id LIMIT 1").fetchone():
        tries += 1
        group = sending(db, planned[0])
        names = [os.fsdecode(row[0]) for row in members(db, group.id)]
        if "d" not in names:
            move(db, group.id, ("SENDING",), "SUBMITTED", detail=None)
        elif not split(db, group, asked(), detail="413"):
            refused.append(names)
            inputs.end_group(db, group.id, InputState.FAILED, Reason.TOO_LARGE, "413", attempt="REFUSED")
    assert refused == [["d"]]
    assert sorted(name for group in groups(db, "SUBMITTED") for name in group) == list("abce")
    assert tries <= 2 * 3 + 1  # two for each halving
    assert state_of(db, "d") == "FAILED"
    assert not inputs.left(db) or db.execute("SELECT 1 FROM grp WHERE state = 'SUBMITTED'").fetchone()


# ── identical inputs


def test_the_same_content_is_in_one_group_once(db: sqlite3.Connection) -> None:
    take(db, *"abc")
    hash_all(db, md5s=dict.fromkeys("abc", "0" * 32))
    assert [state_of(db, name) for name in "abc"] == ["READY", "SAME", "SAME"]
    group_inputs(db, asked(), most=1, final=True)
    assert groups(db) == [["a"]]
    assert [one.path for one in done(db)] == [b"a", b"b", b"c"]
    assert not inputs.left(db)


def test_another_configuration_is_another_measurement(db: sqlite3.Connection) -> None:
    take(db, "a")
    hash_all(db, md5s={"a": "0" * 32})
    group_inputs(db, asked(), most=1, final=True)
    done(db)
    take(db, "b")
    hash_all(db, config=2, md5s={"b": "0" * 32})
    assert state_of(db, "b") == "READY"
    take(db, "c")
    hash_all(db, config=1, md5s={"c": "0" * 32})
    assert state_of(db, "c") == "SAME"


@pytest.mark.parametrize("state", [InputState.FAILED, InputState.PARKED])
def test_they_share_its_fate(db: sqlite3.Connection, state: InputState) -> None:
    take(db, *"ab")
    same = dict.fromkeys("abc", "0" * 32)
    hash_all(db, md5s=same)
    group_inputs(db, asked(), most=1, final=True)
    submitted(db)
    ended = inputs.end_group(db, 1, state, Reason.STALLED, "words")
    assert [(one.path, one.state, one.reason) for one in ended] == [(b"a", state, "STALLED"), (b"b", state, "STALLED")]
    take(db, "c")
    late = hash_all(db, md5s=same)
    if state is InputState.PARKED:  # it may still be measured
        assert [(one.path, one.state) for one in late] == [(b"c", "PARKED")]
        inputs.revive(db)
        assert [state_of(db, name) for name in "abc"] == ["GROUPED", "SAME", "SAME"]
    else:  # a new file, a new try
        assert late == [] and state_of(db, "c") == "READY"


def test_when_the_first_one_changes_the_next_stands_for_the_others(db: sqlite3.Connection) -> None:
    take(db, *"abc")
    hash_all(db, md5s=dict.fromkeys("abc", "0" * 32))
    group_inputs(db, asked(), most=1, final=True)
    set_aside(db, sending(db), b"a", detail="it changed")
    hash_all(db, md5s={"a": "1" * 32})
    assert [state_of(db, name) for name in "abc"] == ["READY", "READY", "SAME"]
    group_inputs(db, asked(), most=1, final=True)
    assert groups(db) == [["a", "b"]]
    done(db, 2)
    assert [state_of(db, name) for name in "abc"] == ["DONE"] * 3


def test_when_the_first_one_was_done_and_changes_the_others_keep_its_job(db: sqlite3.Connection) -> None:
    take(db, *"abc")
    hash_all(db, md5s=dict.fromkeys("abc", "0" * 32))
    group_inputs(db, asked(), most=1, final=True)
    done(db)
    # The results of b are missing (nothing is at OUT), and a is another file now.
    take(db, "b", run=2)
    take(db, "a", run=2, mtime_ns=2)
    hash_all(db, md5s={"a": "1" * 32})
    assert [state_of(db, name) for name in "abc"] == ["READY", "GROUPED", "DONE"]
    assert groups(db, "ENDED") == [["b"]]
    assert [(one.path, one.job_id) for one in store(db, 1)] == [(b"b", "job 1")]


def test_what_has_failed_since_is_no_dead_end_for_the_same(db: sqlite3.Connection) -> None:
    take(db, *"ab")
    hash_all(db, md5s=dict.fromkeys("ab", "0" * 32))
    group_inputs(db, asked(), most=1, final=True)
    done(db)
    # Nothing is at OUT: a is fetched again, and its job is gone.
    take(db, "a", run=2)
    assert groups(db, "ENDED") == [["a"]]
    inputs.end_group(db, 1, InputState.FAILED, Reason.GONE, "gone")
    assert [state_of(db, name) for name in "ab"] == ["FAILED", "DONE"]
    take(db, "b", run=3)
    # Not SAME as one that has failed: nobody would ever end it.
    assert [state_of(db, name) for name in "ab"] == ["FAILED", "GROUPED"]
    assert groups(db, "ENDED") == [["b"]]
    inputs.end_group(db, 1, InputState.FAILED, Reason.GONE, "gone")
    assert not inputs.left(db)


# ── any of it


@given(steps=st.lists(st.tuples(st.sampled_from(range(11)), st.integers(0, 5), st.integers(0, 3)), max_size=60))
@settings(max_examples=150, deadline=None)
def test_no_input_is_ever_stuck(steps: list[tuple[int, int, int]]) -> None:
    """After any events whatsoever: what is not in its final state is found by what would take it there."""
    with journal() as db:
        contents = dict.fromkeys("abcdef", "0" * 32)
        run = 1

        def one(query: str, number: int) -> int | None:
            found = db.execute(query).fetchall()
            return found[number % len(found)][0] if found else None

        for step, which, what in steps:
            name = "abcdef"[which]
            db.execute("BEGIN")
            if step == 0:  # it is found, perhaps with a new content
                contents[name] = f"{what:032}"
                take(db, name, run=run, mtime_ns=what + 1)
            elif step == 1:
                hash_all(db, md5s=contents)
            elif step == 2:
                group_inputs(db, asked(1 + what), most=2, final=True)
            elif step == 3 and (group_id := one("SELECT id FROM grp WHERE state = 'PLANNED'", which)):
                submitted(db, group_id)
            elif step == 4 and (group_id := one("SELECT id FROM grp WHERE state = 'SUBMITTED'", which)):
                move(db, group_id, ("SUBMITTED",), "ENDED", detail=None)
            elif step == 5 and (group_id := one("SELECT id FROM grp WHERE state = 'ENDED'", which)):
                store(db, group_id)
            elif step == 6 and (group_id := one("SELECT id FROM grp WHERE state = 'ENDED'", which)):
                wanted = inputs.targets(db, group_id, OUT)
                inputs.stored(db, group_id, [NotStored(one.file, Reason.NOT_SAVED, "words") for one in wanted])
            elif step == 7 and (group_id := one("SELECT id FROM grp WHERE state IN ('SUBMITTED', 'ENDED')", which)):
                inputs.end_group(db, group_id, InputState.FAILED, Reason.GONE, "words")
            elif step == 8 and (group_id := one("SELECT id FROM grp WHERE state = 'SUBMITTED'", which)):
                inputs.end_group(db, group_id, InputState.PARKED, Reason.STALLED, "words")
            elif step == 9:
                store(db, None)
            elif step == 10:
                run += 1
                drop_plans(db)
                inputs.revive(db)
            db.execute("COMMIT")
            stuck = db.execute(
                "SELECT file.path, file.state, grp.state, original.state FROM file "
                "LEFT JOIN grp ON grp.id = file.grp LEFT JOIN file AS original ON original.id = file.same_as WHERE "
                "(file.state = 'GROUPED' AND grp.state NOT IN ('PLANNED', 'SENDING', 'UNKNOWN', 'SUBMITTED', 'ENDED'))"
                " OR (file.state = 'GROUPED' AND file.grp IS NULL)"
                " OR (file.state = 'PARKED' AND coalesce(original.state, grp.state) <> 'PARKED')"
                " OR (file.state = 'SAME' AND (original.id IS NULL OR original.state IN ('FAILED', 'PARKED')))"
            ).fetchall()
            assert stuck == [], (step, name)
            idle = db.execute(
                "SELECT id FROM grp WHERE state = 'PLANNED' AND NOT EXISTS "
                "(SELECT 1 FROM file WHERE file.grp = grp.id AND file.state = 'GROUPED')"
            ).fetchall()
            assert idle == []
