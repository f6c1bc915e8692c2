"""Finding our jobs in the job list again: which are whose, and whether the list was seen to its end.

Nothing is believed of a list that it has not shown: it may ignore what it is asked, and give fewer rows than it has.
A job that is overlooked would be submitted twice, so whatever cannot be shown to be whole is a `ListGap`.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Container, Iterable, Sequence
from typing import Any
from urllib.parse import unquote

import msgspec
from msgspec import UNSET, UnsetType

from ..._wire.multipart import quote_name
from ..._wire.sweep import FIRST_LIMIT
from ...errors import InvalidRequest
from ...jobs import MODEL_NAMES, InferenceRequest, JobDetails, Models, Transcription

__all__ = ["ListGap", "Sought", "owners", "walk"]

Page = Callable[..., Awaitable[list[JobDetails]]]

# A row of a job with 100 files has some 12 KB.
_MOST = 3200
_CLOSE = 1e-6


class ListGap(Exception):
    """The job list cannot be walked to its end; nothing may be concluded from what it does not show."""


class Sought(msgspec.Struct, frozen=True):
    """A group whose job is looked for, as it was sent.

    `group`: its id in the journal. `tag`: what all its names on the wire hold, None where they are plain. `names` on
    the wire and `md5sums` are in the same order. `models`: None stands for all. `since_ms`: it was not sent earlier,
    Unix milliseconds on the server's clock, with a margin.
    """

    group: int
    tag: str | None
    names: tuple[str, ...]
    md5sums: tuple[str, ...]
    models: Models | None
    transcription: Transcription | UnsetType | None
    since_ms: int


def owners(
    jobs: Iterable[JobDetails], sought: Sequence[Sought], claimed: Container[str]
) -> dict[int, list[JobDetails]]:
    """Group to its jobs, the oldest first; groups without one are left out. `claimed`: ids that have an owner.

    A job belongs to a group when it has the same contents and the group's tag. Where there is no tag, in the group or
    in an echo without names, it must be young enough and agree in all that was asked and is echoed. A job has one
    owner; of groups that ask for the same, as many as possible get one, the lowest the oldest.
    """
    alike: dict[tuple[str, ...], list[Sought]] = {}
    for one in sought:
        alike.setdefault(_contents(one.md5sums), []).append(one)
    found: dict[tuple[str, ...], dict[str, JobDetails]] = {}
    for job in jobs:
        contents = _contents(file.md5sum for file in job.request.files)
        if contents in alike and job.job_id not in claimed and any(_matches(job, one) for one in alike[contents]):
            found.setdefault(contents, {})[job.job_id] = job
    result: dict[int, list[JobDetails]] = {}
    for contents, same in found.items():
        oldest = sorted(same.values(), key=_age)
        groups = sorted(alike[contents], key=lambda one: one.group)
        # Also in the order of both: what is free goes to whoever may have it first.
        fits = {one.group: [job.job_id for job in oldest if _matches(job, one)] for one in groups}
        owner = _shared_out(fits)
        for job in oldest:
            mine = owner.get(job.job_id)
            if mine is None:
                mine = next(group for group, ids in fits.items() if job.job_id in ids)
            result.setdefault(mine, []).append(job)
    return result


def _contents(md5sums: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(md5sum.lower() for md5sum in md5sums))


def _age(job: JobDetails) -> tuple[int, str]:
    return job.state.created_timestamp_ms, job.job_id


def _shared_out(fits: dict[int, list[str]]) -> dict[str, int]:
    """Job to group so that as many groups as possible have one.

    One after the other takes the first job that is free; if none is, others change theirs for it. A group that went
    without although there was a job for everyone would be submitted again.
    """
    owner: dict[str, int] = {}
    spent: set[str] = set()
    for group in fits:
        asked_by: dict[str, int] = {}
        waiting = deque([group])
        free: str | None = None
        while waiting and free is None:
            asking = waiting.popleft()
            for job_id in fits[asking]:
                if job_id not in asked_by and job_id not in spent:
                    asked_by[job_id] = asking
                    if job_id not in owner:
                        free = job_id
                        break
                    waiting.append(owner[job_id])
        if free is None:
            # Nobody who has one of these can do without it, now or later.
            spent |= asked_by.keys()
        while free is not None:
            taker = asked_by[free]
            left = next((job_id for job_id, who in owner.items() if who == taker), None)
            owner[free] = taker
            free = left
            if left is not None:
                del owner[left]
    return owner


def _matches(job: JobDetails, one: Sought) -> bool:
    """Whether a job with the same contents may be the group's."""
    request = job.request
    echoed = [file.filename for file in request.files if file.filename is not None]
    if one.tag is not None and echoed:
        return any(one.tag in name for name in echoed)
    return (
        job.state.created_timestamp_ms >= one.since_ms
        and Counter(map(_plain, echoed)) <= Counter(map(_plain, one.names))
        and not request.urls
        and not request.text
        and _agrees(request, one)
    )


def _plain(name: str) -> str:
    # A server may take what `quote_name` has encoded apart again, or encode more.
    return unquote(quote_name(name))


