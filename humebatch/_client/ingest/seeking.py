"""Groups whose fate is unknown, and the job list that tells it; at the end, whether anything is there twice.

A group is found in the list, and then that job is its job; or two looks through the whole list after the grace time
have not shown it, and then it may be sent again. Whoever sends earlier makes a second job of a request that something
on the way had held on to. Where an answer came, and it was a no for now, nothing is held on to: one look is enough
then, when the pause is over that the server has asked for.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ..._wire import batch as wire
from ..._wire import codec
from ...errors import AuthError, ConfigError, HumebatchError
from ...ingestion import InputState, Reason
from ...jobs import JobDetails
from . import inputs
from .flow import Flow
from .grouping import give_back
from .journal import Group, Sent, log, now_ms
from .outage import Outage
from .reconcile import ListGap, Sought, owners, walk
from .sending import asked, repeatable

__all__ = ["Seeker", "audit"]

# How far before the first try a job may have been created: a wide window costs rows and saves from wrong clocks.
_MARGIN_MS = 15 * 60 * 1000
_WAITS = (5.0, 10.0, 20.0, 40.0)
# Two looks must lie so far apart, for a list may lag; seconds.
_APART = 10.0
# Looks for nothing but groups that were answered lie so far apart, for a server that is busy answers many so; and they
# take no more than such a part of the time.
_DENIED_APART = 5.0
_DENIED_SHARE = 0.1
# After a look that proved nothing, however short the grace time is; seconds.
_AFTER_NONE = 1.0
_GAPS = 3
# Nothing on the way holds on to a request for longer.
_LATEST_MS = 24 * 3600 * 1000
_AT_A_TIME = 500
_ABSENT = "it is not in the job list"
_sent = msgspec.json.Decoder(tuple[Sent, ...])


class _Doubt(msgspec.Struct):
    """What is known of a group in doubt: since when we wait, and looks that did not show it.

    `denied`: the server has said each time that it made no job.
    """

    since: float
    denied: bool
    empty: int = 0
    last: float = 0.0
    gaps: int = 0


class Seeker:
    """Looks for groups that cannot simply be sent again. One walk through the list serves them all."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._journal = flow.journal
        self._doubts: dict[int, _Doubt] = {}
        self._looks = 0
        # Of its own: that other looks at jobs succeed is no sign that this one ever will.
        self._asking = Outage(flow.now, flow.fail, patience=flow.policy.max_outage)
        # When to look again: for those that got no answer, those that got one, and for any of them.
        self._next = self._next_denied = self._soonest = 0.0

    async def run(self) -> None:
        """Until the run is over."""
        flow = self._flow
        while not flow.over:
            event = flow.event
            doubtful = await self._journal.groups("UNKNOWN", limit=_AT_A_TIME)
            groups = [group for group in doubtful if not repeatable(flow, group)]
            await self._doubt(groups)
            if not groups:
                self._asking.over()
                await flow.rest(event)
                continue
            if wait := self._wait():
                await flow.rest(event, wait)
                continue
            began = time.monotonic()  # what it costs, on whatever clock waits are
            proof = await self._look(groups)
            now = flow.now()
            self._next = now + self._pace()
            self._next_denied = now + max(_DENIED_APART, (time.monotonic() - began) / _DENIED_SHARE)
            self._soonest = 0.0 if proof else now + _AFTER_NONE

    async def _doubt(self, groups: Sequence[Group]) -> None:
        now = self._flow.now()
        new = [group.id for group in groups if group.id not in self._doubts]
        denied = await self._journal.only_denied(new) if new else ()
        self._doubts = {
            group.id: self._doubts.get(group.id) or _Doubt(since=now, denied=group.id in denied) for group in groups
        }
        if all(doubt.denied for doubt in self._doubts.values()):
            self._looks, self._next = 0, 0.0

    def _wait(self) -> float:
        """Seconds to the next look."""
        now = self._flow.now()
        for_denied = max(now + self._flow.sending.pause, self._next_denied)
        due = min(for_denied if doubt.denied else self._next for doubt in self._doubts.values())
        return max(due - now, self._soonest - now, self._asking.pause, 0.0)

    def _pace(self) -> float:
        """Seconds to another look for those without an answer: by and by longer, but not beyond when one is decided."""
        now = self._flow.now()
        grace = self._flow.policy.grace
        regular = _WAITS[min(self._looks, len(_WAITS)) - 1]
        silent = [doubt for doubt in self._doubts.values() if not doubt.denied]
        decisive = min((max(doubt.since + grace, doubt.last + self._apart) - now for doubt in silent), default=0.0)
        return min(regular, max(decisive, min(1.0, self._apart)))

    @property
    def _apart(self) -> float:
        return min(_APART, self._flow.policy.grace)

    async def _look(self, groups: Sequence[Group]) -> bool:
        """One walk through the list, and what follows. Returns whether what it did not show is not there."""
        flow = self._flow
        self._looks += 1
        paused = flow.sending.pause > 0
        sought = [_sought(group, _MARGIN_MS) for group in groups if group.sent is not None]
        try:
            jobs, gap = await _listed(flow, sought)
        except (AuthError, ConfigError):
            raise
        except HumebatchError as error:
            self._asking.refused(error)
            await self._unheard(groups, f"the job list cannot be had: {error}")
            return False
        self._asking.fine()
        claimed = await claimed_of(flow, jobs)
        found = owners(jobs, sought, claimed)
        for group in groups:
            if mine := found.get(group.id):
                await self._adopt(group, mine)
            elif self._doubts[group.id].denied:
                # A list that shows only a part is no reason to doubt the server's word.
                if not paused:
                    await self._resend(group, gap or _ABSENT)
            elif not gap:
                await self._missing(group)
        if gap:
            await self._blind([group for group in groups if group.id not in found and group.id in self._doubts], gap)
        return not gap

    async def _adopt(self, group: Group, jobs: Sequence[JobDetails]) -> None:
        flow = self._flow
        await self._journal.change(lambda db: _note_duplicates(db, group.id, jobs[1:]))
        await self._journal.accepted(group.id, jobs[0].job_id, was=("UNKNOWN",))
        del self._doubts[group.id]
        # It takes submissions, whatever it answers.
        flow.sending.fine()
        flow.accepted(jobs[0].job_id)

    async def _missing(self, group: Group) -> None:
        """A look through the whole list has not shown the group."""
        flow, doubt = self._flow, self._doubts[group.id]
        now = flow.now()
        if now < doubt.since + flow.policy.grace:
            return
        if doubt.empty == 0 or now - doubt.last >= self._apart:
            doubt.empty += 1
            doubt.last = now
        if doubt.empty >= 2:
            await self._resend(group, _ABSENT)

    async def _blind(self, groups: Sequence[Group], why: str) -> None:
        """The list cannot be relied on, so what it does not show proves nothing."""
        flow = self._flow
        for group in groups:
            doubt = self._doubts[group.id]
            if flow.now() < doubt.since + flow.policy.grace:
                continue
            doubt.gaps += 1
            if doubt.gaps < _GAPS:
                continue
            if flow.options.retry_failed:
                await self._resend(group, why)
            else:
                await self._park(group, f"it was sent and no answer came; {why}")

    async def _unheard(self, groups: Sequence[Group], why: str) -> None:
        """The list says nothing. Whoever got an answer has that to go by, when the list had time enough."""
        flow = self._flow
        for group in groups:
            doubt = self._doubts[group.id]
            if not doubt.denied:
                continue
            doubt.gaps += 1
            if doubt.gaps >= _GAPS and flow.now() >= doubt.since + flow.policy.grace:
                await self._resend(group, why)

    async def _resend(self, group: Group, why: str) -> None:
        attempts = self._flow.policy.attempts
        if group.config != self._flow.request:
            await self._journal.change(lambda db: give_back(db, group.id, why))
        elif not await self._journal.absent(group.id, why, most=attempts):
            await self._park(group, f"no answer came {attempts} times; {why}")
        self._doubts.pop(group.id, None)
        self._flow.wake()

    async def _park(self, group: Group, why: str) -> None:
        ended = await self._journal.change(
            lambda db: inputs.end_group(db, group.id, InputState.PARKED, Reason.UNKNOWN, why)
        )
        self._doubts.pop(group.id, None)
        await self._flow.tell(ended)


