"""`humebatch run` when things go wrong: each input ends in one outcome, and what went wrong is one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import pytest

import humebatch as hb
from humebatch.cli.media import find_files
from humebatch.cli.options import models_from
from humebatch.cli.output import guarded

from .process import Ran, humebatch
from .scripted import answering, measured, source

NOBODY = "http://127.0.0.1:9"


def read(ran: Ran) -> list[dict[str, Any]]:
    """The findings in order of name; the last line is the report."""
    *findings, last = [json.loads(line) for line in ran.out.splitlines()]
    assert set(last) == {"report"}
    return sorted(findings, key=lambda one: one["file"])


def texts(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"text of {name}")


@pytest.mark.parametrize("out", ["file", "file/below", "/proc/foo"])
def test_out_is_tried_before_anything_is_sent(tmp_path: Path, out: str) -> None:
    texts(tmp_path, "a.txt", "file")
    ran = humebatch("run", "a.txt", "--out", out, "--base-url", NOBODY, cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert f"out: cannot write to {(tmp_path / out)}" in ran.err


@pytest.mark.parametrize("answer", [{"no": "list"}, b"[{", [source("a.txt")], [1, 2]])
def test_a_strange_answer_is_an_error_of_every_file(tmp_path: Path, answer: Any) -> None:
    texts(tmp_path, "a.txt", "b.txt")
    with answering(answer) as base_url:
        ran = humebatch("run", "a.txt", "b.txt", "--json", "--base-url", base_url, cwd=tmp_path)
        table = humebatch("run", "a.txt", "b.txt", "--base-url", base_url, cwd=tmp_path)
    assert ran.code == 1
    assert [(one["file"], bool(one["error"])) for one in read(ran)] == [("a.txt", True), ("b.txt", True)]
    assert "2 files: 0 measured, 0 in part, 2 not" in ran.err
    assert table.code == 1
    assert "b.txt/predictions.json" not in table.out


def test_one_strange_source_leaves_the_others(tmp_path: Path) -> None:
    texts(tmp_path, "a.txt", "b.txt")
    answer = [{"source": 5}, source("b.txt", predictions=[measured("b.txt")])]
    with answering(answer) as base_url:
        ran = humebatch("run", "a.txt", "b.txt", "--json", "--base-url", base_url, cwd=tmp_path)
    assert ran.code == 1
    bad, good = read(ran)
    assert "$[0].source" in bad["error"]
    assert good["predictions"] == 1
    assert not (tmp_path / "humebatch-out" / "a.txt").exists()


def test_results_that_cannot_be_saved_are_an_error_of_their_file(tmp_path: Path, remote: dict[str, str]) -> None:
    texts(tmp_path, "a.txt", "b.txt", "out/a.txt")
    arguments = ("run", "a.txt", "b.txt", "--models", "language", "--out", "out")
    ran = humebatch(*arguments, cwd=tmp_path, **remote)
    assert ran.code == 1
    assert ran.out == "out/b.txt/predictions.json\n"
    assert "2 files: 1 measured, 0 in part, 1 not" in ran.err
    (tmp_path / "out" / "a.txt").unlink()
    again = humebatch(*arguments, "--retry-failed", cwd=tmp_path, **remote)
    assert again.code == 0
    assert "; 1 job; 0 bytes sent" in again.err, "what was measured is not measured again"


def test_results_are_their_owners_and_nothing_else_is_left(tmp_path: Path, remote: dict[str, str]) -> None:
    texts(tmp_path, "a.txt")
    assert humebatch("run", "a.txt", "--models", "language", cwd=tmp_path, **remote).code == 0
    out = tmp_path / "humebatch-out"
    kept = ["a.txt", "a.txt/predictions.json", "index.jsonl", "journal.db", "journal.db.lock"]
    assert [path.relative_to(out).as_posix() for path in sorted(out.rglob("*"))] == kept
    assert {path.stat().st_mode & 0o777 for path in out.rglob("*") if path.is_file()} == {0o600}


def test_errors_in_groups_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def app() -> None:
        raise ExceptionGroup("tasks", [ExceptionGroup("inner", [OSError("the disk is full")])])

    def broken() -> None:
        raise ExceptionGroup("tasks", [ZeroDivisionError()])

    assert guarded(cast("Any", app)) == 1
    assert capsys.readouterr().err == "humebatch: the disk is full\n"
    with pytest.raises(ExceptionGroup):  # a bug of ours must not be hidden
        guarded(cast("Any", broken))


def test_names_that_are_not_unicode(tmp_path: Path, remote: dict[str, str]) -> None:
    for name in (b"bad\xff.txt", b"bad\xfe.txt"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_text("text")
    ran = humebatch("run", ".", "--models", "language", "--json", "--out", "out", cwd=tmp_path, **remote)
    assert ran.code == 0, ran.err
    assert [one["file"] for one in read(ran)] == ["bad\N{REPLACEMENT CHARACTER}.txt"] * 2
    assert all("inside" not in one for one in read(ran))
    assert "2 files: 2 measured" in ran.err
    empty = os.fsdecode(b"empty\xff.txt")
    (tmp_path / empty).write_bytes(b"")
    ran = humebatch("run", empty, "--json", "--out", "other", cwd=tmp_path, **remote)
    assert ran.code == 1
    assert read(ran)[0]["file"] == "empty\N{REPLACEMENT CHARACTER}.txt"


def test_a_source_with_neither_predictions_nor_errors_is_an_error(tmp_path: Path) -> None:
    texts(tmp_path, "a.txt", "empty.zip")
    answer = [source("a.txt", predictions=[measured("a.txt")]), source("empty.zip")]
    with answering(answer) as base_url:
        ran = humebatch("run", "a.txt", "empty.zip", "--json", "--base-url", base_url, cwd=tmp_path)
    assert ran.code == 1
    good, nothing = read(ran)
    assert good["predictions"] == 1
    assert nothing["file"] == "empty.zip"
    assert "nothing" in nothing["error"]
    assert "2 files: 1 measured, 0 in part, 1 not" in ran.err


def test_a_second_run_does_not_measure_the_results_of_the_first(tmp_path: Path, remote: dict[str, str]) -> None:
    texts(tmp_path, "a.txt", "b/c.txt")
    for _ in range(2):
        ran = humebatch("run", ".", "--models", "language", "--out", "b/../out", cwd=tmp_path, **remote)
        assert ran.code == 0, ran.err
        assert "2 files: 2 measured" in ran.err
    refused = humebatch("run", "b", "--out", "b", cwd=tmp_path, **remote)
    assert refused.code == 2
    assert "out: b lies in the folder for the results" in refused.err


def test_an_unreadable_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # By a patch: who runs the tests as root may read everything.
    texts(tmp_path, "a/locked/x.txt", "a/y.txt")
    locked = str(tmp_path / "a" / "locked")
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if path == locked:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(hb.SourceError, match="locked: Permission denied") as caught:
        find_files([tmp_path / "a"])
    assert caught.value.path == locked
    with pytest.raises(hb.SourceError, match="File name too long"):
        find_files([Path("x" * 300)])


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ('{"language": {"granulrity": "word"}}', "models.language has no 'granulrity'; there are granularity, "),
        ('{"prosody": {"window": {"lenght": 4}}}', "models.prosody.window has no 'lenght'; there are length, step"),
        ('{"burst": {"x": 1}}', "models.burst has no 'x'; it has no options"),
    ],
)
def test_misspelled_options_of_models_are_refused(models: str, said: str) -> None:
    with pytest.raises(hb.ConfigError) as caught:
        models_from(models)
    assert said in str(caught.value)
    assert caught.value.field == said.split(" ", maxsplit=1)[0] + "." + said.split("'")[1]


def test_models_keep_what_the_api_takes() -> None:
    given = '{"language": {"sentiment": {"any": 1}, "granularity": null}, "ner": null}'
    models = models_from(given)
    assert models is not None
    assert json.loads(hb_json(models)) == json.loads(given)


def hb_json(value: object) -> bytes:
    from humebatch._wire.codec import encode

    return encode(value)


def test_a_name_with_quotes_and_line_breaks_is_no_archive(tmp_path: Path, remote: dict[str, str]) -> None:
    texts(tmp_path, 'quo"te\n.txt', ":smile:.txt")
    ran = humebatch("run", ".", "--models", "language", "--json", "--out", "out", cwd=tmp_path, **remote)
    assert ran.code == 0, ran.err
    assert [(one["file"], one.get("inside")) for one in read(ran)] == [(":smile:.txt", None), ('quo"te\n.txt', None)]
    ran = humebatch("run", ".", "--models", "language", "--out", "out", cwd=tmp_path, **remote)
    assert ":smile:.txt" in ran.err


def test_sentences_are_not_broken_at_80_columns(tmp_path: Path) -> None:
    ran = humebatch("run", "a.txt", "--out", "x" * 300, "--base-url", NOBODY, cwd=tmp_path, COLUMNS="")
    assert len(ran.err.splitlines()) == 1
    texts(tmp_path, "a.txt")
    out = "y" * 200
    with answering([source("a.txt", predictions=[measured("a.txt")])]) as base_url:
        ran = humebatch("run", "a.txt", "--out", out, "--base-url", base_url, cwd=tmp_path, COLUMNS="")
        shown = humebatch("journal", "show", f"{out}/journal.db", cwd=tmp_path, COLUMNS="")
    assert ran.out == f"{out}/a.txt/predictions.json\n"
    assert [line for line in shown.err.splitlines() if line.endswith(out)]


def test_a_key_without_a_server_is_refused(tmp_path: Path) -> None:
    texts(tmp_path, "a.txt")
    ran = humebatch("run", "a.txt", "--api-key", "x", cwd=tmp_path)
    assert ran.code == 2
    assert "--api-key goes with --base-url" in ran.err
