"""Train and judge the heads of the prosody measurer: `humebatch/server/measure/weights/prosody_heads.npz`.

    python -m benchmarks.prosody_heads --data FOLDER --out prosody_heads.npz

FOLDER/emodb is Emo-DB (Burkhardt et al. 2005: 535 acted German utterances of 10 speakers, 7 emotions) as
github.com/felixbur/emodb holds it; CC0-1.0 according to audEERING's dataset repository. Nothing else is read: not one
choice here (features, copies, strength of regularisation, shortest utterance) was made on another corpus.

Every utterance is heard as it is, twice through a worse channel, and as two excerpts through a third and a fourth, so
that the heads do not learn the studio. Each of these five is centred on the mean of its own speaker, which is what the
measurer does with the speakers of a recording. The head of emotions is multinomial, that of arousal binary; both are
linear, so that a speaker's mean can be subtracted from what the heads say instead of from 1,633 numbers per utterance.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import av
import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.metrics import recall_score, roc_auc_score  # type: ignore[import-untyped]

from humebatch.server.measure.acoustic import RATE, Encoder
from humebatch.server.measure.tone import AROUSAL, Heads, centred, level

__all__ = ["AROUSED", "CALM", "CLASSES", "Corpus", "decoded", "emodb", "left_out", "mean_auc", "recall", "train"]

Floats = npt.NDArray[np.float32]
Names = npt.NDArray[np.str_]

# The sixth letter of a file name of Emo-DB; the names are those of the API where it has one.
LETTERS: Final[Mapping[str, str]] = {
    "W": "Anger", "L": "Boredom", "E": "Disgust", "A": "Fear", "F": "Joy", "T": "Sadness", "N": "neutral",
}  # fmt: skip
CLASSES: Final = tuple(sorted(LETTERS.values()))
AROUSED: Final = frozenset({"Anger", "Fear", "Joy"})
CALM: Final = frozenset({"Boredom", "Sadness", "neutral"})

_EMOTION_C: Final = 0.002
_AROUSAL_C: Final = 0.0005
_COPIES: Final = ("as it is", "worse channel", "worse channel", "excerpt", "excerpt")
_EXCERPT: Final = (0.5, 2.5)  # seconds


class Corpus(NamedTuple):
    """Utterances as embeddings [n, WIDTH], and per utterance its label, speaker and sentence."""

    embeddings: Floats
    labels: Names
    speakers: Names
    sentences: Names


def decoded(path: Path) -> Floats:
    """The audio of a file as mono samples at 16 kHz, -1..1."""
    resampler = av.AudioResampler("s16", "mono", RATE)
    with av.open(str(path)) as container:
        frames = [
            piece.to_ndarray()[0] for frame in (*container.decode(audio=0), None) for piece in resampler.resample(frame)
        ]
    samples: Floats = np.concatenate(frames).astype(np.float32) / np.float32(32768)
    return samples


def emodb(folder: Path) -> tuple[list[Floats], Names, Names, Names]:
    """Samples, labels, speakers and sentences of Emo-DB. Raises `FileNotFoundError` without it."""
    files = sorted((folder / "wav").glob("*.wav"))
    if not files:
        raise FileNotFoundError(f"no recordings in {folder / 'wav'}: expected a checkout of github.com/felixbur/emodb")
    names = [file.name for file in files]
    return (
        [decoded(file) for file in files],
        np.array([LETTERS[name[5]] for name in names]),
        np.array([name[:2] for name in names]),
        np.array([name[2:5] for name in names]),
    )


def worse(samples: Floats, rng: np.random.Generator) -> Floats:
    """The same through another microphone, room and line: equalised, cut in band, reverberated, with noise."""
    length = len(samples)
    frequencies = np.fft.rfftfreq(length, 1 / RATE)
    octaves = np.log2(np.maximum(frequencies, 50) / 1000)
    gain = rng.uniform(-2, 2) * octaves
    for _ in range(3):
        gain += rng.uniform(-6, 6) * np.exp(-2 * (octaves - rng.uniform(-2.7, 2.6)) ** 2)
    lowest, highest = rng.choice([0, 0, 80, 200]), rng.choice([8000, 8000, 5500, 3800])
    gain[(frequencies < lowest) | (frequencies > highest)] -= 30
    heard = np.fft.irfft(np.fft.rfft(samples) * 10 ** (gain / 20), length)
    if rng.random() < 0.5:
        tail = int(rng.uniform(0.05, 0.3) * RATE)
        room = rng.normal(size=tail) * np.exp(-6.9 * np.arange(tail) / tail)
        room *= rng.uniform(0.5, 3) / np.abs(room).sum()
        room[0] = 1
        both = length + tail
        heard = np.fft.irfft(np.fft.rfft(heard, both) * np.fft.rfft(room, both), both)[:length]
    white = np.fft.rfft(rng.normal(size=length))
    noise = np.fft.irfft(white / np.maximum(frequencies, 60) ** rng.uniform(0, 1), length)
    below = rng.uniform(15, 40)
    mixed: Floats = (heard + noise * (heard.std() / noise.std() * 10 ** (-below / 20))).astype(np.float32)
    return mixed


def excerpt(samples: Floats, rng: np.random.Generator) -> Floats:
    """A stretch of it, from wherever."""
    length = min(len(samples), int(rng.uniform(*_EXCERPT) * RATE))
    begin = int(rng.integers(0, len(samples) - length + 1))
    return samples[begin : begin + length]


def copies(samples: Sequence[Floats], encoder: Encoder, seed: int = 0) -> list[Floats]:
    """Embeddings of all utterances, one array for each of `_COPIES`."""
    rng = np.random.default_rng(seed)
    made = []
    for copy in _COPIES:
        heard = [level(one) for one in samples]
        if copy != "as it is":
            heard = [level(worse(one, rng)) for one in heard]
        if copy == "excerpt":
            heard = [level(excerpt(one, rng)) for one in heard]
        made.append(encoder.embed(heard))
    return made


def train(made: Sequence[Floats], labels: Names, speakers: Names) -> Heads:
    """Heads from the embeddings of several copies of the same utterances."""
    stacked = np.vstack([centred(copy, speakers) for copy in made])
    spread = stacked.std(axis=0) + np.float32(1e-2)
    scaled = stacked / spread
    emotion = _fit(scaled, np.tile(labels, len(made)), _EMOTION_C)
    sure = np.isin(labels, [*AROUSED, *CALM])
    arousal = _fit(scaled[np.tile(sure, len(made))], np.tile(np.isin(labels[sure], [*AROUSED]), len(made)), _AROUSAL_C)
    weights = np.vstack([emotion.coef_, arousal.coef_]) / spread
    bias = np.r_[emotion.intercept_, arousal.intercept_]
    return Heads(weights.T.astype(np.float32), bias.astype(np.float32), (*emotion.classes_.tolist(), AROUSAL))


def _fit(x: Floats, y: npt.NDArray[np.generic], strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=500, tol=1e-3, class_weight="balanced").fit(x, y)


def left_out(made: Sequence[Floats], corpus: Corpus, *, sentences: bool = False) -> tuple[Floats, Floats]:
    """What heads say that saw nothing of the speaker (nor, with `sentences`, of the sentence).

    Emotions [n, 7] and arousal [n]. A speaker's own mean is over the utterances of that speaker, as in a recording.
    """
    emotions = np.zeros((len(corpus.labels), len(CLASSES)), np.float32)
    arousal = np.zeros(len(corpus.labels), np.float32)
    for judged, learned in _splits(corpus, sentences):
        heads = train([copy[learned] for copy in made], corpus.labels[learned], corpus.speakers[learned])
        said = centred(heads.read(corpus.embeddings), corpus.speakers)[judged]
        emotions[judged], arousal[judged] = heads.scores(said)
    return emotions, arousal


def _splits(corpus: Corpus, sentences: bool) -> Iterator[tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]:
    for speaker in np.unique(corpus.speakers):
        own = corpus.speakers == speaker
        for sentence in np.unique(corpus.sentences[own]) if sentences else [None]:
            same = np.ones_like(own) if sentence is None else corpus.sentences == sentence
            yield own & same, ~own & (~same if sentences else True)


def recall(labels: Names, emotions: Floats) -> float:
    """Unweighted average recall: how many of each class are named rightly, averaged over classes."""
    return float(recall_score(labels, np.array(CLASSES)[emotions.argmax(axis=1)], average="macro"))


def mean_auc(labels: Names, emotions: Floats, names: Sequence[str]) -> tuple[float, dict[str, float]]:
    """Area under the ROC curve of each name against all other labels, and their mean."""
    each = {name: float(roc_auc_score(labels == name, emotions[:, CLASSES.index(name)])) for name in names}
    return float(np.mean(list(each.values()))), each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with emodb/")
    parser.add_argument("--out", type=Path, default=Path("prosody_heads.npz"), help="where the heads go")
    parser.add_argument("--cache", type=Path, help="keep the embeddings here, and take them from here")
    chosen = parser.parse_args()

    samples, labels, speakers, sentences = emodb(chosen.data / "emodb")
    start = time.perf_counter()
    if chosen.cache and chosen.cache.is_file():
        made = list(np.load(chosen.cache)["made"])
    else:
        made = copies(samples, Encoder())
        if chosen.cache:
            np.savez(chosen.cache, made=made)
    print(f"{len(made)} copies of {len(labels)} utterances embedded in {time.perf_counter() - start:.0f} s")
    heads = train(made, labels, speakers)
    heads.save(chosen.out)
    digest = hashlib.sha256(chosen.out.read_bytes()).hexdigest()
    print(f"{chosen.out.name}: {chosen.out.stat().st_size} bytes, sha256 {digest}")

    corpus = Corpus(made[0], labels, speakers, sentences)
    for what, also in (("speaker left out", False), ("speaker and sentence left out", True)):
        emotions, arousal = left_out(made, corpus, sentences=also)
        mean, each = mean_auc(labels, emotions, CLASSES)
        sure = np.isin(labels, [*AROUSED, *CALM])
        high = float(roc_auc_score(np.isin(labels[sure], [*AROUSED]), arousal[sure]))
        print(f"{what}: UAR {recall(labels, emotions):.3f}, AUC {mean:.3f}, arousal AUC {high:.3f}")
        print("  " + ", ".join(f"{name} {value:.3f}" for name, value in each.items()))


if __name__ == "__main__":
    main()
