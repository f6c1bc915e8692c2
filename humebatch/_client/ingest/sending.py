"""Groups become jobs: an intent on disk, one try, and what its end means.

A try that failed before its last byte made no job, and one that the server refused for good made none either.
Everything else is UNKNOWN, and not even a 429 is taken at its word. Where the server honours idempotency keys the same
request is simply made again, with the same key; where it does not, nothing is sent until the job list has been looked
through (`seeking`).
"""

from __future__ import annotations

import os
import sqlite3

import anyio
import anyio.to_thread
import msgspec

from ..._transport.planning import KnownFile, archive_md5, plan_archive, plan_known
from ..._wire import batch as wire
from ..._wire.message import WireRequest
from ...errors import (
    ApiError,
    AuthError,
    ConfigError,
    DiskError,
    HumebatchError,
    InvalidRequest,
    NotFound,
    RateLimited,
    ServerError,
    SourceError,
    StorageFull,
    SubmissionUnknown,
    TooLarge,
    TransportError,
)
from ...ingestion import InputState, Reason
from ...jobs import Submission
from ..progress import may_be_a_job
from . import grouping, inputs
from .flow import Flow
from .hashing import ran_out
from .journal import Group, Sent

__all__ = ["KEPT_MS", "Sender", "asked"]

KEPT_MS = 6 * 24 * 3600 * 1000
"""Servers that announce idempotency keys keep them for 7 days; ours are trusted for 6."""

# So many inputs refused one by one, and none accepted: it is not the inputs that are wrong.
_HOPELESS = 3
# Said before all of it was there: an earlier try with its key is still being received, or somebody is tired of waiting.
_LATER = frozenset({408, 409, 425})
_BACKOFF = 60.0
# So many groups without an answer that have to be looked for: the next ones would get none either.
_DOUBTS = 32
_body = msgspec.json.Decoder(wire.RequestBody)


def asked(config: str) -> wire.RequestBody:
    """The configuration of a group, as it was asked for."""
    return _body.decode(config)


