"""One line per file and model: how much was found, and what stands out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from ..jobs import MODEL_NAMES
from ..predictions import Score, SourceResult

__all__ = ["Finding", "findings"]

_SHOWN = 3


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one model found in one file, or why it found nothing.

    `file`: the path as given. `inside`: the file inside it, for an archive. `predictions`: rows.
    `strongest`: up to three names with their mean score over the rows. `saved`: the predictions file.
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
    """Up to three names with the highest mean score over all rows that carry them."""
    totals: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        for score in row:
            totals[score.name].append(score.score)
    means = [(name, sum(scores) / len(scores)) for name, scores in totals.items()]
    return sorted(means, key=lambda one: -one[1])[:_SHOWN]
