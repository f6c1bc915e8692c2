"""Whose a job is, rule by rule; and walks through job lists that do not do what they are asked."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Container, Iterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, UnsetType

import humebatch as hb
from humebatch._client.ingest.reconcile import ListGap, Sought, owners, walk
from humebatch._wire.multipart import quote_name
from humebatch.errors import InvalidRequest
from humebatch.jobs import File, InferenceRequest, JobDetails, Models, State, Transcription
from humebatch.testing import RunningServer

TAG, OTHER_TAG = "hb7q2mx4kd", "zz7q2mx4kd"
NAMES = (f"a~{TAG}.wav", f"b~{TAG}.wav")
PLAIN = ("a.wav", "b.wav")
SUMS = ("0" * 32, "1" * 32)
ALL_ON = hb.Models(
    face=hb.Face(fps_pred=3.0, prob_threshold=0.99, min_face_size=60, facs=None),
    burst=hb.Burst(),
    prosody=hb.Prosody(granularity="utterance"),
    language=hb.Language(granularity="word"),
    ner=hb.Ner(identify_speakers=False),
    facemesh=hb.Facemesh(),
)


def job(
    name: str = "j",
    *,
    created: int = 1000,
    sums: Sequence[str] = SUMS,
    names: Sequence[str | None] = NAMES,
    models: Models | None = ALL_ON,
    transcription: Transcription | UnsetType | None = UNSET,
    urls: list[str] | None = None,
    text: list[str] | None = None,
) -> JobDetails:
    files = [File(md5sum=one, filename=filename) for one, filename in zip(sums, names, strict=True)]
    request = InferenceRequest(files=files, models=models, transcription=transcription, urls=urls, text=text)
    return JobDetails(job_id=name, request=request, state=State(status="QUEUED", created_timestamp_ms=created))


def sought(
    group: int = 1,
    *,
    tag: str | None = None,
    names: tuple[str, ...] = PLAIN,
    sums: tuple[str, ...] = SUMS,
    models: Models | None = None,
    transcription: Transcription | UnsetType | None = UNSET,
    since: int = 1000,
) -> Sought:
    return Sought(
        group=group, tag=tag, names=names, md5sums=sums, models=models, transcription=transcription, since_ms=since
    )


def found(jobs: Sequence[JobDetails], *groups: Sought, claimed: Container[str] = ()) -> dict[int, list[str]]:
    return {group: [one.job_id for one in mine] for group, mine in owners(iter(jobs), groups, claimed).items()}


def test_a_tag_and_the_contents_make_a_job_ours() -> None:
    tagged = sought(tag=TAG, names=NAMES)
    assert found([job()], tagged) == {1: ["j"]}
    # In any order, in any case of the sums, in any of the names, however old and whatever was asked.
    assert found([job(sums=SUMS[::-1], names=NAMES[::-1])], tagged) == {1: ["j"]}
    assert found([job(sums=["A" * 32] * 2)], sought(tag=TAG, sums=("a" * 32,) * 2)) == {1: ["j"]}
    assert found([job(names=[None, NAMES[1]], created=0, models=hb.Models(face=hb.Face()))], tagged) == {1: ["j"]}
    assert found([job(names=[f"files/{quote_name(name)}" for name in NAMES])], tagged) == {1: ["j"]}


def test_neither_alone_does() -> None:
    tagged = sought(tag=TAG, names=NAMES)
    assert found([job(sums=SUMS[:1] * 2), job(sums=SUMS[:1], names=NAMES[:1])], tagged) == {}
    assert found([job(names=PLAIN), job(names=[name.replace(TAG, OTHER_TAG) for name in NAMES])], tagged) == {}
    assert found([job()], msgspec.structs.replace(tagged, tag=OTHER_TAG)) == {}


def test_without_echoed_names_a_tag_is_as_good_as_none() -> None:
    tagged = sought(tag=TAG, names=NAMES)
    silent = [None, None]
    assert found([job(names=silent)], tagged) == {1: ["j"]}
    assert found([job(names=silent, created=999)], tagged) == {}
    assert found([job(names=silent, models=hb.Models(face=hb.Face()))], tagged) == {}


@pytest.mark.parametrize("tag", [None, TAG])
def test_a_job_with_an_owner_is_never_given_again(tag: str | None) -> None:
    one = sought(tag=tag, names=NAMES)
    assert found([job("a"), job("b")], one, claimed={"a"}) == {1: ["b"]}
    assert found([job("a")], one, claimed={"a"}) == {}


def test_a_plain_job_is_old_enough_and_has_our_names() -> None:
    one = sought()
    assert found([job(names=PLAIN)], one) == {1: ["j"]}
    assert found([job(names=PLAIN[::-1])], one) == {1: ["j"]}
    assert found([job(names=[None, "b.wav"])], one) == {1: ["j"]}
    assert found([job(names=[None, None])], one) == {1: ["j"]}
    assert found([job(names=PLAIN, created=999)], one) == {}
    assert found([job(names=["a.wav", "a.wav"])], one) == {}
    assert found([job(names=["a.wav", "c.wav"])], one) == {}
    assert found([job(names=["c.wav", None])], one) == {}
    assert found([job(names=PLAIN, urls=["https://example.com/c.wav"])], one) == {}
    assert found([job(names=PLAIN, text=["and this"])], one) == {}


@pytest.mark.parametrize("echo", ['a "1".wav', "a %221%22.wav", "a%20%221%22.wav"])
def test_names_are_ours_however_they_are_encoded(echo: str) -> None:
    one = sought(names=('a "1".wav',), sums=SUMS[:1])
    assert found([job(names=[echo], sums=SUMS[:1])], one) == {1: ["j"]}


FACE = hb.Models(face=hb.Face(fps_pred=5))
ECHOED = hb.Face(fps_pred=5.0, prob_threshold=0.9900000095367432, min_face_size=60.0, facs={}, save_faces=False)
WINDOW = hb.Models(prosody=hb.Prosody(window=hb.ProsodyWindow(length=2)))


@pytest.mark.parametrize(
    ("asked", "echo", "ours"),
    [
        (None, ALL_ON, True),
        (hb.Models(), ALL_ON, True),
        (None, None, True),
        (FACE, None, True),
        (FACE, hb.Models(), True),
        (None, hb.Models(face=hb.Face()), False),
        (FACE, hb.Models(face=ECHOED), True),
        (FACE, hb.Models(face=ECHOED, burst=None), True),
        (FACE, hb.Models(face=ECHOED, burst=hb.Burst()), False),
        (FACE, hb.Models(burst=hb.Burst()), False),
        (FACE, hb.Models(face=None, burst=None), False),
        (FACE, hb.Models(face=hb.Face(fps_pred=3.0)), False),
        (FACE, hb.Models(face=hb.Face(fps_pred=None)), False),
        (hb.Models(face=hb.Face(prob_threshold=0.99)), hb.Models(face=ECHOED), True),
        (hb.Models(face=hb.Face(min_face_size=60)), hb.Models(face=ECHOED), True),
        (hb.Models(face=hb.Face(facs={})), hb.Models(face=ECHOED), True),
        (hb.Models(face=hb.Face(facs={})), hb.Models(face=hb.Face(facs=None)), False),
        (hb.Models(face=hb.Face(save_faces=True)), hb.Models(face=ECHOED), False),
        (hb.Models(face=hb.Face(save_faces=None)), hb.Models(face=ECHOED), True),
        (WINDOW, hb.Models(prosody=hb.Prosody(window=hb.ProsodyWindow(length=2.0, step=1.0))), True),
        (WINDOW, hb.Models(prosody=hb.Prosody(window=hb.ProsodyWindow(length=3.0, step=1.0))), False),
        (WINDOW, hb.Models(prosody=hb.Prosody(window=None)), False),
    ],
)
def test_a_plain_job_was_asked_for_the_same(asked: Models | None, echo: Models | None, ours: bool) -> None:
    assert bool(found([job(names=PLAIN, models=echo)], sought(models=asked))) is ours


@pytest.mark.parametrize(
    ("asked", "echo", "ours"),
    [
        (UNSET, None, True),
        (UNSET, hb.Transcription(language="de"), True),
        (None, None, True),
        (None, UNSET, True),
        (None, hb.Transcription(), False),
        (hb.Transcription(language="de"), UNSET, True),
        (hb.Transcription(language="de"), None, False),
        (hb.Transcription(language="de"), hb.Transcription(language="de", confidence_threshold=0.5), True),
        (hb.Transcription(language="de"), hb.Transcription(language="en"), False),
        (hb.Transcription(), hb.Transcription(language="en"), True),
    ],
)
def test_and_for_the_same_transcription(
    asked: Transcription | UnsetType | None, echo: Transcription | UnsetType | None, ours: bool
) -> None:
    assert bool(found([job(names=PLAIN, transcription=echo)], sought(transcription=asked))) is ours


def test_equal_groups_share_their_jobs_out() -> None:
    jobs = [job("c", names=PLAIN, created=1002), job("b", names=PLAIN), job("a", names=PLAIN)]
    assert found(jobs, sought(2), sought(1)) == {1: ["a", "c"], 2: ["b"]}
    assert found(jobs[:1], sought(2), sought(1)) == {1: ["c"]}
    assert found(jobs, *(sought(group) for group in (3, 1, 2, 4))) == {1: ["a"], 2: ["b"], 3: ["c"]}


def test_no_group_goes_without_where_there_is_one_for_each() -> None:
    # The first group may have both; the second, sent later, only the one that the first would take.
    jobs = [job("old", names=[None, None], created=1005), job("young", names=PLAIN, created=1010)]
    twin = sought(2, names=("x.wav", "y.wav"))
    assert found(jobs, sought(1), twin) == {1: ["young"], 2: ["old"]}


def test_many_equal_groups_are_shared_out_too() -> None:
    jobs = [job(f"{number:04}", names=PLAIN) for number in range(200)]
    shared = found(jobs, *(sought(group) for group in range(300)))
    assert shared == {group: [f"{group:04}"] for group in range(200)}


@given(st.lists(st.tuples(st.integers(0, 3), st.sets(st.integers(0, 4))), max_size=6))
def test_sharing_out_is_fair_and_total(drawn: list[tuple[int, set[int]]]) -> None:
    """Each job one owner; as many groups with a job as any way of sharing out can reach."""
    groups = [sought(number, since=number) for number in range(4)]
    jobs = [job(f"{n}", names=PLAIN, created=created) for n, (created, _) in enumerate(drawn)]
    shared = found(jobs, *groups)
    given_out = [job_id for mine in shared.values() for job_id in mine]
    assert sorted(given_out) == sorted(one.job_id for one in jobs)
    assert all(jobs[int(one)].state.created_timestamp_ms >= group for group, mine in shared.items() for one in mine)
    assert len(shared) == _most_owners([one.state.created_timestamp_ms for one in jobs])


def _most_owners(created: list[int]) -> int:
    left = sorted(created)
    reached = 0
    for since in reversed(range(4)):
        if left and left[-1] >= since:
            left.pop()
            reached += 1
    return reached


class Listed:
    """A job list in memory. `ignored`: parameters that it does not look at."""

    def __init__(
        self,
        created: Sequence[int],
        *,
        cap: int | None = None,
        ignored: Container[str] = (),
        jumbled: bool = False,
        inclusive: bool = False,
        stable: bool = False,
        refuses: int | None = None,
        arrivals: Sequence[int] = (),
    ) -> None:
        self.jobs = [job(f"{number}", created=one, names=PLAIN) for number, one in enumerate(sorted(created))]
        self.cap, self.ignored, self.jumbled, self.inclusive = cap, ignored, jumbled, inclusive
        self.stable, self.refuses = stable, refuses
        self.arrivals: Iterator[int] = iter(arrivals)
        self.limits: list[int] = []

    async def page(self, *, limit: int, **wanted: Any) -> list[JobDetails]:
        self.limits.append(limit)
        if self.refuses is not None and limit > self.refuses:
            raise InvalidRequest("limit: too large", status=400)
        latest = self.jobs[-1].state.created_timestamp_ms if self.jobs else 0
        for _ in range(next(self.arrivals, 0)):
            self.jobs.append(job(f"{len(self.jobs)}", created=latest, names=PLAIN))
            latest += len(self.jobs) % 2
        wanted = {name: value for name, value in wanted.items() if name not in self.ignored}
        rows = self.jobs
        if wanted.get("when") == "created_after":
            low = wanted["timestamp_ms"] - (1 if self.inclusive else 0)
            rows = [row for row in rows if row.state.created_timestamp_ms > low]
        if self.jumbled:
            rows = [rows[n // 2] if n % 2 == 0 else rows[-1 - n // 2] for n in range(len(rows))]
        elif wanted.get("direction") == "asc":
            rows = list(rows)
        elif self.stable:
            rows = sorted(rows, key=lambda row: -row.state.created_timestamp_ms)
        else:
            rows = rows[::-1]
        if "limit" in self.ignored:
            limit = 50
        return rows[: min(limit, self.cap or limit)]


def walked(listed: Listed, *, since: int = 0, limit: int = 200) -> list[str]:
    async def all_of_it() -> list[str]:
        return [row.job_id async for row in walk(listed.page, since_ms=since, limit=limit)]

    return asyncio.run(all_of_it())


@st.composite
def lists(draw: st.DrawFn) -> Listed:
    runs = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 130) | st.integers(1, 3)), max_size=8))
    created = [1000 + sum(gap for gap, _ in runs[: n + 1]) for n, (_, count) in enumerate(runs) for _ in range(count)]
    return Listed(
        created,
        cap=draw(st.none() | st.integers(50, 130)),
        ignored=draw(st.sets(st.sampled_from(["when", "direction", "limit"]))),
        jumbled=draw(st.integers(0, 4)) == 0,
        inclusive=draw(st.booleans()),
        stable=draw(st.booleans()),
        refuses=draw(st.none() | st.integers(50, 300)),
        arrivals=draw(st.lists(st.integers(0, 60), max_size=6)),
    )


@settings(max_examples=400, deadline=None)
@given(lists(), st.integers(995, 1025), st.sampled_from([1, 50, 200]))
@example(Listed([1000]), 1000, 200)
@example(Listed([1000] * 60 + [1001] * 60, cap=50), 1000, 200)
@example(Listed([999, *[1000] * 250], ignored={"direction"}), 999, 200)
def test_no_job_is_overlooked_in_silence(listed: Listed, since: int, limit: int) -> None:
    there = {row.job_id for row in listed.jobs if row.state.created_timestamp_ms >= since}
    honest = not listed.ignored and not listed.jumbled
    try:
        ids = walked(listed, since=since, limit=limit)
    except ListGap:
        count = Counter(row.state.created_timestamp_ms for row in listed.jobs)
        # Two milliseconds: a server may give those of the given time as well.
        crowded = max(count[one] + count[one - 1] for one in list(count))
        assert not honest or crowded >= 50, "a list that does as it is asked can be walked"
        return
    assert there <= set(ids)
    assert len(ids) == len(set(ids))
    young = {row.job_id for row in listed.jobs if row.state.created_timestamp_ms >= since}
    assert set(ids) <= young


def test_an_honest_list_is_walked_in_few_pages() -> None:
    listed = Listed(range(1000), inclusive=True)
    assert len(walked(listed, since=400)) == 600
    assert listed.limits == [200] * 5  # 200, 198 more, 198 more, 4 more, and none more


def test_an_empty_list_takes_one_page() -> None:
    listed = Listed([])
    assert walked(listed) == []
    assert listed.limits == [200]


def test_a_crowded_millisecond_is_asked_for_with_more_rows() -> None:
    listed = Listed([5] * 700 + [6])
    assert len(walked(listed)) == 701
    assert max(listed.limits) == 800


def test_a_crowded_millisecond_behind_a_cap_is_a_gap() -> None:
    with pytest.raises(ListGap):
        walked(Listed([5, *[6] * 51, 7], cap=50))


def test_a_list_without_a_filter_is_read_from_its_newest_end() -> None:
    listed = Listed(range(5000), ignored={"when"})
    assert len(walked(listed, since=4900)) == 100
    assert len(walked(listed, since=4500)) == 500
    with pytest.raises(ListGap):
        walked(listed, since=100)


def test_a_list_that_shows_only_its_newest_jobs_is_enough_while_they_reach_back() -> None:
    """As behind a proxy that drops queries."""
    deaf = {"when", "direction", "limit"}
    assert len(walked(Listed(range(5000), ignored=deaf), since=4960)) == 40
    assert len(walked(Listed(range(30), ignored=deaf), since=0)) == 30
    with pytest.raises(ListGap):
        walked(Listed(range(5000), ignored=deaf), since=4900)


def test_a_jumbled_list_is_believed_only_when_it_is_whole() -> None:
    assert len(walked(Listed(range(49), jumbled=True))) == 49
    with pytest.raises(ListGap):
        walked(Listed(range(300), jumbled=True, cap=50))
    with pytest.raises(ListGap):  # its last row is old enough, and yet others are missing
        walked(Listed(range(300), jumbled=True, ignored={"when"}, cap=51), since=200)


def test_a_server_that_refuses_so_many_rows_is_asked_for_fewer() -> None:
    listed = Listed(range(300), refuses=100)
    assert len(walked(listed)) == 300
    assert listed.limits[:2] == [200, 100]


def test_a_list_that_refuses_altogether_is_a_gap() -> None:
    with pytest.raises(ListGap, match="refuses"):
        walked(Listed([], refuses=0))


def test_a_list_that_does_not_know_the_time_window_is_asked_without() -> None:
    jobs = [job(f"{number:08}", created=1000 + number) for number in range(30)]

    async def page(**wanted: Any) -> list[JobDetails]:
        if "timestamp_ms" in wanted:
            raise InvalidRequest("timestamp_ms: unknown", status=400)
        assert wanted["limit"] == 200
        return jobs[::-1]

    async def all_of_it() -> list[str]:
        return [one.job_id async for one in walk(page, since_ms=1010)]

    assert asyncio.run(all_of_it()) == [one.job_id for one in jobs[10:][::-1]]


def test_jobs_that_vanish_again_are_a_gap() -> None:
    pages: list[list[JobDetails]] = [[job("a"), job("b", created=1001)], []]

    async def page(**_: Any) -> list[JobDetails]:
        return pages.pop(0)

    async def all_of_it() -> None:
        async for _ in walk(page, since_ms=0):
            pass

    with pytest.raises(ListGap):
        asyncio.run(all_of_it())


def page_of(client: hb.BatchClient) -> Callable[..., Awaitable[list[JobDetails]]]:
    async def page(**wanted: Any) -> list[JobDetails]:
        return [one async for one in client.list_jobs(**wanted)]

    return page


@pytest.mark.anyio
async def test_a_job_of_a_real_server_is_found_again(client: hb.BatchClient, server: RunningServer) -> None:
    files = [hb.FileSource(name=name, content=name.encode()) for name in NAMES]
    asked = hb.Models(face=hb.Face(prob_threshold=0.7), language=hb.Language())
    ours = await client.submit(hb.Submission(files=files, models=asked))
    await client.submit(hb.Submission(files=files[:1], models=asked))
    listed = [one async for one in walk(page_of(client), since_ms=0)]
    assert len(listed) == 2
    (details,) = (one for one in listed if one.job_id == ours.id)
    sums = tuple(file.md5sum for file in details.request.files)
    tagged = sought(tag=TAG, names=NAMES, sums=sums)
    plain = sought(names=NAMES, sums=sums, models=asked)
    assert found(listed, tagged) == found(listed, plain) == {1: [ours.id]}
    assert found(listed, msgspec.structs.replace(plain, models=None)) == {}
