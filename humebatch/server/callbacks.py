"""The outbox: tells the `callback_url` of every ended job that it has ended. The server's only way out.

The body is the API's: `{"job_id", "status", "predictions"}`, predictions being exactly the array of
`/predictions`. For a FAILED job `predictions` is empty and `message` says why; the hosted service never
published what it called that field. Each callback is delivered at least once: its row is in the database
since the job's end, and is crossed out after the receiver has answered 2xx. Repeats carry the same `webhook-id`.

Callers choose the URL, so it may point into the network that the server stands in: `Guard` looks at its
addresses before each try, and the connection goes to an address that was looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import re
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import TypeVar

import aiohttp
import anyio
import anyio.to_thread
import msgspec
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from .._transport.clock import Clock
from .._wire.codec import encode
from .._wire.pacing import retry_after
from .._wire.signature import ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, Signer
from ..jobs import Status
from .folders import Folders
from .guard import Guard, Refusal
from .outgoing import find_route, open_session, origin_of, parse_url
from .store import CallbackEnd, CallbackRow, Store

__all__ = ["CallbackLimits", "Outbox"]

T = TypeVar("T")

_log = logging.getLogger("humebatch.server")
_CHUNK = 256 * 1024
_DATABASE_PAUSE = 5.0
_LONGEST_REST = 60.0


class CallbackLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How callbacks are sent. Times are seconds.

    `at_once`: callbacks under way; `per_receiver`: of those, to one scheme, host and port, so that a receiver that
    stalls does not hold up the others. `waits`: before the second and each further try, spread upwards by a
    fifth; one more try than waits. `longest_wait`: what a receiver's `Retry-After` may ask for at most.
    `answer`: for name, connection and answer together; the body gets a second more per `slowest` bytes.
    """

    at_once: int = 16
    per_receiver: int = 4
    waits: tuple[float, ...] = (5, 30, 120, 300, 600, 1200, 1800)
    longest_wait: float = 3600.0
    connect: float = 10.0
    answer: float = 30.0
    slowest: int = 128 * 1024


class _WallClock:
    """Due times outlive the server, so they are times of day and not of a monotonic clock."""

    def now(self) -> float:
        return time.time()

    async def sleep(self, seconds: float, /) -> None:
        await anyio.sleep(seconds)


class _Letter:
    """A body: `head`, the bytes of the file if there is one, `tail`. Methods block, but for `pieces`."""

    def __init__(self, head: bytes, file: Path | None = None, tail: bytes = b"") -> None:
        self._head, self._tail = head, tail
        # Open from here to `close`: whoever stops the sending half-way must not have to close it.
        self._file = None if file is None else file.open("rb")
        inside = 0 if self._file is None else os.fstat(self._file.fileno()).st_size
        self.length = len(head) + inside + len(tail)

    def sign(self, signer: Signer) -> str:
        """Its signature. Reads the file once before it is sent, for the signature stands in the header."""
        signer.update(self._head)
        if self._file is not None:
            while piece := self._file.read(_CHUNK):
                signer.update(piece)
            self._file.seek(0)
        signer.update(self._tail)
        return signer.signature()

    async def pieces(self) -> AsyncGenerator[bytes]:
        """Its bytes, once."""
        yield self._head
        if self._file is not None:
            while piece := await anyio.to_thread.run_sync(self._file.read, _CHUNK):
                yield piece
        if self._tail:
            yield self._tail

    def close(self) -> None:
        """Close the file; waits for a thread that still reads."""
        if self._file is not None:
            self._file.close()


