"""Which stretches of a recording the rows of prosody are about, and which pieces of speech are scored for them.

Both are known by their times alone: a row takes its scores from the pieces that it overlaps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from .segments import joined
from .speech import Segment, Transcript, Turn, Word

__all__ = ["LONGEST", "SHORTEST", "Piece", "Spans", "Spoken", "Stretch", "of_segments", "pieces", "windows"]

SHORTEST: Final = 0.5
"""Seconds of a piece at least: on shorter excerpts the scores of tone are too often wrong."""
LONGEST: Final = 6.0
"""Seconds of a piece at most: what the encoder of tone hears."""

_INSTANT: Final = 0.01  # seconds; transcripts have words that begin and end at once, and they lie somewhere, too
_SPEECH: Final = 0.5  # seconds of speech that make a window a row, or half of a window that is shorter than 1 s


class Stretch(NamedTuple):
    """What one row is about: seconds, what is said (None: not known), how sure that is, and who says it."""

    begin: float
    end: float
    text: str | None = None
    confidence: float | None = None
    speaker: str = "unknown"
    speaker_confidence: float | None = None


class Piece(NamedTuple):
    """What is scored at once: `SHORTEST` to `LONGEST` seconds of one speaker (`spk_0`, … or `unknown`)."""

    begin: float
    end: float
    speaker: str


class Spans:
    """Times of many stretches, to ask which of them a row overlaps."""

    def __init__(self, spans: Iterable[tuple[float, float]]) -> None:
        edges = np.array(list(spans), np.float64).reshape(-1, 2)
        self._begins, self._ends = edges[:, 0], edges[:, 1]

    def overlapping(self, begin: float, end: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
        """The numbers of the stretches that have something of `begin` to `end`, and how many seconds each."""
        end = max(end, begin + _INSTANT)
        shared = np.minimum(self._ends, end) - np.maximum(self._begins, begin)
        numbers = np.flatnonzero(shared > 0)
        return numbers, shared[numbers]


class Spoken:
    """The words of a transcript by time: a word belongs where its middle lies."""

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self._middles = np.array([(word.begin + word.end) / 2 for word in transcript.words])

    def words(self, begin: float, end: float) -> list[Word]:
        """The words from `begin` to `end`, in seconds."""
        first, last = np.searchsorted(self._middles, [begin, end])
        return self._transcript.words[int(first) : int(last)]

    def text(self, words: list[Word]) -> str:
        """What these words say, put together as their language is written."""
        return joined(msgspec.structs.replace(self._transcript, words=words))


def of_segments(segments: Iterable[Segment]) -> list[Stretch]:
    """The segments of a transcript as stretches."""
    return [
        Stretch(
            float(one.time.begin), float(one.time.end), one.text, one.confidence, one.speaker, one.speaker_confidence
        )
        for one in segments
        if one.time is not None
    ]


def pieces(spans: Iterable[tuple[float, float, str]], longest: float = LONGEST) -> list[Piece]:
    """Spans (begin, end, speaker) in equal parts of at most `longest` seconds, without parts below `SHORTEST`."""
    found = []
    for begin, end, speaker in spans:
        parts = math.ceil((end - begin) / longest)
        part = (end - begin) / max(1, parts)
        if part >= SHORTEST:
            found += [Piece(begin + number * part, begin + (number + 1) * part, speaker) for number in range(parts)]
    return found


def windows(
    seconds: float,
    length: float,
    step: float,
    *,
    turns: Sequence[Turn] | None = None,
    identify: bool = False,
    spoken: Spoken | None = None,
) -> Iterator[Stretch]:
    """A window of `length` seconds every `step` seconds, up to the one that reaches the end; the last is cut there.

    `turns`: who speaks when; windows in which hardly anybody does are left out (None: not known, all are taken).
    `identify`: a window belongs to who speaks most of it. `spoken`: for the text.
    """
    spans = Spans((turn.begin, turn.end) for turn in turns or ())
    begin, number = 0.0, 0
    while begin < seconds:
        end = min(begin + length, seconds)
        touched, shared = spans.overlapping(begin, end)
        if turns is None or shared.sum() >= min(_SPEECH, (end - begin) / 2):
            text, confidence = _said(spoken, begin, end) if spoken else (None, None)
            speakers = [turns[int(place)] for place in touched] if turns and identify else []
            speaker, sure = _speaker(speakers, shared.tolist()) if speakers else _NOBODY
            yield Stretch(begin, end, text, confidence, speaker, sure)
        if end >= seconds:
            return
        number += 1
        begin = number * step


_NOBODY: Final = ("unknown", None)


def _said(spoken: Spoken, begin: float, end: float) -> tuple[str, float | None]:
    words = spoken.words(begin, end)
    if not words:
        return "", None
    return spoken.text(words), sum(word.confidence for word in words) / len(words)


def _speaker(turns: Sequence[Turn], shared: Sequence[float]) -> tuple[str, float | None]:
    """Who speaks most in these turns, and how sure that is, weighted by their shares."""
    spoken: dict[int, float] = {}
    for turn, share in zip(turns, shared, strict=True):
        spoken[turn.speaker] = spoken.get(turn.speaker, 0.0) + share
    most = max(spoken, key=spoken.__getitem__)
    sure = sum(turn.confidence * share for turn, share in zip(turns, shared, strict=True) if turn.speaker == most)
    return f"spk_{most}", sure / spoken[most]
