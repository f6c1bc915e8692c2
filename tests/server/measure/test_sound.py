"""Sound of a file: only its own, and messages that tell nothing about the machine."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest

pytest.importorskip("av", reason="needs the extra 'speech'")

from humebatch.server.measure import Media, Unmeasurable
from humebatch.server.measure.sound import decode
from humebatch.server.measure.tracks import kind_of


def recording(path: Path, seconds: float = 1.0) -> Path:
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
        out.writeframes(b"\x10\x20" * round(16_000 * seconds))
    return path


def test_a_file_that_names_another_file_does_not_have_it_read(tmp_path: Path) -> None:
    assert decode(str(recording(tmp_path / "other.wav")), tmp_path / "sound", 16_000).seconds == 1.0
    listing = tmp_path / "0"
    listing.write_text("ffconcat version 1.0\nfile other.wav\n")
    with pytest.raises(Unmeasurable, match="cannot be decoded"):
        decode(str(listing), tmp_path / "sound", 16_000)
    assert kind_of(Media(str(listing), "a.mp4", "video", "")) == "video"


def test_what_cannot_be_decoded_is_said_without_the_path(tmp_path: Path) -> None:
    damaged = tmp_path / "0"
    damaged.write_bytes(b"RIFF\x24\0\0\0WAVEfmt ")
    with pytest.raises(Unmeasurable) as caught:
        decode(str(damaged), tmp_path / "sound", 16_000)
    assert str(tmp_path) not in str(caught.value)
    assert str(caught.value).startswith("the audio cannot be decoded: ")
