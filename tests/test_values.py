"""Floor 0: structs that follow the published schemas, checks before any I/O, and exceptions that keep their facts."""

from __future__ import annotations

import copy
import inspect
import json
import logging
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

import humebatch as hb
from humebatch import config, errors, jobs, predictions
from humebatch._wire import codec
from humebatch._wire.batch import RequestBody, submit_request
from humebatch.config import Secret

SCHEMAS: dict[str, Any] = json.loads(Path(__file__).with_name("schemas.json").read_text())["schemas"]

# Which struct of ours stands for which schema. Score is one struct for five schemas with equal fields.
STRUCTS: dict[str, type[msgspec.Struct]] = {
    "ModelsFace": hb.Face,
    "ModelsBurst": hb.Burst,
    "ProsodyWindow": hb.ProsodyWindow,
    "ModelsProsody": hb.Prosody,
    "ModelsLanguage": hb.Language,
    "ModelsNer": hb.Ner,
    "ModelsFacemesh": hb.Facemesh,
    "InferenceRequestModels": hb.Models,
    "InferenceBaseRequestModels": hb.Models,
    "InferenceRequestTranscription": hb.Transcription,
    "InferenceBaseRequestTranscription": hb.Transcription,
    "InferenceBaseRequest": RequestBody,
    "V0BatchJobsPostRequestBodyContentMultipartFormDataSchemaJson": RequestBody,
    "File": jobs.File,
    "InferenceRequest": jobs.InferenceRequest,
    "State<Inference>": hb.State,
    "UnionJob_Job<Inference>": hb.JobDetails,
    "UnionJob": hb.JobDetails,
    "JobId": jobs.JobId,
    "Source": predictions.Source,
    "BoundingBox": predictions.BoundingBox,
    "EmotionScore": predictions.Score,
    "FacsScore": predictions.Score,
    "DescriptionsScore": predictions.Score,
    "SentimentScore": predictions.Score,
    "ToxicityScore": predictions.Score,
    "TimeInterval": predictions.TimeInterval,
    "PositionInterval": predictions.PositionInterval,
    "TranscriptionMetadata": predictions.TranscriptionMetadata,
    "FacePrediction": predictions.FacePrediction,
    "BurstPrediction": predictions.BurstPrediction,
    "ProsodyPrediction": predictions.ProsodyPrediction,
    "LanguagePrediction": predictions.LanguagePrediction,
    "NerPrediction": predictions.NerPrediction,
    "FacemeshPrediction": predictions.FacemeshPrediction,
    **{
        f"GroupedPredictions<{model}Prediction>": predictions.GroupedPredictions
        for model in ("Face", "Burst", "Prosody", "Language", "Ner", "Facemesh")
    },
    **{
        f"ModelsPredictions{model}": predictions.ModelPredictions
        for model in ("Face", "Burst", "Prosody", "Language", "Ner", "Facemesh")
    },
    "ModelsPredictions": predictions.ModelsPredictions,
    "InferencePrediction": predictions.Prediction,
    "Error": predictions.ResultError,
    "InferenceResults": predictions.Results,
    "InferenceSourcePredictResult": predictions.SourceResult,
    "UnionPredictResult": predictions.SourceResult,
}
# Schemas without fields of their own: enums whose values the document does not list, switches, null.
NO_STRUCT = {
    "FaceFacs", "FaceDescriptions", "LanguageSentiment", "LanguageToxicity", "Null",
    "ProsodyGranularity", "LanguageGranularity", "TranscriptionLanguage", "TranscriptionMetadataDetectedLanguage",
    "V0BatchJobsGetParametersWhen", "V0BatchJobsGetParametersSortBy", "V0BatchJobsGetParametersDirection",
}  # fmt: skip
# Seen in real answers and in older versions of the API, or said by our own server only; not in the document.
BEYOND: dict[type[msgspec.Struct], set[str]] = {
    predictions.Prediction: {"file_type"},
    predictions.ResultError: {"model"},
    hb.JobDetails: {"user_id"},
    predictions.ProsodyPrediction: {"acoustics"},
    predictions.SourceResult: {"measured_by"},
    hb.State: {"files_done"},
}


def fields_of(schema: dict[str, Any]) -> tuple[set[str], set[str]]:
    """All fields, and those that every variant requires."""
    if "same_as" in schema:
        return fields_of(SCHEMAS[schema["same_as"]])
    variants = list(schema.get("variants", {"": schema}).values())
    everything = set().union(*(variant["fields"] for variant in variants))
    required = set.intersection(*(set(variant["required"]) for variant in variants))
    return everything, required


