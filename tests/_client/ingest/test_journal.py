"""The journal: who may open which file, what a commit means, and moves that are made once or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from humebatch._client.ingest import inputs, schema, taking
from humebatch._client.ingest.grouping import Grouping, group_inputs
from humebatch._client.ingest.hashing import Hashed
from humebatch._client.ingest.journal import Group, Journal, Sent, end_attempt, log, move
from humebatch._client.ingest.scan import Found
from humebatch._client.ingest.schema import Binding, on_network
from humebatch._client.ingest.storing import NotStored, Stored
from humebatch.config import Secret
from humebatch.errors import ConfigError, DiskError, HumebatchError
from humebatch.ingestion import InputState, Reason

KEY = "canary-4f1d9be2"
BINDING = Binding(server="http://a", key=Secret(KEY), config='{"models":{}}', out="/results")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def opened(path: Path, *, rebind: bool = False, **changes: Any) -> Journal:
    binding = {name: getattr(BINDING, name) for name in BINDING.__struct_fields__} | changes
    return Journal.open(path, Binding(**binding), rebind=rebind)


def made(path: Path) -> None:
    """A journal that somebody has used and closed."""
    opened(path).release()


def altered(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(script)


def rows(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


# ── one process at a time (C71)

HOLDER = """
import sys, pathlib
from humebatch._client.ingest.journal import Journal
from humebatch._client.ingest.schema import Binding
binding = Binding(server="http://a", key=None, config="{}", out="/o")
journal = Journal.open(pathlib.Path(sys.argv[1]), binding, rebind=True)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_and_told_who_has_it(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=rf"in use by process {holder.pid} on {os.uname().nodename} since 20"):
            opened(path)
        # However it ends, the operating system frees it.
        holder.send_signal(signal.SIGKILL)
        holder.wait(30)
    opened(path, rebind=True).release()


def test_a_second_opening_in_this_process_is_refused_too(path: Path) -> None:
    journal = opened(path)
    with pytest.raises(ConfigError, match=f"in use by process {os.getpid()} "):
        opened(path)
    journal.release()
    opened(path).release()


@pytest.mark.parametrize("where", ["beside", "elsewhere", "through its folder", "dangling"])
def test_a_symbolic_link_is_no_second_journal(path: Path, where: str) -> None:
    other = path.with_name("link.db")
    if where == "elsewhere":
        other = path.parent / "folder" / "link.db"
        other.parent.mkdir()
    if where == "through its folder":
        path.with_name("link").symlink_to(path.parent)
        other = path.parent / "link" / path.name
    else:
        other.symlink_to(path)
    journal = opened(other if where == "dangling" else path)
    assert path.is_file()
    with pytest.raises(ConfigError, match=f"in use by process {os.getpid()} "):
        opened(path if where == "dangling" else other)
    schema.readable(other).close()
    journal.release()
    opened(other).release()
    assert {kept.name for kept in other.parent.iterdir()} <= {
        "journal.db", "journal.db.lock", "link.db", "link", "folder"
    }  # fmt: skip


def test_links_that_lead_nowhere(path: Path) -> None:
    path.symlink_to(path)
    for opening in (opened, schema.readable):
        with pytest.raises(ConfigError, match=r"cannot be used|no such file"):
            opening(path)


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
def test_what_is_in_the_place_of_the_lock_is_left_as_it_was(path: Path, kind: str) -> None:
    lock, precious = path.with_name("journal.db.lock"), path.with_name("precious")
    if kind == "pipe":
        os.mkfifo(lock)
    elif kind == "folder":
        lock.mkdir()
    else:
        lock.symlink_to(precious)
        if kind == "link":
            precious.write_text("words")
    with pytest.raises(ConfigError, match="cannot be used" if kind == "folder" else "no regular file") as caught:
        opened(path)
    assert caught.value.field == "journal"
    assert precious.read_text() == "words" if kind == "link" else not precious.exists()
    assert not path.exists()


def test_files_are_for_their_owner_only(path: Path) -> None:
    journal = opened(path)
    for kept in path.parent.iterdir():
        assert kept.stat().st_mode & 0o077 == 0, kept
    journal.release()


def test_the_folder_is_made(tmp_path: Path) -> None:
    opened(tmp_path / "a/b/journal.db").release()
    assert (tmp_path / "a/b/journal.db").is_file()


