"""Real weights and real photographs for the tests, brought once by the project's own code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from examples.demo_media import MEDIA
from humebatch.server.measure import carried


@pytest.fixture(scope="session")
def photos() -> Mapping[str, Path]:
    """The demo's pictures by name: `astronaut.png`, `grace_hopper.jpg` and `coffee.png` (without a face)."""
    wanted = [file for file in MEDIA.values() if not file.name.endswith(".wav")]
    here = {file.name: path for file in wanted if (path := carried.present(file)) is not None}
    return here if len(here) == len(wanted) else carried.fetch_all(wanted)


@pytest.fixture(scope="session")
def landmarker() -> Path:
    """The face landmarker's weights."""
    return carried.present(carried.TABLE["face_landmarker.task"]) or carried.fetch("face_landmarker.task")
