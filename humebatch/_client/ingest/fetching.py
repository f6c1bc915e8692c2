"""From accepted jobs to saved results: one watch over all jobs, and downloads that are whole or not there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import IO

import anyio
import anyio.to_thread

from ..._transport.files import draft_name, private, settle
from ..._wire.message import WireReply, WireRequest
from ...config import WatchPolicy
from ...errors import (
    AuthError,
    ConfigError,
    DecodeError,
    DiskError,
    HumebatchError,
    InvalidRequest,
    JobFailed,
    NotFound,
    RateLimited,
    ServerError,
    TransportError,
    WaitTimeout,
)
from ...ingestion import InputState, Reason
from ...jobs import JobDetails
from ..outcome import Outcome
from ..watch import BatchJobs, watch
from . import inputs
from .flow import Flow
from .journal import Group
from .storing import NotStored, Stored, Target, check_zip, store, sweep_parts

__all__ = ["ARTIFACTS", "Fetcher", "Watcher"]

ARTIFACTS = "artifacts"
"""The folder for the ZIPs of jobs, below the output folder."""

# A run of a few small files is over in no time: it must not wait for the first looks at its jobs.
_QUICK = WatchPolicy(quickest=0.5)
_AT_ONCE = 4
_COPIES = 100
_PIECE = 1024 * 1024
# Results that are not there although the job has completed may come yet; seconds between the looks, ten minutes in all.
_GONE = (5.0, 15.0, 40.0, 120.0, 420.0)
# And answers that are no results, which are hardly ever better the next time.
_BROKEN = (1.0, 5.0)
# So many failures of one download, while others succeed, are its own.
_LATER, _LONGEST = 10, 60.0


class Watcher:
    """Follows every job that was accepted, in this run or an earlier one."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    async def run(self) -> None:
        """Until all jobs have ended and there will be no more."""
        flow = self._flow
        client = flow.client
        async with watch(
            BatchJobs(self._ask, heard=client._board.looked),
            self._jobs(),
            policy=_QUICK,
            clock=client._open.clock,
            polls=client._limits.polls,
            timeout=flow.policy.job_deadline,
        ) as finished:
            async for outcome in finished:
                await self._ended(outcome)

    async def _ask(self, request: WireRequest) -> WireReply:
        """As the client asks; the watch has patience for ever, a run has not."""
        asking = self._flow.asking
        try:
            reply = await self._flow.client._ask(request)
        except (TransportError, ServerError, RateLimited) as error:
            asking.refused(error)
            raise
        asking.fine()
        return reply

    async def _jobs(self) -> AsyncGenerator[str]:
        def submitted(db: sqlite3.Connection) -> list[tuple[int, str]]:
            query = "SELECT id, job_id FROM grp WHERE state = 'SUBMITTED' AND id > ? ORDER BY id LIMIT 1000"
            return db.execute(query, (after,)).fetchall()

        # Before this run is let begin anything, for what it submits comes the other way.
        after = 0
        while rows := await self._flow.journal.change(submitted):
            for after, job_id in rows:  # noqa: B007 - where the next page begins
                self._flow.open.add(job_id)
                yield job_id
        async for job_id in self._flow.jobs:
            yield job_id

    async def _ended(self, outcome: Outcome[str, JobDetails]) -> None:
        flow = self._flow
        job_id, error = outcome.item, outcome.error
        flow.open.discard(job_id)
        if error is None:
            flow.asking.fine()
            await flow.journal.ended(job_id)
            flow.wake()
            return
        state, reason = InputState.FAILED, Reason.JOB_FAILED
        if isinstance(error, NotFound):
            reason = Reason.GONE
        elif not isinstance(error, JobFailed):
            state, reason = InputState.PARKED, Reason.STALLED

        def work(db: sqlite3.Connection) -> list[inputs.Ended]:
            (group_id,) = db.execute("SELECT id FROM grp WHERE job_id = ?", (job_id,)).fetchone()
            return inputs.end_group(db, group_id, state, reason, _words(job_id, error, flow.policy.job_deadline))

        await flow.tell(await flow.journal.change(work))


