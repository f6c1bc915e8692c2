"""Tables: the same from bytes, a file, a reader and structs, exact to the last bit, and each number under its name."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import humebatch as hb
from humebatch import predictions, tables
from humebatch.predictions import Score, Scores
from humebatch.tables import scoring
from humebatch.vocabulary import (
    BURST_DESCRIPTIONS,
    EMOTIONS,
    FACE_DESCRIPTIONS,
    FACS,
    LANGUAGE_EMOTIONS,
    SENTIMENT,
    TOXICITY,
)
from tests.predictions.payloads import MODELS, STYLES, Literal, dumps, patient, payload, strange

PLACE = ["source", "source_index", "file", "file_type", "id"]
SPAN = ["begin", "end"]
SURE = ["confidence", "speaker_confidence"]
POSITION = ["position_begin", "position_end"]
FIELDS = {
    "face": ["frame", "time", "prob", "box_x", "box_y", "box_w", "box_h"],
    "prosody": ["text", *SPAN, *SURE],
    "burst": SPAN,
    "language": ["text", *POSITION, *SPAN, *SURE],
    "ner": ["entity", *POSITION, "entity_confidence", "support", "uri", "link_word", *SPAN, *SURE],
    "facemesh": [],
}
SCORES: dict[str, dict[str, tuple[str, ...]]] = {
    "face": {"emotions": EMOTIONS, "facs": FACS, "descriptions": FACE_DESCRIPTIONS},
    "prosody": {"emotions": EMOTIONS},
    "burst": {"emotions": EMOTIONS, "descriptions": BURST_DESCRIPTIONS},
    "language": {"emotions": LANGUAGE_EMOTIONS, "sentiment": SENTIMENT, "toxicity": TOXICITY},
    "ner": {"emotions": LANGUAGE_EMOTIONS},
    "facemesh": {"emotions": EMOTIONS},
}
WHOLE = {"frame", *POSITION}
STRINGS = {"text", "entity", "uri", "link_word"}


def columns(model: str) -> list[str]:
    names = [name for names in SCORES[model].values() for name in names]
    return [*PLACE, *FIELDS[model], *names, "other_scores"]


def value(row: dict[str, Any], column: str) -> Any:
    if column in SPAN:
        found = (row.get("time") or {}).get(column)
    elif column in POSITION:
        return row["position"][column.removeprefix("position_")]
    elif column.startswith("box_"):
        found = row["box"][column[-1]]
    else:
        found = row.get(column)
    return found if found is None or column in WHOLE | STRINGS else float(found)


def expected(text: str, model: str) -> list[dict[str, Any]]:
    """The rows of a table, from what `json` says."""
    found: list[dict[str, Any]] = []
    for index, source in enumerate(json.loads(text)):
        where = source["source"]
        name = where.get("filename") or where.get("url") or where["type"]
        for file in (source.get("results") or {"predictions": []})["predictions"]:
            for group in (file["models"].get(model) or {"grouped_predictions": []})["grouped_predictions"]:
                for row in group["predictions"]:
                    line: dict[str, Any] = dict.fromkeys(columns(model))
                    place = (name, index, file["file"], file.get("file_type"), group["id"])
                    line |= zip(PLACE, place, strict=True)
                    line |= {column: value(row, column) for column in FIELDS[model]}
                    others = {}
                    for field, names in SCORES[model].items():
                        for score in row.get(field) or ():
                            if score["name"] in names:
                                line[score["name"]] = float(score["score"])
                            else:
                                others[f"{field}.{score['name']}"] = float(score["score"])
                    line["other_scores"] = others or None
                    found.append(line)
    return found


def lines(table: pa.Table) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = table.to_pylist()
    for line in found:
        if line["other_scores"] is not None:
            assert len(dict(line["other_scores"])) == len(line["other_scores"])
            line["other_scores"] = dict(line["other_scores"])
    return found


def ways(text: str, folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Everything that tables can be made of."""
    data = text.encode()
    path = folder / "predictions.json"
    path.write_bytes(data)
    packed = folder / "predictions.json.gz"
    packed.write_bytes(gzip.compress(data, 1))
    yield "bytes", lambda: data
    yield "path", lambda: str(path)
    yield "Path, gzip", lambda: packed
    yield "reader", lambda: predictions.read(path)
    yield "structs", lambda: predictions.decode(data)
    yield "generator", lambda: (one for one in predictions.decode(data))
    yield "loaded", lambda: [one.load() for one in predictions.read(path)]


