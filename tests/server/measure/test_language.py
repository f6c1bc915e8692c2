"""The language measurer, seen from the runner: a file and a config in, predictions or a refusal out."""

from __future__ import annotations

import codecs
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from humebatch.jobs import Language
from humebatch.predictions import LanguagePrediction
from humebatch.server.measure import FileType, Measured, Measurer, Media, Unmeasurable, language
from humebatch.vocabulary import LANGUAGE_EMOTIONS

# Names of the vendor that GoEmotions has a class for; all others must be absent, not zero.
MEASURED_NAMES = [
    "Admiration", "Amusement", "Anger", "Annoyance", "Anxiety", "Confusion", "Desire", "Disappointment",
    "Disapproval", "Disgust", "Embarrassment", "Excitement", "Fear", "Gratitude", "Guilt", "Interest", "Joy",
    "Love", "Pride", "Realization", "Relief", "Sadness",
]  # fmt: skip


@pytest.fixture(scope="module")
def measurer() -> language.LanguageMeasurer:
    return language.measurer("language")


class Measure(Protocol):
    def __call__(
        self,
        content: str | bytes,
        granularity: str | None = "sentence",
        *,
        file_type: FileType = "text",
        sentiment: dict[str, Any] | None = None,
        toxicity: dict[str, Any] | None = None,
    ) -> Measured: ...


@pytest.fixture
def measure(measurer: language.LanguageMeasurer, tmp_path: Path) -> Measure:
    """Measure a text, or the bytes of a file."""

    def run(
        content: str | bytes,
        granularity: str | None = "sentence",
        *,
        file_type: FileType = "text",
        sentiment: dict[str, Any] | None = None,
        toxicity: dict[str, Any] | None = None,
    ) -> Measured:
        path = tmp_path / "content"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        config = Language(granularity=granularity, sentiment=sentiment, toxicity=toxicity)
        return measurer.measure(Media(str(path), "1", file_type, "0" * 32), config)

    return run


def rows(measured: Measured) -> list[LanguagePrediction]:
    (group,) = measured.predictions.grouped_predictions
    assert group.id == "unknown"
    return group.predictions


def places(measured: Measured) -> list[tuple[str, int, int]]:
    return [(row.text, row.position.begin, row.position.end) for row in rows(measured)]


def scores(row: LanguagePrediction) -> dict[str, float]:
    return {score.name: score.score for score in row.emotions}


def top(row: LanguagePrediction) -> str:
    return max(row.emotions, key=lambda score: score.score).name


def test_is_a_measurer(measurer: language.LanguageMeasurer) -> None:
    assert isinstance(measurer, Measurer)
    assert (measurer.model, measurer.file_types) == ("language", frozenset({"text", "audio", "video"}))
    with pytest.raises(ValueError, match="burst"):
        language.measurer("burst")


# What the scores say


@pytest.mark.parametrize(
    ("text", "emotion"),
    [
        ("Thank you so much for your help, I really appreciate it!", "Gratitude"),
        ("I love you with all my heart.", "Love"),
        ("I am so scared, this place terrifies me.", "Fear"),
        ("I feel so sad and lonely since she left, I can't stop crying.", "Sadness"),
        ("Eww, that is gross and disgusting.", "Disgust"),
        ("Haha, that is hilarious, I can't stop laughing lol", "Amusement"),
        ("I'm so sorry, I apologize for what I did, I regret it.", "Guilt"),
        ("What a fantastic and impressive performance, you are amazing!", "Admiration"),
        ("I am furious, I hate these people!", "Anger"),
        ("I am confused, I don't understand what you mean.", "Confusion"),
    ],
)
def test_an_unmistakable_sentence_gets_its_emotion(measure: Measure, text: str, emotion: str) -> None:
    (row,) = rows(measure(text))
    assert top(row) == emotion
    assert scores(row)[emotion] > 0.4


def test_a_dry_sentence_gets_no_emotion(measure: Measure) -> None:
    (row,) = rows(measure("The train from platform four leaves at noon."))
    assert max(scores(row).values()) < 0.2