def _sought(group: Group, margin_ms: int) -> Sought:
    config = asked(group.config)
    sent = group.sent or ()
    return Sought(
        group=group.id,
        tag=group.tag,
        names=tuple(one.name for one in sent),
        md5sums=tuple(one.md5 for one in sent),
        models=config.models or None,
        transcription=config.transcription,
        since_ms=(group.since_ms or 0) - margin_ms,
    )


async def _page(flow: Flow, **wanted: int | str) -> list[JobDetails]:
    reply = await flow.client._ask(wire.list_request(**wanted))  # type: ignore[arg-type]  # as `walk` asks
    flow.heard(reply)
    return codec.decode_jobs(reply.body)


async def _listed(flow: Flow, sought: Sequence[Sought]) -> tuple[list[JobDetails], str]:
    """Jobs of the list that have a content that is sought, and why there may be others that it does not show."""
    contents = {md5 for one in sought for md5 in one.md5sums}
    since_ms = min((one.since_ms for one in sought), default=0)
    jobs: list[JobDetails] = []

    async def page(**wanted: int | str) -> list[JobDetails]:
        return await _page(flow, **wanted)

    try:
        async for job in walk(page, since_ms=since_ms):
            if any(file.md5sum.lower() in contents for file in job.request.files):
                jobs.append(job)  # noqa: PERF401 - what came before a gap counts
    except ListGap as gap:
        return jobs, str(gap)
    return jobs, ""


