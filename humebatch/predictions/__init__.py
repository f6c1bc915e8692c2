"""What a finished job says: structs of every model, decoding, and reading of what is larger than memory.

results = predictions.decode(data)                     # list[SourceResult], all of it
with predictions.read("predictions.json") as sources:  # source by source, row by row
    for source in sources:
        for file in source:
            for person, face in file.rows("face"):
                face.emotions["Joy"], face.emotions.top(5)
"""

from __future__ import annotations

from .reading import PredictionReader, PredictionsReader, SourceReader, decode, read
from .scores import Score, Scores
from .structs import (
    BoundingBox,
    BurstPrediction,
    FacemeshPrediction,
    FacePrediction,
    GroupedPredictions,
    LanguagePrediction,
    MeasuredBy,
    ModelPredictions,
    ModelsPredictions,
    NerPrediction,
    PositionInterval,
    Prediction,
    ProsodyPrediction,
    ResultError,
    Results,
    Source,
    SourceResult,
    TimeInterval,
    TranscriptionMetadata,
)

__all__ = [
    "BoundingBox",
    "BurstPrediction",
    "FacePrediction",
    "FacemeshPrediction",
    "GroupedPredictions",
    "LanguagePrediction",
    "MeasuredBy",
    "ModelPredictions",
    "ModelsPredictions",
    "NerPrediction",
    "PositionInterval",
    "Prediction",
    "PredictionReader",
    "PredictionsReader",
    "ProsodyPrediction",
    "ResultError",
    "Results",
    "Score",
    "Scores",
    "Source",
    "SourceReader",
    "SourceResult",
    "TimeInterval",
    "TranscriptionMetadata",
    "decode",
    "read",
]
