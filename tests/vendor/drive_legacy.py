"""Run by the Python of the legacy environment: `HumeBatchClient` of `hume==0.4.2`, and what came of it as JSON.

drive_legacy.py BASE_URL KEY FOLDER
"""

# The vendor's client is installed in its own environment only.
# mypy: disable-error-code="import-not-found"
# pyright: reportMissingImports=false
from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

from hume import HumeBatchClient, HumeClientException, TranscriptionConfig
from hume.models import ModelType
from hume.models.config import BurstConfig, FaceConfig, LanguageConfig, NerConfig, ProsodyConfig

UNKNOWN = "00000000-0000-4000-8000-000000000404"


def error(call: Any) -> str | None:
    try:
        call()
    except HumeClientException as caught:
        return str(caught)
    return None


def finished(job: Any) -> dict[str, Any]:
    details = job.await_complete(timeout=60, raise_on_failed=True)
    return {
        "id": job.id,
        "status": details.get_status().value,
        "urls": details.urls,
        "files": details.files,
        "text": details.text,
        "callback_url": details.callback_url,
        "notify": details.notify,
        "configs": {model.value: config.to_dict() for model, config in details.configs.items()},
        "ran": (details.get_run_time_ms() or 0) >= 0,
        "created": details.get_created_time() is not None,
    }


def main(base_url: str, key: str, folder: Path) -> dict[str, Any]:
    client = HumeBatchClient(key, _api_http_base_url=base_url)
    stranger = HumeBatchClient("wrong-key", _api_http_base_url=base_url)
    report: dict[str, Any] = {}

    job = client.submit_job([], [LanguageConfig()], text=["Test!"])
    report["first_status"] = job.get_status().value
    report["text"] = finished(job)
    report["text_predictions"] = job.get_predictions()
    job.download_predictions(folder / "predictions.json")
    job.download_artifacts(folder / "artifacts.zip")
    report["saved_predictions"] = json.loads((folder / "predictions.json").read_text())
    with zipfile.ZipFile(folder / "artifacts.zip") as archive:
        report["artifacts"] = sorted(archive.namelist())

    configs = [
        FaceConfig(fps_pred=5, prob_threshold=0.24, identify_faces=True, min_face_size=78.0, facs={}, descriptions={}),
        BurstConfig(),
        ProsodyConfig(identify_speakers=True, granularity="word", window={"length": 4.0, "step": 1.0}),
        LanguageConfig(granularity="sentence", sentiment={}, toxicity={}),
        NerConfig(identify_speakers=True),
    ]
    report["urls"] = finished(
        client.submit_job(
            ["https://x.example/a.mp3"],
            configs,
            transcription_config=TranscriptionConfig(language="es"),
            callback_url="http://127.0.0.1:9/cb",
            notify=True,
        )
    )
    # `None` for urls is the documented idiom for local files.
    files = [folder / "happy.txt", folder / "h\u00e9llo.txt"]
    job = client.submit_job(None, [LanguageConfig(granularity="sentence")], files=files)
    report["files"] = finished(job)
    report["file_predictions"] = job.get_predictions()
    report["language_known"] = ModelType.LANGUAGE in job.get_details().configs

    report["wrong_key"] = error(lambda: stranger.submit_job([], [LanguageConfig()], text=["a"]))
    report["unknown_details"] = error(lambda: client.get_job(UNKNOWN).get_details())
    report["unknown_predictions"] = error(lambda: client.get_job(UNKNOWN).get_predictions())
    return report


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))  # noqa: T201 - the report
