"""One line per file and model: how much was found, and what stands out."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import msgspec

from ..predictions import PredictionsReader, SourceReader, read
from .output import printable

__all__ = ["Finding", "Tally", "failure", "findings"]

_STRONGEST = 3
# Above this an answer is not loaded, but mapped from a copy.
_LOADED = 16 * 1024 * 1024


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one model found in one file, or why it found nothing.

    `file`: the path as given. `inside`: the file inside it, for an archive. `predictions`: rows. `strongest`: up to
    three names with their highest score in any row. `state`, `reason`: of a file that is FAILED or PARKED. `saved`:
    the predictions file. What is no valid Unicode in names is replaced.
    """

    file: str
    inside: str | None = None
    model: str | None = None
    predictions: int = 0
    strongest: list[tuple[str, float]] = []
    error: str | None = None
    state: str | None = None
    reason: str | None = None
    saved: str | None = None


def failure(path: str, error: Exception | None) -> Finding:
    """The finding of a file that never got to be measured, or whose results cannot be read."""
    said = printable(str(error))
    return Finding(
        file=printable(path),
        # The message begins with the path, which stands beside it here.
        error=said.removeprefix(f"{printable(path)}: "),
        state=getattr(error, "state", None),
        reason=getattr(error, "reason", None),
    )


def findings(path: str, saved: str, *, shown: str) -> list[Finding]:
    """The findings of a file, at least one, in the order of its saved answer; errors last. Blocks.

    Raises `DecodeError` and `SourceError` for an answer that cannot be read.
    """
    found: list[Finding] = []
    with _opened(saved) as sources:
        for source in sources:
            found += _of(source, Finding(file=printable(path), saved=printable(shown)), os.path.basename(path))
    silent = "the server found nothing in it to measure, and no error either: an empty archive?"
    return found or [Finding(file=printable(path), saved=printable(shown), error=silent)]


def _opened(saved: str) -> PredictionsReader:
    if os.path.getsize(saved) > _LOADED:
        return read(saved)
    with open(saved, "rb") as file:
        return PredictionsReader(file.read(), file=saved)


def _of(source: SourceReader, about: Finding, name: str) -> list[Finding]:
    change = msgspec.structs.replace
    if source.error is not None:
        return [change(about, error=source.error)]
    itself = printable(name)
    found: list[Finding] = []
    for file in source:
        for model in file.present:
            count, strongest = _peaks(file.rows(model))
            inside = None if file.file == itself else file.file
            found.append(change(about, inside=inside, model=model, predictions=count, strongest=strongest))
    found += [
        change(about, inside=None if error.file == itself else error.file, model=error.model, error=error.message)
        for error in source.errors
    ]
    return found


def _peaks(rows: Iterable[tuple[str, Any]]) -> tuple[int, list[tuple[str, float]]]:
    """How many rows, and up to three names with their highest score in any: a mean hides what is said once."""
    count = 0
    peaks: dict[str, float] = {}
    for count, (_, row) in enumerate(rows, 1):  # noqa: B007 - the last one is the number of rows
        for score in row.emotions:
            peaks[score.name] = max(score.score, peaks.get(score.name, score.score))
    return count, sorted(peaks.items(), key=lambda one: -one[1])[:_STRONGEST]


class Tally:
    """Counts files by what came of them: measured by all their models (`whole`), by some (`partly`), by none.

    Where the caller `named` the models, one of them missing fails the file. Where all models run because none was
    named, a model that this server has no weights for does not.
    """

    def __init__(self, *, named: bool) -> None:
        self._named = named
        self.count = self.whole = self.partly = self.failed = 0

    def take(self, found: list[Finding]) -> bool:
        """Count one file by its findings; returns whether it failed."""
        self.count += 1
        good = [finding.error is None for finding in found]
        if all(good):
            self.whole += 1
        elif any(good) and not self._named:
            self.partly += 1
        else:
            self.failed += 1
            return True
        return False
