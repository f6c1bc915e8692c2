"""Meshes of 478 points out of the JSON that programs write them in.

The API takes a list of faces, each a list of 478 `[x, y, z]`. MediaPipe's own results come in other shapes: points as
objects, the list below a name, a face below another, one face alone, all numbers in one row. All of these are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
import numpy as np

from . import Unmeasurable
from .face_mesh import POINTS
from .tfjs_weights import Floats

__all__ = ["meshes"]

_Raw = msgspec.Raw

# Below which names faces, or the points of one, are kept: MediaPipe's tasks and solutions in Python and JavaScript,
# TensorFlow.js's face-landmarks-detection, and what people call them.
_NAMES: Final = (
    "face_landmarks", "faceLandmarks", "multi_face_landmarks", "multiFaceLandmarks", "faces", "landmarks", "landmark",
    "keypoints", "scaledMesh", "mesh", "points",
)  # fmt: skip
_DEPTH: Final = 6
_FARTHEST: Final = 1e9  # a coordinate beyond it is none


def meshes(content: bytes) -> Iterator[Floats]:
    """The faces of a JSON file in its order, each float32 (478, 3); z is 0 where points have two numbers.

    Raises `Unmeasurable` saying where the file is not what is expected. An empty list holds no face.
    """
    try:
        whole = msgspec.json.decode(content, type=_Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unmeasurable(f"the landmarks are not JSON: {error}") from error
    yield from _faces(whole, "$", _DEPTH)


def _faces(raw: _Raw, place: str, depth: int) -> Iterator[Floats]:
    if depth == 0:
        raise _unexpected(place, "lists within lists")
    if _begins(raw) == b"{":
        name, inner = _named(raw, place)
        yield from _faces(inner, f"{place}.{name}", depth - 1)
        return
    if _begins(raw) != b"[":
        raise _unexpected(place, "something else")
    parts = _decoded(raw, list[_Raw], place)
    if not parts:
        return
    if _is_point(parts[0]):
        yield _mesh([_decoded(part, Any, f"{place}[{number}]") for number, part in enumerate(parts)], place)
    else:
        for number, part in enumerate(parts):
            yield from _faces(part, f"{place}[{number}]", depth - 1)


def _named(raw: _Raw, place: str) -> tuple[str, _Raw]:
    entries = _decoded(raw, dict[str, _Raw], place)
    for name in _NAMES:
        if name in entries:
            return name, entries[name]
    raise _unexpected(place, f"an object without any of {', '.join(_NAMES[:6])}, …")


def _is_point(raw: _Raw) -> bool:
    """Whether this is a point, or a number of one, rather than a face."""
    begin = _begins(raw)
    if begin == b"{":
        return "x" in msgspec.json.decode(raw, type=dict[str, _Raw])
    if begin == b"[":
        return bytes(memoryview(raw)[1:64]).lstrip()[:1] not in (b"[", b"{", b"]")
    return True


def _begins(raw: _Raw) -> bytes:
    return bytes(memoryview(raw)[:64]).lstrip()[:1]


def _mesh(values: list[Any], place: str) -> Floats:
    if isinstance(values[0], (int, float)) and len(values) in (3 * POINTS, 2 * POINTS):
        width = len(values) // POINTS
        values = [values[begin : begin + width] for begin in range(0, len(values), width)]
    if len(values) != POINTS:
        raise _unexpected(place, f"{len(values)} of them")
    mesh = np.zeros((POINTS, 3))
    for number, value in enumerate(values):
        point = [value.get("x"), value.get("y"), value.get("z", 0.0)] if isinstance(value, dict) else value
        if not (isinstance(point, list) and len(point) in (2, 3) and all(_is_number(one) for one in point)):
            raise _unexpected(f"{place}[{number}]", "something else than a point")
        mesh[number, : len(point)] = point
    if not np.ptp(mesh[:, 0]) or not np.ptp(mesh[:, 1]):
        raise _unexpected(place, "points that all lie on one line")
    return mesh.astype(np.float32)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _FARTHEST


def _decoded(raw: _Raw, kind: Any, place: str) -> Any:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        raise _unexpected(place, str(error)) from error


def _unexpected(place: str, found: str) -> Unmeasurable:
    return Unmeasurable(
        f"no face landmarks at {place}: expected a list of {POINTS} points [x, y, z] (MediaPipe with irises), "
        f"or a list of such faces; got {found}"
    )
