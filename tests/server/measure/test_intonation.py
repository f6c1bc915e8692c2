"""Pitch, level and pace of voices that are made here, so that the right answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humebatch.server.measure.intonation import PER_SECOND, Intonation, listen, track
from humebatch.server.measure.sound import Sound

RATE = 16_000
Floats = npt.NDArray[np.float32]


def voice(seconds: float, pitch: float, loudness: float = 0.3, syllables: float = 0.0) -> Floats:
    """Something like a sung vowel: harmonics that fall off, with `syllables` swells a second (0: none)."""
    time = np.arange(round(seconds * RATE)) / RATE
    harmonics = range(1, int(4000 / pitch) + 1)
    tone = sum(np.sin(2 * np.pi * pitch * number * time) / number for number in harmonics)
    if syllables:
        tone = tone * (0.55 - 0.45 * np.cos(2 * np.pi * syllables * time))
    samples: Floats = (loudness * tone / np.abs(tone).max()).astype(np.float32)
    return samples


def stored(samples: Floats, folder: Path) -> Sound:
    path = folder / "sound"
    path.write_bytes((samples * 32767).astype("<i2").tobytes())
    return Sound(path, RATE)


@settings(deadline=None, max_examples=30)
@given(pitch=st.floats(75, 450), loudness=st.floats(0.01, 0.9))
def test_the_pitch_of_a_voice_is_found_within_two_percent_however_loud_it_is(pitch: float, loudness: float) -> None:
    found = track(voice(1, pitch, loudness)).between(0.1, 0.9)
    assert found["pitch_hz"] == pytest.approx(pitch, rel=0.02)
    assert found["pitch_range_semitones"] < 0.5


def test_a_pitch_that_rises_an_octave_has_a_range_of_nearly_an_octave() -> None:
    seconds = 2
    pitch = 120 * 2 ** np.linspace(0, 1, seconds * RATE)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    harmonics = np.array([np.sin(number * phase) / number for number in range(1, 12)])
    found = track((0.2 * harmonics.sum(axis=0)).astype(np.float32)).between(0, seconds)
    assert 8.5 < found["pitch_range_semitones"] < 10.5  # 80 % of an octave lies between the 10th and 90th percentile
    assert found["pitch_hz"] == pytest.approx(120 * 2**0.5, rel=0.03)


def test_noise_and_silence_have_no_pitch() -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, 2 * RATE).astype(np.float32)
    assert "pitch_hz" not in track(noise).between(0, 2)
    silence = track(np.zeros(2 * RATE, np.float32)).between(0, 2)
    assert silence == {"energy_db": -100.0, "syllables_per_second": 0.0}


def test_half_the_amplitude_is_six_decibels_less() -> None:
    loud, soft = (track(voice(1, 150, loudness)).between(0.2, 0.8)["energy_db"] for loudness in (0.5, 0.25))
    assert loud - soft == pytest.approx(6.02, abs=0.15)


@pytest.mark.parametrize("syllables", [2, 4, 6])
def test_swells_of_a_voice_are_counted_as_its_syllables(syllables: int) -> None:
    found = track(voice(3, 140, syllables=syllables)).between(0, 3)
    assert found["syllables_per_second"] == pytest.approx(syllables, abs=0.4)


def test_a_stretch_shorter_than_a_second_has_no_pace() -> None:
    assert "syllables_per_second" not in track(voice(3, 140, syllables=4)).between(1.0, 1.9)


def test_what_lies_behind_the_end_has_nothing_to_tell() -> None:
    assert track(voice(1, 140)).between(5, 6) == {}


def test_a_recording_read_in_blocks_sounds_like_one_read_at_once(tmp_path: Path) -> None:
    samples = np.concatenate([voice(29.8, 110), voice(1.7, 300), voice(33, 180)])
    at_once, in_blocks = track(samples), listen(stored(samples, tmp_path))
    assert len(in_blocks.pitch) == len(in_blocks.level) == round(64.5 * PER_SECOND)
    np.testing.assert_allclose(in_blocks.pitch, at_once.pitch, rtol=2e-3, atol=0.5)
    np.testing.assert_allclose(in_blocks.level, at_once.level, atol=0.2)
    assert in_blocks.between(30.0, 31.4)["pitch_hz"] == pytest.approx(300, rel=0.02)


def test_progress_is_told_up_to_the_end(tmp_path: Path) -> None:
    told: list[float] = []
    listen(stored(voice(31, 200), tmp_path), told.append)
    assert told == [10.0, 20.0, 30.0, 31.0]


def test_another_rate_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound"
    path.write_bytes(bytes(200))
    with pytest.raises(ValueError, match="16000 samples a second, not at 8000"):
        listen(Sound(path, 8_000))


def test_an_hour_takes_less_than_two_megabytes() -> None:
    frames = 3600 * PER_SECOND
    hour = Intonation(np.zeros(frames, np.float16), np.zeros(frames, np.float16))
    assert hour.pitch.nbytes + hour.level.nbytes < 2 * 2**20
