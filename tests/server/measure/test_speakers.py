"""Speakers: real voices told apart, and the promises about counts, numbers and order."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.demo_media import MEDIA
from humebatch.server.measure import Unmeasurable, carried
from humebatch.server.measure.sound import Sound, decode
from humebatch.server.measure.speaker_encoder import encoder, tensors
from humebatch.server.measure.speakers import SHORTEST, speakers, turns
from humebatch.server.measure.speech import Turn

RATE = 16_000
Samples = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Sound]:
    """A dialog of a man and a woman, and one reader; the encoder's weights are brought besides."""
    names = ("endgame_nagg_nell.wav", "two_cities.wav")
    wanted = [carried.TABLE["speaker_encoder.pt"], *(MEDIA[name] for name in names)]
    here = {file.name: path for file in wanted if (path := carried.present(file)) is not None}
    found = here if len(here) == len(wanted) else carried.fetch_all(wanted)
    folder = tmp_path_factory.mktemp("voices")
    return {name: decode(str(found[name]), folder / name, RATE) for name in names}


def sound(samples: Samples, folder: Path) -> Sound:
    path = folder / "samples"
    path.write_bytes((samples * 32767).astype("<i2").tobytes())
    return Sound(path, RATE)


def at(found: list[Turn], second: float) -> int:
    [speaker] = {turn.speaker for turn in found if turn.begin <= second < turn.end}
    return speaker


def check(found: list[Turn], recording: Sound) -> None:
    assert all(0 <= turn.begin < turn.end <= recording.seconds + 0.001 for turn in found)
    assert all(before.end <= turn.begin for before, turn in pairwise(found))
    assert all(0 < turn.confidence <= 1 for turn in found)
    numbers = list(dict.fromkeys(turn.speaker for turn in found))
    assert numbers == list(range(len(numbers)))


def test_two_people_in_a_dialog_are_told_apart(voices: Mapping[str, Sound]) -> None:
    recording = voices["endgame_nagg_nell.wav"]
    found = turns(recording, total=2)
    check(found, recording)
    # He and she take turns: 4.8–8.1 she, 8.7–11.4 he, 12.0–14.0 she, 14.7–17.0 he, 23.7–27.4 she.
    assert at(found, 6) == at(found, 13) == at(found, 25)
    assert at(found, 10) == at(found, 16)
    assert at(found, 6) != at(found, 10)
    assert turns(recording, total=2) == found


def test_as_many_speakers_as_were_asked_for_and_no_more_than_allowed(voices: Mapping[str, Sound]) -> None:
    recording = voices["endgame_nagg_nell.wav"]
    for count in (1, 3, 5):
        found = turns(recording, total=count)
        check(found, recording)
        assert len({turn.speaker for turn in found}) == count
    free = {turn.speaker for turn in turns(recording)}
    assert len(free) >= 2
    assert {turn.speaker for turn in turns(recording, maximum=100)} == free
    assert {turn.speaker for turn in turns(recording, maximum=1)} == {0}


def test_one_reader_is_one_speaker_and_sure_of_it(voices: Mapping[str, Sound], tmp_path: Path) -> None:
    recording = sound(voices["two_cities.wav"].read(0, 20), tmp_path)
    found = turns(recording)
    check(found, recording)
    assert {(turn.speaker, turn.confidence) for turn in found} == {(0, 1.0)}


def test_more_speakers_than_there_is_speech_for_is_as_many_as_there_is(
    voices: Mapping[str, Sound], tmp_path: Path
) -> None:
    recording = sound(voices["two_cities.wav"].read(1.2, 2.6), tmp_path)
    assert len({turn.speaker for turn in turns(recording, total=50)}) == 1


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(3 * RATE, np.float32),
        np.random.default_rng(1).normal(0, 0.05, 3 * RATE).astype(np.float32),
        np.zeros(0, np.float32),
    ],
    ids=["silence", "noise", "nothing"],
)
def test_where_nobody_speaks_there_is_no_turn(samples: Samples, tmp_path: Path) -> None:
    assert turns(sound(samples, tmp_path)) == []
    assert turns(sound(samples, tmp_path), total=2) == []


def test_audio_that_is_too_short_has_no_turn(voices: Mapping[str, Sound], tmp_path: Path) -> None:
    assert turns(sound(voices["two_cities.wav"].read(1.5, 1.5 + SHORTEST - 0.01), tmp_path)) == []
    assert turns(sound(voices["two_cities.wav"].read(1.5, 1.5 + SHORTEST + 0.2), tmp_path)) != []


def test_missing_weights_are_named(
    voices: Mapping[str, Sound], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.delenv(carried.MODEL_DIR, raising=False)
    encoder.cache_clear()
    with pytest.raises(Unmeasurable, match=r"speaker_encoder\.pt .*humebatch weights --fetch"):
        turns(voices["endgame_nagg_nell.wav"])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_groups_of_windows_become_speakers(people: list[int], count: int, seed: int) -> None:
    """`people`: whose voice each window is."""
    noise = np.random.default_rng(seed).normal(0, 0.01, (len(people), 256)).astype(np.float32)
    embeddings = np.eye(256, dtype=np.float32)[people] + noise
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    for centres, most in (
        (speakers(embeddings), 4),
        (speakers(embeddings, maximum=count), count),
        (speakers(embeddings, total=count), count),
    ):
        assert 1 <= len(centres) <= most
        assert np.allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-5)
    assert len(speakers(embeddings, total=count)) == min(count, len(people))
    # Whoever speaks in at least four windows is found, as long as nothing limits it.
    often = {person for person in people if people.count(person) >= 4}
    near = (embeddings @ speakers(embeddings).T).argmax(axis=1)
    for person in often:
        assert len({int(near[place]) for place, one in enumerate(people) if one == person}) == 1
    assert len({int(near[people.index(person)]) for person in often}) == len(often)


def test_a_window_sounds_like_others_of_its_speaker(voices: Mapping[str, Sound]) -> None:
    she, he = voices["endgame_nagg_nell.wav"], voices["two_cities.wav"]
    windows = [she.read(5.0, 6.6), she.read(24.5, 26.1), he.read(6.7, 8.2), he.read(31.0, 32.6)]
    found = encoder().embed(windows)
    assert found.shape == (4, 256)
    alike = found @ found.T
    assert min(alike[0, 1], alike[2, 3]) > max(alike[0, 2], alike[0, 3], alike[1, 2], alike[1, 3])
    assert np.allclose(encoder().embed(windows[:1])[0], found[0], atol=1e-5)
    assert encoder().embed([]).shape == (0, 256)


def test_a_weights_file_that_asks_for_more_than_tensors_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("run",)

    path = tmp_path / "evil.pt"
    content: list[object] = [1, 2, 3, {"model_state": Evil()}, []]
    path.write_bytes(b"".join(pickle.dumps(one) for one in content))
    with pytest.raises(pickle.UnpicklingError, match=r"builtins\.print"):
        tensors(path)
