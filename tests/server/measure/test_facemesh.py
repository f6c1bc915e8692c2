"""Meshes out of JSON in all the shapes that programs write, and what their geometry says."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.resources
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from humebatch.jobs import Facemesh
from humebatch.predictions import FacemeshPrediction
from humebatch.server.measure import Measurer, Media, Row, Unmeasurable
from humebatch.server.measure.face_expression import EMOTION_OF_EXPRESSION
from humebatch.server.measure.face_mesh import FaceFinder
from humebatch.server.measure.facemesh import CARD, FacemeshMeasurer, measurer
from humebatch.server.measure.landmarks import meshes
from humebatch.server.measure.mesh_expression import HEAD, squared
from humebatch.server.measure.recording import Recording
from humebatch.server.measure.tfjs_weights import Floats
from humebatch.testing import check_measurer
from humebatch.vocabulary import EMOTIONS

FACE = [[float(number % 7), float(number), 0.5] for number in range(478)]
POINTS = [{"x": x, "y": y, "z": z} for x, y, z in FACE]


@pytest.fixture(scope="module")
def facemesh(landmarker: Path) -> FacemeshMeasurer:
    assert landmarker.is_file()
    return measurer("facemesh")


@pytest.fixture(scope="module")
def drawn(landmarker: Path, photos: Mapping[str, Path]) -> dict[str, Floats]:
    """The meshes of a smiling and of a calm face, in pixels."""
    finder = FaceFinder(landmarker)
    found = {}
    for name in ("astronaut.png", "grace_hopper.jpg"):
        with Image.open(photos[name]) as picture:
            found[name] = finder.faces(picture.convert("RGB"), 60)[0].points
    return found


def measure(facemesh: FacemeshMeasurer, content: Any, folder: Path) -> list[dict[str, float]]:
    path = folder / "landmarks.json"
    path.write_text(json.dumps(content))
    media = Media(path=str(path), name="landmarks.json", file_type="landmarks", md5sum="0" * 32)
    rows = []
    for finding in facemesh.measure(Recording(media, scratch=folder), Facemesh()):
        assert isinstance(finding, Row)
        assert isinstance(finding.prediction, FacemeshPrediction)
        assert finding.group == "unknown"
        rows.append({score.name: score.score for score in finding.prediction.emotions})
    return rows


def test_a_smile_is_seen_in_the_mesh_alone_and_each_face_has_a_row(
    facemesh: FacemeshMeasurer, drawn: Mapping[str, Floats], tmp_path: Path
) -> None:
    assert isinstance(facemesh, Measurer)
    smiling, calm, again = measure(
        facemesh, [drawn[name].tolist() for name in ("astronaut.png", "grace_hopper.jpg", "astronaut.png")], tmp_path
    )
    assert list(smiling) == [name for name in EMOTIONS if name in EMOTION_OF_EXPRESSION.values()]
    assert list(smiling) == [given.name for given in facemesh.card.names]
    assert max(smiling, key=smiling.__getitem__) == "Joy"
    assert smiling["Joy"] > 0.8
    assert calm["Joy"] < 0.3
    assert again == smiling


def test_it_keeps_the_rules_of_a_measurer(drawn: Mapping[str, Floats], tmp_path: Path) -> None:
    path = tmp_path / "three.json"
    path.write_text(json.dumps([points.tolist() for points in drawn.values()]))
    check_measurer(functools.partial(measurer, "facemesh"), media=[path])


def test_the_card_names_the_weights_that_are_here() -> None:
    head = next(weights for weights in CARD.weights if weights.file == HEAD)
    stored = importlib.resources.files("humebatch.server.measure").joinpath("weights", HEAD).read_bytes()
    assert (len(stored), hashlib.sha256(stored).hexdigest()) == (head.size, head.sha256)


def test_place_size_and_tilt_do_not_matter(
    facemesh: FacemeshMeasurer, drawn: Mapping[str, Floats], tmp_path: Path
) -> None:
    points = drawn["grace_hopper.jpg"]
    turn = np.array([[0.9, -0.436, 0], [0.436, 0.9, 0], [0, 0, 1]])
    expected, moved = measure(facemesh, [points.tolist(), (points @ turn * 0.01 + 3).tolist()], tmp_path)
    assert moved == pytest.approx(expected, abs=0.02)


def test_coordinates_from_0_to_1_of_a_wide_picture_are_put_right(
    facemesh: FacemeshMeasurer, drawn: Mapping[str, Floats], tmp_path: Path
) -> None:
    for points in drawn.values():
        wide = points / np.array([1920, 1080, 1920])
        expected, found = measure(facemesh, [points.tolist(), wide.tolist()], tmp_path)
        assert max(found, key=found.__getitem__) == max(expected, key=expected.__getitem__)
        assert found == pytest.approx(expected, abs=0.25)


def test_a_round_iris_is_left_as_it_is(drawn: Mapping[str, Floats]) -> None:
    for points in drawn.values():
        assert (squared(points) == points[:, :2]).all()


@pytest.mark.parametrize(
    ("content", "faces"),
    [
        ([FACE, FACE, FACE], 3),
        (FACE, 1),
        (POINTS, 1),
        ([POINTS, FACE], 2),
        ({"faces": [FACE]}, 1),
        ({"faceLandmarks": [POINTS, POINTS], "faceBlendshapes": []}, 2),
        ({"multi_face_landmarks": [{"landmark": POINTS}]}, 1),
        ([{"keypoints": POINTS}, {"scaledMesh": FACE}], 2),
        ([number for point in FACE for number in point], 1),
        ([point[:2] for point in FACE], 1),
        ([], 0),
        ({"face_landmarks": []}, 0),
    ],
)
def test_every_common_shape_is_read(content: Any, faces: int) -> None:
    found = list(meshes(json.dumps(content, indent=1).encode()))
    assert [mesh.shape for mesh in found] == [(478, 3)] * faces
    assert all((mesh[:, :2] == np.array(FACE, np.float32)[:, :2]).all() for mesh in found)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"3", r"at \$:"),
        (json.dumps([FACE, FACE[:468]]).encode(), r"at \$\[1\]: .*478.*got 468"),
        (json.dumps({"a": 1}).encode(), "an object without any of face_landmarks"),
        (json.dumps({"faces": [FACE, {"landmarks": [1, 2]}]}).encode(), r"at \$\.faces\[1\]\.landmarks: .*got 2"),
        (json.dumps([*FACE[:477], ["a", 1, 2]]).encode(), r"at \$\[477\]"),
        (json.dumps([*FACE[:477], [1e300, 1, 2]]).encode(), r"at \$\[477\]"),
        (json.dumps([[1.0, 2.0, 3.0]] * 478).encode(), "one line"),
        (json.dumps([[[[[[[FACE]]]]]]]).encode(), "lists within lists"),
    ],
)
def test_what_is_no_mesh_is_refused_with_its_place(content: bytes, said: str) -> None:
    with pytest.raises(Unmeasurable, match=said):
        list(meshes(content))


def test_faces_before_a_damaged_one_have_their_rows(
    facemesh: FacemeshMeasurer, drawn: Mapping[str, Floats], tmp_path: Path
) -> None:
    path = tmp_path / "landmarks.json"
    path.write_text(json.dumps([drawn["astronaut.png"].tolist(), [1, 2, 3]]))
    media = Media(path=str(path), name="landmarks.json", file_type="landmarks", md5sum="0" * 32)
    rows: list[object] = []
    with pytest.raises(Unmeasurable, match=r"\$\[1\]"):
        rows.extend(facemesh.measure(Recording(media, scratch=tmp_path), Facemesh()))  # keeps what came before
    assert len(rows) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["faces", "x", "landmarks"]), inner),
    max_leaves=20,
)


@given(JSON)
def test_other_json_is_refused_or_holds_no_face(content: Any) -> None:
    with contextlib.suppress(Unmeasurable):
        assert list(meshes(json.dumps(content).encode())) == []
