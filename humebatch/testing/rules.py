"""What every measurer must hold to, as plain functions of its card and of what it found."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from ..jobs import MODEL_NAMES
from ..predictions import (
    BurstPrediction,
    FacemeshPrediction,
    FacePrediction,
    LanguagePrediction,
    NerPrediction,
    ProsodyPrediction,
    TimeInterval,
    TranscriptionMetadata,
)
from ..server.measure import Attachment, Card, Merged, Note, Row
from ..server.measure.rows import ContractBroken, as_json
from ..vocabulary import SCORES

__all__ = ["RULES", "NonConforming", "Violation", "of_card", "of_findings"]

RULES: Final[dict[str, str]] = {
    "card": "its card says what it is, gives a reason for every name, and names its weights and their licences",
    "finds": "it finds something in one of the files at least, or nothing else can be checked",
    "findings": "it yields findings only: rows of its model's own kind, groups and attachments with plain names",
    "names": "its scores have names of the vocabulary, each once, and only those that its card gives",
    "finite": "its scores, times and confidences are finite numbers",
    "order": "times grow: no row begins before the one in front of it, or ends before it begins",
    "deterministic": "the same file gives the same findings",
    "cancelled": "closing it midway ends it, leaves no file open, and does not change what it finds afterwards",
    "together": "two of them that take turns find what each finds alone",
    "empty": "an empty file is Unmeasurable, with a sentence that says why",
    "damaged": "a damaged file is Unmeasurable, or measured up to the damage",
    "wrong_kind": "a file of another kind is Unmeasurable",
    "memory": "its memory does not grow with the length of the media",
}
"""Per rule its name, as `NonConforming` and `skip` use it, and what it asks for."""

_PREDICTIONS: Final[dict[str, type]] = {
    "face": FacePrediction, "burst": BurstPrediction, "prosody": ProsodyPrediction, "language": LanguagePrediction,
    "ner": NerPrediction, "facemesh": FacemeshPrediction,
}  # fmt: skip
_GROUP: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ATTACHMENT: Final = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9_=.-]{0,99}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SHOWN: Final = 3


class Violation(msgspec.Struct, frozen=True):
    """A rule of `RULES` that is broken, and what happened."""

    rule: str
    message: str


class NonConforming(AssertionError):
    """The measurer breaks rules; `violations` has one entry for each thing that is wrong."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        rules = dict.fromkeys(one.rule for one in violations)
        lines = [f"- {one.rule}: {one.message}" for one in violations]
        super().__init__("\n".join([f"the measurer breaks the rules {', '.join(rules)}", *lines]))


def of_card(card: object, model: str) -> list[Violation]:
    """What is wrong with the card of a measurer of `model`."""
    if not isinstance(card, Card):
        return [Violation("card", f"its card is a {type(card).__name__}, not a Card")]
    if model not in MODEL_NAMES:
        return [Violation("card", f"unknown model {model!r}: expected one of {', '.join(MODEL_NAMES)}")]
    return [Violation("card", message) for message in (*_about_itself(card, model), *_about_names(card, model))]


def _about_itself(card: Card, model: str) -> Iterator[str]:
    if card.model != model:
        yield f"it is about the model {card.model!r}, the measurer about {model!r}"
    for field in ("measurer", "version", "summary"):
        if not getattr(card, field).strip():
            yield f"{field} is empty"
    for weights in card.weights:
        if not _SHA256.fullmatch(weights.sha256) or not weights.licence.strip():
            yield f"the weights {weights.file!r} have no sha256 or no licence"


def _about_names(card: Card, model: str) -> Iterator[str]:
    if not card.names and not card.made_up:
        yield "it gives no names"
    names = [given.name for given in card.names]
    order = list(dict.fromkeys(itertools.chain(*SCORES[model].values())))
    for name in dict.fromkeys(names):
        if name not in order:
            yield f"{name!r} is not in the vocabulary of {model}"
        if names.count(name) > 1:
            yield f"{name!r} is given more than once"
    known = [order.index(name) for name in names if name in order]
    if known != sorted(known):
        yield "its names are not in the order of the vocabulary"
    for given in card.names:
        if given.kind not in ("measured", "derived") or not given.reason.strip() or not given.of.strip():
            yield f"{given.name!r} has no kind, no reason, or does not say what it is computed of"


def of_findings(findings: Iterable[object], card: Card, model: str) -> list[Violation]:
    """What is wrong with the findings in one file: of each kind of mistake a few examples."""
    reader = _Reader(card, model)
    wrong = dict.fromkeys(violation for finding in findings for violation in reader.read(finding))
    kept: list[Violation] = []
    for rule in dict.fromkeys(one.rule for one in wrong):
        # One mistake is mostly made in every row.
        kept += itertools.islice((one for one in wrong if one.rule == rule), _SHOWN)
    return kept


