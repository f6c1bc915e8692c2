"""Vocal bursts: laughs, sighs, groans and other sounds without words, found in running audio and named.

The gate (`burst_gate`) finds them. Each is then embedded (`acoustic`), and a linear head tells apart the 30 classes of
EmoGator (Buhl et al. 2023, Apache-2.0: 32,130 bursts of 357 people, each asked to utter a class), trained by
`benchmarks/burst_heads.py`. A score is the probability that a contributor had been asked for that class rather than
for one of the 29 others. It is no copy of the hosted service's scale, which is not public.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ...predictions import BurstPrediction, Score, Scores, TimeInterval
from . import Finding, Row
from .acoustic import Encoder
from .burst_gate import Gate
from .card import Card, Figure, Given
from .recording import Recording

__all__ = ["CARD", "CLASSES", "BurstMeasurer", "Heads", "measurer"]

Floats = npt.NDArray[np.float32]

CLASSES: Final = (
    "Adoration", "Amusement", "Anger", "Awe", "Confusion", "Contempt", "Contentment", "Desire", "Disappointment",
    "Disgust", "Distress", "Ecstasy", "Elation", "Embarrassment", "Fear", "Guilt", "Interest", "Neutral", "Pain",
    "Pride", "Realization", "Relief", "Romantic Love", "Sadness", "Serenity", "Shame", "Surprise (Negative)",
    "Surprise (Positive)", "Sympathy", "Triumph",
)  # fmt: skip
"""The classes of EmoGator in the order of its numbers, which is the order of the heads' outputs."""

_ASKED: Final = "contributors were asked for a burst of this very name"
_SPELLED: Final = "contributors were asked for a burst of this name, spelled with a capital"

# Without a row: Neutral, which no name of the API means, and Romantic Love, which does not say whether Love or Romance
# is meant and is among the weakest classes.
_NAMES: Final = (
    Given("Adoration", "measured", "Adoration", _ASKED),
    Given("Amusement", "measured", "Amusement", _ASKED),
    Given("Anger", "measured", "Anger", _ASKED),
    Given("Awe", "measured", "Awe", _ASKED),
    Given("Calmness", "measured", "Serenity", "serenity is calmness, and no other name of the API means it"),
    Given("Confusion", "measured", "Confusion", _ASKED),
    Given("Contempt", "measured", "Contempt", _ASKED),
    Given("Contentment", "measured", "Contentment", _ASKED),
    Given("Desire", "measured", "Desire", _ASKED),
    Given("Disappointment", "measured", "Disappointment", _ASKED),
    Given("Disgust", "measured", "Disgust", _ASKED),
    Given("Distress", "measured", "Distress", _ASKED),
    Given("Ecstasy", "measured", "Ecstasy", _ASKED),
    Given("Embarrassment", "measured", "Embarrassment", _ASKED),
    Given("Fear", "measured", "Fear", _ASKED),
    Given("Guilt", "measured", "Guilt", _ASKED),
    Given("Interest", "measured", "Interest", _ASKED),
    Given("Joy", "derived", "Elation", "elation is joy at its height; quiet joy was never asked for"),
    Given("Pain", "measured", "Pain", _ASKED),
    Given("Pride", "measured", "Pride", _ASKED),
    Given("Realization", "measured", "Realization", _ASKED),
    Given("Relief", "measured", "Relief", _ASKED),
    Given("Sadness", "measured", "Sadness", _ASKED),
    Given("Shame", "measured", "Shame", _ASKED),
    Given("Surprise (negative)", "measured", "Surprise (Negative)", _SPELLED),
    Given("Surprise (positive)", "measured", "Surprise (Positive)", _SPELLED),
    Given("Sympathy", "measured", "Sympathy", _ASKED),
    Given("Triumph", "measured", "Triumph", _ASKED),
)
_COLUMNS: Final = tuple((given.name, CLASSES.index(given.of)) for given in _NAMES)

_COMMAND: Final = "python -m benchmarks.measuring burst"
_UNSEEN: Final = "EmoGator, 3,150 bursts of the 35 people whose number is divisible by 10, never trained or chosen on"

CARD: Final = Card(
    model="burst",
    measurer="emogator-whisper",
    version="1",
    summary="finds sounds without words in audio, and names each by what people who uttered such a sound had meant",
    weights=(),
    names=_NAMES,
    figures=(Figure(what="mean AUC of 30 classes", value=".8505, all of them >= .75", data=_UNSEEN, command=_COMMAND),),
    limits=("The weakest names are Embarrassment, Shame, Pride and Disappointment.",),
)


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
            yield Row(
                "unknown", BurstPrediction(TimeInterval(found.begin, found.end), emotions(probabilities), Scores())
            )


def emotions(probabilities: Floats) -> Scores:
    """The API's names and their scores, in the API's order, of one row of `Heads.probabilities`."""
    return Scores(Score(name, float(probabilities[column])) for name, column in _COLUMNS)


def measurer(model: str) -> BurstMeasurer:
    """The measurer of `burst`; raises `ValueError` for another model."""
    if model != BurstMeasurer.model:
        raise ValueError(f"this module measures burst, not {model}")
    return BurstMeasurer()


def _stored(name: str) -> dict[str, npt.NDArray[Any]]:
    with (files(__package__) / "weights" / name).open("rb") as file, np.load(file) as arrays:
        return dict(arrays)
