"""The command line as a user meets it: real processes, a real server, exit codes and no secrets."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from .process import humebatch


def test_submit_wait_status_predictions_artifacts_list(media: Path, remote: dict[str, str]) -> None:
    submitted = humebatch("submit", "a", "--text", "Test!", "--models", "language,prosody", cwd=media, **remote)
    assert submitted.code == 0
    job = submitted.out.strip()
    assert len(job) == 36
    waited = humebatch("wait", job, "--timeout", "60", "--json", cwd=media, **remote)
    assert waited.code == 0
    assert json.loads(waited.out)["state"]["status"] == "COMPLETED"
    assert "COMPLETED" in humebatch("status", job, cwd=media, **remote).out
    predictions = humebatch("predictions", job, cwd=media, **remote)
    names = [one["source"].get("filename") for one in json.loads(predictions.out)]
    assert names == ["clip.wav", "letter.txt", None]
    assert humebatch("predictions", job, "--out", "p.json", cwd=media, **remote).out == ""
    assert (media / "p.json").read_text() == predictions.out
    assert humebatch("artifacts", job, cwd=media, **remote).code == 0
    with zipfile.ZipFile(media / f"{job}.zip") as archive:
        assert len({name.split("/")[0] for name in archive.namelist()}) == 3
    listed = humebatch("list", "--status", "COMPLETED", "--sort-by", "ended", "--json", cwd=media, **remote)
    assert job in [json.loads(line)["job_id"] for line in listed.out.splitlines()]


def test_run_saves_each_files_predictions_at_its_own_place(media: Path, remote: dict[str, str]) -> None:
    ran = humebatch("run", "a", "photo.png", "--out", "out", "--json", cwd=media, **remote)
    assert ran.code == 0, ran.err
    *findings, last = [json.loads(line) for line in ran.out.splitlines()]
    assert last["report"]["done"] == 3
    assert {finding["file"] for finding in findings} == {"a/clip.wav", "a/b/letter.txt", "photo.png"}
    for place in ("a/clip.wav", "a/b/letter.txt", "photo.png"):
        (source,) = json.loads((media / "out" / place / "predictions.json").read_text())
        assert source["source"]["filename"] == Path(place).name
    assert "3 files: 3 measured" in ran.err


def test_run_prints_the_paths_of_what_it_saved(media: Path, remote: dict[str, str]) -> None:
    ran = humebatch("run", "photo.png", "--models", "face", cwd=media, **remote)
    assert ran.code == 0
    (saved,) = ran.out.split()
    assert (media / saved).is_file()
    assert "face" in ran.err


def test_run_measures_more_than_a_hundred_files_in_several_jobs(tmp_path: Path, remote: dict[str, str]) -> None:
    for number in range(205):
        (tmp_path / f"{number:03}.txt").write_text(f"text number {number}")
    ran = humebatch("run", ".", "--models", "language", "--out", "out", cwd=tmp_path, **remote)
    assert ran.code == 0, ran.err
    assert len(ran.out.splitlines()) == 205
    (source,) = json.loads((tmp_path / "out" / "204.txt" / "predictions.json").read_text())
    text = source["results"]["predictions"][0]["models"]["language"]["grouped_predictions"][0]["predictions"]
    assert " ".join(row["text"] for row in text) == "text number 204"


def test_a_bad_file_does_not_stop_the_others(media: Path, remote: dict[str, str]) -> None:
    (media / "empty.txt").write_bytes(b"")
    ran = humebatch("run", "empty.txt", "photo.png", "--json", cwd=media, **remote)
    assert ran.code == 1
    findings = {json.loads(line)["file"]: json.loads(line) for line in ran.out.splitlines()[:-1]}
    assert "empty" in findings["empty.txt"]["error"]
    assert findings["photo.png"]["predictions"] == 1


def test_a_model_that_measures_nothing_is_told_and_decides_the_exit_code(media: Path) -> None:
    named = humebatch("run", "a/clip.wav", "--models", "prosody", cwd=media)
    assert named.code == 1
    assert "the audio cannot be decoded" in named.err
    assert "1 file: 0 measured, 0 in part, 1 not" in named.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "nowhere.wav"], 2, "nowhere.wav: no such file"),
        (["run", "photo.png", "--models", "faces"], 2, "'faces'"),
        (["run", "photo.png", "--models", '{"face": {"prob_threshold": 2}}'], 2, "models.face.prob_threshold"),
        (["run", "photo.png", "--models", "{"], 2, "--models"),
        (["run", "photo.png", "--base-url", "ftp://x"], 2, "base_url"),
        (["submit"], 2, "nothing to measure"),
        (["submit", "--text", "x", "--url", "nonsense"], 2, "urls[0]"),
        (["status", "no/such"], 2, "job_id"),
        (["status", "11111111-2222-4333-8444-555555555555"], 1, "job not found"),
        (["list", "--when", "yesterday"], 2, "when"),
        (["list", "--limit", "0"], 2, "limit"),
        (["nonsense"], 2, "nonsense"),
        (["wait", "11111111-2222-4333-8444-555555555555", "--api-key", "wrong"], 4, "API key"),
        (["run", "photo.png", "--api-key", "wrong"], 4, "API key"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(
    arguments: list[str], code: int, said: str, media: Path, remote: dict[str, str]
) -> None:
    ran = humebatch(*arguments, cwd=media, **remote)
    assert (ran.code, ran.out) == (code, ""), ran.err
    assert said in ran.err


def test_a_command_for_a_server_wants_to_know_which(media: Path) -> None:
    ran = humebatch("submit", "photo.png", cwd=media)
    assert ran.code == 2
    assert "HUMEBATCH_BASE_URL" in ran.err


def test_serve_refuses_what_would_surprise(tmp_path: Path) -> None:
    public = humebatch("serve", "--host", "0.0.0.0", "--port", "0", cwd=tmp_path)
    assert public.code == 2
    assert "needs one" in public.err


def test_models_says_what_measures_each_and_what_cannot_be_measured(tmp_path: Path) -> None:
    listed = humebatch("models", "--measure", "fixed", "--measure", "face=nobody", cwd=tmp_path)
    assert listed.code == 1
    first_lines = [part.splitlines()[0] for part in listed.out.split("\n\n")]
    assert first_lines[0].startswith("face: face is not measured: no measurer 'nobody' is installed")
    assert first_lines[1].startswith("burst: fixed ")
    assert all(line.endswith("(MADE-UP SCORES)") for line in first_lines[1:])
    assert len(first_lines) == 6
    wrong = humebatch("models", "voice", cwd=tmp_path)
    assert (wrong.code, wrong.out) == (2, "")
    assert "unknown model 'voice': expected face, burst" in wrong.err


def test_help_and_version(tmp_path: Path) -> None:
    helped = humebatch("--help", cwd=tmp_path)
    assert helped.code == 0
    for command in ("run", "serve", "submit", "status", "wait", "list", "predictions", "artifacts", "weights"):
        assert command in helped.out
        assert humebatch(command, "--help", cwd=tmp_path).code == 0
    assert humebatch("--version", cwd=tmp_path).out.strip() == "0.1.0"
