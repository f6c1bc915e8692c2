"""The facemesh measurer: expressions from the 478 landmarks of a face, where there is no picture any more.

What it gives is what the face measurer would have said of the picture, as far as geometry tells: `mesh_expression`.
The figures of its card say how far that is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Final

from ...predictions import FacemeshPrediction, Score, Scores
from ...vocabulary import EMOTIONS
from . import Card, Finding, Row, Unmeasurable, carried
from .face_card import MESH_CARD
from .face_expression import EMOTION_OF_EXPRESSION
from .face_mesh import BlendshapeReader
from .landmarks import meshes
from .mesh_expression import MeshReader
from .recording import Recording

__all__ = ["CARD", "MAX_BYTES", "FacemeshMeasurer", "measurer"]

CARD: Final = MESH_CARD

MAX_BYTES: Final = 100 * 2**20
"""Largest file of landmarks that is read: some 4,000 faces."""


class FacemeshMeasurer:
    """Measures meshes in JSON files. Raises `Unmeasurable` when the weights are not on this machine."""

    model: str = "facemesh"
    card: Card = CARD

    def __init__(self) -> None:
        self._reader = MeshReader(BlendshapeReader(carried.find("face_landmarker.task")))

    def measure(self, recording: Recording, _config: Any, /) -> Iterator[Finding]:
        """One row for each face of the file, in its order, all in the group `unknown`.

        Raises `Unmeasurable` for what `landmarks.meshes` does not read, after the rows of the faces before it.
        """
        path = recording.media.path
        if os.path.getsize(path) > MAX_BYTES:
            raise Unmeasurable(f"the file of landmarks is too large: more than {MAX_BYTES:,} bytes")
        with open(path, "rb") as file:
            content = file.read()
        for points in meshes(content):
            expressions = self._reader.read(points)
            emotions = {emotion: expressions[expression] for expression, emotion in EMOTION_OF_EXPRESSION.items()}
            scores = Scores(Score(name, emotions[name]) for name in EMOTIONS if name in emotions)
            yield Row("unknown", FacemeshPrediction(emotions=scores))


def measurer(model: str) -> FacemeshMeasurer:
    """The measurer of `facemesh`, the only model of this module. Raises `Unmeasurable` without its weights."""
    if model != "facemesh":
        raise Unmeasurable(f"{model} is not measured by the facemesh measurer")
    return FacemeshMeasurer()