class _Reader:
    """Reads findings in order: some are right or wrong only after others."""

    def __init__(self, card: Card, model: str) -> None:
        self._card = card
        self._model = model
        self._groups: set[str] = set()
        self._merged = False
        self._last: tuple[str, float] | None = None

    def read(self, finding: object) -> Iterator[Violation]:
        """What is wrong with the next finding."""
        match finding:
            case Row():
                yield from self._row(finding)
            case Attachment(group, name, data):
                if not (_GROUP.fullmatch(group) and _ATTACHMENT.fullmatch(name) and isinstance(data, bytes)):
                    yield Violation("findings", f"the attachment {group!r}/{name!r} has no plain name, or no bytes")
            case Merged(group, into):
                self._merged = True
                if group == into or not {group, into} <= self._groups:
                    yield Violation("findings", f"{group!r} cannot be merged into {into!r}: expected two with rows")
                self._groups.discard(group)
            case Note(message):
                if not message.strip():
                    yield Violation("findings", "a note is empty")
            case TranscriptionMetadata():
                yield from _encodable(finding, "the metadata")
                yield from _numbers(finding)
            case _:
                yield Violation("findings", f"it yields a {type(finding).__name__}, which is no Finding")

    def _row(self, row: Row) -> Iterator[Violation]:
        if self._merged:
            yield Violation("findings", "it yields a row after groups were merged")
        self._groups.add(row.group)
        if not _GROUP.fullmatch(row.group):
            yield Violation("findings", f"the group {row.group!r} is not a plain name")
        expected = _PREDICTIONS[self._model]
        if type(row.prediction) is not expected:
            yield Violation("findings", f"a row is a {type(row.prediction).__name__}, not a {expected.__name__}")
            return
        yield from _encodable(row.prediction, "a row")
        yield from _scores(row.prediction, self._card, self._model)
        yield from _numbers(row.prediction)
        begin = _begin(row.prediction)
        if begin is not None:
            last, self._last = self._last, begin
            if last is not None and last[0] == begin[0] and begin[1] < last[1]:
                yield Violation("order", f"a row at {begin[0]} {begin[1]:g} follows one at {last[1]:g}")


def _encodable(value: msgspec.Struct, what: str) -> Iterator[Violation]:
    try:
        as_json(value)
    except (ContractBroken, TypeError, ValueError) as error:
        yield Violation("findings", f"{what} cannot be written: {error}")


def _scores(prediction: Any, card: Card, model: str) -> Iterator[Violation]:
    given = {one.name for one in card.names}
    for field, vocabulary in SCORES[model].items():
        scores = getattr(prediction, field) or ()
        names = [one.name for one in scores]
        for name in dict.fromkeys(names):
            if name not in vocabulary:
                yield Violation("names", f"{name!r} in {field} is not in the vocabulary of {model}")
            elif name not in given and not card.made_up:
                yield Violation("names", f"{name!r} in {field} is not among the names that the card gives")
            if names.count(name) > 1:
                yield Violation("names", f"{name!r} stands more than once in {field}")
        for one in scores:
            if not math.isfinite(one.score):
                yield Violation("finite", f"the score of {one.name!r} in {field} is {one.score}")


def _numbers(prediction: Any) -> Iterator[Violation]:
    for field in ("prob", "confidence", "speaker_confidence", "entity_confidence", "support"):
        value = getattr(prediction, field, None)
        if isinstance(value, float) and not math.isfinite(value):
            yield Violation("finite", f"{field} is {value}")
    time = getattr(prediction, "time", None)
    edges = [time.begin, time.end] if isinstance(time, TimeInterval) else [] if time is None else [time]
    if not all(map(math.isfinite, edges)):
        yield Violation("finite", f"a time is {edges}")
    elif edges and (edges[0] < 0 or edges[-1] < edges[0]):
        yield Violation("order", f"a row goes from {edges[0]:g} s to {edges[-1]:g} s")
    position = getattr(prediction, "position", None)
    if position is not None and not 0 <= position.begin <= position.end:
        yield Violation("order", f"a row goes from character {position.begin} to {position.end}")


def _begin(prediction: Any) -> tuple[str, float] | None:
    """Where a row begins: in time, else in the text."""
    time = getattr(prediction, "time", None)
    if isinstance(time, TimeInterval):
        return "second", time.begin
    if time is not None:
        return "second", time
    position = getattr(prediction, "position", None)
    return None if position is None else ("character", position.begin)
