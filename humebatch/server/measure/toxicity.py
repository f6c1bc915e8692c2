"""Six kinds of toxicity of an English text, by the network of tox-block, run in plain numpy.

The network (bidirectional LSTM over word vectors, Pascal Bliem 2020, MIT) learned the six labels of Jigsaw's Toxic
Comment data (CC0), the same six that the API has. `benchmarks/toxicity_weights.py` made the file that is read here.

It reads 100 words at once. A longer text is as toxic as its most toxic stretch of 100; the original counts the last 100
alone. Words that it does not know are skipped. Single words fool it: "I hate mondays" has .52 toxic, "I am gay" .63.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["CATEGORIES", "Toxicity"]

Floats = npt.NDArray[np.float32]

CATEGORIES: Final = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")

_WORDS: Final = 100
_UNITS: Final = 50
# Texts read at once: bounds the memory of the gates, [batch, 100, 200] in float32, to 10 MB for each direction.
_BATCH: Final = 128
# What the network's tokenizer takes for white space; the apostrophe belongs to a word.
_SEPARATORS: Final = re.compile(r'[!"#$%&()*+,\-./:;<=>?@\[\\\]^_`{|}~\s]+')
# The lowest and highest probability that the author saw of each category.
_RANGES: Final = np.array(
    [
        (0.002116, 0.999858),
        (0.000011, 0.648682),
        (0.000347, 0.997533),
        (0.000040, 0.918887),
        (0.000373, 0.986303),
        (0.000074, 0.901117),
    ],
    np.float32,
)


class Toxicity:
    """The network, from the file that `benchmarks/toxicity_weights.py` wrote.

    Arrays: `vocabulary` (V words, UTF-8, one a line), `vectors` [V + 1, 50] and their `vectors_scale` [V + 1] (row 0
    stands for no word), `forward_…` and `backward_…` `kernel` [50, 200], `recurrent` [50, 200] and `bias` [200] of the
    LSTMs (gates in, forget, cell, out), `hidden` [100, 50] and `output` [50, 6] with their `…_bias`.

    Raises `ValueError` when the file is not of this form.
    """

    def __init__(self, file: Path | Traversable) -> None:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            arrays = {name: np.asarray(stored[name]) for name in stored.files}
        try:
            words = arrays.pop("vocabulary").tobytes().decode().split("\n")
            # Stay as they are stored: only the words that a text has are widened.
            self._vectors, self._scale = arrays.pop("vectors"), arrays.pop("vectors_scale")
            self._layers = {name: array.astype(np.float32) for name, array in arrays.items()}
            self._ends = self._layers["hidden"].shape, self._layers["output"].shape
        except KeyError as error:
            raise ValueError(f"not a file of toxicity weights: no array {error.args[0]!r}") from error
        if len(words) + 1 != len(self._vectors) or self._ends[1][1] != len(CATEGORIES):
            raise ValueError("not a file of toxicity weights for six categories")
        self._row = {word: row for row, word in enumerate(words, 1)}

    def probabilities(self, texts: Sequence[str]) -> Floats:
        """Probabilities `[len(texts), 6]` of `CATEGORIES`, each on its own (they do not sum to 1)."""
        stretches: list[list[int]] = []
        firsts: list[int] = []
        for text in texts:
            rows = self._rows(text)
            firsts.append(len(stretches))
            stretches.extend(rows[at : at + _WORDS] for at in range(0, max(len(rows), 1), _WORDS))
        each = np.empty((len(stretches), len(CATEGORIES)), np.float32)
        for start in range(0, len(stretches), _BATCH):
            batch = stretches[start : start + _BATCH]
            # The network was trained on 100 words, shorter texts filled up in front; it reads the filling as well.
            filled = np.zeros((len(batch), _WORDS), np.int64)
            for line, known in zip(filled, batch, strict=True):
                line[_WORDS - len(known) :] = known
            each[start : start + _BATCH] = self._read(filled)
        result: Floats = np.maximum.reduceat(each, firsts) if firsts else each
        return result

    def rescaled(self, probabilities: Floats) -> Floats:
        """As the original prints scores by default: stretched from the range that its author saw to 0..1."""
        result: Floats = np.abs((probabilities - _RANGES[:, 0]) / (_RANGES[:, 1] - _RANGES[:, 0]))
        return result

    def _rows(self, text: str) -> list[int]:
        words = _SEPARATORS.split(text.lower())
        return [self._row[word] for word in words if word in self._row]

    def _read(self, rows: npt.NDArray[np.int64]) -> Floats:
        vectors = self._vectors[rows].astype(np.float32) * self._scale[rows].astype(np.float32)[:, :, None]
        read = np.concatenate([self._highest(vectors, "forward"), self._highest(vectors[:, ::-1], "backward")], axis=1)
        hidden = np.maximum(read @ self._layers["hidden"] + self._layers["hidden_bias"], 0)
        result: Floats = 1 / (1 + np.exp(-(hidden @ self._layers["output"] + self._layers["output_bias"])))
        return result

    def _highest(self, vectors: Floats, direction: str) -> Floats:
        """What one LSTM says of `[n, words, 50]`: `[n, 50]`, the highest value of each unit over all words."""
        recurrent = self._layers[f"{direction}_recurrent"]
        given = vectors @ self._layers[f"{direction}_kernel"] + self._layers[f"{direction}_bias"]
        state = np.zeros((len(vectors), _UNITS), np.float32)
        cell = state.copy()
        highest = np.full_like(state, -np.inf)
        for step in range(vectors.shape[1]):
            gates = given[:, step] + state @ recurrent
            keep = _hard_sigmoid(gates)
            fresh = np.tanh(gates[:, 2 * _UNITS : 3 * _UNITS])
            cell = keep[:, _UNITS : 2 * _UNITS] * cell + keep[:, :_UNITS] * fresh
            state = keep[:, 3 * _UNITS :] * np.tanh(cell)
            np.maximum(highest, state, out=highest)
        return highest


def _hard_sigmoid(gates: Floats) -> Floats:
    """The gates of the network were trained with this straight line in place of a sigmoid."""
    result: Floats = np.clip(gates * 0.2 + 0.5, 0, 1)
    return result