@pytest.mark.parametrize("title", [name for name in SCHEMAS if name not in NO_STRUCT and name != "Status"])
def test_every_schema_has_its_struct_with_its_fields(title: str) -> None:
    struct = STRUCTS[title]
    spec, required = fields_of(SCHEMAS[title])
    assert set(struct.__struct_encode_fields__) - BEYOND.get(struct, set()) == spec
    ours = {field.encode_name for field in msgspec.structs.fields(struct) if field.required}
    # `type` is required there; jobs from before it existed are read all the same.
    assert ours == required - ({"type"} if struct is hb.JobDetails else set())


def test_schemas_without_a_struct_have_no_fields() -> None:
    assert [name for name in NO_STRUCT if SCHEMAS[name]["fields"]] == []
    assert set(STRUCTS) | NO_STRUCT | {"Status"} == set(SCHEMAS)


def test_status_has_the_four_values_of_the_document() -> None:
    assert [status.value for status in hb.Status] == SCHEMAS["Status"]["enum"]


# ── absent, null and {} ──────────────────────────────────────────────────────────────────────────


def three_ways(*values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.just(UNSET), st.none(), *values)


FLAG = three_ways(st.booleans())
SWITCH = three_ways(st.just({}), st.dictionaries(st.text(max_size=5), st.integers(0, 9), max_size=2))
SHARE = three_ways(st.floats(0, 1))
GRANULARITY = three_ways(st.sampled_from(jobs.GRANULARITIES))
SECONDS = three_ways(st.floats(0.5, 1e6))

FACE = st.builds(
    hb.Face,
    fps_pred=three_ways(st.floats(0, 1000)),
    prob_threshold=SHARE,
    identify_faces=FLAG,
    min_face_size=three_ways(st.integers(0, 2**64 - 1)),
    facs=SWITCH,
    descriptions=SWITCH,
    save_faces=FLAG,
)
WINDOW = st.builds(hb.ProsodyWindow, length=SECONDS, step=SECONDS)
PROSODY = st.builds(hb.Prosody, granularity=GRANULARITY, identify_speakers=FLAG, window=three_ways(WINDOW))
LANGUAGE = st.builds(hb.Language, granularity=GRANULARITY, sentiment=SWITCH, toxicity=SWITCH, identify_speakers=FLAG)
MODELS = st.builds(
    hb.Models,
    face=three_ways(FACE),
    burst=three_ways(st.just(hb.Burst())),
    prosody=three_ways(PROSODY),
    language=three_ways(LANGUAGE),
    ner=three_ways(st.builds(hb.Ner, identify_speakers=FLAG)),
    facemesh=three_ways(st.just(hb.Facemesh())),
)
TRANSCRIPTION = st.builds(
    hb.Transcription,
    language=three_ways(st.sampled_from(jobs.LANGUAGES)),
    identify_speakers=FLAG,
    confidence_threshold=SHARE,
)
URL = st.from_regex(r"https?://[a-z]{1,8}\.example/[a-z0-9/]{0,10}", fullmatch=True)
BODY = st.builds(
    RequestBody,
    models=three_ways(MODELS),
    transcription=three_ways(TRANSCRIPTION),
    urls=three_ways(st.lists(URL, max_size=3)),
    text=three_ways(st.lists(st.text(), max_size=3)),
    callback_url=three_ways(URL),
    notify=FLAG,
)


@given(BODY)
def test_absent_null_and_empty_stay_three_things_on_the_wire(body: RequestBody) -> None:
    encoded = codec.encode(body)
    assert msgspec.json.decode(encoded, type=RequestBody) == body
    raw = json.loads(encoded)
    for name in body.__struct_fields__:
        value = getattr(body, name)
        assert (name in raw) == (value is not UNSET)
        assert (raw.get(name, ...) is None) == (value is None)


@given(three_ways(MODELS), three_ways(TRANSCRIPTION))
def test_a_submission_says_what_it_was_given(models: Any, transcription: Any) -> None:
    submission = hb.Submission(text=["hello"], models=models, transcription=transcription)
    request = submit_request(submission)
    assert request.body is not None
    sent = msgspec.json.decode(b"".join(part for part in request.body.parts if isinstance(part, bytes)))
    expected: dict[str, Any] = {"text": ["hello"]}
    if models is not UNSET and models is not None:  # None is our word for all models, which is absence there
        expected["models"] = msgspec.to_builtins(models)
    if transcription is not UNSET:
        expected["transcription"] = msgspec.to_builtins(transcription)
    assert sent == expected


