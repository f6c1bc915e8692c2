"""From the paths that were given to the files to measure, one by one: a million of them in flat memory.

Nothing is opened but folders. Blocks: call it in a worker thread.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import TypeAlias

import msgspec

from ...errors import ConfigError
from ...ingestion import Reason
from .hashing import unusable

__all__ = ["Found", "scan"]

AnyPath: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

# Entries of a folder that are read and sorted at a time: a few MB. Nearly all folders have fewer.
_CHUNK = 10_000
_NEVER = re.compile(r"(?!)")


class Found(msgspec.Struct, frozen=True):
    """A file, or something in its place that cannot be measured.

    `path`: as it will be opened, bytes as the operating system has them: the given path, and below a given folder what
    leads from there. `place`: where its results go below an output folder: relative, with `/`, without `..`. Two given
    paths may lead to the same place.
    `size` in bytes, `mtime_ns`, `dev`, `ino`: of the file, all 0 when there is a `reason` why it cannot be measured;
    `detail` says it in a few words for people.
    """

    path: bytes
    place: bytes
    size: int = 0
    mtime_ns: int = 0
    dev: int = 0
    ino: int = 0
    reason: Reason | None = None
    detail: str = ""


def scan(
    paths: AnyPath | Iterable[AnyPath],
    *,
    out: AnyPath,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    beside: Collection[str] = (),
) -> Generator[Found]:
    """Files as given, and all files below given folders, in order of name (of every 10,000 in a folder).

    Hidden files and folders are passed over below a given folder, and so is the folder `out`; files whose real paths
    are in `beside` are passed over everywhere. What is no regular file, empty, not there or not readable is found
    with its reason, a folder that cannot be listed too.

    `include` and `exclude` are patterns: `*` and `?` stand for characters of one name, `[a-z]` and `[!a-z]` for one of
    a set, `**` as a whole step for any number of folders; upper and lower case differ. A pattern without `/` is
    compared with the name, one with `/` with the path below the given folder (`takes/*.wav`, `/*.wav`, `**/old/**`);
    `tmp/` in `exclude` is for folders only. Files below a given folder are taken when they match any of `include`, or
    there are none, and none of `exclude`; a folder that matches one of `exclude` is not entered. A file that is
    itself given is taken unless its name matches `exclude`; a given folder always.

    A symbolic link to a file inside the given folder is a file like any other; a link out of it is OUTSIDE; a link to
    a folder inside is passed over, because its files are found where they are. A given path may be a link to anywhere.

    Raises `ConfigError` when a given path is `out` or lies in it (a list is looked through before anything is read,
    an iterator as it goes), and for a pattern that can match nothing; `OSError` when this process may not open any
    more files. Close the iterator to close the folders it has open.
    """
    search = _Search(out, _Patterns("include", include), _Patterns("exclude", exclude), beside)
    given: Iterable[AnyPath] = [paths] if isinstance(paths, (str, bytes, os.PathLike)) else paths
    if isinstance(given, Collection):
        for path in given:
            search.refuse(_encoded(path))
    return search.run(given)


class _Folder:
    """A folder that is being read, with what leads to its entries, each ending in `/` or empty.

    `prefix` to the path as opened, `into` to the place, `below` from the given folder, `real` to the real path.
    """

    def __init__(self, path: bytes, place: bytes, below: bytes, real: bytes) -> None:
        self.path = path
        self.place = place
        self.prefix = b"" if path == b"." else _as_prefix(path)
        self.into = b"" if place == b"." else _as_prefix(place)
        self.below = below
        self.real = _as_prefix(real)
        self._listing = os.scandir(path)
        self._more = True
        self._entries: list[os.DirEntry[bytes]] = []

    def next(self) -> os.DirEntry[bytes] | None:
        """The next entry, None at the end. Entries that were read before an error come after it."""
        if not self._entries and self._more:
            try:
                for entry in islice(self._listing, _CHUNK):
                    self._entries.append(entry)
            finally:
                # From the end, so that what was handed out is not kept.
                self._entries.sort(key=attrgetter("name"), reverse=True)
                if len(self._entries) < _CHUNK:
                    # Now, so that a deep tree does not hold a descriptor for each level.
                    self.close()
        return self._entries.pop() if self._entries else None

    def close(self) -> None:
        """Read no more from the disk."""
        self._more = False
        self._listing.close()


class _Search:
    def __init__(self, out: AnyPath, include: _Patterns, exclude: _Patterns, beside: Collection[str]) -> None:
        self._out = os.path.realpath(os.fsencode(out))
        self._include = include
        self._exclude = exclude
        self._beside = frozenset(map(os.fsencode, beside))
        self._parent: tuple[bytes, bytes] = b"", b""

    def run(self, paths: Iterable[AnyPath]) -> Generator[Found]:
        for given in paths:
            yield from self._given(_encoded(given))

    def refuse(self, path: bytes) -> bytes:
        """The real path of one that was given. Raises `ConfigError` if the results go there."""
        if not path or b"\0" in path:
            return path
        real = self._real(path)
        if _inside(real, self._out):
            raise ConfigError(
                f"out: {os.fsdecode(path)} lies in the folder for the results; give another one for them", field="out"
            )
        return real

    def _given(self, path: bytes) -> Iterator[Found]:
        place = _place(path)
        real = self.refuse(path)
        if real in self._beside:
            return
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:
            yield _failed(path, place, error)
            return
        if stat.S_ISDIR(status.st_mode):
            yield from self._below(path, place, real)
        elif not self._exclude.match(os.path.basename(path), folder=False):
            yield _file(path, place, status)

    def _below(self, path: bytes, place: bytes, root: bytes) -> Iterator[Found]:
        stack: list[_Folder] = []
        try:
            yield from _enter(stack, path, place, b"", root)
            while stack:
                folder = stack[-1]
                try:
                    entry = folder.next()
                except OSError as error:
                    yield _failed(folder.path, folder.place, error)
                    continue
                if entry is None:
                    stack.pop().close()
                elif not entry.name.startswith(b"."):
                    yield from self._entry(stack, folder, entry, root)
        finally:
            for folder in stack:
                folder.close()

    def _entry(self, stack: list[_Folder], folder: _Folder, entry: os.DirEntry[bytes], root: bytes) -> Iterator[Found]:
        name = entry.name
        path, place = folder.prefix + name, folder.into + name
        below, real = folder.below + name, folder.real + name
        try:
            if entry.is_dir(follow_symlinks=False):
                if real != self._out and not self._exclude.match(below, folder=True):
                    yield from _enter(stack, path, place, below + b"/", real)
            elif entry.is_symlink():
                yield from self._link(path, place, below, root)
            elif real not in self._beside and self._wanted(below):
                yield _file(path, place, entry.stat(follow_symlinks=False))
        except OSError as error:
            yield _failed(path, place, error)

    def _link(self, path: bytes, place: bytes, below: bytes, root: bytes) -> Iterator[Found]:
        try:
            status = os.stat(path)
        except OSError as error:
            if self._wanted(below):
                yield _failed(path, place, error)
            return
        real = os.path.realpath(path)
        folder = stat.S_ISDIR(status.st_mode)
        if _inside(real, self._out) or real in self._beside or self._exclude.match(below, folder=folder):
            return
        # What lies in a folder elsewhere cannot be held against `include` without entering it.
        if not folder and not self._wanted(below):
            return
        if not _inside(real, root):
            yield Found(path, place, reason=Reason.OUTSIDE, detail="a link that leads out of the folder that was given")
        elif not folder:
            yield _file(path, place, status)

    def _wanted(self, below: bytes) -> bool:
        return (not self._include or self._include.match(below, folder=False)) and not self._exclude.match(
            below, folder=False
        )

    def _real(self, path: bytes) -> bytes:
        parent, name = os.path.split(path)
        if name in (b"", b".", b"..") or os.path.islink(path):
            return os.path.realpath(path)
        # Paths from a list come folder by folder; each step of a realpath is a system call.
        if not self._parent[1] or self._parent[0] != parent:
            self._parent = parent, os.path.realpath(parent or b".")
        return os.path.join(self._parent[1], name)


class _Patterns:
    """Patterns for names and for paths below a folder; true when there are any."""

    def __init__(self, field: str, patterns: str | Sequence[str]) -> None:
        self._names: list[tuple[re.Pattern[str], bool]] = []
        self._paths: list[tuple[list[re.Pattern[str] | None], bool]] = []
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            folders = pattern.endswith("/")
            steps = pattern.removeprefix("/").removesuffix("/").split("/")
            if not {"", ".", ".."}.isdisjoint(steps):
                raise ConfigError(f"{field}: {pattern!r} matches no path below a folder", field=field)
            if folders and field == "include":
                raise ConfigError(
                    f"include: {pattern!r} is a folder; give {pattern + '**'!r} for its files", field=field
                )
            compiled = [None if step == "**" else re.compile(fnmatch.translate(step)) for step in steps]
            if pattern.removesuffix("/") == steps[0] and compiled[0] is not None:
                self._names.append((compiled[0], folders))
            else:
                self._paths.append((compiled, folders))

    def __bool__(self) -> bool:
        return bool(self._names or self._paths)

    def match(self, below: bytes, *, folder: bool) -> bool:
        """Whether any pattern matches `below`, a path with `/`."""
        if not self:
            return False
        path = os.fsdecode(below)
        name = path.rpartition("/")[2]
        if any(pattern.match(name) for pattern, folders in self._names if folder or not folders):
            return True
        if not self._paths:
            return False
        steps = path.split("/")
        return any(_match(pattern, steps) for pattern, folders in self._paths if folder or not folders)


def _match(pattern: list[re.Pattern[str] | None], steps: list[str]) -> bool:
    # None is `**`. On a mismatch the last one takes one step more: enough, because with more steps for an earlier
    # one there would only be fewer left for the rest.
    at, step, star, resume = 0, 0, -1, 0
    while step < len(steps):
        wanted = pattern[at] if at < len(pattern) else _NEVER
        if wanted is None:
            star, resume = at, step
            at += 1
        elif wanted.match(steps[step]):
            at, step = at + 1, step + 1
        elif star < 0:
            return False
        else:
            resume += 1
            at, step = star + 1, resume
    # A `**` that is left at the end does not count as none: what is below a folder is not the folder itself.
    return at == len(pattern)


def _encoded(given: AnyPath) -> bytes:
    """A given path without `.` and repeated slashes: the same bytes for `a` and `./a/`. `..` stays."""
    if not isinstance(given, (str, bytes, os.PathLike)):
        raise ConfigError(f"paths: not a path: {given!r}", field="paths")
    try:
        path = os.fsencode(given)
    except UnicodeEncodeError:
        # No file can have such a name. What cannot be encoded becomes what no name can hold either.
        path = str(os.fspath(given)).encode("utf-8", "surrogatepass") + b"\0"
    steps = [step for step in path.split(b"/") if step not in (b"", b".")]
    root = b"/" if path.startswith(b"/") else b""
    return root + b"/".join(steps) or (path and b".")


def _place(path: bytes) -> bytes:
    if path.startswith(b"/") or b".." in path.split(b"/"):
        # Nothing above what was named: its own last step is the root of what lies below it.
        return os.path.basename(os.path.abspath(path)) or b"."
    return path or b"."


def _as_prefix(path: bytes) -> bytes:
    return path if path.endswith(b"/") else path + b"/"


def _inside(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(_as_prefix(folder))


def _enter(stack: list[_Folder], path: bytes, place: bytes, below: bytes, real: bytes) -> Iterator[Found]:
    try:
        stack.append(_Folder(path, place, below, real))
    except OSError as error:
        yield _failed(path, place, error)


def _file(path: bytes, place: bytes, status: os.stat_result) -> Found:
    if not stat.S_ISREG(status.st_mode):
        return Found(path, place, reason=Reason.NOT_A_FILE, detail="not a regular file")
    if status.st_size == 0:
        return Found(path, place, reason=Reason.EMPTY, detail="an empty file")
    return Found(path, place, status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino)


def _failed(path: bytes, place: bytes, error: OSError | ValueError) -> Found:
    problem = unusable(error)
    return Found(path, place, reason=problem.reason, detail=problem.detail)
