"""Recordings spliced from speech, vocal bursts and noise, with what is where: material for the gate of burst.

Each recording is a sequence of stretches of speech, single bursts, noises and pauses, as if in one room: one
channel (a filter and a steady background) over everything, so that the gate cannot learn data sets by their
microphones. Everything is random, and the same for the same seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.signal import butter, sosfilt  # type: ignore[import-untyped]  # carries no types

__all__ = ["BURST", "OTHER", "SPEECH", "Part", "Score", "Splice", "overlap", "splice", "synthetic_noise"]

Floats = npt.NDArray[np.float32]
RATE: Final = 16_000

OTHER, SPEECH, BURST = 0, 1, 2

# How often each kind of part follows another, and how many seconds of speech are cut out at once.
_KINDS: Final = {BURST: 0.4, SPEECH: 0.5, OTHER: 0.1}
_SPEECH_SECONDS: Final = (0.3, 6.0)
_PAUSE_SECONDS: Final = (0.1, 1.5)
_LONG_PAUSES: Final = 0.15  # of all pauses: a recording in which little happens
_LONG_PAUSE_SECONDS: Final = (2.0, 8.0)
# Decibels below full scale: of voices (mean, deviation), of noises, of the steady background.
_VOICE_LEVEL: Final = (-26.0, 5.0)
_NOISE_LEVELS: Final = (-60.0, -20.0)
_BACKGROUND_LEVELS: Final = (-80.0, -38.0)
_SILENT: Final = 0.2  # recordings without any background


class Part(NamedTuple):
    """Where one part lies, in seconds. `kind`: `OTHER` (a noise), `SPEECH` or `BURST`."""

    begin: float
    end: float
    kind: int


class Splice(NamedTuple):
    """A recording of mono samples at 16 kHz, and its parts in order; between them is background only."""

    samples: Floats
    parts: list[Part]


class Score:
    """Counts of bursts found. One found is right when it overlaps a burst by `least` of what both cover together.

    Each burst is found once at most: a second piece of it counts as wrong.
    """

    def __init__(self, least: float) -> None:
        self.least = least
        self.right = self.found = self.there = 0

    def add(self, found: Sequence[tuple[float, float]], there: Sequence[tuple[float, float]]) -> None:
        """Count one recording: (begin, end) in seconds of what was found, and of what is there."""
        open_ = list(there)
        for one in found:
            best = max(open_, key=lambda other: overlap(one, other), default=None)
            if best is not None and overlap(one, best) >= self.least:
                open_.remove(best)
                self.right += 1
        self.found += len(found)
        self.there += len(there)

    @property
    def precision(self) -> float:
        """Share of what was found that is right."""
        return self.right / max(1, self.found)

    @property
    def recall(self) -> float:
        """Share of what is there that was found."""
        return self.right / max(1, self.there)

    def __str__(self) -> str:
        return f"precision {self.precision:.3f}, recall {self.recall:.3f}"


def overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Length of the intersection over length of the union of two stretches."""
    both = min(one[1], other[1]) - max(one[0], other[0])
    return max(0.0, both) / (max(one[1], other[1]) - min(one[0], other[0]))


def splice(
    speech: Sequence[Floats], bursts: Sequence[Floats], noises: Sequence[Floats], seconds: float, seed: int
) -> Splice:
    """About `seconds` of recording from clips drawn at random. Bursts are used whole, up to 6 seconds."""
    rng = np.random.default_rng(seed)
    pieces: list[Floats] = []
    parts: list[Part] = []
    reached = 0
    while reached < seconds * RATE:
        kind = int(rng.choice(list(_KINDS), p=list(_KINDS.values())))
        source = {BURST: bursts, SPEECH: speech, OTHER: noises}[kind]
        clip = source[int(rng.integers(len(source)))]
        if kind != BURST:
            clip = _cut(clip, rng)
        lengths = _LONG_PAUSE_SECONDS if rng.random() < _LONG_PAUSES else _PAUSE_SECONDS
        pause = np.zeros(int(rng.uniform(*lengths) * RATE), np.float32)
        level = rng.uniform(*_NOISE_LEVELS) if kind == OTHER else rng.normal(*_VOICE_LEVEL)
        pieces += [pause, _levelled(clip, level)]
        begin = reached + len(pause)
        reached = begin + len(clip)
        parts.append(Part(begin / RATE, reached / RATE, kind))
    return Splice(_in_a_room(np.concatenate(pieces), rng), parts)


