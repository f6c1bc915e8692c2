"""Weights as TensorFlow.js stores them: a manifest that describes tensors, and a file in which they lie one by one."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "unpack"]

Floats = npt.NDArray[np.float32]


class _Tensor(msgspec.Struct):
    """One entry of the manifest: `quantization` maps stored bytes to numbers, as byte * scale + min."""

    name: str
    shape: list[int]
    quantization: dict[str, Any] | None = None


class _Group(msgspec.Struct):
    weights: list[_Tensor]


def unpack(manifest: bytes, stored: bytes) -> dict[str, Floats]:
    """The tensors by name, as float32. Raises `ValueError` when the two files do not belong together."""
    tensors: dict[str, Floats] = {}
    begin = 0
    for group in msgspec.json.decode(manifest, type=list[_Group]):
        for tensor in group.weights:
            count = math.prod(tensor.shape)
            if (quantization := tensor.quantization) is None:
                values = np.frombuffer(stored, "<f4", count, begin).astype(np.float32)
                begin += 4 * count
            else:
                values = np.frombuffer(stored, np.uint8, count, begin).astype(np.float32)
                values = values * np.float32(quantization["scale"]) + np.float32(quantization["min"])
                begin += count
            tensors[tensor.name] = values.reshape(tensor.shape)
    if begin != len(stored):
        raise ValueError(f"the weights have {len(stored)} bytes, their manifest describes {begin}")
    return tensors
