"""How a voice is used, a hundred times a second: its pitch, its level, and from both the pace of its syllables.

Signal processing without anything learned. Pitch is the peak of the normalised autocorrelation of 50 ms, as in
Boersma (1993): the spectrum above 1.5 kHz, where harmonics are masked by noise, is turned down, and shorter periods
are preferred a little, against errors of an octave. A syllable is a voiced peak of the level behind a dip, as in
de Jong and Wempe (2009). How good both are against a laryngograph and against syllables labelled by hand,
`benchmarks/measuring/prosody.py` prints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .sound import Samples, Sound

__all__ = ["PER_SECOND", "Intonation", "listen", "nuclei", "track"]

PER_SECOND: Final = 100
"""Frames a second."""

Track = npt.NDArray[np.float16]

_RATE: Final = 8_000  # of the samples that pitch is looked for in: half of what comes in
_HOP: Final = _RATE // PER_SECOND
_WINDOW: Final = _RATE // 20
_FFT: Final = 1024
_LOWEST, _HIGHEST = 65.0, 500.0  # Hz
_SHORTEST_LAG, _LONGEST_LAG = int(_RATE / _HIGHEST), int(_RATE / _LOWEST)
_VOICED: Final = 0.6  # autocorrelation from which a frame counts as voiced
_PER_OCTAVE: Final = 0.03  # of autocorrelation, what a period may be worse than one twice as long
_AUDIBLE: Final = 0.03  # of the loudest frame's amplitude: below, nothing is voiced
_BLOCK: Final = 10.0  # seconds that are analysed at once
_EDGE: Final = 0.1  # seconds around a block, so that its first frame has what its window covers

_FLOOR: Final = 1e-5  # amplitude; -100 dB stands for digital silence
_DIP, _BELOW_TOP, _SMOOTH = 1.0, 25.0, 5  # dB, dB and frames, of syllables

_SHORTEST_VOICE: Final = 0.1  # seconds of voice without which there is no pitch to tell
_SHORTEST_PACE: Final = 1.0  # seconds without which a pace is an accident

_hann = np.hanning(_WINDOW).astype(np.float32)
_of_window = np.fft.irfft(np.abs(np.fft.rfft(_hann, _FFT)) ** 2)[: _LONGEST_LAG + 2]
_of_window = (_of_window / _of_window[0]).astype(np.float32)
_emphasis = np.where(np.fft.rfftfreq(_FFT, 1 / _RATE) > 1500, 0.05, 1).astype(np.float32)
_lags = np.arange(_SHORTEST_LAG, _LONGEST_LAG + 1)
_handicap = (_PER_OCTAVE * np.log2(_LOWEST * _lags / _RATE)).astype(np.float32)
_half_band = (0.5 * np.sinc(np.arange(-15, 16) / 2) * np.hamming(31)).astype(np.float32)


class Intonation(NamedTuple):
    """Per frame the pitch in Hz (0 where nothing is voiced) and the level in dB below full scale: 4 bytes a frame."""

    pitch: Track
    level: Track

    def between(self, begin: float, end: float) -> dict[str, float]:
        """What can be told of the stretch from `begin` to `end` (seconds), by name; empty when there is nothing.

        `pitch_hz`: the median of what is voiced; `pitch_range_semitones`: from its 10th to its 90th percentile;
        `energy_db`: mean power, dB below full scale; `syllables_per_second`: estimated, pauses included.
        """
        first = max(0, round(begin * PER_SECOND))
        last = max(first + 1, round(end * PER_SECOND))
        pitch, level = (values[first:last].astype(np.float32) for values in self)
        if not len(level):
            return {}
        found = {}
        voiced = pitch[pitch > 0]
        if len(voiced) >= _SHORTEST_VOICE * PER_SECOND:
            median = np.median(voiced)
            # Further than an octave from its middle it is a resonance or an error of the tracker, hardly ever a voice.
            low, high = np.percentile(voiced[(voiced > median / 2) & (voiced < median * 2)], [10, 90])
            found["pitch_hz"] = round(float(median), 1)
            found["pitch_range_semitones"] = round(float(12 * np.log2(high / low)), 2)
        found["energy_db"] = round(float(10 * np.log10((10 ** (level / 10)).mean())), 1)
        if len(level) >= _SHORTEST_PACE * PER_SECOND:
            found["syllables_per_second"] = round(len(nuclei(pitch, level)) * PER_SECOND / len(level), 2)
        return found


def listen(sound: Sound, progress: Callable[[float], None] = lambda _seconds: None) -> Intonation:
    """The intonation of a whole recording at 16 kHz, read block by block (three hours become 4 MB)."""
    if sound.rate != 2 * _RATE:
        raise ValueError(f"intonation is tracked at {2 * _RATE} samples a second, not at {sound.rate}")
    pitches, levels = [], []
    begin = 0.0
    while begin < sound.seconds:
        end = min(begin + _BLOCK, sound.seconds)
        before = min(begin, _EDGE)
        pitch, level = track(sound.read(begin - before, end + _EDGE))
        kept = slice(round(before * PER_SECOND), round((before + end - begin) * PER_SECOND))
        pitches.append(pitch[kept])
        levels.append(level[kept])
        progress(end)
        begin = end
    nothing = np.zeros(0, np.float16)
    return Intonation(np.concatenate([nothing, *pitches]), np.concatenate([nothing, *levels]))


def track(samples: Samples) -> Intonation:
    """The intonation of a short stretch at 16 kHz; frame n is about the 50 ms around n / 100 s."""
    halved = np.convolve(samples, _half_band, "same")[::2] if len(samples) else samples
    count = max(1, len(halved) // _HOP)
    padded = np.pad(halved, (_WINDOW // 2, _WINDOW)).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP][:count]
    frames = frames - frames.mean(axis=1, keepdims=True)
    amplitude = np.sqrt((frames**2).mean(axis=1))

    spectrum = np.fft.rfft(frames * _hann, _FFT)
    power = (spectrum.real**2 + spectrum.imag**2) * _emphasis
    correlation = np.fft.irfft(power, _FFT, axis=1)[:, : _LONGEST_LAG + 2]
    correlation = correlation / np.maximum(correlation[:, :1], 1e-12) / _of_window

    before, here, after = (correlation[:, _SHORTEST_LAG + shift : _LONGEST_LAG + 1 + shift] for shift in (-1, 0, 1))
    peak = (here > before) & (here >= after)
    best = np.where(peak, here - _handicap, -np.inf).argmax(axis=1)
    row = np.arange(count)
    left, top, right = before[row, best], here[row, best], after[row, best]
    bend = np.minimum(left - 2 * top + right, -1e-9)
    lag = _lags[best] + np.clip(0.5 * (left - right) / bend, -0.5, 0.5)
    voiced = peak[row, best] & (top > _VOICED) & (amplitude > max(_AUDIBLE * amplitude.max(), _FLOOR))
    return Intonation(
        np.where(voiced, _RATE / lag, 0).astype(np.float16),
        (20 * np.log10(np.maximum(amplitude, _FLOOR))).astype(np.float16),
    )


def nuclei(pitch: Samples, level: Samples) -> list[int]:
    """The frames where a syllable is loudest, of a stretch's pitch and level."""
    if len(level) < _SMOOTH:
        return []
    weights = np.hanning(_SMOOTH + 2)[1:-1]
    smooth = np.convolve(np.pad(level, _SMOOTH // 2, mode="edge"), weights / weights.sum(), "valid")
    peaks = np.flatnonzero((smooth[1:-1] > smooth[:-2]) & (smooth[1:-1] >= smooth[2:])) + 1
    loud = np.quantile(smooth, 0.95) - _BELOW_TOP
    found: list[int] = []
    for peak in peaks[smooth[peaks] > loud].tolist():
        if not pitch[max(0, peak - 2) : peak + 3].any():
            continue
        if found and min(smooth[peak], smooth[found[-1]]) - smooth[found[-1] : peak + 1].min() < _DIP:
            if smooth[peak] > smooth[found[-1]]:
                found[-1] = peak
            continue
        found.append(peak)
    return found