def test_a_single_word_is_read(measure: Measure) -> None:
    thanks, table = rows(measure("Thanks table", "word"))
    assert scores(thanks)["Gratitude"] > 0.5
    assert scores(table)["Gratitude"] < 0.1


def test_scores_are_the_measured_names_in_vocabulary_order_between_0_and_1(measure: Measure) -> None:
    (row,) = rows(measure("I am so happy to see you!"))
    assert [score.name for score in row.emotions] == MEASURED_NAMES
    assert all(type(score.score) is float and 0 <= score.score <= 1 for score in row.emotions)
    assert all(score.score == round(score.score, 6) for score in row.emotions)


def test_the_mapping_is_one_to_one_from_known_classes_to_known_names() -> None:
    assert sorted(language.MEASURED.values()) == MEASURED_NAMES == sorted(set(language.MEASURED.values()))
    assert set(language.MEASURED) < set(language.LABELS)
    assert set(MEASURED_NAMES) < set(LANGUAGE_EMOTIONS)
    # These do not mean what any of the 53 names means.
    assert not {"neutral", "approval", "optimism", "surprise", "caring", "grief"} & set(language.MEASURED)


def test_a_segment_scores_the_same_alone_and_among_others(measure: Measure) -> None:
    (alone,) = rows(measure("I love this song."))
    among = rows(measure("I love this song. What a terrible and frightening day it was! " * 20 + "I love this song."))
    assert scores(among[0]) == pytest.approx(scores(alone), abs=2e-6)
    assert scores(among[-1]) == scores(among[0])


# Where the segments are


def test_word_is_the_default_and_keeps_punctuation_attached(measure: Measure) -> None:
    (row,) = rows(measure("Test!", granularity=None))
    assert (row.text, row.position.begin, row.position.end) == ("Test!", 0, 5)
    assert (row.time, row.confidence, row.speaker_confidence) == (None, None, None)


