"""Train and judge the heads that name vocal bursts (`humebatch/server/measure/weights/burst_heads.npz`).

    python -m benchmarks.burst_heads --data DIR --embeddings FILE --out FILE     train, save, judge what was saved
    python -m benchmarks.burst_heads --data DIR --embeddings FILE --choose       compare settings, on training people

DIR/EmoGator is the data set (github.com/fredbuhl/EmoGator, Apache-2.0, 32,130 mp3 files of 357 contributors, one of 30
classes each). The embeddings of all files are computed once and kept in the file that `--embeddings` names.

The 35 contributors whose number is divisible by 10 are looked at for the printed figures alone. Settings are chosen
on the contributors whose number ends in 5, with the rest as training data; the heads that are saved learn from both.

Needs the extra `local` and scikit-learn. Ten minutes on two idle cores for the embeddings, one for the heads.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]  # carries no types
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]  # carries no types

from benchmarks import voices
from humebatch.server.measure.acoustic import Encoder
from humebatch.server.measure.burst import Heads
from humebatch.server.measure.burst_card import CLASSES

__all__ = ["Embedded", "areas", "embedded", "judged"]

Array = npt.NDArray[Any]

INVERSE_REGULARISATION: Final = 0.001
_AT_ONCE: Final = 256


class Embedded(NamedTuple):
    """All bursts: embeddings [n, 1633], who uttered each, and as which of `CLASSES`."""

    rows: Array
    contributors: Array
    labels: Array

    def of(self, chosen: Array) -> Embedded:
        """Those where `chosen` is true."""
        return Embedded(*(values[chosen] for values in self))


def embedded(data: Path, kept: Path) -> Embedded:
    """The embeddings of all of EmoGator, read from the file `kept`, which is written first when it is missing."""
    files = voices.emogator(data)
    if not kept.exists():
        np.save(kept, np.concatenate(list(_computed(files))))
    people = np.array([file.contributor for file in files])
    return Embedded(np.load(kept), people, np.array([file.label for file in files]))


def _computed(files: list[voices.Burst]) -> Iterator[Array]:
    encoder = Encoder()
    for first in range(0, len(files), _AT_ONCE):
        yield encoder.embed([voices.decoded(file.path) for file in files[first : first + _AT_ONCE]])
        print(f"{first:,} of {len(files):,} bursts embedded", flush=True)


def train(known: Embedded, inverse_regularisation: float = INVERSE_REGULARISATION) -> dict[str, Array]:
    """The arrays that `Heads` reads: logistic regression on standardised numbers, folded into one matrix."""
    mean, scale = known.rows.mean(axis=0), known.rows.std(axis=0) + 1e-6
    model = LogisticRegression(C=inverse_regularisation, max_iter=200)
    model.fit((known.rows - mean) / scale, known.labels)
    weights = (model.coef_ / scale).T.astype(np.float16)
    # From the rounded weights, so that an average burst scores as it did in training.
    bias = model.intercept_ - mean @ weights.astype(np.float64)
    return {"weights": weights, "bias": bias.astype(np.float32)}


def areas(probabilities: Array, labels: Array) -> Array:
    """The area under the ROC curve of each class against the 29 others."""
    return np.array([roc_auc_score(labels == label, probabilities[:, label]) for label in range(len(CLASSES))])


def judged(heads: Heads, unseen: Embedded) -> Iterator[str]:
    """What the figures are, one line each, the classes from the best to the worst."""
    probabilities = heads.probabilities(unseen.rows)
    area = areas(probabilities, unseen.labels)
    order = np.argsort(-probabilities, axis=1)
    right = [np.mean((order[:, :first] == unseen.labels[:, None]).any(axis=1)) for first in (1, 3)]
    yield f"{len(unseen.labels):,} bursts of {len(np.unique(unseen.contributors))} people"
    yield f"mean AUC {area.mean():.4f}, {(area >= 0.75).sum()} of 30 classes >= .75"
    yield f"right class first {right[0]:.3f}, among the first three {right[1]:.3f} (chance .033, .1)"
    yield ", ".join(f"{CLASSES[label]} {area[label]:.3f}" for label in np.argsort(-area))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--embeddings", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--choose", action="store_true")
    options = parser.parse_args()
    everyone = embedded(options.data, options.embeddings)
    held_out = np.array([voices.held_out(number) for number in everyone.contributors.tolist()])
    known = everyone.of(~held_out)
    if options.choose:
        aside = known.contributors % 10 == 5
        for setting in (0.0003, 0.001, 0.003):
            print(f"C = {setting}", *judged(Heads(train(known.of(~aside), setting)), known.of(aside)), sep="\n  ")
    if options.out:
        np.savez_compressed(options.out, allow_pickle=False, **train(known))
        content = options.out.read_bytes()
        print(f"{options.out}: {len(content):,} bytes, sha256 {hashlib.sha256(content).hexdigest()}")
        with np.load(options.out) as arrays:
            print(*judged(Heads(arrays), everyone.of(held_out)), sep="\n")


if __name__ == "__main__":
    main()