def test_transcription_off_is_a_null_and_left_out_is_nothing() -> None:
    def sent(**more: Any) -> bytes:
        body = submit_request(hb.Submission(text=["x"], **more)).body
        assert body is not None
        return b"".join(part for part in body.parts if isinstance(part, bytes))

    assert sent() == b'{"text":["x"]}'
    assert sent(transcription=None) == b'{"transcription":null,"text":["x"]}'
    assert sent(transcription=hb.Transcription()) == b'{"transcription":{},"text":["x"]}'


# ── tolerance ────────────────────────────────────────────────────────────────────────────────────

SCORES = [{"name": "Joy", "score": 0.5}, {"name": "A name of 2031", "score": 1}]
SPEECH = {"confidence": 0.9, "speaker_confidence": None, "time": {"begin": 0, "end": 1.5}}


def model(rows: list[dict[str, Any]], metadata: Any = None) -> dict[str, Any]:
    return {"metadata": metadata, "grouped_predictions": [{"id": "unknown", "predictions": rows}]}


FULL_PREDICTIONS: list[dict[str, Any]] = [
    {
        "source": {"type": "file", "filename": "a.mp4", "content_type": None, "md5sum": "0" * 32, "url": None},
        "results": {
            "predictions": [
                {
                    "file": "a.mp4",
                    "file_type": "video",
                    "models": {
                        "face": model(
                            [
                                {
                                    "frame": 0, "time": 0, "prob": 1, "box": {"x": 1, "y": 2, "w": 3, "h": 4.5},
                                    "emotions": SCORES, "facs": SCORES, "descriptions": None,
                                }
                            ]
                        ),
                        "burst": model([{"time": {"begin": 0, "end": 1}, "emotions": SCORES, "descriptions": SCORES}]),
                        "prosody": model(
                            [{"text": None, "emotions": SCORES, **SPEECH}],
                            {"confidence": 1, "detected_language": "xx-unknown"},
                        ),
                        "language": model(
                            [
                                {
                                    "text": "hi", "position": {"begin": 0, "end": 2}, "emotions": SCORES,
                                    "sentiment": SCORES, "toxicity": None, **SPEECH,
                                }
                            ],
                            {"confidence": 0.5, "detected_language": None},
                        ),
                        "ner": model(
                            [
                                {
                                    "entity": "Oslo", "position": {"begin": 0, "end": 4}, "entity_confidence": 1,
                                    "support": 3, "uri": "", "link_word": "Oslo", "emotions": SCORES, **SPEECH,
                                }
                            ]
                        ),
                        "facemesh": model([{"emotions": SCORES}]),
                    },
                }
            ],
            "errors": [{"file": "b.wav", "model": None, "message": "unable to transcribe file"}],
        },
        "error": None,
    },
    {"source": {"type": "url", "url": "https://a.example/b.zip"}, "results": None, "error": "no such host"},
    {"source": {"type": "text"}, "results": {"predictions": [], "errors": []}},
]  # fmt: skip
FULL_JOB: dict[str, Any] = {
    "type": "INFERENCE",
    "job_id": "11111111-2222-4333-8444-555555555555",
    "user_id": None,
    "request": {
        "callback_url": None,
        "files": [{"filename": None, "content_type": None, "md5sum": "0" * 32}],
        "models": {
            "face": {
                "fps_pred": 3, "prob_threshold": 0.9900000095367432, "identify_faces": False, "min_face_size": 60.0,
                "facs": {}, "descriptions": None, "save_faces": False,
            },
            "burst": None,
            "prosody": {"granularity": "paragraph", "identify_speakers": False, "window": {"length": 4, "step": 1}},
            "language": {"granularity": "word", "identify_speakers": None, "sentiment": {}, "toxicity": None},
            "ner": {"identify_speakers": True},
            "facemesh": {},
        },
        "transcription": {"language": "tlh", "identify_speakers": False, "confidence_threshold": 1},
        "notify": True,
        "text": None,
        "urls": [],
    },
    "state": {
        "status": "PAUSED",
        "created_timestamp_ms": 1,
        "started_timestamp_ms": None,
        "ended_timestamp_ms": None,
        "num_predictions": None,
        "num_errors": 0,
        "message": None,
    },
}  # fmt: skip


def decoded_predictions(payload: Any) -> list[predictions.SourceResult]:
    return codec.decode_predictions(json.dumps(payload).encode())


def objects_in(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from objects_in(one)


JSON_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=5,
)
# No field of ours begins like this, whatever else is drawn.
NEW_FIELDS = st.dictionaries(st.text(max_size=6).map("new_".__add__), JSON_VALUE, min_size=1, max_size=2)


