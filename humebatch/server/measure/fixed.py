"""The `fixed` measurer: MADE-UP scores for tests, the same for the same bytes. It measures nothing.

Every score is a pseudo-random number seeded with the file's md5 and the model's name, so tests can
tell results apart and repeat them. It runs only when it is asked for by name (`--measure fixed`),
never as a default; a server running it says so in its log and in the `X-Humebatch-Measure: fixed`
header of every answer.

Text is cut like the API does it (word, sentence, whole passage); an image has one face, speech has
three segments of one second.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ... import vocabulary
from ...jobs import Face, Language
from ...predictions import (
    BoundingBox,
    BurstPrediction,
    FacemeshPrediction,
    FacePrediction,
    LanguagePrediction,
    NerPrediction,
    PositionInterval,
    ProsodyPrediction,
    Score,
    Scores,
    TimeInterval,
    TranscriptionMetadata,
)
from . import Card, Finding, Media, Row, Unmeasurable
from .recording import Recording

__all__ = ["FixedMeasurer", "measurer"]

_SEGMENTS = 3
_WORD = re.compile(r"\S+")
_SENTENCE = re.compile(r"\S[^.!?]*[.!?]*")
_PASSAGE = re.compile(r"\S(?:.*\S)?", re.DOTALL)


class FixedMeasurer:
    """Made-up scores for one model, a pure function of the file's md5 (and of the text itself for `language`)."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.card = Card(
            model=model, measurer="fixed", version="2", summary="made-up scores for tests of programs", made_up=True
        )
        self._make: Callable[[Media, Any, random.Random], list[Any]] = getattr(self, f"_{model}")

    def measure(self, recording: Recording, config: Any, /) -> Iterator[Finding]:
        """Seeded scores for a file; see the module's warning."""
        media = recording.media
        for row in self._make(media, config, random.Random(f"{media.md5sum} {self.model}")):
            yield Row("unknown", row)
        if self.model in ("prosody", "language", "ner") and media.file_type != "text":
            yield TranscriptionMetadata(confidence=1.0, detected_language="en")

    def _face(self, media: Media, config: Face, rng: random.Random) -> list[FacePrediction]:
        return [
            FacePrediction(
                frame=0,
                time=0.0,
                prob=1.0,
                box=BoundingBox(x=8.0, y=8.0, w=64.0, h=64.0),
                emotions=_scores(vocabulary.EMOTIONS, rng),
                facs=_scores(vocabulary.FACS, rng) if isinstance(config.facs, dict) else None,
                descriptions=_scores(vocabulary.FACE_DESCRIPTIONS, rng)
                if isinstance(config.descriptions, dict)
                else None,
            )
        ]

    def _prosody(self, media: Media, config: Any, rng: random.Random) -> list[ProsodyPrediction]:
        return [
            ProsodyPrediction(
                time=TimeInterval(begin=float(second), end=float(second + 1)),
                emotions=_scores(vocabulary.EMOTIONS, rng),
                text=f"segment {second + 1}",
                confidence=1.0,
            )
            for second in range(_SEGMENTS)
        ]

    def _burst(self, media: Media, config: Any, rng: random.Random) -> list[BurstPrediction]:
        return [
            BurstPrediction(
                time=TimeInterval(begin=0.0, end=1.0),
                emotions=_scores(vocabulary.EMOTIONS, rng),
                descriptions=_scores(vocabulary.BURST_DESCRIPTIONS, rng),
            )
        ]

    def _language(self, media: Media, config: Language, rng: random.Random) -> list[LanguagePrediction]:
        return [
            LanguagePrediction(
                text=text,
                position=PositionInterval(begin=begin, end=begin + len(text)),
                emotions=_scores(vocabulary.LANGUAGE_EMOTIONS, rng),
                sentiment=_scores(vocabulary.SENTIMENT, rng) if isinstance(config.sentiment, dict) else None,
                toxicity=_scores(vocabulary.TOXICITY, rng) if isinstance(config.toxicity, dict) else None,
            )
            for begin, text in _cut(_text(media), config.granularity)
        ]

    def _ner(self, media: Media, config: Any, rng: random.Random) -> list[NerPrediction]:
        return [
            NerPrediction(
                entity=text,
                position=PositionInterval(begin=begin, end=begin + len(text)),
                entity_confidence=rng.random(),
                support=rng.random(),
                uri="",
                link_word=text,
                emotions=_scores(vocabulary.LANGUAGE_EMOTIONS, rng),
            )
            for begin, text in _cut(_text(media), "word")[:1]
        ]

    def _facemesh(self, media: Media, config: Any, rng: random.Random) -> list[FacemeshPrediction]:
        return [FacemeshPrediction(emotions=_scores(vocabulary.EMOTIONS, rng))]


def measurer(model: str) -> FixedMeasurer:
    """The fixed measurer for `model`."""
    return FixedMeasurer(model)


def _scores(names: Sequence[str], rng: random.Random) -> Scores:
    return Scores(Score(name=name, score=rng.random()) for name in names)


def _text(media: Media) -> str:
    if media.file_type != "text":
        return " ".join(f"Segment {number + 1}." for number in range(_SEGMENTS))
    text = Path(media.path).read_bytes().decode("utf-8", "replace")
    if not text.strip():
        raise Unmeasurable("the text is empty")
    return text


def _cut(text: str, granularity: object) -> list[tuple[int, str]]:
    pattern = {"word": _WORD, "conversational_turn": _PASSAGE}.get(str(granularity), _SENTENCE)
    return [(found.start(), found.group().rstrip()) for found in pattern.finditer(text)]
