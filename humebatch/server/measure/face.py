"""The face measurer: which faces are in a picture, what they show, and nothing that was not measured.

Emotions. The expression network tells seven classes apart. Five of them mean what a name of the API's
vocabulary means, and those five are what a face prediction carries: `EMOTION_OF_EXPRESSION`. The class
`surprised` does not say whether the surprise is a good one, so it is neither `Surprise (negative)` nor
`Surprise (positive)`; `neutral` has no name in the vocabulary. The other names are absent: nobody
measured them. The five scores and the two left out add up to 1.

Action units. `facs` carries the units that one kind of blendshape measures alone: `FACS_OF_BLENDSHAPES`.

Probability. `prob` is the mesh network's presence score. It was above .999 for each of the 34 faces of 15
photographs that showed at least half of their front, .98 for a man in profile, and below .0001 for
what the detector had mistaken for a face in ten photographs without any. So the API's default threshold
of .99 separates them. The detector's own score was .83 to .98 on the same faces: nearly all would fail.
Faces in full profile are often missed by both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec
from msgspec import UnsetType

from ...jobs import Face
from ...predictions import BoundingBox, FacePrediction, GroupedPredictions, ModelPredictions, Score, Scores
from ...vocabulary import EMOTIONS, FACS
from . import Measured, Media, Unmeasurable, carried
from .face_expression import ExpressionReader
from .face_mesh import FaceFinder, FoundFace
from .face_picture import Picture, open_picture

__all__ = ["EMOTION_OF_EXPRESSION", "FACS_OF_BLENDSHAPES", "FaceMeasurer", "measurer"]

EMOTION_OF_EXPRESSION: Final[Mapping[str, str]] = {
    "angry": "Anger",
    "disgusted": "Disgust",
    "fearful": "Fear",
    "happy": "Joy",
    "sad": "Sadness",
}
"""The vocabulary's name for each expression that has exactly one."""

FACS_OF_BLENDSHAPES: Final[Mapping[str, tuple[str, ...]]] = {
    "AU1 Inner Brow Raise": ("browInnerUp",),
    "AU2 Outer Brow Raise": ("browOuterUpLeft", "browOuterUpRight"),
    "AU4 Brow Lowerer": ("browDownLeft", "browDownRight"),
    "AU7 Lids Tight": ("eyeSquintLeft", "eyeSquintRight"),
    "AU10 Upper Lip Raiser": ("mouthUpperUpLeft", "mouthUpperUpRight"),
    "AU12 Lip Corner Puller": ("mouthSmileLeft", "mouthSmileRight"),
    "AU16 Lower Lip Depress": ("mouthLowerDownLeft", "mouthLowerDownRight"),
    "AU17 Chin Raiser": ("mouthShrugLower",),
    "AU18 Lip Pucker": ("mouthPucker",),
    "AU20 Lip Stretch": ("mouthStretchLeft", "mouthStretchRight"),
    "AU22 Lip Funneler": ("mouthFunnel",),
    "AU24 Lip Presser": ("mouthPressLeft", "mouthPressRight"),
    "AU26 Jaw Drop": ("jawOpen",),
    "AU28 Lips Suck": ("mouthRollLower", "mouthRollUpper"),
    "AU43 Eye Closure": ("eyeBlinkLeft", "eyeBlinkRight"),
}
"""Action units that a kind of blendshape measures, after Apple's ARKit names; the score is the mean of those listed.

Left out although ARKit has a shape for them, because the network never moves it (below .12 on some 85
faces): AU5 (eyeWide), AU6 (cheekSquint), AU9 (noseSneer), AU14 (mouthDimple), AU15 (mouthFrown), AU34
(cheekPuff). The remaining units and the four hand positions have no shape of their own.
"""

# Defaults of the API reference, for what the caller or an intermediate left out.
_PROB_THRESHOLD: Final = 0.99
_MIN_FACE_SIZE: Final = 60