@given(NEW_FIELDS, st.booleans())
def test_fields_of_tomorrow_change_nothing_at_any_level(new: dict[str, Any], in_front: bool) -> None:
    for original, decode in ((FULL_PREDICTIONS, codec.decode_predictions), (FULL_JOB, codec.decode_job)):
        grown = copy.deepcopy(original)
        for place in list(objects_in(grown)):
            if not place:
                continue  # a map of the API that means whatever is in it (facs, sentiment)
            known = dict(place)
            place.clear()
            place.update({**new, **known} if in_front else {**known, **new})
        assert decode(json.dumps(grown).encode()) == decode(json.dumps(original).encode())


def test_predictions_keep_what_the_schema_does_not_know() -> None:
    first, second, third = decoded_predictions(FULL_PREDICTIONS)
    assert first.results is not None
    found = first.results.predictions[0].models
    assert all(getattr(found, name) for name in jobs.MODEL_NAMES)
    assert found.face
    face = found.face.grouped_predictions[0].predictions[0]
    assert (face.time, face.prob, face.box.x) == (0.0, 1.0, 1.0)
    assert isinstance(face.time, float)
    assert face.emotions[1].name == "A name of 2031"
    assert face.descriptions is None
    assert (second.error, second.results) == ("no such host", None)
    assert third.source.url is UNSET


@given(st.text(max_size=20))
def test_an_unknown_status_or_source_type_is_kept_and_is_not_an_end(word: str) -> None:
    job = copy.deepcopy(FULL_JOB)
    job["state"]["status"] = word
    details = codec.decode_job(json.dumps(job).encode())
    assert details.state.status == word
    assert details.state.finished == (word in ("COMPLETED", "FAILED"))
    sources = copy.deepcopy(FULL_PREDICTIONS)
    sources[0]["source"]["type"] = word
    assert decoded_predictions(sources)[0].source.type == word


def optional_fields(struct: type[msgspec.Struct]) -> list[str]:
    hints = get_type_hints(struct)
    return [field.name for field in msgspec.structs.fields(struct) if type(None) in get_args(hints[field.name])]


@pytest.mark.parametrize(
    "struct",
    [*dict.fromkeys(STRUCTS.values())],
    ids=lambda struct: struct.__name__,
)
def test_every_field_that_is_not_required_takes_a_null(struct: type[msgspec.Struct]) -> None:
    optional = {field.name for field in msgspec.structs.fields(struct) if not field.required}
    # The only one that always has a value: jobs that lack it are of this type.
    assert optional - set(optional_fields(struct)) == ({"type"} if struct is hb.JobDetails else set())


@given(st.data())
def test_optional_fields_of_an_answer_may_be_missing(data: st.DataObject) -> None:
    payload = copy.deepcopy(FULL_PREDICTIONS)
    optional = set().union(*(optional_fields(struct) for struct in set(STRUCTS.values())))
    required = {"source", "type", "predictions", "errors", "grouped_predictions", "emotions", "position", "models"}
    required |= {"file", "message", "text", "time", "descriptions", "confidence", "url"}
    for place in objects_in(payload):
        for name in sorted((optional - required) & set(place)):
            if data.draw(st.booleans()):
                del place[name]
    assert len(decoded_predictions(payload)) == 3


# ── ranges and enums ─────────────────────────────────────────────────────────────────────────────


def with_face(**face: Any) -> dict[str, Any]:
    return {"models": hb.Models(face=hb.Face(**face))}


def with_prosody(**prosody: Any) -> dict[str, Any]:
    return {"models": hb.Models(prosody=hb.Prosody(**prosody))}


def with_window(**window: Any) -> dict[str, Any]:
    return with_prosody(window=hb.ProsodyWindow(**window))


def with_language(**language: Any) -> dict[str, Any]:
    return {"models": hb.Models(language=hb.Language(**language))}


def with_ner(**ner: Any) -> dict[str, Any]:
    return {"models": hb.Models(ner=hb.Ner(**ner))}


def with_transcription(**transcription: Any) -> dict[str, Any]:
    return {"transcription": hb.Transcription(**transcription)}


