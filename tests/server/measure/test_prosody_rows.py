"""Windows and pieces by their times."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humebatch.server.measure.prosody_rows import LONGEST, SHORTEST, Spans, pieces, windows
from humebatch.server.measure.speech import Turn

SECONDS = st.floats(0, 60)


@given(begin=SECONDS, length=SECONDS, longest=st.floats(1, LONGEST))
def test_pieces_cover_their_span_in_order_and_none_is_too_long_or_too_short(
    begin: float, length: float, longest: float
) -> None:
    found = pieces([(begin, begin + length, "spk_0")], longest)
    if length < SHORTEST * 0.999:
        assert not found
        return
    for piece in found:
        assert SHORTEST * 0.999 <= piece.end - piece.begin <= longest * 1.001
        assert piece.speaker == "spk_0"
    if found:
        assert found[0].begin == begin
        assert found[-1].end == pytest.approx(begin + length)
    for before, after in pairwise(found):
        assert after.begin == pytest.approx(before.end)


def test_a_span_of_no_length_is_no_piece() -> None:
    assert pieces([(3.0, 3.0, "spk_0"), (4.0, 3.5, "spk_0")]) == []


@given(seconds=st.floats(0.1, 60), length=st.floats(0.5, 10), step=st.floats(0.5, 10))
def test_windows_go_by_their_step_up_to_the_end(seconds: float, length: float, step: float) -> None:
    found = list(windows(seconds, length, step))
    assert found[0].begin == 0
    for before, after in pairwise(found):
        assert after.begin - before.begin == pytest.approx(step)
        assert before.end < seconds
    assert all(window.end - window.begin <= length * 1.001 for window in found)
    assert found[-1].end == seconds or found[-1].begin + step >= seconds


def test_windows_in_which_hardly_anybody_speaks_are_left_out() -> None:
    turns = [Turn(4.2, 6.0, 0, 0.9), Turn(9.7, 10.0, 0, 0.9)]
    assert [window.begin for window in windows(12, 2, 2, turns=turns)] == [4.0]
    assert [window.begin for window in windows(12, 2, 2)] == [0, 2, 4, 6, 8, 10]
    assert list(windows(12, 2, 2, turns=[])) == []


def test_a_window_belongs_to_who_speaks_most_of_it_when_speakers_are_asked_for() -> None:
    turns = [Turn(0, 1, 0, 0.5), Turn(1, 1.5, 1, 0.9), Turn(1.5, 2, 0, 0.8), Turn(2, 4, 1, 0.7)]
    first, second = windows(4, 2, 2, turns=turns, identify=True)
    assert (first.speaker, second.speaker) == ("spk_0", "spk_1")
    assert first.speaker_confidence == pytest.approx(0.6)
    assert second.speaker_confidence == pytest.approx(0.7)
    assert {(window.speaker, window.speaker_confidence) for window in windows(4, 2, 2, turns=turns)} == {
        ("unknown", None)
    }


def test_overlaps_are_given_in_seconds() -> None:
    spans = Spans([(0, 2), (2, 5), (7, 9)])
    numbers, shared = spans.overlapping(1.5, 7.25)
    assert numbers.tolist() == [0, 1, 2]
    assert shared.tolist() == pytest.approx([0.5, 3.0, 0.25])
    assert spans.overlapping(5, 7)[0].tolist() == []
    assert spans.overlapping(4, 4)[0].tolist() == [1], "a word may take no time at all"
    assert Spans([]).overlapping(0, 1)[0].tolist() == []
