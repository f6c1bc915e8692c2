"""Make `humebatch/server/measure/weights/toxicity.npz` from the network that the PyPI package tox-block carries.

    pip download --no-deps tox-block==0.1.2
    python -m benchmarks.toxicity_weights --wheel tox_block-0.1.2-py3-none-any.whl [--out FILE]

The network (bidirectional LSTM, Pascal Bliem, MIT) was trained on the Toxic Comment data of Jigsaw / Conversation AI
(CC0) with GloVe vectors (public domain) as a start. Nothing of the package is imported or run: its pickle is read by an
unpickler that makes no object except plain containers, its HDF5 file by h5py.

Word vectors become int8 with one scale per word, everything else float16. Words are listed by how frequent they are.
Afterwards the script prints how far the written file is from the original in float32, on the comments of GoEmotions
where `--data` names the folder with its `dev.tsv`, and from the scores that the author printed in the README.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import io
import pickle
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Final

import h5py  # type: ignore[import-untyped]  # carries no types
import numpy as np
import numpy.typing as npt

from humebatch.server.measure.toxicity import CATEGORIES, Toxicity

MODEL: Final = "tox_block/trained_models/lstm_model_0.1.2.h5"
ENCODER: Final = "tox_block/trained_models/encoder_0.1.2.pkl"
WORDS: Final = 20_000
# Steps from 0 to the largest number of a word vector: 127 would make 1.14 MB, and agree no better on any side of .5.
LEVELS: Final = 31
LAYERS: Final = {
    "forward_kernel": "bidirectional/bidirectional/forward_lstm/kernel:0",
    "forward_recurrent": "bidirectional/bidirectional/forward_lstm/recurrent_kernel:0",
    "forward_bias": "bidirectional/bidirectional/forward_lstm/bias:0",
    "backward_kernel": "bidirectional/bidirectional/backward_lstm/kernel:0",
    "backward_recurrent": "bidirectional/bidirectional/backward_lstm/recurrent_kernel:0",
    "backward_bias": "bidirectional/bidirectional/backward_lstm/bias:0",
    "hidden": "dense/dense/kernel:0",
    "hidden_bias": "dense/dense/bias:0",
    "output": "dense_1/dense_1/kernel:0",
    "output_bias": "dense_1/dense_1/bias:0",
}
# Printed by the author in the package's README, after `rescaled`; see `Toxicity`.
PRINTED: Final = {
    "Good morning my friend, I hope you're having a fantastic day!":
        (0.05347811430692673, 0.0006274021579883993, 0.004466842859983444,
         0.009578478522598743, 0.00757843442261219, 0.002106667961925268),
    "I will kill you, you fucking idiot!":
        (0.9998679757118225, 0.7870362997055054, 0.9885633587837219,
         0.8483908176422119, 0.9883397221565247, 0.171059250831604),
    "I do strongly disagree with the fascist views of this joke that calls itself a political party.":
        (0.026190076023340225, 7.185135473264381e-05, 0.0009493605466559529,
         0.00012321282702032477, 0.0029190618079155684, 0.0022098885383456945),
}  # fmt: skip

Array = npt.NDArray[Any]


class _Stub:
    """Stands in for every class of the pickle: holds its attributes, does nothing."""

    def __init__(self, *_arguments: object, **_options: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "collections" and name in ("OrderedDict", "defaultdict"):
            return getattr(collections, name)
        if module in ("builtins", "__builtin__") and name == "int":
            return int
        return _Stub


def read(wheel: Path) -> tuple[list[str], dict[str, Array]]:
    """The known words, most frequent first, and the network's arrays: `vectors` row n belongs to word n - 1."""
    with zipfile.ZipFile(wheel) as members:
        encoder = _Reader(io.BytesIO(members.read(ENCODER))).load()
        index: dict[str, int] = encoder.tokenizer.word_index
        with h5py.File(io.BytesIO(members.read(MODEL))) as file:
            stored: Any = file["model_weights"]
            arrays = {name: np.asarray(stored[path]) for name, path in LAYERS.items()}
            arrays["vectors"] = np.asarray(stored["embedding/embedding/embeddings:0"])
    words = sorted((number, word) for word, number in index.items() if number < WORDS)
    if [number for number, _ in words] != list(range(1, WORDS)):
        raise SystemExit(f"{wheel}: its words are not numbered 1 to {WORDS - 1}")
    return [word for _, word in words], arrays


def compact(words: list[str], arrays: dict[str, Array]) -> dict[str, Array]:
    vectors = arrays["vectors"]
    scale = np.abs(vectors).max(axis=1, keepdims=True) / LEVELS
    small = {name: array.astype(np.float16) for name, array in arrays.items() if name != "vectors"}
    return {
        "vocabulary": np.frombuffer("\n".join(words).encode(), np.uint8),
        "vectors": np.round(vectors / scale).astype(np.int8),
        "vectors_scale": scale[:, 0].astype(np.float16),
        **small,
    }


def whole(words: list[str], arrays: dict[str, Array]) -> dict[str, Array]:
    """The same network without loss."""
    return {
        **arrays,
        "vocabulary": np.frombuffer("\n".join(words).encode(), np.uint8),
        "vectors_scale": np.ones(len(arrays["vectors"]), np.float32),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, required=True, help="tox_block-0.1.2-py3-none-any.whl")
    parser.add_argument("--out", type=Path, default=Path("toxicity.npz"), help="where the weights go")
    parser.add_argument("--data", type=Path, help="folder with dev.tsv of GoEmotions")
    chosen = parser.parse_args()
    words, arrays = read(chosen.wheel)
    np.savez_compressed(chosen.out, allow_pickle=False, **compact(words, arrays))
    print(
        f"{chosen.out}: {chosen.out.stat().st_size} bytes, sha256 {hashlib.sha256(chosen.out.read_bytes()).hexdigest()}"
    )

    ours = Toxicity(chosen.out)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "whole.npz", allow_pickle=False, **whole(words, arrays))
        original = Toxicity(Path(folder) / "whole.npz")
    printed = np.array(list(PRINTED.values()))
    for name, network in (("float32", original), ("as written", ours)):
        off = np.abs(network.rescaled(network.probabilities(list(PRINTED))) - printed).max()
        print(f"largest distance from the author's printed scores, {name}: {off:.4f}")
    if chosen.data is not None:
        texts = [line.split("\t")[0] for line in (chosen.data / "dev.tsv").read_text("utf-8").splitlines()]
        ours_said, original_said = ours.probabilities(texts), original.probabilities(texts)
        apart = np.abs(ours_said - original_said)
        print(
            f"as written against float32 on {len(texts)} comments: mean {apart.mean():.5f}, largest {apart.max():.3f}"
        )
        for name, mine, theirs in zip(CATEGORIES, (ours_said > 0.5).T, (original_said > 0.5).T, strict=True):
            print(f"  {name:14} on the same side of .5: {(mine == theirs).mean():.2%}; above it {theirs.mean():.2%}")


if __name__ == "__main__":
    main()