NOT_NUMBERS: list[Any] = [float("nan"), float("inf"), float("-inf"), True, "1", b"1", [], {}, 10**400]
NUMBERS: list[tuple[str, Callable[..., dict[str, Any]], list[Any], list[Any]]] = [
    ("models.face.fps_pred", with_face, [0, 0.5, 3, 3.0, 240], [-0.001, -1]),
    ("models.face.prob_threshold", with_face, [0, 1, 0.0, 1.0, 0.99], [-1e-9, 1.0000001, 2]),
    ("models.face.min_face_size", with_face, [0, 60, 60.0, 2**64 - 1], [-1, 60.5, 2**64]),
    ("models.prosody.window.length", with_window, [0.5, 4, 1e6], [0.499, 0, -4]),
    ("models.prosody.window.step", with_window, [0.5, 1, 1e6], [0.499, 0, -1]),
    ("transcription.confidence_threshold", with_transcription, [0, 0.5, 1], [-0.1, 1.1]),
]
FLAGS: list[tuple[str, Callable[..., dict[str, Any]]]] = [
    ("models.face.identify_faces", with_face),
    ("models.face.save_faces", with_face),
    ("models.prosody.identify_speakers", with_prosody),
    ("models.language.identify_speakers", with_language),
    ("models.ner.identify_speakers", with_ner),
    ("transcription.identify_speakers", with_transcription),
    ("notify", dict),
]
SWITCHES: list[tuple[str, Callable[..., dict[str, Any]]]] = [
    ("models.face.facs", with_face),
    ("models.face.descriptions", with_face),
    ("models.language.sentiment", with_language),
    ("models.language.toxicity", with_language),
]
SPOKEN = """
    zh da nl en en-AU en-IN en-NZ en-GB fr fr-CA de hi hi-Latn id it ja ko no pl pt pt-BR pt-PT ru es es-419 sv ta tr uk
"""
ENUMS: list[tuple[str, Callable[..., dict[str, Any]], tuple[str, ...]]] = [
    ("models.prosody.granularity", with_prosody, ("word", "sentence", "utterance", "conversational_turn")),
    ("models.language.granularity", with_language, ("word", "sentence", "utterance", "conversational_turn")),
    (
        "transcription.language",
        with_transcription,
        tuple(SPOKEN.split()),
    ),
]

ACCEPTED: list[tuple[str, dict[str, Any]]] = []
REFUSED: list[tuple[str, dict[str, Any]]] = []


def tabulate(field: str, make: Callable[..., dict[str, Any]], good: Sequence[Any], bad: Sequence[Any]) -> None:
    name = field.rpartition(".")[2]
    ACCEPTED.extend((field, make(**{name: value})) for value in (*good, None, UNSET))
    REFUSED.extend((field, make(**{name: value})) for value in bad)


def with_models(**models: Any) -> dict[str, Any]:
    return {"models": hb.Models(**models)}


for field, make, good, bad in NUMBERS:
    tabulate(field, make, good, [*bad, *NOT_NUMBERS])
for field, make in FLAGS:
    tabulate(field, make, [True, False], [0, 1, "true", [], {}])
for field, make in SWITCHES:
    tabulate(field, make, [{}, {"future": 1}], [True, "on", [], 1, {"x": object()}, {"x": "\ud800"}])
for field, make, values in ENUMS:
    tabulate(field, make, values, ["", "Word", "EN", " en", "klingon", 1, [], b"en"])
for name in jobs.MODEL_NAMES:
    tabulate(f"models.{name}", with_models, [], [{}, True, "yes"])
REFUSED += [
    ("models", {"models": {"face": {}}}),
    ("models.prosody.window", with_prosody(window={"length": 4})),
    ("transcription", {"transcription": False}),
    ("transcription", {"transcription": {"language": "en"}}),
    ("urls", {"urls": "https://a.example/b.wav"}),
    ("urls", {"urls": ["https://a.example/b.wav"] * 101}),
    ("urls", {"urls": (url for url in ["https://a.example"])}),
    ("urls", {"urls": [1]}),
    ("urls[1]", {"urls": ["https://a.example", "ftp://a.example"]}),
    *(
        ("urls[0]", {"urls": [url]})
        for url in (
            "", "a.example/b.wav", "http://", "https:///b.wav", "https://?x", "file:///etc/passwd", "https://a b/c",
            "https://a.example/\r\nX: y", "https://a.example/\ud800", "s3://bucket/key",
        )
    ),
    ("text", {"text": "one string"}),
    ("text", {"text": ["x"] * 101}),
    ("text", {"text": [b"bytes"]}),
    ("text[0]", {"text": ["a lone surrogate \ud800"]}),
    ("files", {"files": "one.wav"}),
    ("files", {"files": b"one.wav"}),
    ("files", {"files": Path("one.wav")}),
    ("files", {"files": ["x.wav"] * 101}),
    ("files", {"files": [b"x.wav"]}),
    ("files", {"files": [1]}),
    ("files", {"files": iter(["x.wav"])}),
    ("files", {"files": None}),
    ("callback_url", {"callback_url": "not a url"}),
    ("callback_url", {"callback_url": 1}),
    ("files", {"text": [], "urls": [], "files": []}),
]  # fmt: skip
ACCEPTED += [
    ("urls", {"urls": ["https://a.example/b.wav"] * 100}),
    ("urls", {"urls": ("HTTP://a.example",)}),
    ("text", {"text": ["x"] * 100}),
    ("text", {"text": [""]}),
    ("files", {"files": ["x.wav"] * 100}),
    ("files", {"files": [Path("x.wav"), "y.wav"]}),
    ("callback_url", {"callback_url": "https://a.example/hook?sid=1&x=%20"}),
    ("callback_url", {"callback_url": None}),
    ("models", {"models": None}),
    ("models", {"models": hb.Models()}),
]


