"""Who speaks when: speech is found, heard in short windows, and the windows are sorted by voice.

A window is 1.6 s long and a new one begins every 0.4 s. Windows with similar embeddings are grouped, the two most
similar groups first (average linkage on cosine similarity), until what is left differs as much as two people do. A
group of fewer than four windows is no speaker: most such windows lie across two turns. At last every 0.4 s of speech
go to the speaker whose mean they are most similar to, where a change of speaker has a price, so that one doubtful
window makes no turn.

Memory is bounded: of a long recording at most 800 windows, evenly chosen, are compared with each other; all are then
compared with the speakers' means. An embedding takes 1 KB, so three hours take 27 MB.

The numbers below were chosen on dialogs spliced from council meetings (package speakerbox 1.2.0; 2 % confusion with the
count given, 4 % without) and from Emo-DB, whose actors change their voices so much that a quarter is confused. The
figures of the card are of EmoTale, on which nothing was tuned. Tried and left out, because they were no better on the
first two or worse on EmoTale: spectral clustering, one embedding per stretch of speech, levelling the loudness, and
projecting out directions of mood learned from Emo-DB.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from . import voice
from .sound import Sound
from .speaker_encoder import SECONDS, encoder
from .speech import Turn

__all__ = ["SHORTEST", "speakers", "turns"]

Floats = npt.NDArray[np.float32]

SHORTEST: Final = 0.8
"""Seconds of audio below which no speaker is looked for."""

_STEP: Final = 0.4  # seconds from one window to the next
_ALIKE: Final = 0.61  # mean similarity of two groups of windows below which they are two people
_ENOUGH: Final = 4  # windows that make a speaker, where there are so many
_TOGETHER: Final = 64  # windows that are read and embedded at once
_MOST: Final = 800  # windows that are compared with each other
_CHANGE: Final = 0.3  # what a change of speaker costs, in similarity; half after a pause
_BREATH: Final = 0.5  # seconds without speech within one turn
_TEMPERATURE: Final = 0.05  # turns similarities into confidence: .94 on average where .95 of the turns were right


def turns(sound: Sound, *, total: int | None = None, maximum: int | None = None) -> list[Turn]:
    """Who speaks when, in order and disjoint; speakers are numbered by first appearance.

    `total`: how many speakers there are (fewer are found only where there is less speech than that); `maximum`: how
    many at most. [] where nobody speaks or the audio is shorter than `SHORTEST`. A turn's `confidence` is the share
    of its speaker's similarity among all speakers', exponentially weighted: 1 where there is only one. Raises
    `Unmeasurable` when the extra `speech` or the weights are not on the server.
    """
    heard = voice.stretches(sound) if sound.seconds >= SHORTEST else []
    if not heard:
        return []
    spans = [span for begin, end in heard for span in _spans(begin, end)]
    embeddings = _embeddings(sound, spans)
    centres = speakers(embeddings[:: -(-len(embeddings) // _MOST)], total=total, maximum=maximum)
    cells, scores, fresh = _cells(heard, spans, embeddings @ centres.T)
    path = _path(scores, np.where(fresh, _CHANGE / 2, _CHANGE))
    if total is not None:
        for speaker in set(range(len(centres))) - set(path.tolist()):
            path[int(scores[:, speaker].argmax())] = speaker
    return _turns(cells, path.tolist(), _shares(scores))


def speakers(
    embeddings: Floats, *, total: int | None = None, maximum: int | None = None, alike: float = _ALIKE
) -> Floats:
    """`[speakers, 256]`: the mean embedding of each speaker, of length 1.

    `embeddings`: of windows, at least one. `alike`: groups whose windows are less similar than this on average are
    different people, where `total` does not say how many there are.
    """
    merges = _merges(embeddings)
    if total is None:
        joined = [similarity >= alike for _, _, similarity in merges]
        labels = _labels(len(embeddings), merges[: joined.index(False) if False in joined else None])
        sizes = np.bincount(labels)
        found = _means(embeddings, labels, min(_ENOUGH, int(sizes.max())))
        if maximum is None or len(found) <= maximum:
            return found
    wanted = min(total or maximum or 1, len(embeddings))
    # The last cut with as many groups that are large enough; small ones beside them are no speakers.
    counts = _counts(len(embeddings), merges)
    for enough in range(_ENOUGH, 0, -1):
        cuts = np.flatnonzero(counts[:, enough - 1] == wanted)
        if len(cuts):
            return _means(embeddings, _labels(len(embeddings), merges[: cuts[-1]]), enough)
    raise AssertionError("counting groups of one window, every number of groups is reached")


def _embeddings(sound: Sound, spans: list[tuple[float, float]]) -> Floats:
    batches = (spans[first : first + _TOGETHER] for first in range(0, len(spans), _TOGETHER))
    return np.concatenate([encoder().embed([sound.read(begin, end) for begin, end in batch]) for batch in batches])


def _merges(embeddings: Floats) -> list[tuple[int, int, float]]:
    """(group, group that joins it, their mean similarity), the most similar two first, until one group is left."""
    count = len(embeddings)
    # Sums of similarities: the mean between two groups is their sum over the number of pairs.
    sums = (embeddings @ embeddings.T).astype(np.float64)
    sizes = np.ones(count)
    mean = sums.copy()
    np.fill_diagonal(mean, -np.inf)
    found: list[tuple[int, int, float]] = []
    for _ in range(count - 1):
        one, other = divmod(int(mean.argmax()), count)
        found.append((one, other, float(mean[one, other])))
        sums[one] += sums[other]
        sums[:, one] = sums[one]
        sizes[one] += sizes[other]
        sizes[other] = np.inf  # it is gone: its mean with everything is 0 from here on, and never asked for
        mean[one] = np.where(np.isinf(mean[one]), -np.inf, sums[one] / (sizes[one] * sizes))
        mean[:, one] = mean[one]
        mean[other] = mean[:, other] = -np.inf
    return found


def _counts(count: int, merges: list[tuple[int, int, float]]) -> npt.NDArray[np.intp]:
    """`[cut, size - 1]`: how many groups have at least `size` windows after the first `cut` merges."""
    sizes = [1] * count
    now = np.array([count, *[0] * (_ENOUGH - 1)])
    found = [now]
    for one, other, _ in merges:
        limits = np.arange(1, _ENOUGH + 1)
        together = sizes[one] + sizes[other]
        gone = (sizes[one] >= limits).astype(np.intp) + (sizes[other] >= limits)
        now = now - gone + (together >= limits)
        sizes[one], sizes[other] = together, 0
        found.append(now)
    return np.stack(found)


def _labels(count: int, merges: list[tuple[int, int, float]]) -> npt.NDArray[np.intp]:
    """The number of its group for each of `count` windows after these merges: 0, 1, … by first appearance."""
    labels = np.arange(count)
    for one, other, _ in merges:
        labels[labels == other] = one
    return _by_appearance(labels)


def _means(embeddings: Floats, labels: npt.NDArray[np.intp], enough: int) -> Floats:
    """The means, of length 1, of the groups that have at least `enough` windows."""
    sizes = np.bincount(labels)
    means = np.stack([embeddings[labels == label].mean(axis=0) for label in np.flatnonzero(sizes >= enough)])
    result: Floats = means / np.linalg.norm(means, axis=1, keepdims=True)
    return result


def _by_appearance(labels: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _spans(begin: float, end: float) -> list[tuple[float, float]]:
    """Windows over one stretch of speech; one as short as the stretch where that is shorter."""
    starts = np.arange(begin, max(end - SECONDS, begin) + 1e-9, _STEP).tolist()
    return [(start, min(start + SECONDS, end)) for start in starts]


def _turns(cells: list[tuple[float, float]], path: list[int], shares: Floats) -> list[Turn]:
    """Neighbouring cells of one speaker joined, speakers numbered anew."""
    numbers = {speaker: number for number, speaker in enumerate(dict.fromkeys(path))}
    found: list[tuple[float, float, int, list[float]]] = []
    for (begin, end), speaker, share in zip(cells, path, shares, strict=True):
        if found and found[-1][2] == speaker and begin - found[-1][1] <= _BREATH:
            first, _, _, sure = found.pop()
            found.append((first, end, speaker, [*sure, float(share[speaker])]))
        else:
            found.append((begin, end, speaker, [float(share[speaker])]))
    return [
        Turn(
            begin=round(begin, 3),
            end=round(end, 3),
            speaker=numbers[speaker],
            confidence=round(sum(sure) / len(sure), 6),
        )
        for begin, end, speaker, sure in found
    ]


def _shares(scores: Floats) -> Floats:
    """How sure each speaker is in each cell: the similarities as probabilities."""
    weights = np.exp((scores - scores.max(axis=1, keepdims=True)) / _TEMPERATURE)
    result: Floats = weights / weights.sum(axis=1, keepdims=True)
    return result


def _cells(
    heard: list[tuple[float, float]], spans: list[tuple[float, float]], similar: Floats
) -> tuple[list[tuple[float, float]], Floats, npt.NDArray[np.bool_]]:
    """Short stretches of speech, how similar the windows around each are to each speaker, and which follow a pause."""
    cells: list[tuple[float, float]] = []
    scores: list[Floats] = []
    fresh: list[bool] = []
    starts = [span[0] for span in spans]
    for begin, end in heard:
        first, last = bisect_left(starts, begin), bisect_left(starts, end)
        edges = np.linspace(begin, end, max(1, round((end - begin) / _STEP)) + 1).tolist()
        for cell in pairwise(edges):
            middle = (cell[0] + cell[1]) / 2
            # At least the last window: up to 0.4 s at the end of a stretch are in none.
            earliest = min(bisect_left(starts, middle - SECONDS, first, last), last - 1)
            latest = max(bisect_right(starts, middle, first, last), earliest + 1)
            scores.append(similar[earliest:latest].mean(axis=0))
            cells.append(cell)
            fresh.append(cell[0] == begin)
    return cells, np.stack(scores), np.array(fresh)


def _path(scores: Floats, prices: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """The speaker of each cell: the sequence with the greatest sum of scores, less `prices[cell]` per change."""
    best = scores[0].astype(np.float64)
    came = np.zeros(scores.shape, np.intp)
    for cell in range(1, len(scores)):
        leader = int(best.argmax())
        stay = best >= best[leader] - prices[cell]
        came[cell] = np.where(stay, np.arange(len(best)), leader)
        best = np.where(stay, best, best[leader] - prices[cell]) + scores[cell]
    path = np.empty(len(scores), np.intp)
    path[-1] = best.argmax()
    for cell in range(len(scores) - 1, 0, -1):
        path[cell - 1] = came[cell, path[cell]]
    return path
