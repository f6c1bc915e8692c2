"""The journal as a file: its tables, their versions, who may open it, and what it is bound to.

One process at a time: a lock beside the file names its holder, and the operating system frees it when that dies. A
journal belongs to one server, key, configuration and output folder, because what it holds means nothing elsewhere. The
key itself is never in it, only a keyed hash that tells whether it is the same.
"""

from __future__ import annotations

import datetime as dt
import errno
import fcntl
import hashlib
import hmac
import os
import secrets
import socket
import sqlite3
import stat
from pathlib import Path
from typing import IO

import msgspec

from ..._transport.files import private
from ...config import Secret
from ...errors import ConfigError, DiskError

__all__ = ["Binding", "at_home", "bind", "hold", "on_network", "open_journal", "readable", "unusable"]

_VERSION_1 = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE config (id INTEGER PRIMARY KEY, request TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE run (id INTEGER PRIMARY KEY, began_ms INTEGER NOT NULL, ended_ms INTEGER) STRICT;
CREATE TABLE grp (
    id       INTEGER PRIMARY KEY,
    uuid     TEXT NOT NULL UNIQUE,
    tag      TEXT,
    config   INTEGER NOT NULL REFERENCES config,
    bundle   TEXT,
    bytes    INTEGER NOT NULL,
    state    TEXT NOT NULL CHECK (state IN ('PLANNED', 'SENDING', 'UNKNOWN', 'SUBMITTED', 'ENDED', 'DONE', 'FAILED',
                                            'PARKED', 'DROPPED')),
    sent     BLOB,
    since_ms INTEGER,
    keyed    INTEGER,
    job_id   TEXT UNIQUE,
    gone     INTEGER NOT NULL DEFAULT 0,
    reason   TEXT,
    detail   TEXT
) STRICT;
CREATE INDEX grp_state ON grp (state, id);
CREATE INDEX grp_tag ON grp (tag) WHERE tag IS NOT NULL;
CREATE TABLE file (
    id       INTEGER PRIMARY KEY,
    path     BLOB NOT NULL UNIQUE,
    place    BLOB NOT NULL UNIQUE,
    size     INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    dev      INTEGER NOT NULL,
    ino      INTEGER NOT NULL,
    md5      TEXT,
    state    TEXT NOT NULL CHECK (state IN ('FOUND', 'READY', 'GROUPED', 'SAME', 'DONE', 'FAILED', 'PARKED')),
    reason   TEXT,
    detail   TEXT,
    same_as  INTEGER REFERENCES file,
    grp      INTEGER REFERENCES grp,
    position INTEGER,
    wire     TEXT,
    changes  INTEGER NOT NULL DEFAULT 0,
    stale    INTEGER NOT NULL DEFAULT 0,
    saved    INTEGER,
    sha256   TEXT,
    errors   INTEGER,
    seen     INTEGER NOT NULL
) STRICT;
CREATE INDEX file_state ON file (state, id);
CREATE INDEX file_original ON file (md5, size) WHERE same_as IS NULL AND md5 IS NOT NULL;
CREATE INDEX file_grp ON file (grp, position) WHERE grp IS NOT NULL;
CREATE INDEX file_same ON file (same_as) WHERE same_as IS NOT NULL;
CREATE TABLE attempt (
    id        INTEGER PRIMARY KEY,
    grp       INTEGER NOT NULL REFERENCES grp,
    number    INTEGER NOT NULL,
    run       INTEGER NOT NULL,
    began_ms  INTEGER NOT NULL,
    length    INTEGER,
    keyed     INTEGER NOT NULL,
    state     TEXT NOT NULL CHECK (state IN ('SENDING', 'ACCEPTED', 'NOT_SENT', 'REFUSED', 'UNKNOWN', 'ABSENT')),
    detail    TEXT,
    UNIQUE (grp, number)
) STRICT;
CREATE INDEX attempt_open ON attempt (grp) WHERE state = 'SENDING';
CREATE TABLE duplicate (
    job_id     TEXT PRIMARY KEY,
    grp        INTEGER NOT NULL REFERENCES grp,
    created_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE event (
    seq    INTEGER PRIMARY KEY,
    at_ms  INTEGER NOT NULL,
    grp    INTEGER,
    was    TEXT,
    now    TEXT NOT NULL,
    detail TEXT
) STRICT;
"""
# Each step leads from one version to the next; a new journal goes through all of them, so old and new are alike.
_STEPS = (_VERSION_1,)

# File systems whose locks and flushes cannot be relied on.
_NETWORK = frozenset({"9p", "afs", "ceph", "cifs", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "ncpfs", "nfs", "nfs4",
                      "smb2", "smb3", "smbfs"})  # fmt: skip


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """What a journal belongs to.

    `server`: the base URL; for a server of our own `embedded:kept:` and its data folder, or `embedded:temporary:` and
    a word that none before it had. `config`: the JSON of the request without its files. `out`: the output folder,
    absolute.
    """

    server: str
    key: Secret | None
    config: str
    out: str


def hold(path: Path) -> IO[str]:
    """Lock the journal for this process. Raises `ConfigError` naming who holds it."""
    # By whatever name it is called: a symbolic link to it is no second journal.
    path = Path(os.path.realpath(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_name(path.name + ".lock"), "a+", opener=_regular)  # noqa: SIM115 - held while we run
    except OSError as error:
        raise _refused(path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        holder = lock.read(500).strip() or "another process"
        lock.close()
        raise ConfigError(f"journal: {path} is in use by {holder}", field="journal") from error
    since = dt.datetime.now().astimezone().isoformat(timespec="seconds")
    try:
        os.truncate(lock.fileno(), 0)
        os.write(lock.fileno(), f"process {os.getpid()} on {socket.gethostname()} since {since}\n".encode())
    except OSError as error:
        lock.close()
        raise _refused(path, error) from error
    return lock


def _regular(path: str, flags: int) -> int:
    # It is emptied below: whatever else is in its place, or a link leads to, is not ours to empty.
    try:
        lock = private(path, flags | os.O_NOFOLLOW)
        if stat.S_ISREG(os.fstat(lock).st_mode):
            return lock
        os.close(lock)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    raise ConfigError(f"journal: {path} is no regular file, as a lock has to be; remove it", field="journal")


def _refused(path: Path, error: OSError) -> ConfigError | DiskError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return DiskError(f"journal: {path} cannot be written: {error.strerror}", path=str(path))
    return ConfigError(f"journal: {path} cannot be used: {error.strerror}", field="journal")


def open_journal(path: Path) -> sqlite3.Connection:
    """Open or make the journal and bring it up to date; what it was before is kept as `<name>.v<version>`.

    Raises `ConfigError` for a file that is no journal, is damaged, lies on a network file system, or was written by
    a newer version; `DiskError` when it cannot be written.
    """
    if network := on_network(os.path.realpath(path.parent), _mounts()):
        raise ConfigError(
            f"journal: {path} lies on a network file system ({network}), whose locks cannot be relied on; "
            "choose a local folder",
            field="journal",
        )
    try:
        if not path.exists():
            path.touch(0o600)
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except OSError as error:
        raise _refused(path, error) from error
    except sqlite3.Error as error:
        raise unusable(path, error) from error
    try:
        # Before the first setting that is written into the file, which may be somebody else's.
        _check(db, path)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000", "trusted_schema=OFF"):
            db.execute(f"PRAGMA {pragma}")
        _migrate(db, path)
    except BaseException as error:
        db.close()
        if isinstance(error, sqlite3.Error):
            raise unusable(path, error) from error
        raise
    return db


def readable(path: Path) -> sqlite3.Connection:
    """The journal for reading only, beside whoever writes it. Raises `ConfigError`."""
    path = Path(os.path.realpath(path))
    try:
        if not path.is_file():
            raise ConfigError(f"journal: {path}: no such file", field="journal")
        db = sqlite3.connect(f"file:{_quoted(path)}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"journal: {path} cannot be used: {error}", field="journal") from error
    try:
        db.execute("PRAGMA busy_timeout=5000")
        _check(db, path)
        (version,) = db.execute("PRAGMA user_version").fetchone()
    except BaseException as error:
        db.close()
        if isinstance(error, sqlite3.Error):
            raise unusable(path, error) from error
        raise
    if version != len(_STEPS):
        db.close()
        raise ConfigError(f"journal: {path} is of version {version}, this one reads {len(_STEPS)}", field="journal")
    return db


def _quoted(path: Path) -> str:
    return "".join(f"%{ord(one):02x}" if one in "%?#" else one for one in os.fspath(path))


def unusable(path: Path, error: sqlite3.Error) -> ConfigError | DiskError:
    """What it means that SQLite cannot use the journal: a disk that takes nothing, or a file that is no journal."""
    full = error.sqlite_errorcode & 0xFF if hasattr(error, "sqlite_errorcode") else 0
    if full in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY):
        return DiskError(f"journal: {path} cannot be written: {error}", path=str(path))
    return ConfigError(
        f"journal: {path} cannot be used: {error}; if it is damaged, move it away: what it knew of accepted jobs "
        "is lost then, and everything would be submitted again",
        field="journal",
    )


def _check(db: sqlite3.Connection, path: Path) -> None:
    (said,) = db.execute("PRAGMA quick_check(1)").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if said != "ok":
        raise ConfigError(
            f"journal: {path} is damaged ({said}); restore a copy, or move it away: then everything would be "
            "submitted again",
            field="journal",
        )
    if version > len(_STEPS):
        raise ConfigError(
            f"journal: {path} was written by a newer version of humebatch (schema {version}, this one knows "
            f"{len(_STEPS)}); use that version",
            field="journal",
        )
    if (version > 0) != ("grp" in tables) or (version == 0 and tables):
        raise ConfigError(f"journal: {path} is a database, but no journal; give another file", field="journal")


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == len(_STEPS):
        return
    if version:
        kept = path.with_name(f"{path.name}.v{version}")
        kept.unlink(missing_ok=True)
        db.execute("VACUUM INTO ?", (str(kept),))
        kept.chmod(0o600)
    # One transaction: a crash leaves the old version, which the next start brings up to date.
    steps = "".join(_STEPS[version:])
    db.executescript(f"BEGIN IMMEDIATE;{steps}PRAGMA user_version={len(_STEPS)};COMMIT;")


def bind(db: sqlite3.Connection, path: Path, binding: Binding, *, rebind: bool) -> bool:
    """Bind a new journal, or check that an old one is bound to the same; part of the caller's transaction.

    Returns whether the server that it was bound to is gone for good, with all its jobs. Raises `ConfigError` naming
    what differs, unless `rebind`.
    """
    known = dict(db.execute("SELECT name, value FROM meta"))
    salt = known.get("salt") or secrets.token_hex(16)
    key = "" if binding.key is None else binding.key.reveal()
    ours = {
        "server": _text(binding.server),
        # Eight digits tell keys apart, and are no help in guessing one.
        "key": hmac.new(salt.encode(), key.encode(), hashlib.sha256).hexdigest()[:8] if key else "none",
        "config": binding.config,
        "out": _text(binding.out),
    }
    before = known.get("server", binding.server)
    differs = [name for name in ours if name in known and known[name] != ours[name]]
    if _temporary(before) and _temporary(binding.server):
        # There is never the same one again, nor its key; that is no other server to anybody.
        differs = [name for name in differs if name not in ("server", "key")]
    if differs and not rebind:
        said = "; ".join(_difference(name, known[name], ours[name]) for name in differs)
        raise ConfigError(
            f"journal: {path} belongs to another run: {said}. Use another journal, or --rebind (rebind=True) to go "
            "on with this one",
            field="journal",
        )
    for name, value in {**ours, "salt": salt}.items():
        db.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value)
        )
    db.execute("INSERT OR IGNORE INTO config (request) VALUES (?)", (binding.config,))
    # One over a folder that is kept may come again, as any URL may.
    return _temporary(before) and before != binding.server


def _text(value: str) -> str:
    # A folder may be called what is no text; SQLite does not take that.
    return value.encode("utf-8", "backslashreplace").decode()


def _temporary(server: str) -> bool:
    return server.startswith("embedded:temporary:")


def _difference(name: str, before: str, now: str) -> str:
    if name == "key":
        return "its API key is another one"
    return f"its {name} is {before}, not {now}"


def _mounts() -> str:
    try:
        return Path("/proc/self/mounts").read_text("utf-8", "surrogateescape")
    except OSError:
        return ""


def on_network(folder: str, mounts: str) -> str | None:
    """The kind of network file system that `folder` lies on, by a table like /proc/self/mounts; None on a local one."""
    found, kind = "", ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        where = fields[1].replace("\\040", " ").rstrip("/")
        if (folder == where or folder.startswith(where + "/")) and len(where) >= len(found):
            found, kind = where, fields[2]
    return kind if kind in _NETWORK else None


def at_home(db: sqlite3.Connection, here: bytes, *, rebind: bool) -> None:
    """Bind a journal to the working folder, where its relative paths begin. Raises `ConfigError` as `bind` does."""
    shown = here.decode("utf-8", "replace")
    row = db.execute("SELECT value FROM meta WHERE name = 'folder'").fetchone()
    if row is None or (rebind and row[0] != shown):
        db.execute("INSERT OR REPLACE INTO meta VALUES ('folder', ?)", (shown,))
    elif row[0] != shown:
        raise ConfigError(
            f"journal: its relative paths begin at {row[0]}, not at {shown}: run it there, give absolute paths to a "
            "journal of their own, or --rebind (rebind=True)",
            field="journal",
        )