def mixed(text: str, folder: Path) -> list[Any]:
    """Structs and readers by turns."""
    path = folder / "predictions.json"
    return [one if number % 2 else one.load() for number, one in enumerate(predictions.read(path))]


@pytest.mark.parametrize("model", MODELS)
def test_the_columns_are_documented_ones(model: str) -> None:
    schema = tables.schema(model)
    assert schema.names == columns(model)
    for field in schema:
        if field.name == "source_index":
            assert field.type == pa.int32()
        elif field.name in WHOLE:
            assert field.type == pa.int64()
        elif field.name in STRINGS or field.name in PLACE:
            assert field.type == pa.string()
        elif field.name == "other_scores":
            assert field.type == pa.map_(pa.string(), pa.float64())
        else:
            assert field.type == pa.float64()
        assert field.nullable


@pytest.mark.parametrize("style", STYLES, ids=repr)
def test_a_real_answer(style: Any, tmp_path: Path) -> None:
    text = dumps(payload(7), style)
    for model in MODELS:
        want = expected(text, model)
        assert len(want) == {"prosody": 8, "language": 9}.get(model, 7)
        for way, made in ways(text, tmp_path):
            table = getattr(tables, model)(made())
            assert lines(table) == want, way
            assert table.schema == tables.schema(model)
            table.validate(full=True)
        assert lines(getattr(tables, model)(mixed(text, tmp_path))) == want


@settings(patient, max_examples=300)
@given(strange())
@example("[]")
@example(' [{"source":{"type":"text"},"results":{"predictions":[],"errors":[]}}] ')
def test_strange_answers_in_every_way(tmp_path: Path, text: str) -> None:
    for model in MODELS:
        if f'"{model}"' not in text and text != "[]":
            continue
        want = expected(text, model)
        for way, made in ways(text, tmp_path):
            table = tables.batches(made(), model).read_all()
            table.validate(full=True)
            assert lines(table) == want, way
            assert table.schema == tables.schema(model)
        assert lines(getattr(tables, model)(mixed(text, tmp_path))) == want


@settings(patient, max_examples=400)
@given(st.sampled_from(MODELS).flatmap(lambda model: st.tuples(st.just(model), strange((model,)))))
def test_no_number_gets_under_a_wrong_name(case: tuple[str, str]) -> None:
    model, text = case
    assert lines(getattr(tables, model)(text.encode())) == expected(text, model)


# ── the fast way ─────────────────────────────────────────────────────────────────────────────────


def meshes(lists: list[str], others: str = "") -> bytes:
    """An answer whose rows have these texts as emotions."""
    rows = ",".join(f'{{"emotions":{emotions}{others}}}' for emotions in lists)
    return (
        '[{"source":{"type":"text"},"results":{"predictions":[{"file":"1","models":{"facemesh":'
        f'{{"grouped_predictions":[{{"id":"a","predictions":[{rows}]}}]}}}}}}],"errors":[]}}}}]'
    ).encode()


def scores(*pairs: tuple[str, object], tail: str = "") -> str:
    return "[" + ",".join(f'{{"name":{json.dumps(name)},"score":{score}}}' for name, score in pairs) + tail + "]"


def only(data: bytes) -> list[dict[str, float]]:
    """Per row the scores that are there, those of other names too."""
    found = lines(tables.facemesh(data))
    for line in found:
        line |= {name.removeprefix("emotions."): score for name, score in (line.pop("other_scores") or {}).items()}
    return [{name: score for name, score in line.items() if name not in PLACE and score is not None} for line in found]


