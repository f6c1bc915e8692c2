"""What a measurer says about itself: its models, weights, licences, the names it gives and how good they are.

A `Card` is data that stands in the measurer's module. `humebatch models`, `GET /v0/models`, the answers and the
report all print it, so that every number on a screen can be traced to a model, a licence and an accuracy.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Card", "Figure", "Given", "Weights"]


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