def test_an_unset_granularity_is_word(measurer: language.LanguageMeasurer, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("Two words")
    measured = measurer.measure(Media(str(tmp_path / "a"), "a.txt", "text", ""), Language())
    assert [row.text for row in rows(measured)] == ["Two", "words"]


TWO = '  Dear Mr. Smith, thank you!\r\n"It\'s great 😂" she said.\n'


@pytest.mark.parametrize(
    ("granularity", "expected"),
    [
        ("word", ["Dear", "Mr.", "Smith,", "thank", "you!", "\"It's", "great", '😂"', "she", "said."]),
        ("sentence", ["Dear Mr. Smith, thank you!", '"It\'s great 😂" she said.']),
        ("utterance", ["Dear Mr. Smith, thank you!", '"It\'s great 😂" she said.']),
        ("conversational_turn", [TWO.strip()]),
    ],
)
def test_segments_and_their_positions(measure: Measure, granularity: str, expected: list[str]) -> None:
    found = places(measure(TWO, granularity))
    assert [text for text, _, _ in found] == expected
    assert all(TWO[begin:end] == text for text, begin, end in found)


@pytest.mark.parametrize("text", ["I like it.", "No full stop here", "It is\nbroken over two lines.\n", "Really?! "])
def test_one_sentence_is_one_prediction(measure: Measure, text: str) -> None:
    assert places(measure(text, "sentence")) == [(text.strip(), 0, len(text.strip()))]


def test_equal_words_get_a_prediction_each(measure: Measure) -> None:
    assert places(measure("ha ha ha", "word")) == [("ha", 0, 2), ("ha", 3, 5), ("ha", 6, 8)]


def test_han_and_kana_are_split_one_by_one() -> None:
    text = "Tokyo 東京は、楽しい!"
    assert [text[b:e] for b, e in language.spans(text, "word")] == ["Tokyo", *"東京", "は、", *"楽し", "い!"]


def test_an_unknown_granularity_is_refused() -> None:
    with pytest.raises(Unmeasurable, match="paragraph"):
        language.spans("Some text.", "paragraph")


TEXTS = st.one_of(
    st.text(),
    st.lists(st.sampled_from([*"abZ. !?\n\r\t\"'()。「」…😂é中ア", "\u2029", "Mr. ", "e.g. ", "\n\n", "3.5 "])).map(
        "".join
    ),
)


@given(text=TEXTS, granularity=st.sampled_from(["word", "sentence", "conversational_turn"]))
def test_spans_are_ordered_disjoint_trimmed_and_cover_all_but_white_space(text: str, granularity: str) -> None:
    found = language.spans(text, granularity)
    edge = 0
    for begin, end in found:
        assert text[edge:begin].strip() == ""
        assert edge <= begin < end <= len(text)
        assert text[begin:end] == text[begin:end].strip()
        edge = end
    assert text[edge:].strip() == ""


# What is read, and what is refused


@pytest.mark.parametrize(
    "content",
    [
        codecs.BOM_UTF8 + "Café au lait!".encode(),
        "Café au lait!".encode("utf-16"),
        codecs.BOM_UTF16_BE + "Café au lait!".encode("utf-16-be"),
        "Café au lait!".encode(),
    ],
    ids=["utf-8 with mark", "utf-16 little", "utf-16 big", "utf-8"],
)
def test_encodings(measure: Measure, content: bytes) -> None:
    assert places(measure(content, "word")) == [("Café", 0, 4), ("au", 5, 7), ("lait!", 8, 13)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not readable as text: byte 0 is not UTF-8"),
        ("Olé".encode("latin-1"), "byte 2 is not UTF-8"),
        (codecs.BOM_UTF16_LE + b"a\0b", "is not UTF-16"),
        ("no mark".encode("utf-16-le"), "NUL characters"),
        (b"", "empty"),
        (b" \r\n\t ", "empty"),
        (codecs.BOM_UTF8 + "\u200b\u00a0".encode(), "empty"),
        ("Мне очень страшно, I said.".encode(), "only English"),
        ("今日はとても楽しい一日でした。".encode(), "only English"),
        (b"a " * (2 * 2**20) + b"a", "larger than 4 MiB"),
    ],
    ids=["png", "latin-1", "cut utf-16", "utf-16 without mark", "empty", "blank", "invisible", "ru", "ja", "large"],
)
def test_what_cannot_be_measured_is_refused_with_its_reason(measure: Measure, content: bytes, says: str) -> None:
    with pytest.raises(Unmeasurable, match=says):
        measure(content)


@pytest.mark.parametrize("file_type", ["audio", "video"])
def test_speech_is_refused_for_want_of_a_transcript(measure: Measure, file_type: FileType) -> None:
    with pytest.raises(Unmeasurable, match=f"on {file_type}: speech needs a transcript"):
        measure(b"RIFF", file_type=file_type)


def test_text_without_letters_is_measured(measure: Measure) -> None:
    (row,) = rows(measure("😂😂😂"))
    assert top(row) == "Amusement"


def test_a_segment_in_another_script_is_left_out_with_a_note(measure: Measure) -> None:
    measured = measure("She said Привет to everybody here.", "word")
    assert [row.text for row in rows(measured)] == ["She", "said", "to", "everybody", "here."]
    assert measured.notes == ["only English is measured: 1 of 6 segments are in another script"]


def test_sentiment_and_toxicity_stay_null_and_are_noted_when_asked_for(measure: Measure) -> None:
    measured = measure("You fool!", sentiment={}, toxicity={})
    (row,) = rows(measured)
    assert (row.sentiment, row.toxicity, measured.predictions.metadata) == (None, None, None)
    assert measured.notes == [
        "sentiment was asked for and is not measured by this version",
        "toxicity was asked for and is not measured by this version",
    ]
    assert measure("You fool!", sentiment=None).notes == []


# Long texts

DULL = "The committee met on Tuesday in room twelve to read the minutes of the last meeting. "


def test_the_end_of_a_long_segment_counts(measure: Measure) -> None:
    quiet = DULL * 30
    thankful = quiet + "Thank you so much, I am so grateful! " * 20
    before, after = (scores(rows(measure(text, "conversational_turn"))[0])["Gratitude"] for text in (quiet, thankful))
    assert before < 0.1
    assert 0.2 < after < 0.9


