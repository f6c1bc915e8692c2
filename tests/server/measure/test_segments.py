"""Segments of text and of speech: what they cover, where they lie, and whose they are."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humebatch.predictions import TimeInterval
from humebatch.server.measure import Unmeasurable
from humebatch.server.measure.segments import PAUSE, joined, of_speech, of_text
from humebatch.server.measure.speech import Segment, Transcript, Turn, Word

GRANULARITIES = ("word", "sentence", "utterance", "conversational_turn")


def said(text: str, *, language: str = "en", pauses: dict[str, float] | None = None) -> Transcript:
    """The words of `text`, half a second each, one after the other; `pauses`: seconds of silence before a word."""
    words, now = list[Word](), 0.0
    for word in text.split():
        now += (pauses or {}).get(word, 0.0)
        words.append(Word(text=word, begin=now, end=now + 0.5, confidence=0.8))
        now += 0.5
    return Transcript(words=words, language=language, confidence=0.8)


def texts(segments: list[Segment]) -> list[str]:
    return [segment.text for segment in segments]


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    written = st.text(st.sampled_from("abcÄé你好.?!'1"), min_size=1, max_size=6)
    moments = sorted(draw(st.lists(st.floats(0, 100).map(lambda second: round(second, 2)), min_size=2, max_size=60)))
    words = [
        Word(text=draw(written), begin=begin, end=end, confidence=draw(st.floats(0, 1)))
        for begin, end in zip(moments[::2], moments[1::2], strict=False)
    ]
    return Transcript(words=words, language=draw(st.sampled_from(["en", "zh", "de", "und"])), confidence=0.5)


@st.composite
def speakers(draw: st.DrawFn) -> list[Turn]:
    moments = sorted(draw(st.sets(st.integers(0, 110), max_size=20)))
    return [
        Turn(begin=begin, end=end, speaker=draw(st.integers(0, 3)), confidence=draw(st.floats(0, 1)))
        for begin, end in zip(moments[::2], moments[1::2], strict=False)
    ]


@given(transcripts(), st.sampled_from(GRANULARITIES), speakers(), st.booleans())
def test_segments_of_speech_are_the_whole_transcript_in_order(
    transcript: Transcript, granularity: str, turns: list[Turn], identify: bool
) -> None:
    whole = joined(transcript)
    segments = of_speech(transcript, granularity, turns, identify=identify)
    assert all(segment.text == whole[segment.begin : segment.end] for segment in segments)
    assert all(before.end <= segment.begin for before, segment in pairwise(segments))
    assert "".join(texts(segments)).replace(" ", "") == "".join(word.text for word in transcript.words)
    moments = [moment for segment in segments if segment.time for moment in (segment.time.begin, segment.time.end)]
    assert len(moments) == 2 * len(segments)
    assert moments == sorted(moments)
    assert all(segment.confidence is not None and 0 <= segment.confidence <= 1 for segment in segments)
    for segment in segments:
        known = identify and segment.speaker != "unknown"
        assert (segment.speaker_confidence is not None) == known
        assert known == segment.speaker.startswith("spk_")


@given(st.text(st.sampled_from("ab .!?\n你。"), max_size=40), st.sampled_from(GRANULARITIES))
def test_segments_of_text_cover_all_that_is_visible(text: str, granularity: str) -> None:
    segments = of_text(text, granularity)
    assert all(segment.text == text[segment.begin : segment.end] for segment in segments)
    assert all(before.end <= segment.begin for before, segment in pairwise(segments))
    assert "".join("".join(texts(segments)).split()) == "".join(text.split())
    assert all(segment.time is None and segment.confidence is None for segment in segments)


def test_a_word_is_a_segment_with_its_own_time_and_confidence() -> None:
    transcript = said("One two.")
    assert of_speech(transcript, "word", [], identify=False) == [
        Segment(text="One", begin=0, end=3, time=TimeInterval(0.0, 0.5), confidence=0.8),
        Segment(text="two.", begin=4, end=8, time=TimeInterval(0.5, 1.0), confidence=0.8),
    ]


def test_sentences_end_with_their_punctuation_but_not_after_a_title() -> None:
    found = of_speech(said("I met Mr. Smith. Was he well? He was."), "sentence", [], identify=False)
    assert texts(found) == ["I met Mr. Smith.", "Was he well?", "He was."]
    assert [segment.time for segment in found] == [TimeInterval(0, 2), TimeInterval(2, 3.5), TimeInterval(3.5, 4.5)]


def test_a_pause_ends_an_utterance_whatever_the_punctuation() -> None:
    transcript = said("Well. I think so", pauses={"I": PAUSE - 0.1, "so": PAUSE})
    assert texts(of_speech(transcript, "utterance", [], identify=False)) == ["Well. I think", "so"]


def test_a_change_of_speaker_ends_a_conversational_turn_and_names_are_given_only_if_asked_for() -> None:
    transcript = said("How are you? Fine. And you?")
    turns = [Turn(0, 1.5, 0, 0.9), Turn(1.5, 3.0, 1, 0.7)]
    nameless = of_speech(transcript, "conversational_turn", turns, identify=False)
    assert texts(nameless) == ["How are you?", "Fine. And you?"]
    assert {(segment.speaker, segment.speaker_confidence) for segment in nameless} == {("unknown", None)}
    named = of_speech(transcript, "conversational_turn", turns, identify=True)
    assert [(segment.speaker, segment.speaker_confidence) for segment in named] == [("spk_0", 0.9), ("spk_1", 0.7)]


def test_an_utterance_has_one_speaker_when_speakers_are_told_apart() -> None:
    transcript = said("How are you? Fine.")
    turns = [Turn(0, 1.5, 0, 0.9), Turn(1.5, 2.0, 1, 0.7)]
    assert texts(of_speech(transcript, "utterance", turns, identify=False)) == ["How are you? Fine."]
    assert texts(of_speech(transcript, "utterance", turns, identify=True)) == ["How are you?", "Fine."]


def test_a_segment_belongs_to_whoever_has_most_of_its_time() -> None:
    [sentence] = of_speech(said("a b c d."), "sentence", [Turn(0, 0.6, 0, 0.5), Turn(0.6, 2, 1, 0.8)], identify=True)
    assert (sentence.speaker, sentence.speaker_confidence) == ("spk_1", 0.8)


def test_a_word_beside_a_turn_belongs_to_it_and_one_far_from_all_to_nobody() -> None:
    transcript = said("near far", pauses={"near": 1.1, "far": 2.0})
    near, far = of_speech(transcript, "word", [Turn(0, 1, 0, 0.6)], identify=True)
    assert (near.speaker, near.speaker_confidence) == ("spk_0", 0.6)
    assert (far.speaker, far.speaker_confidence) == ("unknown", None)


def test_languages_without_spaces_are_joined_without_but_keep_them_between_foreign_words() -> None:
    assert joined(said("我 用 Visual Studio 。", language="zh")) == "我用Visual Studio。"
    assert joined(said("ich nutze Visual Studio", language="de")) == "ich nutze Visual Studio"


def test_nothing_said_is_no_segment() -> None:
    nothing = Transcript(words=[], language="und", confidence=0.0)
    assert joined(nothing) == ""
    assert all(of_speech(nothing, granularity, [], identify=True) == [] for granularity in GRANULARITIES)


def test_another_granularity_is_refused_by_name() -> None:
    with pytest.raises(Unmeasurable, match="'paragraph'"):
        of_speech(said("a"), "paragraph", [], identify=False)
    with pytest.raises(Unmeasurable, match="'paragraph'"):
        of_text("a", "paragraph")