def labels(cases: list[tuple[str, dict[str, Any]]]) -> list[str]:
    return [f"{number}-{field}" for number, (field, _) in enumerate(cases)]


@pytest.mark.parametrize(("field", "arguments"), REFUSED, ids=labels(REFUSED))
def test_outside_the_reference_is_refused_by_name(field: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(hb.ConfigError) as caught:
        hb.Submission(**{"text": ["something to measure"], **arguments})
    assert caught.value.field is not None
    # An element's number belongs to the message; the field may name it or the list.
    assert caught.value.field in (field, field.partition("[")[0]) or caught.value.field.startswith(field + "[")
    assert str(caught.value).startswith(field.partition("[")[0]) or field == "files"


@pytest.mark.parametrize(("field", "arguments"), ACCEPTED, ids=labels(ACCEPTED))
def test_inside_the_reference_is_accepted_and_can_be_sent(field: str, arguments: dict[str, Any]) -> None:
    submission = hb.Submission(**{"text": ["something to measure"], **arguments})
    request = submit_request(submission)
    assert request.body is not None
    assert request.body.length


def test_an_index_is_in_the_field_of_a_list() -> None:
    with pytest.raises(hb.ConfigError) as caught:
        hb.Submission(urls=["https://a.example", "nonsense"])
    assert caught.value.field == "urls[1]"


# ── exceptions ───────────────────────────────────────────────────────────────────────────────────

DETAILS = codec.decode_job(json.dumps(FULL_JOB).encode())
LINE: dict[str, Any] = {"method": "POST", "path": "/v0/batch/jobs", "attempts": 3}
ANSWER: dict[str, Any] = {**LINE, "status": 429, "code": "E1", "body": "no"}
FIRST_TRY = errors.ConnectFailed("refused", **LINE)
RAISED: dict[type[errors.HumebatchError], dict[str, Any]] = {
    errors.HumebatchError: {},
    errors.ConfigError: {"field": "models.face.fps_pred"},
    errors.DiskError: {"path": "run.db"},
    errors.InputFailed: {"path": "a.wav", "state": "FAILED", "reason": "GONE", "job_id": "1"},
    errors.SourceError: {"path": "a.wav"},
    errors.TransportError: {**LINE, "earlier": (FIRST_TRY,)},
    errors.ConnectFailed: LINE,
    errors.RequestTimeout: {**LINE, "earlier": (FIRST_TRY,)},
    errors.SubmissionUnknown: {**LINE, "earlier": (FIRST_TRY,), "since": 1.5, "filenames": ("a.wav", "b.wav")},
    errors.ApiError: ANSWER,
    errors.InvalidRequest: ANSWER,
    errors.AuthError: ANSWER,
    errors.NotFound: ANSWER,
    errors.TooLarge: ANSWER,
    errors.RateLimited: ANSWER,
    errors.StorageFull: ANSWER,
    errors.ServerError: ANSWER,
    errors.DecodeError: {"path": "$[0].source", "near": "{"},
    errors.CallbackRejected: {},
    errors.JobFailed: {"job_id": "j", "details": DETAILS},
    errors.WaitTimeout: {"job_id": "j"},
}


def facts_of(error: errors.HumebatchError) -> dict[str, Any]:
    return {
        name: [(type(one), str(one)) for one in value] if name == "earlier" else value
        for name, value in vars(error).items()
    }


def test_the_table_below_names_every_exception() -> None:
    public = {one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, BaseException)}
    assert set(RAISED) == public


