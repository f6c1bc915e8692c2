"""What an English text says, by heads trained on GoEmotions: one counts its words, one is on the sentence encoder.

GoEmotions (Demszky et al. 2020, CC BY 4.0) is 58 000 English Reddit comments with 27 emotions and neutral. Both heads
were trained by `benchmarks/language_heads.py`, which also prints how good they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from importlib.resources.abc import Traversable
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from .card import Given
from .language_encoder import Encoder, Piece, weights_file

__all__ = ["LABELS", "NAMES", "English", "Heads", "terms"]

Floats = npt.NDArray[np.float32]

# The classes of GoEmotions in the order of its label numbers (its emotions.txt).
LABELS: Final = (
    "admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion", "curiosity", "desire",
    "disappointment", "disapproval", "disgust", "embarrassment", "excitement", "fear", "gratitude", "grief", "joy",
    "love", "nervousness", "optimism", "pride", "realization", "relief", "remorse", "sadness", "surprise", "neutral",
)  # fmt: skip

NAMES: Final = (
    Given("Admiration", "measured", "admiration", "the same word: finding something impressive or worthy of respect"),
    Given("Amusement", "measured", "amusement", "the same word: finding something funny or being entertained"),
    Given("Anger", "measured", "anger", "the same word: a strong feeling of displeasure or antagonism"),
    Given("Annoyance", "measured", "annoyance", "the same word: mild anger, irritation"),
    Given("Anxiety", "measured", "nervousness", "defined there as apprehension, worry, anxiety"),
    Given("Confusion", "measured", "confusion", "the same word: lack of understanding, uncertainty"),
    Given("Desire", "measured", "desire", "the same word: a strong feeling of wanting something"),
    Given("Disappointment", "measured", "disappointment", "the same word: sadness when hopes were not met"),
    Given("Disapproval", "measured", "disapproval", "the same word: having or expressing an unfavourable opinion"),
    Given("Disgust", "measured", "disgust", "the same word: revulsion at something unpleasant or offensive"),
    Given("Embarrassment", "measured", "embarrassment", "the same word: self-consciousness, shame or awkwardness"),
    Given("Excitement", "measured", "excitement", "the same word: great enthusiasm and eagerness"),
    Given("Fear", "measured", "fear", "the same word: being afraid or worried"),
    Given("Gratitude", "measured", "gratitude", "the same word: thankfulness and appreciation"),
    Given("Guilt", "measured", "remorse", "defined there as regret or guilty feeling"),
    Given("Interest", "measured", "curiosity", "defined there as a strong desire to know or learn something"),
    Given("Joy", "measured", "joy", "the same word: pleasure and happiness"),
    Given("Love", "measured", "love", "the same word: a strong positive emotion of regard and affection"),
    Given("Pride", "measured", "pride", "the same word: satisfaction with one's own or a close one's achievements"),
    Given("Realization", "measured", "realization", "the same word: becoming aware of something"),
    Given("Relief", "measured", "relief", "the same word: reassurance and relaxation after anxiety or distress"),
    Given("Sadness", "measured", "sadness", "the same word: emotional pain, sorrow"),
)
"""The API's names that a class of GoEmotions means too, in vocabulary order; the definitions are those of its paper.

