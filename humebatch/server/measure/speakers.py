"""Who speaks when: speech is found, heard in short windows, and the windows are sorted by voice.

A window is 1.6 s long and a new one begins every 0.4 s, so that most of them lie within one person's turn. Windows
with similar embeddings are grouped (average linkage on cosine similarity); then every 0.4 s of speech go to
the group they are most similar to, where a change of speaker has a price, so that one doubtful window makes no turn.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from . import voice
from .sound import Sound
from .speaker_encoder import SECONDS, encoder
from .speech import Turn

__all__ = ["SHORTEST", "grouped", "turns"]

Floats = npt.NDArray[np.float32]

SHORTEST: Final = 0.8
"""Seconds of audio below which no speaker is looked for."""

_STEP: Final = 0.4
_ALIKE: Final = 0.65  # groups whose windows are less similar than this on average are different people
_MOST: Final = 800  # windows that are compared with each other; of a longer recording, evenly chosen ones
_CHANGE: Final = 0.3  # what a change of speaker costs, in similarity; half after a pause
_BREATH: Final = 0.5  # seconds without speech within one turn
_TEMPERATURE: Final = 0.1  # turns similarities into confidence


def turns(sound: Sound, *, total: int | None = None, maximum: int | None = None) -> list[Turn]:
    """Who speaks when, in order and disjoint; speakers are numbered by first appearance.

    `total`: how many speakers there are (fewer are found only where there is less speech than that); `maximum`: how
    many at most. [] where nobody speaks or the audio is shorter than `SHORTEST`. Raises `Unmeasurable` when the
    extra `speech` or the weights are not on the server.
    """
    heard = voice.stretches(sound) if sound.seconds >= SHORTEST else []
    if not heard:
        return []
    spans = [span for begin, end in heard for span in _spans(begin, end)]
    embeddings = np.concatenate(
        [
            encoder().embed([sound.read(begin, end) for begin, end in spans[first : first + 64]])
            for first in range(0, len(spans), 64)
        ]
    )
    chosen = embeddings[:: -(-len(embeddings) // _MOST)]
    labels = grouped(chosen, alike=_ALIKE, total=total, maximum=maximum)
    centres = np.stack([chosen[labels == label].mean(axis=0) for label in range(int(labels.max()) + 1)])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    return _turns(heard, spans, embeddings @ centres.T)


def grouped(
    embeddings: Floats, *, alike: float, total: int | None = None, maximum: int | None = None
) -> npt.NDArray[np.intp]:
    """A group number for each row of `embeddings` (rows of length 1): 0, 1, … by first appearance.

    Joins the two groups with the greatest mean similarity until that is below `alike` and there are at most `maximum`
    groups, or until there are `total`.
    """
    members = len(embeddings)
    labels = np.arange(members)
    # Sums of similarities: the mean between two groups is their sum over the number of pairs.
    sums = (embeddings @ embeddings.T).astype(np.float64)
    sizes = np.ones(members)
    mean = sums.copy()
    np.fill_diagonal(mean, -np.inf)
    for left in range(members, 1, -1):
        if total is not None and left <= total:
            break
        one, other = divmod(int(mean.argmax()), members)
        if total is None and mean[one, other] < alike and left <= (maximum or left):
            break
        sums[one] += sums[other]
        sums[:, one] = sums[one]
        sizes[one] += sizes[other]
        sizes[other] = 0
        labels[labels == other] = one
        with np.errstate(divide="ignore", invalid="ignore"):
            mean[one] = np.where(sizes > 0, sums[one] / (sizes[one] * sizes), -np.inf)
        mean[one, one] = -np.inf
        mean[:, one] = mean[one]
        mean[other] = mean[:, other] = -np.inf
    return _by_appearance(labels)


def _by_appearance(labels: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _spans(begin: float, end: float) -> list[tuple[float, float]]:
    """Windows over one stretch of speech, the last one up to its end."""
    starts = np.arange(begin, max(end - SECONDS, begin) + 1e-9, _STEP).tolist()
    return [(start, min(start + SECONDS, end)) for start in starts]


def _turns(heard: list[tuple[float, float]], spans: list[tuple[float, float]], similar: Floats) -> list[Turn]:
    """The turns of all stretches. `similar[window, speaker]`: how alike they are."""
    cells, scores, fresh = _cells(heard, spans, similar)
    path = _path(scores, np.where(fresh, _CHANGE / 2, _CHANGE))
    sure = np.exp((scores - scores.max(axis=1, keepdims=True)) / _TEMPERATURE)
    sure /= sure.sum(axis=1, keepdims=True)
    found: list[tuple[float, float, int, list[float]]] = []
    for (begin, end), speaker, probabilities in zip(cells, path.tolist(), sure, strict=True):
        if found and found[-1][2] == speaker and begin - found[-1][1] <= _BREATH:
            first, _, _, confidences = found.pop()
            found.append((first, end, speaker, [*confidences, float(probabilities[speaker])]))
        else:
            found.append((begin, end, speaker, [float(probabilities[speaker])]))
    numbers = {speaker: number for number, speaker in enumerate(dict.fromkeys(turn[2] for turn in found))}
    return [
        Turn(
            begin=round(begin, 3),
            end=round(end, 3),
            speaker=numbers[speaker],
            confidence=round(sum(confidences) / len(confidences), 6),
        )
        for begin, end, speaker, confidences in found
    ]


def _cells(
    heard: list[tuple[float, float]], spans: list[tuple[float, float]], similar: Floats
) -> tuple[list[tuple[float, float]], Floats, npt.NDArray[np.bool_]]:
    """Short stretches of speech, how similar the windows around each are to each speaker, and which follow a pause."""
    cells: list[tuple[float, float]] = []
    scores: list[Floats] = []
    fresh: list[bool] = []
    first = 0
    for begin, end in heard:
        last = first
        while last < len(spans) and spans[last][0] < end:
            last += 1
        count = max(1, round((end - begin) / _STEP))
        edges = np.linspace(begin, end, count + 1).tolist()
        for cell in pairwise(edges):
            middle = (cell[0] + cell[1]) / 2
            around = [at for at in range(first, last) if spans[at][0] <= middle <= spans[at][1]]
            scores.append(similar[around or [last - 1]].mean(axis=0))
            cells.append(cell)
            fresh.append(cell[0] == begin)
        first = last
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
