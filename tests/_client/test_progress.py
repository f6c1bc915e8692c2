"""The stream of totals: complete whatever the reader does, and for as many readers as there are."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

import humebatch as hb

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
    assert (last.files_planned, last.files_sent, last.bytes_planned) == (6, 6, 6 * path.stat().st_size)
    assert last.bytes_planned < last.bytes_sent == client.stats.bytes_sent
    assert last.jobs == {"COMPLETED": 2, "QUEUED": 1}
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