def _agrees(request: InferenceRequest, one: Sought) -> bool:
    """Whether the echo of the configuration, as far as there is one, is what was asked for."""
    echo = request.models
    if (
        echo is not None
        and _named(echo)
        and not all(
            _on(echo, name) == _on(one.models, name) and _holds(getattr(one.models, name, None), getattr(echo, name))
            for name in MODEL_NAMES
        )
    ):
        return False
    if one.transcription is UNSET or request.transcription is UNSET:
        return True
    return (one.transcription is None) == (request.transcription is None) and _holds(
        one.transcription, request.transcription
    )


def _on(models: Models | None, name: str) -> bool:
    # No model named is the API's way to say all of them.
    return models is None or not _named(models) or getattr(models, name) not in (UNSET, None)


def _named(models: Models) -> bool:
    return any(getattr(models, name) is not UNSET for name in MODEL_NAMES)


def _holds(asked: Any, echoed: Any) -> bool:
    """Whether an echo has the values that were set; what was left to the server may be anything."""
    if asked is None or asked is UNSET or echoed is UNSET:
        return True
    if isinstance(asked, msgspec.Struct):
        return isinstance(echoed, type(asked)) and all(
            _holds(getattr(asked, name), getattr(echoed, name)) for name in asked.__struct_fields__
        )
    if isinstance(asked, dict):
        return isinstance(echoed, dict)
    if isinstance(asked, float | int) and isinstance(echoed, float | int):
        # Servers keep them in 32 bits: 0.9900000095367432.
        return math.isclose(asked, echoed, rel_tol=_CLOSE)
    return bool(asked == echoed)


async def walk(page: Page, *, since_ms: int, limit: int = 200) -> AsyncGenerator[JobDetails]:
    """Every job of the list that was created at `since_ms` (server clock) or later, each once, in no certain order.

    `page` takes the parameters of a list request; its errors pass through, but for a refusal of what was asked.
    `limit`: rows to begin with, at least 50.
    Holds the ids of what it has given. Raises `ListGap` as soon as the list turns out to be none that one can walk:
    what was given until then is true, what was not may still exist.
    """
    asking = _Asking(page, limit)
    given: set[str] = set()
    after, last = since_ms - 1, ""
    while True:
        try:
            rows, cut = await asking.rows(when="created_after", timestamp_ms=after, sort_by="created", direction="asc")
        except InvalidRequest:
            # A list that does not know these parameters may have said so of any number of rows.
            asking = _Asking(page, limit)
            break
        times = [row.state.created_timestamp_ms for row in rows]
        if any(time < after for time in times) or any(a > b for a, b in itertools.pairwise(times)):
            break
        fresh = _fresh(rows, since_ms, given)
        for row in fresh:
            yield row
        if not fresh and not cut:
            if last and all(row.job_id != last for row in rows):
                raise ListGap("the job list does not show a job again that it has shown before")
            return
        # The last millisecond is asked for again: it may have more jobs than came. A page of nothing else leads no
        # further.
        if times and times[-1] - 1 > after:
            after = times[-1] - 1
        elif cut and not asking.more():
            break
        last = rows[-1].job_id if rows else last
    async with contextlib.aclosing(_newest(asking, since_ms, given)) as newest:
        async for row in newest:
            yield row


async def _newest(asking: _Asking, since_ms: int, given: set[str]) -> AsyncGenerator[JobDetails]:
    """The same from a list that does not do what it is asked: one page that is whole or goes back far enough."""
    while True:
        try:
            rows, cut = await asking.rows(sort_by="created", direction="desc")
        except InvalidRequest as error:
            raise ListGap(f"the job list refuses what it is asked ({error})") from error
        for row in _fresh(rows, since_ms, given):
            yield row
        times = [row.state.created_timestamp_ms for row in rows]
        if not cut or (times[-1] < since_ms and all(a >= b for a, b in itertools.pairwise(times))):
            return
        if not asking.more():
            raise ListGap("the job list gives a part of its jobs, and no way to the others")


def _fresh(rows: Sequence[JobDetails], since_ms: int, given: set[str]) -> list[JobDetails]:
    fresh: list[JobDetails] = []
    for row in rows:
        if row.state.created_timestamp_ms >= since_ms and row.job_id not in given:
            given.add(row.job_id)
            fresh.append(row)
    return fresh


class _Asking:
    """Pages of a list, and what their lengths tell."""

    def __init__(self, page: Page, limit: int) -> None:
        self._page = page
        # Few rows in order prove no order.
        self._limit = max(limit, FIRST_LIMIT)
        self._bound = max(limit, _MOST)
        self._longest = 0
        self._filled = True

    async def rows(self, **wanted: str | int) -> tuple[list[JobDetails], bool]:
        """A page, and whether it may have been cut off."""
        while True:
            try:
                rows = await self._page(limit=self._limit, **wanted)
            except InvalidRequest:
                if self._limit <= FIRST_LIMIT:
                    raise
                # Some servers refuse more rows than they give.
                self._bound = self._limit = max(FIRST_LIMIT, self._limit // 2)
            else:
                break
        # Shorter than asked for may be a limit that the server keeps to itself: none is below the API's default, and
        # none below what it has given already.
        self._filled = len(rows) >= self._limit
        cut = self._filled or len(rows) >= max(FIRST_LIMIT, self._longest)
        self._longest = max(self._longest, len(rows))
        return rows, cut

    def more(self) -> bool:
        """Ask for twice as many from now on, if the last page gives hope that they will come."""
        if not self._filled or self._limit >= self._bound:
            return False
        self._limit = min(2 * self._limit, self._bound)
        return True
