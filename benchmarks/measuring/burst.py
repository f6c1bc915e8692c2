"""How well bursts are found and named, on people and recordings that nothing was trained or chosen on, and how fast.

A burst counts as found when what was found and where it is overlap by at least half of what they cover together; each
counts once. The recordings are spliced (`benchmarks/splicing.py`) from bursts of the 35 contributors of EmoGator whose
number is divisible by 10, and speech of other data sets and of speakers that were left out of the training.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]  # carries no types

from benchmarks import voices
from benchmarks.burst_gate import Held, bursts, judge, splices
from benchmarks.burst_heads import Embedded, areas
from humebatch.server.measure.acoustic import RATE
from humebatch.server.measure.burst import BurstMeasurer
from humebatch.server.measure.burst_card import CLASSES
from humebatch.server.measure.device import threads

__all__ = ["rows"]

RECORDINGS: Final = 100  # of half a minute
SONG: Final = 30  # seconds of each
_WORDLESS: Final = ("Laugh", "Hmm", "Nooo", "Ooff", "Ow", "PoisonCough", "PoisonMoan")


def rows(options: Any) -> Iterator[tuple[str, str, str, str]]:
    """What, its value, the goal, and on which data; a missing data set is a row that says so."""
    measurer = BurstMeasurer()
    for part in (_named, _found, _silent, _laughs):
        try:
            yield from part(measurer, options.data)
        except voices.Missing as missing:
            yield f"burst: {part.__name__.strip('_')}", "not measured", "", str(missing)


def _named(measurer: BurstMeasurer, data: Path) -> Iterator[tuple[str, str, str, str]]:
    files = [file for file in voices.emogator(data) if voices.held_out(file.contributor)]
    clips = [voices.decoded(file.path) for file in files]
    started = time.perf_counter()
    rows = measurer.encoder.embed(clips)
    spent = time.perf_counter() - started
    unseen = Embedded(rows, np.array([file.contributor for file in files]), np.array([file.label for file in files]))
    probabilities = measurer.heads.probabilities(rows)
    area = areas(probabilities, unseen.labels)
    order = np.argsort(-probabilities, axis=1)
    first, third = (np.mean((order[:, :n] == unseen.labels[:, None]).any(axis=1)) for n in (1, 3))
    people = f"EmoGator, {len(files):,} bursts of {len(set(unseen.contributors))} people never trained on"
    weakest = np.argsort(area)[:5]
    yield "mean AUC of 30 classes", f"{area.mean():.4f}", ">= .85, stretch .87", people
    yield "classes with AUC >= .75", f"{(area >= 0.75).sum()} of 30", "30", people
    yield "right class first / among three", f"{first:.3f} / {third:.3f}", "(chance .033 / .1)", people
    yield "weakest classes", ", ".join(f"{CLASSES[n]} {area[n]:.3f}" for n in weakest), "", people
    yield "AUC by class", ", ".join(f"{CLASSES[n]} {area[n]:.3f}" for n in np.argsort(-area)), "", people
    yield "speed, naming", f"{sum(map(len, clips)) / RATE / spent:.0f} x real time of the bursts", "", people


def _found(measurer: BurstMeasurer, data: Path) -> Iterator[tuple[str, str, str, str]]:
    speech = [voice.samples for voice in voices.unseen_speech(data)]
    recordings = splices(
        speech, bursts(data, [number for number in range(1, 358) if voices.held_out(number)]), RECORDINGS, seed=100_000
    )
    started = time.perf_counter()
    scores = judge(measurer.gate, recordings, (0.5, 0.3))
    spent = time.perf_counter() - started
    told = f"{scores[0].there} bursts in {RECORDINGS} recordings spliced of unseen people"
    for score, goal in zip(scores, ("precision >= .8 at recall >= .7", ""), strict=True):
        yield f"bursts found in speech, overlap >= {score.least}", str(score), goal, told
    seconds = sum(len(recording.samples) for recording in recordings) / RATE
    yield (
        "speed, finding",
        f"{seconds / spent:.0f} x real time on {threads()} thread(s)",
        "20 x, with naming",
        "the same",
    )


def _silent(measurer: BurstMeasurer, data: Path) -> Iterator[tuple[str, str, str, str]]:
    songs = sorted(voices.folder(data, "hedgewars", "Music").glob("*.ogg"))
    audio = {
        "speech of unseen people, no bursts known in it": [voice.samples for voice in voices.unseen_speech(data)],
        "music of a game (hedgewars)": [voices.decoded(path)[: SONG * RATE] for path in songs],
    }
    for told, pieces in audio.items():
        whole = Held(np.concatenate([np.zeros(RATE, np.float32), *pieces]))
        found = sum(1 for _ in measurer.gate.find(whole))
        minutes = whole.seconds / 60
        yield "false bursts a minute", f"{found / minutes:.2f}", "", f"{told}, {minutes:.0f} min"


def _laughs(measurer: BurstMeasurer, data: Path) -> Iterator[tuple[str, str, str, str]]:
    files = sorted(voices.folder(data, "hedgewars", "Sounds/voices").glob("*/*.ogg"))
    names = np.array([file.stem.rstrip("0123456789") for file in files])
    clips = [voices.decoded(file) for file in files]
    amusement = measurer.heads.probabilities(measurer.encoder.embed(clips))[:, CLASSES.index("Amusement")]
    laughs, wordless = names == "Laugh", np.isin(names, _WORDLESS)
    told = f"{laughs.sum()} laughs of hedgewars, acted by other people, against"
    all_lines = roc_auc_score(laughs, amusement)
    alike = roc_auc_score(laughs[wordless], amusement[wordless])
    yield "laughs by Amusement, AUC", f"{all_lines:.3f}", "", f"{told} all other lines"
    yield "laughs by Amusement, AUC", f"{alike:.3f}", "", f"{told} other sounds without words"
    seen = [any(True for _ in measurer.gate.find(Held(clip))) for clip in clips]
    for name, chosen in (("laughs", laughs), ("spoken lines", ~wordless)):
        share = np.mean([one for one, wanted in zip(seen, chosen, strict=True) if wanted])
        yield f"{name} taken for bursts", f"{share:.0%}", "", f"hedgewars, {chosen.sum()} files"
