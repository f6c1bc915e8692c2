"""`submit_many` on a real server: bounded, lazy, an outcome per item, and nothing left when it is left early."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import humebatch as hb
from humebatch.testing import RunningServer

from .scripted import Answer, serving

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


def holding(release: asyncio.Event, made: list[str], *, refuse: str = "") -> Answer:
    """Jobs that are answered when `release` is set; a submission with the text `refuse` is answered 401 at once."""

    async def answer(request: web.Request) -> web.StreamResponse:
        (text,) = (await request.json())["text"]
        if text == refuse:
            return web.json_response({}, status=401)
        await release.wait()
        made.append(text)
        return web.json_response({"job_id": str(uuid.uuid4())})

    return answer


def ends(how: str, release: asyncio.Event) -> Iterator[hb.Submission]:
    yield from (hb.Submission(text=[f"text {number}"]) for number in range(3))
    asyncio.get_running_loop().call_later(0.01, release.set)
    if how == "the iterable":
        raise LookupError("database is gone")
    yield hb.Submission(text=["refused"])
    if how == "an option":
        yield hb.Submission(text=[""], callback_url="nowhere")
    for number in range(100):
        yield hb.Submission(text=[f"late {number}"])


@pytest.mark.parametrize(
    ("how", "error"), [("the iterable", LookupError), ("a key", hb.AuthError), ("an option", hb.ConfigError)]
)
async def test_what_ends_a_run_loses_no_job(how: str, error: type[Exception]) -> None:
    release = asyncio.Event()
    made: list[str] = []
    told: list[str] = []
    answer = holding(release, made, refuse="refused" if how == "a key" else "")
    async with serving(answer) as url, hb.BatchClient(base_url=url, api_key="k") as client:
        with pytest.raises(error):
            async with client.submit_many(ends(how, release)) as outcomes:
                async for outcome in outcomes:
                    assert outcome.value is not None
                    told.append(outcome.item.text[0])
                    for _ in range(20):  # a slow reader
                        await asyncio.sleep(0)
    assert sorted(told) == sorted(made)
    assert {"text 0", "text 1", "text 2"} <= set(told)


async def test_a_run_that_has_ended_does_not_wait_for_the_next_item() -> None:
    release = asyncio.Event()

    async def items() -> AsyncIterator[hb.Submission]:
        yield hb.Submission(text=["refused"])
        await asyncio.Event().wait()

    answer = holding(release, [], refuse="refused")
    async with asyncio.timeout(10), serving(answer) as url, hb.BatchClient(base_url=url, api_key="k") as client:
        with pytest.raises(hb.AuthError):
            async with client.submit_many(items()) as outcomes:
                async for _ in outcomes:
                    pass


async def test_what_a_stream_raises_is_the_outcome_of_its_item(client: hb.BatchClient) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"RIFF"
        raise LookupError("the camera is gone")

    class Odd:
        name = "odd.wav"

        def read(self, _: int) -> Any:
            raise AttributeError("no such tape")

    sources: list[Any] = [hb.FileSource(content=broken(), name="s.wav"), Odd()]
    items = [hb.Submission(text=["a"]), *(hb.Submission(files=[source]) for source in sources)]
    items.append(hb.Submission(text=["b"]))
    async with client.submit_many(items) as outcomes:
        found = {items.index(outcome.item): outcome async for outcome in outcomes}
    assert found[0].value and found[3].value
    stream, odd = found[1].error, found[2].error
    assert isinstance(stream, hb.SourceError) and isinstance(odd, hb.SourceError)
    assert isinstance(stream.__cause__, LookupError)
    assert (stream.path, odd.path) == ("s.wav", "odd.wav")
    assert "camera" in str(stream) and "no such tape" in str(odd)


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_leaving_early_closes_a_generator(asynchronous: bool, client: hb.BatchClient) -> None:
    closed: list[str] = []

    def plain() -> Iterator[hb.Submission]:
        try:
            yield from texts(100, [])
        finally:
            closed.append("closed")

    async def slowly() -> AsyncIterator[hb.Submission]:
        try:
            for submission in texts(100, []):
                yield submission
        finally:
            await asyncio.sleep(0)
            closed.append("closed")

    items: Any = slowly() if asynchronous else plain()  # kept, so that nobody collects it
    async with client.submit_many(items) as outcomes:
        async for _ in outcomes:
            break
        assert closed == []
    assert closed == ["closed"]


async def test_what_a_generator_raises_at_its_end_comes_out(client: hb.BatchClient) -> None:
    def items() -> Iterator[hb.Submission]:
        try:
            yield from texts(100, [])
        finally:
            raise LookupError("cannot close the database")

    with pytest.raises(LookupError, match="cannot close"):
        async with client.submit_many(items()) as outcomes:
            async for _ in outcomes:
                break


async def test_a_generator_is_begun_and_ended_in_one_task(client: hb.BatchClient) -> None:
    tasks: list[asyncio.Task[Any] | None] = []

    async def slowly() -> AsyncIterator[hb.Submission]:
        tasks.append(asyncio.current_task())
        try:
            for submission in texts(100, []):
                yield submission
        finally:
            tasks.append(asyncio.current_task())

    items = slowly()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as patience, client.submit_many(items) as outcomes:
            async for _ in outcomes:
                patience.reschedule(0)
    assert len(tasks) == 2 and tasks[0] is tasks[1]


async def test_two_readers_share_the_outcomes(client: hb.BatchClient) -> None:
    async def take(outcomes: AsyncIterator[hb.Outcome[hb.Submission, hb.Job]]) -> list[str]:
        return [outcome.unwrap().id async for outcome in outcomes]

    async with client.submit_many(texts(30, [])) as outcomes:
        first, second = await asyncio.gather(take(outcomes), take(outcomes))
    assert len({*first, *second}) == len(first) + len(second) == 30
    with pytest.raises(hb.ConfigError, match="this run is over"):
        await anext(outcomes)
