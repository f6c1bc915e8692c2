"""Train the gate that finds bursts in running audio (`humebatch/server/measure/weights/burst_gate.npz`).

    python -m benchmarks.burst_gate --data DIR --out FILE

DIR holds the data sets as `benchmarks/voices.py` names them. The gate learns from recordings that
`benchmarks/splicing.py` splices: bursts of the contributors of EmoGator whose number is not divisible by 10, speech of
7 speakers of Emo-DB and 6 of council meetings, and synthetic noises. Its size and its thresholds were chosen on
recordings of some of these people, by a network that had learned from the others; what is saved learned from all of
them. `python -m benchmarks.measuring burst` judges it on recordings spliced from other people.

Licences: EmoGator Apache-2.0, Emo-DB CC0, speakerbox MIT; see NOTICE. No recording is contained in the weights.

Needs the extra `local`, scikit-learn and scipy. About ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]  # carries no types
from sklearn.neural_network import MLPClassifier  # type: ignore[import-untyped]  # carries no types

from benchmarks import voices
from benchmarks.splicing import BURST, Score, Splice, splice, synthetic_noise
from humebatch.server.measure.acoustic import Encoder, audible
from humebatch.server.measure.burst_gate import STEP, Gate, features
from humebatch.server.measure.sound import Sound

__all__ = ["bursts", "judge", "splices", "train"]

Array = npt.NDArray[Any]

HIDDEN: Final = 64
PASSES: Final = 8
PENALTY: Final = 1.0
RECORDINGS: Final = 180
JUDGED: Final = 50
SECONDS: Final = 30.0
CLIPS: Final = 4000  # bursts that are decoded: more of them than the recordings hold
BLOCK: Final = 10.0
ASIDE: Final = ("emodb-15", "emodb-16", "council-morales", "council-sawant")  # trained without, to validate
SEED: Final = 0


def bursts(data: Path, contributors: Collection[int], most: int = CLIPS) -> list[Array]:
    """Bursts of these contributors without the quiet around them, drawn at random."""
    files = [burst for burst in voices.emogator(data) if burst.contributor in contributors]
    chosen = np.random.default_rng(SEED).permutation(len(files))[:most]
    clips = [voices.decoded(files[index].path) for index in sorted(chosen)]
    return [clip[slice(*audible(clip))] for clip in clips if len(clip) > 1600]


def splices(speech: Sequence[Array], clips: Sequence[Array], count: int, seed: int) -> list[Splice]:
    """`count` recordings of half a minute; `seed`s a thousand apart give different ones."""
    rng = np.random.default_rng(seed)
    noises = [synthetic_noise(rng) for _ in range(200)]
    return [splice(speech, clips, noises, SECONDS, seed + number) for number in range(count)]


def kinds(recording: Splice, steps: int) -> Array:
    """Which of `KINDS` each step is, by its middle."""
    found = np.zeros(steps, np.int64)
    middle = (np.arange(steps) + 0.5) * STEP
    for part in recording.parts:
        found[(middle >= part.begin) & (middle < part.end)] = part.kind
    return found


def examples(encoder: Encoder, recordings: Sequence[Splice]) -> tuple[Array, Array]:
    """Rows of features, and which of `KINDS` each is, from blocks as long as those that the gate hears."""
    rows: list[Array] = []
    labels: list[Array] = []
    length = round(BLOCK * 16_000)
    for recording in recordings:
        whole = kinds(recording, int(len(recording.samples) / 16_000 / STEP) + 1)
        for begin in range(0, len(recording.samples) - 16_000, length):
            block = features(encoder, recording.samples[begin : begin + length])
            first = round(begin / 16_000 / STEP)
            rows.append(block)
            labels.append(whole[first : first + len(block)])
    return np.vstack(rows), np.concatenate(labels)


def train(rows: Array, labels: Array) -> dict[str, Array]:
    """The arrays that `Gate` reads."""
    mean, scale = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    # pyright takes the default "auto" for the type of batch_size.
    network = MLPClassifier(
        (HIDDEN,),
        alpha=PENALTY,
        max_iter=PASSES,
        batch_size=256,  # pyright: ignore[reportArgumentType]
        random_state=SEED,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopping early is meant
        network.fit((rows - mean) / scale, labels)
    arrays = {"mean": mean.astype(np.float32), "scale": scale.astype(np.float32)}
    for number, (weights, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
        arrays |= {f"w{number}": weights.astype(np.float16), f"b{number}": bias.astype(np.float32)}
    return arrays


def judge(gate: Gate, recordings: Sequence[Splice], least: Sequence[float]) -> list[Score]:
    """How well the bursts in the recordings are found, for each overlap that a hit needs at least."""
    scores = [Score(one) for one in least]
    for recording in recordings:
        found = [(burst.begin, burst.end) for burst in gate.find(Held(recording.samples))]
        for score in scores:
            score.add(found, [(part.begin, part.end) for part in recording.parts if part.kind == BURST])
    return scores


class Held(Sound):
    """Samples at 16 kHz in memory, read like a file."""

    def __init__(self, samples: Array) -> None:
        self.rate = 16_000
        self.samples = len(samples)
        self._held = samples

    def read(self, begin: float = 0.0, end: float | None = None) -> Array:
        """The samples from `begin` to `end` (seconds)."""
        return self._held[round(begin * self.rate) : None if end is None else round(end * self.rate)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    encoder = Encoder()
    learned, aside = material(options.data)
    known, unknown = examples(encoder, learned), examples(encoder, aside)
    for score in judge(Gate(encoder, train(*known)), aside, (0.5, 0.3)):
        print(f"people set aside, overlap {score.least}: {score}", flush=True)
    arrays = train(*(np.concatenate(both) for both in zip(known, unknown, strict=True)))
    np.savez_compressed(options.out, allow_pickle=False, **arrays)
    content = options.out.read_bytes()
    print(f"{options.out}: {len(content):,} bytes, sha256 {hashlib.sha256(content).hexdigest()}")


def material(data: Path) -> tuple[list[Splice], list[Splice]]:
    """Recordings of the people that a first network learns from, and of those set aside to choose the settings on."""
    speech = list(voices.speech(data))
    groups: list[list[Splice]] = []
    for away, count in ((False, RECORDINGS), (True, JUDGED)):
        who = [number for number in range(1, 358) if not voices.held_out(number) and (number % 10 == 5) == away]
        clips = bursts(data, who)
        said = [voice.samples for voice in speech if (voice.person in ASIDE) == away]
        groups.append(splices(said, clips, count, seed=1000 * away))
    return groups[0], groups[1]


if __name__ == "__main__":
    main()