Left out, because no name means the same: approval, optimism, neutral; surprise, which does not say whether it is a
positive or a negative one; caring ("kindness and concern"), which is not yet Sympathy; grief, a second Sadness.
"""

# What the word-counting head counts: words, runs of ! and ?, single emoji.
_TERM: Final = re.compile(r"\w+|[!?]+|[\u2600-\u27bf\U0001f300-\U0001faff]")


def terms(text: str) -> Counter[str]:
    """What the word-counting head sees of a text: its lower-cased terms and neighbouring pairs, with counts."""
    single: list[str] = _TERM.findall(text.lower())
    counts = Counter(single)
    counts.update(f"{first} {second}" for first, second in pairwise(single))
    return counts


class Heads:
    """The two trained heads and their blend, from an `.npz` that `benchmarks/language_heads.py` wrote.

    V terms, H hidden units, 28 classes (`LABELS`); weights are int8 with one float scale per column:
    `vocabulary` (the V terms, UTF-8, one a line), `idf` [V], `words` [V, 28], `hidden` [384, H],
    `output` [H, 28], each of the three with `…_scale` and `…_bias`; `blend` [3, 28]: the logit is
    blend[0] · words + blend[1] · encoder + blend[2]; `thresholds` [3, 28], of the blend and of each
    head alone: used by the evaluation only.

    Raises `ValueError` when the file is not of this form.
    """

    def __init__(self, file: Path | Traversable) -> None:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            arrays = {name: np.asarray(stored[name]) for name in stored.files}
        try:
            vocabulary = arrays["vocabulary"].tobytes().decode().split("\n")
            self._row = {term: row for row, term in enumerate(vocabulary)}
            self._idf = arrays["idf"].astype(np.float32)
            # Stays int8: only the few rows that a text needs are widened.
            self._words = arrays["words"]
            self._words_scale, self._words_bias = arrays["words_scale"], arrays["words_bias"]
            self._hidden = arrays["hidden"] * arrays["hidden_scale"]
            self._output = arrays["output"] * arrays["output_scale"]
            self._hidden_bias, self._output_bias = arrays["hidden_bias"], arrays["output_bias"]
            self._blend = arrays["blend"]
            self.thresholds: Floats = arrays["thresholds"]
        except KeyError as error:
            raise ValueError(f"not a file of language heads: it has no array {error.args[0]!r}") from error
        if self._words.shape != (len(vocabulary), len(LABELS)) or self._blend.shape != (3, len(LABELS)):
            raise ValueError("not a file of language heads for the 28 classes of GoEmotions")

    def from_words(self, texts: Sequence[str]) -> Floats:
        """Logits `[len(texts), 28]` of the word-counting head alone."""
        out = np.empty((len(texts), len(LABELS)), np.float32)
        for number, text in enumerate(texts):
            known = [(self._row[term], count) for term, count in terms(text).items() if term in self._row]
            if not known:
                out[number] = self._words_bias
                continue
            rows = np.array([row for row, _ in known])
            weights = (1 + np.log(np.array([count for _, count in known], np.float32))) * self._idf[rows]
            weights /= np.linalg.norm(weights)
            out[number] = weights @ self._words[rows].astype(np.float32) * self._words_scale + self._words_bias
        return out

    def from_embeddings(self, embeddings: Floats) -> Floats:
        """Logits `[n, 28]` of the head on the encoder alone; `embeddings` as `Encoder.embed` gives them."""
        hidden: Floats = np.maximum(embeddings @ self._hidden + self._hidden_bias, 0)
        logits: Floats = hidden @ self._output + self._output_bias
        return logits

    def probabilities(self, texts: Sequence[str], embeddings: Floats) -> Floats:
        """Probabilities `[len(texts), 28]` of the classes of `LABELS`, each on its own (they do not sum to 1)."""
        logits = self._blend[0] * self.from_words(texts) + self._blend[1] * self.from_embeddings(embeddings)
        result: Floats = 1 / (1 + np.exp(-(logits + self._blend[2])))
        return result


class English:
    """Both heads with the encoder: reads English texts."""

    def __init__(self, heads: Heads | None = None, encoder: Encoder | None = None) -> None:
        self._heads = heads or Heads(weights_file("language_heads.npz"))
        self._encoder = encoder or Encoder()

    @property
    def thresholds(self) -> Floats:
        """Per class the probability from which on it counts as present, `[28]`; for evaluation."""
        row: Floats = self._heads.thresholds[0]
        return row

    def probabilities(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """Probabilities `[len(texts), 28]` of the classes of `LABELS`.

        A text of more than `Encoder.MAX_TOKENS` tokens is cut into pieces and gets their mean, weighted by tokens.
        """
        pieces: list[Piece] = []
        firsts: list[int] = []
        for text in texts:
            firsts.append(len(pieces))
            pieces.extend(self._encoder.pieces(text))
        each = self._heads.probabilities([piece.text for piece in pieces], self._encoder.embed(pieces))
        # A piece of nothing but invisible characters has no token, yet must not divide by zero.
        weights = np.array([max(len(piece.tokens), 1) for piece in pieces], np.float64)[:, None]
        sums: npt.NDArray[np.float64] = np.add.reduceat(each * weights, firsts) / np.add.reduceat(weights, firsts)
        return sums
