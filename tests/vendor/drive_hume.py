"""Run by the Python of the vendor's environment: all six batch calls of `hume`, and what came of them as JSON.

    drive_hume.py BASE_URL KEY FOLDER

FOLDER holds the files to upload. Nothing is judged here: the test reads the report.
"""

# The vendor's client is installed in its own environment only.
# mypy: disable-error-code="import-not-found"
# pyright: reportMissingImports=false
from __future__ import annotations

import asyncio
import inspect
import io
import json
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pydantic
from hume import AsyncHumeClient, HumeClient
from hume.core.api_error import ApiError
from hume.expression_measurement.batch.types import (
    Face,
    InferenceBaseRequest,
    Language,
    Models,
    Ner,
    Prosody,
    Transcription,
)

UNKNOWN = "00000000-0000-4000-8000-000000000404"
ALL_MODELS = Models(
    face=Face(fps_pred=5.0, prob_threshold=0.24, identify_faces=True, min_face_size=78, facs={}, descriptions={}),
    burst={},
    prosody=Prosody(granularity="utterance", identify_speakers=True),
    language=Language(granularity="sentence", sentiment={}, toxicity={}),
    ner=Ner(),
    facemesh={},
)


class Seen:
    """What the SDK made of an answer: its classes, what it left undecoded, and fields that it does not declare."""

    def __init__(self) -> None:
        self.classes: set[str] = set()
        self.dictionaries: set[str] = set()
        self.extra: set[str] = set()

    def look(self, value: Any, where: str) -> None:
        if isinstance(value, pydantic.BaseModel):
            self.classes.add(type(value).__name__)
            self.extra |= {f"{type(value).__name__}.{name}" for name in value.model_extra or {}}
            for name, inner in value:
                self.look(inner, f"{where}.{name}")
        elif isinstance(value, list):
            for inner in value:
                self.look(inner, where)
        elif isinstance(value, dict):
            self.dictionaries.add(where)

    def report(self) -> dict[str, list[str]]:
        return {name: sorted(value) for name, value in vars(self).items()}


async def settled(value: Any) -> Any:
    """The value of a call of either client."""
    return await value if inspect.isawaitable(value) else value


async def data(value: Any) -> bytes:
    """The bytes of an artifacts download of either client."""
    value = await settled(value)
    if hasattr(value, "__aiter__"):
        return b"".join([chunk async for chunk in value])
    return b"".join(value)


async def error(call: Any) -> dict[str, Any] | None:
    """The ApiError of a call that must fail."""
    try:
        value = call()
        if hasattr(value, "__aiter__") or hasattr(value, "__next__"):
            await data(value)
        else:
            await settled(value)
    except ApiError as caught:
        return {"status": caught.status_code, "body": caught.body}
    return None


async def finished(batch: Any, job_id: str) -> Any:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        details = await settled(batch.get_job_details(id=job_id))
        if details.state.status in ("COMPLETED", "FAILED"):
            return details
        await asyncio.sleep(0.02)
    raise TimeoutError(job_id)


