"""What the measurer of language says about itself."""

from __future__ import annotations

from typing import Final

from .card import Card
from .language_heads import NAMES

__all__ = ["CARD"]

CARD: Final = Card(
    model="language",
    measurer="MiniLM and word counts with heads of GoEmotions",
    version="2",
    summary="What a text says.",
    names=NAMES,
)