@pytest.mark.parametrize("style", STYLES[:3], ids=repr)
@pytest.mark.parametrize("rows", [1, 511, 512, 513, 1025])
def test_answers_of_one_layout_take_the_fast_way(style: Any, rows: int) -> None:
    chance = random.Random(rows)
    lists = [
        [{"name": name, "score": chance.choice((chance.random(), 1, -0.5, 1e-9))} for name in (*EMOTIONS, "Serenity")]
        for _ in range(rows)
    ]
    data = meshes([dumps(one, style) for one in lists])
    with mock.patch.object(scoring, "from_lists", side_effect=AssertionError("the slow way")):
        assert only(data) == [{score["name"]: score["score"] for score in one} for one in lists]


ROW = scores(("Joy", 0.25), ("Awe", 0.5))
OTHER_ROWS = {
    "another order": scores(("Awe", 0.5), ("Joy", 0.25)),
    "another name": scores(("Fear", 0.25), ("Awe", 0.5)),
    "a name as long": scores(("Awe", 0.25), ("Joy", 0.5)),
    "one less": scores(("Joy", 0.25)),
    "one more": scores(("Joy", 0.25), ("Awe", 0.5), ("Fear", 1)),
    "none": "[]",
    "spaces": ROW.replace(":", ": "),
    "spaces behind numbers": ROW.replace("}", " }"),
    "spaces before numbers": ROW.replace('"score":', '"score": '),
    "spaces at the end": ROW.replace("]", " ]"),
    "the score first": '[{"score":0.25,"name":"Joy"},{"score":0.5,"name":"Awe"}]',
    "more keys": '[{"name":"Joy","score":0.25,"x":1},{"name":"Awe","score":0.5}]',
    "more keys before": '[{"x":1,"name":"Joy","score":0.25},{"name":"Awe","score":0.5}]',
    "a key twice": '[{"name":"Joy","score":3,"score":0.25},{"name":"Awe","score":0.5}]',
    "a name twice": scores(("Joy", 3), ("Joy", 0.25)),
    "a score in an inner object": '[{"name":"Joy","score":0.25,"x":{"score":7}},{"name":"Awe","score":0.5}]',
    "an inner object for an outer one": '[{"name":"Joy","score":0.25,"x":{"name":"Awe","score":0.5}}]',
    "a key that ends like score": '[{"name":"Joy","score":0.25,"a\\"score":7},{"name":"Awe","score":0.5}]',
    "a key that begins with a quote": '[{"name":"Joy","score":0.25,"\\"score":7},{"name":"Awe","score":0.5}]',
    "a name with a brace": scores(("Joy}", 0.25), ("Awe", 0.5)),
    "a name like a score": scores(('a"score":1}', 0.25), ("Awe", 0.5)),
    "a name like an object": scores(('Joy","score":7},{"name":"Awe', 0.25)),
    "escapes": ROW.replace("Joy", "\\u004aoy"),
    "an escaped key": ROW.replace("score", "\\u0073core"),
    "a long name": scores(("Joy" * 5000, 0.25), ("Awe", 0.5)),
    "hundreds of names": scores(*((f"name {number}", number) for number in range(3000))),
}


@pytest.mark.parametrize("position", [0, 1, 511, 512, 599])
@pytest.mark.parametrize("other", OTHER_ROWS)
def test_a_row_that_is_laid_out_differently(other: str, position: int) -> None:
    lists = [ROW] * 600
    lists[position] = OTHER_ROWS[other]
    want = [{score["name"]: float(score["score"]) for score in json.loads(one)} for one in lists]
    assert only(meshes(lists)) == want


@pytest.mark.parametrize("other", OTHER_ROWS)
def test_all_rows_are_laid_out_differently(other: str) -> None:
    lists = [OTHER_ROWS[other]] * 3
    want = [{score["name"]: float(score["score"]) for score in json.loads(one)} for one in lists]
    assert only(meshes(lists)) == want


