"""The `fixed` measurer: MADE-UP scores for tests, the same for the same bytes. It measures nothing.

Every score is a pseudo-random number seeded with the file's md5 and the model's name, so tests can tell results
apart and repeat them. It runs only when it is asked for by name (`--measure fixed`), never as a default; a server
running it says so in its log, in the `X-Humebatch-Measure: fixed` header of every answer, and in its card.

No media are decoded. Text is cut like the API does it (word, sentence, whole passage). An image holds one face, a
video two faces in each of three frames, a JSON file as many as it lists. Any audio is taken for three seconds of a
dialog, in which `spk_0` says "Segment 1." and "Segment 3.", and `spk_1` says "Segment 2.".
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from ... import vocabulary
from ...jobs import Face, Language, Ner, Prosody, ProsodyWindow
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
from . import Attachment, Card, Finding, Row, Unmeasurable
from .recording import Recording
from .speech import Segment

__all__ = ["FixedMeasurer", "measurer"]

_SPOKEN: Final = ("Segment 1.", "Segment 2.", "Segment 3.")  # a second each
_SPEAKERS: Final = ("spk_0", "spk_1", "spk_0")
_FPS: Final = 30
_WORD: Final = re.compile(r"\S+")
_SENTENCE: Final = re.compile(r"\S[^.!?]*[.!?]*")
_PASSAGE: Final = re.compile(r"\S(?:.*\S)?", re.DOTALL)
_PATTERNS: Final = {"word": _WORD, "conversational_turn": _PASSAGE}

# One grey pixel: what `save_faces` saves here.
_PIXEL: Final = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154"
    "789c636800000082008177cd72b60000000049454e44ae426082"
)


class FixedMeasurer:
    """Made-up scores for one model, a pure function of the file's md5, of the request, and of a text itself."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.card = Card(
            model=model,
            measurer="fixed",
            version="3",
            summary="MADE-UP scores for tests of programs: pseudo-random numbers, nothing is measured",
            limits=("It measures nothing: no score says anything about the file.",),
            made_up=True,
        )

    def measure(self, recording: Recording, config: Any, /) -> Iterator[Finding]:
        """Seeded scores for a file; see the module's warning.

        Raises `Unmeasurable` for an empty text, and for words of speech when transcription is switched off.
        """
        rng = random.Random(f"{recording.media.md5sum} {self.model}")
        match self.model:
            case "face":
                yield from _face(recording, config, rng)
            case "facemesh":
                for _ in range(_meshes(recording.media.path)):
                    yield Row("unknown", FacemeshPrediction(emotions=_scores(vocabulary.EMOTIONS, rng)))
            case "burst":
                yield Row("unknown", _burst(rng))
            case "prosody":
                for segment in _prosody_segments(recording, config):
                    yield Row(segment.speaker, _prosody(segment, rng))
            case "language":
                for segment in _segments(recording, config.granularity, config):
                    yield Row(segment.speaker, _language(segment, config, rng))
            case _:
                for segment in _segments(recording, "word", config)[:1]:
                    yield Row(segment.speaker, _entity(segment, rng))
        options = recording.transcription
        if self.model in ("prosody", "language", "ner") and recording.spoken and options is not None:
            yield TranscriptionMetadata(confidence=1.0, detected_language=options.language or "en")


def measurer(model: str) -> FixedMeasurer:
    """The fixed measurer for `model`."""
    return FixedMeasurer(model)


# ---- what is in a file --------------------------------------------------------------------------


def _segments(recording: Recording, granularity: object, config: Language | Ner | Prosody) -> list[Segment]:
    """The segments of a text, or of what is said in every recording, with their speakers where they were asked for."""
    if not recording.spoken:
        text = Path(recording.media.path).read_bytes().decode("utf-8", "replace")
        if not text.strip():
            raise Unmeasurable("the text is empty: there is nothing to measure")
        pattern = _PATTERNS.get(str(granularity), _SENTENCE)
        return [_segment(found.group().rstrip(), found.start()) for found in pattern.finditer(text)]
    options = recording.transcription
    if options is None:
        raise Unmeasurable("transcription is switched off in the request")
    identified = config.identify_speakers is True or options.identify_speakers is True
    found = []
    begin = 0
    for second, sentence in enumerate(_SPOKEN):
        parts = sentence.split() if granularity == "word" else [sentence]
        for number, part in enumerate(parts):
            segment = _segment(part, begin)
            found.append(
                msgspec.structs.replace(
                    segment,
                    time=TimeInterval(second + number / len(parts), second + (number + 1) / len(parts)),
                    confidence=1.0,
                    speaker=_SPEAKERS[second] if identified else "unknown",
                    speaker_confidence=1.0 if identified else None,
                )
            )
            begin = segment.end + 1
    return found


