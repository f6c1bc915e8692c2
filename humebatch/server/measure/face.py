"""The face measurer: which faces are in a picture or a video, what they show, and nothing that was not measured.

Emotions. The expression network tells seven classes apart. Five of them mean what a name of the API's vocabulary
means, and those five are what a face prediction carries: `EMOTION_OF_EXPRESSION`. The class `surprised` does not say
whether the surprise is a good one, so it is neither `Surprise (negative)` nor `Surprise (positive)`; `neutral` has no
name in the vocabulary. The five scores and the two left out add up to 1.

Action units and descriptions. Those that a kind of blendshape shows well enough: `face_units`.

Probability. `prob` is the mesh network's presence score. It was above .999 for each of the 34 faces of 15 photographs
that showed at least half of their front, .98 for a man in profile, and below .0001 for what the detector had mistaken
for a face in ten photographs without any. So the API's default threshold of .99 separates them. The detector's own
score was .83 to .98 on the same faces: nearly all would fail. Faces in full profile are often missed by both.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeVar

import msgspec
from msgspec import UnsetType

from ...jobs import Face
from ...predictions import BoundingBox, FacePrediction, Score, Scores
from ...vocabulary import EMOTIONS, FACE_DESCRIPTIONS, FACS
from . import Attachment, Card, Finding, Merged, Note, Row, Unmeasurable, carried
from .face_card import CARD
from .face_expression import EMOTION_OF_EXPRESSION, ExpressionReader
from .face_following import FaceFollower
from .face_identity import IdentityReader
from .face_mesh import FaceFinder, FoundFace
from .face_people import People
from .face_picture import Picture
from .face_units import descriptions, units
from .frames import Frame
from .recording import Recording
from .tfjs_weights import Floats

__all__ = ["CARD", "FaceMeasurer", "measurer"]

# Defaults of the API reference, for what the caller or an intermediate left out.
_FPS: Final = 3.0
_PROB_THRESHOLD: Final = 0.99
_MIN_FACE_SIZE: Final = 60
_UNKNOWN: Final = "unknown"

_BY_PLACE: Final = (
    "people were told apart by their place in the picture only, so that who leaves it and comes back is somebody else: "
    "the server lacks face_recognition_model.bin (run 'humebatch weights --fetch' there)"
)


class FaceMeasurer:
    """Measures faces in images and videos. Loading takes about 0.1 s; see the module for what the scores mean.

    Raises `Unmeasurable` when the weights are not on this machine.
    """

    model: str = "face"
    card: Card = CARD

    def __init__(self) -> None:
        self._finder = FaceFinder(carried.find("face_landmarker.task"))
        self._expressions = ExpressionReader()
        self._identities: IdentityReader | None = None

    def measure(self, recording: Recording, config: Face, /) -> Iterator[Finding]:
        """Rows frame by frame, within a frame from left to right; no face is no row and no error.

        Boxes are in pixels of the picture as a viewer shows it. A face counts when both sides of its box (forehead
        to chin, within the picture) reach `min_face_size` and its presence reaches `prob_threshold`. Faces smaller
        than a fortieth of the picture's long side may be missed.

        With `identify_faces` each person is a group: `face_0`, `face_1`, … in order of appearance, and a `Merged` at
        the end for those who turned out to be one. Without it all faces are in the group `unknown`.

        Raises `Unmeasurable` for what holds no picture; for a video damaged further on after the rows up to there;
        `OSError` when the file is not there.
        """
        least = _given(config.min_face_size, _MIN_FACE_SIZE)
        threshold = _given(config.prob_threshold, _PROB_THRESHOLD)
        follower = FaceFollower(self._finder)
        people = People() if _given(config.identify_faces, False) else None
        if people is not None and not self._can_identify():
            yield Note(_BY_PLACE)
        for frame in recording.frames(_given(config.fps_pred, _FPS)):
            for note in frame.picture.notes:
                yield Note(note)
            found = _faces(follower, frame, least, threshold)
            groups = [_UNKNOWN] * len(found) if people is None else self._groups(people, frame, found)
            saved: Counter[str] = Counter()
            for group, (face, box) in zip(groups, found, strict=True):
                yield Row(group, self._prediction(frame, face, box, config))
                if _given(config.save_faces, False):
                    yield _attachment(group, frame, box, saved[group])
                    saved[group] += 1
            recording.progress(frame.time)
        if people is not None:
            for one, earlier in people.merged():
                yield Merged(f"face_{one}", f"face_{earlier}")

    def _prediction(self, frame: Frame, face: FoundFace, box: BoundingBox, config: Face) -> FacePrediction:
        expressions = self._expressions.read(frame.picture.image, face)
        emotions = {EMOTION_OF_EXPRESSION[name]: expressions[name] for name in EMOTION_OF_EXPRESSION}
        shown = described = None
        if _asked(config.facs) or _asked(config.descriptions):
            weights = self._finder.blendshapes(face)
            if _asked(config.facs):
                shown = _scores(units(weights, face.points), FACS)
            if _asked(config.descriptions):
                described = _scores(descriptions(weights), FACE_DESCRIPTIONS)
        return FacePrediction(
            frame=frame.number,
            time=frame.time,
            prob=face.presence,
            box=box,
            emotions=_scores(emotions, EMOTIONS),
            facs=shown,
            descriptions=described,
        )

    def _groups(self, people: People, frame: Frame, found: Sequence[tuple[FoundFace, BoundingBox]]) -> list[str]:
        boxes = [(box.x, box.y, box.x + box.w, box.y + box.h) for _, box in found]
        looks: list[Floats] | None = None
        if self._identities is not None:
            looks = [self._identities.read(frame.picture.image, face) for face, _ in found]
        return [f"face_{number}" for number in people.assign(frame.time, boxes, looks)]

    def _can_identify(self) -> bool:
        """Load the recognition network, which most requests do without, unless its weights are not here."""
        if self._identities is None:
            try:
                manifest = carried.find("face_recognition_model-weights_manifest.json")
                stored = carried.find("face_recognition_model.bin")
            except Unmeasurable:
                return False
            self._identities = IdentityReader(manifest, stored)
        return True


def measurer(model: str) -> FaceMeasurer:
    """The measurer of `face`, the only model of this module. Raises `Unmeasurable` without its weights."""
    if model != "face":
        raise Unmeasurable(f"{model} is not measured by the face measurer")
    return FaceMeasurer()


def _faces(follower: FaceFollower, frame: Frame, least: float, threshold: float) -> list[tuple[FoundFace, BoundingBox]]:
    """The faces that count, from left to right, with their boxes in pixels of the original."""
    picture = frame.picture
    scale = min(picture.scale_x, picture.scale_y)
    boxed = [(face, _box(face, picture)) for face in follower.faces(picture.image, least / scale, frame.time)]
    found = [(face, box) for face, box in boxed if face.presence >= threshold and min(box.w, box.h) >= least]
    return sorted(found, key=lambda one: (one[1].x, one[1].y))


def _box(face: FoundFace, picture: Picture) -> BoundingBox:
    """The face's rectangle in pixels of the upright original, cut at its edges."""
    left, top, right, bottom = face.box
    left, right = (min(max(x * picture.scale_x, 0.0), picture.width) for x in (left, right))
    top, bottom = (min(max(y * picture.scale_y, 0.0), picture.height) for y in (top, bottom))
    return BoundingBox(x=left, y=top, w=right - left, h=bottom - top)


def _attachment(group: str, frame: Frame, box: BoundingBox, before: int) -> Attachment:
    """The face cut out as a PNG, named as the service names it, with a number if others of its group are `before`."""
    picture = frame.picture
    place = (
        int(box.x / picture.scale_x),
        int(box.y / picture.scale_y),
        max(round((box.x + box.w) / picture.scale_x), int(box.x / picture.scale_x) + 1),
        max(round((box.y + box.h) / picture.scale_y), int(box.y / picture.scale_y) + 1),
    )
    png = io.BytesIO()
    picture.image.crop(place).save(png, "PNG", compress_level=1)
    ending = f"_{before}" if before else ""
    return Attachment(group=group, name=f"frame={frame.number}{ending}.png", data=png.getvalue())


def _scores(values: Mapping[str, float], order: tuple[str, ...]) -> Scores:
    return Scores(Score(name, values[name]) for name in order if name in values)


T = TypeVar("T")


def _asked(option: dict[str, object] | UnsetType | None) -> bool:
    return option is not None and option is not msgspec.UNSET


def _given(value: T | UnsetType | None, default: T) -> T:
    return default if value is None or isinstance(value, UnsetType) else value