async def drive(batch: Any, stranger: Any, folder: Path) -> dict[str, Any]:
    """All calls of one client; `stranger` is the same client with a wrong key."""
    report: dict[str, Any] = {}

    text_id = await settled(
        batch.start_inference_job(text=["Test!"], models=Models(language=Language()), transcription=None, notify=True)
    )
    details = await finished(batch, text_id)
    results = await settled(batch.get_job_predictions(id=text_id))
    (result,) = results
    (prediction,) = result.results.predictions
    (group,) = prediction.models.language.grouped_predictions
    report["text"] = {
        "job_id": text_id,
        "type": details.type,
        "details_class": type(details).__name__,
        "state_class": type(details.state).__name__,
        "transcription": details.request.transcription,
        "notify": details.request.notify,
        "source": result.source.type,
        "file": prediction.file,
        "texts": [row.text for row in group.predictions],
        "emotions": [len(row.emotions) for row in group.predictions],
        "num_predictions": details.state.num_predictions,
    }

    url_id = await settled(
        batch.start_inference_job(
            urls=["https://x.example/faces.zip"],
            text=["I like it.", "h\u00e9"],
            models=ALL_MODELS,
            transcription=Transcription(language="en", identify_speakers=True, confidence_threshold=0.3),
            callback_url="http://127.0.0.1:9/cb",
        )
    )
    seen = Seen()
    details = await finished(batch, url_id)
    seen.look(details, "details")
    results = await settled(batch.get_job_predictions(id=url_id))
    seen.look(results, "results")
    report["urls"] = {
        "face": details.request.models.face.dict(),
        "transcription": details.request.transcription.dict(),
        "urls": details.request.urls,
        "text": details.request.text,
        "callback_url": details.request.callback_url,
        "sources": [item.source.type for item in results],
        "error": results[0].error,
        "texts": [one.file for one in results[1].results.predictions],
        **seen.report(),
    }

    paths = sorted(path for path in folder.iterdir() if path.is_file())
    with paths[0].open("rb") as first:
        files = [first, *[(path.name, path.read_bytes()) for path in paths[1:]]]
        files.append(("given.dat", (folder / "tone.wav").read_bytes(), "audio/x-given"))
        file_id = await settled(
            batch.start_inference_job_from_local_file(
                file=files, json=InferenceBaseRequest(models=ALL_MODELS, transcription=None, text=["Test!"])
            )
        )
    seen = Seen()
    details = await finished(batch, file_id)
    seen.look(details, "details")
    results = await settled(batch.get_job_predictions(id=file_id))
    seen.look(results, "results")
    archive = zipfile.ZipFile(io.BytesIO(await data(batch.get_job_artifacts(id=file_id))))
    report["files"] = {
        "echo": [[file.filename, file.content_type, file.md_5_sum] for file in details.request.files],
        "sources": [[item.source.type, getattr(item.source, "filename", None)] for item in results],
        "predicted": {
            one.file: sorted(name for name, value in one.models if value is not None)
            for item in results
            for one in item.results.predictions
        },
        "bad_member": archive.testzip(),
        "tops": sorted({name.split("/")[0] for name in archive.namelist()}),
        "tables": sorted(name for name in archive.namelist() if name.endswith(".csv")),
        **seen.report(),
    }

    bare_id = await settled(batch.start_inference_job_from_local_file(file=[("a.txt", b"All models run by default.")]))
    details = await finished(batch, bare_id)
    report["bare"] = {name: value is not None for name, value in details.request.models}

    own = [text_id, url_id, file_id, bare_id]
    now = int(time.time() * 1000) + 60_000
    lists: dict[str, dict[str, Any]] = {
        "plain": {},
        "limit": {"limit": 2},
        "all filters": {
            "limit": 5,
            "status": "COMPLETED",
            "when": "created_before",
            "timestamp_ms": now,
            "sort_by": "created",
            "direction": "asc",
        },
        "several statuses": {"status": ["QUEUED", "IN_PROGRESS", "FAILED"]},
        "after": {"when": "created_after", "timestamp_ms": now},
        "started": {"sort_by": "started", "direction": "desc", "status": ["COMPLETED", "FAILED"]},
        "ended": {"sort_by": "ended", "direction": "asc"},
    }
    report["lists"] = {}
    for name, arguments in lists.items():
        found = await settled(batch.list_jobs(**arguments))
        report["lists"][name] = [own.index(job.job_id) for job in found if job.job_id in own]
        report["list_classes"] = sorted({type(job).__name__ for job in found} | set(report.get("list_classes", [])))

    report["unknown"] = {
        "details": await error(lambda: batch.get_job_details(id=UNKNOWN)),
        "predictions": await error(lambda: batch.get_job_predictions(id=UNKNOWN)),
        "artifacts": await error(lambda: batch.get_job_artifacts(id=UNKNOWN)),
    }
    report["wrong_key"] = {
        "list": await error(stranger.list_jobs),
        "start": await error(lambda: stranger.start_inference_job(text=["a"])),
        "file": await error(lambda: stranger.start_inference_job_from_local_file(file=[("a.txt", b"a")])),
        "details": await error(lambda: stranger.get_job_details(id=text_id)),
        "predictions": await error(lambda: stranger.get_job_predictions(id=text_id)),
        "artifacts": await error(lambda: stranger.get_job_artifacts(id=text_id)),
    }
    report["refused"] = {
        "limit": await error(lambda: batch.list_jobs(limit=0)),
        "nothing": await error(lambda: batch.start_inference_job(models=Models(language=Language()))),
    }
    return report


async def main(base_url: str, key: str, folder: Path) -> dict[str, Any]:
    clients = {"sync": HumeClient, "async": AsyncHumeClient}
    return {
        name: await drive(
            client(base_url=base_url, api_key=key).expression_measurement.batch,
            client(base_url=base_url, api_key="wrong-key").expression_measurement.batch,
            folder,
        )
        for name, client in clients.items()
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))))  # noqa: T201 - the report
