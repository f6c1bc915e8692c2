"""Structs of results: what real answers hold, round trips, and scores that can be asked by name."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from humebatch import predictions
from humebatch.predictions import Score, Scores
from humebatch.vocabulary import EMOTIONS
from tests.predictions.payloads import STRANGE_NAMES, patient, payload, strange

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False)
whole = st.integers(-(2**63), 2**63 - 1)
scores = st.lists(st.builds(Score, words | st.sampled_from([*EMOTIONS, *STRANGE_NAMES]), numbers), max_size=5)
maybe = st.none() | numbers
unset = st.just(UNSET) | st.none()
boxes = st.builds(predictions.BoundingBox, numbers, numbers, numbers, numbers)
times = st.builds(predictions.TimeInterval, numbers, numbers)
positions = st.builds(predictions.PositionInterval, whole, whole)
metadata = st.builds(predictions.TranscriptionMetadata, numbers, st.none() | words)
errors = st.builds(predictions.ResultError, words, words, st.none() | words)
sources = st.builds(predictions.Source, words, unset | words, unset | words, unset | words, unset | words)
ROWS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "face": (
        predictions.FacePrediction,
        st.builds(
            predictions.FacePrediction, whole, numbers, numbers, boxes, scores, st.none() | scores, st.none() | scores
        ),
    ),
    "prosody": (
        predictions.ProsodyPrediction,
        st.builds(predictions.ProsodyPrediction, times, scores, st.none() | words, maybe, maybe),
    ),
    "burst": (predictions.BurstPrediction, st.builds(predictions.BurstPrediction, times, scores, scores)),
    "language": (
        predictions.LanguagePrediction,
        st.builds(
            predictions.LanguagePrediction,
            words, positions, scores, st.none() | times, maybe, maybe, st.none() | scores, st.none() | scores,
        ),
    ),
    "ner": (
        predictions.NerPrediction,
        st.builds(
            predictions.NerPrediction,
            words, positions, numbers, numbers, words, words, scores, st.none() | times, maybe, maybe,
        ),
    ),
    "facemesh": (predictions.FacemeshPrediction, st.builds(predictions.FacemeshPrediction, scores)),
}  # fmt: skip


def found(row: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    groups = st.builds(predictions.GroupedPredictions, words, st.lists(row, max_size=2))
    return st.builds(predictions.ModelPredictions, st.lists(groups, max_size=2), st.none() | metadata)


models = st.builds(
    predictions.ModelsPredictions, **{name: unset | found(strategy) for name, (_, strategy) in ROWS.items()}
)
files = st.builds(predictions.Prediction, words, models, st.none() | words)
results = st.builds(predictions.Results, st.lists(files, max_size=2), st.lists(errors, max_size=2))
origins = st.builds(
    predictions.MeasuredBy,
    *(words, words, words, words),
    st.lists(words, max_size=2),
    st.booleans(),
    st.sampled_from(["absent", "zero"]),
)
answers = st.builds(
    predictions.SourceResult,
    sources,
    st.none() | results,
    st.none() | words,
    unset | st.none() | st.dictionaries(words, origins, max_size=2),
)
EVERY: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "Score": (Score, st.builds(Score, words, numbers)),
    "BoundingBox": (predictions.BoundingBox, boxes),
    "TimeInterval": (predictions.TimeInterval, times),
    "PositionInterval": (predictions.PositionInterval, positions),
    **{made.__name__: (made, strategy) for made, strategy in ROWS.values()},
    "GroupedPredictions": (
        predictions.GroupedPredictions[predictions.FacemeshPrediction],
        st.builds(predictions.GroupedPredictions, words, st.lists(ROWS["facemesh"][1], max_size=2)),
    ),
    "ModelPredictions": (predictions.ModelPredictions[predictions.ProsodyPrediction], found(ROWS["prosody"][1])),
    "TranscriptionMetadata": (predictions.TranscriptionMetadata, metadata),
    "ModelsPredictions": (predictions.ModelsPredictions, models),
    "Prediction": (predictions.Prediction, files),
    "ResultError": (predictions.ResultError, errors),
    "Results": (predictions.Results, results),
    "Source": (predictions.Source, sources),
    "SourceResult": (predictions.SourceResult, answers),
    "MeasuredBy": (predictions.MeasuredBy, origins),
}


def test_every_struct_is_tested() -> None:
    structs = {
        name
        for name in predictions.__all__
        if isinstance(value := getattr(predictions, name), type) and issubclass(value, msgspec.Struct)
    }
    assert structs == set(EVERY)


@pytest.mark.parametrize("name", EVERY)
@patient
@given(st.data())
def test_a_struct_comes_back_as_it_was(name: str, data: st.DataObject) -> None:
    made, strategy = EVERY[name]
    value = data.draw(strategy)
    assert msgspec.json.decode(msgspec.json.encode(value), type=made) == value
    assert msgspec.convert(msgspec.to_builtins(value), type=made) == value
    assert pickle.loads(pickle.dumps(value)) == value == copy.deepcopy(value)


@patient
@given(strange())
def test_an_answer_comes_back_as_it_was(text: str) -> None:
    decoded = predictions.decode(text.encode())
    assert predictions.decode(msgspec.json.encode(decoded)) == decoded


def test_a_real_answer_with_what_the_schema_does_not_tell() -> None:
    first, failed, text = predictions.decode(json.dumps(payload()).encode())
    assert first.results is not None
    assert first.source.filename == "a.zip" and first.source.content_type is None and first.source.url is UNSET
    video, audio, old = first.results.predictions
    assert (video.file_type, audio.file_type, old.file_type) == ("video", None, None)
    assert [error.model for error in first.results.errors] == [None, None]
    assert (failed.results, failed.error, text.error) == (None, "cannot be read", None)
    assert audio.models.face is None and audio.models.ner is UNSET
    assert video.models.face and video.models.prosody and video.models.prosody.metadata
    assert [group.id for group in video.models.face.grouped_predictions] == ["a_0", "a_1"]
    face = video.models.face.grouped_predictions[0].predictions[0]
    assert (face.facs, face.descriptions) == (None, None)
    for number in (face.time, face.box.x, face.box.h, video.models.prosody.metadata.confidence):
        assert type(number) is float


def test_scores_outside_of_0_to_1_unknown_names_and_unknown_fields() -> None:
    data = (
        b'{"emotions":[{"name":"Joy","score":-0.25},{"name":"Serenity","score":7},'
        b'{"name":"Awe","score":1e-9,"more":[{}]}],"new":{"score":1}}'
    )
    row = msgspec.json.decode(data, type=predictions.FacemeshPrediction)
    assert row.emotions.as_dict() == {"Joy": -0.25, "Serenity": 7.0, "Awe": 1e-9}


@pytest.mark.parametrize("score", [b"null", b'"0.5"', b"true", b"[]", b"NaN", b"Infinity", b"1e999"])
def test_a_score_that_is_no_number_is_refused(score: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(b'{"emotions":[{"name":"Joy","score":%b}]}' % score, type=predictions.FacemeshPrediction)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
def test_numbers_that_fit_no_table_are_refused(number: int) -> None:
    with pytest.raises(msgspec.ValidationError, match="begin"):
        msgspec.json.decode(b'{"begin":%d,"end":0}' % number, type=predictions.PositionInterval)


# ── scores by name ───────────────────────────────────────────────────────────────────────────────


def some() -> Scores:
    row = predictions.FacemeshPrediction(
        Scores([Score("Awe", 0.5), Score("Joy", 0.75), Score("Calmness", 0.5), Score("Fear", -1.0)])
    )
    return row.emotions


def test_scores_are_asked_by_name_and_by_place() -> None:
    emotions = some()
    assert emotions["Joy"] == 0.75
    assert emotions[1] == Score("Joy", 0.75) == emotions[-3]
    assert emotions[1:3] == [Score("Joy", 0.75), Score("Calmness", 0.5)]
    assert (emotions.get("Joy"), emotions.get("Serenity"), emotions.get("Serenity", 0.0)) == (0.75, None, 0.0)
    joy: Any = "Joy"
    serenity: Any = "Serenity"
    assert joy in emotions and serenity not in emotions
    assert Score("Joy", 0.75) in emotions and Score("Joy", 0.5) not in emotions
    assert list(emotions.as_dict().items()) == [("Awe", 0.5), ("Joy", 0.75), ("Calmness", 0.5), ("Fear", -1.0)]
    with pytest.raises(KeyError, match="Serenity"):
        emotions["Serenity"]
    with pytest.raises(IndexError):
        emotions[4]
    with pytest.raises(KeyError):
        Scores()["Joy"]


def test_the_highest_scores() -> None:
    emotions = some()
    assert [score.name for score in emotions.top(3)] == ["Joy", "Awe", "Calmness"]
    assert emotions.top() == sorted(emotions, key=lambda score: -score.score)
    assert emotions.top(0) == [] == Scores().top()


@given(scores, st.integers(0, 7))
def test_the_highest_scores_are_those_of_a_stable_sort(given_scores: list[Score], n: int) -> None:
    expected = sorted(given_scores, key=lambda score: score.score, reverse=True)[:n]
    assert Scores(given_scores).top(n) == expected


@given(scores)
def test_of_a_name_that_comes_twice_the_last_one_counts_everywhere(given_scores: list[Score]) -> None:
    emotions = Scores(given_scores)
    expected = {score.name: score.score for score in given_scores}
    assert emotions.as_dict() == expected
    assert {name: emotions[name] for name in expected} == expected


def test_scores_are_a_list() -> None:
    emotions = some()
    plain = list(emotions)
    assert type(plain) is list and emotions == plain and plain == emotions
    for other in (copy.copy(emotions), copy.deepcopy(emotions), pickle.loads(pickle.dumps(emotions))):
        assert type(other) is Scores and other == emotions and other["Joy"] == 0.75
    encoded = msgspec.json.encode(emotions)
    assert encoded == msgspec.json.encode(plain)
    assert json.loads(encoded)[0] == {"name": "Awe", "score": 0.5} == msgspec.to_builtins(emotions)[0]
    assert json.loads(json.dumps(emotions.as_dict())) == emotions.as_dict()


def test_a_struct_takes_any_list_of_scores() -> None:
    time = predictions.TimeInterval(0, 1)
    plain: Any = [Score("Joy", 1.0)]
    burst = predictions.BurstPrediction(time, plain, tuple(plain))  # type: ignore[arg-type]
    assert type(burst.emotions) is Scores is type(burst.descriptions)
    assert burst.descriptions["Joy"] == 1.0
    assert predictions.BurstPrediction(time, burst.emotions, Scores()).emotions is burst.emotions
    replaced = msgspec.structs.replace(burst, emotions=[Score("Awe", 0.0)])
    assert type(replaced.emotions) is Scores


def test_names_are_strings_to_everybody() -> None:
    data = b'[{"name":"Joy","score":1},{"name":"Serenity","score":2},{"name":"","score":3}]'
    for score, name in zip(msgspec.json.decode(data, type=list[Score]), ("Joy", "Serenity", ""), strict=True):
        assert isinstance(score.name, str)
        assert score.name == name and hash(score.name) == hash(name) and {name: 1}[score.name] == 1
        assert str(score.name) == f"{score.name}" == name and repr(score.name) == repr(name)
        assert score == Score(name, score.score)
        assert pickle.loads(pickle.dumps(score)).name == copy.deepcopy(score).name == name


def test_a_name_costs_no_string_of_its_own() -> None:
    row = {"emotions": [{"name": name, "score": 0.5} for name in (*EMOTIONS, "Serenity", "a new one", "Joy}")]}
    rows = msgspec.json.decode(json.dumps([row] * 50), type=list[predictions.FacemeshPrediction])
    assert len({id(score.name) for one in rows for score in one.emotions}) == len(row["emotions"])
    again = msgspec.json.decode(json.dumps([row]), type=list[predictions.FacemeshPrediction])
    assert [id(score.name) for score in again[0].emotions] == [id(score.name) for score in rows[0].emotions]


def test_unknown_names_do_not_fill_the_memory() -> None:
    # In a process of its own: what is kept is kept for good.
    code = """
import json, tracemalloc
from humebatch import predictions
import msgspec

def decode(start, length):
    names = [f"{number:0{length}}" for number in range(start, start + 20_000)]
    data = json.dumps([{"name": name, "score": 1} for name in names]).encode()
    assert [score.name for score in msgspec.json.decode(data, type=list[predictions.Score])] == names

tracemalloc.start()
decode(0, 8)
before = tracemalloc.get_traced_memory()[0]
for number in range(1, 5):
    decode(number * 100_000, 8)
after = tracemalloc.get_traced_memory()[0]
assert before < 8_000_000, before
assert after - before < 100_000, after - before
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_long_unknown_names_are_not_kept() -> None:
    code = """
import json, tracemalloc, msgspec
from humebatch import predictions

tracemalloc.start()
for start in range(0, 400, 100):
    data = json.dumps([{"name": f"{number:050000}", "score": 1} for number in range(start, start + 100)]).encode()
    assert len(msgspec.json.decode(data, type=list[predictions.Score])) == 100
del data
assert tracemalloc.get_traced_memory()[0] < 1_000_000
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
