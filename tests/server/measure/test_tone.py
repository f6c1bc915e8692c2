"""Heads of tone: what they say about a speaker depends on the speaker's other utterances and on nothing else."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from humebatch.server.measure.acoustic import WIDTH
from humebatch.server.measure.tone import AROUSAL, Heads, centred, level


def heads(seed: int = 0) -> Heads:
    rng = np.random.default_rng(seed)
    return Heads(
        rng.normal(0, 0.02, (WIDTH, 3)).astype(np.float32),
        rng.normal(0, 1, 3).astype(np.float32),
        ("Joy", "Anger", AROUSAL),
    )


def utterances(count: int, seed: int = 1) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(0, 1, (count, WIDTH)).astype(np.float32)


def test_scores_are_probabilities() -> None:
    emotions, arousal = heads().scores(heads().read(utterances(40)) * 100)
    np.testing.assert_allclose(emotions.sum(axis=1), 1, rtol=1e-5)
    assert emotions.min() >= 0
    assert 0 <= arousal.min() <= arousal.max() <= 1


def test_what_all_utterances_of_a_speaker_share_has_no_part_in_the_scores() -> None:
    said, speakers = utterances(12), np.array(["a"] * 5 + ["b"] * 7)
    own = np.random.default_rng(7).normal(0, 3, WIDTH).astype(np.float32)
    other = np.where((speakers == "b")[:, None], said + own, said)
    plain, shifted = (heads().scores(centred(heads().read(x), speakers)) for x in (said, other))
    np.testing.assert_allclose(shifted[0], plain[0], atol=1e-4)
    np.testing.assert_allclose(shifted[1], plain[1], atol=1e-4)


def test_the_mean_of_what_was_read_is_what_was_read_of_the_mean() -> None:
    """Why eight numbers per utterance are enough to keep."""
    said, speakers = utterances(9), np.array(["a"] * 9)
    np.testing.assert_allclose(heads().read(centred(said, speakers)), centred(heads().read(said), speakers), atol=1e-4)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(-100, 100, width=32)), min_size=1, max_size=30))
def test_every_speaker_is_centred_on_their_own(rows: list[tuple[str, float]]) -> None:
    speakers = np.array([speaker for speaker, _ in rows])
    moved = centred(np.array([[value] for _, value in rows], np.float32), speakers)
    for speaker in set(speakers.tolist()):
        assert abs(float(moved[speakers == speaker].mean())) < 1e-3


def test_saved_heads_say_the_same_and_are_the_same_file(tmp_path: Path) -> None:
    one, two = tmp_path / "one.npz", tmp_path / "two.npz"
    heads().save(one)
    heads().save(two)
    loaded = Heads.load(one)
    assert loaded.names == ("Joy", "Anger", AROUSAL)
    assert np.array_equal(loaded.read(utterances(3)), heads().read(utterances(3)))
    assert one.read_bytes() == two.read_bytes()


def test_heads_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no heads of tone: weights \(7, 2\)"):
        Heads(np.zeros((7, 2), np.float32), np.zeros(2, np.float32), ("Joy", AROUSAL))
    with pytest.raises(ValueError, match="no heads of tone"):
        Heads(np.zeros((WIDTH, 2), np.float32), np.zeros(2, np.float32), ("Joy", "Anger"))


def test_the_heads_of_this_package_are_small() -> None:
    stored = files("humebatch.server.measure") / "weights" / "prosody_heads.npz"
    assert len(stored.read_bytes()) < 2**20


@given(st.floats(2**-10, 1, width=32))
def test_every_clip_is_made_equally_loud(loudness: float) -> None:
    clip = np.sin(np.arange(1000, dtype=np.float32) / 7) * np.float32(loudness)
    assert float(np.abs(level(clip)).max()) == pytest.approx(0.5, rel=1e-4)


def test_silence_stays_silence() -> None:
    assert not level(np.zeros(100, np.float32)).any()
    assert not len(level(np.zeros(0, np.float32)))
