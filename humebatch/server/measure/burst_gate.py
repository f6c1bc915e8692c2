"""Where in running audio people make sounds that are no words: laughs, sighs, groans.

The encoder of Whisper hears the audio in blocks of some seconds. A small network reads what it made of each tenth
of a second and of its surroundings, and says how probable a burst, speech, or neither is. A run of tenths that are
more probably a burst than not is a burst. Trained by `benchmarks/burst_gate.py` on recordings spliced from speech,
bursts and noises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .acoustic import RATE, Encoder, audible
from .sound import Samples, Sound

__all__ = ["KINDS", "STEP", "Found", "Gate", "features", "runs"]

Floats = npt.NDArray[np.float32]

KINDS: Final = ("other", "speech", "burst")
"""What the gate tells apart, in the order of its outputs."""

STEP: Final = 0.1
"""Seconds that one decision is about."""

_BLOCK, _OVERLAP = 10.0, 2.0  # seconds: what the encoder hears at once, and what the next block hears again
_FRAMES, _COLUMNS = 5, 10  # of the encoder and of the spectrum in one step
_NEAR, _FAR = 3, 8  # steps of surroundings: just before and just after, and all around

# Chosen on recordings of people that the network was trained without (benchmarks/burst_gate.py).
_SURE, _LIKELY = 0.95, 0.5  # a burst reaches the first at its best, and the second all along
_BRIDGED, _SHORTEST, _LONGEST = 2, 3, 100  # steps: interruptions inside a burst, and how long it is


class Found(NamedTuple):
    """One burst: where, in seconds, and what it sounds like."""

    begin: float
    end: float
    samples: Samples


class Gate:
    """The network, from the arrays of `burst_gate.npz`: `mean`, `scale`, then `w0`, `b0`, … of its layers."""

    def __init__(self, encoder: Encoder, weights: Mapping[str, npt.NDArray[np.generic]]) -> None:
        self._encoder = encoder
        self._weights = {name: np.asarray(values, np.float32) for name, values in weights.items()}
        self._layers = sum(name.startswith("w") for name in weights)

    def find(self, sound: Sound, progress: Callable[[float], None] = lambda _second: None) -> Iterator[Found]:
        """The bursts of a recording at 16 kHz in order, each as soon as its end is known; holds one block at a time.

        `progress` is called with the second that was reached.
        """
        for first, last in runs(self.likeness(sound, progress)):
            begin, end = first * STEP, last * STEP
            samples = sound.read(begin, end)
            start, stop = audible(samples)
            if stop > start:
                yield Found(begin + start / RATE, begin + stop / RATE, samples[start:stop])

    def likeness(self, sound: Sound, progress: Callable[[float], None] = lambda _second: None) -> Iterator[float]:
        """How probable a burst is, 0..1, for one `STEP` after the other; `progress` as in `find`."""
        lead = _OVERLAP / 2  # the borders of a block are judged where the neighbouring block hears what is beyond
        for begin, samples in sound.blocks(_BLOCK, _BLOCK - _OVERLAP):
            seconds = len(samples) / RATE
            first = round(lead / STEP) if begin else 0
            last = None if begin + seconds >= sound.seconds else round((seconds - lead) / STEP)
            progress(begin + seconds)
            if seconds >= STEP:
                judged = self.judged(features(self._encoder, samples))
                yield from judged[first:last, KINDS.index("burst")].tolist()

    def judged(self, rows: Floats) -> Floats:
        """How probable each of `KINDS` is, for rows of `features`."""
        values = (rows - self._weights["mean"]) / self._weights["scale"]
        for layer in range(self._layers):
            values = values @ self._weights[f"w{layer}"] + self._weights[f"b{layer}"]
            if layer + 1 < self._layers:
                values = np.maximum(values, 0)
        grown = np.exp(values - values.max(axis=1, keepdims=True))
        judged: Floats = grown / grown.sum(axis=1, keepdims=True)
        return judged


def features(encoder: Encoder, samples: Floats) -> Floats:
    """[one row per whole `STEP`, 1856] for a block of audio: what is heard there, before, after, and around."""
    spectrum = encoder.spectrum(samples)
    [frames] = encoder.frames([spectrum])
    count = len(frames) // _FRAMES
    heard = frames[: count * _FRAMES].reshape(count, _FRAMES, -1).mean(axis=1)
    bands = spectrum[:, : count * _COLUMNS].reshape(len(spectrum), count, _COLUMNS).mean(axis=2).T
    # Against the loudest of the block: how loud a recording is as a whole says nothing.
    steps = np.hstack([heard, bands - bands.max()])
    before, after, around = _mean(steps, -_NEAR, 0), _mean(steps, 1, _NEAR + 1), _mean(steps, -_FAR, _FAR + 1)
    return np.hstack([steps, before, after, around])


def runs(likeness: Iterable[float]) -> Iterator[tuple[int, int]]:
    """The bursts in a sequence of steps: (first, one past the last), in order, each once its end is known."""
    first = last = 0
    best = 0.0
    for number, value in enumerate(likeness):
        if last and (number - last > _BRIDGED or number - first >= _LONGEST):
            if best >= _SURE and last - first >= _SHORTEST:
                yield first, last
            last, best = 0, 0.0
        if value >= _LIKELY:
            first = first if last else number
            last, best = number + 1, max(best, value)
    if last and best >= _SURE and last - first >= _SHORTEST:
        yield first, last


def _mean(rows: Floats, begin: int, end: int) -> Floats:
    """For each row the mean of the rows from `begin` before the one `end` after it, as far as they exist."""
    count = len(rows)
    sums = np.vstack([np.zeros((1, rows.shape[1])), np.cumsum(rows, axis=0, dtype=np.float64)])
    first = np.clip(np.arange(count) + begin, 0, count - 1)
    last = np.maximum(np.clip(np.arange(count) + end, 0, count), first + 1)
    means: Floats = ((sums[last] - sums[first]) / (last - first)[:, None]).astype(np.float32)
    return means
