"""`humebatch tables`: many inputs of all kinds, one dataset."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pytest

from humebatch._wire.codec import encode
from tests.tables import answers

from .process import humebatch

ANSWER = [answers.source(f"{name}.mp4", answers.file(f"{name}.mp4", 2, "face", "language")) for name in "ab"]
NO_TIME = [answers.source("c.mp4", answers.file("ok.mp4", 2, "face"), answers.file("c.mp4", 1, "face"))]
del NO_TIME[0]["results"]["predictions"][1]["models"]["face"]["grouped_predictions"][0]["predictions"][0]["time"]


def dataset(folder: Path) -> pa.Table:
    return pyarrow.dataset.dataset(folder).to_table()


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Saved answers in all forms; two sources in each, and an error in the first."""
    first = [*ANSWER[:1], answers.source("b.mp4", ANSWER[1]["results"]["predictions"][0], errors=[error()])]
    answers.saved(tmp_path / "in/one", first)
    answers.saved(tmp_path / "in/two/deep", ANSWER)
    answers.saved(tmp_path / "in/two/.hidden", ANSWER)
    answers.saved(tmp_path / "in/two", ANSWER, "of_another_name.json")
    (tmp_path / "in/two/predictions.json.gz").write_bytes(gzip.compress(encode(ANSWER)))
    answers.zipped(tmp_path, ANSWER)
    return tmp_path


def error() -> answers.Json:
    return {"file": "x.mp4", "model": "prosody", "message": "no speech"}


def test_several_inputs_become_one_dataset(inputs: Path) -> None:
    ran = humebatch("tables", "in", "artifacts.zip", "in/one/predictions.json", "--out", "out", cwd=inputs)
    assert ran.code == 0, ran.err
    assert ran.out.splitlines() == [f"out/{name}/part-00000.parquet" for name in ("face", "language", "errors")]
    assert "4 of 4 inputs, 3 files in out" in ran.err
    face = dataset(inputs / "out/face")
    # Four inputs of two sources, each of two rows; the one that was given twice is there once.
    assert face["source_index"].to_pylist() == [number for number in range(8) for _ in range(2)]
    assert set(face["source"].to_pylist()) == {"a.mp4", "b.mp4"}
    assert dataset(inputs / "out/errors")["source_index"].to_pylist() == [1]


def test_csv(inputs: Path) -> None:
    ran = humebatch("tables", "artifacts.zip", "in/two/deep", "--to", "csv", "--out", "out", "--json", cwd=inputs)
    assert ran.code == 0, ran.err
    paths = [json.loads(line)["path"] for line in ran.out.splitlines()]
    assert len(paths) == 8
    with zipfile.ZipFile(inputs / "artifacts.zip") as archive:
        for entry in archive.namelist():
            if not entry.endswith("/"):
                # Source 0 of the second input is number 2.
                again = entry.replace("file-0", "file-2").replace("file-1", "file-3")
                assert (inputs / "out" / entry).read_bytes() == archive.read(entry)
                assert (inputs / "out" / again).read_bytes() == archive.read(entry)
                assert {f"out/{entry}", f"out/{again}"} <= set(paths)


@pytest.mark.parametrize("to", ["parquet", "csv"])
def test_bad_inputs_are_named_and_the_others_done(inputs: Path, to: str) -> None:
    (inputs / "empty").mkdir()
    (inputs / "cut.json").write_bytes(encode(ANSWER)[:-50])
    (inputs / "cut.zip").write_bytes((inputs / "artifacts.zip").read_bytes()[:-50])
    answers.saved(inputs, NO_TIME, "no_time.json")
    bad = ["nowhere.json", "empty", "cut.json", "cut.zip", "no_time.json"]
    ran = humebatch("tables", *bad, "in/one", "artifacts.zip", "--to", to, "--out", "out", cwd=inputs)
    assert ran.code == 1
    lines = ran.err.splitlines()
    for path in bad:
        assert sum(line.startswith(f"{path}: ") for line in lines) == 1, path
    assert "2 of 7 inputs" in lines[-1]
    assert "`time`" in next(line for line in lines if line.startswith("no_time.json"))
    if to == "parquet":
        face = dataset(inputs / "out/face")
        assert face["source_index"].to_pylist() == [0, 0, 1, 1, 2, 2, 3, 3]
        assert "c.mp4" not in face["source"].to_pylist(), "nothing of an input that is not read to its end"
    else:
        assert sorted(path.name for path in (inputs / "out").iterdir()) == [
            *("file-0-a.mp4", "file-1-b.mp4", "file-2-a.mp4", "file-3-b.mp4")
        ]


def test_nothing_readable(inputs: Path) -> None:
    (inputs / "cut.json").write_bytes(b"[{")
    answers.saved(inputs, NO_TIME, "no_time.json")
    ran = humebatch("tables", "cut.json", "no_time.json", "nowhere.json", "--out", "out", cwd=inputs)
    assert (ran.code, ran.out) == (1, "")
    assert len(ran.err.splitlines()) == 4
    (inputs / "empty").mkdir()
    ran = humebatch("tables", "empty", "nowhere.json", "--out", "out", cwd=inputs)
    assert (ran.code, ran.out) == (2, "")
    assert [line.split(":")[0] for line in ran.err.splitlines()[:-1]] == ["empty", "nowhere.json"]
    assert not (inputs / "out").exists()


def test_csv_says_what_it_has_no_place_for(inputs: Path) -> None:
    said = "CSV has no place for the errors in these answers (3)"
    answers.saved(inputs, answers.whole(), "whole.json")
    answers.saved(inputs, NO_TIME, "no_time.json")
    given = ("whole.json", "in/one", "no_time.json")
    ran = humebatch("tables", *given, "--to", "csv", "--out", "csv", cwd=inputs)
    assert ran.code == 1
    assert said in ran.err
    assert "no place" not in humebatch("tables", *given, "--out", "parquet", cwd=inputs).err
    assert dataset(inputs / "parquet/errors").num_rows == 3
    assert "no place" not in humebatch("tables", "artifacts.zip", "--to", "csv", "--out", "zip", cwd=inputs).err


def test_the_folder_must_be_new_or_empty(inputs: Path) -> None:
    for out, said in (("in", "there is something in this folder"), ("artifacts.zip", "artifacts.zip: ")):
        ran = humebatch("tables", "artifacts.zip", "--out", out, cwd=inputs)
        assert (ran.code, ran.out) == (2, "")
        assert said in ran.err
    assert humebatch("tables", "artifacts.zip", cwd=inputs).code == 2


def test_an_answer_without_rows_is_no_error(tmp_path: Path) -> None:
    answers.saved(tmp_path, [])
    ran = humebatch("tables", "predictions.json", "--out", "out", cwd=tmp_path)
    assert (ran.code, ran.out) == (0, "")


@pytest.mark.parametrize("to", ["parquet", "csv"])
def test_interrupted(tmp_path: Path, to: str) -> None:
    # Much more than is written between the look at the folder and the signal.
    answers.large(tmp_path, 200_000_000)
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-m", "humebatch", "tables", "predictions.json", "--to", to, "--out", "out"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not any((tmp_path / "out").iterdir()):
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "humebatch: interrupted\n")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_extra_is_named_when_it_is_missing(tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ModuleNotFoundError(name='pyarrow')\n")
    answers.saved(tmp_path, ANSWER)
    ran = humebatch("tables", "predictions.json", "--out", "out", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert ran.code == 2
    assert "pip install 'humebatch[tables]'" in ran.err
