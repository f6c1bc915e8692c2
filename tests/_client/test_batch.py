"""The client against a real server: the five operations, their limits, and their manners."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

import humebatch as hb
from humebatch.server import IntakeLimits
from humebatch.testing import RunningServer, running_server

from .scripted import JOB, details, serving, telling

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("stray_exceptions")]

LANGUAGE = hb.Models(language=hb.Language())
WAV = b"RIFF$\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0@\x1f\0\0\x80>\0\0\x02\0\x10\0data\0\0\0\0"


async def test_text_goes_in_and_predictions_come_out(client: hb.BatchClient) -> None:
    job = await client.submit(hb.Submission(text=["Test!"], models=LANGUAGE))
    found = await job.wait(timeout=30)
    assert found.state.num_predictions == 1
    (result,) = await job.predictions()
    assert result.source.type == "text"
    assert result.results is not None
    (prediction,) = result.results.predictions
    language = prediction.models.language
    assert language
    assert [row.text for group in language.grouped_predictions for row in group.predictions] == ["Test!"]


async def test_files_go_in_and_are_named_as_they_were(client: hb.BatchClient, tmp_path: Path) -> None:
    names = ["a.wav", "héllo wörld 日本.wav", "semi;colon.wav"]
    for name in names:
        (tmp_path / name).write_bytes(WAV + name.encode())
    submission = hb.Submission(files=[tmp_path / name for name in names], models=hb.Models(prosody=hb.Prosody()))
    told: list[int] = []
    job = await client.submit(submission, progress=told.append)
    assert sum(told) == client.stats.bytes_sent > 3 * len(WAV)
    found = await job.wait(timeout=30)
    assert [file.filename for file in found.request.files] == names
    assert [file.md5sum for file in found.request.files] == [
        hashlib.md5(WAV + name.encode()).hexdigest() for name in names
    ]
    results = await job.predictions()
    assert [(one.source.type, one.source.filename, one.source.content_type) for one in results] == [
        ("file", name, "audio/x-wav") for name in names
    ]


async def test_the_request_is_echoed_as_it_was_asked(client: hb.BatchClient) -> None:
    submission = hb.Submission(
        text=["hello"],
        models=hb.Models(language=hb.Language(granularity="sentence", sentiment={}), face=None),
        transcription=None,
        notify=True,
    )
    job = await client.submit(submission)
    request = (await job.details()).request
    assert request.models is not None
    assert request.models.language
    assert (request.models.language.granularity, request.models.language.sentiment) == ("sentence", {})
    assert request.models.face is None
    assert request.transcription is None
    assert (request.text, request.notify) == (["hello"], True)


async def test_results_are_saved_whole_and_private(client: hb.BatchClient, tmp_path: Path) -> None:
    job = await client.submit(hb.Submission(text=["Test!"], models=LANGUAGE))
    await job.wait(timeout=30)
    predictions, artifacts = tmp_path / "p.json", tmp_path / "a.zip"
    assert await job.save_predictions(predictions) == predictions.stat().st_size
    assert await job.save_artifacts(str(artifacts)) == artifacts.stat().st_size
    assert {path.stat().st_mode & 0o777 for path in (predictions, artifacts)} == {0o600}
    assert json.loads(predictions.read_bytes())[0]["source"]["type"] == "text"
    with zipfile.ZipFile(io.BytesIO(artifacts.read_bytes())) as archive:
        assert any(name.endswith("language.csv") for name in archive.namelist())
    assert sorted(os.listdir(tmp_path)) == ["a.zip", "p.json"]


async def listed(client: hb.BatchClient, **filters: Any) -> list[str]:
    return [job.job_id async for job in client.list_jobs(**filters)]


async def test_every_filter_of_the_list(client: hb.BatchClient) -> None:
    jobs = []
    for number in range(4):
        job = await client.submit(hb.Submission(text=[f"text {number}"], models=LANGUAGE))
        await job.wait(timeout=30)
        jobs.append(job)
    ids = [job.id for job in jobs]
    newest_first = ids[::-1]
    assert await listed(client) == newest_first
    assert await listed(client, limit=2) == newest_first[:2]
    assert await listed(client, direction="asc") == ids
    assert await listed(client, direction="desc", sort_by="created") == newest_first
    for key in ("created", "started", "ended"):
        assert await listed(client, sort_by=key, direction="asc", limit=3) == ids[:3]
    assert await listed(client, status="COMPLETED") == newest_first
    assert await listed(client, status=[hb.Status.COMPLETED, hb.Status.FAILED]) == newest_first
    assert await listed(client, status=hb.Status.FAILED) == []
    assert await listed(client, status=["QUEUED", "IN_PROGRESS"]) == []
    middle = (await jobs[2].details()).state.created_timestamp_ms
    before = set(await listed(client, when="created_before", timestamp_ms=middle))
    after = set(await listed(client, when="created_after", timestamp_ms=middle))
    assert ids[0] in before
    assert ids[3] in after
    assert ids[0] not in after
    assert ids[3] not in before
    assert await listed(client, when="created_before", timestamp_ms=0) == []


async def test_the_query_is_sent_as_the_vendors_clients_send_it() -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.raw_path)
        return web.json_response([details("PAUSED")])

    async with serving(answer) as url, hb.BatchClient(base_url=url) as client:
        (found,) = [
            job
            async for job in client.list_jobs(
                direction="desc",
                sort_by="created",
                timestamp_ms=1893456000000,
                when="created_before",
                status=["QUEUED", "IN_PROGRESS"],
                limit=5,
            )
        ]
    assert found.state.status == "PAUSED"
    query = "limit=5&status=QUEUED&status=IN_PROGRESS&when=created_before&timestamp_ms=1893456000000"
    assert seen == [f"/v0/batch/jobs?{query}&sort_by=created&direction=desc"]


async def test_wrong_filters_are_refused_before_anything_is_asked(client: hb.BatchClient) -> None:
    for name, value in {"limit": 0, "when": "before", "sort_by": "id", "direction": "up"}.items():
        with pytest.raises(hb.ConfigError) as caught:
            await listed(client, **{name: value})
        assert caught.value.field == name
    assert client.stats.requests == 0


async def test_refusals_of_the_real_server(server: RunningServer, client: hb.BatchClient) -> None:
    missing = client.job(JOB)
    for attempt in (missing.details(), missing.predictions(), missing.wait(), missing.save_artifacts("never")):
        with pytest.raises(hb.NotFound, match="job not found"):
            await attempt
    async with hb.BatchClient(base_url=server.base_url, api_key="wrong") as stranger:
        with pytest.raises(hb.AuthError) as caught:
            await stranger.submit(hb.Submission(text=["x"]))
        assert caught.value.code == "oauth.v2.InvalidApiKey"
        with pytest.raises(hb.AuthError):
            await listed(stranger)


async def test_too_large_is_said_although_the_upload_has_only_begun(tmp_path: Path) -> None:
    path = tmp_path / "large.wav"
    with path.open("wb") as file:
        file.truncate(20_000_000)
    async with (
        running_server(intake=IntakeLimits(request_bytes=1_000_000)) as server,
        hb.BatchClient(base_url=server.base_url, api_key=server.api_key) as client,
    ):
        with pytest.raises(hb.TooLarge):
            await client.submit(hb.Submission(files=[path]))


async def test_no_more_submissions_at_once_than_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(WAV)
    now = most = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await request.read()
        await asyncio.sleep(0.002)
        now -= 1
        return web.json_response({"job_id": JOB})

    async with serving(answer) as url, hb.BatchClient(base_url=url, limits=hb.Limits(uploads=3)) as client:
        await asyncio.gather(*(client.submit(hb.Submission(files=[path])) for _ in range(30)))
        assert client.stats.requests == 30
    assert most == 3


async def test_a_failed_submission_gives_its_place_back(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({"message": "no"}, status=400)

    async with serving(answer) as url, hb.BatchClient(base_url=url, limits=hb.Limits(uploads=1)) as client:
        for _ in range(3):
            with pytest.raises(hb.SourceError):
                await client.submit(hb.Submission(files=[tmp_path / "missing.wav"]))
            with pytest.raises(hb.InvalidRequest):
                await client.submit(hb.Submission(text=["x"]))


# ── life of a client ─────────────────────────────────────────────────────────────────────────────


async def every_operation(client: hb.BatchClient) -> list[Any]:
    job = client.job(JOB)
    return [
        client.submit(hb.Submission(text=["x"])),
        client.details(JOB),
        listed(client),
        job.details(),
        job.wait(),
        job.predictions(),
        job.save_predictions("never.json"),
        job.save_artifacts("never.zip"),
    ]


async def test_a_client_that_was_not_entered() -> None:
    client = hb.BatchClient(base_url="http://127.0.0.1:1")
    for attempt in await every_operation(client):
        with pytest.raises(hb.ConfigError, match="not open"):
            await attempt
    assert client.stats == hb.BatchClient().stats


async def test_a_client_after_its_block(server: RunningServer) -> None:
    async with hb.BatchClient(base_url=server.base_url, api_key=server.api_key) as client:
        job = await client.submit(hb.Submission(text=["x"]))
    for attempt in (*await every_operation(client), job.details()):
        with pytest.raises(hb.ConfigError, match="not open"):
            await attempt
    assert client.stats.requests == 1  # what it did can still be read


async def test_a_client_is_entered_once_at_a_time(server: RunningServer) -> None:
    client = hb.BatchClient(base_url=server.base_url, api_key=server.api_key)
    async with client:
        with pytest.raises(hb.ConfigError, match="open already"):
            await client.__aenter__()
        assert await listed(client) == []
    async with client:
        assert await listed(client) == []
        assert client.stats.requests == 1


async def test_two_tasks_cannot_open_one_client(server: RunningServer) -> None:
    client = hb.BatchClient(base_url=server.base_url, api_key=server.api_key)
    results = await asyncio.gather(client.__aenter__(), client.__aenter__(), return_exceptions=True)
    assert sorted(type(one).__name__ for one in results) == ["BatchClient", "ConfigError"]
    await client.__aexit__(None, None, None)


async def test_a_client_that_could_not_be_opened_can_be_opened_later(server: RunningServer) -> None:
    client = hb.BatchClient(base_url=server.base_url, api_key=server.api_key)
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with client:
            pass
    async with client:
        assert await listed(client) == []


async def test_a_job_by_its_id_asks_nobody() -> None:
    client = hb.BatchClient(base_url="http://127.0.0.1:1")
    assert client.job(JOB).id == JOB
    assert repr(client.job(JOB)) == f"Job('{JOB}')"
    with pytest.raises(hb.ConfigError) as caught:
        client.job("../v0/other")
    assert caught.value.field == "job_id"


async def test_stats_count_what_was_sent_and_received() -> None:
    async with serving(telling(details("COMPLETED"))) as url, hb.BatchClient(base_url=url) as client:
        await client.details(JOB)
        await client.details(JOB)
        assert (client.stats.requests, client.stats.resends, client.stats.bytes_sent) == (2, 0, 0)
        assert client.stats.bytes_received > 200


async def test_predictions_that_are_not_ready(client: hb.BatchClient, tmp_path: Path) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"message": "the job has not completed yet"}, status=400)

    async with serving(answer) as url, hb.BatchClient(base_url=url) as waiting:
        job = waiting.job(JOB)
        for attempt in (job.predictions(), job.save_predictions(tmp_path / "p"), job.save_artifacts(tmp_path / "a")):
            with pytest.raises(hb.InvalidRequest, match="not completed"):
                await attempt
    assert os.listdir(tmp_path) == []


async def test_predictions_that_are_not_what_the_schema_says() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response([{"source": {"type": "text"}, "results": {"predictions": [], "errors": "none"}}])

    async with serving(answer) as url, hb.BatchClient(base_url=url) as client:
        with pytest.raises(hb.DecodeError) as caught:
            await client.job(JOB).predictions()
    assert caught.value.path == "$[0].results.errors"
    assert '"none"' in caught.value.near
