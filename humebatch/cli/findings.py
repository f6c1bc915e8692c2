"""One line per file and model: how much was found, and what stands out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from ..jobs import MODEL_NAMES
from ..predictions import Score, SourceResult

__all__ = ["Finding", "Summary", "findings", "summary"]

_SHOWN = 3


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one model found in one file, or why it found nothing.

    `file`: the path as given. `inside`: the file inside it, for an archive. `predictions`: rows.
    `strongest`: up to three names with their highest score in any row. `saved`: the predictions file.
    """

    order: int
    file: str
    inside: str | None = None
    model: str | None = None
    predictions: int = 0
    strongest: list[tuple[str, float]] = []
    error: str | None = None
    saved: str | None = None


def findings(order: int, file: str, result: SourceResult, saved: Path) -> Iterator[Finding]:
    """The findings of one source, in the order of the answer; errors last."""
    if result.error is not None or result.results is None:
        yield Finding(order=order, file=file, error=result.error or "the server gave no results", saved=str(saved))
        return
    for prediction in result.results.predictions:
        inside = prediction.file if prediction.file != Path(file).name else None
        for model in MODEL_NAMES:
            found = getattr(prediction.models, model)
            if not found:
                continue
            rows = [row for group in found.grouped_predictions for row in group.predictions]
            yield Finding(
                order=order,
                file=file,
                inside=inside,
                model=model,
                predictions=len(rows),
                strongest=strongest(row.emotions for row in rows),
                saved=str(saved),
            )
    for error in result.results.errors:
        inside = error.file if error.file != Path(file).name else None
        yield Finding(order=order, file=file, inside=inside, model=error.model, error=error.message, saved=str(saved))


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
    files: defaultdict[str, list[bool]] = defaultdict(list)
    for finding in found:
        files[finding.file].append(finding.error is None)
    whole = sum(all(outcomes) for outcomes in files.values())
    partly = 0 if named else sum(any(outcomes) and not all(outcomes) for outcomes in files.values())
    return Summary(whole=whole, partly=partly, failed=len(files) - whole - partly)
