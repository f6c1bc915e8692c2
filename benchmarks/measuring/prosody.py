"""How good prosody is: on people left out of its own corpus, on another corpus, and against instruments.

EmoTale (github.com/snehadas/EmoTale) is copyright without a licence: it is read here, and nothing was trained or chosen
on it. Its recordings, English by Danish speakers, differ from Emo-DB in language, people, microphone and room.

Figures of Emo-DB itself flatter a little: the strength of regularisation, the copies to train on and the shortest piece
were chosen on them, two settings of the pitch on every eighth recording, and two of the syllables on all of them.
"""

from __future__ import annotations

import csv
import functools
import time
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

from benchmarks.prosody_heads import (
    AROUSED,
    CALM,
    Corpus,
    copies,
    decoded,
    emodb,
    left_out,
    mean_auc,
    recall,
)
from humebatch.server.measure.acoustic import Encoder
from humebatch.server.measure.intonation import PER_SECOND, nuclei, track
from humebatch.server.measure.prosody import ENOUGH, MEASURED, ProsodyMeasurer
from humebatch.server.measure.tone import Heads, centred, level

__all__ = ["rows"]

Floats = npt.NDArray[np.float32]
Names = npt.NDArray[np.str_]
Line = tuple[str, str, str, str]

_LETTERS: Final = {"A": "Anger", "B": "Boredom", "H": "Joy", "S": "Sadness", "N": "neutral"}
_ROUNDS: Final = 20  # draws of the few utterances that a speaker is compared with


def rows(options: Any) -> Iterator[Line]:
    """What, figure, goal and data; a data set that is not in the folder `options.data` is said to be missing."""
    data: Path = options.data
    try:
        yield from _own_corpus(data / "emodb")
        yield from _instruments(data / "emodb")
    except FileNotFoundError as error:
        yield "Emo-DB", "not measured", "UAR ≥ .80", str(error)
    try:
        yield from _other_corpus(data / "EmoTale", data / "emodb")
    except FileNotFoundError as error:
        yield "EmoTale", "not measured", "AUC ≥ .76", str(error)


@functools.cache
def _encoder() -> Encoder:
    return Encoder()


def _own_corpus(folder: Path) -> Iterator[Line]:
    samples, labels, speakers, sentences = emodb(folder)
    seconds = sum(map(len, samples)) / 16_000
    encoder = _encoder()
    began = time.perf_counter()
    for one in samples:
        track(one)
    encoder.embed([level(one) for one in samples])
    spent = time.perf_counter() - began

    made = copies(samples, encoder)
    corpus = Corpus(made[0], labels, speakers, sentences)
    for who, also in (("speaker", False), ("speaker and sentence", True)):
        emotions, arousal = left_out(made, corpus, sentences=also)
        data = f"Emo-DB, {len(labels)} utterances, {who} left out"
        yield "recall of 7 emotions, averaged (UAR)", f"{recall(labels, emotions):.3f}", "" if also else "≥ .80", data
        yield "AUC of the four names", _spelled(*mean_auc(labels, emotions, MEASURED)), "", data
        yield "arousal, AUC", f"{_arousal(labels, arousal):.3f}", "", f"{data}; {_sides(labels)}"
    yield "speed, scores and acoustics", f"{seconds / spent:.0f} × real time", "", f"Emo-DB, {seconds:.0f} s of speech"


def _other_corpus(folder: Path, own: Path) -> Iterator[Line]:
    heads = ProsodyMeasurer().heads
    english, danish = _emotale(folder, "EN"), _emotale(folder, "DK")
    for corpus, language, goal in ((english, "English", "≥ .76"), (danish, "Danish", "")):
        read = heads.read(_encoder().embed([level(one) for one in corpus.samples]))
        data = f"EmoTale {language}, {len(corpus.labels)} utterances, {len(np.unique(corpus.speakers))} speakers"
        emotions, arousal = heads.scores(centred(read, corpus.speakers))
        against = f"{data}, against all of the speaker's own"
        yield "AUC of the four names", _spelled(*mean_auc(corpus.labels, emotions, MEASURED)), goal, against
        yield "arousal, AUC", f"{_arousal(corpus.labels, arousal):.3f}", "", f"{against}; {_sides(corpus.labels)}"
        rated = float(np.corrcoef(arousal, corpus.rated)[0, 1])
        yield "arousal, correlation with what people heard", f"{rated:.2f}", "", f"{against}; mean of its annotators"
        few = [_few(heads, read, corpus, np.random.default_rng(seed)) for seed in range(_ROUNDS)]
        mean = np.mean([value for value, _ in few])
        yield (
            "AUC of the four names",
            f"{mean:.3f}",
            goal,
            f"{data}, against {ENOUGH} of the speaker's own, drawn {_ROUNDS} times",
        )
        ours = emodb(own)[0]
        emotions, arousal = heads.scores(read - heads.read(_encoder().embed([level(one) for one in ours])).mean(axis=0))
        plain = f"{data}, without the speaker's own (so prosody does not do it)"
        yield "AUC of the four names", _spelled(*mean_auc(corpus.labels, emotions, MEASURED)), "", plain
        yield "arousal, AUC", f"{_arousal(corpus.labels, arousal):.3f}", "", plain


class _EmoTale(NamedTuple):
    samples: list[Floats]
    labels: Names
    speakers: Names
    rated: Floats