class FaceMeasurer:
    """Measures faces in still images. Loading takes about 0.1 s; see the module for what the scores mean.

    Raises `Unmeasurable` when the weights are not on this machine.
    """

    model: str = "face"
    file_types: frozenset[str] = frozenset({"image", "video"})

    def __init__(self) -> None:
        task = carried.find("face_landmarker.task")
        self._finder = FaceFinder(task)
        self._expressions = ExpressionReader()

    def measure(self, media: Media, config: Face, /) -> Measured:
        """Measure the image `media`; no face in it is an empty `grouped_predictions`, not an error.

        Boxes are in pixels of the image as its EXIF orientation shows it. A face counts when both sides
        of its box (forehead to chin, within the image) reach `min_face_size` and its presence reaches
        `prob_threshold`. Faces smaller than a fortieth of the image's long side may be missed.

        With `identify_faces` each face of the image is a person of its own: `face_0`, `face_1`, … from
        left to right. Without it all are in one group, `unknown`.

        Raises `Unmeasurable` for a video and for what is no whole image, `OSError` when the file is not there.
        """
        if media.file_type == "video":
            raise Unmeasurable("face is not measured in videos by this version, only in images")
        picture = open_picture(media.path)
        least = _given(config.min_face_size, _MIN_FACE_SIZE)
        threshold = _given(config.prob_threshold, _PROB_THRESHOLD)
        scale = min(picture.scale_x, picture.scale_y)
        found: list[FacePrediction] = []
        for face in self._finder.faces(picture.image, least / scale):
            box = _box(face, picture)
            if face.presence >= threshold and min(box.w, box.h) >= least:
                found.append(self._predict(face, box, picture, with_facs=_asked(config.facs)))
        found.sort(key=lambda prediction: (prediction.box.x, prediction.box.y))
        return Measured(
            predictions=ModelPredictions(_grouped(found, identify=_given(config.identify_faces, False))),
            notes=[*picture.notes, *_not_measured(config)],
        )

    def _predict(self, face: FoundFace, box: BoundingBox, picture: Picture, *, with_facs: bool) -> FacePrediction:
        expressions = self._expressions.read(picture.image, face)
        emotions = {EMOTION_OF_EXPRESSION[name]: expressions[name] for name in EMOTION_OF_EXPRESSION}
        facs = None
        if with_facs:
            weights = self._finder.blendshapes(face)
            facs = {
                unit: sum(weights[shape] for shape in shapes) / len(shapes)
                for unit, shapes in FACS_OF_BLENDSHAPES.items()
            }
        return FacePrediction(
            frame=0,
            time=0.0,
            prob=face.presence,
            box=box,
            emotions=_scores(emotions, EMOTIONS),
            facs=None if facs is None else _scores(facs, FACS),
        )


def measurer(model: str) -> FaceMeasurer:
    """The measurer of `face`, the only model of this module. Raises `Unmeasurable` without its weights."""
    if model != "face":
        raise Unmeasurable(f"{model} is not measured by the face measurer")
    return FaceMeasurer()


def _box(face: FoundFace, picture: Picture) -> BoundingBox:
    """The face's rectangle in pixels of the upright original, cut at its edges."""
    left, top, right, bottom = face.box
    left, right = (min(max(x * picture.scale_x, 0.0), picture.width) for x in (left, right))
    top, bottom = (min(max(y * picture.scale_y, 0.0), picture.height) for y in (top, bottom))
    return BoundingBox(x=left, y=top, w=right - left, h=bottom - top)


def _grouped(found: list[FacePrediction], *, identify: bool) -> list[GroupedPredictions[FacePrediction]]:
    if identify:
        return [GroupedPredictions(f"face_{number}", [prediction]) for number, prediction in enumerate(found)]
    return [GroupedPredictions("unknown", found)] if found else []


def _scores(values: Mapping[str, float], order: tuple[str, ...]) -> Scores:
    return Scores(Score(name, values[name]) for name in order if name in values)


def _not_measured(config: Face) -> list[str]:
    notes = []
    if _asked(config.descriptions):
        notes.append("face descriptions are not measured: this version has no open model for them")
    if _given(config.save_faces, False):
        notes.append("face images are not saved into the artifacts by this version")
    return notes


T = TypeVar("T")


def _asked(option: dict[str, object] | UnsetType | None) -> bool:
    return option is not None and option is not msgspec.UNSET


def _given(value: T | UnsetType | None, default: T) -> T:
    return default if value is None or isinstance(value, UnsetType) else value
