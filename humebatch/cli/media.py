"""From the paths on a command line to the files to send, and where each one's results will lie."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

import msgspec

from ..errors import ConfigError, SourceError

__all__ = ["FoundFile", "find_files"]


class FoundFile(msgspec.Struct, frozen=True):
    """A file to send, its number, and its place below an output folder: the path as given, less what leads out."""

    order: int
    path: Path
    place: PurePath


def find_files(paths: Sequence[Path], *, out: Path | None = None) -> list[FoundFile]:
    """Files as given, and all files below given folders, in order of name. Hidden ones are passed over in folders.

    So is the folder `out`, or a second run would measure the results of the first.
    Raises `SourceError` for a path that does not exist, a folder without files and one that cannot be read,
    `ConfigError` when `out` is one of the folders.
    """
    skipped = None if out is None else os.path.realpath(out)
    found: dict[str, tuple[Path, PurePath]] = {}
    for given in paths:
        for path in _inside(given, skipped):
            found.setdefault(os.path.realpath(path), (path, _place(given, path)))
    taken: set[PurePath] = set()
    files: list[FoundFile] = []
    for path, wanted in found.values():
        place, number = wanted, 2
        while place in taken:
            place, number = wanted.with_name(f"{wanted.name}~{number}"), number + 1
        taken.add(place)
        files.append(FoundFile(order=len(files), path=path, place=place))
    return files


def _inside(given: Path, skipped: str | None) -> list[Path]:
    try:
        if not given.is_dir():
            if given.exists():
                return [given]
            raise SourceError(f"{given}: no such file or folder", path=str(given))
        if os.path.realpath(given) == skipped:
            raise ConfigError(f"--out: {given} is a folder to measure; give another one for the results", field="out")
        inside = list(_below(given, skipped))
    except SourceError:
        raise
    except OSError as error:
        where = os.fsdecode(error.filename or given)
        raise SourceError(f"{where}: {error.strerror}", path=where) from error
    if not inside:
        raise SourceError(f"{given}: no files in this folder", path=str(given))
    return inside


def _below(folder: Path, skipped: str | None) -> Iterator[Path]:
    # followlinks=False: a link to a folder above would never end.
    for here, folders, names in os.walk(folder, followlinks=False, onerror=_unreadable):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(here, name)) != skipped
        )
        for name in sorted(names):
            path = Path(here, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _unreadable(error: OSError) -> None:
    # os.walk would leave the folder out, and nobody would miss its files.
    raise error


def _place(given: Path, path: Path) -> PurePath:
    if given.is_absolute() or ".." in given.parts:
        # Nothing above what was named: its own last step is the root of what lies below it.
        return PurePath(Path(os.path.abspath(given)).name, path.relative_to(given))
    return PurePath(os.path.normpath(path))
