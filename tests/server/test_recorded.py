"""Requests recorded from the vendor's clients, byte for byte, against this server."""

from __future__ import annotations

import email.parser
import email.policy
import hashlib
import json
import re
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pytest

import humebatch as hb
from humebatch.testing import RunningServer
from tests.server.raw import Reply, rows, talk

pytestmark = pytest.mark.anyio

RECORDED = Path(__file__).parent.parent / "recorded"
REQUESTS = sorted(RECORDED.glob("*/*.http"))
# The job that the recorded reads ask for; the server that was recorded against knew just this one.
RECORDED_JOB = b"11111111-2222-4333-8444-555555555555"
INVALID_KEY = {
    "message": "Invalid ApiKey",
    "field": "X-Hume-Api-Key",
    "fault": {"faultstring": "Invalid ApiKey", "detail": {"errorcode": "oauth.v2.InvalidApiKey"}},
    "detail": "the API key is wrong: this server does not know it",
}
# The API reference's defaults.
DEFAULTS: dict[str, dict[str, Any]] = {
    "face": {
        "fps_pred": 3.0,
        "prob_threshold": 0.99,
        "identify_faces": False,
        "min_face_size": 60,
        "facs": None,
        "descriptions": None,
        "save_faces": False,
    },
    "burst": {},
    "prosody": {"granularity": "utterance", "identify_speakers": False, "window": None},
    "language": {"granularity": "word", "identify_speakers": False, "sentiment": None, "toxicity": None},
    "ner": {"identify_speakers": False},
    "facemesh": {},
}
TRANSCRIPTION = {"language": None, "identify_speakers": False, "confidence_threshold": 0.5}


class Recorded(msgspec.Struct):
    """A recorded request, taken apart by nothing of ours."""

    method: str
    target: str
    key: str
    json: dict[str, Any]
    files: list[dict[str, Any]]


def read(data: bytes) -> Recorded:
    """Take a request apart with the standard library's mail parser."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, _, headers = head.partition(b"\r\n")
    method, target, _ = first.decode().split(" ")
    parsed = email.parser.BytesHeaderParser(policy=email.policy.HTTP).parsebytes(headers)
    json_bytes, files = b"{}", []
    if parsed.get_content_type() == "multipart/form-data":
        boundary = parsed.get_boundary()
        assert boundary is not None
        pieces = body.split(f"--{boundary}".encode())
        assert pieces[0] == b""
        assert pieces[-1].strip() == b"--"
        for piece in pieces[1:-1]:
            part_head, _, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
            content = content[:-2]
            text = part_head.decode()
            name = re.search(r'; name="([^"]*)"', text)
            filename = re.search(r'; filename="([^"]*)"', text)
            content_type = re.search(r"(?mi)^Content-Type: (.+?)\r?$", text)
            assert name is not None
            if name[1] == "json":
                json_bytes = content
            else:
                files.append(
                    {
                        "md5sum": hashlib.md5(content, usedforsecurity=False).hexdigest(),
                        "filename": filename[1] if filename else None,
                        "content_type": content_type[1] if content_type else None,
                    }
                )
    elif body:
        json_bytes = body
    return Recorded(
        method=method, target=target, key=parsed["X-Hume-Api-Key"], json=json.loads(json_bytes), files=files
    )


def echo(request: Recorded) -> dict[str, Any]:
    """What the details of a job made by this request must say, by the facts known of the hosted API."""
    sent = request.json
    models = sent.get("models")
    shown: dict[str, Any]
    if models is None:
        shown = dict(DEFAULTS)
    else:
        shown = {
            name: None if models.get(name) is None else {**defaults, **models[name]}
            for name, defaults in DEFAULTS.items()
        }
    transcription = sent.get("transcription", {})
    return {
        "files": request.files,
        "models": shown,
        "transcription": None if transcription is None else {**TRANSCRIPTION, **transcription},
        "urls": sent.get("urls") or [],
        "text": sent.get("text") or [],
        "callback_url": sent.get("callback_url"),
        "notify": sent.get("notify", False),
    }


def aimed(data: bytes, server: RunningServer, job_id: str | None = None) -> bytes:
    """The same bytes with this server's address, and with a job that it knows."""
    host = server.base_url.removeprefix("http://").encode()
    data, changed = re.subn(rb"\r\nHost: [^\r]+", b"\r\nHost: " + host, data, count=1)
    assert changed == 1
    return data if job_id is None else data.replace(RECORDED_JOB, job_id.encode(), 1)


