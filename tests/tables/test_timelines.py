"""All models on one timeline, and what speakers, faces and files sum up to."""

from __future__ import annotations

import gzip
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humebatch.errors import ConfigError
from humebatch.predictions import (
    BoundingBox,
    BurstPrediction,
    FacemeshPrediction,
    FacePrediction,
    GroupedPredictions,
    LanguagePrediction,
    ModelPredictions,
    ModelsPredictions,
    NerPrediction,
    PositionInterval,
    Prediction,
    ProsodyPrediction,
    Results,
    Score,
    Scores,
    Source,
    SourceResult,
    TimeInterval,
    read,
)
from humebatch.tables import SUMMARY, TIMELINE, TOP_EMOTIONS, faces, prosody, speakers, timeline, top_emotions
from humebatch.vocabulary import LANGUAGE_EMOTIONS


def scores(**named: float) -> Scores:
    return Scores(Score(name, value) for name, value in named.items())


def seen(time: float, joy: float = 0.5, frame: int = 0) -> FacePrediction:
    return FacePrediction(frame=frame, time=time, prob=1.0, box=BoundingBox(0, 0, 9, 9), emotions=scores(Joy=joy))


def spoken(begin: float, end: float, text: str | None = None, **named: float) -> ProsodyPrediction:
    return ProsodyPrediction(time=TimeInterval(begin, end), text=text, emotions=scores(**(named or {"Joy": 0.5})))


def found(groups: dict[str, list[Any]]) -> ModelPredictions[Any]:
    return ModelPredictions([GroupedPredictions(name, rows) for name, rows in groups.items()])


def source(*files: Prediction, name: str = "a.mp4") -> SourceResult:
    return SourceResult(Source(type="file", filename=name), Results(list(files), []))


def one(file: str = "a.mp4", **models: dict[str, list[Any]]) -> Prediction:
    return Prediction(file, ModelsPredictions(**{model: found(groups) for model, groups in models.items()}))


EIGHTHS = st.integers(0, 800).map(lambda number: number / 8)
INTERVALS = st.builds(
    lambda begin, length, joy, calm: spoken(begin, begin + length, Joy=joy, Calmness=calm),
    EIGHTHS,
    st.integers(0, 80).map(lambda number: number / 8),
    st.floats(-0.5, 1.5),
    st.floats(0, 1),
)
FACES = st.builds(seen, EIGHTHS, st.floats(0, 1))
SPEAKERS = st.dictionaries(st.sampled_from(["spk_0", "spk_1", "unknown"]), st.lists(INTERVALS, max_size=8))
PREDICTIONS = st.builds(
    lambda prosody, face: one(prosody=prosody, face=face),
    SPEAKERS,
    st.dictionaries(st.sampled_from(["face_0", "face_1"]), st.lists(FACES, max_size=8)),
)
# Halves and quarters are exact, so that what a bin holds can be said without rounding.
STEPS = st.sampled_from([0.25, 0.5, 1.0, 4.0])


def overlaps(row: Any, number: int, step: float) -> bool:
    begin, end = (row.time, row.time) if isinstance(row, FacePrediction) else (row.time.begin, row.time.end)
    low, high = number * step, (number + 1) * step
    return low <= begin < high if begin == end else max(begin, low) < min(end, high)


@settings(deadline=None)
@given(prediction=PREDICTIONS, step=STEPS)
def test_bins_hold_the_mean_of_the_rows_that_overlap_them_and_nothing_else(prediction: Prediction, step: float) -> None:
    got = {(row["model"], row["id"], row["time"]): row for row in timeline(prediction, step).to_pylist()}
    assert len(got) == timeline(prediction, step).num_rows, "one row per bin, model and id"
    expected: dict[tuple[str, str, float], list[Any]] = defaultdict(list)
    for model in ("prosody", "face"):
        for group in getattr(prediction.models, model).grouped_predictions:
            for row in group.predictions:
                for number in range(math.ceil(120 / step)):
                    if overlaps(row, number, step):
                        expected[model, group.id, number * step].append(row)
    assert set(got) == set(expected)
    for key, rows in expected.items():
        values = [row.emotions["Joy"] for row in rows]
        assert got[key]["Joy"] == pytest.approx(sum(values) / len(values))
        assert min(values) - 1e-12 <= got[key]["Joy"] <= max(values) + 1e-12
        assert got[key]["Anger"] is None