def _segment(text: str, begin: int) -> Segment:
    return Segment(text=text, begin=begin, end=begin + len(text))


def _prosody_segments(recording: Recording, config: Prosody) -> list[Segment]:
    """Segments of the transcript; windows, without words, where those were asked for or nothing is transcribed."""
    window = config.window if isinstance(config.window, ProsodyWindow) else None
    if window is None and recording.transcription is not None:
        return _segments(recording, config.granularity, config)
    # `or`: left out is UNSET or None, and both are false.
    length, step = (window.length or 4.0, window.step or 1.0) if window else (4.0, 1.0)
    end = float(len(_SPOKEN))
    count = 1 + max(0, int((end - length) / step))
    windows = (TimeInterval(number * step, min(number * step + length, end)) for number in range(count))
    return [Segment(text="", begin=0, end=0, time=time) for time in windows]


def _meshes(path: str) -> int:
    """How many faces a file of landmarks lists; one where it is of another form."""
    try:
        return len(msgspec.json.decode(Path(path).read_bytes(), type=list[list[list[float]]]))
    except (msgspec.DecodeError, RecursionError):
        return 1


# ---- what is said about it ----------------------------------------------------------------------


def _scores(names: Sequence[str], rng: random.Random) -> Scores:
    return Scores(Score(name=name, score=rng.random()) for name in names)


def _asked(names: Sequence[str], switch: object, rng: random.Random) -> Scores | None:
    return _scores(names, rng) if isinstance(switch, dict) else None


def _face(recording: Recording, config: Face, rng: random.Random) -> Iterator[Finding]:
    still = recording.media.file_type == "image"
    for frame in (0,) if still else (0, _FPS, 2 * _FPS):
        for face in range(1 if still else 2):
            group = f"face_{face}" if config.identify_faces is True else "unknown"
            yield Row(
                group,
                FacePrediction(
                    frame=frame,
                    time=frame / _FPS,
                    prob=1.0,
                    box=BoundingBox(x=8.0 + 80.0 * face, y=8.0, w=64.0, h=64.0),
                    emotions=_scores(vocabulary.EMOTIONS, rng),
                    facs=_asked(vocabulary.FACS, config.facs, rng),
                    descriptions=_asked(vocabulary.FACE_DESCRIPTIONS, config.descriptions, rng),
                ),
            )
            if config.save_faces is True:
                yield Attachment(group, f"frame={frame}-face={face}.png", _PIXEL)


def _burst(rng: random.Random) -> BurstPrediction:
    return BurstPrediction(
        time=TimeInterval(begin=0.0, end=1.0),
        emotions=_scores(vocabulary.EMOTIONS, rng),
        descriptions=_scores(vocabulary.BURST_DESCRIPTIONS, rng),
    )


def _prosody(segment: Segment, rng: random.Random) -> ProsodyPrediction:
    assert segment.time is not None
    return ProsodyPrediction(
        time=segment.time,
        emotions=_scores(vocabulary.EMOTIONS, rng),
        text=segment.text or None,
        confidence=segment.confidence,
        speaker_confidence=segment.speaker_confidence,
    )


def _language(segment: Segment, config: Language, rng: random.Random) -> LanguagePrediction:
    return LanguagePrediction(
        text=segment.text,
        position=PositionInterval(segment.begin, segment.end),
        emotions=_scores(vocabulary.LANGUAGE_EMOTIONS, rng),
        time=segment.time,
        confidence=segment.confidence,
        speaker_confidence=segment.speaker_confidence,
        sentiment=_asked(vocabulary.SENTIMENT, config.sentiment, rng),
        toxicity=_asked(vocabulary.TOXICITY, config.toxicity, rng),
    )


def _entity(segment: Segment, rng: random.Random) -> NerPrediction:
    return NerPrediction(
        entity=segment.text,
        position=PositionInterval(segment.begin, segment.end),
        entity_confidence=rng.random(),
        support=rng.random(),
        uri="",
        link_word=segment.text,
        emotions=_scores(vocabulary.LANGUAGE_EMOTIONS, rng),
        time=segment.time,
        confidence=segment.confidence,
        speaker_confidence=segment.speaker_confidence,
    )
