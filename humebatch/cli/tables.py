"""`humebatch tables`: saved predictions and artifact ZIPs in, Parquet datasets or CSV files out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from .interrupt import in_thread
from .options import AsJson
from .output import emit, printable, say

__all__ = ["tables"]

_SAVED = ("predictions.json", "predictions.json.gz")


class _Format(StrEnum):
    PARQUET = "parquet"
    CSV = "csv"


async def tables(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH",
            help="Saved predictions (JSON, also .gz) and artifact ZIPs; folders are searched for predictions.json.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new or an empty folder.")],
    to: Annotated[_Format, typer.Option("--to", help="What to write.")] = _Format.PARQUET,
    as_json: AsJson = False,
) -> int:
    """Write saved predictions as tables: a Parquet dataset per model, or the CSV files of an artifacts ZIP."""
    try:
        from ..tables.merging import merge
    except ModuleNotFoundError as error:
        if error.name not in ("numpy", "pyarrow"):
            raise
        raise ConfigError("tables needs its extra: pip install 'humebatch[tables]'") from error

    def make(check: Callable[[], None]) -> int:
        found, bad = _find(paths)
        written, unreadable, errors = merge(found, out, to.value, check)
        for path in written:
            if as_json:
                emit({"path": printable(path)})
            else:
                # As bytes: what reads this opens the file, whatever its name is made of.
                typer.echo(os.fsencode(path))
        for given, why in [*bad.items(), *((path, str(error)) for path, error in unreadable.items())]:
            say(why if why.startswith(f"{given}:") else f"{given}: {why}")
        if errors:
            say(f"CSV has no place for the errors in these answers ({errors}); --to parquet has")
        done = len(found) - len(unreadable)
        say(f"{done} of {done + len(bad) + len(unreadable)} inputs, {len(written)} files in {out}")
        if not found:  # a slip of whoever typed the command; what is broken is not
            return 2
        return 1 if bad or unreadable else 0

    return await in_thread(make)


def _find(paths: Sequence[Path]) -> tuple[list[Path], dict[Path, str]]:
    """Files as given, and those in folders, each once; and what is wrong with the others."""
    found: dict[str, Path] = {}
    bad: dict[Path, str] = {}
    for given in paths:
        try:
            inside = sorted(_below(given)) if given.is_dir() else [given]
        except OSError as error:
            bad[given] = f"{os.fsdecode(error.filename)}: {error.strerror}"
            continue
        if not given.exists():
            bad[given] = "no such file or folder"
            continue
        if not inside:
            bad[given] = f"no {' or '.join(_SAVED)} in this folder or below"
        for path in inside:
            found.setdefault(os.path.realpath(path), path)
    return list(found.values()), bad


def _below(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(here, name) for name in names if name in _SAVED)


def _unreadable(error: OSError) -> None:
    # os.walk would pass over the folder, and nobody would miss what is in it.
    raise error
