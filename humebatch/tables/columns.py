"""The columns of every model's table, and where in a row they come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import pyarrow as pa

from ..errors import ConfigError
from ..vocabulary import (
    BURST_DESCRIPTIONS,
    EMOTIONS,
    FACE_DESCRIPTIONS,
    FACS,
    LANGUAGE_EMOTIONS,
    SENTIMENT,
    TOXICITY,
)

__all__ = ["FIELDS", "MODELS", "OTHER", "PLACE", "SCORES", "Field", "check_model", "schema"]


class Field(NamedTuple):
    """A column that holds no score. `path` is where in a row's struct its value is; any step may be None."""

    name: str
    type: pa.DataType
    path: str


_SPAN = (Field("begin", pa.float64(), "time.begin"), Field("end", pa.float64(), "time.end"))
_SURE = (
    Field("confidence", pa.float64(), "confidence"),
    Field("speaker_confidence", pa.float64(), "speaker_confidence"),
)
_POSITION = (
    Field("position_begin", pa.int64(), "position.begin"),
    Field("position_end", pa.int64(), "position.end"),
)

MODELS: Final[tuple[str, ...]] = ("face", "prosody", "burst", "language", "ner", "facemesh")
"""The models that have a table."""

PLACE: Final[tuple[tuple[str, pa.DataType], ...]] = (
    ("source", pa.string()),
    ("source_index", pa.int32()),
    ("file", pa.string()),
    ("file_type", pa.string()),
    ("id", pa.string()),
)
"""Where a row comes from: in every table, in front."""

FIELDS: Final[dict[str, tuple[Field, ...]]] = {
    "face": (
        Field("frame", pa.int64(), "frame"),
        Field("time", pa.float64(), "time"),
        Field("prob", pa.float64(), "prob"),
        *(Field(f"box_{side}", pa.float64(), f"box.{side}") for side in "xywh"),
    ),
    "prosody": (Field("text", pa.string(), "text"), *_SPAN, *_SURE),
    "burst": _SPAN,
    "language": (Field("text", pa.string(), "text"), *_POSITION, *_SPAN, *_SURE),
    "ner": (
        Field("entity", pa.string(), "entity"),
        *_POSITION,
        Field("entity_confidence", pa.float64(), "entity_confidence"),
        Field("support", pa.float64(), "support"),
        Field("uri", pa.string(), "uri"),
        Field("link_word", pa.string(), "link_word"),
        *_SPAN,
        *_SURE,
    ),
    "facemesh": (),
}

SCORES: Final[dict[str, dict[str, Sequence[str]]]] = {
    "face": {"emotions": EMOTIONS, "facs": FACS, "descriptions": FACE_DESCRIPTIONS},
    "prosody": {"emotions": EMOTIONS},
    "burst": {"emotions": EMOTIONS, "descriptions": BURST_DESCRIPTIONS},
    "language": {"emotions": LANGUAGE_EMOTIONS, "sentiment": SENTIMENT, "toxicity": TOXICITY},
    "ner": {"emotions": LANGUAGE_EMOTIONS},
    "facemesh": {"emotions": EMOTIONS},
}
"""Per model the fields that hold scores, and the names that have a column of their own."""

OTHER: Final = pa.field("other_scores", pa.map_(pa.string(), pa.float64()))
"""Scores of other names, as `field.name` (`emotions.Serenity`); null in rows that have none."""


def check_model(model: str) -> str:
    """`model` if it has a table. Raises `ConfigError`."""
    if model not in FIELDS:
        raise ConfigError(f"model: must be one of {', '.join(MODELS)}, not {model!r}", field="model")
    return model


def schema(model: str) -> pa.Schema:
    """The columns of a model's table, in order.

    `source` (the uploaded file's name, the URL, or "text") and `source_index` (its number in the answer), `file`
    and `file_type`, `id` (`face_0`, `spk_1`, …, `unknown`); the model's own columns (times in seconds, boxes in
    pixels, positions in characters); a column of float64 per score, named as in `humebatch.vocabulary` and in the
    order of the JSON, null where a row does not have it; and `other_scores`.
    """
    columns = [pa.field(name, kind) for name, kind in PLACE]
    columns += [pa.field(field.name, field.type) for field in FIELDS[check_model(model)]]
    columns += [pa.field(name, pa.float64()) for names in SCORES[model].values() for name in names]
    return pa.schema([*columns, OTHER])
