"""Vocal bursts: laughs, sighs, groans and other sounds without words, found in running audio and named.

The gate (`burst_gate`) finds them. Each is then embedded (`acoustic`), and a linear head tells apart the 30 classes of
EmoGator (Buhl 2023, Apache-2.0: 32,130 bursts of 357 people, each asked to utter a class), trained by
`benchmarks/burst_heads.py`. A score is the probability that a contributor had been asked for that class rather than
for one of the 29 others. It is no copy of the hosted service's scale, which is not public.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ...predictions import BurstPrediction, Score, Scores, TimeInterval
from ...vocabulary import BURST_DESCRIPTIONS, EMOTIONS
from . import Finding, Row
from .acoustic import Encoder
from .burst_card import CARD, CLASSES
from .burst_gate import Gate
from .recording import Recording

__all__ = ["CARD", "BurstMeasurer", "Heads", "measurer", "named"]

Floats = npt.NDArray[np.float32]

_CLASS_OF: Final = {given.name: CLASSES.index(given.of) for given in CARD.names}


class Heads:
    """The 30 linear heads, from the arrays of `burst_heads.npz`."""

    def __init__(self, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        self._weights = weights["weights"].astype(np.float32)
        self._bias = weights["bias"].astype(np.float32)

    def probabilities(self, embedded: Floats) -> Floats:
        """[n, 30]: how probable each of `CLASSES` is for each embedding; each row adds up to 1."""
        values = embedded @ self._weights + self._bias
        grown = np.exp(values - values.max(axis=1, keepdims=True))
        probabilities: Floats = grown / grown.sum(axis=1, keepdims=True)
        return probabilities


class BurstMeasurer:
    """Measures bursts in audio and in the sound of videos."""

    model = "burst"
    card = CARD

    def __init__(self) -> None:
        self.encoder = Encoder()
        self.gate = Gate(self.encoder, _stored("burst_gate.npz"))
        self.heads = Heads(_stored("burst_heads.npz"))

    def measure(self, recording: Recording, _config: Any, /) -> Iterator[Finding]:
        """One row per burst, in order of time, each as soon as the burst has ended. Raises `Unmeasurable`."""
        for found in self.gate.find(recording.audio(), recording.progress):
            [probabilities] = self.heads.probabilities(self.encoder.embed([found.samples]))
            time = TimeInterval(found.begin, found.end)
            emotions = named(probabilities, EMOTIONS)
            descriptions = named(probabilities, BURST_DESCRIPTIONS)
            yield Row("unknown", BurstPrediction(time, emotions, descriptions))


def named(probabilities: Floats, names: Iterable[str]) -> Scores:
    """The scores of those of `names` that the card gives, from one row of `Heads.probabilities`."""
    return Scores(Score(name, float(probabilities[_CLASS_OF[name]])) for name in names if name in _CLASS_OF)


def measurer(model: str) -> BurstMeasurer:
    """The measurer of `burst`; raises `ValueError` for another model."""
    if model != BurstMeasurer.model:
        raise ValueError(f"this module measures burst, not {model}")
    return BurstMeasurer()


def _stored(name: str) -> dict[str, npt.NDArray[Any]]:
    with (files("humebatch.server.measure") / "weights" / name).open("rb") as file, np.load(file) as arrays:
        return dict(arrays)
