"""Train and judge the heads of the language measurer (`humebatch/server/measure/weights/language_heads.npz`).

    python -m benchmarks.language_heads --data DIR [--out FILE]        train, save, judge what was saved
    python -m benchmarks.language_heads --data DIR --evaluate FILE     judge heads that exist

DIR holds `train.tsv` and `dev.tsv` of GoEmotions (Demszky et al. 2020, 43 410 and 5 426 comments in the
published split): text, label numbers joined by commas, comment id. The data is not part of this project.

Everything is learned on `train.tsv`. What joins the two heads (blend) and what turns a probability into a
label (thresholds, needed for F1 only) is learned on predictions that heads trained on four fifths of it
made for the last fifth; the sizes below were chosen on a part of it too. `dev.tsv` is only ever looked at to
print the figures, through the code that runs in the server and on the file as saved.

Licences: GoEmotions is CC BY 4.0 (Google LLC): the heads may be shipped, with attribution (see NOTICE).
The encoder all-MiniLM-L6-v2 is Apache-2.0. The heads themselves are ours and under this project's licence.

Needs the extra `text` and scikit-learn. About four minutes on two cores (HUMEBATCH_THREADS=2), most of it the encoder.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix  # type: ignore[import-untyped]  # carries no types
from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]  # carries no types
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]  # carries no types
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]  # carries no types
from sklearn.neural_network import MLPClassifier  # type: ignore[import-untyped]  # carries no types

from humebatch.server.measure.device import threads
from humebatch.server.measure.language_encoder import Encoder
from humebatch.server.measure.language_heads import LABELS, NAMES, English, Heads, terms

Array = npt.NDArray[Any]

# Chosen by the macro-F1 of the two heads' mean on 6 000 held-out comments of train, among 10, 20 and 30 thousand
# terms, C of 2 and 4, 128 and 256 units: .475 with these, .473 with 30 thousand terms, .468 with 256 units.
TERMS: Final = 20_000
INVERSE_REGULARISATION: Final = 4.0
HIDDEN: Final = 128
# Unit vectors of 384 numbers are about 0.05 each: too small for the optimiser's defaults.
EMBEDDING_SCALE: Final = 10.0
PASSES: Final = 10
FOLDS: Final = 5
READINGS: Final = ("blend (what the server runs)", "TF-IDF alone", "encoder alone")
SEED: Final = 0
REPORTED: Final = {given.of: given.name for given in NAMES}


class Split(NamedTuple):
    """Texts, and their labels as `[n, 28]` of zeros and ones."""

    texts: list[str]
    labels: Array


def read_split(path: Path) -> Split:
    texts: list[str] = []
    rows: list[list[int]] = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            text, numbers, _ = line.rstrip("\n").split("\t")
            texts.append(text)
            rows.append([int(number) for number in numbers.split(",")])
    labels = np.zeros((len(rows), len(LABELS)), np.int8)
    for row, numbers_of_row in enumerate(rows):
        labels[row, numbers_of_row] = 1
    return Split(texts, labels)


def embed(encoder: Encoder, texts: Sequence[str]) -> Array:
    """One row per text, of its first piece (no comment of GoEmotions is longer than one)."""
    return encoder.embed([encoder.pieces(text)[0] for text in texts])


def quantised(name: str, weights: Array, bias: Array) -> dict[str, Array]:
    """A matrix as int8 with one scale per column."""
    scale = np.abs(weights).max(axis=0) / 127
    return {
        name: np.round(weights / scale).astype(np.int8),
        f"{name}_scale": scale.astype(np.float32),
        f"{name}_bias": bias.astype(np.float32),
    }


def train_words(texts: Sequence[str], labels: Array) -> dict[str, Array]:
    """The word-counting head: TF-IDF as `Heads.from_words` computes it, one logistic regression per class."""
    counted = [terms(text) for text in texts]
    frequency = Counter(term for counts in counted for term in counts)
    vocabulary = sorted(term for term, count in frequency.most_common(TERMS) if count > 1)
    row_of = {term: row for row, term in enumerate(vocabulary)}
    idf = 1 + np.log((1 + len(texts)) / (1 + np.array([frequency[term] for term in vocabulary])))
    values: list[float] = []
    columns: list[int] = []
    ends = [0]
    for counts in counted:
        known = [row_of[term] for term in counts if term in row_of]
        weights = (1 + np.log([counts[vocabulary[row]] for row in known])) * idf[known]
        values.extend(weights / (np.linalg.norm(weights) or 1))
        columns.extend(known)
        ends.append(len(columns))
    matrix = csr_matrix((values, columns, ends), shape=(len(texts), len(vocabulary)))
    models = [
        LogisticRegression(C=INVERSE_REGULARISATION, solver="liblinear", random_state=SEED).fit(matrix, column)
        for column in labels.T
    ]
    return {
        "vocabulary": np.frombuffer("\n".join(vocabulary).encode(), np.uint8),
        "idf": idf.astype(np.float16),
        **quantised(
            "words",
            np.concatenate([model.coef_ for model in models]).T,
            np.concatenate([model.intercept_ for model in models]),
        ),
    }


def train_encoder_head(embeddings: Array, labels: Array) -> dict[str, Array]:
    """The head on the encoder: one hidden layer, few passes over the data: more overfit."""
    # pyright takes the default "auto" for the type of batch_size.
    model = MLPClassifier(
        (HIDDEN,),
        batch_size=256,  # pyright: ignore[reportArgumentType]
        max_iter=PASSES,
        random_state=SEED,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopping early is meant
        model.fit(embeddings * EMBEDDING_SCALE, labels)
    return {
        **quantised("hidden", model.coefs_[0] * EMBEDDING_SCALE, model.intercepts_[0]),
        **quantised("output", model.coefs_[1], model.intercepts_[1]),
    }


def neutral_blend() -> dict[str, Array]:
    """Stands in for what is not learned yet, so that half-made heads can be loaded."""
    return {
        "blend": np.repeat(np.array([[0.5], [0.5], [0.0]], np.float32), len(LABELS), axis=1),
        "thresholds": np.full((3, len(LABELS)), 0.5, np.float32),
    }


def save(arrays: dict[str, Array], out: Path) -> Heads:
    np.savez_compressed(out, allow_pickle=False, **arrays)
    return Heads(out)


def train(split: Split, embeddings: Array, out: Path) -> None:
    """Train on all of `split` and write the heads to `out`; print how well held-out fifths were read."""
    fold_of = np.random.default_rng(SEED).permutation(len(split.texts)) % FOLDS
    by_words, by_encoder = np.empty(split.labels.shape), np.empty(split.labels.shape)
    for fold in range(FOLDS):
        rest, held = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        arrays = {
            **train_words([split.texts[row] for row in rest], split.labels[rest]),
            **train_encoder_head(embeddings[rest], split.labels[rest]),
            **neutral_blend(),
        }
        with tempfile.TemporaryDirectory() as folder:
            heads = save(arrays, Path(folder) / "fold.npz")
        by_words[held] = heads.from_words([split.texts[row] for row in held])
        by_encoder[held] = heads.from_embeddings(embeddings[held])
        print(f"fold {fold + 1} of {FOLDS} trained", flush=True)

    blend = np.empty((3, len(LABELS)), np.float32)
    for label, answers in enumerate(split.labels.T):
        both = np.stack([by_words[:, label], by_encoder[:, label]], axis=1)
        model = LogisticRegression().fit(both, answers)
        blend[:, label] = [*model.coef_[0], model.intercept_[0]]
    logits = (blend[0] * by_words + blend[1] * by_encoder + blend[2], by_words, by_encoder)
    thresholds = np.stack([best_thresholds(sigmoid(one), split.labels) for one in logits])
    print("held-out fifths of train")
    for name, one, limits in zip(READINGS, logits, thresholds, strict=True):
        print(f"  {name:32}{figures(sigmoid(one), split.labels, limits)}")

    learned = {
        **train_words(split.texts, split.labels),
        **train_encoder_head(embeddings, split.labels),
        "blend": blend,
        "thresholds": thresholds,
    }
    save(learned, out)


def sigmoid(logits: Array) -> Array:
    result: Array = 1 / (1 + np.exp(-logits))
    return result


def best_thresholds(probabilities: Array, labels: Array) -> Array:
    """Per class the probability beyond which calling it present gives the best F1."""
    found: list[float] = []
    for column, answers in zip(probabilities.T, labels.T, strict=True):
        order = np.argsort(-column, kind="stable")
        hits, called = np.cumsum(answers[order]), np.arange(1, len(column) + 1)
        # Not the very last: there is nothing beyond it to lie half-way to.
        best = int(np.argmax((2 * hits / (called + answers.sum()))[:-1]))
        found.append(float(column[order[best : best + 2]].mean()))
    return np.array(found, np.float32)


def f1_scores(called: Array, labels: Array) -> tuple[Array, float]:
    """F1 per class `[28]`, and over all classes at once (micro)."""
    hits = (called & (labels > 0)).sum(axis=0)
    wanted = called.sum(axis=0) + labels.sum(axis=0)
    per_class: Array = 2 * hits / np.maximum(wanted, 1)
    return per_class, float(2 * hits.sum() / wanted.sum())


def figures(probabilities: Array, labels: Array, thresholds: Array) -> str:
    """One line: macro-F1, micro-F1 and the mean area under the ROC curve of the 28 classes."""
    per_class, micro = f1_scores(probabilities > thresholds, labels)
    auc = roc_auc_score(labels, probabilities, average="macro")
    return f"macro-F1 {per_class.mean():.3f}  micro-F1 {micro:.3f}  mean AUC {auc:.3f}"


def calibration_error(probabilities: Array, labels: Array) -> float:
    """Mean distance between what is promised and what comes true, over ten equal bins of all probabilities."""
    bins = np.minimum((probabilities * 10).astype(int), 9)
    off = [
        abs(probabilities[bins == number].mean() - labels[bins == number].mean()) * (bins == number).mean()
        for number in range(10)
        if (bins == number).any()
    ]
    return float(sum(off))


def judge(file: Path, dev: Split) -> None:
    """Print the figures of saved heads on dev, next to what each of the two heads does alone."""
    heads, encoder = Heads(file), Encoder()
    whole = English(heads, encoder)
    whole.probabilities(dev.texts[:64])
    start = time.perf_counter()
    blended = whole.probabilities(dev.texts)
    seconds = time.perf_counter() - start
    by_words, by_encoder = heads.from_words(dev.texts), heads.from_embeddings(embed(encoder, dev.texts))

    print(f"{file.name}: {file.stat().st_size} bytes, sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}")
    print(f"dev, {len(dev.texts)} texts, 28 classes")
    everything = zip(READINGS, (blended, sigmoid(by_words), sigmoid(by_encoder)), heads.thresholds, strict=True)
    for name, probabilities, thresholds in everything:
        print(f"  {name:32}{figures(probabilities, dev.labels, thresholds)}")
    print(f"calibration error of the blend {calibration_error(blended, dev.labels):.4f}")
    print(f"{len(dev.texts) / seconds:.0f} texts/s on {threads()} threads")
    print("\nper class: F1, AUC, positives in dev")
    per_class, _ = f1_scores(blended > heads.thresholds[0], dev.labels)
    for column, label in enumerate(LABELS):
        answers = dev.labels[:, column]
        auc = roc_auc_score(answers, blended[:, column])
        print(
            f"  {label:16}{REPORTED.get(label, '(not reported)'):16}{per_class[column]:.2f}  {auc:.2f}  {answers.sum()}"
        )
    reported = [column for column, label in enumerate(LABELS) if label in REPORTED]
    print(f"  macro-F1 of the {len(reported)} that are reported: {per_class[reported].mean():.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.tsv and dev.tsv of GoEmotions")
    parser.add_argument("--out", type=Path, default=Path("language_heads.npz"), help="where the heads go")
    parser.add_argument("--evaluate", type=Path, metavar="FILE", help="judge this file and train nothing")
    chosen = parser.parse_args()
    if chosen.evaluate is None:
        split = read_split(chosen.data / "train.tsv")
        train(split, embed(Encoder(), split.texts), chosen.out)
    judge(chosen.evaluate or chosen.out, read_split(chosen.data / "dev.tsv"))


if __name__ == "__main__":
    main()