def test_rows_whose_texts_together_look_like_others() -> None:
    # Joined, both are the same text; each for itself is not.
    one, two = scores(("Joy", 1)), scores(("Joy", 2))
    assert only(meshes([one, two])) == [{"Joy": 1.0}, {"Joy": 2.0}]
    assert only(meshes(["[]", scores(("Joy", 1), ("Joy", 2))])) == [{}, {"Joy": 2.0}]
    assert only(meshes([scores(("Joy", 1), ("Awe", 2)), scores(("Joy", 3)), scores(("Awe", 4))])) == [
        {"Joy": 1.0, "Awe": 2.0},
        {"Joy": 3.0},
        {"Awe": 4.0},
    ]


DIGITS = st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,2})?", fullmatch=True)


@settings(patient, max_examples=300)
@given(st.lists(DIGITS | st.floats(allow_nan=False, allow_infinity=False).map(repr), min_size=1, max_size=20))
@example(
    ["9007199254740993", "9007199254740992.99999999999999999999", "8.41e-45", "1.00000000000000011102230246251565"]
)
def test_every_number_is_the_one_that_json_reads(literals: list[str]) -> None:
    data = meshes([scores(("Joy", literal), ("Awe", literals[0])) for literal in literals])
    with mock.patch.object(scoring, "from_lists", side_effect=AssertionError("the slow way")):
        assert [row["Joy"] for row in only(data)] == [float(json.loads(literal)) for literal in literals]
    rows = [f'{{"name":"Joy","score":{literal}}}' for literal in literals]
    # The last one has another layout: the slow way.
    assert [row["Joy"] for row in only(meshes([*(f"[{row}]" for row in rows), f"[ {rows[-1]}]"]))] == [
        float(json.loads(literal)) for literal in [*literals, literals[-1]]
    ]


WRONG = ["null", '"0.5"', "true", "[]", "{}", "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "0x10", "01", "+1",
         ".5", "1.", "1e", "", "- 1"]  # fmt: skip


@pytest.mark.parametrize("position", [0, 1, 520])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_score_that_is_no_number_is_a_decode_error(wrong: str, position: int, tmp_path: Path) -> None:
    lists = [ROW] * 530
    lists[position] = scores(("Joy", wrong), ("Awe", 0.5))
    data = meshes(lists)
    path = tmp_path / "predictions.json"
    path.write_bytes(data)
    at = "$[0].results.predictions[0].models.facemesh.grouped_predictions[0].predictions"
    begin = data.index(lists[position].encode()) + len('[{"name":"Joy","score":')
    makers: list[Callable[[], Any]] = [
        lambda: tables.facemesh(data),
        lambda: tables.facemesh(path),
        lambda: tables.facemesh(list(predictions.read(path))),
        lambda: list(tables.batches(data, "facemesh")),
    ]
    for make in makers:
        with pytest.raises(hb.DecodeError) as caught:
            make()
        assert caught.value.path == f"{at}[{position}].emotions[0].score"
        assert begin <= caught.value.offset <= begin + len(wrong) + 1
        assert caught.value.near
        assert (caught.value.data == data) == (caught.value.file is None)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (('"emotions":[{"name":"Joy"', '"emotions":[{"name":7'), ".emotions[0].name"),
        (('"emotions":[', '"emotions":null,"x":['), ".emotions"),
        (('"emotions":[', '"x":['), ""),
        (('"emotions":[', '"emotions":[null,'), ".emotions[0]"),
        (('"emotions":[', '"emotions":[{"name":"Joy"},'), ".emotions[0]"),
        (('"emotions":[', '"emotions":[{"score":1},'), ".emotions[0]"),
        (('"emotions":[', '"emotions":7,"x":['), ".emotions"),
        (("Joy", "J\x00oy"), ".emotions[0].name"),
    ],
)
def test_scores_that_are_not_what_the_schema_says(change: tuple[str, str], path: str, tmp_path: Path) -> None:
    data = meshes([ROW, ROW.replace("0.25", "0.75")])
    file = tmp_path / "predictions.json"
    start = data.index(b"0.75") - 40
    damaged = data[:start] + data[start:].replace(change[0].encode(), change[1].encode(), 1)
    assert damaged != data
    file.write_bytes(damaged)
    for given_results in (damaged, file):
        with pytest.raises(hb.DecodeError) as caught:
            tables.facemesh(given_results)
        found = caught.value.path.removeprefix("$[0].results.predictions[0].models.facemesh.")
        assert found == f"grouped_predictions[0].predictions[1]{path}"


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    data = meshes([ROW, ROW]).replace(b"Joy", b"J\xffy")
    file = tmp_path / "predictions.json"
    file.write_bytes(data)
    for given_results in (data, file):
        with pytest.raises(hb.DecodeError) as caught:
            tables.facemesh(given_results)
        assert caught.value.offset == data.index(b"\xff")


