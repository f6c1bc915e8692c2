"""How well speech is transcribed and speakers are told apart, and how fast.

Word error rates are of texts that were normalised alike on both sides: lower case, no punctuation, hyphens read as
spaces, "Mr." and digits up to twelve written out, contractions ("it'll", "they're", "that's") written out, the
compound "table cloth" in one word, and two slips of the references corrected ("more a amiable", "frigde").

The dialogs are spliced from single utterances: 2 to 4 people, 14 turns of one or two utterances, pauses of .15 to .6
s. Speaker confusion is the share of speech with the wrong speaker under the best assignment, .25 s around each change
left out; speech that was missed and speech where nobody speaks are counted apart.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from humebatch.jobs import Transcription
from humebatch.server.measure import speakers, transcribing
from humebatch.server.measure.sound import Samples, Sound, decode
from humebatch.server.measure.speech import Transcript, Turn

Row = tuple[str, str, str, str]

_DEBIAN = "apt-get download pocketsphinx-testdata && dpkg-deb -x pocketsphinx-testdata*.deb DIR/pocketsphinx"
_EMOTALE = "git clone https://github.com/snehadas/EmoTale DIR/EmoTale"
READINGS = "pocketsphinx readings (Debian pocketsphinx-testdata), 5 sentences of 1 reader"
_PAIRS = (("mr.", "mister"), ("'ll", " will"), ("'re", " are"), ("that's", "that is"), ("’", "'"), ("-", " "))
_SLIPS = (("table cloth", "tablecloth"), ("more a amiable", "more amiable"), ("frigde", "fridge"))
_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]

ENGLISH = {
    "1": "The tablecloth is lying on the fridge.",
    "2": "The black sheet of paper is located up there besides the piece of timber.",
    "3": "They just carried it upstairs and now they are going down again.",
    "4": "It will be in the place where we always store it.",
    "5": "In seven hours it will be morning.",
}
GERMAN = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute Abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}


class Utterance(NamedTuple):
    path: Path
    text: str
    language: str
    speaker: str


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """(what, measured, goal, data) of every figure; a data set that is not in `options.data` is named instead."""
    data: Path = options.data
    with tempfile.TemporaryDirectory(prefix="humebatch-speech-") as folder:
        work = Path(folder)
        yield from _words(data, work)
        yield from _languages(data, work)
        yield from _dialogs(data, work)


def _words(data: Path, work: Path) -> Iterator[Row]:
    readings, english, german = _readings(data), _emotale(data, "EN"), _emodb(data)
    for model, goal in (("tiny.en", "< 8 %"), ("base", "< 4 %")):
        what = f"word error rate, {model}"
        yield _error_rate(what, model, readings, goal, READINGS, work) if readings else _missing(what, goal, _DEBIAN)
    for model, utterances, source in (
        ("tiny.en", english, "EmoTale English, 40 acted utterances of Danes"),
        ("base", english, "EmoTale English, 40 acted utterances of Danes"),
        ("base", german, "Emo-DB, 40 acted German utterances"),
    ):
        if utterances:
            yield _error_rate(f"word error rate, {model}", model, _some(utterances, 40), "–", source, work)


def _languages(data: Path, work: Path) -> Iterator[Row]:
    sets = {
        "pocketsphinx": _readings(data),
        "EmoTale English": _emotale(data, "EN"),
        "EmoTale Danish": _emotale(data, "DK"),
        "Emo-DB": _emodb(data),
    }
    what, goal = "language right", "≥ 95 %"
    if not any(sets.values()):
        yield _missing(what, goal, _DEBIAN)
        return
    single = {name: [[one] for one in _some(utterances, 40)] for name, utterances in sets.items()}
    yield what, _languages_right(single, work), goal, "single utterances of 1 to 6 s"
    several = {name: list(_by_speaker(utterances, 6)) for name, utterances in sets.items()}
    yield what, _languages_right(several, work), goal, "recordings of 6 utterances of one speaker, 8 to 30 s"


def _by_speaker(utterances: Sequence[Utterance], count: int) -> Iterator[list[Utterance]]:
    people: dict[str, list[Utterance]] = {}
    for one in utterances:
        people.setdefault(one.speaker, []).append(one)
    for said in people.values():
        yield _some(said, count)


def _languages_right(sets: Mapping[str, list[list[Utterance]]], work: Path) -> str:
    right = total = 0
    each: list[str] = []
    for name, recordings in sets.items():
        hits = 0
        for recording in recordings:
            sounds = [decode(str(one.path), work / "one", 16_000).read() for one in recording]
            joined = np.concatenate([np.pad(samples, (0, 8_000)) for samples in sounds])
            (work / "joined").write_bytes((joined * 32767).astype("<i2").tobytes())
            hits += _transcript(Sound(work / "joined", 16_000), None, "").language == recording[0].language
        right, total = right + hits, total + len(recordings)
        each.append(f"{name} {hits} of {len(recordings)}")
    return f"{100 * right / total:.1f} % ({'; '.join(each)})"


def _dialogs(data: Path, work: Path) -> Iterator[Row]:
    for name, prefix in (("EmoTale English", "EN"), ("EmoTale Danish", "DK")):
        utterances = _emotale(data, prefix)
        if not utterances:
            yield _missing(f"speaker confusion, {name}", "≤ 8 % given, ≤ 12 % unknown", _EMOTALE)
            continue
        voices: dict[str, list[Utterance]] = {}
        for one in utterances:
            voices.setdefault(one.speaker, []).append(one)
        given, unknown, found_right, took, lasted = list[Score](), list[Score](), 0, 0.0, 0.0
        rng = random.Random(7)
        for _ in range(16):
            count = rng.choice([2, 3, 4])
            sound, spoken = _dialog(voices, count, rng, work)
            started = time.process_time()
            found = speakers.turns(sound)
            took += time.process_time() - started
            lasted += sound.seconds
            found_right += len({turn.speaker for turn in found}) == count
            unknown.append(score(spoken, found))
            given.append(score(spoken, speakers.turns(sound, total=count)))
        source = f"16 dialogs spliced from {name}, {len(voices)} people never tuned on"
        yield "speaker confusion, count given", _scores(given), "≤ 8 %", source
        yield (
            "speaker confusion, count unknown",
            f"{_scores(unknown)}; count right {found_right} of 16",
            "≤ 12 %",
            source,
        )
        yield "speed of telling speakers apart", f"{lasted / took:.0f}× real time of one core", "–", source


class Score(NamedTuple):
    """Shares of the speech: with the wrong speaker, missed, and found where nobody speaks."""

    confused: float
    missed: float
    false: float


def score(spoken: Sequence[Turn], found: Sequence[Turn]) -> Score:
    """Compares turns every 10 ms, without .25 s around each true beginning and end."""
    length = int(100 * max(turn.end for turn in (*spoken, *found))) + 1
    truth, guess = np.full(length, -1), np.full(length, -1)
    near = np.zeros(length, bool)
    for turns, target in ((spoken, truth), (found, guess)):
        for turn in turns:
            target[int(turn.begin * 100) : int(turn.end * 100)] = turn.speaker
    for turn in spoken:
        for edge in (turn.begin, turn.end):
            near[max(0, int(edge * 100) - 25) : int(edge * 100) + 25] = True
    truth, guess = truth[~near], guess[~near]
    speech = int((truth >= 0).sum())
    both = (truth >= 0) & (guess >= 0)
    pairs = np.zeros((max(truth.max(), 0) + 1, max(guess.max(), 0) + 1))
    np.add.at(pairs, (truth[both], guess[both]), 1)
    return Score(
        confused=(pairs.sum() - most(pairs)) / speech,
        missed=int(((truth >= 0) & (guess < 0)).sum()) / speech,
        false=int(((truth < 0) & (guess >= 0)).sum()) / speech,
    )


def most(pairs: np.ndarray) -> float:
    """The greatest sum of one entry per row and column: all assignments of the smaller side are tried."""
    few = pairs if pairs.shape[0] <= pairs.shape[1] else pairs.T
    return max(
        float(sum(few[row, column] for row, column in enumerate(columns)))
        for columns in itertools.permutations(range(few.shape[1]), few.shape[0])
    )


def _scores(scores: Sequence[Score]) -> str:
    confused, missed, false = np.mean(np.array(scores), axis=0) * 100
    return f"{confused:.1f} % (speech missed {missed:.1f} %, false {false:.1f} %)"


def _dialog(voices: dict[str, list[Utterance]], count: int, rng: random.Random, work: Path) -> tuple[Sound, list[Turn]]:
    people = rng.sample(sorted(voices), count)
    noise = np.random.default_rng(rng.randrange(2**32))
    pieces: list[Samples] = []
    spoken: list[Turn] = []
    at, last = 0, -1
    for number in range(14):
        speaker = number if number < count else rng.choice([one for one in range(count) if one != last])
        last = speaker
        for one in rng.sample(voices[people[speaker]], rng.choice([1, 2])):
            samples = trimmed(decode(str(one.path), work / "utterance", 16_000).read())
            spoken.append(Turn(at / 16_000, (at + len(samples)) / 16_000, speaker, 1.0))
            pause = noise.normal(0, 1e-4, int(rng.uniform(0.15, 0.6) * 16_000)).astype(np.float32)
            pieces += [samples * np.float32(0.5 / np.abs(samples).max()), pause]
            at += len(samples) + len(pause)
    path = work / "dialog"
    path.write_bytes((np.concatenate(pieces) * 32767).astype("<i2").tobytes())
    return Sound(path, 16_000), spoken


def trimmed(samples: Samples) -> Samples:
    """Without what is more than 35 dB below the loudest 10 ms at both ends."""
    hops = samples[: len(samples) // 160 * 160].reshape(-1, 160)
    loudness = 10 * np.log10((hops**2).mean(axis=1) + 1e-12)
    loud = np.flatnonzero(loudness > loudness.max() - 35)
    return samples[max(0, loud[0] - 10) * 160 : (loud[-1] + 11) * 160]


def _error_rate(what: str, model: str, utterances: Sequence[Utterance], goal: str, data: str, work: Path) -> Row:
    wrong = words = 0
    lasted, started = 0.0, time.process_time()
    for one in utterances:
        sound = decode(str(one.path), work / "heard", 16_000)
        if not lasted:  # loading Whisper is not transcribing
            _transcript(sound, one.language, model)
            started = time.process_time()
        transcript = _transcript(sound, one.language, model)
        lasted += sound.seconds
        said = normalised(" ".join(word.text for word in transcript.words))
        wrong += _distance(normalised(one.text), said)
        words += len(normalised(one.text))
    took = time.process_time() - started
    speed = f"; {lasted / took:.1f}× real time of one core, utterances of {lasted / len(utterances):.1f} s"
    return what, f"{100 * wrong / words:.1f} % of {words} words{speed}", goal, data


def _transcript(sound: Sound, language: str | None, model: str) -> Transcript:
    options = Transcription(language=language, confidence_threshold=0.0, identify_speakers=False)
    os.environ[transcribing.WHISPER_VARIABLE] = "base" if model == "base" else ""
    try:
        return transcribing.transcribe(sound, options, lambda _second: None)
    finally:
        del os.environ[transcribing.WHISPER_VARIABLE]


def _readings(data: Path) -> list[Utterance]:
    folder = data / "pocketsphinx/usr/share/pocketsphinx/test/data/librivox"
    if not folder.is_dir():
        return []
    lines = (folder / "transcription").read_text().splitlines()
    parts = [match for line in lines if (match := re.fullmatch(r"<s> (.*) </s> \((.*)\)", line.strip()))]
    return [Utterance(folder / f"{part[2]}.wav", part[1], "en", "reader") for part in parts]


def _emotale(data: Path, prefix: str) -> list[Utterance]:
    """Files are called LANGUAGE_SPEAKER_EMOTION_SENTENCE.wav."""
    parts = [(path, path.stem.split("_")) for path in sorted((data / "EmoTale/wav").glob(f"{prefix}_*.wav"))]
    language = "en" if prefix == "EN" else "da"
    return [Utterance(path, ENGLISH[part[3][0]] if prefix == "EN" else "", language, part[1]) for path, part in parts]


def _emodb(data: Path) -> list[Utterance]:
    """Files are called by speaker (2), sentence (3), emotion (1) and take."""
    paths = sorted((data / "emodb/wav").glob("*.wav"))
    return [Utterance(path, GERMAN[path.stem[2:5]], "de", path.stem[:2]) for path in paths]


def _some(utterances: Sequence[Utterance], count: int) -> list[Utterance]:
    return random.Random(5).sample(utterances, min(count, len(utterances)))


def _missing(what: str, goal: str, command: str) -> Row:
    return what, "not measured: the data set is missing", goal, command


def normalised(text: str) -> list[str]:
    """The words of a text as they are compared."""
    text = text.lower()
    for before, after in (*_PAIRS, *_SLIPS):
        text = text.replace(before, after)
    words = re.sub(r"[^\w ]", "", text).split()
    return [_NUMBERS[int(word)] if word.isdecimal() and int(word) <= 12 else word for word in words]


def _distance(first: Sequence[str], second: Sequence[str]) -> int:
    row = list(range(len(second) + 1))
    for number, one in enumerate(first, start=1):
        before, row[0] = row[0], number
        for place, other in enumerate(second, start=1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (one != other))
    return row[-1]