@pytest.mark.parametrize("kind", RAISED, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "again",
    [
        *(lambda error, p=protocol: pickle.loads(pickle.dumps(error, p)) for protocol in range(6)),
        copy.copy,
        copy.deepcopy,
    ],
    ids=[*(f"pickle{protocol}" for protocol in range(6)), "copy", "deepcopy"],
)
def test_exceptions_keep_their_facts_when_they_travel(
    kind: type[errors.HumebatchError], again: Callable[[Any], Any]
) -> None:
    error = kind("what happened", **RAISED[kind])
    if isinstance(error, errors.RateLimited):
        error.retry_after = 30.0
    error.add_note("a note")
    copied = again(error)
    assert type(copied) is kind
    assert str(copied) == str(error) == "what happened"
    assert copied.args == error.args
    assert facts_of(copied) == facts_of(error)
    assert {name: getattr(copied, name) for name in RAISED[kind] if name != "earlier"} == {
        name: value for name, value in RAISED[kind].items() if name != "earlier"
    }


@pytest.mark.parametrize("kind", RAISED, ids=lambda kind: kind.__name__)
@given(text=st.text())
def test_an_exception_is_one_line(kind: type[errors.HumebatchError], text: str) -> None:
    error = kind(f"before\n {text}\r\nafter\u2028end", **RAISED[kind])
    said = str(error)
    assert said.startswith("before")
    assert said.endswith("after end")
    assert len(said.splitlines()) == 1


def test_exceptions_are_what_the_standard_library_calls_them() -> None:
    assert issubclass(errors.ConfigError, ValueError)
    assert issubclass(errors.DecodeError, ValueError)
    assert issubclass(errors.SourceError, OSError)
    assert issubclass(errors.RequestTimeout, TimeoutError)
    assert issubclass(errors.WaitTimeout, TimeoutError)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidRequest), (422, errors.InvalidRequest), (401, errors.AuthError), (403, errors.AuthError),
        (404, errors.NotFound), (413, errors.TooLarge), (429, errors.RateLimited), (507, errors.StorageFull),
        (500, errors.ServerError), (503, errors.ServerError), (599, errors.ServerError), (402, errors.ApiError),
        (409, errors.ApiError), (302, errors.ApiError),
    ],
)  # fmt: skip
def test_class_by_status(status: int, kind: type[errors.ApiError]) -> None:
    assert errors.error_class(status) is kind


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────

CANARY = "canary-7f3a9"


class Holder(msgspec.Struct):
    key: Secret


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        "{}".format,
        "{!r}".format,
        "{:}".format,
        lambda secret: f"{secret}|{secret!r}|{secret!s:>20}|{secret!a}",
        lambda secret: "%s %r" % (secret, secret),  # noqa: UP031 - what logging does
        lambda secret: repr([secret]) + repr({"key": secret}) + repr(Holder(secret)),
        lambda secret: repr(msgspec.structs.asdict(Holder(secret))),
        lambda secret: repr(hb.BatchClient(api_key=secret, base_url="http://localhost:1")),
        lambda secret: repr(hb.BatchClient(api_key=CANARY, base_url="http://localhost:1")),
        lambda secret: repr(getattr(secret, "__dict__", None)),
    ],
)
def test_a_secret_does_not_show(show: Callable[[Any], str]) -> None:
    assert CANARY not in show(Secret(CANARY))


def test_a_secret_does_not_show_in_a_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").warning("%s %r %s", Secret(CANARY), Secret(CANARY), {"key": Secret(CANARY)})
    assert "***" in caplog.text
    assert CANARY not in caplog.text


@pytest.mark.parametrize(
    "write",
    [pickle.dumps, copy.deepcopy, msgspec.json.encode, msgspec.to_builtins, json.dumps, lambda s: format(s, "20")],
)
@pytest.mark.parametrize("wrap", [lambda secret: secret, Holder], ids=["bare", "in a struct"])
def test_a_secret_is_not_written_out(write: Callable[[Any], Any], wrap: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError) as caught:
        write(wrap(Secret(CANARY)))
    assert CANARY not in str(caught.value)


def test_a_secret_is_what_it_is() -> None:
    assert Secret(CANARY).reveal() == CANARY
    assert Secret(CANARY) == Secret(CANARY) != Secret("other")
    assert hash(Secret(CANARY)) == hash(Secret(CANARY))
    assert Secret(CANARY) != CANARY


@pytest.mark.parametrize("value", ["", "  ", "a\nb", "key\r\nX-Other: 1", "schlüssel", "\x00", "a\tb", 7, b"key"])
@pytest.mark.parametrize("wrap", [lambda value: value, Secret], ids=["plain", "secret"])
def test_a_key_that_cannot_be_a_header_is_refused_without_being_shown(value: Any, wrap: Callable[[Any], Any]) -> None:
    with pytest.raises(hb.ConfigError) as caught:
        hb.BatchClient(api_key=wrap(value), base_url="http://localhost:1")
    assert caught.value.field == "api_key"
    if isinstance(value, str) and len(value) > 3:
        assert value not in str(caught.value)


