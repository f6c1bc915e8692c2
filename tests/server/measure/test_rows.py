"""Rows on their way to disk."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from humebatch.predictions import ModelPredictions, ProsodyPrediction, Score, Scores, TimeInterval
from humebatch.server.measure.rows import RowFile
from humebatch.vocabulary import EMOTIONS


def written(folder: Path, names: list[str]) -> tuple[list[str], bool]:
    """The names of a row as a server with `--unmeasured zero` writes them, and whether it filled some in."""
    rows = RowFile(folder, "prosody", "zero")
    rows.add("unknown", ProsodyPrediction(TimeInterval(0, 1), Scores(Score(name, 0.5) for name in names)))
    found = msgspec.json.decode(rows.finish(None).read_bytes(), type=ModelPredictions[ProsodyPrediction])
    (group,) = found.grouped_predictions
    return [one.name for one in group.predictions[0].emotions], rows.filled


@pytest.mark.parametrize(
    ("names", "filled"), [(list(reversed(EMOTIONS)), False), (list(EMOTIONS[5:0:-1]), True), ([], True)]
)
def test_full_lists_are_in_the_order_of_the_service(names: list[str], filled: bool, tmp_path: Path) -> None:
    assert written(tmp_path, names) == (list(EMOTIONS), filled)
