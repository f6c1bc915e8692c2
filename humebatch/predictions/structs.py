"""What a finished job says, as structs: one `SourceResult` per file, URL or text list that was sent.

They follow the schemas of the Expression Measurement API v0, with two fields that real answers
carry beyond them (`Prediction.file_type`, `ResultError.model`). Unknown fields are ignored, unknown
names are kept, and every optional field may be absent or null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Generic, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from .scores import Score, Scores, scores

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
    "ProsodyPrediction",
    "ResultError",
    "Results",
    "Source",
    "SourceResult",
    "TimeInterval",
    "TranscriptionMetadata",
]


if TYPE_CHECKING:
    ScoreList = Scores
else:
    # msgspec decodes to plain lists only; `__post_init__` makes them `Scores`.
    ScoreList = list[Score]

# What fits the columns of tables.
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class BoundingBox(msgspec.Struct, gc=False):
    """A face's box in pixels of the image: `x`, `y` is the top left corner."""

    x: float
    y: float
    w: float
    h: float


class TimeInterval(msgspec.Struct, gc=False):
    """From `begin` to `end`, in seconds from the start of the media."""

    begin: float
    end: float


class PositionInterval(msgspec.Struct, gc=False):
    """Characters `begin` (inclusive) to `end` (exclusive) of the text, counted from zero."""

    begin: Int64
    end: Int64


class FacePrediction(msgspec.Struct, gc=False):
    """One face in one frame. `frame` counts the video's frames, `time` is in seconds, `prob` is 0..1."""

    frame: Int64
    time: float
    prob: float
    box: BoundingBox
    emotions: ScoreList
    facs: ScoreList | None = None
    descriptions: ScoreList | None = None

    def __post_init__(self) -> None:
        self.emotions = scores(self.emotions)
        if self.facs is not None:
            self.facs = scores(self.facs)
        if self.descriptions is not None:
            self.descriptions = scores(self.descriptions)


class ProsodyPrediction(msgspec.Struct, gc=False):
    """One stretch of speech. `text` is null when transcription is off.

    `acoustics`: plain properties of the voice by name (`pitch_hz`, `energy_db`, `arousal`, …); an extension of
    humebatch's own server, absent elsewhere, and without the names that could not be measured.
    """

    time: TimeInterval
    emotions: ScoreList
    text: str | None = None
    confidence: float | None = None
    speaker_confidence: float | None = None
    acoustics: dict[str, float] | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        self.emotions = scores(self.emotions)


class BurstPrediction(msgspec.Struct, gc=False):
    """One vocal burst (laugh, sigh, gasp…)."""

    time: TimeInterval
    emotions: ScoreList
    descriptions: ScoreList

    def __post_init__(self) -> None:
        self.emotions = scores(self.emotions)
        self.descriptions = scores(self.descriptions)


class LanguagePrediction(msgspec.Struct, gc=False):
    """One stretch of text. `sentiment` has the names "1" (negative) to "9" (positive)."""

    text: str
    position: PositionInterval
    emotions: ScoreList
    time: TimeInterval | None = None
    confidence: float | None = None
    speaker_confidence: float | None = None
    sentiment: ScoreList | None = None
    toxicity: ScoreList | None = None

    def __post_init__(self) -> None:
        self.emotions = scores(self.emotions)
        if self.sentiment is not None:
            self.sentiment = scores(self.sentiment)
        if self.toxicity is not None:
            self.toxicity = scores(self.toxicity)


class NerPrediction(msgspec.Struct, gc=False):
    """One named entity and the emotions about it."""

    entity: str
    position: PositionInterval
    entity_confidence: float
    support: float
    uri: str
    link_word: str
    emotions: ScoreList
    time: TimeInterval | None = None
    confidence: float | None = None
    speaker_confidence: float | None = None

    def __post_init__(self) -> None:
        self.emotions = scores(self.emotions)


class FacemeshPrediction(msgspec.Struct, gc=False):
    """One anonymised face mesh."""

    emotions: ScoreList

    def __post_init__(self) -> None:
        self.emotions = scores(self.emotions)


P = TypeVar("P")


class GroupedPredictions(msgspec.Struct, Generic[P], gc=False):
    """Predictions of one person: `id` is `face_0`, `spk_1`, …, or `unknown` without identification."""

    id: str
    predictions: list[P]


class TranscriptionMetadata(msgspec.Struct, gc=False):
    """How sure the transcription is of itself (0..1), and the language it heard (BCP-47)."""

    confidence: float
    detected_language: str | None = None


class ModelPredictions(msgspec.Struct, Generic[P], gc=False):
    """What one model found in one file. `metadata` is null unless the file was transcribed."""

    grouped_predictions: list[GroupedPredictions[P]]
    metadata: TranscriptionMetadata | None = None


class ModelsPredictions(msgspec.Struct, gc=False):
    """Per model what it found; a model that produced nothing is absent (or null, as some servers write it)."""

    face: ModelPredictions[FacePrediction] | UnsetType | None = UNSET
    burst: ModelPredictions[BurstPrediction] | UnsetType | None = UNSET
    prosody: ModelPredictions[ProsodyPrediction] | UnsetType | None = UNSET
    language: ModelPredictions[LanguagePrediction] | UnsetType | None = UNSET
    ner: ModelPredictions[NerPrediction] | UnsetType | None = UNSET
    facemesh: ModelPredictions[FacemeshPrediction] | UnsetType | None = UNSET


class Prediction(msgspec.Struct, gc=False):
    """One file of a source. `file` is its path inside the source; for text it is "1", "2", …

    `file_type` is `image`, `video`, `video_no_audio`, `audio` or `text`; outputs from before mid-2023
    lack it. It is not in the published schema; real answers carry it.
    """

    file: str
    models: ModelsPredictions
    file_type: str | None = None


class ResultError(msgspec.Struct, gc=False):
    """Why a file of the source, or one model on it, could not be measured."""

    message: str
    file: str
    model: str | None = None


class Results(msgspec.Struct, gc=False):
    """Predictions and errors of one source."""

    predictions: list[Prediction]
    errors: list[ResultError]


class Source(msgspec.Struct, gc=False):
    """Where a result comes from: `type` is `url` (with `url`), `file` (with the names and md5) or `text`.

    `filename` and `content_type` echo what the upload said; `content_type` is null if it said nothing.
    """

    type: str
    url: str | UnsetType | None = UNSET
    filename: str | UnsetType | None = UNSET
    content_type: str | UnsetType | None = UNSET
    md5sum: str | UnsetType | None = UNSET


class MeasuredBy(msgspec.Struct, gc=False):
    """Where the numbers of one model come from; an extension of humebatch's own server.

    `measurer`, `version`, `summary`: what measured. `licence`: of its weights. `accuracy`: one sentence per figure,
    with its data set. `made_up`: the scores are invented, for tests. `unmeasured`: `absent`, or `zero` where the
    server writes 0.0 for names that were not measured.
    """

    measurer: str
    version: str
    summary: str = ""
    licence: str = ""
    accuracy: list[str] = []
    made_up: bool = False
    unmeasured: str = "absent"


class SourceResult(msgspec.Struct, gc=False):
    """One source's result. `error` says why the whole source could not be read; `results` is empty or None then.

    `measured_by`: per model where its numbers come from; only humebatch's own server says so.
    """

    source: Source
    results: Results | None = None
    error: str | None = None
    measured_by: dict[str, MeasuredBy] | UnsetType | None = UNSET