def test_the_key_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.api_key_from(None) is None
    monkeypatch.setenv("HUME_API_KEY", "")
    assert config.api_key_from(None) is None
    monkeypatch.setenv("HUME_API_KEY", f" {CANARY} ")
    found = config.api_key_from(None)
    assert found is not None
    assert found.reveal() == CANARY
    given_key = config.api_key_from("mine")
    assert given_key is not None
    assert given_key.reveal() == "mine"
    monkeypatch.setenv("HUME_API_KEY", f"{CANARY}\nX: 1")
    with pytest.raises(hb.ConfigError) as caught:
        config.api_key_from(None)
    assert CANARY not in str(caught.value)


# ── settings ─────────────────────────────────────────────────────────────────────────────────────

HUGE = 10**400
WRONG: list[Any] = [0, -1, float("nan"), float("inf"), float("-inf"), True, "8", [], HUGE]


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        *((hb.Limits, name, value) for name in ("uploads", "polls", "chunk") for value in (*WRONG, None, 1.5, 2.0)),
        *((hb.Timeouts, name, value) for name in ("connect", "read", "answer") for value in WRONG),
        *((hb.RetryPolicy, "attempts", value) for value in (*WRONG, None, 2.5)),
        *((hb.RetryPolicy, name, value) for name in ("base", "cap", "max_retry_after") for value in (*WRONG, None)),
        *((hb.PollPolicy, name, value) for name in ("first", "cap", "factor") for value in (*WRONG, None)),
        (hb.PollPolicy, "factor", 0.99),
        *((hb.PollPolicy, "jitter", value) for value in (-0.1, 1, 1.5, float("nan"), True, "0.1", None, HUGE)),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(make: Callable[..., Any], name: str, value: Any) -> None:
    with pytest.raises(hb.ConfigError) as caught:
        make(**{name: value})
    assert caught.value.field == name
    assert name in str(caught.value)


def test_settings_at_their_bounds() -> None:
    hb.Limits(uploads=1, polls=1, chunk=1)
    hb.Timeouts(connect=None, read=None, answer=None)
    hb.RetryPolicy(attempts=1, base=0.001, cap=0.001, max_retry_after=1)
    hb.PollPolicy(first=0.001, factor=1, cap=0.001, jitter=0)
    with pytest.raises(AttributeError):
        hb.Limits().uploads = 1  # type: ignore[misc]  # frozen


@pytest.mark.parametrize(
    ("given_url", "used"),
    [
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://localhost:8000/", "http://localhost:8000"),
        ("https://host.example/prefix//", "https://host.example/prefix"),
        ("HTTPS://host.example", "HTTPS://host.example"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://bücher.example", "http://bücher.example"),
        (None, None),
    ],
)
def test_base_urls_that_are_taken(given_url: str | None, used: str | None) -> None:
    assert config.base_url_from(given_url) == used


@pytest.mark.parametrize(
    "url",
    [
        "", "localhost:8000", "localhost", "//localhost", "ftp://host", "http://", "http:///path", "http://host:99999",
        "http://host:port", "http://host?x=1", "http://host?", "http://host#", "http://host#x", "http://ho st",
        "http://host\n", " http://host", "http://host\x00", "http://a..b", f"http://{'a' * 64}.example", "http://[::1",
        "http://host\\evil", "http://\ud800", 8000, b"http://host", ["http://host"],
    ],
)  # fmt: skip
def test_base_urls_that_are_refused(url: Any) -> None:
    with pytest.raises(hb.ConfigError) as caught:
        hb.BatchClient(base_url=url)
    assert caught.value.field == "base_url"


@pytest.mark.parametrize(
    "url", [f"http://me:{CANARY}@host", f"http://{CANARY}@host?x", f"http://me:{CANARY}@host:99999", f"x@{CANARY}"]
)
def test_a_password_in_the_base_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(hb.ConfigError) as caught:
        hb.BatchClient(base_url=url)
    assert CANARY not in str(caught.value)


def test_the_base_url_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUMEBATCH_BASE_URL", "http://env.example/")
    assert hb.BatchClient().base_url == "http://env.example"
    assert hb.BatchClient(base_url="http://mine.example").base_url == "http://mine.example"
    monkeypatch.setenv("HUMEBATCH_BASE_URL", "")
    assert hb.BatchClient().base_url is None


def test_paths_are_kept_as_given() -> None:
    class Named(os.PathLike[str]):
        def __fspath__(self) -> str:
            return "x.wav"

    path = Named()
    assert hb.Submission(files=[path]).files[0] is path