@settings(deadline=None)
@given(prediction=PREDICTIONS, step=st.floats(0.01, 60))
def test_every_moment_that_is_spoken_is_in_a_bin(prediction: Prediction, step: float) -> None:
    table = timeline(prediction, step)
    bins = {(row["id"], round(row["time"] / step)) for row in table.to_pylist() if row["model"] == "prosody"}
    assert isinstance(prediction.models.prosody, ModelPredictions)
    for group in prediction.models.prosody.grouped_predictions:
        for row in group.predictions:
            middle = (row.time.begin + row.time.end) / 2
            assert (group.id, math.floor(middle / step)) in bins
    times: list[Any] = table.column("time").to_pylist()
    assert times == sorted(times)


@settings(deadline=None)
@given(files=st.lists(PREDICTIONS, min_size=1, max_size=3), data=st.data())
def test_the_order_of_sources_and_of_rows_does_not_matter(files: list[Prediction], data: st.DataObject) -> None:
    given_ = [source(file, name=f"{number}.mp4") for number, file in enumerate(files)]
    mixed = msgspec.json.decode(msgspec.json.encode(data.draw(st.permutations(given_))), type=list[SourceResult])
    for result in mixed:
        assert result.results
        for file in result.results.predictions:
            assert isinstance(file.models.prosody, ModelPredictions)
            for group in file.models.prosody.grouped_predictions:
                group.predictions[:] = data.draw(st.permutations(group.predictions))

    def rows(results: list[SourceResult]) -> dict[Any, Any]:
        return {(row["source"], row["id"]): row for row in speakers(results).to_pylist()}

    before, after = rows(given_), rows(mixed)
    assert before.keys() == after.keys()
    for key, row in before.items():
        for name in ("predictions", "seconds", "first", "last", "Joy"):
            assert after[key][name] == pytest.approx(row[name])


@settings(deadline=None)
@given(stretches=st.lists(INTERVALS, min_size=1, max_size=20))
def test_seconds_are_what_the_stretches_cover_together(stretches: list[ProsodyPrediction]) -> None:
    (row,) = speakers([source(one(prosody={"spk_0": stretches}))]).to_pylist()
    eighths = {
        number for one in stretches for number in range(math.floor(one.time.begin * 8), math.ceil(one.time.end * 8))
    }
    assert row["seconds"] == pytest.approx(len(eighths) / 8)
    assert row["first"] == min(one.time.begin for one in stretches)
    assert row["last"] == max(one.time.end for one in stretches)


@settings(deadline=None)
@given(files=st.lists(PREDICTIONS, max_size=3), count=st.integers(1, 4))
def test_top_emotions_are_ranked_by_their_means(files: list[Prediction], count: int) -> None:
    groups: dict[Any, list[Any]] = defaultdict(list)
    for row in top_emotions([source(file) for file in files], count).to_pylist():
        groups[row["source_index"], row["model"], row["id"]].append(row)
    for rows in groups.values():
        assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
        assert len(rows) == min(count, len({"face": ["Joy"], "prosody": ["Joy", "Calmness"]}[rows[0]["model"]]))
        means = [row["mean"] for row in rows]
        assert means == sorted(means, reverse=True)
        assert all(row["mean"] <= row["max"] + 1e-12 for row in rows)


