"""`submit_many` on a real server: bounded, lazy, an outcome per item, and nothing left when it is left early."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import humebatch as hb
from humebatch.testing import RunningServer

pytestmark = pytest.mark.anyio


def texts(count: int, taken: list[int]) -> Iterator[hb.Submission]:
    for number in range(count):
        taken.append(number)
        yield hb.Submission(text=[f"text {number}"], models=hb.Models(language=hb.Language()))


async def test_every_item_has_one_outcome(client: hb.BatchClient) -> None:
    ids: dict[str, str] = {}
    async with client.submit_many(texts(60, [])) as outcomes:
        async for outcome in outcomes:
            ids[outcome.item.text[0]] = outcome.unwrap().id
    assert sorted(ids) == sorted(f"text {number}" for number in range(60))
    assert len(set(ids.values())) == 60
    assert {details.job_id async for details in client.list_jobs(limit=100)} == set(ids.values())


async def test_an_item_is_asked_for_only_when_a_place_is_free(client: hb.BatchClient) -> None:
    taken: list[int] = []
    seen = 0
    async with client.submit_many(texts(10_000_000, taken)) as outcomes:
        async for _ in outcomes:
            seen += 1
            assert len(taken) <= seen + 8 + 1  # Limits.uploads, and the one whose outcome is in our hands
            if seen == 40:
                break
    assert len(taken) <= 50


async def test_asynchronous_iterables_are_taken_too(client: hb.BatchClient) -> None:
    async def slowly() -> AsyncIterator[hb.Submission]:
        for submission in texts(5, []):
            await asyncio.sleep(0)
            yield submission

    async with client.submit_many(slowly()) as outcomes:
        assert len([outcome async for outcome in outcomes]) == 5


async def test_one_bad_file_is_data(client: hb.BatchClient, tmp_path: Path) -> None:
    good = tmp_path / "a.txt"
    good.write_text("x")
    paths = [good, tmp_path / "missing.txt", good]
    async with client.submit_many(hb.Submission(files=[path]) for path in paths) as outcomes:
        found = [(outcome.item.files[0], outcome.value, outcome.error) async for outcome in outcomes]
    assert len(found) == 3
    ((_, value, error),) = [one for one in found if one[0] == paths[1]]
    assert value is None
    assert isinstance(error, hb.SourceError)


async def test_a_wrong_key_ends_the_run(server: RunningServer) -> None:
    taken: list[int] = []
    async with hb.BatchClient(base_url=server.base_url, api_key="wrong") as client:
        with pytest.raises(hb.AuthError):
            async with client.submit_many(texts(1000, taken)) as outcomes:
                async for _ in outcomes:
                    raise AssertionError("no outcome is expected")
        assert client.stats.requests <= 9
    assert len(taken) <= 9


async def test_a_wrong_value_in_the_iterable_ends_the_run(client: hb.BatchClient) -> None:
    def wrong() -> Iterator[hb.Submission]:
        yield hb.Submission(text=["fine"])
        yield hb.Submission(text=[""], models=hb.Models(face=hb.Face(prob_threshold=2)))

    with pytest.raises(hb.ConfigError, match="prob_threshold"):
        async with client.submit_many(wrong()) as outcomes:
            async for _ in outcomes:
                pass


async def test_what_the_block_raises_comes_out_as_it_is(client: hb.BatchClient) -> None:
    before = asyncio.all_tasks()
    with pytest.raises(ZeroDivisionError):
        async with client.submit_many(texts(100, [])) as outcomes:
            async for _ in outcomes:
                raise ZeroDivisionError
    assert {task for task in asyncio.all_tasks() - before if "RequestHandler" not in repr(task)} == set()


async def test_what_the_iterable_raises_comes_out_as_it_is(client: hb.BatchClient) -> None:
    def broken() -> Iterator[hb.Submission]:
        yield hb.Submission(text=["fine"])
        raise LookupError("database is gone")

    with pytest.raises(LookupError, match="database is gone"):
        async with client.submit_many(broken()) as outcomes:
            async for _ in outcomes:
                pass


async def test_a_slow_reader_slows_the_sending(client: hb.BatchClient) -> None:
    taken: list[int] = []
    async with client.submit_many(texts(1000, taken)) as outcomes:
        await anext(outcomes)
        for _ in range(200):
            await asyncio.sleep(0.001)
        assert len(taken) <= 10


def test_files_are_split_lazily_into_jobs() -> None:
    asked: list[int] = []

    def paths() -> Iterator[str]:
        for number in range(10**9):
            asked.append(number)
            yield f"{number}.wav"

    groups = hb.split_files(paths(), notify=True)
    first, second = next(groups), next(groups)
    assert (len(first.files), len(second.files), second.notify) == (100, 100, True)
    assert len(asked) == 200
    assert [len(one.files) for one in hb.split_files(["a", "b", "c"], per_job=2)] == [2, 1]
    with pytest.raises(hb.ConfigError, match="per_job"):
        next(hb.split_files(["a"], per_job=101))
