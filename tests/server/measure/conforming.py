"""Measurers that a child process can make: one that keeps every rule, and for each rule some that break it."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from humebatch.predictions import LanguagePrediction, NerPrediction, PositionInterval, Score, Scores
from humebatch.server.measure import Attachment, Card, Finding, Measurer, Merged, Note, Row, Unmeasurable
from humebatch.server.measure.card import Given, Weights
from humebatch.server.measure.recording import Recording

JOY = Given("Joy", "measured", "joy", "the same word")
CARD = Card(
    model="language",
    measurer="toy",
    version="1",
    summary="counts letters",
    weights=(Weights(file="toy.bin", source="toys 1.0", licence="MIT", sha256="0" * 64, size=1),),
    names=(Given("Anger", "measured", "anger", "the same word"), JOY),
)


def ours(model: str) -> Measurer:
    """A new measurer of ours."""
    found: Measurer = importlib.import_module(f"humebatch.server.measure.{model}").measurer(model)
    return found


class Good:
    """One row for each line of a text."""

    model = "language"
    card = CARD

    def measure(self, recording: Recording, _config: Any, /) -> Iterator[Finding]:
        if recording.media.file_type != "text":
            raise Unmeasurable(f"a {recording.media.file_type} is no text")
        at = 0
        with open(recording.media.path, encoding="utf-8") as file:
            try:
                for line in file:
                    recording.progress(0.0)
                    yield Row("unknown", self.prediction(line, at))
                    at += len(line)
            except UnicodeDecodeError:
                raise Unmeasurable("it is no text") from None
        if not at:
            raise Unmeasurable("the text is empty")

    def prediction(self, line: str, at: int) -> LanguagePrediction:
        score = line.count("a") / len(line)
        return LanguagePrediction(
            text=line,
            position=PositionInterval(at, at + len(line)),
            emotions=Scores([Score("Anger", score), Score("Joy", 1 - score)]),
        )


class Changed(Good):
    """A good one, whose findings `change` makes of the good ones."""

    def __init__(self, change: Callable[[Changed, Iterator[Finding], Recording], Iterator[Finding]]) -> None:
        self.change = change
        self.calls = 0

    def measure(self, recording: Recording, config: Any, /) -> Iterator[Finding]:
        self.calls += 1
        return self.change(self, super().measure(recording, config), recording)


class WithCard(Good):
    """A good one with another card."""

    def __init__(self, **changes: Any) -> None:
        self.card = msgspec.structs.replace(CARD, **changes)


class Scored(msgspec.Struct):
    """Every row has these scores."""

    scores: list[tuple[str, float]]

    def __call__(self, _self: Changed, findings: Iterator[Finding], _recording: Recording) -> Iterator[Finding]:
        scores = Scores([Score(*one) for one in self.scores])
        for finding in findings:
            assert isinstance(finding, Row)
            yield Row("unknown", msgspec.structs.replace(finding.prediction, emotions=scores))


class Then(msgspec.Struct):
    """The good findings, and then this one."""

    finding: Any

    def __call__(self, _self: Changed, findings: Iterator[Finding], _recording: Recording) -> Iterator[Finding]:
        yield from findings
        yield self.finding


def nothing(_self: Changed, _findings: Iterator[Finding], _recording: Recording) -> Iterator[Finding]:
    raise Unmeasurable("there is never anything to measure")
    yield


def good_then_raises(_self: Changed, findings: Iterator[Finding], _recording: Recording) -> Iterator[Finding]:
    yield from findings
    raise LookupError("no such thing")


def of_another_model(_self: Changed, findings: Iterator[Finding], _recording: Recording) -> Iterator[Finding]:
    for _ in findings:
        position = PositionInterval(0, 1)
        yield Row("unknown", NerPrediction("x", position, 1.0, 1.0, "", "", Scores([Score("Joy", 0.5)])))


def backwards(_self: Changed, findings: Iterator[Finding], _recording: Recording) -> Iterator[Finding]:
    yield from reversed(list(findings))
    for begin in (900, 100):
        yield Row("unknown", Good().prediction("a row", begin))


def inside_out(_self: Changed, findings: Iterator[Finding], _recording: Recording) -> Iterator[Finding]:
    yield from findings
    prediction = Good().prediction("a row", 5000)
    yield Row("unknown", msgspec.structs.replace(prediction, position=PositionInterval(5005, 5000)))


def dice(_self: Changed, findings: Iterator[Finding], _recording: Recording) -> Iterator[Finding]:
    yield from findings
    yield Note(f"{random.random()}")


def counts(self: Changed, findings: Iterator[Finding], _recording: Recording) -> Iterator[Finding]:
    yield from findings
    yield Note(f"call {self.calls}")


def goes_on(_self: Changed, findings: Iterator[Finding], _recording: Recording) -> Iterator[Finding]:
    for finding in findings:
        try:
            yield finding
        except GeneratorExit:
            yield finding


KEPT: list[Any] = []


def leaves_open(_self: Changed, findings: Iterator[Finding], recording: Recording) -> Iterator[Finding]:
    file = open(recording.media.path, "rb")  # noqa: SIM115 - that it stays open is the point
    KEPT.append(file)
    yield from findings
    file.close()


def remembers(self: Changed, findings: Iterator[Finding], _recording: Recording) -> Iterator[Finding]:
    """What was cut short comes first the next time."""
    if vars(self).get("rest"):
        yield Note("there is something left")
    self.rest = False  # type: ignore[attr-defined]
    try:
        yield from findings
    except GeneratorExit:
        self.rest = True  # type: ignore[attr-defined]
        raise


STATE: dict[str, str] = {}


def shares(_self: Changed, findings: Iterator[Finding], recording: Recording) -> Iterator[Finding]:
    """What one measurer works on stands in a variable of the module."""
    STATE["name"] = recording.media.name
    yield from findings
    yield Note(STATE["name"])


def silent_when_empty(_self: Changed, findings: Iterator[Finding], recording: Recording) -> Iterator[Finding]:
    if recording.media.name.startswith("empty"):
        return
    yield from findings


class Trips(msgspec.Struct):
    """Raises what no user should see, on files whose names begin like this."""

    beginning: str

    def __call__(self, _self: Changed, findings: Iterator[Finding], recording: Recording) -> Iterator[Finding]:
        if recording.media.name.startswith(self.beginning):
            raise KeyError("header")
        yield from findings


def speechless(_self: Changed, findings: Iterator[Finding], recording: Recording) -> Iterator[Finding]:
    if recording.media.name.startswith("damaged"):
        raise Unmeasurable("")
    yield from findings


def hoards(_self: Changed, findings: Iterator[Finding], recording: Recording) -> Iterator[Finding]:
    """Holds much for each row until its end."""
    held = []
    for finding in findings:
        held.append(bytearray(b"x" * 4096))
        yield finding


def dies(_self: Changed, findings: Iterator[Finding], recording: Recording) -> Iterator[Finding]:
    import os

    if recording.media.name.startswith("long-30"):
        os._exit(1)
    yield from findings


class NoFloat(float):
    """A number of a type that JSON has no way to write."""


PICTURE = Attachment("face_0", "../frame.png", b"")
STRANGERS = Merged("face_1", "face_0")
