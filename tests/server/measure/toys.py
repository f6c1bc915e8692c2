"""Measurers as a third party would write them, for tests: each does one thing that real ones do, or must not do."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from humebatch.predictions import BurstPrediction, Score, Scores, TimeInterval
from humebatch.server.measure import Attachment, Finding, Merged, Note, Row
from humebatch.server.measure.card import Card, Figure, Given, Weights
from humebatch.server.measure.recording import Recording, TranscriptRejected

CARD = Card(
    model="burst",
    measurer="toy",
    version="7",
    summary="a toy",
    weights=(Weights(file="toy.bin", source="toys 1.0", licence="MIT", sha256="0" * 64, size=1),),
    names=(Given("Joy", "measured", "joy", "the same word"),),
    figures=(Figure(what="AUC", value=".5", data="coin", command="toss"),),
)


def row(second: float, score: float = 0.5) -> BurstPrediction:
    return BurstPrediction(TimeInterval(second, second + 1), Scores([Score("Joy", score)]), Scores())


class Toy:
    """Runs `behaviour`, which is what stands behind the colon of `--measure burst=toy:…`."""

    model = "burst"
    card = CARD

    def __init__(self, behaviour: str) -> None:
        self._behaviour, _, self._argument = behaviour.partition("=")

    def measure(self, recording: Recording, _config: Any, /) -> Iterator[Finding]:
        yield from getattr(self, self._behaviour)(recording)

    def crashes(self, _recording: Recording) -> Iterator[Finding]:
        yield Row("unknown", row(0))
        os.abort()

    def crashes_on_bad(self, recording: Recording) -> Iterator[Finding]:
        if b"bad" in Path(recording.media.path).read_bytes():
            os.abort()
        yield Row("unknown", row(0))

    def hangs(self, _recording: Recording) -> Iterator[Finding]:
        yield Row("unknown", row(0))
        time.sleep(3600)

    def raises(self, _recording: Recording) -> Iterator[Finding]:
        yield Row("unknown", row(0))
        raise LookupError("no such thing")

    def not_a_number(self, _recording: Recording) -> Iterator[Finding]:
        yield Row("unknown", row(0, float("nan")))

    def no_time(self, _recording: Recording) -> Iterator[Finding]:
        yield Row("unknown", row(float("nan")))

    def prints(self, _recording: Recording) -> Iterator[Finding]:
        print("a library that talks on stdout")  # noqa: T201
        os.write(1, b"and one that goes round Python\n")
        yield Row("unknown", row(0))

    def people(self, _recording: Recording) -> Iterator[Finding]:
        for second, who in enumerate(["face_0", "face_1", "face_0", "face_2", "face_1"]):
            yield Row(who, row(second))
            yield Attachment(who, f"frame={second}.png", f"picture {second}".encode())
        yield Merged("face_2", "face_0")
        yield Note("two of them were one person")

    def escapes(self, _recording: Recording) -> Iterator[Finding]:
        yield Attachment("..", "frame=0.png", b"")

    def talks(self, _recording: Recording) -> Iterator[Finding]:
        yield Row("unknown", row(0))
        yield Note("more than a line may hold " * 200_000)

    def reaches_nothing(self, recording: Recording) -> Iterator[Finding]:
        recording.progress(float("nan"))
        yield Row("unknown", row(0))

    def rejects(self, _recording: Recording) -> Iterator[Finding]:
        """Notes in the file `argument` how often it was asked."""
        with Path(self._argument).open("a") as asked:
            asked.write("asked\n")
        raise TranscriptRejected("not sure enough")
        yield  # makes this a generator

    def secrets(self, _recording: Recording) -> Iterator[Finding]:
        yield Note(" ".join(name for name in os.environ if "KEY" in name or "SECRET" in name) or "none")

    def meets(self, _recording: Recording) -> Iterator[Finding]:
        """Ends only when as many of it are at work at once as there are files in the folder `argument`, plus one."""
        folder = Path(self._argument)
        (folder / f"{os.getpid()}").touch()
        while len(list(folder.iterdir())) < 2:
            time.sleep(0.01)
        yield Row("unknown", row(0))

    def waits(self, _recording: Recording) -> Iterator[Finding]:
        """Ends when the file `argument` exists, unless the file to measure is called first."""
        if not _recording.media.name.startswith("first"):
            while not Path(self._argument).exists():
                time.sleep(0.01)
        yield Row("unknown", row(0))


class FaceToy:
    """Saves a face, and dies."""

    model = "face"
    card = msgspec.structs.replace(CARD, model="face")

    def measure(self, _recording: Recording, _config: Any, /) -> Iterator[Finding]:
        yield Attachment("face_0", "frame=0.png", b"picture")
        os.abort()


def toy(behaviour: str) -> Toy:
    return Toy(behaviour)


def face_toy() -> FaceToy:
    return FaceToy()
