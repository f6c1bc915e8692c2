"""Parquet datasets and CSV files: what is in them, that they appear whole, and that they stay in their folder."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humebatch import predictions, tables
from humebatch._wire.codec import encode
from humebatch.errors import ConfigError, DecodeError
from humebatch.predictions import SourceResult, decode

from . import answers

Write = Callable[[tables.Predictions, Path], list[Path]]
BOTH = pytest.mark.parametrize("write", [tables.write_parquet, tables.write_csv])


def dataset(folder: Path) -> pa.Table:
    return pyarrow.dataset.dataset(folder).to_table()


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_dataset_per_model(tmp_path: Path) -> None:
    path = answers.saved(tmp_path)
    written = tables.write_parquet(path, tmp_path / "out")
    assert {path.parent.name for path in written} == {*tables.MODELS, "errors"}
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in written) == everything_in(tmp_path / "out")
    for model, table in tables.by_model(path).items():
        assert dataset(tmp_path / "out" / model).equals(table), model
    assert dataset(tmp_path / "out" / "errors").equals(tables.errors(path))
    assert pq.ParquetFile(written[0]).metadata.row_group(0).column(0).compression == "ZSTD"


def test_other_readers_read_it(tmp_path: Path) -> None:
    tables.write_parquet(answers.saved(tmp_path), tmp_path / "out")
    read = pl.read_parquet(tmp_path / "out" / "face" / "*.parquet")
    assert read["Joy"].to_list() == tables.face(tmp_path / "predictions.json")["Joy"].to_pylist()


def test_models_without_rows_have_no_dataset(tmp_path: Path) -> None:
    answer = [answers.source("a.mp4", answers.file("a.mp4", 0, "face"), answers.file("b.txt", 1, "language"))]
    (written,) = tables.write_parquet(encode(answer), tmp_path / "out")
    assert written == tmp_path / "out" / "language" / "part-00000.parquet"
    assert everything_in(tmp_path / "out") == ["language/part-00000.parquet"]


def kinds(folder: Path) -> Iterator[tuple[str, tables.Predictions]]:
    path = answers.saved(folder)
    yield "path", path
    yield "text path", str(path)
    yield "bytes", path.read_bytes()
    yield "decoded", decode(path.read_bytes())
    yield "reader", predictions.read(path)
    yield "generator", (source for source in decode(path.read_bytes()))


@BOTH
def test_whatever_the_results_are(tmp_path: Path, write: Write) -> None:
    found: set[tuple[tuple[str, bytes], ...]] = set()
    for name, results in kinds(tmp_path):
        write(results, tmp_path / name)
        found.add(tuple((file, (tmp_path / name / file).read_bytes()) for file in everything_in(tmp_path / name)))
    assert len(found) == 1
    assert len(next(iter(found))) > 6


def test_csv_files_are_those_of_the_servers_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(answers.zipped(tmp_path)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    written = tables.write_csv(answers.saved(tmp_path), tmp_path / "out")
    files = {str(path.relative_to(tmp_path / "out")): path.read_bytes() for path in written}
    assert files == {name: data for name, data in entries.items() if not name.endswith("/")}
    assert list(files) == [name for name in entries if not name.endswith("/")]
    # One folder per source, also of the one without a result.
    assert {path.name for path in (tmp_path / "out").iterdir()} == {name.split("/")[0] for name in entries}


def test_csv_dialect(tmp_path: Path) -> None:
    tables.write_csv(answers.saved(tmp_path), tmp_path / "out")
    raw = (tmp_path / "out/file-0-talk.mp4/csv/talk.mp4/language.csv").read_bytes()
    assert raw.startswith(
        b"Id,Text,BeginPosition,EndPosition,BeginTime,EndTime,Confidence,SpeakerConfidence,Admiration"
    )
    assert raw.endswith(b"\r\n")
    rows = list(csv.DictReader(io.StringIO(raw.decode(), newline="")))
    assert [row["Id"] for row in rows] == ["unknown"] * 3 + ["spk_0"] * 2
    assert rows[3]["Text"] == "two\r\nlines"
    assert rows[0]["BeginTime"] == ""
    face = (tmp_path / "out/file-0-talk.mp4/csv/talk.mp4/face.csv").read_text().splitlines()
    assert [len(line.split(",")) for line in face] == [119] * 6
    assert face[1].startswith("unknown,0,0.0,0.9990234375,1.5,2.0,100.25,80.125,")


@BOTH
def test_a_folder_with_something_in_it_is_refused(tmp_path: Path, write: Write) -> None:
    path = answers.saved(tmp_path)
    (tmp_path / "empty").mkdir()
    write(path, tmp_path / "empty")
    before = everything_in(tmp_path / "empty")
    with pytest.raises(ConfigError, match="empty: there is something in this folder"):
        write(path, tmp_path / "empty")
    with pytest.raises(ConfigError, match=r"predictions\.json"):
        write(path, path)
    assert everything_in(tmp_path / "empty") == before


@BOTH
def test_nothing_half_made_stays(tmp_path: Path, write: Write) -> None:
    bad = answers.whole()
    del bad[-1]["results"]["predictions"][-1]["models"]["language"]["grouped_predictions"][0]["predictions"][-1]["text"]
    path = answers.saved(tmp_path / "in", bad)
    (tmp_path / "there").mkdir()
    for folder in (tmp_path / "new", tmp_path / "there"):
        with pytest.raises(DecodeError):
            write(path, folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "there"]
    assert list((tmp_path / "there").iterdir()) == []


def test_row_groups_are_large_however_small_the_batches(tmp_path: Path) -> None:
    one = decode(encode([answers.source("a.jpg", answers.file("a.jpg", 1, "facemesh"))]))[0]
    (path,) = tables.write_parquet(mixed(one, 40_000), tmp_path / "out")
    about = pq.ParquetFile(path).metadata
    assert about.num_rows == 40_000
    assert [about.row_group(number).num_rows for number in range(about.num_row_groups)] == [16384, 16384, 7232]
    assert pq.read_table(path)["source_index"].to_pylist() == list(range(40_000))


def mixed(one: SourceResult, count: int) -> Iterator[SourceResult]:
    for _ in range(count):
        yield one


HOSTILE = ["../../x", "/etc/passwd", "..", "", "a/../../b", "C:\\x", "a\0b", "face.csv", "x" * 5000, "a/" * 3000 + "b"]


def check_csv_stays_inside(folder: Path, names: list[str], kind: str) -> None:
    sources = [
        answers.source(name, *(answers.file(inner, 1, "facemesh") for inner in names), kind=kind) for name in names
    ]
    written = tables.write_csv(encode(sources), folder / "a" / "out")
    assert len(set(written)) == len(names) ** 2
    assert all(path.resolve().is_relative_to((folder / "a" / "out").resolve()) for path in written)
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert [path.name for path in (folder / "a").iterdir()] == ["out"]


@pytest.mark.parametrize("kind", ["file", "url", "text"])
def test_hostile_names_stay_inside(tmp_path: Path, kind: str) -> None:
    check_csv_stays_inside(tmp_path, HOSTILE, kind)


def test_a_hostile_type_stays_inside(tmp_path: Path) -> None:
    answer = [answers.source("x", answers.file("x", 1, "facemesh"))]
    answer[0]["source"]["type"] = "../../up"
    (path,) = tables.write_csv(encode(answer), tmp_path / "out")
    assert path.resolve().is_relative_to(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@settings(max_examples=50, deadline=None)
@given(names=st.lists(st.text(st.sampled_from("ab/.\\:~_ é"), max_size=8), min_size=1, max_size=5))
def test_any_names_stay_inside(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    check_csv_stays_inside(tmp_path_factory.mktemp("csv"), names, "file")


def test_score_names_are_not_taken_for_columns(tmp_path: Path) -> None:
    answer = [answers.source("x", answers.file("x", 1, "language"))]
    (group, _) = answer[0]["results"]["predictions"][0]["models"]["language"]["grouped_predictions"]
    group["predictions"][0]["emotions"] += [{"name": name, "score": 7} for name in ("Id", "Text", "BeginTime")]
    (path,) = tables.write_csv(encode(answer), tmp_path / "out")
    (row,) = csv.DictReader(path.read_text().splitlines())
    assert (row["Id"], row["Text"], row["BeginTime"]) == ("unknown", "plain", "")


def test_pandas_and_polars(tmp_path: Path) -> None:
    table = tables.language(answers.saved(tmp_path))
    frame = table.to_pandas()
    assert frame.loc[frame["file"] == "1", "Joy"].notna().all()
    assert frame.groupby("source")["Joy"].count().to_dict() == {"talk.mp4": 5, "text": 4}
    lazy = pl.from_arrow(table)
    assert isinstance(lazy, pl.DataFrame)
    assert lazy["Joy"].to_list() == table["Joy"].to_pylist()
    assert lazy["begin"].null_count() == table["begin"].null_count > 0
