"""From the paths on a command line to the files of one submission."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import SourceError

__all__ = ["find_files"]


def find_files(paths: Sequence[Path]) -> list[Path]:
    """Files as given, and all files below given folders, in order of name. Hidden ones are passed over in folders.

    Raises `SourceError` for a path that does not exist, a folder without files and one that cannot be read.
    """
    found: dict[str, Path] = {}
    for given in paths:
        for path in _inside(given):
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _inside(given: Path) -> list[Path]:
    try:
        if not given.is_dir():
            if given.exists():
                return [given]
            raise SourceError(f"{given}: no such file or folder", path=str(given))
        inside = list(_below(given))
    except SourceError:
        raise
    except OSError as error:
        where = os.fsdecode(error.filename or given)
        raise SourceError(f"{where}: {error.strerror}", path=where) from error
    if not inside:
        raise SourceError(f"{given}: no files in this folder", path=str(given))
    return inside


def _below(folder: Path) -> Iterator[Path]:
    # followlinks=False: a link to a folder above would never end.
    for here, folders, names in os.walk(folder, followlinks=False, onerror=_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(here, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _unreadable(error: OSError) -> None:
    # os.walk would leave the folder out, and nobody would miss its files.
    raise error