def interview() -> SourceResult:
    prosody = {
        "spk_0": [spoken(0.2, 1.5, "Hello", Joy=0.25), spoken(1.5, 2.0, "you", Joy=0.75)],
        "spk_1": [spoken(1.0, 1.2)],
    }
    language = [
        LanguagePrediction("Hello", PositionInterval(0, 5), scores(Gratitude=1.0), TimeInterval(0.2, 0.4)),
        LanguagePrediction("you", PositionInterval(6, 9), scores(Gratitude=0.5), TimeInterval(0.4, 0.6)),
    ]
    ner = NerPrediction("Berlin", PositionInterval(0, 6), 1, 1, "", "", scores(Joy=1), time=TimeInterval(3, 3.25))
    burst = BurstPrediction(TimeInterval(5, 5), scores(Amusement=0.5), Scores())
    return source(
        one(
            "a.mp4",
            face={"face_0": [seen(0.0, 0.5), seen(1 / 3, 1.0), seen(2 / 3, 0.5)], "face_1": [seen(2.0)]},
            burst={"unknown": [burst]},
            prosody=prosody,
            language={"unknown": language},
            ner={"unknown": [ner]},
            facemesh={"unknown": [FacemeshPrediction(scores(Joy=0.5))]},
        ),
        one("b.txt", language={"unknown": [LanguagePrediction("Hi.", PositionInterval(0, 3), scores(Joy=1))]}),
    )


def test_one_timeline_of_all_models() -> None:
    table = timeline(interview())
    assert table.schema == TIMELINE
    assert table.column_names == ["file", "time", "model", "id", "text", *LANGUAGE_EMOTIONS]
    rows = [(row["file"], row["time"], row["model"], row["id"], row["text"], row["Joy"]) for row in table.to_pylist()]
    assert rows == [
        ("a.mp4", 0.0, "face", "face_0", None, 0.75),
        ("a.mp4", 0.0, "prosody", "spk_0", "Hello", 0.25),
        ("a.mp4", 0.0, "language", "unknown", "Hello you", None),
        ("a.mp4", 0.5, "face", "face_0", None, 0.5),
        ("a.mp4", 0.5, "prosody", "spk_0", "Hello", 0.25),
        ("a.mp4", 0.5, "language", "unknown", "you", None),
        ("a.mp4", 1.0, "prosody", "spk_0", "Hello", 0.25),
        ("a.mp4", 1.0, "prosody", "spk_1", None, 0.5),
        ("a.mp4", 1.5, "prosody", "spk_0", "you", 0.75),
        ("a.mp4", 2.0, "face", "face_1", None, 0.5),
        ("a.mp4", 3.0, "ner", "unknown", "Berlin", 1.0),
        ("a.mp4", 5.0, "burst", "unknown", None, None),
        ("a.mp4", None, "facemesh", "unknown", None, 0.5),
        ("b.txt", None, "language", "unknown", "Hi.", 1.0),
    ]
    assert table.column("Gratitude").to_pylist()[2] == 0.75


def test_speakers_and_faces() -> None:
    results = [source(name="empty.mp4"), interview(), SourceResult(Source(type="url", url="u"), error="no")]
    heard = speakers(results)
    assert heard.schema == SUMMARY
    rows = [tuple(row.values())[:9] for row in heard.to_pylist()]
    assert rows == [
        ("a.mp4", 1, "a.mp4", "burst", "unknown", 1, 0.0, 5.0, 5.0),
        ("a.mp4", 1, "a.mp4", "prosody", "spk_0", 2, pytest.approx(1.8), 0.2, 2.0),
        ("a.mp4", 1, "a.mp4", "prosody", "spk_1", 1, pytest.approx(0.2), 1.0, 1.2),
        ("a.mp4", 1, "a.mp4", "language", "unknown", 2, pytest.approx(0.4), 0.2, 0.6),
        ("a.mp4", 1, "a.mp4", "ner", "unknown", 1, 0.25, 3.0, 3.25),
    ]
    assert heard.column("Joy").to_pylist() == [None, 0.5, 0.5, None, 1.0]
    looked_at = faces(results)
    assert looked_at.schema == SUMMARY
    assert [tuple(row.values())[2:9] for row in looked_at.to_pylist()] == [
        ("a.mp4", "face", "face_0", 3, pytest.approx(1.0), 0.0, pytest.approx(2 / 3)),
        ("a.mp4", "face", "face_1", 1, pytest.approx(1 / 3), 2.0, 2.0),
        ("a.mp4", "facemesh", "unknown", 1, None, None, None),
    ]


