"""What the geometry of a mesh of 478 points says about the expression, without the picture.

A linear head (`weights/facemesh_head.npz`, trained by `benchmarks/facemesh_head.py`) reads the places of the points
and the blendshapes computed from them, and says what the expression network of the face measurer would say of the
picture: its seven classes, of which five have a name in the vocabulary.
"""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Mapping
from typing import Final

import numpy as np

from .face_expression import EXPRESSIONS
from .face_mesh import POINTS, BlendshapeReader
from .tfjs_weights import Floats

__all__ = ["HEAD", "MeshReader", "features", "squared"]

HEAD: Final = "facemesh_head.npz"

_EYES: Final = ((33, 133), (263, 362))  # corners of the right and of the left eye
_IRISES: Final = ((469, 471, 470, 472), (474, 476, 475, 477))  # sides, then top and bottom, of both
# Irises are round, but the mesh draws them a little flat: this high to 1 wide in the middle of 2,900 photographs, and
# in 98 of 100 between .75 and 1.21. What is further off was squeezed: coordinates that run from 0 to 1 both ways.
_IRIS: Final = 0.884
_SQUEEZED: Final = 1.25


class MeshReader:
    """The head, and the blendshape network that it needs."""

    def __init__(self, blendshapes: BlendshapeReader) -> None:
        self._blendshapes = blendshapes
        stored = importlib.resources.files("humebatch.server.measure").joinpath("weights", HEAD)
        with stored.open("rb") as file, np.load(file) as head:
            self._weights: Floats = head["weights"].astype(np.float32)
            self._bias: Floats = head["bias"].astype(np.float32)

    def read(self, points: Floats) -> Mapping[str, float]:
        """How likely each of `EXPRESSIONS` is; the seven add up to 1. `points`: float32 (478, 2 or 3), y down."""
        logits = features(points, self._blendshapes) @ self._weights + self._bias
        likelihoods = np.exp(logits - logits.max())
        likelihoods /= likelihoods.sum()
        return {name: float(value) for name, value in zip(EXPRESSIONS, likelihoods, strict=True)}


def features(points: Floats, blendshapes: BlendshapeReader) -> Floats:
    """What the head reads, float32 (1008,): the points with the eyes level, centred and scaled, and 52 blendshapes."""
    square = squared(points)
    right, left = (square[list(corners)].mean(axis=0) for corners in _EYES)
    tilt = math.atan2(left[1] - right[1], left[0] - right[0])
    turn = np.array([[math.cos(tilt), -math.sin(tilt)], [math.sin(tilt), math.cos(tilt)]], np.float32)
    level = (square - square.mean(axis=0)) @ turn
    size = float(np.sqrt((level**2).sum(axis=1).mean())) or 1.0
    weights = np.sqrt(np.clip(blendshapes.read(square), 0, None))
    return np.concatenate([(level / size).ravel(), weights]).astype(np.float32)


def squared(points: Floats) -> Floats:
    """The points' x and y with a unit as long down as to the right, float32 (478, 2), judged by the irises."""
    flat = np.asarray(points[:POINTS, :2], np.float32)
    wide = high = 0.0
    for right, left, top, bottom in _IRISES:
        wide += float(np.linalg.norm(flat[left] - flat[right]))
        high += float(np.linalg.norm(flat[bottom] - flat[top]))
    stretch = high / wide / _IRIS if wide and high else 1.0
    if 1 / _SQUEEZED <= stretch <= _SQUEEZED:
        return flat
    return flat * np.array([stretch, 1.0], np.float32)
