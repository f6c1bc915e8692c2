"""From the paths on a command line to the files to send, and where each one's results will lie."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

import msgspec

from ..errors import SourceError

__all__ = ["FoundFile", "find_files"]


class FoundFile(msgspec.Struct, frozen=True):
    """A file to send, and its place below an output folder: the path as given, without what leads out of it."""

    path: Path
    place: PurePath


def find_files(paths: Sequence[Path]) -> list[FoundFile]:
    """Files as given, and all files below given folders, in order of name. Hidden ones are passed over in folders.

    Raises `SourceError` for a path that does not exist and for a folder without files.
    """
    found: dict[str, FoundFile] = {}
    for given in paths:
        if given.is_dir():
            inside = list(_below(given))
            if not inside:
                raise SourceError(f"{given}: no files in this folder", path=str(given))
        elif given.exists():
            inside = [given]
        else:
            raise SourceError(f"{given}: no such file or folder", path=str(given))
        for path in inside:
            found.setdefault(os.path.realpath(path), FoundFile(path=path, place=_place(given, path)))
    taken: set[PurePath] = set()
    files: list[FoundFile] = []
    for file in found.values():
        place, number = file.place, 2
        while place in taken:
            place, number = file.place.with_name(f"{file.place.name}~{number}"), number + 1
        taken.add(place)
        files.append(FoundFile(path=file.path, place=place))
    return files


def _below(folder: Path) -> Iterator[Path]:
    # followlinks=False: a link to a folder above would never end.
    for here, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(here, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _place(given: Path, path: Path) -> PurePath:
    if given.is_absolute() or ".." in given.parts:
        # Nothing above what was named: its own last step is the root of what lies below it.
        return PurePath(Path(os.path.abspath(given)).name, path.relative_to(given))
    return PurePath(os.path.normpath(path))
