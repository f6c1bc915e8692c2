"""How well language is measured: English comments, other languages' film lines, refusals, sentiment, and how fast.

Everything goes through what runs in the server. GoEmotions' dev split and the held-out films of XED were not looked at
for anything but these figures.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]  # carries no types

from benchmarks.language_heads import Split, f1_scores, read_split
from benchmarks.xed_heads import LEAST, judge
from humebatch.jobs import Language
from humebatch.server.measure import Media, Unmeasurable
from humebatch.server.measure.device import threads
from humebatch.server.measure.language import LanguageMeasurer, Languages
from humebatch.server.measure.language_detection import ENGLISH, language_of, name_of
from humebatch.server.measure.language_heads import LABELS, English
from humebatch.server.measure.recording import Recording
from humebatch.server.measure.segments import of_text
from humebatch.server.measure.sentiment import NEGATIVE, POSITIVE, distribution, polarity

__all__ = ["rows"]

Line = tuple[str, str, str, str]
Array = npt.NDArray[Any]

_DEV: Final = "GoEmotions dev, 5,426 comments"
_FILMS: Final = "XED, lines of films that nothing was trained on"
_TIMED: Final = 2_000  # comments


def rows(options: Any) -> Iterator[Line]:
    """What, figure, goal and data; a data set that is not in the folder `options.data` is said to be missing."""
    data: Path = options.data
    if (data / "goemotions" / "dev.tsv").is_file():
        yield from _comments(read_split(data / "goemotions" / "dev.tsv"))
    else:
        yield "English", "not measured", "macro-F1 .49", f"no GoEmotions in {data / 'goemotions'}"
    if (data / "XED" / "Projections").is_dir():
        yield from _films(data / "XED")
    else:
        yield "other languages", "not measured", "AUC ≥ .70", f"no XED in {data / 'XED'}: clone Helsinki-NLP/XED"


def _comments(dev: Split) -> Iterator[Line]:
    english = English()
    found = english.probabilities(dev.texts)
    per_class, _ = f1_scores(found > english.thresholds, dev.labels)
    yield "28 classes, macro-F1", f"{per_class.mean():.3f}", "≥ .49", _DEV
    yield "28 classes, mean AUC", f"{roc_auc_score(dev.labels, found, average='macro'):.3f}", "≥ .915", _DEV
    yield from _sentiment(found, dev.labels)
    refused = sum(language_of(text) != ENGLISH for text in dev.texts)
    yield "comments taken for another language", f"{refused / len(dev.texts):.2%}", "≤ 0.5 %", _DEV
    found_in = [Languages(text).of(sentence) for text in dev.texts for sentence in of_text(text, "sentence")]
    foreign = 1 - found_in.count(ENGLISH) / len(found_in)
    yield "sentences of them taken for another language", f"{foreign:.2%}", "≤ 0.5 %", _DEV
    yield from _speed(dev.texts[:_TIMED])


def _sentiment(found: Array, labels: Array) -> Iterator[Line]:
    positive: Array = labels[:, [LABELS.index(name) for name in POSITIVE]].max(axis=1) > 0
    negative: Array = labels[:, [LABELS.index(name) for name in NEGATIVE]].max(axis=1) > 0
    one = positive ^ negative
    # By the nine scores that are given, not by the polarity behind them.
    means: Array = distribution(polarity(found)) @ np.arange(1, 10)
    data = f"{_DEV}: {one.sum():,} with one polarity"
    yield "sentiment, positive against negative, AUC", f"{roc_auc_score(positive[one], means[one]):.3f}", "≥ .94", data
    sides = (("positive", positive & ~negative), ("neither", ~positive & ~negative), ("negative", negative & ~positive))
    for name, rows_of in sides:
        yield f"sentiment, mean of the nine scores where {name}", f"{means[rows_of].mean():.1f}", "", _DEV


def _speed(texts: list[str]) -> Iterator[Line]:
    """All options on, a text a file: nothing can be read together with its neighbours but its own sentences."""
    measurer = LanguageMeasurer()
    config = Language(granularity="sentence", sentiment={}, toxicity={})

    class Text(Recording):
        def __init__(self, text: str) -> None:
            super().__init__(Media("", "", "text", ""), scratch=Path())
            self._text = text

        def text(self) -> str:
            return self._text

    list(measurer.measure(Text(texts[0]), config))
    started, busy = time.perf_counter(), time.process_time()
    for text in texts:
        with contextlib.suppress(Unmeasurable):
            list(measurer.measure(Text(text), config))
    speed, busy = len(texts) / (time.perf_counter() - started), time.process_time() - busy
    data = f"{len(texts)} comments of GoEmotions dev, each a file; one process, {threads()} thread(s)"
    yield "texts a second, with sentiment and toxicity", f"{speed:.0f}", "≥ 200 on 2 idle cores", data
    yield "CPU time of one", f"{1000 * busy / len(texts):.1f} ms", "", data
    listed = "\n\n".join(texts)
    started, busy = time.perf_counter(), time.process_time()
    list(measurer.measure(Text(listed), config))
    speed, busy = len(texts) / (time.perf_counter() - started), time.process_time() - busy
    data = f"the same {len(texts)} comments in one file"
    yield "texts a second, with sentiment and toxicity", f"{speed:.0f}", "≥ 200 on 2 idle cores", data
    yield "CPU time of one", f"{1000 * busy / len(texts):.1f} ms", "", data


def _films(folder: Path) -> Iterator[Line]:
    both = 0
    for language, held, found in judge(folder):
        value = ", ".join(f"{name} {auc:.2f}" for name, auc in found.items())
        both += {"Joy", "Sadness"} <= set(found)
        yield f"{name_of(language)}, AUC", value, f"each ≥ {LEAST:.2f}", f"{_FILMS}: {held:,}"
    yield "languages with Joy and Sadness, besides English", str(both), "≥ 8 with English", "XED"
