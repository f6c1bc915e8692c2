"""What was said, by whom, when: the values that transcription and diarization give to the measurers."""

from __future__ import annotations

import msgspec

from ...predictions import TimeInterval

__all__ = ["Segment", "Transcript", "Turn", "Word"]


class Word(msgspec.Struct, frozen=True):
    """One spoken word as it is written, punctuation included; times in seconds, `confidence` 0..1."""

    text: str
    begin: float
    end: float
    confidence: float


class Transcript(msgspec.Struct, frozen=True):
    """What was said. `language`: BCP-47 tag of what was heard or asked for. `confidence`: 0..1, of the whole.

    `note`: a sentence about how the language was chosen that the reader of the results should know; mostly empty.
    """

    words: list[Word]
    language: str
    confidence: float
    note: str = ""


class Turn(msgspec.Struct, frozen=True):
    """One speaker without a break, in seconds. `speaker`: 0, 1, … by first appearance; `confidence`: 0..1."""

    begin: float
    end: float
    speaker: int
    confidence: float


class Segment(msgspec.Struct, frozen=True):
    """One stretch that a row of results is about.

    `begin`, `end`: characters of the whole text. `time`, `confidence`: null for text files. `speaker`: `spk_0`, … or
    `unknown`; `speaker_confidence`: null unless speakers were told apart.
    """

    text: str
    begin: int
    end: int
    time: TimeInterval | None = None
    confidence: float | None = None
    speaker: str = "unknown"
    speaker_confidence: float | None = None
