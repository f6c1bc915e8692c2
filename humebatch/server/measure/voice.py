"""Where in a recording somebody speaks: what transcription and speakers start from.

The model is Silero VAD v6 (MIT), which comes inside faster-whisper: how probable speech is, for every 32 ms. It is
run once over the recording, block by block with its state carried along, so that memory does not grow with length
(three hours are 340,000 numbers).
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np

from . import Unmeasurable, device
from .sound import Samples, Sound

__all__ = ["FRAME", "RATE", "package_folder", "probabilities", "stretches"]

RATE: Final = 16_000
"""Samples a second that everything that listens to speech expects."""
FRAME: Final = 512 / RATE
"""Seconds that one probability is about."""

_STEP: Final = 512
_CONTEXT: Final = 64  # samples of the frame before that the model sees as well
_BLOCK: Final = 512 * _STEP  # samples read at once: 16 s
_LEAVE: Final = 0.15  # speech ends where the probability falls this far below what began it

_heard: WeakKeyDictionary[Sound, Samples] = WeakKeyDictionary()


def probabilities(sound: Sound) -> Samples:
    """How probable speech is in each frame of `FRAME` seconds, 0..1; kept as long as `sound` is.

    Raises `Unmeasurable` when the extra is not installed.
    """
    if sound.rate != RATE:
        raise ValueError(f"speech is looked for at {RATE} samples a second, not at {sound.rate}")
    if sound not in _heard:
        _heard[sound] = _listen(sound)
    return _heard[sound]


def stretches(
    sound: Sound, *, threshold: float = 0.5, silence: float = 0.2, shortest: float = 0.1, pad: float = 0.03
) -> list[tuple[float, float]]:
    """(begin, end) in seconds of the stretches of speech, in order and disjoint.

    Speech begins where its probability reaches `threshold` and goes on over gaps shorter than `silence` seconds;
    what is shorter than `shortest` does not count. Each stretch is widened by `pad` on both sides, at most up to the
    middle of the gap to its neighbour.
    """
    found: list[list[float]] = []
    speaking = False
    for number, probability in enumerate(probabilities(sound).tolist()):
        if probability >= (threshold - _LEAVE if speaking else threshold):
            begin = number * FRAME
            if not speaking and (not found or begin - found[-1][1] >= silence):
                found.append([begin, begin])
            found[-1][1] = begin + FRAME
            speaking = True
        else:
            speaking = False
    kept = [(begin, min(end, sound.seconds)) for begin, end in found if end - begin >= shortest]
    return [
        (
            max(begin - pad, (begin + kept[place - 1][1]) / 2 if place else 0.0),
            min(end + pad, (end + kept[place + 1][0]) / 2 if place + 1 < len(kept) else sound.seconds),
        )
        for place, (begin, end) in enumerate(kept)
    ]


def _listen(sound: Sound) -> Samples:
    session = _session()
    state = {name: np.zeros((1, 1, 128), np.float32) for name in ("h", "c")}
    before = np.zeros(_CONTEXT, np.float32)
    found: list[Samples] = []
    for _, samples in sound.blocks(_BLOCK / RATE):
        padded = np.pad(samples, (0, -len(samples) % _STEP))
        frames = padded.reshape(-1, _STEP)
        contexts = np.vstack([before, frames[:-1, -_CONTEXT:]])
        before = frames[-1, -_CONTEXT:]
        speech, state["h"], state["c"] = session.run(None, {"input": np.hstack([contexts, frames]), **state})
        found.append(np.asarray(speech, np.float32).reshape(-1))
    return np.concatenate(found) if found else np.zeros(0, np.float32)


@functools.cache
def _session() -> Any:
    return device.onnx_session(package_folder("faster_whisper", "speech") / "assets" / "silero_vad_v6.onnx")


def package_folder(package: str, extra: str) -> Path:
    """Where an installed package lies; it is not imported. Raises `Unmeasurable` naming the extra to install."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise Unmeasurable(
            f"the extra '{extra}' is not installed on the server (pip install 'humebatch[{extra}]'; missing: {package})"
        )
    return Path(found.submodule_search_locations[0])