def test_a_face_that_was_away_and_a_picture_with_two() -> None:
    away = [seen(number / 4) for number in (*range(8), *range(40, 48))]
    two = [seen(0.0), seen(0.0)]
    rows = faces([source(one(face={"face_0": away}), one("b.jpg", face={"unknown": two}))]).to_pylist()
    assert [(row["seconds"], row["predictions"]) for row in rows] == [(4.0, 16), (None, 2)]


def test_top_emotions_know_names_of_no_vocabulary() -> None:
    rows = {"unknown": [spoken(0, 1, Serenity=0.5, Joy=0.25), spoken(1, 2, Serenity=1.0, Joy=0.25)]}
    table = top_emotions([source(one(prosody=rows))], 2)
    assert table.schema == TOP_EMOTIONS
    assert [tuple(row.values())[4:] for row in table.to_pylist()] == [
        ("unknown", 1, "Serenity", 0.75, 1.0),
        ("unknown", 2, "Joy", 0.25, 0.25),
    ]
    assert "Serenity" not in timeline(one(prosody=rows)).column_names


def test_saved_files_bytes_and_readers_say_the_same(tmp_path: Path) -> None:
    results = [interview(), source(name="none.mp4")]
    data = msgspec.json.encode(results)
    (tmp_path / "p.json").write_bytes(data)
    (tmp_path / "p.json.gz").write_bytes(gzip.compress(data))
    for function in (speakers, faces, top_emotions):
        expected = function(results)
        assert expected.num_rows > 2
        for given_ in (
            data,
            bytearray(data),
            str(tmp_path / "p.json"),
            tmp_path / "p.json.gz",
            read(tmp_path / "p.json"),
        ):
            assert function(given_).equals(expected)
        assert function(interview()).equals(function([interview()]))
    with read(tmp_path / "p.json") as sources:
        first = next(iter(sources))
        assert timeline(first).equals(timeline(interview()))
        assert timeline(next(iter(first)), 0.1).num_rows > 0


def test_edges_of_bins_are_edges_though_floats_are_not() -> None:
    rows = {"spk_0": [spoken(0.3, 0.6)]}
    assert timeline(one(prosody=rows), 0.1).column("time").to_pylist() == pytest.approx([0.3, 0.4, 0.5])


def test_an_interval_that_ends_before_it_begins_is_a_moment() -> None:
    rows = {"spk_0": [spoken(2.0, 1.0)]}
    assert timeline(one(prosody=rows), 1.0).column("time").to_pylist() == [2.0]
    assert speakers([source(one(prosody=rows))]).column("seconds").to_pylist() == [0.0]


@pytest.mark.parametrize("step", [0, -1, math.nan, math.inf, "a", "0.5", None, 10**400])
def test_a_step_is_a_positive_number(step: Any) -> None:
    with pytest.raises(ConfigError, match="step"):
        timeline(interview(), step)


@pytest.mark.parametrize("n", [0, -1, "x", 2.5, None])
def test_n_is_a_positive_whole_number(n: Any) -> None:
    with pytest.raises(ConfigError, match="n: "):
        top_emotions([interview()], n)


def test_a_timeline_is_of_one_source_or_file(tmp_path: Path) -> None:
    wrongs: list[Any] = [tmp_path / "p.json", "p.json", [interview()], b"[]", {}, None]
    for wrong in wrongs:
        with pytest.raises(ConfigError, match=r"source: must be one source .* predictions\.read"):
            timeline(wrong)


