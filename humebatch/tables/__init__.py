"""Predictions as tables: Arrow, and by it pandas, Polars, Parquet and CSV (extra: tables).

    from humebatch import tables

    faces = tables.face("predictions.json")      # or what Job.predictions() gave: a pyarrow.Table
    faces.to_pandas()                            # polars.from_arrow(faces), ...
    for batch in tables.batches("huge.json", "prosody"):
        ...                                      # record batches, in memory that does not grow
    tables.write_parquet("huge.json", "dataset") # dataset/face/part-00000.parquet, ...; write_csv likewise
    tables.read_artifacts("artifacts.zip")["face"]
    tables.timeline(source, step=0.5)            # all models side by side; speakers(), faces(), top_emotions()

Every table has one row per prediction and one column per score; `schema(model)` lists the columns.
"""

from __future__ import annotations

import pyarrow as pa

from .artifacts import read_artifacts
from .building import Predictions, batches, by_model, errors, table
from .columns import MODELS, schema
from .timelines import SUMMARY, TIMELINE, TOP_EMOTIONS, faces, speakers, timeline, top_emotions
from .writing import write_csv, write_parquet

__all__ = [
    "MODELS",
    "SUMMARY",
    "TIMELINE",
    "TOP_EMOTIONS",
    "Predictions",
    "batches",
    "burst",
    "by_model",
    "errors",
    "face",
    "facemesh",
    "faces",
    "language",
    "ner",
    "prosody",
    "read_artifacts",
    "schema",
    "speakers",
    "timeline",
    "top_emotions",
    "write_csv",
    "write_parquet",
]


def face(results: Predictions) -> pa.Table:
    """A row per face and frame: frame number, time in seconds, probability, box in pixels, and the scores."""
    return table(results, "face")


def prosody(results: Predictions) -> pa.Table:
    """A row per stretch of speech: text, begin and end in seconds, confidences, and the scores."""
    return table(results, "prosody")


def burst(results: Predictions) -> pa.Table:
    """A row per vocal burst: begin and end in seconds, and the scores."""
    return table(results, "burst")


def language(results: Predictions) -> pa.Table:
    """A row per stretch of text: text, position in characters, begin and end in seconds if spoken, and the scores."""
    return table(results, "language")


def ner(results: Predictions) -> pa.Table:
    """A row per named entity: what it is, where it stands, and the scores of the emotions about it."""
    return table(results, "ner")


def facemesh(results: Predictions) -> pa.Table:
    """A row per face mesh: the scores."""
    return table(results, "facemesh")