def test_descriptions_are_required_of_bursts_only() -> None:
    text = dumps(payload(1))
    start = text.index('"descriptions":[')
    changed = text[:start] + '"descriptions":null,"x":[' + text[start + len('"descriptions":[') :]
    assert tables.face(changed.encode()).num_rows == 1
    with pytest.raises(hb.DecodeError) as caught:
        tables.burst(changed.encode())
    assert caught.value.path.endswith(".burst.grouped_predictions[1].predictions[0].descriptions")


# ── many rows ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rows", [16383, 16384, 16385, 40000])
def test_many_rows(rows: int, tmp_path: Path) -> None:
    chance = random.Random(rows)
    lists = [(chance.random(), chance.random()) for _ in range(rows)]
    data = meshes([scores(("Joy", joy), ("Awe", awe)) for joy, awe in lists])
    path = tmp_path / "predictions.json"
    path.write_bytes(data)
    for results in (data, path, predictions.decode(data)):
        table = tables.facemesh(results)
        assert list(zip(table["Joy"].to_pylist(), table["Awe"].to_pylist(), strict=True)) == lists
        assert table["Fear"].null_count == rows
    assert max(batch.num_rows for batch in tables.batches(data, "facemesh")) <= 16384


def test_many_rows_with_names_of_their_own(tmp_path: Path) -> None:
    # A column per name would take gigabytes.
    data = meshes([scores((f"name {number}", number), ("Joy", 1)) for number in range(20_000)])
    found = tables.facemesh(data)
    assert found["other_scores"].to_pylist() == [
        [(f"emotions.name {number}", float(number))] for number in range(20_000)
    ]
    assert found["Joy"].to_pylist() == [1.0] * 20_000


def test_many_files_of_one_row_each() -> None:
    one = {"file": "", "models": {"facemesh": {"grouped_predictions": [{"id": "unknown", "predictions": [
        {"emotions": [{"name": "Joy", "score": 0.5}]}]}]}}}  # fmt: skip
    files = [{**one, "file": str(number)} for number in range(20_000)]
    data = json.dumps([{"source": {"type": "text"}, "results": {"predictions": files, "errors": []}}]).encode()
    for results in (data, predictions.decode(data)):
        table = tables.facemesh(results)
        assert table["file"].to_pylist() == [str(number) for number in range(20_000)]
        assert table["Joy"].to_pylist() == [0.5] * 20_000


def test_an_optional_field_in_some_blocks_only() -> None:
    text = dumps(payload(40))
    table = tables.face(text.encode())
    assert table["AU1 Inner Brow Raise"].null_count == 20
    assert table["AU1 Inner Brow Raise"].to_pylist()[:4] == [None, 0.0, None, 0.0]


# ── errors, and what cannot be a table ───────────────────────────────────────────────────────────


