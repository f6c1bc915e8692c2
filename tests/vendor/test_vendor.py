"""The vendor's own clients, unchanged, against this server: what they decode is what the hosted API gave them."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.server.process import served

HERE = Path(__file__).parent
KEY = "vendor-test-key"
WAV = b"RIFF\x24\0\0\0WAVEfmt " + bytes(28)
FILES = {
    "a.txt": b"A first file.",
    "h\u00e9llo w\u00f6rld \u65e5\u672c.txt": b"Test!",
    "p.png": b"\x89PNG\r\n\x1a\n",
    "tone.wav": WAV,
    "unknown.bin": b"\0\1\2",
}
GIVEN = ("given.dat", "audio/x-given")
INVALID = {
    "message": "Invalid ApiKey",
    "field": "X-Hume-Api-Key",
    "fault": {"faultstring": "Invalid ApiKey", "detail": {"errorcode": "oauth.v2.InvalidApiKey"}},
    "detail": "the API key is wrong: this server does not know it",
}


def drive(python: Path, script: str, folder: Path, files: dict[str, bytes]) -> Any:
    """Run a driver against a server of its own; its report."""
    media = folder / "media"
    media.mkdir()
    for name, content in files.items():
        (media / name).write_bytes(content)
    with served(folder / "data", key=KEY) as server:
        ended = subprocess.run(
            [str(python), str(HERE / script), server.base_url, KEY, str(media)],
            capture_output=True,
            text=True,
            timeout=180,
            # The clients read keys and addresses from the environment too.
            env={"PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "utf-8", "NO_PROXY": "*"},
        )
        assert ended.returncode == 0, ended.stderr
        server.process.terminate()
        assert server.end() == 0
        assert "Traceback" not in server.errors()
    return json.loads(ended.stdout)


@pytest.fixture(scope="module")
def whole_report(hume_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return drive(hume_python, "drive_hume.py", tmp_path_factory.mktemp("hume"), FILES)


@pytest.fixture(params=["sync", "async"])
def report(request: pytest.FixtureRequest, whole_report: Any) -> Any:
    return whole_report[request.param]


def test_a_text_job(report: Any) -> None:
    text = report["text"]
    assert len(text.pop("job_id")) == 36
    assert text == {
        "type": "INFERENCE",
        "details_class": "InferenceJob",
        "state_class": "StateInference_Completed",
        "transcription": None,
        "notify": True,
        "source": "text",
        "file": "1",
        "texts": ["Test!"],
        "emotions": [53],
        "num_predictions": 1,
    }


def test_the_echo_of_a_request_with_everything(report: Any) -> None:
    urls = report["urls"]
    assert urls["face"] == {
        "fps_pred": 5.0,
        "prob_threshold": 0.24,
        "identify_faces": True,
        "min_face_size": 78,
        "facs": {},
        "descriptions": {},
        "save_faces": False,
    }
    assert urls["transcription"] == {"language": "en", "identify_speakers": True, "confidence_threshold": 0.3}
    assert urls["urls"] == ["https://x.example/faces.zip"]
    assert urls["text"] == ["I like it.", "h\u00e9"]
    assert urls["callback_url"] == "http://127.0.0.1:9/cb"
    assert urls["sources"] == ["url", "text"]
    assert "the name of its server" in urls["error"]
    assert urls["texts"] == ["1", "2"]


def test_every_answer_becomes_the_sdks_own_classes(report: Any) -> None:
    classes = set(report["urls"]["classes"]) | set(report["files"]["classes"])
    assert classes >= {
        *("InferenceJob", "InferenceRequest", "Models", "Face", "Prosody", "Language", "Ner", "Transcription", "File"),
        *("StateInference_Completed", "InferenceSourcePredictResult", "InferenceResults", "InferencePrediction"),
        *("Source_Url", "Source_File", "Source_Text", "ModelsPredictions", "Error", "EmotionScore", "FacsScore"),
        *("FacePrediction", "BoundingBox", "DescriptionsScore", "BurstPrediction", "ProsodyPrediction"),
        *("LanguagePrediction", "SentimentScore", "ToxicityScore", "NerPrediction", "TimeInterval", "PositionInterval"),
        *("GroupedPredictionsFacePrediction", "GroupedPredictionsLanguagePrediction"),
    }
    # Dictionaries stay only where the SDK itself has nothing better ("unconfigurable" options).
    models = "details.request.models"
    unconfigurable = {
        *(f"{models}.burst", f"{models}.facemesh", f"{models}.face.facs", f"{models}.face.descriptions"),
        *(f"{models}.language.sentiment", f"{models}.language.toxicity"),
    }
    for name in ("urls", "files"):
        assert set(report[name]["dictionaries"]) <= {*unconfigurable, "results.measured_by"}
        # Beyond the SDK's classes there is only what the hosted API sent beyond them too.
        assert set(report[name]["extra"]) <= {
            *("InferencePrediction.file_type", "Error.model"),
            # Extensions of ours, which the vendor's structs keep as they are.
            *("InferenceSourcePredictResult.measured_by", "StateInference_Completed.files_done"),
        }


def test_files(report: Any) -> None:
    files = report["files"]
    types = {".txt": "text/plain", ".wav": "audio/x-wav", ".png": "image/png", ".bin": "application/octet-stream"}
    sent = [(name, types[Path(name).suffix], content) for name, content in sorted(FILES.items())]
    sent.append((*GIVEN, WAV))
    md5 = [hashlib.md5(content, usedforsecurity=False).hexdigest() for _, _, content in sent]
    assert files["echo"] == [[name, kind, digest] for (name, kind, _), digest in zip(sent, md5, strict=True)]
    assert files["sources"] == [*[["file", name] for name, _, _ in sent], ["text", None]]
    spoken = ["burst", "prosody"]  # the request switches transcription off, so there are no words
    assert files["predicted"] == {
        "a.txt": ["language", "ner"],
        "h\u00e9llo w\u00f6rld \u65e5\u672c.txt": ["language", "ner"],
        "p.png": ["face"],
        "tone.wav": spoken,
        "given.dat": spoken,
        "1": ["language", "ner"],
    }


def test_artifacts(report: Any) -> None:
    files = report["files"]
    assert files["bad_member"] is None
    names = [*sorted(FILES), GIVEN[0]]
    assert files["tops"] == sorted([*[f"file-{number}-{name}" for number, name in enumerate(names)], "text-6"])
    assert "file-0-a.txt/csv/a.txt/language.csv" in files["tables"]
    assert len(files["tables"]) == 2 + 2 + 1 + 2 + 2 + 2


def test_without_models_all_run(report: Any) -> None:
    assert report["bare"] == dict.fromkeys(("face", "burst", "prosody", "language", "ner", "facemesh"), True)


def test_lists(report: Any) -> None:
    # Numbers are the order in which the jobs were started, one after the other.
    assert report["lists"] == {
        "plain": [3, 2, 1, 0],
        "limit": [3, 2],
        # The five oldest: the second client meets those of the first.
        "all filters": report["lists"]["all filters"],
        "several statuses": [],
        "after": [],
        "started": [3, 2, 1, 0],
        "ended": [0, 1, 2, 3],
    }
    assert report["list_classes"] == ["InferenceJob"]
    assert report["lists"]["all filters"] in ([0, 1, 2, 3], [0])


@pytest.mark.parametrize("call", ["details", "predictions", "artifacts"])
def test_an_unknown_job(report: Any, call: str) -> None:
    assert report["unknown"][call] == {"status": 404, "body": {"message": "job not found", "field": "id"}}


@pytest.mark.parametrize("call", ["list", "start", "file", "details", "predictions"])
def test_a_wrong_key(report: Any, call: str) -> None:
    assert report["wrong_key"][call] == {"status": 401, "body": INVALID}


def test_a_wrong_key_for_artifacts(report: Any) -> None:
    assert report["wrong_key"]["artifacts"]["status"] == 401


def test_refusals_name_the_field(report: Any) -> None:
    assert report["refused"]["limit"]["status"] == 400
    assert report["refused"]["limit"]["body"]["field"] == "limit"
    assert report["refused"]["nothing"]["status"] == 400
    assert "nothing to measure" in report["refused"]["nothing"]["body"]["message"]


# ---- the client before that ---------------------------------------------------------------------

LEGACY_FILES = {"happy.txt": b"A smile a day keeps the sadness away.", "h\u00e9llo.txt": b"x"}


@pytest.fixture(scope="module")
def legacy(legacy_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return drive(legacy_python, "drive_legacy.py", tmp_path_factory.mktemp("legacy"), LEGACY_FILES)


def test_legacy_text(legacy: Any) -> None:
    assert legacy["first_status"] in ("QUEUED", "IN_PROGRESS", "COMPLETED")
    assert legacy["text"]["status"] == "COMPLETED"
    assert len(legacy["text"]["id"]) == 36
    assert legacy["text"]["text"] == ["Test!"]
    assert (legacy["text"]["urls"], legacy["text"]["files"]) == ([], [])
    assert legacy["text"]["ran"]
    assert legacy["text"]["created"]
    (source,) = legacy["text_predictions"]
    (prediction,) = source["results"]["predictions"]
    (group,) = prediction["models"]["language"]["grouped_predictions"]
    assert [row["text"] for row in group["predictions"]] == ["Test!"]
    assert legacy["saved_predictions"] == legacy["text_predictions"]
    assert len({name.split("/")[0] for name in legacy["artifacts"]}) == 1


def test_legacy_urls_and_configs(legacy: Any) -> None:
    urls = legacy["urls"]
    assert urls["status"] == "COMPLETED"
    assert urls["urls"] == ["https://x.example/a.mp3"]
    assert urls["callback_url"] == "http://127.0.0.1:9/cb"
    assert urls["notify"] is True
    assert urls["configs"] == {
        "face": {
            "fps_pred": 5,
            "prob_threshold": 0.24,
            "identify_faces": True,
            "min_face_size": 78,
            "save_faces": False,
            "facs": {},
            "descriptions": {},
        },
        "burst": {},
        "prosody": {"identify_speakers": True, "granularity": "word", "window": {"length": 4.0, "step": 1.0}},
        "language": {"granularity": "sentence", "identify_speakers": False, "sentiment": {}, "toxicity": {}},
        "ner": {"identify_speakers": True},
    }


def test_legacy_files(legacy: Any) -> None:
    assert legacy["files"]["status"] == "COMPLETED"
    # That client's parts have no content type at all.
    assert legacy["files"]["files"] == [
        {"filename": name, "content_type": None, "md5sum": hashlib.md5(content, usedforsecurity=False).hexdigest()}
        for name, content in LEGACY_FILES.items()
    ]
    assert legacy["language_known"] is True
    first, second = legacy["file_predictions"]
    assert [first["source"]["filename"], second["source"]["filename"]] == list(LEGACY_FILES)
    (prediction,) = first["results"]["predictions"]
    (group,) = prediction["models"]["language"]["grouped_predictions"]
    # A file of one sentence at `sentence` gives exactly one prediction.
    assert [row["text"] for row in group["predictions"]] == ["A smile a day keeps the sadness away."]


def test_legacy_errors(legacy: Any) -> None:
    unknown = "Could not find a job with ID 00000000-0000-4000-8000-000000000404"
    assert legacy["wrong_key"] == "HumeBatchClient initialized with invalid API key."
    assert legacy["unknown_details"] == unknown
    assert legacy["unknown_predictions"] == unknown