@pytest.mark.parametrize("name", ["what?", "100%", "a#b", "\udcff", "line\nbreak", "' ; --"])
def test_any_name_is_a_name(tmp_path: Path, name: str) -> None:
    for _ in range(2):
        opened(tmp_path / name).release()
    schema.readable(tmp_path / name).close()
    assert (tmp_path / name).is_file()


# ── bound to one server, key, configuration and folder (C73)

OTHERS = [
    ({"server": "http://b"}, "its server is http://a, not http://b"),
    ({"key": Secret("another")}, "its API key is another one"),
    ({"key": None}, "its API key is another one"),
    ({"config": '{"models":{"face":{}}}'}, "its config is"),
    ({"out": "/elsewhere"}, "its out is /results, not /elsewhere"),
]


@pytest.mark.parametrize(("other", "says"), OTHERS)
def test_a_journal_of_another_run_is_refused_unless_told_otherwise(
    path: Path, other: dict[str, Any], says: str
) -> None:
    made(path)
    with pytest.raises(ConfigError, match=says) as caught:
        opened(path, **other)
    assert caught.value.field == "journal" and "rebind" in str(caught.value)
    assert KEY not in str(caught.value) and "another-key" not in str(caught.value)
    opened(path).release()  # a refusal changes nothing
    opened(path, rebind=True, **other).release()
    opened(path, **other).release()
    with pytest.raises(ConfigError):
        opened(path)


def test_all_differences_are_named_at_once(path: Path) -> None:
    made(path)
    with pytest.raises(ConfigError) as caught:
        opened(path, server="http://b", out="/elsewhere")
    assert "its server is" in str(caught.value) and "its out is" in str(caught.value)


def test_temporary_servers_come_and_go(path: Path) -> None:
    opened(path, server="embedded:temporary:1", key=Secret("one")).release()
    opened(path, server="embedded:temporary:2", key=Secret("two")).release()
    for other in ("http://b", "embedded:kept:/data"):
        with pytest.raises(ConfigError, match="its server is embedded:temporary:2, not"):
            opened(path, server=other, key=Secret("two"))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"server": "embedded:kept:/b"}, "its server is embedded:kept:/a, not embedded:kept:/b"),
        ({"server": "embedded:temporary:1"}, "its server is embedded:kept:/a, not embedded:temporary:1"),
        ({"server": "http://b"}, "its server is embedded:kept:/a, not http://b"),
        ({"key": Secret("another")}, "its API key is another one"),
    ],
)
def test_a_server_over_a_folder_that_is_kept_is_like_any_other(path: Path, other: dict[str, Any], says: str) -> None:
    ours: dict[str, Any] = {"server": "embedded:kept:/a"}
    opened(path, **ours).release()
    with pytest.raises(ConfigError, match=says):
        opened(path, **{**ours, **other})
    opened(path, **ours).release()


def test_folders_may_be_called_what_is_no_text(path: Path) -> None:
    odd: dict[str, Any] = {"server": "embedded:kept:/data\udcff", "out": "/results\udcfe"}
    for _ in range(2):
        opened(path, **odd).release()
    with pytest.raises(ConfigError, match="its out is"):
        opened(path, **{**odd, "out": "/results\udcff"})


def test_the_key_is_nowhere(path: Path) -> None:
    journal = opened(path)
    asyncio.run(journal.change(lambda db: log(db, None, None, "NOTE", "something to flush")))
    during = {kept.name: kept.read_bytes() for kept in path.parent.iterdir()}
    assert len(during) >= 3  # the file, its log and the lock
    journal.release()
    after = {kept.name: kept.read_bytes() for kept in path.parent.iterdir()}
    for name, content in [*during.items(), *after.items()]:
        assert KEY.encode() not in content, name
    (kept,) = rows(path, "SELECT value FROM meta WHERE name = 'key'")
    assert len(kept[0]) == 8
    # Two journals of one key do not show that it is one.
    made(path.with_name("other.db"))
    assert rows(path.with_name("other.db"), "SELECT value FROM meta WHERE name = 'key'") != [kept]


# ── what is no journal (C72)


def test_a_database_of_somebody_else_is_refused_and_left_as_it_was(path: Path) -> None:
    altered(path, "CREATE TABLE theirs (a); INSERT INTO theirs VALUES (1); PRAGMA user_version = 1;")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="a database, but no journal"):
        opened(path)
    altered(path, "PRAGMA user_version = 0")
    with pytest.raises(ConfigError, match="a database, but no journal"):
        opened(path)
    altered(path, "PRAGMA user_version = 1")
    after = path.read_bytes()
    # But for the counters of changes, which the test has made.
    assert before[:24] == after[:24] and before[100:] == after[100:]