class Sender:
    """Sends what is PLANNED, and again what is UNKNOWN where that is safe."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._journal = flow.journal
        self._claimed: set[int] = set()
        self._due: dict[int, float] = {}
        self._tries: dict[int, int] = {}
        self._since: dict[int, int] = {}
        self._accepted = False
        self._refused = 0

    async def run(self) -> None:
        """Until the run is over."""
        flow = self._flow
        most = flow.client._limits.uploads
        while not flow.over:
            event = flow.event
            wait: float | None = flow.sending.pause or None
            if not wait:
                free = min(most, flow.policy.open_jobs - flow.open_jobs) - len(self._claimed)
                if free > 0:
                    ready, wait = await self._ready(free)
                    for group in ready:
                        self._claimed.add(group.id)
                        flow.flights.start_soon(self._send, group)
            await flow.rest(event, wait)

    async def _ready(self, free: int) -> tuple[list[Group], float | None]:
        """Groups to be sent now, and the seconds until the next one is due."""
        now = self._flow.now()
        doubtful = await self._journal.groups("UNKNOWN", limit=1000)
        sought = sum(not repeatable(self._flow, group) for group in doubtful)
        again = [group for group in doubtful if group.id not in self._claimed and repeatable(self._flow, group)]
        due = [group for group in again if self._due.get(group.id, 0.0) <= now]
        if len(due) < free and sought < _DOUBTS:
            planned = await self._journal.groups("PLANNED", limit=free + len(self._claimed))
            due += [group for group in planned if group.id not in self._claimed]
        later = [self._due[group.id] - now for group in again if self._due.get(group.id, 0.0) > now]
        return due[:free], min(later, default=None)

    async def _send(self, group: Group) -> None:
        try:
            await self._try(group)
        except Exception as error:  # noqa: BLE001 - told by whoever iterates
            self._flow.fail(error)
        finally:
            self._claimed.discard(group.id)
            self._flow.wake()

    async def _try(self, group: Group) -> None:
        flow, journal = self._flow, self._journal
        attempt = _Attempt(flow, group)
        again = group.state  # where it goes back to when this try has certainly made no job
        try:
            job_id = await flow.client._submit(attempt.planned, attempt.sent)
        except SubmissionUnknown as error:
            await journal.unknown(group.id, str(error))
            self._put_off(group)
            flow.sending.refused(error)
            await self._give_up(group, str(error))
        except SourceError as error:
            if ran_out(error.__cause__):
                await attempt.back(again, error)
                raise DiskError(f"{error}; nothing is lost", path=error.path) from error
            path, words = os.fsencode(error.path), str(error)
            await journal.change(lambda db: grouping.set_aside(db, group, path, detail=words))
        except (AuthError, ConfigError) as error:
            await attempt.back(again, error)
            flow.fail(error)
        except (RateLimited, StorageFull, ServerError) as error:
            flow.sending.refused(error)
            await attempt.later(again, error)
        except ApiError as error:
            if error.status in _LATER:
                flow.sending.refused(error)
                await attempt.later(again, error)
            else:
                await self._no(group, attempt, error)
        except TransportError as error:
            await attempt.back(again, error)
            flow.sending.refused(error)
        except BaseException as error:
            # Cancelled, or a fault of ours: what is known is written down, whatever comes after.
            with anyio.CancelScope(shield=True):
                await attempt.broken_off(again, error)
            raise
        else:
            with anyio.CancelScope(shield=True):
                await self._took(group, job_id)

    async def _took(self, group: Group, job_id: str) -> None:
        try:
            await self._journal.accepted(group.id, job_id)
        except sqlite3.IntegrityError:
            # An answer out of somebody's cache: that job belongs to another group, and ours may have become one.
            words = f"the server answered with job {job_id}, which is another group's"
            await self._journal.unknown(group.id, words)
            self._put_off(group)
            self._flow.sending.refused(TransportError(words))
            await self._give_up(group, words)
            return
        self._accepted = True
        self._flow.sending.fine()
        self._flow.accepted(job_id)

    async def _no(self, group: Group, attempt: _Attempt, error: ApiError) -> None:
        """The server says no to this group: to all of it, or to one input that is still to be found."""
        flow, journal = self._flow, self._journal
        if isinstance(error, NotFound) or not isinstance(error, (InvalidRequest, TooLarge)):
            await attempt.back(group.state, error)
            flow.fail(_wrong_place(flow, error))
            return
        if group.state == "UNKNOWN":
            # An earlier try may be a job with this key: the list says which.
            def doubted(db: sqlite3.Connection) -> None:
                db.execute("UPDATE grp SET keyed = 0 WHERE id = ?", (group.id,))

            await attempt.back(group.state, error)
            await journal.change(doubted)
            return
        if await journal.change(lambda db: grouping.split(db, group, flow.grouping, detail=str(error))):
            return
        self._refused += 1
        reason = Reason.TOO_LARGE if isinstance(error, TooLarge) else Reason.REFUSED
        ended = await journal.change(
            lambda db: inputs.end_group(db, group.id, InputState.FAILED, reason, str(error), attempt="REFUSED")
        )
        await flow.tell(ended)
        if not self._accepted and self._refused >= _HOPELESS and isinstance(error, InvalidRequest):
            flow.fail(error)

    async def _give_up(self, group: Group, why: str) -> None:
        """Park a group that never gets an answer while others do: it is not the server, it is this group."""
        flow = self._flow
        if not repeatable(flow, group) or self._tries[group.id] < flow.policy.attempts:
            return
        if flow.sending.successes - self._since[group.id] < flow.policy.attempts:
            return
        words = f"no answer came {self._tries[group.id]} times, while other submissions got theirs: {why}"
        ended = await self._journal.change(
            lambda db: inputs.end_group(db, group.id, InputState.PARKED, Reason.UNKNOWN, words)
        )
        await flow.tell(ended)

    def _put_off(self, group: Group) -> None:
        self._since.setdefault(group.id, self._flow.sending.successes)
        tries = self._tries[group.id] = self._tries.get(group.id, 0) + 1
        self._due[group.id] = self._flow.now() + min(_BACKOFF, 2.0 ** min(tries - 1, 10))


def repeatable(flow: Flow, group: Group) -> bool:
    """Whether a group without an answer may simply be sent again: the server will know it."""
    age = 0 if group.since_ms is None else flow.server_ms() - group.since_ms
    # What an earlier run has asked for is looked for, but not asked for again.
    return flow.keyed and group.keyed and age < KEPT_MS and group.config == flow.request


def _wrong_place(flow: Flow, error: ApiError) -> HumebatchError:
    if isinstance(error, NotFound):
        return ConfigError(f"base_url: no batch API at {flow.client.base_url} ({error})", field="base_url")
    return error


class _Attempt:
    """One try: what it will send, and how far it came."""

    def __init__(self, flow: Flow, group: Group) -> None:
        self._flow = flow
        self._group = group
        self._request: WireRequest | None = None
        self._intended = False
        self._gone = 0

    async def planned(self) -> WireRequest:
        """Look at the files, and write down what will be sent before any of it leaves."""
        flow, group = self._flow, self._group
        piece = flow.client._limits.piece
        rows = await flow.journal.change(lambda db: grouping.members(db, group.id))
        files = [KnownFile(os.fsdecode(path), name, size, mtime, md5) for path, name, size, mtime, md5 in rows]
        if group.bundle is not None:
            named = {file.name: file for file in files}
            md5 = (
                group.sent[0].md5
                if group.sent
                else await anyio.to_thread.run_sync(lambda: archive_md5(named, piece=piece))
            )
            uploads = [await plan_archive(group.bundle, named, md5, piece=piece)]
            sent: tuple[Sent, ...] = (Sent(group.bundle, md5),)
        else:
            uploads = await plan_known(files, piece=piece)
            sent = tuple(Sent(file.name, file.md5) for file in files)
        config = asked(group.config)
        submission = Submission(
            files=[file.path for file in files[: len(uploads)]],
            models=config.models,
            transcription=config.transcription,
        )
        request = wire.submit_request(submission, uploads, key=group.uuid, once=True)
        length = None if request.body is None else request.body.length
        await flow.journal.intend(group, sent=sent, length=length, keyed=flow.keyed, server_ms=flow.server_ms())
        self._request, self._intended = request, True
        return request

    def sent(self, count: int) -> None:
        """Bytes of the body left, or are taken back because a safe repeat begins."""
        self._gone += count

    async def back(self, again: str, error: Exception) -> None:
        """The try has certainly made no job."""
        if self._intended:
            await self._flow.journal.not_sent(self._group.id, str(error), again=again)

    async def later(self, again: str, error: ApiError) -> None:
        """The server says that the try made no job, and that another one may."""
        body = None if self._request is None else self._request.body
        whole = body is not None and body.length is not None and self._gone >= body.length
        if self._intended and whole:
            await self._flow.journal.denied(self._group.id, str(error))
        else:
            await self.back(again, error)

    async def broken_off(self, again: str, error: BaseException) -> None:
        """The try was cancelled in the middle."""
        if not self._intended:
            return
        body = None if self._request is None else self._request.body
        if may_be_a_job(error, body, self._gone):
            await self._flow.journal.unknown(self._group.id, "broken off after it was sent")
        else:
            await self._flow.journal.not_sent(self._group.id, "broken off while it was being sent", again=again)
