"""One line per file and model: how much was found, and what stands out."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import msgspec

from .._wire.multipart import quote_name
from ..jobs import MODEL_NAMES
from ..predictions import Score, SourceResult
from .media import FoundFile
from .output import printable

__all__ = ["Finding", "Summary", "failure", "findings", "summary"]

_SHOWN = 3


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one model found in one file, or why it found nothing.

    `order`: the file's number. `file`: the path as given. `inside`: the file inside it, for an archive.
    `predictions`: rows. `strongest`: up to three names with their highest score in any row. `saved`: the
    predictions file. What is no valid Unicode in names is replaced.
    """

    order: int
    file: str
    inside: str | None = None
    model: str | None = None
    predictions: int = 0
    strongest: list[tuple[str, float]] = []
    error: str | None = None
    saved: str | None = None


def failure(file: FoundFile, error: Exception) -> Finding:
    """The finding of a file that never got to be measured, or whose results did not arrive."""
    return Finding(order=file.order, file=printable(file.path), error=printable(str(error)))


def findings(file: FoundFile, result: SourceResult, saved: Path) -> list[Finding]:
    """The findings of one source, at least one, in the order of the answer; errors last."""
    about = functools.partial(Finding, order=file.order, file=printable(file.path), saved=printable(saved))
    if result.error is not None or result.results is None:
        return [about(error=result.error or "the server gave no results")]
    # The server calls a file that is no archive by its name as it went over the wire.
    itself = (file.path.name, quote_name(file.path.name))
    found: list[Finding] = []
    for prediction in result.results.predictions:
        for model in MODEL_NAMES:
            measured = getattr(prediction.models, model)
            if not measured:
                continue
            rows = [row for group in measured.grouped_predictions for row in group.predictions]
            found.append(
                about(
                    inside=None if prediction.file in itself else prediction.file,
                    model=model,
                    predictions=len(rows),
                    strongest=strongest(row.emotions for row in rows),
                )
            )
    found += [
        about(inside=None if error.file in itself else error.file, model=error.model, error=error.message)
        for error in result.results.errors
    ]
    return found or [about(error="the server found nothing in it to measure, and no error either: an empty archive?")]


def strongest(rows: Iterable[list[Score]]) -> list[tuple[str, float]]:
    """Up to three names with their highest score in any row: a mean would hide what a long file says once."""
    peaks: dict[str, float] = {}
    for row in rows:
        for score in row:
            peaks[score.name] = max(score.score, peaks.get(score.name, score.score))
    return sorted(peaks.items(), key=lambda one: -one[1])[:_SHOWN]


class Summary(msgspec.Struct, frozen=True):
    """How many files were measured by all their models, by some, and by none."""

    whole: int
    partly: int
    failed: int


def summary(found: Iterable[Finding], *, named: bool) -> Summary:
    """Count files by what came of them.

    Where the caller `named` the models, one of them missing fails the file. Where all models run
    because none was named, a model that this server has no weights for does not.
    """
    # By number: two names may look the same once what cannot be shown is replaced.
    files: defaultdict[int, list[bool]] = defaultdict(list)
    for finding in found:
        files[finding.order].append(finding.error is None)
    whole = sum(all(outcomes) for outcomes in files.values())
    partly = 0 if named else sum(any(outcomes) and not all(outcomes) for outcomes in files.values())
    return Summary(whole=whole, partly=partly, failed=len(files) - whole - partly)
