"""Who is who: face-api.js's recognition network in plain numpy, 128 numbers per face.

The weights (`face_recognition_model.*`, MIT, from npm `@vladmandic/face-api` 1.7.15) are a port of dlib's ResNet,
which is CC0. Layers and normalisation follow `FaceRecognitionNet.ts`, `convLayer.ts` and `residualLayer.ts` of that
package, the cut-out follows `FaceLandmarks.alignDlib`, but for turning the eyes level as dlib itself does.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from .face_mesh import FoundFace, cut_out
from .tfjs_weights import Floats, unpack

__all__ = ["IdentityReader", "distance"]

_SIDE = 150
_MEAN_RGB: Final = np.array([122.782, 117.001, 104.298], np.float32)
_EYES: Final = ((33, 133), (263, 362))  # corners of the right and of the left eye in the mesh
_MOUTH: Final = (61, 291, 0, 17)  # its corners, the upper lip's upper edge and the lower lip's lower one
_EYES_TO_MOUTH = 0.45  # share of the cut-out's side
_CENTRE_DOWN = 0.43  # where the middle between eyes and mouth lies in the cut-out, from its top
_STAGES: Final = ((32, 3, False), (64, 3, True), (128, 2, True), (256, 2, True))


class IdentityReader:
    """The recognition network, loaded from its two files."""

    def __init__(self, manifest: Path, stored: Path) -> None:
        self._weights = unpack(manifest.read_bytes(), stored.read_bytes())

    def read(self, picture: Image.Image, face: FoundFace) -> Floats:
        """What the face of this RGB picture looks like, float32 (128,): near for one person, see `distance`."""
        values: Floats = (np.asarray(_aligned(picture, face), np.float32) - _MEAN_RGB) / np.float32(256)
        values = np.maximum(self._convolved(values, "conv32_down", stride=2, same=False), 0)
        values = np.lib.stride_tricks.sliding_window_view(values, (3, 3), axis=(0, 1))[::2, ::2].max(axis=(3, 4))
        for channels, count, halved in _STAGES:
            if halved:
                values = self._halving(values, f"conv{channels}_down")
            for number in range(1, count + 1):
                values = self._residual(values, f"conv{channels}_{number}")
        values = self._halving(values, "conv256_down_out")
        return np.asarray(values.mean(axis=(0, 1)) @ self._weights["fc"], np.float32)

    def _residual(self, values: Floats, name: str) -> Floats:
        inner = np.maximum(self._convolved(values, f"{name}/conv1"), 0)
        out: Floats = np.maximum(self._convolved(inner, f"{name}/conv2") + values, 0)
        return out

    def _halving(self, values: Floats, name: str) -> Floats:
        """As `_residual`, but half as high and wide, and with more channels; what is missing is zero."""
        inner = np.maximum(self._convolved(values, f"{name}/conv1", stride=2, same=False), 0)
        out = self._convolved(inner, f"{name}/conv2")
        rows, columns, channels = values.shape[0] // 2, values.shape[1] // 2, values.shape[2]
        pooled = values[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2, channels).mean(axis=(1, 3))
        whole = np.zeros((max(rows, out.shape[0]), max(columns, out.shape[1]), out.shape[2]), np.float32)
        whole[:rows, :columns, :channels] = pooled
        whole[: out.shape[0], : out.shape[1]] += out
        return np.maximum(whole, 0)

    def _convolved(self, values: Floats, name: str, *, stride: int = 1, same: bool = True) -> Floats:
        filters = self._weights[f"{name}/conv/filters"]
        if same:
            values = np.pad(values, ((1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(values, filters.shape[:2], axis=(0, 1))[::stride, ::stride]
        rows = windows.transpose(0, 1, 3, 4, 2).reshape(-1, math.prod(filters.shape[:3]))
        mixed = rows @ filters.reshape(-1, filters.shape[3]) + self._weights[f"{name}/conv/bias"]
        scaled = mixed * self._weights[f"{name}/scale/weights"] + self._weights[f"{name}/scale/biases"]
        return np.asarray(scaled.reshape(*windows.shape[:2], -1), np.float32)


def distance(one: Floats, other: Floats) -> float:
    """How far two faces are from each other; about 0.3 for pictures of one person, 0.8 for two people's."""
    return float(np.linalg.norm(one - other))


def _aligned(picture: Image.Image, face: FoundFace) -> Image.Image:
    points = face.points[:, :2].astype(float)
    right, left = (points[list(corners)].mean(axis=0) for corners in _EYES)
    mouth = points[list(_MOUTH)].mean(axis=0)
    tilt = math.atan2(left[1] - right[1], left[0] - right[0])
    side = float(np.linalg.norm(left - mouth) + np.linalg.norm(right - mouth)) / 2 / _EYES_TO_MOUTH
    down = (0.5 - _CENTRE_DOWN) * side
    x, y = (right + left + mouth) / 3
    return cut_out(picture, x - down * math.sin(tilt), y + down * math.cos(tilt), side, tilt, _SIDE)
