"""Faces of large videos are followed: nothing that the whole search finds is lost for long."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from humebatch.server.measure.face_following import FaceFollower
from humebatch.server.measure.face_mesh import FaceFinder, FoundFace


@pytest.fixture(scope="module")
def finder(landmarker: Path) -> FaceFinder:
    return FaceFinder(landmarker)


@pytest.fixture(scope="module")
def small(photos: Mapping[str, Path]) -> Image.Image:
    """A face of some 60 pixels."""
    with Image.open(photos["astronaut.png"]) as picture:
        return picture.convert("RGB").crop((130, 20, 330, 220)).resize((120, 120))


def scene(face: Image.Image, *places: tuple[int, int]) -> Image.Image:
    picture = Image.new("RGB", (1600, 900), "gray")
    for place in places:
        picture.paste(face, place)
    return picture


def lefts(found: list[FoundFace]) -> list[int]:
    return sorted(round(face.box[0]) for face in found if face.presence > 0.99)


def test_a_small_face_that_moves_is_followed(finder: FaceFinder, small: Image.Image) -> None:
    follower = FaceFollower(finder)
    first, *others = [lefts(follower.faces(scene(small, (400 + 12 * n, 300)), 40, n / 3)) for n in range(3)]
    assert len(first) == 1
    assert [left for (left,) in others] == pytest.approx([first[0] + 12, first[0] + 24], abs=4)


def test_a_cut_is_noticed_at_once(finder: FaceFinder, small: Image.Image) -> None:
    follower = FaceFollower(finder)
    (before,) = lefts(follower.faces(scene(small, (200, 300)), 40, 0.0))
    (after,) = lefts(follower.faces(scene(small, (1200, 500)), 40, 0.3))
    assert after - before == pytest.approx(1000, abs=4)
    assert lefts(follower.faces(scene(small), 40, 0.6)) == []


def test_a_small_face_beside_others_is_found_within_a_second(finder: FaceFinder, small: Image.Image) -> None:
    follower = FaceFollower(finder)
    follower.faces(scene(small, (200, 300)), 40, 0.0)
    both = scene(small, (200, 300), (1200, 500))
    found = [len(lefts(follower.faces(both, 40, time))) for time in (0.5, 1.0)]
    assert found[-1] == 2


def test_a_large_face_beside_others_is_found_at_once(finder: FaceFinder, small: Image.Image) -> None:
    follower = FaceFollower(finder)
    follower.faces(scene(small, (200, 300)), 40, 0.0)
    picture = scene(small, (200, 300))
    picture.paste(small.resize((600, 600)), (800, 150))
    assert len(lefts(follower.faces(picture, 40, 0.3))) == 2
