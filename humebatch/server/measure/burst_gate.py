"""Where in running audio people make sounds that are no words: laughs, sighs, groans.

The encoder of Whisper hears the audio in blocks of some seconds. A small network reads what it made of each tenth
of a second and of its surroundings, and says how probable a burst, speech, or neither is. A run of tenths that are
more probably a burst than not is a burst. Trained by `benchmarks/burst_gate.py` on recordings spliced from speech,
bursts and noises.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from .acoustic import Encoder
from .sound import Sound

__all__ = ["KINDS", "STEP", "Gate", "context", "runs", "tenths"]

Floats = npt.NDArray[np.float32]

KINDS: Final = ("other", "speech", "burst")
"""What the gate tells apart, in the order of its outputs."""

STEP: Final = 0.1
"""Seconds that one decision is about."""

_FRAMES = 5  # of the encoder, 20 ms each, in one step
_BLOCK, _OVERLAP = 10.0, 1.0  # seconds: what the encoder hears at once, and what is heard again by the next block
_NEAR, _FAR = 2, 6  # steps on either side that the network is told of, each as one mean


class Gate:
    """The network, from the arrays of `burst_gate.npz`: `mean`, `scale`, then `w0`, `b0`, … of its layers."""

    def __init__(self, encoder: Encoder, weights: Mapping[str, npt.NDArray[np.generic]]) -> None:
        self._encoder = encoder
        self._weights = {name: np.asarray(values, np.float32) for name, values in weights.items()}
        self._layers = sum(name.startswith("w") for name in weights)

    def probabilities(self, samples: Floats) -> Floats:
        """[one row per `STEP`, 3]: how probable each of `KINDS` is. One block of audio at 16 kHz."""
        spectrum = self._encoder.spectrum(samples)
        [frames] = self._encoder.frames([spectrum])
        return self.judged(context(tenths(frames)))

    def judged(self, features: Floats) -> Floats:
        """The network's outputs for rows of features."""
        values = (features - self._weights["mean"]) / self._weights["scale"]
        for layer in range(self._layers):
            values = values @ self._weights[f"w{layer}"] + self._weights[f"b{layer}"]
            if layer + 1 < self._layers:
                values = np.maximum(values, 0)
        grown = np.exp(values - values.max(axis=1, keepdims=True))
        judged: Floats = grown / grown.sum(axis=1, keepdims=True)
        return judged