def test_pieces_are_the_whole_text_and_fit_the_encoder() -> None:
    encoder = language.Encoder()
    for text in (DULL * 300, "unpronounceable" * 3000, "?" * 1000, "x", "\u200b"):
        pieces = encoder.pieces(text)
        assert "".join(piece.text for piece in pieces) == text
        assert max(len(piece.tokens) for piece in pieces) <= language.Encoder.MAX_TOKENS


def test_a_long_text_is_the_mean_of_its_pieces_weighted_by_tokens(measurer: language.LanguageMeasurer) -> None:
    encoder = language.Encoder()
    text = DULL * 7 + "I love you, I love you, I love you!"
    pieces = encoder.pieces(text)
    assert len(pieces) == 2
    each = measurer.probabilities([piece.text for piece in pieces])
    weights = [len(piece.tokens) for piece in pieces]
    assert measurer.probabilities([text])[0] == pytest.approx(np.average(each, axis=0, weights=weights), abs=1e-5)


def test_many_words_cost_what_the_different_ones_cost(
    measurer: language.LanguageMeasurer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[str] = []
    read = language.Heads.from_words

    def watched(heads: language.Heads, texts: Sequence[str]) -> language.Floats:
        seen.extend(texts)
        return read(heads, texts)

    monkeypatch.setattr(language.Heads, "from_words", watched)
    (tmp_path / "a").write_text("so it goes " * 2_000)
    measured = measurer.measure(Media(str(tmp_path / "a"), "a.txt", "text", ""), Language())
    assert len(rows(measured)) == 6_000
    assert sorted(seen) == ["goes", "it", "so"]


# The heads' file


def test_a_file_of_something_else_is_no_heads(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", vocabulary=np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="no array 'idf'"):
        language.Heads(tmp_path / "other.npz")


def test_measuring_needs_no_training_library() -> None:
    check = "import sys, humebatch.server.measure.language; print({'sklearn', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_heads_compute_what_their_file_says(tmp_path: Path) -> None:
    classes = len(language.LABELS)
    words = np.zeros((3, classes), np.int8)
    words[[0, 1, 2], [0, 1, 2]] = 10
    np.savez(
        tmp_path / "small.npz",
        vocabulary=np.frombuffer(b"love\nlove you\nyou", np.uint8),
        idf=np.array([1, 2, 3], np.float16),
        words=words,
        words_scale=np.full(classes, 0.1, np.float32),
        words_bias=np.full(classes, -1, np.float32),
        hidden=np.ones((384, 1), np.int8),
        hidden_scale=np.ones(1, np.float32),
        hidden_bias=np.array([-1], np.float32),
        output=np.ones((1, classes), np.int8),
        output_scale=np.full(classes, 0.5, np.float32),
        output_bias=np.full(classes, 0.25, np.float32),
        blend=np.array([[2.0], [3.0], [-1.0]], np.float32).repeat(classes, axis=1),
        thresholds=np.zeros((3, classes), np.float32),
    )
    heads = language.Heads(tmp_path / "small.npz")
    by_words = np.array([1, 2, 3, 0]) / np.sqrt(1 + 4 + 9) - 1
    assert heads.from_words(["Love you!"])[0, :4] == pytest.approx(by_words)
    embedding = np.zeros((1, 384), np.float32)
    embedding[0, 0] = 4
    by_encoder = 0.5 * (4 - 1) + 0.25
    assert heads.from_embeddings(embedding)[0, :4] == pytest.approx([by_encoder] * 4)
    expected = 1 / (1 + np.exp(-(2 * by_words + 3 * by_encoder - 1)))
    assert heads.probabilities(["Love you!"], embedding)[0, :4] == pytest.approx(expected)


def test_no_word_is_cut_between_pieces() -> None:
    encoder = language.Encoder()
    # The word is several tokens long; moving it by one token at a time, some limit falls inside it.
    for moved in range(6):
        pieces = encoder.pieces("a " * moved + "hippopotamuses " * 100)
        assert len(pieces) > 1
        assert {word for piece in pieces for word in piece.text.split()} <= {"a", "hippopotamuses"}