def test_edges_of_late_bins_are_edges_too() -> None:
    late = 1.7e9
    rows = [seen(late + 0.25), seen(late + 0.5), seen(late + 0.75)]
    assert timeline(one(face={"f": rows}), 0.5).column("time").to_pylist() == [late, late + 0.5]
    speech = {"s": [spoken(late + 0.3, late + 0.6)]}
    times = timeline(one(prosody=speech), 0.1).column("time").to_pylist()
    assert times == pytest.approx([late + 0.3, late + 0.4, late + 0.5], rel=0, abs=1e-5)


@settings(deadline=None)
@given(rows=st.permutations([seen(number / 4) for number in range(12)]))
def test_how_long_a_face_was_seen_does_not_depend_on_the_order_of_rows(rows: list[FacePrediction]) -> None:
    for some in (rows, rows * 2):
        assert faces([source(one(face={"f": some}))]).column("seconds").to_pylist() == [3.0]


def test_texts_are_joined_as_they_were_written() -> None:
    def said(*texts: str, positions: list[tuple[int, int]] | None = None) -> Any:
        rows = [
            LanguagePrediction(text, PositionInterval(*(positions or [(0, 0)] * 9)[number]), scores(Joy=1))
            for number, text in enumerate(texts)
        ]
        return timeline(one(language={"x": rows})).column("text").to_pylist()[0]

    assert said(*"今日は") == "今日は"
    assert said("Rome", ".", "Then", positions=[(0, 4), (4, 5), (6, 10)]) == "Rome. Then"
    assert said("上", "海", positions=[(0, 1), (2, 3)]) == "上 海"
    assert said("上", "海", positions=[(0, 3), (3, 6)]) == "上海", "in bytes"
    assert said("We", "met", positions=[(0, 2), (2, 4)]) == "We met", "positions that do not fit the texts"
    assert said("한국", "사람") == "한국 사람"
    assert said("ไป", "กิน", "pizza") == "ไปกิน pizza"
    heard = {"x": [spoken(0, 0.1, "你"), spoken(0.1, 0.2, "好")]}
    assert timeline(one(prosody=heard)).column("text").to_pylist() == ["你好"]
    entities = [NerPrediction(name, PositionInterval(0, 2), 1, 1, "", "", scores(Joy=1)) for name in ("東京", "大阪")]
    assert timeline(one(ner={"x": entities})).column("text").to_pylist() == ["東京 大阪"]


def test_a_name_that_comes_twice_in_a_row_counts_as_in_other_tables() -> None:
    twice = Scores([Score("Joy", 1.0), Score("Joy", 0.5)])
    row = ProsodyPrediction(time=TimeInterval(0, 0.1), text=None, emotions=twice)
    results = [source(one(prosody={"x": [row]}))]
    assert prosody(results).column("Joy").to_pylist() == [0.5]
    assert timeline(results[0]).column("Joy").to_pylist() == speakers(results).column("Joy").to_pylist() == [0.5]
    assert [tuple(row.values())[-2:] for row in top_emotions(results).to_pylist()] == [(0.5, 0.5)]


@pytest.mark.parametrize(("begin", "end"), [(0.0, 1e12), (-1e308, 1e308), (1e308, 1e308)])
def test_one_wrong_time_does_not_fill_the_memory(begin: float, end: float) -> None:
    with pytest.raises(ConfigError, match="1,000,000 rows"):
        timeline(one(prosody={"spk_0": [spoken(begin, end)]}), 0.1)


def test_nothing_is_an_empty_table() -> None:
    assert timeline(source()).schema == TIMELINE
    assert timeline(SourceResult(Source(type="text"), error="empty")).num_rows == 0
    assert speakers([]).num_rows == faces([]).num_rows == top_emotions([]).num_rows == 0
