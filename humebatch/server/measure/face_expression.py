"""Which of seven expressions a face shows: face-api.js's expression network, in plain numpy.

The weights (`weights/face_expression_model.*`, MIT, from npm `@vladmandic/face-api` 1.7.15) are 330 KB,
and the network is so small that numpy runs it in about 10 ms; nothing else is needed for it. Layers and
normalisation follow `FaceFeatureExtractor.ts` and `denseBlock.ts` of that package. What it was trained on
was never published, so nothing is known of how it does on faces unlike those of its makers.
"""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from PIL import Image

from .face_mesh import FoundFace, cut_out
from .tfjs_weights import Floats, unpack

__all__ = ["EMOTION_OF_EXPRESSION", "EXPRESSIONS", "ExpressionReader"]

EXPRESSIONS: Final = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")

EMOTION_OF_EXPRESSION: Final[Mapping[str, str]] = {
    "angry": "Anger",
    "disgusted": "Disgust",
    "fearful": "Fear",
    "happy": "Joy",
    "sad": "Sadness",
}
"""The vocabulary's name for each expression that has exactly one."""

_SIDE = 112
_MARGIN = 1.15  # side of the crop over the face's
_MEAN_RGB: Final = np.array([122.782, 117.001, 104.298], np.float32)
_EYES: Final = ((33, 133), (263, 362))  # corners of the right and of the left eye in the mesh
_SERIAL_PRODUCT = 200_000  # multiplications; OpenBLAS, numpy's usual library, starts threads above 262,144
_MODEL = "face_expression_model"


class ExpressionReader:
    """The expression network, loaded from the package's own files."""

    def __init__(self) -> None:
        folder = importlib.resources.files("humebatch.server.measure").joinpath("weights")
        self._weights = unpack(
            folder.joinpath(f"{_MODEL}-weights_manifest.json").read_bytes(),
            folder.joinpath(f"{_MODEL}.bin").read_bytes(),
        )

    def read(self, picture: Image.Image, face: FoundFace) -> dict[str, float]:
        """How likely each of `EXPRESSIONS` is for a face of this RGB picture; the seven add up to 1."""
        values: Floats = (np.asarray(_upright(picture, face), np.float32) - _MEAN_RGB) / np.float32(255)
        for number in range(4):
            values = self._block(values, f"dense{number}", first=number == 0)
        logits = values.mean(axis=(0, 1)) @ self._weights["fc/weights"] + self._weights["fc/bias"]
        likelihoods = np.exp(logits - logits.max())
        likelihoods /= likelihoods.sum()
        return {name: float(value) for name, value in zip(EXPRESSIONS, likelihoods, strict=True)}

    def _block(self, values: Floats, name: str, *, first: bool) -> Floats:
        """Four convolutions, each adding to the sum of those before it; the first halves both sides."""
        begun = self._full(values, f"{name}/conv0") if first else self._separable(values, f"{name}/conv0", stride=2)
        total = seen = np.maximum(begun, 0)
        for number in (1, 2, 3):
            total = total + self._separable(seen, f"{name}/conv{number}", stride=1)
            seen = np.maximum(total, 0)
        return seen

    def _full(self, values: Floats, name: str) -> Floats:
        filters, bias = self._weights[f"{name}/filters"], self._weights[f"{name}/bias"]
        patches = _patches(values, stride=2)
        height, width = patches.shape[:2]
        inputs = patches.transpose(0, 1, 3, 4, 2).reshape(height, width, -1)  # as the filters' first three axes lie
        return _mixed(inputs, filters.reshape(-1, filters.shape[3])) + bias

    def _separable(self, values: Floats, name: str, *, stride: int) -> Floats:
        """Each channel convolved on its own, then the channels mixed."""
        weights = self._weights
        each = np.einsum("hwcij,ijc->hwc", _patches(values, stride), weights[f"{name}/depthwise_filter"][..., 0])
        return _mixed(each, weights[f"{name}/pointwise_filter"][0, 0]) + weights[f"{name}/bias"]


def _patches(values: Floats, stride: int) -> Floats:
    """The 3x3 surroundings of every `stride`-th pixel, (height, width, channels, 3, 3), zero beyond the edge.

    Padded as TensorFlow's "same": what is odd goes to the bottom and right.
    """
    pads = []
    for length in values.shape[:2]:
        needed = max((math.ceil(length / stride) - 1) * stride + 3 - length, 0)
        pads.append((needed // 2, needed - needed // 2))
    padded = np.pad(values, (*pads, (0, 0)))
    return np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))[::stride, ::stride]


def _mixed(values: Floats, weights: Floats) -> Floats:
    """(height, width, m) times (m, n), in pieces so small that the linear algebra library starts no threads.

    Its threads gain nothing on a network of this size; and they spin for a while after each product, which
    doubled the time of the next network on a machine of two cores.
    """
    pieces = max(1, math.ceil(values.shape[1] * weights.size / _SERIAL_PRODUCT))
    parts = [np.matmul(values, part) for part in np.array_split(weights, pieces, axis=1)]  # one product per row
    return np.concatenate(parts, axis=2)


def _upright(picture: Image.Image, face: FoundFace) -> Image.Image:
    """The face as the network wants it: a square of 112 pixels with the eyes level."""
    right_eye, left_eye = (face.points[list(corners), :2].mean(axis=0) for corners in _EYES)
    tilt = math.atan2(left_eye[1] - right_eye[1], left_eye[0] - right_eye[0])
    left, top, right, bottom = face.box
    side = max(right - left, bottom - top) * _MARGIN
    return cut_out(picture, (left + right) / 2, (top + bottom) / 2, side, tilt, _SIDE)
