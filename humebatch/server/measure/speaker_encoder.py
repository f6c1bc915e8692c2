"""Whose voice it is, as 256 numbers: the GE2E speaker encoder of Resemblyzer, in numpy.

The network (three LSTM layers over 40 mel bands, 1.6 s at a time; Wan et al. 2018) and its weights are Resemble AI's,
Apache-2.0. The weights are a file of torch's, which is read here without torch and without running anything that the
file asks for.
"""

from __future__ import annotations

import collections
import functools
import math
import pickle
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from . import carried
from .sound import Samples

__all__ = ["RATE", "SECONDS", "SpeakerEncoder", "encoder", "tensors"]

Floats = npt.NDArray[np.float32]

RATE: Final = 16_000
"""Samples a second that the encoder expects."""
SECONDS: Final = 1.6
"""What it hears at a time."""

_FRAME, _HOP, _BANDS, _UNITS = 400, 160, 40, 256
_LOUDNESS: Final = 10 ** (-30 / 20)  # quieter speech is raised to -30 dB of full scale
_BATCH: Final = 32  # windows at a time: some 40 MB


class SpeakerEncoder:
    """Turns windows of speech into embeddings. `weights`: the tensors of the published model, by name."""

    def __init__(self, weights: dict[str, Floats]) -> None:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        self._layers = [tuple(weights[f"lstm.{name}_l{layer}"] for name in names) for layer in range(3)]
        self._linear, self._bias = weights["linear.weight"], weights["linear.bias"]
        self._mel = _mel_filters()

    def embed(self, windows: Sequence[Samples]) -> Floats:
        """`[len(windows), 256]`, each row of length 1. A window is `SECONDS` long; a shorter one is repeated."""
        batches = (windows[start : start + _BATCH] for start in range(0, len(windows), _BATCH))
        found = [self._run(np.stack([self._bands(window) for window in batch])) for batch in batches]
        return np.concatenate(found) if found else np.zeros((0, _UNITS), np.float32)

    def _bands(self, samples: Samples) -> Floats:
        """`[160, 40]`: energy in each mel band, every 10 ms."""
        whole = round(SECONDS * RATE)
        raised = np.resize(samples, whole) if len(samples) < whole else samples[:whole]
        loudness = float(np.sqrt(np.mean(raised**2))) + 1e-9
        padded = np.pad(raised * np.float32(max(1.0, _LOUDNESS / loudness)), _FRAME // 2)
        frames = np.lib.stride_tricks.sliding_window_view(padded, _FRAME)[:whole:_HOP][: whole // _HOP]
        spectrum = np.abs(np.fft.rfft(frames * np.hanning(_FRAME + 1)[:-1], axis=1)) ** 2
        bands: Floats = spectrum.astype(np.float32) @ self._mel
        return bands

    def _run(self, inputs: Floats) -> Floats:
        for input_weight, hidden_weight, input_bias, hidden_bias in self._layers:
            given = inputs @ input_weight.T + (input_bias + hidden_bias)
            hidden = np.zeros((len(inputs), _UNITS), np.float32)
            cell = np.zeros_like(hidden)
            inputs = np.empty((*given.shape[:2], _UNITS), np.float32)
            recurrent = np.ascontiguousarray(hidden_weight.T)
            for step in range(given.shape[1]):
                gates: Floats = np.add(given[:, step], hidden @ recurrent)
                enter, forget, leave = (_sigmoid(gates[:, at * _UNITS : (at + 1) * _UNITS]) for at in (0, 1, 3))
                cell = forget * cell + enter * np.tanh(gates[:, 2 * _UNITS : 3 * _UNITS])
                hidden = leave * np.tanh(cell)
                inputs[:, step] = hidden
        last: Floats = np.maximum(inputs[:, -1] @ self._linear.T + self._bias, 0)
        lengths: Floats = np.maximum(np.linalg.norm(last, axis=1, keepdims=True), 1e-9).astype(np.float32, copy=False)
        result: Floats = last / lengths
        return result


def _sigmoid(values: Floats) -> Floats:
    half = np.float32(0.5)
    result: Floats = half + half * np.tanh(half * values)
    return result


@functools.cache
def encoder() -> SpeakerEncoder:
    """The published encoder, loaded once per process. Raises `Unmeasurable` when its weights are not here."""
    return SpeakerEncoder(tensors(carried.find("speaker_encoder.pt")))


def _mel_filters() -> Floats:
    """`[201, 40]`: Slaney's triangular mel filters of equal area, 0 to 8 kHz, as librosa makes them."""
    bins = np.linspace(0, RATE / 2, _FRAME // 2 + 1)
    top = 15 + 27 * math.log(RATE / 2 / 1000) / math.log(6.4)
    marks = np.linspace(0, top, _BANDS + 2)
    # Linear up to 1 kHz (15 mel), logarithmic above.
    edges = np.where(marks < 15, marks * 200 / 3, 1000 * np.exp((marks - 15) * math.log(6.4) / 27))
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    filters = np.maximum(0, np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)))
    return np.ascontiguousarray((filters * 2 / (high - low)).T, np.float32)


class _Tensor(NamedTuple):
    """A tensor as the file describes it: a part of the storage `key`."""

    key: str
    offset: int
    shape: tuple[int, ...]


_STORED: Final[dict[str, np.dtype[Any]]] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "LongStorage": np.dtype("<i8"),
}


class _Reader(pickle.Unpickler):
    """Reads what torch pickled, and makes nothing but tuples, dictionaries and descriptions of tensors of it."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.kinds: dict[str, np.dtype[Any]] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        if module == "torch" and name in _STORED:
            return name
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda key, offset, shape, *_rest: _Tensor(key, offset, tuple(shape))
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_rest: tensor
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        raise pickle.UnpicklingError(f"the file asks for {module}.{name}, which is not read")

    def persistent_load(self, pid: Any, /) -> str:
        _, kind, key, *_rest = pid
        self.kinds[str(key)] = _STORED[kind]
        return str(key)


def tensors(path: Path) -> dict[str, Floats]:
    """The float tensors of `model_state` in a file of torch's older format, by name.

    Raises `pickle.UnpicklingError` when the file asks for anything but tensors.
    """
    with path.open("rb") as file:
        for _ in range(3):  # a magic number, the version, the machine
            _Reader(file).load()
        reader = _Reader(file)
        state: dict[str, Any] = reader.load()["model_state"]
        contents: dict[str, npt.NDArray[Any]] = {}
        for key in _Reader(file).load():
            kind = reader.kinds[key]
            (count,) = struct.unpack("<q", file.read(8))
            contents[key] = np.frombuffer(file.read(count * kind.itemsize), kind)
    return {
        name: contents[tensor.key][tensor.offset : tensor.offset + math.prod(tensor.shape)]
        .reshape(tensor.shape)
        .astype(np.float32)
        for name, tensor in state.items()
        if isinstance(tensor, _Tensor)
    }