def synthetic_noise(rng: np.random.Generator, seconds: float = 4.0) -> Floats:
    """A noise that is no voice: hiss, hum, beeps, chords, knocks or a sweep."""
    time = np.arange(int(seconds * RATE)) / RATE
    kind = rng.integers(6)
    if kind == 0:
        wave = _coloured(len(time), rng)
    elif kind == 1:
        wave = sum(np.sin(2 * np.pi * f * time) / f for f in rng.choice([50, 60]) * np.arange(1, 20))
    elif kind == 2:
        wave = np.sin(2 * np.pi * rng.uniform(300, 3000) * time) * (np.sin(2 * np.pi * rng.uniform(1, 6) * time) > 0)
    elif kind == 3:
        wave = _chords(time, rng)
    elif kind == 4:
        wave = np.zeros(len(time))
        for at in rng.integers(0, len(time), rng.integers(2, 12)):
            wave[at : at + 3200] += (rng.normal(size=3200) * np.exp(-np.arange(3200) / rng.uniform(80, 900)))[
                : len(wave) - at
            ]
    else:
        low, high = rng.uniform(100, 4000, 2)
        wave = np.sin(2 * np.pi * np.cumsum(np.linspace(float(low), float(high), len(time))) / RATE)
    return np.asarray(wave, np.float32)


def _chords(time: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    wave = np.zeros(len(time))
    length = int(rng.uniform(0.2, 0.8) * RATE)
    for begin in range(0, len(time), length):
        now = time[begin : begin + length] - time[begin]
        for note in rng.choice([0, 3, 4, 7, 12, 16], 3, replace=False):
            pitch = 110 * 2 ** ((rng.integers(0, 12) + note) / 12)
            for harmonic in range(1, 6):
                wave[begin : begin + length] += np.sin(2 * np.pi * pitch * harmonic * now) / harmonic * np.exp(-3 * now)
    return wave


def _cut(clip: Floats, rng: np.random.Generator) -> Floats:
    # Short ones as often as long ones: single words are what is most easily taken for bursts.
    low, high = np.log(_SPEECH_SECONDS)
    length = min(len(clip), int(np.exp(rng.uniform(low, high)) * RATE))
    begin = int(rng.integers(len(clip) - length + 1))
    return clip[begin : begin + length]


def _levelled(clip: Floats, decibel: float) -> Floats:
    power = float(np.sqrt((clip**2).mean())) if len(clip) else 0.0
    return clip * np.float32(10 ** (decibel / 20) / max(power, 1e-5))


def _in_a_room(samples: Floats, rng: np.random.Generator) -> Floats:
    upper = rng.choice([3400.0, 5000.0, 7000.0, 7900.0])
    room = sosfilt(butter(4, [rng.uniform(30, 200), upper], "bandpass", fs=RATE, output="sos"), samples)
    tilt = rng.uniform(-0.5, 0.5)  # a pre-emphasis one way or the other
    room = room + tilt * np.concatenate([[0], room[:-1]])
    if rng.random() > _SILENT:
        background = _coloured(len(samples), rng)
        room = room + background / background.std() * 10 ** (rng.uniform(*_BACKGROUND_LEVELS) / 20)
    recorded: Floats = (np.round(np.clip(room, -1, 1) * 32767) / 32767).astype(np.float32)  # as 16-bit files have it
    return recorded


def _coloured(length: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    spectrum = np.fft.rfft(rng.normal(size=length))
    shaped = spectrum / np.maximum(np.arange(len(spectrum)), 1) ** rng.uniform(0, 1)
    return np.fft.irfft(shaped, length)
