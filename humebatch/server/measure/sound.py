"""The audio of a file as samples: decoded once to disk, read back in pieces, so that memory does not grow with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import av.error
import numpy as np
import numpy.typing as npt

from . import Unmeasurable
from .tracks import open_media

__all__ = ["Samples", "Sound", "decode"]

Samples = npt.NDArray[np.float32]
"""Mono samples, -1..1."""

_BYTES = 2  # of one sample on disk: 16 bits
_SCALE = 32768.0


class Sound:
    """Mono audio of `samples` samples at `rate` per second, kept as 16-bit samples in the file `path`."""

    def __init__(self, path: Path, rate: int) -> None:
        self.path = path
        self.rate = rate
        self.samples = path.stat().st_size // _BYTES

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.samples / self.rate

    def read(self, begin: float = 0.0, end: float | None = None) -> Samples:
        """The samples from `begin` to `end` (seconds, default the end), cut to what there is."""
        first = min(max(round(begin * self.rate), 0), self.samples)
        last = self.samples if end is None else min(max(round(end * self.rate), first), self.samples)
        with self.path.open("rb") as file:
            file.seek(first * _BYTES)
            stored = np.frombuffer(file.read((last - first) * _BYTES), "<i2")
        return stored.astype(np.float32) / np.float32(_SCALE)

    def blocks(self, length: float, step: float | None = None) -> Iterator[tuple[float, Samples]]:
        """(begin in seconds, samples) of blocks of `length` seconds, a new one every `step` (default `length`).

        The last one is as short as what is left; nothing is left out, and no block lies within the one before.
        """
        step = length if step is None else step
        begin, number = 0.0, 0
        while begin < self.seconds:
            yield begin, self.read(begin, begin + length)
            if begin + length >= self.seconds:
                return
            number += 1
            begin = number * step


def decode(path: str, target: Path, rate: int) -> Sound:
    """Decode the first audio track of the media file at `path` into `target`, mixed to mono at `rate` samples a second.

    Raises `Unmeasurable` when the file is no media, has no audio track, or none of it can be decoded. A file that is
    damaged further on is read up to there.
    """
    try:
        with open_media(path) as container, target.open("wb") as out:
            if not container.streams.audio:
                raise Unmeasurable("the file has no audio track")
            resampler = av.AudioResampler("s16", "mono", rate)
            stream = container.streams.audio[0]
            try:
                for frame in container.decode(stream):
                    for piece in resampler.resample(frame):
                        out.write(piece.to_ndarray().astype("<i2", copy=False).tobytes())
            except av.error.FFmpegError:
                if not out.tell():
                    raise
            for piece in resampler.resample(None):
                out.write(piece.to_ndarray().astype("<i2", copy=False).tobytes())
    except (av.error.FFmpegError, ValueError) as error:
        # FFmpeg's whole message ends with the path, which is nobody's business outside this machine.
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise Unmeasurable(f"the audio cannot be decoded: {reason}") from error
    sound = Sound(target, rate)
    if not sound.samples:
        raise Unmeasurable("the audio cannot be decoded: the track holds no samples")
    return sound
