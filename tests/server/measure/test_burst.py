"""Bursts, seen from the runner: a recording in, rows out; and the parts that decide, on made-up numbers."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.splicing import BURST, Score, overlap, splice
from examples.demo_media import MEDIA
from humebatch.jobs import Burst
from humebatch.predictions import BurstPrediction
from humebatch.server.measure import Media, Row, Unmeasurable, carried
from humebatch.server.measure.acoustic import RATE, WIDTH, audible, prepared
from humebatch.server.measure.burst import BurstMeasurer, measurer, named
from humebatch.server.measure.burst_card import CARD, CLASSES
from humebatch.server.measure.burst_gate import runs
from humebatch.server.measure.recording import Recording
from humebatch.server.measure.sound import Samples, Sound
from humebatch.vocabulary import BURST_DESCRIPTIONS, EMOTIONS

Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def bursts() -> BurstMeasurer:
    return measurer("burst")


@pytest.fixture(scope="module")
def speech() -> Floats:
    """Ten seconds read aloud."""
    path = carried.fetch_all([MEDIA["two_cities.wav"]])["two_cities.wav"]
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("s16", "mono", RATE)
        pieces = [piece.to_ndarray()[0] for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
    return np.concatenate(pieces)[: 10 * RATE].astype(np.float32) / np.float32(32768)


def laugh(seconds: float = 2.0, pitch: float = 300.0) -> Floats:
    """Something like ha-ha-ha: a buzz through the resonances of an open vowel, six times a second, and breath."""
    time = np.arange(round(seconds * RATE)) / RATE
    beat = (time * 6) % 1
    phase = np.cumsum(pitch * (1 - 0.4 * time / seconds) * (1 + 0.15 * np.sin(np.pi * beat))) / RATE
    voice = np.zeros(len(time))
    for harmonic in range(1, 25):
        weight = sum(1 / (1 + ((harmonic * pitch - formant) / 120) ** 2) for formant in (800, 1300, 2600))
        voice += weight * np.sin(2 * np.pi * harmonic * phase)
    breath = np.random.default_rng(3).normal(size=len(time)) * (beat > 0.6) * 0.15
    sound = voice * np.sin(np.pi * np.minimum(beat / 0.55, 1)) + breath
    return (0.1 * np.exp(-time / seconds) * sound).astype(np.float32)


def silence(seconds: float) -> Floats:
    return np.zeros(round(seconds * RATE), np.float32)


def quiet(seconds: float) -> Floats:
    """A room in which nothing is heard but a little hiss."""
    return (np.random.default_rng(1).normal(size=round(seconds * RATE)) * 1e-4).astype(np.float32)


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[[Floats], Recording]:
    """A recording of these samples."""

    def make(samples: Floats) -> Recording:
        path = tmp_path / "sound.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
        return Recording(Media(str(path), "sound.wav", "audio", "0" * 32), scratch=tmp_path)

    return make


def rows(measurer: BurstMeasurer, recording: Recording) -> list[BurstPrediction]:
    """What is found, all of it rows of nobody in particular."""
    found = list(measurer.measure(recording, Burst()))
    assert all(isinstance(row, Row) and row.group == "unknown" for row in found)
    return [row.prediction for row in found if isinstance(row, Row) and isinstance(row.prediction, BurstPrediction)]


def test_a_laugh_in_speech_is_found_where_it_is(
    bursts: BurstMeasurer, speech: Floats, recorded: Callable[[Floats], Recording]
) -> None:
    samples = np.concatenate([speech[: 4 * RATE], quiet(0.6), laugh(), quiet(0.6), speech[4 * RATE :]])
    [found] = rows(bursts, recorded(samples))
    assert overlap((found.time.begin, found.time.end), (4.6, 6.6)) > 0.5


def test_a_row_has_the_measured_names_only_in_the_order_of_the_api(
    bursts: BurstMeasurer, recorded: Callable[[Floats], Recording]
) -> None:
    [found] = rows(bursts, recorded(np.concatenate([quiet(1), laugh(), quiet(1)])))
    names = [score.name for score in found.emotions]
    assert names == [name for name in EMOTIONS if name in names]
    assert len(names) == 28
    assert not {"Neutral", "Love", "Romance", "Boredom"} & set(names)
    assert all(0 < score.score < 1 for score in found.emotions)
    assert sum(score.score for score in found.emotions) < 1  # the rest is of classes without a name
    assert [(score.name, score.score) for score in found.descriptions] == [("Laugh", found.emotions["Amusement"])]


@pytest.mark.parametrize("kind", ["silence", "hiss", "beeps", "hum"])
def test_what_nobody_uttered_is_no_burst(
    bursts: BurstMeasurer, recorded: Callable[[Floats], Recording], kind: str
) -> None:
    time = np.arange(5 * RATE) / RATE
    samples = {
        "silence": np.zeros(len(time)),
        "hiss": np.random.default_rng(2).normal(size=len(time)) * 0.1,
        "beeps": 0.3 * np.sin(2 * np.pi * 1000 * time) * (time % 1 < 0.3),
        "hum": sum(0.2 / n * np.sin(2 * np.pi * 50 * n * time) for n in range(1, 10)),
    }[kind]
    assert rows(bursts, recorded(np.asarray(samples, np.float32))) == []


def test_speech_is_no_burst(bursts: BurstMeasurer, speech: Floats, recorded: Callable[[Floats], Recording]) -> None:
    assert rows(bursts, recorded(speech)) == []


def test_the_same_recording_gives_the_same_rows(bursts: BurstMeasurer, recorded: Callable[[Floats], Recording]) -> None:
    recording = recorded(np.concatenate([quiet(1), laugh(), quiet(2), laugh(1.6, 260), quiet(1)]))
    first = rows(bursts, recording)
    assert first
    assert rows(bursts, recording) == first


def test_the_recording_is_read_in_blocks_and_rows_come_as_it_goes(
    bursts: BurstMeasurer, recorded: Callable[[Floats], Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[float] = []
    read: list[int] = []
    recording = recorded(np.concatenate([quiet(2), laugh(), quiet(40)]))
    recording.progress = reached.append
    whole = Sound.read

    def watched(self: Sound, begin: float = 0.0, end: float | None = None) -> Samples:
        samples = whole(self, begin, end)
        read.append(len(samples))
        return samples

    monkeypatch.setattr(Sound, "read", watched)
    findings = bursts.measure(recording, Burst())
    next(findings)
    assert reached[-1] <= 20
    assert list(findings) == []
    assert reached[-1] == pytest.approx(44)
    assert max(read) <= 10 * RATE


@pytest.mark.parametrize("content", [b"", b"this is no sound", b"RIFF\x24\0\0\0WAVEfmt "])
def test_a_file_without_sound_is_refused(bursts: BurstMeasurer, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.wav"
    path.write_bytes(content)
    recording = Recording(Media(str(path), "broken.wav", "audio", "0" * 32), scratch=tmp_path)
    with pytest.raises(Unmeasurable, match="audio"):
        list(bursts.measure(recording, Burst()))


def test_the_measurer_is_of_bursts_alone() -> None:
    with pytest.raises(ValueError, match="not prosody"):
        measurer("prosody")


def test_every_emotion_comes_from_one_class() -> None:
    classes = [one.of for one in CARD.names if one.name in EMOTIONS]
    assert set(classes) == set(CLASSES) - {"Neutral", "Romantic Love"}
    assert len(classes) == len(set(classes))


def test_scores_are_those_of_the_class_that_the_card_names() -> None:
    probabilities = np.arange(30, dtype=np.float32) / np.float32(100)
    found = named(probabilities, (*EMOTIONS, *BURST_DESCRIPTIONS))
    assert [score.name for score in found] == [one.name for one in CARD.names]
    for one in CARD.names:
        assert found[one.name] == pytest.approx(CLASSES.index(one.of) / 100)


def test_an_embedding_does_not_depend_on_the_other_clips(bursts: BurstMeasurer, speech: Floats) -> None:
    clips = [laugh(), speech[: 3 * RATE], quiet(0.3), np.zeros(0, np.float32), speech]
    together = bursts.encoder.embed(clips)
    assert together.shape == (5, WIDTH)
    assert np.isfinite(together).all()
    for clip, row in zip(clips, together, strict=True):
        np.testing.assert_allclose(bursts.encoder.embed([clip])[0], row, rtol=1e-4, atol=1e-4)


def test_the_quiet_around_a_clip_does_not_count() -> None:
    def within(before: float, after: float) -> Floats:
        return np.concatenate([silence(before), laugh(), silence(after)])

    np.testing.assert_array_equal(prepared(within(0.5, 2)), prepared(within(3, 0.2)))


@given(st.lists(st.floats(0, 1), max_size=400))
def test_runs_are_apart_long_enough_and_somewhere_sure(likeness: list[float]) -> None:
    end = 0
    for first, last in runs(likeness):
        assert end <= first < last <= len(likeness)
        assert 3 <= last - first <= 100
        assert max(likeness[first:last]) >= 0.95
        assert likeness[first] >= 0.5
        assert likeness[last - 1] >= 0.5
        end = last


def test_short_interruptions_are_bridged_and_long_ones_part() -> None:
    sure, none = [0.99] * 4, [0.0]
    assert list(runs(none * 2 + sure + none * 2 + sure)) == [(2, 12)]
    assert list(runs(none * 2 + sure + none * 3 + sure)) == [(2, 6), (9, 13)]


def test_what_is_only_likely_is_no_burst() -> None:
    assert list(runs([0.6] * 20)) == []
    assert list(runs([0.6] * 10 + [0.99] + [0.6] * 9)) == [(0, 20)]


@given(st.integers(0, 3 * RATE), st.integers(0, 9 * RATE), st.integers(0, 3 * RATE))
def test_a_prepared_clip_has_between_one_and_six_seconds(before: int, loud: int, after: int) -> None:
    clip = np.concatenate([np.zeros(before), np.full(loud, 0.5), np.zeros(after)]).astype(np.float32)
    first, last = audible(clip)
    assert 0 <= first <= last <= len(clip)
    if loud > RATE // 10:
        assert first <= before
        assert last >= before + loud - 160  # a last part of 10 ms is left out when it is not whole
    assert RATE <= len(prepared(clip)) <= 6 * RATE


def test_a_burst_counts_once_and_only_where_it_overlaps_enough() -> None:
    score = Score(0.5)
    score.add(found=[(1.0, 2.0), (2.0, 2.2), (5.0, 9.0)], there=[(1.1, 2.1), (5.0, 6.0)])
    assert (score.right, score.found, score.there) == (1, 3, 2)
    assert (score.precision, score.recall) == (1 / 3, 1 / 2)


def test_a_splice_says_where_its_bursts_are() -> None:
    tone = (0.5 * np.sin(np.arange(RATE) / 3)).astype(np.float32)
    made = splice([np.zeros(RATE, np.float32)], [tone], [np.zeros(RATE, np.float32)], seconds=20, seed=4)
    there = np.zeros(len(made.samples), bool)
    for part in made.parts:
        if part.kind == BURST:
            there[round(part.begin * RATE) : round(part.end * RATE)] = True
    assert 0 < there.mean() < 1
    assert np.abs(made.samples[there]).mean() > 10 * np.abs(made.samples[~there]).mean()
