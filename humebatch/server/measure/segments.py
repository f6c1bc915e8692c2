"""Text and speech cut into the stretches that rows of results are about.

A text file knows words and sentences. Speech knows more: the pauses between words end an *utterance*, and a change
of speaker ends a *conversational turn*. In both, a segment's place counts characters (code points) of the whole text,
which for speech is `joined(transcript)`.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

import sentencex  # type: ignore[import-untyped]  # carries no types

from ...predictions import TimeInterval
from . import Unmeasurable
from .speech import Segment, Transcript, Turn, Word

__all__ = ["PAUSE", "each_of_text", "joined", "of_speech", "of_text", "spans"]

PAUSE: Final = 0.8
"""Seconds without a word that end an utterance: longer than the pauses within a sentence of the readings and dialogs
that this was tried on, and the default of speech services that cut by pauses."""

_NEAR: Final = 0.3  # seconds: word times are that rough, so a word this close to a turn belongs to it

# Han, Hiragana, Katakana: written without spaces, so each character is a word (as the hosted service does it).
_UNSPACED: Final = (
    r"\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_WORD: Final = re.compile(rf"[{_UNSPACED}][^\w\s]*|[^\s{_UNSPACED}]+")
# Languages whose words are not divided by spaces (Whisper's own list, without those it writes with spaces).
_SPACELESS: Final = frozenset({"zh", "ja", "yue", "th", "lo", "my", "km"})


def joined(transcript: Transcript) -> str:
    """The words of a transcript as one text: divided by spaces, except where the language is written without."""
    return _written(transcript)[0]


def of_text(text: str, granularity: str) -> list[Segment]:
    """The segments of a text file, as `spans` finds them; they have no time and no speaker."""
    return [Segment(text=text[begin:end], begin=begin, end=end) for begin, end in spans(text, granularity)]


def each_of_text(text: str, granularity: str) -> Iterator[Segment]:
    """As `of_text`, one at a time: a long text has more words than fit in memory as segments."""
    if granularity != "word":
        yield from of_text(text, granularity)
        return
    for match in _WORD.finditer(text):
        yield Segment(text=match.group(), begin=match.start(), end=match.end())


def of_speech(transcript: Transcript, granularity: str, turns: Sequence[Turn], *, identify: bool) -> list[Segment]:
    """The segments of a transcript, in order and disjoint; every word is in one of them.

    `word`: as transcribed. `sentence`: by punctuation. `utterance`: divided by pauses of at least `PAUSE` seconds,
    and with `identify` by changes of speaker. `conversational_turn`: divided by changes of speaker.

    `turns`: who speaks when, in order and disjoint; needed for `identify` and for conversational turns. A segment's
    time reaches from its first word to its last, its confidence is the mean of its words. With `identify` it carries
    the speaker who has most of that time, `spk_0` …, and how sure that is; `unknown` where no turn is near.

    Raises `Unmeasurable` for another granularity.
    """
    text, places = _written(transcript)
    words = transcript.words
    if granularity == "word":
        cuts: Iterable[int] = range(1, len(words))
    elif granularity == "sentence":
        cuts = _sentence_starts(text, [place.begin for place in places], transcript.language)
    elif granularity in ("utterance", "conversational_turn"):
        cuts = _pauses(words) if granularity == "utterance" else ()
        if identify or granularity == "conversational_turn":
            cuts = sorted({*cuts, *_changes(words, turns)})
    else:
        raise Unmeasurable(f"segments cannot be cut at granularity {granularity!r}")
    bounds = [0, *cuts, len(words)] if words else []
    return [
        _segment(text, words[first:last], places[first], places[last - 1], turns if identify else ())
        for first, last in pairwise(bounds)
    ]


def spans(text: str, granularity: str) -> list[tuple[int, int]]:
    """Where the segments of `text` are: (begin, end) in characters, end exclusive, in order and disjoint.

    `word`: split at white space, punctuation stays attached; Han and kana characters one by one, each with
    the punctuation that follows it. `sentence`, `utterance`: sentences. `conversational_turn`: all of it.
    No segment begins or ends with white space. Raises `Unmeasurable` for another granularity.
    """
    if granularity == "word":
        return [match.span() for match in _WORD.finditer(text)]
    if granularity in ("sentence", "utterance"):
        whole = [_trimmed(text, begin, end) for begin, end in _sentences(text, "en")]
    elif granularity == "conversational_turn":
        whole = [_trimmed(text, 0, len(text))]
    else:
        raise Unmeasurable(f"segments cannot be cut at granularity {granularity!r}")
    return [(begin, end) for begin, end in whole if begin < end]


def _trimmed(text: str, begin: int, end: int) -> tuple[int, int]:
    part = text[begin:end]
    return begin + len(part) - len(part.lstrip()), begin + len(part.rstrip())


def _sentences(text: str, language: str) -> Iterator[tuple[int, int]]:
    # pyright cannot see into the native module.
    found: list[dict[str, Any]] = sentencex.get_sentence_boundaries(  # pyright: ignore[reportAttributeAccessIssue]
        language, text
    )
    for part in found:
        yield part["start_index"], part["end_index"]


class _Place(NamedTuple):
    begin: int
    end: int


def _written(transcript: Transcript) -> tuple[str, list[_Place]]:
    """The whole text, and where each word is in it."""
    spaceless = _primary(transcript.language) in _SPACELESS
    pieces: list[str] = []
    places: list[_Place] = []
    length = 0
    for word in transcript.words:
        # Foreign words and numbers between such characters keep their space from each other.
        if pieces and not (spaceless and not (pieces[-1][-1:].isascii() and word.text[:1].isascii())):
            pieces.append(" ")
            length += 1
        places.append(_Place(length, length + len(word.text)))
        pieces.append(word.text)
        length += len(word.text)
    return "".join(pieces), places


def _primary(tag: str) -> str:
    return tag.partition("-")[0].lower()


def _sentence_starts(text: str, begins: Sequence[int], language: str) -> list[int]:
    """The numbers of the words that begin a sentence, without the first word."""
    if not begins:
        return []
    # A word that a boundary falls into belongs to the sentence in which it begins.
    sentence = [end for _, end in _sentences(text, _primary(language))]
    numbers = [bisect_right(sentence, begin) for begin in begins]
    return [place for place, (before, number) in enumerate(pairwise(numbers), start=1) if number != before]


def _pauses(words: Sequence[Word]) -> list[int]:
    return [
        place for place, (before, word) in enumerate(pairwise(words), start=1) if word.begin - before.end > PAUSE - 1e-6
    ]


def _changes(words: Sequence[Word], turns: Sequence[Turn]) -> list[int]:
    speakers = [_speaker(turns, word.begin, word.end)[0] for word in words]
    return [place for place, (before, speaker) in enumerate(pairwise(speakers), start=1) if speaker != before]


def _speaker(turns: Sequence[Turn], begin: float, end: float) -> tuple[int | None, float | None]:
    """Who has most of the time from `begin` to `end`, and how sure that is; the nearest within `_NEAR`; else None."""
    # Disjoint and in order, so only the turns from the last one that begins before can matter.
    first = max(bisect_right(turns, begin - _NEAR, key=lambda turn: turn.begin) - 1, 0)
    shares: dict[int, float] = {}
    sure: dict[int, float] = {}
    nearest: tuple[float, Turn] | None = None
    for turn in turns[first:]:
        if turn.begin > end + _NEAR:
            break
        overlap = min(end, turn.end) - max(begin, turn.begin)
        if overlap > 0:
            shares[turn.speaker] = shares.get(turn.speaker, 0.0) + overlap
            sure[turn.speaker] = sure.get(turn.speaker, 0.0) + overlap * turn.confidence
        elif -overlap <= _NEAR and (nearest is None or -overlap < nearest[0]):
            nearest = -overlap, turn
    if shares:
        speaker = max(shares, key=shares.__getitem__)
        return speaker, round(sure[speaker] / shares[speaker], 6)
    return (nearest[1].speaker, nearest[1].confidence) if nearest else (None, None)


def _segment(text: str, words: Sequence[Word], first: _Place, last: _Place, turns: Sequence[Turn]) -> Segment:
    begin, end = words[0].begin, words[-1].end
    speaker, sure = _speaker(turns, begin, end)
    return Segment(
        text=text[first.begin : last.end],
        begin=first.begin,
        end=last.end,
        time=TimeInterval(begin, end),
        confidence=round(sum(word.confidence for word in words) / len(words), 6),
        speaker="unknown" if speaker is None else f"spk_{speaker}",
        speaker_confidence=sure,
    )
