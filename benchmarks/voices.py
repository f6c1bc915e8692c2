"""Recordings of voices for training and judging: who speaks in which file, read and decoded from folders of data sets.

Nothing of the data is part of this project. A data set is a folder below DATA, as its repository or package holds it:

    EmoGator        github.com/fredbuhl/EmoGator, Apache-2.0: 32,130 vocal bursts of 357 contributors, 30 classes
    emodb           github.com/felixbur/emodb, CC0: 535 utterances of 10 speakers, German, acted
    speakerbox      PyPI speakerbox 1.2.0, MIT: council meetings, 9 speakers (`speakerbox/tests/data/diarized.zip`)
    EmoTale         github.com/snehadas/EmoTale, no licence, so for judging only: English and Danish, acted
    moonshine_voice PyPI moonshine-voice 0.1.5, MIT: a dialog and readings
    pocketsphinx    Debian pocketsphinx-testdata: readings
    hedgewars       Debian hedgewars-data, GFDL, for judging only: acted lines, laughs, music, noises of a game
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import av
import numpy as np
import numpy.typing as npt

__all__ = ["Burst", "Missing", "Voice", "decoded", "emogator", "folder", "held_out", "speech", "unseen_speech"]

Floats = npt.NDArray[np.float32]
RATE: Final = 16_000

# Speakers that nothing was trained on: three of ten in Emo-DB, three of nine council members.
_UNSEEN_EMODB: Final = ("03", "08", "10")
_UNSEEN_COUNCIL: Final = ("herbold", "juarez", "strauss")


class Missing(Exception):
    """A data set is not in the folder; the message says which, and where to get it."""


class Burst(NamedTuple):
    """One file of EmoGator. `label`: which of the 30 classes, from 0."""

    path: Path
    contributor: int
    label: int


class Voice(NamedTuple):
    """Speech of one person: mono samples at 16 kHz."""

    person: str
    samples: Floats


def held_out(contributor: int) -> bool:
    """Whether a contributor of EmoGator serves for judging only: number divisible by 10, 35 of 357."""
    return contributor % 10 == 0


def emogator(data: Path) -> list[Burst]:
    """All bursts, in order of their names. Raises `Missing`."""
    files = sorted(folder(data, "EmoGator", "data/mp3").glob("*.mp3"))
    parts = [path.stem.split("-") for path in files]
    return [Burst(path, int(who), int(label) - 1) for path, (who, label, _) in zip(files, parts, strict=True)]


def speech(data: Path) -> Iterator[Voice]:
    """Speech for training: Emo-DB and council meetings without the speakers kept for judging. Raises `Missing`."""
    yield from (voice for voice in _emodb(data) if not voice.person.endswith(_UNSEEN_EMODB))
    yield from (voice for voice in _council(data) if not voice.person.endswith(_UNSEEN_COUNCIL))


def unseen_speech(data: Path) -> Iterator[Voice]:
    """Speech of people, and mostly of data sets, that nothing was trained on. Raises `Missing`."""
    yield from (voice for voice in _emodb(data) if voice.person.endswith(_UNSEEN_EMODB))
    yield from (voice for voice in _council(data) if voice.person.endswith(_UNSEEN_COUNCIL))
    for path in sorted(folder(data, "EmoTale", "wav").glob("*.wav")):
        language, speaker, *_ = path.stem.split("_")
        yield Voice(f"emotale-{language}-{speaker}", decoded(path))
    for path in sorted(folder(data, "pocketsphinx").rglob("*.wav")):
        yield Voice(f"pocketsphinx-{path.parent.name}", decoded(path))
    for name in ("beckett", "endgame_nagg_nell"):
        yield Voice(
            f"moonshine-{name}", decoded(folder(data, "moonshine_voice") / f"moonshine_voice/assets/{name}.wav")
        )


def decoded(source: Path | bytes) -> Floats:
    """The audio of a file as mono samples at 16 kHz, -1..1."""
    pieces: list[npt.NDArray[np.int16]] = []
    resampler = av.AudioResampler("s16", "mono", RATE)
    with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source), "r") as container:
        for frame in (*container.decode(audio=0), None):
            pieces.extend(piece.to_ndarray()[0] for piece in resampler.resample(frame))
    samples = np.concatenate(pieces) if pieces else np.zeros(0, np.int16)
    return samples.astype(np.float32) / np.float32(32768)


def _emodb(data: Path) -> Iterator[Voice]:
    for path in sorted(folder(data, "emodb", "wav").glob("*.wav")):
        yield Voice(f"emodb-{path.name[:2]}", decoded(path))


def _council(data: Path) -> Iterator[Voice]:
    with zipfile.ZipFile(folder(data, "speakerbox") / "speakerbox/tests/data/diarized.zip") as archive:
        for name in sorted(archive.namelist()):
            if match := re.fullmatch(r"\w+/(\w+)/[^/]+\.wav", name):
                yield Voice(f"council-{match[1]}", decoded(archive.read(name)))


def folder(data: Path, name: str, below: str = "") -> Path:
    """The folder of a data set, or one below it. Raises `Missing`."""
    path = data / name / below
    if not path.is_dir():
        raise Missing(f"{path} is missing: see benchmarks/voices.py for where {name} comes from")
    return path