@pytest.mark.parametrize("content", [b"a shopping list\n" * 100, b"\0" * 5000, b"SQLite format 3\0", b"not one"])
def test_what_is_no_database_is_refused_and_left_as_it_was(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        opened(path)
    assert caught.value.field == "journal"
    assert path.read_bytes() == content


def test_a_folder_is_no_journal(path: Path) -> None:
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot be used"):
        opened(path)
    with pytest.raises(ConfigError, match="no such file"):
        schema.readable(path)


def test_a_parent_that_is_a_file(path: Path) -> None:
    path.write_text("")
    with pytest.raises(ConfigError, match="cannot be used"):
        opened(path / "journal.db")


def filled(path: Path) -> None:
    journal = opened(path)

    def work(db: sqlite3.Connection) -> None:
        for n in range(500):
            db.execute(
                "INSERT INTO file (path, place, size, mtime_ns, dev, ino, state, seen) VALUES (?, ?, 1, 1, 1, 1, "
                "'FOUND', 1)",
                (b"path of file %d" % n, b"place of file %d" % n),
            )
            log(db, None, None, "NOTE", f"line {n}")

    asyncio.run(journal.change(work))
    journal.release()


def test_a_page_that_was_overwritten_is_noticed(path: Path) -> None:
    """Every page in its turn, the free ones aside: noise where a page of the file was."""
    filled(path)
    whole = path.read_bytes()
    rng = random.Random(3)
    pages = len(whole) // 4096
    assert pages > 20
    for page in range(pages):
        path.write_bytes(whole[: page * 4096] + rng.randbytes(4096) + whole[(page + 1) * 4096 :])
        with pytest.raises(ConfigError, match=r"damaged|not a database") as caught:
            opened(path)
        assert "move it away" in str(caught.value), page
    path.write_bytes(whole)
    opened(path).release()


def test_flipped_bits_are_refused_or_harmless(path: Path) -> None:
    """In the head of a page they are noticed; whatever happens, it is no traceback of SQLite's."""
    filled(path)
    whole = path.read_bytes()
    rng = random.Random(5)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(8):
            damaged[rng.randrange(len(whole) // 4096) * 4096 + rng.randrange(12)] ^= 1 << rng.randrange(8)
        for beside in path.parent.glob("journal.db?*"):
            beside.unlink()
        path.write_bytes(damaged)
        try:
            opened(path).release()
        except HumebatchError:
            refused += 1
    assert refused > 30


def test_a_file_that_was_cut_short_is_noticed(path: Path) -> None:
    filled(path)
    os.truncate(path, path.stat().st_size // 8192 * 4096)
    with pytest.raises(ConfigError, match="damaged"):
        opened(path)


# ── versions

STEP = "ALTER TABLE grp ADD COLUMN colour TEXT; UPDATE grp SET colour = 'red';"
GROUP = "INSERT INTO grp (uuid, config, bytes, state) VALUES ('u', 1, 1, 'PLANNED');"


def test_a_newer_version_is_refused_and_left_as_it_was(path: Path) -> None:
    made(path)
    altered(path, "PRAGMA user_version = 99")
    before = path.read_bytes()
    for opening in (opened, schema.readable):
        with pytest.raises(ConfigError, match="newer version"):
            opening(path)
    assert path.read_bytes() == before


def test_an_older_version_is_brought_up_to_date_and_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(path)
    altered(path, GROUP)
    monkeypatch.setattr(schema, "_STEPS", (*schema._STEPS, STEP))
    with pytest.raises(ConfigError, match="version 1"):
        schema.readable(path)  # only whoever holds it may change it
    opened(path).release()
    assert rows(path, "SELECT uuid, colour FROM grp") == [("u", "red")]
    assert rows(path, "PRAGMA user_version") == [(2,)]
    kept = path.with_name("journal.db.v1")
    assert rows(kept, "SELECT uuid FROM grp") == [("u",)] and rows(kept, "PRAGMA user_version") == [(1,)]
    assert kept.stat().st_mode & 0o077 == 0
    # A new one has gone the same way.
    made(path.with_name("new.db"))
    tables = "SELECT name, sql FROM sqlite_schema ORDER BY name"
    assert rows(path, tables) == rows(path.with_name("new.db"), tables)
    assert not path.with_name("new.db.v1").exists()


def test_a_migration_that_fails_leaves_the_old_version(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(path)
    altered(path, GROUP)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "_STEPS", (*schema._STEPS, STEP + "UPDATE nothing SET a = 1;"))
        with pytest.raises(ConfigError, match="nothing"):
            opened(path)
    assert rows(path, "PRAGMA user_version") == [(1,)]
    opened(path).release()
    monkeypatch.setattr(schema, "_STEPS", (*schema._STEPS, STEP))
    opened(path).release()  # with a backup of before already there
    assert rows(path, "SELECT colour FROM grp") == [("red",)]


KILLED = """
import os, pathlib, signal, sqlite3, sys
from humebatch._client.ingest import schema

class Deadly(sqlite3.Connection):
    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.create_function("die", 0, lambda: os.kill(os.getpid(), signal.SIGKILL))

connect = sqlite3.connect
schema.sqlite3.connect = lambda *arguments, **more: connect(*arguments, factory=Deadly, **more)
schema._STEPS = (*schema._STEPS, sys.argv[2])
schema.open_journal(pathlib.Path(sys.argv[1]))
"""


def test_a_migration_that_is_killed_leaves_the_old_version(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(path)
    altered(path, GROUP)
    ended = subprocess.run([sys.executable, "-c", KILLED, str(path), STEP + "SELECT die();"], timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert path.with_name("journal.db.v1").exists()  # it was in the middle of it
    assert rows(path, "PRAGMA user_version") == [(1,)]
    monkeypatch.setattr(schema, "_STEPS", (*schema._STEPS, STEP))
    opened(path).release()
    assert rows(path, "SELECT colour FROM grp") == [("red",)]


# ── file systems

MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb /home/me/disk xfs rw 0 0
//nas/share /mnt/the\\040share cifs rw 0 0
host:/ /mnt/over fuse.sshfs rw 0 0
tmpfs /mnt/over/there tmpfs rw 0 0
/dev/vdc /twice ext4 rw 0 0
server:/twice /twice nfs rw 0 0
torn line
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/", None),
        ("/var/tmp", None),
        ("/home", "nfs4"),
        ("/home/me", "nfs4"),
        ("/home/me/disk", None),
        ("/home/me/disk/a", None),
        ("/home/me/diskette", "nfs4"),
        ("/homeless", None),
        ("/mnt/the share/a", "cifs"),
        ("/mnt/over/a", "fuse.sshfs"),
        ("/mnt/over/there", None),
        ("/twice", "nfs"),
    ],
)
def test_network_file_systems_are_told_by_their_mounts(folder: str, kind: str | None) -> None:
    assert on_network(folder, MOUNTS) == kind


def test_no_table_of_mounts_is_no_network() -> None:
    assert on_network("/home", "") is None


def test_a_journal_on_a_network_file_system_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_mounts", lambda: f"server:/x {path.parent} nfs rw 0 0\n")
    with pytest.raises(ConfigError, match=r"network file system \(nfs\)"):
        opened(path)
    assert not path.exists()


# ── moves


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[Journal]:
    journal = await asyncio.to_thread(opened, path)
    yield journal
    await journal.close()


async def group(journal: Journal, state: str = "PLANNED") -> Group:
    def work(db: sqlite3.Connection) -> Group:
        (group_id,) = db.execute(
            "INSERT INTO grp (uuid, config, bytes, state) VALUES (hex(randomblob(8)), 1, 1, ?) RETURNING id", (state,)
        ).fetchone()
        return Group.by_id(db, group_id)

    return await journal.change(work)


SENT = (Sent("a.wav", "0" * 32),)


async def intend(journal: Journal, one: Group, *, at: int = 5, keyed: bool = True) -> None:
    await journal.intend(one, sent=SENT, length=10, keyed=keyed, server_ms=at)


@pytest.mark.anyio
async def test_a_group_is_sent_and_is_a_job(journal: Journal) -> None:
    one = await group(journal)
    await intend(journal, one)
    (sending,) = await journal.groups("SENDING", limit=10)
    assert (sending.sent, sending.since_ms, sending.keyed) == (SENT, 5, True)
    await journal.accepted(one.id, "job")
    await journal.ended("job")
    assert await journal.count("ENDED") == 1
    history = await journal.change(lambda db: db.execute("SELECT was, now, detail FROM event ORDER BY seq").fetchall())
    assert history == [("PLANNED", "SENDING", None), ("SENDING", "SUBMITTED", "job"), ("SUBMITTED", "ENDED", None)]


@pytest.mark.anyio
async def test_a_group_moves_once_or_not_at_all(journal: Journal) -> None:
    one = await group(journal)
    wrong: list[Callable[[], Any]] = [
        lambda: journal.accepted(one.id, "job"),
        lambda: journal.unknown(one.id, "x"),
        lambda: journal.not_sent(one.id, "x"),
        lambda: journal.absent(one.id, "looked for", most=4),
        lambda: journal.change(lambda db: move(db, one.id, ("SENDING", "UNKNOWN"), "DROPPED", detail=None)),
    ]
    for attempt in wrong:
        with pytest.raises(RuntimeError, match="is PLANNED, not"):
            await attempt()
    await intend(journal, one)
    with pytest.raises(RuntimeError, match="is SENDING, not PLANNED"):
        await intend(journal, one)
    await journal.accepted(one.id, "job")
    with pytest.raises(RuntimeError, match="is SUBMITTED"):
        await journal.accepted(one.id, "another job")
    # What was refused has left nothing behind: no try, no line in the history, no job.
    assert await journal.change(lambda db: db.execute("SELECT count(*) FROM attempt").fetchone()) == (1,)
    assert await journal.change(lambda db: db.execute("SELECT count(*) FROM event").fetchone()) == (2,)
    assert await journal.change(lambda db: db.execute("SELECT job_id FROM grp").fetchall()) == [("job",)]


@pytest.mark.anyio
async def test_no_two_groups_are_one_job(journal: Journal) -> None:
    one, other = await group(journal), await group(journal)
    await intend(journal, one)
    await intend(journal, other)
    await journal.accepted(one.id, "job")
    with pytest.raises(sqlite3.IntegrityError):
        await journal.accepted(other.id, "job")
    assert await journal.count("SENDING") == 1
    await journal.accepted(other.id, "its own")


@pytest.mark.anyio
async def test_tries_are_numbered_and_a_group_without_a_key_never_has_one_again(journal: Journal) -> None:
    one = await group(journal)
    for n, keyed in enumerate((True, False, True)):
        (one,) = await journal.groups("PLANNED", limit=1)
        await intend(journal, one, at=50 - n, keyed=keyed)
        await journal.unknown(one.id, "no answer")
        assert await journal.absent(one.id, "looked for", most=4)
    (one,) = await journal.groups("PLANNED", limit=1)
    assert (one.keyed, one.since_ms) == (False, 48)  # the earliest
    tries = await journal.change(lambda db: db.execute("SELECT number, state FROM attempt ORDER BY id").fetchall())
    assert tries == [(1, "ABSENT"), (2, "ABSENT"), (3, "ABSENT")]
    await intend(journal, one)
    await journal.unknown(one.id, "no answer")
    assert not await journal.absent(one.id, "looked for", most=4)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("tries", "denied"),
    [
        (["no"], True), (["no", "no"], True), (["silence", "no"], True), (["no", "silence"], False),
        (["no", "silence", "no"], True),
    ],
    ids=str,
)  # fmt: skip
async def test_denied_is_whoever_waits_for_no_answer(tries: list[str], denied: bool, journal: Journal) -> None:
    one = await group(journal)
    for number, how in enumerate(tries, 1):
        (one,) = await journal.groups("PLANNED", limit=1)
        await intend(journal, one)
        await (journal.denied if how == "no" else journal.unknown)(one.id, "429")
        if number < len(tries):
            assert await journal.absent(one.id, "looked for", most=4)
    assert await journal.only_denied([one.id]) == ({one.id} if denied else set())
    # Parked after silence, and looked at again by another run: there is no word of the server to go by.
    await journal.absent(one.id, "looked for", most=0)
    if not denied:
        assert await journal.only_denied([one.id]) == set()


@pytest.mark.anyio
async def test_a_job_behind_a_refusal_is_that_of_the_group(journal: Journal) -> None:
    one = await group(journal)
    await intend(journal, one)
    await journal.denied(one.id, "429")
    await journal.accepted(one.id, "job", was=("UNKNOWN",))
    assert await journal.change(lambda db: db.execute("SELECT state FROM attempt").fetchall()) == [("ACCEPTED",)]
    other = await group(journal)
    await intend(journal, other)
    await journal.denied(other.id, "429")
    assert await journal.absent(other.id, "looked for", most=1)  # that is no try that came to nothing
    (other,) = await journal.groups("PLANNED", limit=1)
    await intend(journal, other)
    await journal.accepted(other.id, "another")
    tries = await journal.change(lambda db: db.execute("SELECT state FROM attempt WHERE grp = 2").fetchall())
    assert tries == [("REFUSED",), ("ACCEPTED",)]


@pytest.mark.anyio
async def test_what_was_being_sent_when_it_died_is_unknown(path: Path) -> None:
    journal = await asyncio.to_thread(opened, path)
    sending, planned = await group(journal), await group(journal)
    await intend(journal, sending)
    # As a crash leaves them.
    kept = path.parent / "crashed"
    kept.mkdir()
    for beside in path.parent.glob("journal.db*"):
        await asyncio.to_thread(shutil.copy, beside, kept)
    await journal.close()
    again = await asyncio.to_thread(opened, kept / "journal.db")
    assert [one.id for one in await again.groups("UNKNOWN", limit=10)] == [sending.id]
    assert [one.id for one in await again.groups("PLANNED", limit=10)] == [planned.id]
    assert again.run == 2
    assert await again.change(lambda db: db.execute("SELECT state FROM attempt").fetchall()) == [("UNKNOWN",)]
    await again.close()


@pytest.mark.anyio
async def test_open_tries_end_together(journal: Journal) -> None:
    one = await group(journal)
    await intend(journal, one)
    await journal.change(lambda db: end_attempt(db, one.id, ("SENDING", "UNKNOWN"), "REFUSED", "no"))
    assert await journal.change(lambda db: db.execute("SELECT state, detail FROM attempt").fetchall()) == [
        ("REFUSED", "no")
    ]


# ── a server of our own that is gone

HERE = "embedded:temporary:1"


def take(db: sqlite3.Connection, *names: str, retry: bool = False) -> None:
    """Inputs are found, all with the same content, and hashed; nothing is at /results."""
    found = [Found(name.encode(), name.encode(), size=1, mtime_ns=1, dev=1, ino=1) for name in names]
    (run,) = db.execute("SELECT 1 + coalesce(max(seen), 0) FROM file").fetchone()
    taking.take(db, run, found, out=b"/results", retry=retry)
    hashed = [(file_id, Hashed("0" * 32, 1, 1, 1, 1)) for file_id, _, _ in inputs.to_hash(db, 10)]
    inputs.hashed(db, 1, hashed, out=b"/results")


def group_them(db: sqlite3.Connection) -> None:
    group_inputs(db, Grouping(config=1, files=10, bytes=10, tagged=False), most=1, final=True)
    move(db, 1, ("PLANNED",), "SUBMITTED", detail=None)


def measured(db: sqlite3.Connection, *, saved: str) -> None:
    """The group's job has ended; of the inputs that want its results, those named in `saved` get them."""
    move(db, 1, ("SUBMITTED",), "ENDED", detail=None)
    for target in inputs.targets(db, 1, b"/results"):
        if target.name in saved:
            inputs.stored(db, None, [Stored(target.file, b"", size=1, sha256="0" * 64, errors=0)])


def looked_at(path: Path, *works: Callable[[sqlite3.Connection], Any], server: str = HERE) -> list[Any]:
    """What a run does; returns where it leaves the inputs."""
    journal = opened(path, server=server, rebind=not server.startswith("embedded"))

    async def change() -> None:
        for work in works:
            await journal.change(work)

    with contextlib.ExitStack() as stack:
        stack.callback(journal.release)
        asyncio.run(change())
    return rows(
        path,
        "SELECT CAST(file.path AS TEXT), file.state, grp.state FROM file "
        "LEFT JOIN grp ON grp.id = file.grp ORDER BY file.path",
    )


def park(db: sqlite3.Connection) -> None:
    inputs.end_group(db, 1, InputState.PARKED, Reason.STALLED, "it takes too long")


def test_what_was_parked_there_is_free_and_what_is_the_same_waits_for_it(path: Path) -> None:
    left = looked_at(path, lambda db: take(db, "a", "b"), group_them, park)
    assert left == [("a", "PARKED", "PARKED"), ("b", "PARKED", None)]
    assert looked_at(path, server="embedded:temporary:2") == [("a", "READY", None), ("b", "SAME", None)]
    assert rows(path, "SELECT reason, detail FROM file") == [(None, None)] * 2


def test_what_was_measured_there_and_is_lost_since_is_measured_again(path: Path) -> None:
    """Also in a group of which not everything was saved."""

    def two(db: sqlite3.Connection) -> None:
        take(db, "a")
        db.execute("UPDATE file SET md5 = 'another'")
        take(db, "b")

    left = looked_at(path, two, group_them, lambda db: measured(db, saved="a"))
    assert left == [("a", "DONE", "ENDED"), ("b", "GROUPED", "ENDED")]
    left = looked_at(path, server="embedded:temporary:2")
    assert left == [("a", "DONE", "DROPPED"), ("b", "READY", None)]
    left = looked_at(path, lambda db: take(db, "a", "b"), server="embedded:temporary:2")
    # What is the same by now is measured once.
    assert left == [("a", "SAME", None), ("b", "READY", None)]


def test_when_the_one_that_was_measured_there_changes_the_next_is_measured(path: Path) -> None:
    looked_at(path, lambda db: take(db, "a", "b"), group_them, lambda db: measured(db, saved="a"))

    def changed(db: sqlite3.Connection) -> None:
        (file_id,) = db.execute("UPDATE file SET state = 'FOUND' WHERE path = ? RETURNING id", (b"a",)).fetchone()
        inputs.hashed(db, 1, [(file_id, Hashed("1" * 32, 1, 1, 1, 1))], out=b"/results")

    left = looked_at(path, changed, server="embedded:temporary:2")
    assert left == [("a", "READY", None), ("b", "READY", None)]


def test_a_job_that_another_server_has_lost_is_not_made_again(path: Path) -> None:
    looked_at(path, lambda db: take(db, "a"), group_them, lambda db: measured(db, saved="a"), server="http://a")
    gone = "the server does not know it any more"
    left = looked_at(
        path,
        lambda db: take(db, "a"),
        lambda db: inputs.end_group(db, 1, InputState.FAILED, Reason.GONE, gone),
        server="http://a",
    )
    assert left == [("a", "FAILED", "FAILED")]
    assert looked_at(path, lambda db: take(db, "a"), server="http://a") == [("a", "FAILED", "FAILED")]


def test_what_could_not_be_saved_is_wanted_again_by_itself(path: Path) -> None:
    def unsaved(db: sqlite3.Connection) -> None:
        wanted = inputs.targets(db, 1, b"/results")
        inputs.stored(db, 1, [NotStored(one.file, Reason.NOT_SAVED, "no") for one in wanted])

    looked_at(path, lambda db: take(db, "a", "b"), group_them, lambda db: measured(db, saved=""), unsaved)
    # Of two that are the same the second one only.
    left = looked_at(path, lambda db: take(db, "b", retry=True))
    assert left == [("a", "FAILED", "ENDED"), ("b", "GROUPED", "ENDED")]


FORGETTING = """
import os, pathlib, signal, sys
from humebatch._client.ingest import journal, schema
journal._forget_server = lambda db: os.kill(os.getpid(), signal.SIGKILL)
binding = schema.Binding(server="http://b", key=None, config="{}", out="/o")
journal.Journal.open(pathlib.Path(sys.argv[1]), binding, rebind=True)
"""


def test_a_start_that_is_killed_has_not_changed_servers(path: Path) -> None:
    looked_at(path, lambda db: take(db, "a"), group_them)
    ended = subprocess.run([sys.executable, "-c", FORGETTING, str(path)], timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert looked_at(path, server="http://b") == [("a", "READY", None)]


# ── how it is looked up


def test_another_input_is_no_more_work_for_all_that_failed_with_it_before(path: Path) -> None:
    """In steps of SQLite's."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    def another(db: sqlite3.Connection, number: int) -> None:
        name = b"%d" % number
        taking.take(db, 1, [Found(name, name, size=1, mtime_ns=1, dev=1, ino=1)], out=b"/o", retry=False)
        results = [(file_id, Hashed("0" * 32, 1, 1, 1, 1)) for file_id, _, _ in inputs.to_hash(db, 10)]
        db.set_progress_handler(step, 1)
        inputs.hashed(db, 1, results, out=b"/o")
        db.set_progress_handler(None, 1)

    def compare(db: sqlite3.Connection) -> list[int]:
        nonlocal steps
        costs = []
        for numbers in (range(10), range(10, 1000)):
            for number in numbers:
                another(db, number)
            db.execute("UPDATE file SET state = 'FAILED', reason = 'REFUSED'")
            steps = 0
            another(db, 1000 + len(numbers))
            costs.append(steps)
        return costs

    journal = opened(path)
    with contextlib.ExitStack() as stack:
        stack.callback(journal.release)
        few, many = asyncio.run(journal.change(compare))
    assert many < few + 100


# ── commits


@pytest.mark.anyio
async def test_after_a_commit_that_failed_nothing_is_changed(journal: Journal, path: Path) -> None:
    def full(db: sqlite3.Connection) -> None:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages}")
        log(db, None, None, "NOTE", "large " * 20_000)

    def note(db: sqlite3.Connection) -> None:
        log(db, None, None, "NOTE", "small")

    await journal.change(note)
    # In one commit with it, before and after.
    told = await asyncio.gather(*map(journal.change, [note, full, note]), return_exceptions=True)
    assert [type(one) for one in told] == [DiskError] * 3
    assert "nothing more is sent" in str(told[0])
    with pytest.raises(DiskError):
        await journal.change(note)
    with pytest.raises(DiskError):
        await journal.change(lambda db: None)
    assert await asyncio.to_thread(rows, path, "SELECT count(*) FROM event") == [(1,)]


@pytest.mark.anyio
async def test_what_was_begun_when_a_commit_failed_is_undone(journal: Journal, path: Path) -> None:
    with pytest.raises(DiskError, match="no such table"):
        await journal.change(lambda db: db.execute("INSERT INTO nowhere VALUES (1)"))
    # Not only given up: the file is free for others.
    await asyncio.to_thread(altered, path, "PRAGMA busy_timeout = 0; CREATE TABLE theirs (a)")


@pytest.mark.anyio
async def test_cancelled_it_is_done_or_not_and_the_next_one_is(journal: Journal) -> None:
    for _ in range(10):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                for n in range(3):
                    tasks.start_soon(journal.change, lambda db, n=n: log(db, None, None, "CANCELLED", str(n)))
                await anyio.lowlevel.checkpoint()
                scope.cancel()
    await journal.change(lambda db: log(db, None, None, "NOTE", "after"))
    (last,) = await journal.change(lambda db: db.execute("SELECT now FROM event ORDER BY seq DESC").fetchone())
    assert last == "NOTE"


class Own(Exception):
    """What a piece of work raises."""


WORKS = st.lists(st.sampled_from(["note", "raise", "raise late", "clash", "read"]), min_size=1)


class Changes(RuleBasedStateMachine):
    """Any changes at the same time: those that fail leave nothing, the others are there in the order of their calls."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "journal.db"
        self.journal = opened(self.path)
        self.loop = asyncio.Runner()
        self.notes: list[str] = []
        self.calls = 0

    @rule(works=WORKS)
    def change(self, works: list[str]) -> None:
        pending: list[Callable[[sqlite3.Connection], Any]] = []
        for kind in works:
            self.calls += 1
            pending.append(self._work(kind, str(self.calls)))
            if kind == "note":
                self.notes.append(str(self.calls))

        async def all_of_them() -> list[Any]:
            return await asyncio.gather(*map(self.journal.change, pending), return_exceptions=True)

        for kind, said in zip(works, self.loop.run(all_of_them()), strict=True):
            if kind in ("raise", "raise late"):
                assert type(said) is Own
            elif kind == "clash":
                assert type(said) is sqlite3.IntegrityError
            elif kind == "note":
                assert said == "noted"
            else:
                assert said == 1
        assert self.journal.broken is None

    def _work(self, kind: str, name: str) -> Callable[[sqlite3.Connection], Any]:
        def work(db: sqlite3.Connection) -> Any:
            if kind == "read":
                return db.execute("SELECT 1").fetchone()[0]
            if kind == "raise":
                raise Own
            log(db, None, None, "NOTE", name)
            if kind == "raise late":
                raise Own
            if kind == "clash":
                db.execute("INSERT INTO meta VALUES ('server', 'again')")
            return "noted"

        return work

    @rule()
    def reopen(self) -> None:
        self.loop.run(self.journal.close())
        self.journal = opened(self.path)

    @invariant()
    def there_is_what_was_told(self) -> None:
        if hasattr(self, "path"):
            there = rows(self.path, "SELECT detail FROM event ORDER BY seq")
            assert [detail for (detail,) in there] == self.notes

    def teardown(self) -> None:
        if hasattr(self, "path"):
            self.journal.release()
            self.loop.close()
            self.folder.cleanup()


TestChanges = Changes.TestCase
TestChanges.settings = settings(max_examples=30, stateful_step_count=12, deadline=None)
