"""The stream of totals: complete whatever the reader does, and for as many readers as there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

import humebatch as hb
from humebatch.testing import FakeClock

from .scripted import JOB, serving

pytestmark = pytest.mark.anyio


async def test_totals_of_a_run(client: hb.BatchClient, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF0000WAVEfmt " + bytes(2_000_000))
    seen: list[hb.Progress] = []
    last: hb.Progress | None = None

    async def read() -> None:
        async with client.progress() as updates:
            async for progress in updates:
                seen.append(progress)

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        jobs = [await client.submit(hb.Submission(files=[path, path])) for _ in range(3)]
        with pytest.raises(hb.SourceError):
            await client.submit(hb.Submission(files=[tmp_path / "missing"]))
        for job in jobs[:2]:
            await job.wait(timeout=30)
        async with client.progress() as updates:
            last = await anext(updates)
        group.cancel_scope.cancel()
    assert last is not None
    assert (last.files_planned, last.files_sent) == (6, 6)
    assert 6 * path.stat().st_size < last.bytes_planned == last.bytes_sent == client.stats.bytes_sent
    assert last.jobs == {"COMPLETED": 2, "QUEUED": 1, "REFUSED": 1}
    assert seen[0] == hb.Progress(bytes_sent=0, bytes_planned=0, files_sent=0, files_planned=0, jobs={})
    sent = [progress.bytes_sent for progress in seen]
    assert sent == sorted(sent)
    assert any(0 < count < last.bytes_sent for count in sent)
    assert any(progress.jobs.get("SENDING") for progress in seen)


async def test_a_refused_submission_is_counted_as_one(client: hb.BatchClient, tmp_path: Path) -> None:
    path = tmp_path / "gone.wav"
    path.write_bytes(bytes(5_000_000))
    with pytest.raises(hb.SourceError):
        await client.submit(hb.Submission(files=[path]), progress=lambda _: path.touch())
    async with client.progress() as updates:
        assert (await anext(updates)).jobs == {"REFUSED": 1}


async def test_what_was_sent_is_never_more_than_what_was_planned(client: hb.BatchClient, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("I am small")

    async def known() -> AsyncIterator[bytes]:
        yield bytes(700_000)

    contents: list[dict[str, Any]] = [
        {"text": ["nothing but words"]},
        {"files": [path]},
        {"files": [hb.Bundle(files=[path])]},
        {"files": [hb.FileSource(content=known(), name="s.wav", size=700_000)]},
    ]
    for content in contents:
        await client.submit(hb.Submission(**content))
        async with client.progress() as updates:
            totals = await anext(updates)
        assert 0 < totals.bytes_sent == totals.bytes_planned


async def cut(request: web.Request) -> web.StreamResponse:
    await request.read()
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def unreadable(request: web.Request) -> web.StreamResponse:
    await request.read()
    return web.json_response({"job": JOB})


async def refusing(request: web.Request) -> web.StreamResponse:
    await request.read()
    return web.json_response({}, status=400)


@pytest.mark.parametrize(("answer", "state"), [(cut, "UNKNOWN"), (unreadable, "UNKNOWN"), (refusing, "REFUSED")])
async def test_a_submission_without_a_job_id(answer: Any, state: str, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(bytes(100_000))
    async with serving(answer) as url, hb.BatchClient(base_url=url, clock=FakeClock()) as client:
        with pytest.raises(hb.HumebatchError):
            await client.submit(hb.Submission(files=[path]))
        async with client.progress() as updates:
            totals = await anext(updates)
    assert totals.jobs == {state: 1}
    assert totals.bytes_sent == totals.bytes_planned
    assert (totals.files_planned, totals.files_sent) == (1, 0)


@pytest.mark.parametrize("read", [True, False])
async def test_a_submission_that_is_cancelled(read: bool, tmp_path: Path) -> None:
    reached, over = asyncio.Event(), asyncio.Event()
    path = tmp_path / "a.wav"
    path.write_bytes(bytes(1_000 if read else 30_000_000))  # more than a socket that nobody reads takes

    async def answer(request: web.Request) -> web.StreamResponse:
        if read:
            await request.read()
        reached.set()
        await over.wait()
        return web.Response()

    async with serving(answer) as url, hb.BatchClient(base_url=url) as client:
        task = asyncio.create_task(client.submit(hb.Submission(files=[path])))
        await asyncio.wait_for(reached.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with client.progress() as updates:
            assert (await anext(updates)).jobs == {"UNKNOWN" if read else "REFUSED": 1}
        over.set()


async def test_the_block_may_be_left_while_others_read(client: hb.BatchClient) -> None:
    seen: list[hb.Progress] = []

    async def read(updates: AsyncIterator[hb.Progress]) -> None:
        async for progress in updates:
            seen.append(progress)

    async with client.progress() as updates:
        tasks = [asyncio.create_task(read(updates)) for _ in range(2)]
        while not seen:
            await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await asyncio.gather(*tasks)
    assert [progress async for progress in updates] == []