async def details(server: RunningServer, job_id: str) -> Any:
    reply = await talk(
        server, f"GET /v0/batch/jobs/{job_id} HTTP/1.1\r\nHost: x\r\nX-Hume-Api-Key: test-key\r\n\r\n".encode()
    )
    assert reply.status == 200
    return reply.json


def check_refusal(recorded: Recorded, reply: Reply) -> bool:
    """Whether the request was one that must be refused; if so, it was refused in the right words."""
    if recorded.key == "invalid-api-key":
        assert reply.status == 401
        assert reply.json == INVALID_KEY
        return True
    if "000000000404" in recorded.target:
        assert reply.status == 404
        assert reply.json == {"message": "job not found", "field": "id"}
        return True
    return False


def test_the_recordings_are_all_there() -> None:
    count = {folder.name: len(list(folder.glob("*.http"))) for folder in RECORDED.iterdir() if folder.is_dir()}
    assert count == {"legacy-0.4.2": 13, "official-0.13.11": 24}


@pytest.mark.parametrize("path", [path for path in REQUESTS if "-POST-" in path.name], ids=lambda path: path.stem)
async def test_submissions(server: RunningServer, client: hb.BatchClient, path: Path) -> None:
    data = path.read_bytes()
    recorded = read(data)
    reply = await talk(server, aimed(data, server))
    if check_refusal(recorded, reply):
        assert rows(server) == []
        return
    assert reply.status == 200
    assert list(reply.json) == ["job_id"]
    job_id = reply.json["job_id"]
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", job_id)
    answer = await details(server, job_id)
    assert answer["type"] == "INFERENCE"
    assert answer["job_id"] == job_id
    assert answer["request"] == echo(recorded)

    await client.job(job_id).wait(timeout=30)
    done = await details(server, job_id)
    assert done["request"] == echo(recorded)
    assert set(done["state"]) == {
        *("status", "created_timestamp_ms", "started_timestamp_ms", "ended_timestamp_ms"),
        *("num_predictions", "num_errors"),
        "files_done",  # an extension of ours
    }
    results = await client.job(job_id).predictions()
    sources = [result.source for result in results]
    assert [source.url for source in sources if source.type == "url"] == echo(recorded)["urls"]
    assert [
        {"md5sum": source.md5sum, "filename": source.filename, "content_type": source.content_type}
        for source in sources
        if source.type == "file"
    ] == recorded.files
    # All strings of `text` are one source.
    assert [source.type for source in sources].count("text") == bool(echo(recorded)["text"])


@pytest.mark.parametrize("path", [path for path in REQUESTS if "-GET-" in path.name], ids=lambda path: path.stem)
async def test_reads(server: RunningServer, client: hb.BatchClient, path: Path) -> None:
    job = await client.submit(hb.Submission(text=["Test!"], models=hb.Models(language=hb.Language())))
    await job.wait(timeout=30)
    data = path.read_bytes()
    recorded = read(data)
    reply = await talk(server, aimed(data, server, job.id))
    if check_refusal(recorded, reply):
        return
    assert reply.status == 200
    path_only, _, query = recorded.target.partition("?")
    if path_only.endswith("/predictions"):
        (source,) = reply.json
        assert source["source"] == {"type": "text"}
        (prediction,) = source["results"]["predictions"]
        assert prediction["file"] == "1"
        assert prediction["file_type"] == "text"
        assert list(prediction["models"]) == ["language"]
        (group,) = prediction["models"]["language"]["grouped_predictions"]
        (row,) = group["predictions"]
        assert row["text"] == "Test!"
        assert row["position"] == {"begin": 0, "end": 5}
        # Optionals that were not asked for are null, not absent.
        for name in ("time", "confidence", "speaker_confidence", "sentiment", "toxicity"):
            assert row[name] is None
        assert len(row["emotions"]) == 53
        assert prediction["models"]["language"]["metadata"] is None
        assert source["results"]["errors"] == []
    elif path_only.endswith("/artifacts"):
        assert reply.headers["content-type"] == "application/octet-stream"
        with zipfile.ZipFile(BytesIO(reply.body)) as archive:
            assert archive.testzip() is None
            assert len({name.split("/")[0] for name in archive.namelist()}) == 1
    elif path_only == "/v0/batch/jobs":
        # The one job is COMPLETED; only the filters say whether it is in the list.
        unwanted = "status=QUEUED" in query
        assert [entry["job_id"] for entry in reply.json] == ([] if unwanted else [job.id])
        assert all(entry["type"] == "INFERENCE" for entry in reply.json)
    else:
        assert reply.json["job_id"] == job.id
        assert reply.json["state"]["num_predictions"] == 1
        assert reply.json["state"]["num_errors"] == 0