def _words(job_id: str, error: HumebatchError, deadline: float) -> str:
    if isinstance(error, NotFound):
        return f"the server does not know job {job_id} any more"
    if isinstance(error, WaitTimeout):
        return f"job {job_id} has not ended within {deadline:g} s; run again to go on watching it"
    return str(error)


class Fetcher:
    """Downloads the answers of completed jobs, and saves each input's part in its place."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._out = os.fsdecode(flow.options.out)
        self._claimed: set[int] = set()
        self._due: dict[int, float] = {}
        self._tries: dict[int, int] = {}
        self._since: dict[int, int] = {}
        # Told as DONE in this run, and fetched again since.
        self._told: set[bytes] = set()

    async def run(self) -> None:
        """Until the run is over."""
        flow = self._flow
        while not flow.over:
            event = flow.event
            ready = await flow.journal.groups("ENDED", limit=_AT_ONCE + len(self._claimed) + len(self._due))
            now = flow.now()
            mine = [group for group in ready if group.id not in self._claimed]
            due = [group for group in mine if self._due.get(group.id, 0.0) <= now]
            for group in due[: _AT_ONCE - len(self._claimed)]:
                self._claimed.add(group.id)
                flow.flights.start_soon(self._fetch, group)
            if not self._claimed and await self._copy():
                continue
            later = [self._due[group.id] - now for group in mine if self._due.get(group.id, 0.0) > now]
            await flow.rest(event, min(later, default=None))

    async def _fetch(self, group: Group) -> None:
        try:
            await self._try(group)
        except Exception as error:  # noqa: BLE001 - told by whoever iterates
            self._flow.fail(error)
        finally:
            self._claimed.discard(group.id)
            self._flow.wake()

    async def _try(self, group: Group) -> None:
        flow = self._flow
        spool = os.path.join(self._out, draft_name())
        try:
            results = await self._saved(group, spool)
            await self._take(results, group_id=group.id)
        except NotFound as error:
            waits = _GONE if await self._exists(group) else _GONE[:1]
            await self._again(group, error, waits, Reason.GONE)
        except (DecodeError, InvalidRequest) as error:
            await self._again(group, error, _BROKEN, Reason.BAD_RESULT)
        except (AuthError, ConfigError, DiskError) as error:
            flow.fail(error)
        except OSError as error:
            if not isinstance(error, HumebatchError):
                raise self._disk(error) from error
            await self._later(group, error)
        except HumebatchError as error:
            await self._later(group, error)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_discard, spool)

    def _disk(self, error: OSError) -> DiskError:
        return DiskError(f"{self._out}: {error.strerror or error}; nothing is lost", path=self._out)

    async def _saved(self, group: Group, spool: str) -> list[Stored | NotStored]:
        flow = self._flow
        assert group.job_id is not None
        job = flow.client.job(group.job_id)
        if flow.options.artifacts:
            await job.save_artifacts(spool)
            await anyio.to_thread.run_sync(_keep_artifacts, spool, os.path.join(self._out, ARTIFACTS), f"{job.id}.zip")
        await job.save_predictions(spool)
        flow.asking.fine()
        wanted = await flow.journal.change(lambda db: inputs.targets(db, group.id, flow.options.out))

        def work() -> list[Stored | NotStored]:
            for target in wanted:
                # What is wrong with a folder shows when its result is written.
                with contextlib.suppress(OSError):
                    sweep_parts(target.folder)
            return store(spool, wanted, bundle=group.bundle is not None)

        return await anyio.to_thread.run_sync(work)

    async def _exists(self, group: Group) -> bool:
        """Whether the server knows the job, of which it has no results; as long as it cannot be asked, it does."""
        assert group.job_id is not None
        try:
            await self._flow.client.details(group.job_id)
        except NotFound:
            return False
        except HumebatchError:
            pass
        return True

    async def _later(self, group: Group, error: HumebatchError) -> None:
        """It cannot be fetched just now. If that goes on while others can, it is left to the next run."""
        flow = self._flow
        flow.asking.refused(error)
        since = self._since.setdefault(group.id, flow.asking.successes)
        tries = self._tries[group.id] = self._tries.get(group.id, 0) + 1
        self._due[group.id] = flow.now() + max(flow.asking.pause, min(_LONGEST, 2.0 ** min(tries - 1, 10)))
        if tries >= _LATER and flow.asking.successes - since >= _LATER:
            ended = await flow.journal.change(
                lambda db: inputs.end_group(db, group.id, InputState.PARKED, Reason.STALLED, str(error))
            )
            await self._tell(ended)

    async def _again(self, group: Group, error: HumebatchError, waits: tuple[float, ...], reason: Reason) -> None:
        """What was answered is no result: it may be one later, but not for ever."""
        flow = self._flow
        tries = self._tries[group.id] = self._tries.get(group.id, 0) + 1
        if tries <= len(waits):
            self._due[group.id] = flow.now() + waits[tries - 1]
            return
        ended = await flow.journal.change(
            lambda db: inputs.end_group(db, group.id, InputState.FAILED, reason, str(error))
        )
        await self._tell(ended)

    async def _tell(self, ended: Iterable[inputs.Ended]) -> None:
        await self._flow.tell(one for one in ended if one.path not in self._told)

    async def _copy(self) -> bool:
        """Give inputs that are the same as one that is DONE its results; False if there are none."""
        flow = self._flow
        waiting = await flow.journal.change(lambda db: inputs.copies(db, flow.options.out, _COPIES))
        if not waiting:
            return False
        for saved, sha256, original, target in waiting:
            try:
                results = await anyio.to_thread.run_sync(self._copied, saved, sha256, target)
            except _Gone:
                # Somebody removed or changed them: they are fetched again, for both.
                self._told |= await flow.journal.change(lambda db: self._again_for(db, original))  # noqa: B023
                flow.wake()
                continue
            except OSError as error:
                raise error if isinstance(error, HumebatchError) else self._disk(error) from error
            await self._take(results, original=original)
        return True

    async def _take(
        self, results: list[Stored | NotStored], *, group_id: int | None = None, original: int | None = None
    ) -> None:
        """Write down what was saved, of a group's job or copied from another input."""

        def work(db: sqlite3.Connection) -> tuple[list[inputs.Ended], set[bytes]]:
            wanted, overwritten = inputs.overtaken(db, results, group_id=group_id, original=original)
            again = [self._again_for(db, file_id) for file_id in overwritten]
            return inputs.stored(db, group_id, wanted), set().union(*again)

        ended, told = await self._flow.journal.change(work)
        self._told |= told
        await self._tell(ended)

    def _again_for(self, db: sqlite3.Connection, file_id: int) -> set[bytes]:
        """Fetch the results of a DONE input again. Returns its path if it was told in this run."""
        inputs.fetch_again(db, file_id)
        seen = "SELECT path FROM file WHERE id = ? AND seen = ?"
        return {path for (path,) in db.execute(seen, (file_id, self._flow.journal.run))}

    def _copied(self, saved: bytes, sha256: str, target: Target) -> list[Stored | NotStored]:
        # A copy of our own: somebody may cut the file short while it is mapped.
        spool = os.path.join(self._out, draft_name())
        try:
            with open(spool, "xb", opener=private) as copy:
                _copy_saved(saved, sha256, copy)
            with contextlib.suppress(OSError):
                sweep_parts(target.folder)
            return store(spool, [target])
        finally:
            _discard(spool)


class _Gone(Exception):
    """Saved results are not what was saved."""


def _copy_saved(saved: bytes, sha256: str, copy: IO[bytes]) -> None:
    digest = hashlib.sha256()
    try:
        source = open(saved, "rb", buffering=0)  # noqa: SIM115 - closed below
    except OSError as error:
        raise _Gone from error
    with source:
        while data := source.read(_PIECE):
            digest.update(data)
            copy.write(data)
    if digest.hexdigest() != sha256:
        raise _Gone


def _keep_artifacts(spool: str, folder: str, name: str) -> None:
    """Give a downloaded ZIP its place when it is whole; it is not unpacked."""
    check_zip(spool)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    settle(Path(spool), Path(folder, name))


def _discard(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
