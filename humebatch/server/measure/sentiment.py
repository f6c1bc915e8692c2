"""Sentiment as the API gives it, nine scores from "1" (negative) to "9" (positive), derived from emotions.

Measured is the polarity: the probabilities of the positive classes of GoEmotions less those of the negative ones. It
tells comments with one polarity from those with the other at the AUC that the card of `language` states. How it is
spread over nine scores is our own mapping: no data says how strong a sentiment the service's "7" is.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from .language_heads import LABELS

__all__ = ["NEGATIVE", "POSITIVE", "distribution", "polarity"]

Floats = npt.NDArray[np.float64]

POSITIVE: Final = (
    "admiration", "amusement", "approval", "caring", "desire", "excitement", "gratitude", "joy", "love", "optimism",
    "pride", "relief",
)  # fmt: skip
NEGATIVE: Final = (
    "anger", "annoyance", "disappointment", "disapproval", "disgust", "embarrassment", "fear", "grief", "nervousness",
    "remorse", "sadness",
)  # fmt: skip
"""The groups of GoEmotions' paper; its ambiguous classes (confusion, curiosity, realization, surprise) have none."""

_SIGNS: Final = np.array([(label in POSITIVE) - (label in NEGATIVE) for label in LABELS], np.float64)
# A clear statement has a polarity of about .7, and shall be near 8 or near 2.
_STEEPNESS: Final = 1.5
# One score to each side: wide enough that two neighbours always share, narrow enough that 3 and 7 do not.
_WIDTH: Final = 1.0


def polarity(probabilities: npt.NDArray[np.floating]) -> Floats:
    """One number per row of `[n, 28]`: below 0 negative, 0 neither or both, above 0 positive."""
    result: Floats = probabilities.astype(np.float64) @ _SIGNS
    return result


def distribution(polarities: Floats) -> Floats:
    """Nine scores for each polarity, `[n, 9]`, each row summing to 1, highest where the sentiment is."""
    middle = 5 + 4 * np.tanh(_STEEPNESS * polarities)[:, None]
    weights = np.exp(-0.5 * ((np.arange(1, 10) - middle) / _WIDTH) ** 2)
    result: Floats = weights / weights.sum(axis=1, keepdims=True)
    return result
