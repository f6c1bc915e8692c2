"""What a voice expresses, compared with how the same person speaks otherwise: the heads that prosody reads.

The heads are linear, so the mean of a speaker need not be subtracted from 1,633 numbers per utterance but from the
eight that the heads make of them; a recording of three hours needs no more than those in memory. They were trained by
`benchmarks/prosody_heads.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from .acoustic import WIDTH

__all__ = ["AROUSAL", "Heads", "centred", "level"]

Floats = npt.NDArray[np.float32]

AROUSAL: Final = "arousal"
"""Name of the one head that is no emotion; the last one."""

_PEAK: Final = 0.5


class Heads:
    """Linear heads on embeddings of `acoustic.Encoder`: classes of emotion, and arousal.

    `weights` [WIDTH, n], `bias` [n], `names` (n, the last one `AROUSAL`). Raises `ValueError` for other shapes.
    """

    def __init__(self, weights: Floats, bias: Floats, names: Sequence[str]) -> None:
        if weights.shape != (WIDTH, len(names)) or bias.shape != (len(names),) or names[-1] != AROUSAL:
            raise ValueError(f"no heads of tone: weights {weights.shape}, bias {bias.shape}, names {', '.join(names)}")
        self.names = tuple(names)
        self._weights = weights
        self._bias = bias

    @classmethod
    def load(cls, file: Path | Traversable) -> Heads:
        """Heads that `save` wrote."""
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            return cls(stored["weights"], stored["bias"], stored["names"].tolist())

    def save(self, file: Path) -> None:
        """Write them, byte for byte the same for the same heads."""
        np.savez_compressed(file, weights=self._weights, bias=self._bias, names=np.array(self.names))

    def read(self, embeddings: Floats) -> Floats:
        """What the heads make of embeddings [rows, WIDTH]: [rows, n], meaningful only next to the speaker's mean."""
        return embeddings @ self._weights

    def scores(self, centred: Floats) -> tuple[Floats, Floats]:
        """Of what was read and centred on its speaker: emotions [rows, n - 1], sum 1, and arousal [rows]; all 0..1."""
        logits = centred + self._bias
        emotions = np.exp(logits[:, :-1] - logits[:, :-1].max(axis=1, keepdims=True))
        arousal = np.asarray(1 / (1 + np.exp(-np.clip(logits[:, -1], -60, 60))), np.float32)
        return emotions / emotions.sum(axis=1, keepdims=True), arousal


def centred(values: Floats, speakers: npt.NDArray[np.generic]) -> Floats:
    """`values` [rows, n] without the mean of all rows of the same speaker."""
    moved = values.copy()
    for speaker in np.unique(speakers):
        own = speakers == speaker
        moved[own] -= values[own].mean(axis=0)
    return moved


def level(samples: Floats) -> Floats:
    """The same as loud as everything that the heads were trained on: how far away the microphone is says nothing."""
    peak = float(np.abs(samples).max(initial=0))
    return samples * np.float32(_PEAK / peak) if peak else samples