def _emotale(folder: Path, language: str) -> _EmoTale:
    files = sorted((folder / "wav").glob(f"{language}_*.wav"))
    if not files:
        raise FileNotFoundError(
            f"no recordings in {folder / 'wav'}: expected a checkout of github.com/snehadas/EmoTale"
        )
    with (folder / "annotations.csv").open(newline="") as lines:
        rated = {line["file"]: _mean([line[f"a{number}_A"] for number in (1, 2, 3)]) for line in csv.DictReader(lines)}
    parts = [file.stem.split("_") for file in files]
    return _EmoTale(
        [decoded(file) for file in files],
        np.array([_LETTERS[emotion] for _, _, emotion, _ in parts]),
        np.array([speaker for _, speaker, _, _ in parts]),
        np.array([rated[file.name] for file in files], np.float32),
    )


def _mean(cells: Sequence[str]) -> float:
    return float(np.mean([float(cell) for cell in cells if cell]))


def _few(heads: Heads, read: Floats, corpus: _EmoTale, rng: np.random.Generator) -> tuple[float, dict[str, float]]:
    """As if `ENOUGH` utterances were all there is: each one against itself and four others of its speaker."""
    said = read.copy()
    for number, speaker in enumerate(corpus.speakers):
        others = np.flatnonzero((corpus.speakers == speaker) & (np.arange(len(read)) != number))
        chosen = rng.choice(others, ENOUGH - 1, replace=False)
        said[number] -= read[[number, *chosen]].mean(axis=0)
    return mean_auc(corpus.labels, heads.scores(said)[0], MEASURED)


def _arousal(labels: Names, arousal: Floats) -> float:
    sure = np.isin(labels, [*AROUSED, *CALM])
    return float(roc_auc_score(np.isin(labels[sure], [*AROUSED]), arousal[sure]))


def _sides(labels: Names) -> str:
    return " against ".join(", ".join(sorted(side & set(labels.tolist()))) for side in (AROUSED, CALM))


def _spelled(mean: float, each: dict[str, float]) -> str:
    return f"{mean:.3f} ({', '.join(f'{name} {value:.2f}' for name, value in each.items())})"


def _instruments(folder: Path) -> Iterator[Line]:
    """Pitch against a laryngograph, which hears the vocal folds alone; syllables against those labelled by hand."""
    gross, compared, medians, ranges = 0, 0, [], []
    recordings = sorted((folder / "wav_laryng").glob("*.wav"))
    for file in recordings:
        voice, folds = _stereo(file)
        # Slow movements of the larynx are no voice.
        folds = folds - np.convolve(folds, np.full(400, 1 / 400, np.float32), "same")
        ours, theirs = track(voice), track(folds)
        heard, true = ours.pitch.astype(np.float32), theirs.pitch.astype(np.float32)
        both = (heard > 0) & (true > 0)
        gross += int((np.abs(np.log2(heard[both] / true[both])) > np.log2(1.2)).sum())
        compared += int(both.sum())
        if both.sum() >= PER_SECOND / 5:
            one, other = (tracked.between(0, len(heard) / PER_SECOND) for tracked in (ours, theirs))
            medians.append(abs(one["pitch_hz"] / other["pitch_hz"] - 1))
            ranges.append(abs(one["pitch_range_semitones"] - other["pitch_range_semitones"]))
    if medians:
        data = f"Emo-DB, {len(recordings)} recordings with a laryngograph"
        yield "pitch off by more than 20 %", f"{gross / compared:.1%} of voiced frames", "", data
        wrong = np.mean(np.array(medians) > 0.1)
        yield "median pitch off by", f"{np.median(medians):.1%}; more than 10 % in {wrong:.1%} of files", "", data
        yield "range of pitch off by", f"{np.median(ranges):.1f} semitones", "", data

    counted: list[float] = []
    labelled: list[float] = []
    for file in sorted((folder / "silb").glob("*.silb")):
        lines = [line.split() for line in file.read_text("latin-1").splitlines()]
        labels = [(float(line[0]), line[1]) for line in lines if len(line) == 2 and line[0][0].isdigit()]
        sound = folder / "wav" / f"{file.stem}.wav"
        if len(labels) < 3 or not sound.is_file():
            continue
        begin, end = labels[0][0], labels[-1][0]
        pitch, loud = track(decoded(sound)[int(begin * 16_000) : int(end * 16_000)])
        counted.append(len(nuclei(pitch.astype(np.float32), loud.astype(np.float32))) / (end - begin))
        labelled.append(sum(label not in ".-_" for _, label in labels) / (end - begin))
    if counted:
        correlation = float(np.corrcoef(counted, labelled)[0, 1])
        off = np.mean(np.abs(np.array(counted) / np.array(labelled) - 1))
        data = f"Emo-DB, {len(counted)} utterances with labelled syllables"
        yield "syllables per second", f"correlation {correlation:.2f}, off by {off:.0%} on average", "", data


def _stereo(file: Path) -> tuple[Floats, Floats]:
    """Microphone and laryngograph."""
    with wave.open(str(file)) as opened:
        samples = np.frombuffer(opened.readframes(opened.getnframes()), "<i2").reshape(-1, opened.getnchannels())
    return (samples[:, 0] / 32768).astype(np.float32), (samples[:, 1] / 32768).astype(np.float32)
