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
import itertools
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
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
from .segments import each_of_text, spans
from .sentiment import distribution, polarity
from .speech import Segment
from .toxicity import CATEGORIES, Toxicity

__all__ = ["CARD", "NAMES", "LanguageMeasurer", "Languages", "emotions_of", "language_of", "measurer"]

_COLUMNS: Final = [LABELS.index(given.of) for given in NAMES]
_BLOCK: Final = 256  # segments read at once
_KEPT: Final = 2_000  # different segments whose scores are remembered: some 6 MB


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
        granularity, identify = config.granularity or "word", bool(config.identify_speakers)
        segments = _placed(recording, granularity, identify)
        # Looked at twice and not kept: a text of 4 MiB has a million words.
        counts = Counter(language for _, language in segments())
        unmeasured = {language: count for language, count in counts.items() if not _measured(language)}
        if counts and len(unmeasured) == len(counts):
            raise Unmeasurable("; ".join(map(_unknown, unmeasured)))
        metadata = recording.metadata()
        if metadata is not None:
            yield metadata
        for language, count in unmeasured.items():
            yield Note(f"{count} of {counts.total()} segments were not measured: {_unknown(language)}")
        extras = {"sentiment": isinstance(config.sentiment, dict), "toxicity": isinstance(config.toxicity, dict)}
        wanted = [extra for extra, asked in extras.items() if asked]
        abroad = [language for language in counts if language not in (ENGLISH, *unmeasured)]
        if wanted and abroad:
            yield Note(f"no {' and no '.join(wanted)} for segments in {_listed(abroad)}: measured in English only")
        yield from _rows(recording, (one for one in segments() if _measured(one[1])), extras)


def _placed(recording: Recording, granularity: str, identify: bool) -> Callable[[], Iterator[tuple[Segment, str]]]:
    """What gives the segments and their languages, each time from the start."""
    if recording.spoken:
        spoken = recording.segments(granularity, identify_speakers=identify)
        language = primary(recording.transcript().language)
        return lambda: ((segment, language) for segment in spoken)
    text = recording.text()
    languages = Languages(text)
    return lambda: ((segment, languages.of(segment)) for segment in each_of_text(text, granularity))


def _rows(recording: Recording, segments: Iterator[tuple[Segment, str]], extras: Mapping[str, bool]) -> Iterator[Row]:
    known: dict[tuple[str, str], Read] = {}
    while block := list(itertools.islice(segments, _BLOCK)):
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
        if block[-1][0].time is not None:
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


class Languages:
    """Which language each segment of a text is in: its own where that can be told, or else that around it."""

    def __init__(self, text: str) -> None:
        self._sentences = spans(text, "sentence")
        self._told = [detected(text[begin:end]) for begin, end in self._sentences]
        if len(text) <= READ:
            self._mostly = language_of(text)
        else:
            lengths = (end - begin for begin, end in self._sentences)
            self._mostly = most_of(zip(self._told, lengths, strict=True))

    def of(self, segment: Segment) -> str:
        """The language of one segment; of a stretch of several sentences, that of most of the text."""
        number = bisect_right(self._sentences, segment.begin, key=itemgetter(0)) - 1
        if number < 0 or segment.end > self._sentences[number][1]:
            return self._mostly  # more than one sentence
        around = self._told[number] or self._mostly
        if (segment.begin, segment.end) == self._sentences[number] or segment.text.isascii():
            return around
        # A word in another script can be told even where it is quoted in a sentence of another language.
        return detected(segment.text) or around


def _measured(language: str) -> bool:
    return language == ENGLISH or language in LANGUAGES


def _unknown(language: str) -> str:
    return f"{name_of(language)} is not measured, only {_listed([ENGLISH, *LANGUAGES])}"


def _listed(languages: Iterable[str]) -> str:
    *first, last = map(name_of, languages)
    return f"{', '.join(first)} and {last}" if first else last
