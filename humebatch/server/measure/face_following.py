"""Faces of a video: all of them in each frame, without the whole search in each frame."""

from __future__ import annotations

import math
from typing import Final

from PIL import Image

from .face_mesh import SAME_FACE, FaceFinder, FoundFace, least_at, overlap

__all__ = ["FaceFollower"]

_QUICK: Final = 256  # long side, pixels, up to which each frame is searched
_SEARCHED_EVERY: Final = 0.999  # seconds; times are rounded to the ticks of the container
_PRESENT: Final = 0.5  # presence from which a face is followed


class FaceFollower:
    """The faces of a video, frame by frame. Large ones, and those of the frame before, are looked for in each frame.

    Small ones are looked for once a second, and whenever a face was lost: a cut is noticed at once, a small face that
    comes into the picture beside others within a second.
    """

    def __init__(self, finder: FaceFinder) -> None:
        self._finder = finder
        self._known: list[FoundFace] = []
        self._searched = -math.inf

    def faces(self, picture: Image.Image, least: float, time: float) -> list[FoundFace]:
        """As `FaceFinder.faces`, for the frame at `time` (seconds; frames come in order)."""
        if self._known and time - self._searched < _SEARCHED_EVERY:
            large = max(least, least_at(_QUICK, picture))
            found = self._finder.faces(picture, large, self._known)
            present = [face for face in found if face.presence >= _PRESENT]
            if all(any(overlap(face.box, old.box) > SAME_FACE for face in present) for old in self._known):
                self._known = present
                return found
        found = self._finder.faces(picture, least)
        self._known = [face for face in found if face.presence >= _PRESENT]
        self._searched = time
        return found
