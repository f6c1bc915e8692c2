"""Six kinds of toxicity of an English text, by the network of tox-block, run in plain numpy.

The network (bidirectional LSTM over word vectors, Pascal Bliem 2020, MIT) learned the six labels of Jigsaw's Toxic
Comment data (CC0), the same six that the API has. `benchmarks/toxicity_weights.py` made the file that is read here.

It reads 100 words at once. A longer text is as toxic as its most toxic stretch of 100; the original counts the last 100
alone. Words that it does not know are skipped. Single words fool it: "I hate mondays" has .52 toxic, "I am gay" .63.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
# With this no score of 300 comments moved by more than .00004, and two thirds of the filling need not be read.
_SETTLED: Final = 3e-4
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
            nothing = self._vectors[0].astype(np.float32) * np.float32(self._scale[0])
            self._forward = _Lstm(self._layers, "forward", nothing)
            self._backward = _Lstm(self._layers, "backward", nothing)
            classes = self._layers["output"].shape[1]
        except KeyError as error:
            raise ValueError(f"not a file of toxicity weights: no array {error.args[0]!r}") from error
        if len(words) + 1 != len(self._vectors) or classes != len(CATEGORIES):
            raise ValueError("not a file of toxicity weights for six categories")
        self._row = {word: row for row, word in enumerate(words, 1)}
        # Most texts are short: what the network makes of the filling in front of them is not worked out each time.
        self._filling = self._forward.fillings()

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
        """`[n, 6]` of `[n, 100]` word numbers, 0 in front of the first word."""
        begin = int(rows.any(axis=0).argmax()) if rows.any() else _WORDS
        words = rows[:, begin:]
        vectors = self._vectors[words].astype(np.float32) * self._scale[words].astype(np.float32)[:, :, None]
        ahead = self._filling[begin].of(len(rows))
        self._forward.read(ahead, vectors)
        back = _Memory.empty(len(rows))
        self._backward.read(back, vectors[:, ::-1])
        self._backward.read_nothing(back, begin)
        both = np.concatenate([ahead.highest, back.highest], axis=1)
        hidden = np.maximum(both @ self._layers["hidden"] + self._layers["hidden_bias"], 0)
        logits = hidden @ self._layers["output"] + self._layers["output_bias"]
        result: Floats = np.reciprocal(1 + np.exp(-logits), dtype=np.float32)
        return result


class _Memory:
    """What an LSTM remembers while it reads `n` texts, and the highest that each unit has said so far; `[n, 50]`."""

    def __init__(self, state: Floats, cell: Floats, highest: Floats) -> None:
        self.state, self.cell, self.highest = state, cell, highest

    @classmethod
    def empty(cls, n: int) -> _Memory:
        nothing = np.zeros((n, _UNITS), np.float32)
        return cls(nothing, nothing, np.full_like(nothing, -np.inf))

    def of(self, n: int) -> _Memory:
        """The memory of one text as that of `n` texts that began alike."""
        return _Memory(*(np.repeat(array, n, axis=0) for array in (self.state, self.cell, self.highest)))


class _Lstm:
    """One direction: `kernel`, `recurrent` and `bias` of the layer, gates in, forget, cell, out."""

    def __init__(self, layers: Mapping[str, Floats], direction: str, nothing: Floats) -> None:
        self._kernel, self._bias = layers[f"{direction}_kernel"], layers[f"{direction}_bias"]
        self._recurrent = layers[f"{direction}_recurrent"]
        self._nothing: Floats = nothing @ self._kernel + self._bias

    def read(self, memory: _Memory, vectors: Floats) -> None:
        """Read `[n, words, 50]`, word after word."""
        given = vectors @ self._kernel + self._bias
        for word in range(vectors.shape[1]):
            self._step(memory, given[:, word])

    def read_nothing(self, memory: _Memory, times: int) -> None:
        """Read the filling; soon nothing changes any more, and the rest would not either."""
        for _ in range(times):
            before = memory.state
            self._step(memory, self._nothing)
            if np.abs(memory.state - before).max(initial=0) < _SETTLED:
                break

    def fillings(self) -> list[_Memory]:
        """The memory after 0 to 100 times nothing."""
        memory = _Memory.empty(1)
        found = [_Memory(memory.state, memory.cell, memory.highest)]
        for _ in range(_WORDS):
            self._step(memory, self._nothing)
            found.append(_Memory(memory.state, memory.cell, memory.highest))
        return found

    def _step(self, memory: _Memory, given: Floats) -> None:
        gates: Floats = np.add(given, memory.state @ self._recurrent, dtype=np.float32)
        keep = _hard_sigmoid(gates)
        fresh = np.tanh(gates[:, 2 * _UNITS : 3 * _UNITS])
        memory.cell = keep[:, _UNITS : 2 * _UNITS] * memory.cell + keep[:, :_UNITS] * fresh
        memory.state = keep[:, 3 * _UNITS :] * np.tanh(memory.cell)
        memory.highest = np.maximum(memory.highest, memory.state)


def _hard_sigmoid(gates: Floats) -> Floats:
    """The gates of the network were trained with this straight line in place of a sigmoid."""
    result: Floats = np.minimum(np.maximum(gates * np.float32(0.2) + np.float32(0.5), 0), 1)
    return result
