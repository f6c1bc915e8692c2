"""Action units and descriptions: which are given, computed from what, and why those.

The blendshape network names its outputs after Apple's ARKit, whose shapes were drawn after Ekman's units, so a unit is
given where a kind of shape is that unit alone, and `Lips Part` from the mesh. Of those, only the ones stayed that a
look at pictures confirmed: of 30 faces each, the 15 that score highest and 15 of the lower half, at least 12 of the
former and at most one of the latter show the unit. `benchmarks/measuring/face.py` counts, `face_units.csv` has the
labels.

Left out although ARKit has a shape for them. The network hardly moves it: AU5 (eyeWide), AU6 (cheekSquint), AU9
(noseSneer), AU14 (mouthDimple), AU15 (mouthFrown), AU22 (mouthFunnel), AU34 (cheekPuff). The faces that score highest
often do not show it: AU4 (browDown, 7 of 15: it takes shadows for frowns), AU18 (mouthPucker, 7: round open mouths),
AU20 (mouthStretch, 2: smiles), AU28 (mouthRoll, 10: pressed lips). It moves in every broad smile: AU10 (mouthUpperUp),
AU16 (mouthLowerDown). The other units and the hands have no shape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np

from .tfjs_weights import Floats

__all__ = [
    "DESCRIPTIONS",
    "FACS_GIVEN",
    "LIPS_PART",
    "SHAPES_OF_DESCRIPTION",
    "SHAPES_OF_UNIT",
    "descriptions",
    "units",
]

_SMILE: Final = ("mouthSmileLeft", "mouthSmileRight")
_CLOSED: Final = ("eyeBlinkLeft", "eyeBlinkRight")
_SQUINT: Final = ("eyeSquintLeft", "eyeSquintRight")
_JAW: Final = ("jawOpen",)

SHAPES_OF_UNIT: Final[Mapping[str, tuple[str, ...]]] = {
    "AU1 Inner Brow Raise": ("browInnerUp",),
    "AU2 Outer Brow Raise": ("browOuterUpLeft", "browOuterUpRight"),
    "AU7 Lids Tight": _SQUINT,
    "AU12 Lip Corner Puller": _SMILE,
    "AU17 Chin Raiser": ("mouthShrugLower",),
    "AU24 Lip Presser": ("mouthPressLeft", "mouthPressRight"),
    "AU26 Jaw Drop": _JAW,
    "AU43 Eye Closure": _CLOSED,
}
"""Action units that a kind of blendshape shows; the score is the mean of the shapes listed."""

SHAPES_OF_DESCRIPTION: Final[Mapping[str, tuple[str, ...]]] = {
    "Eyes closed": _CLOSED,
    "Jaw drop": _JAW,
    "Smile": _SMILE,
    "Squint": _SQUINT,
}
"""Descriptions that say what one of these units says, in a common word."""

LIPS_PART: Final = "AU25 Lips Part"
FACS_GIVEN: Final = (*SHAPES_OF_UNIT, LIPS_PART)
DESCRIPTIONS: Final = tuple(SHAPES_OF_DESCRIPTION)

_LIPS: Final = ((13, 14), (82, 87), (312, 317))  # inner edge of the upper and of the lower lip
_FACE: Final = (10, 152)  # hairline and chin
# Of 76 mouths that were looked at, open ones had gaps of .038 to .125 of the face's height, closed ones .002 to .032.
_GAP, _SOFT = 0.035, 0.007


def units(weights: Mapping[str, float], points: Floats) -> dict[str, float]:
    """Scores 0..1 of `FACS_GIVEN`, from the 52 blendshapes by name and the mesh, float32 (478, 3)."""
    ends = np.linalg.norm(points[_FACE[0]] - points[_FACE[1]])
    gap = float(np.mean([np.linalg.norm(points[upper] - points[lower]) for upper, lower in _LIPS]) / max(ends, 1e-6))
    return {**_means(weights, SHAPES_OF_UNIT), LIPS_PART: 1 / (1 + math.exp((_GAP - gap) / _SOFT))}


def descriptions(weights: Mapping[str, float]) -> dict[str, float]:
    """Scores 0..1 of `DESCRIPTIONS`, from the 52 blendshapes by name."""
    return _means(weights, SHAPES_OF_DESCRIPTION)


def _means(weights: Mapping[str, float], table: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
    return {
        name: min(max(sum(weights[shape] for shape in shapes) / len(shapes), 0.0), 1.0)
        for name, shapes in table.items()
    }
