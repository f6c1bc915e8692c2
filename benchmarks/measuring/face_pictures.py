"""Photographs with a known expression, and what the face measurer's networks say of them.

They come from github.com/muxspace/facial_expressions (its LICENSE file: Apache-2.0), a class's collection: photographs
from the news of 350 x 350 pixels, called `Jane_Roe_0001.jpg`, each labelled by one student with one of seven
expressions; and stills of 40 to 100 pixels from films of twelve actors, labelled by what happens in the scene, which
are left out here: one student's "disgust" is not visible in them. What the networks say is kept in `faces.npz`.
"""

from __future__ import annotations

import collections
import csv
import hashlib
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image

from humebatch.server.measure import carried
from humebatch.server.measure.face_expression import EXPRESSIONS, ExpressionReader
from humebatch.server.measure.face_mesh import BLENDSHAPES, FaceFinder, FoundFace

__all__ = ["CLONE", "FOLDER", "LABELS", "Faces", "held_out", "largest", "measured", "person", "photographs"]

FOLDER = "facial_expressions"
CLONE = f"git clone https://github.com/muxspace/facial_expressions DIR/{FOLDER}"

LABELS = {
    "neutral": "neutral",
    "happiness": "happy",
    "sadness": "sad",
    "anger": "angry",
    "fear": "fearful",
    "disgust": "disgusted",
    "surprise": "surprised",
}
"""The network's class for each label of the data set."""

_AT_MOST = 1500  # of one label: happy and neutral are 92 in 100
_SIDE = 350


class Faces(msgspec.Struct, frozen=True):
    """One entry per photograph: its name and label; mesh (n, 478, 3); blendshapes (n, 52); expressions (n, 7).

    `asked`: how many photographs there were, with or without a face that was found.
    """

    names: list[str]
    labels: npt.NDArray[Any]
    points: npt.NDArray[Any]
    blendshapes: npt.NDArray[Any]
    expressions: npt.NDArray[Any]
    asked: int


def person(name: str) -> str:
    """Whose photograph it is: `Jane_Roe` for `Jane_Roe_0001.jpg`."""
    return re.sub(r"_?\d+\.\w+$", "", name)


def held_out(name: str) -> bool:
    """Whether the photograph shows one of the quarter of all people from whom nothing is learned."""
    return hashlib.md5(person(name).encode()).digest()[0] % 4 == 0


def largest(faces: list[FoundFace]) -> FoundFace | None:
    """The largest face that is surely one; None without any."""
    sure = [face for face in faces if face.presence >= 0.5]
    return max(sure, key=lambda face: (face.box[2] - face.box[0]) * (face.box[3] - face.box[1]), default=None)


def photographs(data: Path) -> Iterator[tuple[Path, str]]:
    """(path, label) of the photographs that were given one label only, at most 1,500 of each, always the same ones."""
    seen: dict[str, set[str]] = collections.defaultdict(set)
    with (data / FOLDER / "data" / "legend.csv").open(newline="") as legend:
        for row in csv.DictReader(legend):
            seen[row["image"]].add(row["emotion"].lower())
    rows = sorted((name, min(labels)) for name, labels in seen.items() if len(labels) == 1)
    random.Random(11).shuffle(rows)
    count: collections.Counter[str] = collections.Counter()
    for name, label in rows:
        count[label] += 1
        path = data / FOLDER / "images" / name
        if label in LABELS and count[label] <= _AT_MOST and path.is_file():
            with Image.open(path) as picture:
                if picture.size == (_SIDE, _SIDE):
                    yield path, label


def measured(data: Path) -> Faces:
    """The photographs below `data`, measured, or as they were measured before; takes a quarter of an hour once.

    Raises `FileNotFoundError` when the data set is not there.
    """
    kept = data / "faces.npz"
    if not kept.is_file():
        finder, reader = FaceFinder(carried.find("face_landmarker.task")), ExpressionReader()
        found: dict[str, list[Any]] = {"names": [], "labels": [], "points": [], "blendshapes": [], "expressions": []}
        asked = 0
        for path, label in photographs(data):
            asked += 1
            with Image.open(path) as picture:
                image = picture.convert("RGB")
            face = largest(finder.faces(image, _SIDE / 6))
            if face is None:
                continue
            shapes, expressions = finder.blendshapes(face), reader.read(image, face)
            found["names"].append(path.name)
            found["labels"].append(label)
            found["points"].append(face.points)
            found["blendshapes"].append([shapes[name] for name in BLENDSHAPES])
            found["expressions"].append([expressions[name] for name in EXPRESSIONS])
        arrays: dict[str, Any] = {field: np.array(values) for field, values in found.items()}
        np.savez(kept, asked=asked, **arrays)
    with np.load(kept) as stored:
        return Faces(
            names=[str(name) for name in stored["names"]],
            labels=stored["labels"],
            points=stored["points"],
            blendshapes=stored["blendshapes"],
            expressions=stored["expressions"],
            asked=int(stored["asked"]),
        )