class _Body(aiohttp.Payload):
    """A letter on its way out."""

    def __init__(self, letter: _Letter) -> None:
        super().__init__(letter, content_type="application/json")
        self._letter = letter
        self._size = letter.length
        self._ended = asyncio.Event()
        self._ended.set()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002 - aiohttp's signature
        raise TypeError("a streamed body has no text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        self._ended.clear()
        try:
            async with contextlib.aclosing(self._letter.pieces()) as pieces:
                async for piece in pieces:
                    await writer.write(piece)
        finally:
            self._ended.set()

    async def write_with_length(
        self,
        writer: AbstractStreamWriter,
        content_length: int | None,  # noqa: ARG002 - aiohttp's signature; our length is exact
    ) -> None:
        await self.write(writer)

    async def settle(self) -> None:
        """Wait until nothing more is read; aiohttp stops a body whose answer came early, but does not wait for it."""
        with anyio.CancelScope(shield=True):
            await self._ended.wait()


class _Verdict(msgspec.Struct, frozen=True):
    """How a try went. `end` is None when there should be another one, not before `floor` seconds from now."""

    end: CallbackEnd | None
    error: str | None = None
    floor: float = 0.0


class Outbox:
    """Sends what is due in `store`. `run` goes on until it is cancelled; `wake` says that a job has ended."""

    def __init__(
        self,
        store: Store,
        folders: Folders,
        guard: Guard,
        *,
        key: bytes | None = None,
        limits: CallbackLimits | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`key`: from the secret, see `key_from`; without one callbacks are not signed. `clock.now()` is Unix time."""
        self._store = store
        self._folders = folders
        self._guard = guard
        self._key = key
        self._limits = limits or CallbackLimits()
        self._clock = clock or _WallClock()
        self._changed = asyncio.Event()
        self._under_way: dict[str, str] = {}

    def wake(self) -> None:
        """Look again."""
        self._changed.set()

    async def run(self) -> None:
        """Send for ever."""
        async with open_session() as session, anyio.create_task_group() as group:
            while True:
                # Cleared before the look, so a job that ends in between sets it again.
                self._changed.clear()
                row = await self._next()
                if row is None:
                    await self._rest()
                    continue
                self._under_way[row.job_id] = _receiver(row.url)
                group.start_soon(self._deliver, session, row)

    def _now_ms(self) -> int:
        return int(self._clock.now() * 1000)

    def _latest_ms(self, now_ms: int) -> int:
        return now_ms + int(self._limits.longest_wait * 1000)

    async def _next(self) -> CallbackRow | None:
        if len(self._under_way) >= self._limits.at_once:
            return None
        now = self._now_ms()
        under_way, counts = list(self._under_way), Counter(self._under_way.values())
        crowded = [receiver for receiver, count in counts.items() if count >= self._limits.per_receiver]
        return await self._recorded(
            lambda: self._store.next_callback(
                now_ms=now,
                latest_ms=self._latest_ms(now),
                under_way=under_way,
                crowded=crowded,
            )
        )

    async def _rest(self) -> None:
        """Until something ends or is due."""
        now = self._now_ms()
        due = await self._recorded(lambda: self._store.next_callback_ms(now_ms=now, latest_ms=self._latest_ms(now)))
        async with anyio.create_task_group() as group:
            # With all places taken, only an end makes one.
            if due is not None and len(self._under_way) < self._limits.at_once:
                # Not for long at once: the time of day may be changed under us.
                group.start_soon(self._alarm, min(_LONGEST_REST, (due - now + 1) / 1000))
            await self._changed.wait()
            group.cancel_scope.cancel()

    async def _alarm(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._changed.set()

    async def _deliver(self, session: aiohttp.ClientSession, row: CallbackRow) -> None:
        try:
            try:
                verdict = await self._attempt(session, row)
            except Refusal as refusal:
                verdict = _Verdict("REFUSED", str(refusal))
            except Exception as error:  # noqa: BLE001 - one receiver's surprise must not stop the others' callbacks
                if not isinstance(error, OSError | aiohttp.ClientError):  # TimeoutError is an OSError
                    _log.exception("sending the callback of job %s", row.job_id)
                verdict = _Verdict(None, _described(error))
            await self._settle(row, verdict)
        finally:
            del self._under_way[row.job_id]
            self.wake()

    async def _attempt(self, session: aiohttp.ClientSession, row: CallbackRow) -> _Verdict:
        url = parse_url(row.url)
        letter = await anyio.to_thread.run_sync(self._letter, row)
        try:
            return await self._send(session, row, url, letter)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(letter.close)

    async def _send(self, session: aiohttp.ClientSession, row: CallbackRow, url: URL, letter: _Letter) -> _Verdict:
        # The job has one callback, so its id is all that a stable name needs.
        message_id, timestamp = f"msg_{row.job_id}", str(int(self._clock.now()))
        headers = {ID_HEADER: message_id, TIMESTAMP_HEADER: timestamp}
        if self._key is not None:
            signer = Signer(self._key, message_id=message_id, timestamp=timestamp)
            headers[SIGNATURE_HEADER] = await anyio.to_thread.run_sync(letter.sign, signer)
        body = _Body(letter)
        try:
            async with asyncio.timeout(self._limits.answer + letter.length / self._limits.slowest):
                route = await find_route(self._guard, url, turn=row.tries)
                async with session.post(
                    route.url,
                    data=body,
                    headers={**headers, "Host": route.host},
                    allow_redirects=False,
                    server_hostname=route.server_name,
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._limits.connect),
                ) as reply:
                    status, floor = reply.status, retry_after(reply.headers, now=self._clock.now())
                    reply.close()  # what it says is not read
        finally:
            await body.settle()
        if 200 <= status < 300:
            return _Verdict("DELIVERED")
        if status == 410:
            return _Verdict("GAVE_UP", "the receiver answered 410: it wants no callbacks any more")
        return _Verdict(None, f"the receiver answered {status}", floor or 0.0)

    def _letter(self, row: CallbackRow) -> _Letter:
        head = encode({"job_id": row.job_id, "status": row.status, "predictions": []})
        if row.status != Status.COMPLETED:
            head = encode({"job_id": row.job_id, "status": row.status, "predictions": [], "message": row.message})
            return _Letter(head)
        return _Letter(head.removesuffix(b"[]}"), self._folders.predictions(row.job_id), b"}")

    async def _settle(self, row: CallbackRow, verdict: _Verdict) -> None:
        end, error, receiver = verdict.end, verdict.error, origin_of(row.url)
        if end is None and row.tries < len(self._limits.waits):
            wait = self._limits.waits[row.tries] * random.uniform(1.0, 1.2)
            wait = min(max(wait, verdict.floor), self._limits.longest_wait)
            due_ms = self._now_ms() + int(wait * 1000)
            _log.info("callback of job %s to %s failed: %s; again in %.0f s", row.job_id, receiver, error, wait)
            await self._recorded(lambda: self._store.put_off_callback(row.job_id, due_ms=due_ms, error=error or ""))
            return
        end = end or "GAVE_UP"
        if end == "REFUSED":
            _log.warning("callback of job %s refused: %s", row.job_id, error)
        elif end == "GAVE_UP":
            _log.warning("callback of job %s to %s given up: %s", row.job_id, receiver, error)
        await self._recorded(lambda: self._store.end_callback(row.job_id, end, error=error))

    async def _recorded(self, change: Callable[[], T]) -> T:
        """Ask or change the store, however long the database cannot be used: a full disk is cleared some day."""
        while True:
            try:
                # What a receiver took is noted even while the server stops, or it would be sent again.
                with anyio.CancelScope(shield=True):
                    return await anyio.to_thread.run_sync(change)
            except sqlite3.OperationalError:
                _log.exception("the database cannot be used; trying again in %g s", _DATABASE_PAUSE)
            await self._clock.sleep(_DATABASE_PAUSE)


def _receiver(text: str) -> str:
    """The beginning of the URL, as it is spelled, up to the path."""
    return (re.match(r"[^:]*://[^/?#]*", text) or [text])[0]


def _described(error: Exception) -> str:
    """Why a try failed; only of some exceptions is it known that their text does not quote the URL."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError | aiohttp.ClientConnectorError | aiohttp.ServerDisconnectedError):
        return f"{type(error).__name__}: {error}"
    return type(error).__name__
