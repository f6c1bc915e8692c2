"""The artifacts ZIP: the layout and the CSV dialect of real ones, whatever names files have."""

from __future__ import annotations

import csv
import io
import json
import stat
import zipfile
from pathlib import Path, PurePosixPath

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humebatch import vocabulary
from humebatch._wire.artifact_csv import HEADERS, cells, write_csv
from humebatch._wire.codec import encode
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
)
from humebatch.server.artifacts import build

# Header rows of real ZIPs of the hosted service.
RECORDED: dict[str, list[str]] = json.loads((Path(__file__).parent / "csv_headers.json").read_bytes())


def scores(names: tuple[str, ...], start: float = 0.0) -> Scores:
    return Scores(Score(name=name, score=start + number / 1000) for number, name in enumerate(names))


FACE = FacePrediction(
    frame=30,
    time=1.5,
    prob=0.9990234375,
    box=BoundingBox(x=1.5, y=2.5, w=100.0, h=110.25),
    emotions=scores(vocabulary.EMOTIONS),
)
LANGUAGE = LanguagePrediction(
    text='He said "no", then\r\nleft.',
    position=PositionInterval(begin=0, end=26),
    emotions=scores(vocabulary.LANGUAGE_EMOTIONS),
)
PROSODY = ProsodyPrediction(time=TimeInterval(begin=0.25, end=1.0), emotions=scores(vocabulary.EMOTIONS), text="a,b")
TEXT_MODEL = ModelsPredictions(
    language=ModelPredictions(grouped_predictions=[GroupedPredictions(id="unknown", predictions=[LANGUAGE])])
)


def file_result(filename: str | None, *members: str) -> SourceResult:
    return SourceResult(
        source=Source(type="file", filename=filename, md5sum="0" * 32),
        results=Results(predictions=[Prediction(file=name, models=TEXT_MODEL) for name in members], errors=[]),
    )


def zip_of(folder: Path, *results: SourceResult) -> list[zipfile.ZipInfo]:
    (folder / "predictions.json").write_bytes(encode(list(results)))
    build(folder / "predictions.json", folder / "artifacts.zip")
    with zipfile.ZipFile(folder / "artifacts.zip") as archive:
        assert archive.testzip() is None
        return archive.infolist()


def table(model: str, group: str, *rows: object) -> tuple[str, list[dict[str, str]]]:
    out = io.StringIO(newline="")
    write_csv(out, model, [cells(model, group, row) for row in rows])
    text = out.getvalue()
    return text, list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


@pytest.mark.parametrize(("name", "count"), [("face", 119), ("prosody", 54), ("language", 76)])
def test_headers_are_those_of_real_zips(name: str, count: int) -> None:
    assert len(HEADERS[name]) == count
    assert list(HEADERS[name]) == RECORDED[f"{name}.csv"]


@pytest.mark.parametrize("model", HEADERS)
def test_no_column_twice(model: str) -> None:
    assert len(set(HEADERS[model])) == len(HEADERS[model])


def test_the_dialect() -> None:
    text, _ = table("prosody", "spk_0", PROSODY)
    first, second, end = text.split("\r\n")
    assert end == ""
    assert first.startswith("Id,Text,BeginTime,EndTime,Confidence,SpeakerConfidence,Admiration,")
    # Minimal quoting, an empty cell for null, numbers as they are.
    assert second.startswith('spk_0,"a,b",0.25,1.0,,,0.0,0.001,')
    assert not text.startswith("\ufeff")


def test_face_rows() -> None:
    _, (row,) = table("face", "face_0", FACE)
    assert len(row) == 119
    assert row["Id"] == "face_0"
    assert (row["Frame"], row["Time"], row["Probability"]) == ("30", "1.5", "0.9990234375")
    assert [row[name] for name in ("FaceX0", "FaceY0", "FaceWidth", "FaceHeight")] == ["1.5", "2.5", "100.0", "110.25"]
    # Each score under its own name, although CSV and JSON order them differently.
    assert {name: float(row[name]) for name in vocabulary.EMOTIONS} == {s.name: s.score for s in FACE.emotions}
    # FACS and descriptions have their columns even when nobody asked for them.
    assert {row[name] for name in (*vocabulary.FACS, *vocabulary.FACE_DESCRIPTIONS)} == {""}


def test_face_rows_with_everything() -> None:
    full = FacePrediction(
        frame=0,
        time=0,
        prob=1.0,
        box=FACE.box,
        emotions=FACE.emotions,
        facs=scores(vocabulary.FACS, 1.0),
        descriptions=scores(vocabulary.FACE_DESCRIPTIONS, 2.0),
    )
    _, (row,) = table("face", "unknown", full)
    for score in (*(full.facs or ()), *(full.descriptions or ())):
        assert float(row[score.name]) == score.score
    assert "" not in row.values()


