"""Where faces are in a picture, and how their features move: Google's face landmarker, run by LiteRT.

`face_landmarker.task` (Apache-2.0) is a ZIP of three networks, described in MediaPipe's model cards
"BlazeFace (short-range)", "Face Mesh V2" and "Blendshape V2": a detector that looks at 128x128 pixels,
a mesh of 478 points on 256x256 pixels that also says whether it looks at a face at all, and 52
blendshape weights computed from 146 of the points. The short-range detector misses faces smaller than
about a sixth of what it looks at, so windows slide over the picture at growing resolution.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

# The wheel carries no type information.
from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]
from PIL import Image

from . import device

__all__ = [
    "BLENDSHAPES",
    "POINTS",
    "SAME_FACE",
    "BlendshapeReader",
    "FaceFinder",
    "FoundFace",
    "cut_out",
    "least_at",
    "overlap",
]

Floats = npt.NDArray[np.float32]

# Output order of face_blendshapes.tflite: the ARKit names, alphabetical but for the tongue, which it lacks.
BLENDSHAPES: Final[tuple[str, ...]] = (
    "_neutral", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff",
    "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight",
    "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight",
    "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen",
    "jawRight", "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight",
    "mouthFunnel", "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight",
    "mouthPucker", "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
    "mouthSmileLeft", "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft",
    "mouthUpperUpRight", "noseSneerLeft", "noseSneerRight",
)  # fmt: skip

# Which of the 478 points face_blendshapes.tflite reads, in its order (MediaPipe's face_blendshapes_graph.cc).
_BLENDSHAPE_POINTS: Final = (
    0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52, 53, 54, 55, 58, 61, 63, 65, 66, 67, 70, 78, 80,
    81, 82, 84, 87, 88, 91, 93, 95, 103, 105, 107, 109, 127, 132, 133, 136, 144, 145, 146, 148, 149, 150, 152, 153,
    154, 155, 157, 158, 159, 160, 161, 162, 163, 168, 172, 173, 176, 178, 181, 185, 191, 195, 197, 234, 246, 249,
    251, 263, 267, 269, 270, 276, 282, 283, 284, 285, 288, 291, 293, 295, 296, 297, 300, 308, 310, 311, 312, 314,
    317, 318, 321, 323, 324, 332, 334, 336, 338, 356, 361, 362, 365, 373, 374, 375, 377, 378, 379, 380, 381, 382,
    384, 385, 386, 387, 388, 389, 390, 397, 398, 400, 402, 405, 409, 415, 454, 466, 468, 469, 470, 471, 472, 473,
    474, 475, 476, 477,
)  # fmt: skip

POINTS: Final = 478  # of one mesh, with irises
_RIGHT_EYE_OUTER, _LEFT_EYE_OUTER = 33, 263  # of the mesh; the person's own right and left

_WINDOW = 128  # what the detector looks at, pixels
_LEAST_FACE = 24  # pixels of the window: smaller faces are not found reliably
_COARSER = 1.6  # from one level to the next: what is cut in two by a window's edge here fits in a window there
_STRIDE = 88  # windows overlap by 40 pixels: more than a face that the next coarser level is too coarse for
# Long side at the coarsest level: of 682 photographs that a face fills to the edges the detector found almost none at
# 128 pixels, and 98 in 100 with a margin around them.
_COARSEST = 80
_FINEST = 1024  # long side at the finest level, pixels: bounds the windows of one picture to about 250
# Detector score from which the mesh has a look. On 15 photographs, faces had .83 to .98. Below .7 lay only
# things that are none, and the mesh believed in two of those (a spoon, a cloud) with a presence above .99.
_CANDIDATE = 0.7
_MOST_CANDIDATES = 100  # about 20 ms each
SAME_FACE = 0.4  # overlap from which two candidates are one face
_MESH_SIDE = 256
_MESH_MARGIN = 1.5  # side of the mesh's crop over the face's; MediaPipe's value


class FoundFace(msgspec.Struct, frozen=True):
    """One face, in pixels of the picture that was searched.

    `points`: float32 (478, 3); x to the right, y down, z away from the camera, all in pixels.
    `presence`: 0..1, the mesh network's own word on whether it looks at a face.
    `score`: 0..1, the detector's score of the window it was found in.
    """

    points: Floats
    presence: float
    score: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The upright rectangle around the points, from forehead to chin: left, top, right, bottom."""
        left, top = self.points[:, :2].min(axis=0)
        right, bottom = self.points[:, :2].max(axis=0)
        return float(left), float(top), float(right), float(bottom)


def overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    """Shared area over the smaller one's area, 0..1; boxes are left, top, right, bottom."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return max(width, 0.0) * max(height, 0.0) / smaller if smaller > 0 else 0.0


class BlendshapeReader:
    """The blendshape network of one `face_landmarker.task`, loaded alone. Raises what `FaceFinder` raises."""

    def __init__(self, task: str | os.PathLike[str]) -> None:
        with zipfile.ZipFile(task) as networks:
            self._network = _Network(networks.read("face_blendshapes.tflite"))

    def read(self, points: Floats) -> Floats:
        """The weights of a mesh, float32 (478, 2 or 3), in the order of `BLENDSHAPES`.

        Where the face is and how large does not matter, but a unit has to be as long down as to the right.
        """
        (weights,) = self._network(points[None, _BLENDSHAPE_POINTS, :2])
        return weights.ravel()


class FaceFinder:
    """The three networks of one `face_landmarker.task`, loaded. Not for concurrent use.

    Raises `OSError`, `KeyError` or `ValueError` when the file is not that ZIP; its hash is checked where it is found.
    """

    def __init__(self, task: str | os.PathLike[str]) -> None:
        with zipfile.ZipFile(task) as networks:
            self._detector = _Network(networks.read("face_detector.tflite"))
            self._mesh = _Network(networks.read("face_landmarks_detector.tflite"))
        self._blendshapes = BlendshapeReader(task)

    def faces(self, picture: Image.Image, least: float = 0.0, known: Sequence[FoundFace] = ()) -> list[FoundFace]:
        """The faces of an RGB picture, one each, most present first.

        `least` is the smallest face side of interest in pixels: the search stops at the resolution that
        shows such faces well enough, so smaller ones may or may not be among the result. `known`: faces of an
        earlier picture, whose places are looked at in any case.
        """
        candidates = [*self._candidates(picture, least), *(_again(face) for face in known)]
        candidates.sort(key=lambda found: -found.score)
        windows: list[_Candidate] = []
        for candidate in candidates:
            if len(windows) < _MOST_CANDIDATES and not any(
                overlap(candidate.box, other.box) > SAME_FACE for other in windows
            ):
                windows.append(candidate)
        # The mesh moves every box onto the face it sees: two candidates may turn out to be one face after all.
        faces: list[FoundFace] = []
        for face in sorted((self._fit(picture, window) for window in windows), key=lambda face: -face.presence):
            if not any(overlap(face.box, other.box) > SAME_FACE for other in faces):
                faces.append(face)
        return faces

    def blendshapes(self, face: FoundFace) -> dict[str, float]:
        """The 52 blendshape weights (0 at rest, 1 fully moved) by their names in `BLENDSHAPES`."""
        weights = self._blendshapes.read(face.points)
        return {name: float(weight) for name, weight in zip(BLENDSHAPES, weights, strict=True)}

    def _candidates(self, picture: Image.Image, least: float) -> Iterator[_Candidate]:
        long_side = max(picture.size)
        level = max(_WINDOW, min(_FINEST, long_side, _LEAST_FACE * long_side / max(least, 1.0)))
        small = picture
        while True:
            scale = level / long_side
            # From the level before, as most of the work lies in the large picture.
            small = small.resize(
                (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))),
                Image.Resampling.BILINEAR,
                reducing_gap=3.0,
            )
            for top in _starts(small.height):
                for left in _starts(small.width):
                    yield from self._look(small, left, top, scale)
            if level <= _COARSEST:
                return
            level = max(_COARSEST, level / _COARSER)

    def _look(self, small: Image.Image, left: int, top: int, scale: float) -> Iterator[_Candidate]:
        """What the detector sees in the window at (`left`, `top`) of a picture shrunk by `scale`."""
        window = small.crop((left, top, left + _WINDOW, top + _WINDOW))  # black where it reaches over the edge
        boxes, logits = self._detector(np.asarray(window, np.float32)[None] / 127.5 - 1)
        scores = _sigmoid(logits[0, :, 0])
        for number in np.flatnonzero(scores > _CANDIDATE):
            # Four numbers of the box, then six key points, of which the first two are the eyes; all of them
            # relative to the anchor, in pixels of the window.
            values = boxes[0, number].reshape(8, 2).astype(float)
            values[[0, 2, 3, 4, 5, 6, 7]] += _ANCHORS[number] * _WINDOW
            values[[0, 2, 3, 4, 5, 6, 7]] += (left, top)
            (x, y), (width, height), right_eye, left_eye, *_ = values / scale
            yield _Candidate(
                box=(x - width / 2, y - height / 2, x + width / 2, y + height / 2),
                tilt=math.atan2(left_eye[1] - right_eye[1], left_eye[0] - right_eye[0]),
                score=float(scores[number]),
            )

    def _fit(self, picture: Image.Image, candidate: _Candidate) -> FoundFace:
        """Lay the mesh on a candidate. Twice: the first result knows better than the detector where the face is."""
        left, top, right, bottom = candidate.box
        x, y, tilt = (left + right) / 2, (top + bottom) / 2, candidate.tilt
        side = max(right - left, bottom - top) * _MESH_MARGIN
        points, presence = self._lay_mesh(picture, x, y, side, tilt)
        across = points[_LEFT_EYE_OUTER, :2] - points[_RIGHT_EYE_OUTER, :2]
        tilt = math.atan2(across[1], across[0])
        upright = points[:, :2] @ np.array(
            [[math.cos(tilt), -math.sin(tilt)], [math.sin(tilt), math.cos(tilt)]], np.float32
        )
        low, high = upright.min(axis=0), upright.max(axis=0)
        middle = (low + high) / 2
        x = float(middle[0] * math.cos(tilt) - middle[1] * math.sin(tilt))
        y = float(middle[0] * math.sin(tilt) + middle[1] * math.cos(tilt))
        side = float((high - low).max()) * _MESH_MARGIN
        if side >= 1.0:
            points, presence = self._lay_mesh(picture, x, y, side, tilt)
        return FoundFace(points=points, presence=presence, score=candidate.score)

    def _lay_mesh(self, picture: Image.Image, x: float, y: float, side: float, tilt: float) -> tuple[Floats, float]:
        crop = cut_out(picture, x, y, side, tilt, _MESH_SIDE)
        mesh, presence, _tongue = self._mesh(np.asarray(crop, np.float32)[None] / 255)
        pixels = side / _MESH_SIDE
        own = (mesh.reshape(POINTS, 3) - (_MESH_SIDE / 2, _MESH_SIDE / 2, 0)) * pixels
        points = np.empty((POINTS, 3), np.float32)
        points[:, 0] = own[:, 0] * math.cos(tilt) - own[:, 1] * math.sin(tilt) + x
        points[:, 1] = own[:, 0] * math.sin(tilt) + own[:, 1] * math.cos(tilt) + y
        points[:, 2] = own[:, 2]
        return points, float(_sigmoid(presence).ravel()[0])


def cut_out(picture: Image.Image, x: float, y: float, side: float, tilt: float, size: int) -> Image.Image:
    """The square around (`x`, `y`) with `side` pixels and turned by `tilt` radians, as `size` x `size` pixels.

    Black where it reaches over the picture's edge.
    """
    along, down = math.cos(tilt) * side / size, math.sin(tilt) * side / size
    half = size / 2
    matrix = (along, -down, x - half * along + half * down, down, along, y - half * down - half * along)
    return picture.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


class _Candidate(msgspec.Struct, frozen=True):
    """A place that may be a face: left, top, right, bottom in pixels of the picture; tilt in radians."""

    box: tuple[float, float, float, float]
    tilt: float
    score: float


def least_at(level: float, picture: Image.Image) -> float:
    """The smallest face side, pixels, that is found for sure with the long side of `picture` at `level` pixels."""
    return _LEAST_FACE * max(picture.size) / level


def _again(face: FoundFace) -> _Candidate:
    across = face.points[_LEFT_EYE_OUTER, :2] - face.points[_RIGHT_EYE_OUTER, :2]
    return _Candidate(box=face.box, tilt=math.atan2(across[1], across[0]), score=face.score)


class _Network:
    """One LiteRT graph with one input; called with it, returns all outputs in the graph's order."""

    def __init__(self, graph: bytes) -> None:
        self._graph: Any = Interpreter(model_content=graph, num_threads=device.threads())
        self._graph.allocate_tensors()
        self._input: int = self._graph.get_input_details()[0]["index"]
        self._outputs: list[int] = [output["index"] for output in self._graph.get_output_details()]

    def __call__(self, values: npt.NDArray[Any]) -> list[Floats]:
        self._graph.set_tensor(self._input, values.astype(np.float32))
        self._graph.invoke()
        return [self._graph.get_tensor(output) for output in self._outputs]


def _sigmoid(logits: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -80, 80))), np.float32)


def _starts(length: int) -> list[int]:
    """Where windows begin along a side of `length` pixels: evenly, the last one ending at the edge.

    A shorter side lies in the middle of its one window.
    """
    beyond = length - _WINDOW
    if beyond <= 0:
        return [beyond // 2]
    count = math.ceil(beyond / _STRIDE) + 1
    return [round(beyond * number / (count - 1)) for number in range(count)]


def _anchors() -> Floats:
    """Centres the detector's boxes are relative to, float32 (896, 2) in 0..1: 2 per cell of 16x16, then 6 of 8x8."""
    centres = [
        ((column + 0.5) / cells, (row + 0.5) / cells)
        for cells, per_cell in ((16, 2), (8, 6))
        for row in range(cells)
        for column in range(cells)
        for _ in range(per_cell)
    ]
    return np.array(centres, np.float32)


_ANCHORS: Final = _anchors()
