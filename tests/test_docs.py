"""The pages under docs/ are true: their code is run as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MEASURERS = (ROOT / "docs" / "measurers.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", MEASURERS, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's example as it lies in site-packages once it is installed."""
    folder = tmp_path_factory.mktemp("installed")
    measurer, _ = blocks("python")
    (folder / "joywords.py").write_text(measurer)
    (toml,) = blocks("toml")
    project = tomllib.loads(toml)["project"]
    about = folder / f"{project['name']}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    ((group, points),) = project["entry-points"].items()
    lines = [f"{name} = {target}" for name, target in points.items()]
    (about / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
    return folder


def run(package: Path, *command: str) -> str:
    path = os.pathsep.join([str(package), str(ROOT)])
    done = subprocess.run(
        [sys.executable, *command], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_measures_what_it_says_it_measures(package: Path) -> None:
    _, script = blocks("python")
    assert run(package, "-c", script).splitlines() == ["I am happy. 0.33", "So glad! 0.5", "It rains. 0.0"]


def test_the_example_is_found_by_its_name_and_shows_its_card(package: Path) -> None:
    show = "from humebatch.server.measure import load; print(load('language', 'joywords').card.summary)"
    assert "five words" in run(package, "-c", show)


def test_the_example_passes_the_type_checker(package: Path) -> None:
    run(package, "-m", "mypy", "--strict", "--config-file", os.devnull, str(package / "joywords.py"))


def test_every_command_that_the_page_names_can_be_parsed() -> None:
    from humebatch.server.measure import Selection

    chosen = re.findall(r"^humebatch serve --measure (\S+)$", "\n".join(blocks("bash")), re.MULTILINE)
    assert [Selection.parse(value).of("language") for value in chosen] == [
        "joywords",
        "hf:SamLowe/roberta-base-go_emotions",
        "hf:/models/my-emotions",
    ]


def test_every_call_that_the_page_lists_is_one_of_a_recording() -> None:
    from humebatch.server.measure.recording import Recording

    named = set(re.findall(r"`recording\.(\w+)", MEASURERS))
    public = {name for name in vars(Recording) if not name.startswith("_")} | {"media", "progress"}
    assert named == public
