"""Emotional language: what a text, or the transcript of speech, says; not how it is spoken.

English is read by heads trained on GoEmotions (`language_heads`), which give 22 of the 53 names, sentiment
(`sentiment`, derived) and toxicity (`toxicity`). Some other languages are read by heads trained on film subtitles
(`language_films`), which give fewer names; everything else is left out and named in a note.

Of a text file, each sentence has its own language; what is too short to tell has the language of most of the text.
Speech has the language of its transcript. A score is the probability that an annotator would have given the segment
that label. It is no copy of the hosted service's scale, which is not public. What is not measured is absent.
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ...jobs import Language
from ...predictions import LanguagePrediction, PositionInterval, Score, Scores
from ...vocabulary import SENTIMENT
from . import Finding, Note, Row, Unmeasurable
from .language_card import CARD
from .language_detection import ENGLISH, READ, detected, language_of, most_of, name_of, primary
from .language_encoder import weights_file
from .language_films import LANGUAGES, FilmHeads
from .language_heads import LABELS, NAMES, English
from .recording import Recording
from .segments import spans
from .sentiment import distribution, polarity
from .speech import Segment
from .toxicity import CATEGORIES, Toxicity

__all__ = ["CARD", "LanguageMeasurer", "emotions_of", "language_of", "languages_of", "measurer"]

_COLUMNS: Final = [LABELS.index(given.of) for given in NAMES]
_BLOCK: Final = 256  # segments read at once
_KEPT: Final = 20_000  # different segments whose scores are remembered: some 50 MB with everything


def measurer(model: str) -> LanguageMeasurer:
    """The measurer of `language`; raises `ValueError` for another model."""
    if model != LanguageMeasurer.model:
        raise ValueError(f"this module measures language, not {model}")
    return LanguageMeasurer()


def emotions_of(texts: Sequence[str], language: str = ENGLISH) -> list[Scores]:
    """The emotions of each text of one language, for measurers that need them beside their own.

    Raises `Unmeasurable` for a language that has no heads.
    """
    reader = _reader(primary(language))
    return [read.emotions for read in reader.read(texts)]


class Read(NamedTuple):
    """What is said of one segment."""

    emotions: Scores
    sentiment: Scores | None = None
    toxicity: Scores | None = None


class _EnglishReader:
    """Everything that is measured of English; toxicity is loaded when it is asked for."""

    def __init__(self) -> None:
        self.english = English()

    @functools.cached_property
    def toxicity(self) -> Toxicity:
        return Toxicity(weights_file("toxicity.npz"))

    def read(self, texts: Sequence[str], *, sentiment: bool = False, toxicity: bool = False) -> list[Read]:
        probabilities = self.english.probabilities(texts)
        emotions = _named([given.name for given in NAMES], probabilities[:, _COLUMNS])
        nothing: list[None] = [None] * len(texts)
        spread = _named(SENTIMENT, distribution(polarity(probabilities))) if sentiment else nothing
        harm = _named(CATEGORIES, self.toxicity.probabilities(texts)) if toxicity else nothing
        return [Read(*each) for each in zip(emotions, spread, harm, strict=True)]


class _FilmReader:
    """Emotions of another language."""

    def __init__(self, language: str) -> None:
        self.heads = FilmHeads(language)

    def read(self, texts: Sequence[str], *, sentiment: bool = False, toxicity: bool = False) -> list[Read]:
        del sentiment, toxicity  # measured in English only
        return [Read(scores) for scores in _named(self.heads.names, self.heads.probabilities(texts))]


def _named(names: Sequence[str], probabilities: npt.NDArray[np.floating]) -> list[Scores]:
    # Rounded as float64: what float32 comes closest to has too many digits.
    rows: list[list[float]] = probabilities.astype(np.float64).round(6).tolist()
    return [Scores(Score(name, value) for name, value in zip(names, row, strict=True)) for row in rows]


@functools.cache
def _reader(language: str) -> _EnglishReader | _FilmReader:
    """Built once per process. Raises `Unmeasurable` for a language that has no heads."""
    if language == ENGLISH:
        return _EnglishReader()
    if language not in LANGUAGES:
        raise Unmeasurable(_unknown(language))
    return _FilmReader(language)


class LanguageMeasurer:
    """Measures `language` on texts and on the transcripts of audio and video."""

    model: str = "language"
    card = CARD

    def __init__(self) -> None:
        # Loaded here so that the first file does not wait for it; other languages wait until one comes.
        _reader(ENGLISH)

    def measure(self, recording: Recording, config: Language, /) -> Iterator[Finding]:
        """One row per segment whose language is measured, in the group of its speaker.

        `position` counts characters (code points) of the text without its byte order mark, or of the transcript.
        Segments in another language are left out, with a note; sentiment and toxicity are null outside of English.
        Raises `Unmeasurable` when no segment is in a language that is measured, and what `Recording` raises.
        """
        # UNSET and None are both false.
        segments = recording.segments(config.granularity or "word", identify_speakers=bool(config.identify_speakers))
        if recording.spoken:
            languages = [primary(recording.transcript().language)] * len(segments)
        else:
            languages = languages_of(recording.text(), segments)
        counts = Counter(languages)
        unmeasured = {language: count for language, count in counts.items() if not _measured(language)}
        if segments and len(unmeasured) == len(counts):
            raise Unmeasurable("; ".join(map(_unknown, unmeasured)))
        metadata = recording.metadata()
        if metadata is not None:
            yield metadata
        for language, count in unmeasured.items():
            yield Note(f"{count} of {len(segments)} segments were not measured: {_unknown(language)}")
        extras = {
            "sentiment": isinstance(config.sentiment, dict),
            "toxicity": isinstance(config.toxicity, dict),
        }
        wanted = [extra for extra, asked in extras.items() if asked]
        abroad = [language for language in counts if language not in (ENGLISH, *unmeasured)]
        if wanted and abroad:
            yield Note(f"no {' and no '.join(wanted)} for segments in {_listed(abroad)}: measured in English only")
        yield from _rows(recording, segments, languages, extras)


def _rows(
    recording: Recording, segments: Sequence[Segment], languages: Sequence[str], extras: Mapping[str, bool]
) -> Iterator[Row]:
    known: dict[tuple[str, str], Read] = {}
    for start in range(0, len(segments), _BLOCK):
        block = [
            (segment, language)
            for segment, language in zip(
                segments[start : start + _BLOCK], languages[start : start + _BLOCK], strict=True
            )
            if _measured(language)
        ]
        if len(known) > _KEPT:
            known.clear()
        fresh: dict[str, dict[str, None]] = {}
        for segment, language in block:
            if (language, segment.text) not in known:
                fresh.setdefault(language, {})[segment.text] = None
        for language, texts in fresh.items():
            reads = _reader(language).read(list(texts), **extras)
            known.update({(language, text): read for text, read in zip(texts, reads, strict=True)})
        for segment, language in block:
            yield Row(segment.speaker, _prediction(segment, known[language, segment.text]))
        if block and block[-1][0].time is not None:
            recording.progress(block[-1][0].time.end)


def _prediction(segment: Segment, read: Read) -> LanguagePrediction:
    return LanguagePrediction(
        text=segment.text,
        position=PositionInterval(segment.begin, segment.end),
        time=segment.time,
        confidence=segment.confidence,
        speaker_confidence=segment.speaker_confidence,
        emotions=read.emotions,
        sentiment=read.sentiment,
        toxicity=read.toxicity,
    )


def languages_of(text: str, segments: Sequence[Segment]) -> list[str]:
    """The language of each segment of a text: of its own where that can be told, or else of what is around it."""
    sentences = spans(text, "sentence")
    told = [detected(text[begin:end]) for begin, end in sentences]
    if len(text) <= READ:
        mostly = language_of(text)
    else:
        mostly = most_of((language, end - begin) for language, (begin, end) in zip(told, sentences, strict=True))
    begins = [begin for begin, _ in sentences]
    found: list[str] = []
    for segment in segments:
        number = bisect_right(begins, segment.begin) - 1
        if number < 0 or segment.end > sentences[number][1]:
            # More than one sentence.
            found.append(mostly)
        elif (segment.begin, segment.end) == sentences[number] or segment.text.isascii():
            found.append(told[number] or mostly)
        else:
            # A word in another script can be told even where it is quoted in a sentence of another language.
            found.append(detected(segment.text) or told[number] or mostly)
    return found


def _measured(language: str) -> bool:
    return language == ENGLISH or language in LANGUAGES


def _unknown(language: str) -> str:
    return f"{name_of(language)} is not measured, only {_listed([ENGLISH, *LANGUAGES])}"


def _listed(languages: Iterable[str]) -> str:
    *first, last = map(name_of, languages)
    return f"{', '.join(first)} and {last}" if first else last