def test_language_rows() -> None:
    _, (row,) = table("language", "unknown", LANGUAGE)
    assert len(row) == 76
    assert row["Text"] == LANGUAGE.text
    assert (row["BeginPosition"], row["EndPosition"]) == ("0", "26")
    assert {row[name] for name in ("BeginTime", "EndTime", "Confidence", "SpeakerConfidence")} == {""}
    assert {row[name] for name in (*vocabulary.SENTIMENT, *vocabulary.TOXICITY)} == {""}


def test_the_other_models_rows() -> None:
    burst = BurstPrediction(
        time=TimeInterval(begin=0, end=1),
        emotions=scores(vocabulary.EMOTIONS),
        descriptions=scores(vocabulary.BURST_DESCRIPTIONS),
    )
    ner = NerPrediction(
        entity="Paris",
        position=PositionInterval(begin=1, end=6),
        entity_confidence=0.5,
        support=3.0,
        uri="https://x.example/Paris",
        link_word="Paris",
        emotions=scores(vocabulary.LANGUAGE_EMOTIONS),
    )
    mesh = FacemeshPrediction(emotions=scores(vocabulary.EMOTIONS))
    _, (burst_row,) = table("burst", "unknown", burst)
    _, (ner_row,) = table("ner", "unknown", ner)
    _, (mesh_row,) = table("facemesh", "unknown", mesh)
    assert "" not in burst_row.values()
    assert (ner_row["Entity"], ner_row["Uri"], ner_row["Support"]) == ("Paris", "https://x.example/Paris", "3.0")
    assert "" not in mesh_row.values()


def test_layout(tmp_path: Path) -> None:
    entries = zip_of(
        tmp_path,
        SourceResult(source=Source(type="url", url="https://x.example/a/b.mp4?x=1"), error="not fetched"),
        file_result("bad_interview.mp4", "bad_interview.mp4"),
        file_result("faces.zip", "faces/1.jpg", "faces/2.jpg"),
        SourceResult(
            source=Source(type="text"),
            results=Results(predictions=[Prediction(file="1", models=TEXT_MODEL)], errors=[]),
        ),
    )
    assert [entry.filename for entry in entries if not entry.is_dir()] == [
        "file-1-bad_interview.mp4/csv/bad_interview.mp4/language.csv",
        "file-2-faces.zip/csv/faces/1.jpg/language.csv",
        "file-2-faces.zip/csv/faces/2.jpg/language.csv",
        "text-3/csv/1/language.csv",
    ]
    # One folder for each source, also for one without a result.
    assert len({entry.filename.split("/")[0] for entry in entries}) == 4
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}


def test_nothing_half_made_stays(tmp_path: Path) -> None:
    (tmp_path / "predictions.json").write_bytes(b"[{")
    with pytest.raises(msgspec.DecodeError):
        build(tmp_path / "predictions.json", tmp_path / "artifacts.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.json"]


HOSTILE = [
    *(
        "../../etc/passwd",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a/../../b",
        "C:\\Windows\\x.dll",
        "con:stream",
        "a\0b",
        "\r\n",
    ),
    *("\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe", "\N{PILE OF POO}", " . ", "x" * 5000, '"<>|?*', "./a", "a//b", "\x7f"),
]


def check_unpacks(folder: Path, entries: list[zipfile.ZipInfo], sources: int) -> None:
    assert len({entry.filename.split("/")[0] for entry in entries}) == sources
    assert len({entry.filename for entry in entries}) == len(entries)
    files = {entry.filename for entry in entries if not entry.is_dir()}
    for entry in entries:
        steps = PurePosixPath(entry.filename).parts
        assert not entry.filename.startswith("/")
        assert ".." not in steps
        assert not set(entry.filename) & set('\\:*?"<>|\0\r\n')
        assert stat.S_IFMT(entry.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)
        # No file stands where another one's folder must be.
        assert not any(str(parent) in files for parent in PurePosixPath(entry.filename).parents)
        assert all(len(step.encode()) <= 255 for step in steps), "no file system takes such a name"
    with zipfile.ZipFile(folder / "artifacts.zip") as archive:
        (folder / "out").mkdir()
        archive.extractall(folder / "out")
    assert len([path for path in (folder / "out").rglob("*") if path.is_file()]) == len(files)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(tmp_path: Path, name: str) -> None:
    entries = zip_of(tmp_path, file_result(name, name), file_result(name, name, name, "language.csv"))
    check_unpacks(tmp_path, entries, 2)


def test_a_file_and_a_folder_of_one_name(tmp_path: Path) -> None:
    entries = zip_of(tmp_path, file_result("x.zip", "a", "a/language.csv", "a/language.csv/b", "A"))
    check_unpacks(tmp_path, entries, 1)


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(
        st.text(st.sampled_from("ab/.\\: _\u00e9"), max_size=8)
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
        min_size=1,
        max_size=6,
    )
)
def test_any_names(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    folder = tmp_path_factory.mktemp("zip")
    check_unpacks(folder, zip_of(folder, file_result(names[0], *names)), 1)