def test_the_table_of_errors(tmp_path: Path) -> None:
    text = dumps(payload(2))
    want = [
        ("a.zip", 0, "b.wav", None, "unable to transcribe"),
        ("a.zip", 0, "c", None, "no"),
        ("http://a/b", 1, None, None, "cannot be read"),
    ]
    names = ["source", "source_index", "file", "model", "message"]
    for way, made in ways(text, tmp_path):
        table = tables.errors(made())
        assert table.schema.names == names
        assert [tuple(line.values()) for line in table.to_pylist()] == want, way
    empty = tables.errors(b"[]")
    assert (empty.schema, empty.num_rows) == (tables.errors(text.encode()).schema, 0)


@pytest.mark.parametrize("model", MODELS)
def test_no_rows(model: str) -> None:
    no_rows = dumps([
        {"source": {"type": "text"}, "results": {"predictions": [
            {"file": "1", "models": {model: None}}, {"file": "2", "models": {}},
            {"file": "3", "models": {model: {"grouped_predictions": []}}},
            {"file": "4", "models": {model: {"grouped_predictions": [{"id": "a", "predictions": []}]}}},
        ], "errors": []}},
        {"source": {"type": "url", "url": "u"}, "error": "x"},
    ])  # fmt: skip
    for results in (b"[]", [], no_rows.encode(), predictions.decode(no_rows.encode())):
        table = tables.batches(results, model).read_all()
        assert (table.num_rows, table.schema) == (0, tables.schema(model))


def test_what_cannot_be_a_table(tmp_path: Path) -> None:
    with pytest.raises(hb.ConfigError, match="model"):
        tables.schema("faces")
    with pytest.raises(hb.ConfigError, match="model"):
        tables.batches(b"[]", "")
    data = meshes([ROW])
    (source,) = predictions.decode(data)
    wrongs: list[Any] = [json.loads(data), json.loads(data)[0], None, 7, [None], [source, "p.json"], open]
    for wrong in wrongs:
        for function in (tables.facemesh, tables.errors, tables.speakers, tables.top_emotions):
            with pytest.raises(hb.ConfigError, match=r"results: must be sources .*, not \w+"):
                function(wrong)
    with pytest.raises(hb.SourceError):
        tables.face(tmp_path / "missing.json")
    with pytest.raises(hb.DecodeError) as caught:
        tables.face(b'[{"source":{"type":"text"}')
    assert caught.value.path == "$[0].source"
    assert caught.value.data == b'[{"source":{"type":"text"}'


def test_bytes_of_any_kind_and_a_single_source() -> None:
    data = meshes([ROW])
    (source,) = predictions.decode(data)
    with predictions.PredictionsReader(data) as reader:
        for results in (bytearray(data), memoryview(data), source, reader[0]):
            assert tables.facemesh(results).equals(tables.facemesh(data))
            assert tables.errors(results).num_rows == 0
    with pytest.raises(hb.DecodeError):
        tables.facemesh(bytearray(data[:-1]))


def test_scores_that_somebody_made() -> None:
    row = predictions.FacemeshPrediction(Scores([Score("Joy", 1), Score("mine", 0.5), Score("Awe", float("nan"))]))
    groups = predictions.ModelPredictions([predictions.GroupedPredictions("a", [row])])
    file = predictions.Prediction("f", predictions.ModelsPredictions(facemesh=groups))
    made = predictions.SourceResult(predictions.Source("file", filename="x"), predictions.Results([file], []))
    (line,) = lines(tables.facemesh([made]))
    assert (line["source"], line["file"], line["Joy"]) == ("x", "f", 1.0)
    assert line["Awe"] != line["Awe"]
    assert line["other_scores"] == {"emotions.mine": 0.5}


def test_a_stream_that_is_left_early() -> None:
    data = meshes([scores(("Joy", number)) for number in range(40_000)])
    for batch in tables.batches(data, "facemesh"):
        assert batch.num_rows == 16384
        break


def test_numbers_of_strange_payloads_are_literals() -> None:
    # What this file relies on.
    assert dumps([Literal("1E5")]) == "[1E5]"
