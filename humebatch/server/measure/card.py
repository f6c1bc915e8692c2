"""What a measurer says about itself: its models, weights, licences, the names it gives and how good they are.

A `Card` is data that stands in the measurer's module. `humebatch models`, `GET /v0/models`, the answers and the
report all print it, so that every number on a screen can be traced to a model, a licence and an accuracy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from ...vocabulary import SCORES

__all__ = ["Card", "Catalogue", "Entry", "Figure", "Given", "Weights", "catalogue"]


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """One weights file. `source`: the package and version that carries it, or how it was trained."""

    file: str
    source: str
    licence: str
    sha256: str
    size: int


class Given(msgspec.Struct, frozen=True):
    """One name of the API's vocabulary that the measurer gives.

    `kind`: `measured` when a model was trained for exactly this meaning, `derived` when it is computed from something
    else that was measured. `of`: the model's own class or quantity. `reason`: why the name fits.
    """

    name: str
    kind: Literal["measured", "derived"]
    of: str
    reason: str


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured figure. `data`: the data set and which part of it; `command`: what prints the figure again."""

    what: str
    value: str
    data: str
    command: str


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a reader needs to judge the numbers of one measurer.

    `model`: model of the API. `measurer`, `version`: its own name and version. `summary`: one sentence.
    `names`: every score name it can give, in vocabulary order. `limits`: what it cannot do, one sentence each.
    `made_up`: its scores are invented, for tests of programs.
    """

    model: str
    measurer: str
    version: str
    summary: str
    weights: tuple[Weights, ...] = ()
    names: tuple[Given, ...] = ()
    figures: tuple[Figure, ...] = ()
    speed: str = ""
    limits: tuple[str, ...] = ()
    made_up: bool = False


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One model of the API on this server: its card, or why it cannot be measured.

    `absent`: per field of its predictions the names that nobody measures here.
    """

    card: Card | None = None
    missing: str | None = None
    absent: dict[str, list[str]]


class Catalogue(msgspec.Struct, frozen=True, kw_only=True):
    """What `humebatch models` and `GET /v0/models` show. `measure`, `unmeasured`: as the server was started.

    `shared`: what several models build on, `transcription` and `speakers`.
    """

    measure: str
    unmeasured: str
    models: dict[str, Entry]
    shared: dict[str, Card] = {}


def catalogue(cards: Iterable[Card], missing: Mapping[str, str], *, measure: str, unmeasured: str) -> Catalogue:
    """All models of the API: those with a card, and those of `missing` (model → reason)."""
    by_model = {card.model: card for card in cards}
    entries = {}
    for model, fields in SCORES.items():
        card = by_model.get(model)
        given = {one.name for one in card.names} if card else set[str]()
        absent = {field: [name for name in names if name not in given] for field, names in fields.items()}
        entries[model] = Entry(card=card, missing=missing.get(model), absent=absent)
    shared = {name: card for name, card in by_model.items() if name not in SCORES}
    return Catalogue(measure=measure, unmeasured=unmeasured, models=entries, shared=shared)
