"""A server of the command line, and files to measure."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .process import KEY


@pytest.fixture(scope="session")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`humebatch serve` with made-up scores, as a process of its own."""
    folder = tmp_path_factory.mktemp("serve")
    with subprocess.Popen(
        [sys.executable, "-m", "humebatch", "serve", "--data", "data", "--port", "0", "--measure", "fixed"],
        cwd=folder,
        env={**os.environ, "HUME_API_KEY": KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0
        assert out == "", "only the base URL is on stdout"
        assert KEY not in err


@pytest.fixture
def remote(base_url: str) -> dict[str, str]:
    return {"HUMEBATCH_BASE_URL": base_url, "HUME_API_KEY": KEY}


@pytest.fixture
def media(tmp_path: Path) -> Path:
    for name, content in (
        ("a/clip.wav", b"RIFF0000WAVEfmt "),
        ("a/b/letter.txt", b"I am happy. You are not."),
        ("a/.hidden", b"x"),
        ("photo.png", b"\x89PNG\r\n\x1a\n"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path