async def claimed_of(flow: Flow, jobs: Iterable[JobDetails]) -> set[str]:
    """Those of these jobs that a group owns already."""
    ids = [job.job_id for job in jobs]

    def work(db: sqlite3.Connection) -> set[str]:
        return {one for one in ids if db.execute("SELECT 1 FROM grp WHERE job_id = ?", (one,)).fetchone()}

    return await flow.journal.change(work)


def _note_duplicates(db: sqlite3.Connection, group_id: int, jobs: Iterable[JobDetails]) -> None:
    for job in jobs:
        new = db.execute(
            "INSERT OR IGNORE INTO duplicate VALUES (?, ?, ?)",
            (job.job_id, group_id, job.state.created_timestamp_ms),
        ).rowcount
        if new:
            log(db, group_id, None, "DUPLICATE", job.job_id)


async def audit(flow: Flow) -> bool:
    """Look through the jobs since our first try for some of ours that no group owns; they are written down.

    This is the check behind the promise: if the server listed a job later, took a request later than the grace time
    allows for, or made a job of what it refused, it shows here. All that was sent since the last run that came to the
    end of this is looked for, since a run that is killed or stopped does not; and what was given up for a day, since a
    request may arrive long after its run. Returns False when the list could not be walked.
    """
    margin_ms = 2000 if flow.keyed else _MARGIN_MS
    first, groups = await _tried(flow)

    async def page(**wanted: int | str) -> list[JobDetails]:
        jobs = await _page(flow, **wanted)
        # Page by page, so that what came before a gap counts.
        await flow.journal.change(lambda db: _note_unowned(db, jobs, groups, margin_ms))
        return jobs

    try:
        if first is not None:
            async for _ in walk(page, since_ms=first - margin_ms):
                pass
    except (ListGap, HumebatchError):
        return False
    await flow.journal.change(
        lambda db: db.execute(
            "INSERT INTO meta VALUES ('audited_run', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (str(flow.journal.run),),
        )
    )
    return True


async def _tried(flow: Flow) -> tuple[int | None, dict[bytes, tuple[int, ...]]]:
    """When the first try of those groups that are audited was, and their ids by what they have sent."""
    given_up_ms = now_ms() - _LATEST_MS
    query = (
        "SELECT id, since_ms, sent FROM grp WHERE id > ? AND sent IS NOT NULL AND EXISTS (SELECT 1 FROM attempt "
        "WHERE attempt.grp = grp.id AND (run > coalesce((SELECT value FROM meta WHERE name = 'audited_run'), 0) + 0 "
        "OR (attempt.state = 'ABSENT' AND began_ms >= ?))) ORDER BY id LIMIT ?"
    )
    # Not the names, of which there may be a million: whose a job is exactly is asked when its contents are here.
    groups: dict[bytes, tuple[int, ...]] = {}
    first: int | None = None
    last = 0

    def some(db: sqlite3.Connection) -> bool:
        nonlocal first, last
        rows = db.execute(query, (last, given_up_ms, _AT_A_TIME)).fetchall()
        for last, since_ms, sent in rows:
            first = since_ms if first is None else min(first, since_ms)
            contents = _digest(file.md5 for file in _sent.decode(sent))
            groups[contents] = (*groups.get(contents, ()), last)
        return bool(rows)

    while await flow.journal.change(some):
        pass
    return first, groups


def _digest(md5sums: Iterable[str]) -> bytes:
    """The same for the same contents, in whatever order."""
    return hashlib.blake2b("".join(sorted(md5.lower() for md5 in md5sums)).encode(), digest_size=16).digest()


def _note_unowned(
    db: sqlite3.Connection, jobs: Iterable[JobDetails], groups: Mapping[bytes, Iterable[int]], margin_ms: int
) -> None:
    for job in jobs:
        ids = groups.get(_digest(file.md5sum for file in job.request.files), ())
        if not ids or db.execute("SELECT 1 FROM grp WHERE job_id = ?", (job.job_id,)).fetchone():
            continue
        # Plain names may be those of several groups. One without a job comes first, for it has lost one somewhere.
        candidates = sorted((Group.by_id(db, group_id) for group_id in ids), key=_decided)
        for group in candidates:
            if _decided(group) == 2 and group.keyed:
                continue  # its key has one job, so this is somebody else's of the same files
            if owners([job], [_sought(group, margin_ms)], ()):
                # Whoever has no job yet may have this one: the next run finds out.
                if _decided(group):
                    _note_duplicates(db, group.id, [job])
                break


def _decided(group: Group) -> int:
    """0 for a group that may be a job yet, 1 for one that is none any more, 2 for one that is."""
    if group.job_id is not None:
        return 2
    return 0 if group.state in ("UNKNOWN", "PARKED") else 1
