"""The transport: sends a `WireRequest`, gives back a `WireReply`, and translates every foreign exception.

The only module that knows aiohttp's client. There is one layer of retries, here; what may be sent
again is decided in `_wire.pacing`. Redirects are never followed: the API has none, and the key must
not travel to another host. Cancellation passes through untouched.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import anyio
import msgspec
from aiohttp.abc import AbstractStreamWriter

from .._wire.message import BodyPlan, Service, WireReply, WireRequest
from .._wire.pacing import Phase, may_have_created, may_resend, retry_wait
from ..config import Limits, RetryPolicy, Secret, Timeouts
from ..errors import (
    ApiError,
    ConfigError,
    ConnectFailed,
    HumebatchError,
    RateLimited,
    RequestTimeout,
    ServerError,
    SourceError,
    SubmissionUnknown,
    TransportError,
)
from .clock import Clock, SystemClock
from .files import read_chunks, save_atomically

__all__ = ["Progress", "Stats", "Transport"]

T = TypeVar("T")
Progress = Callable[[int], None]
"""Called with the number of body bytes just handed to the socket (negative when a try starts over)."""

_log = logging.getLogger("humebatch.transport")
_DOWNLOAD_CHUNK = 64 * 1024


class Stats(msgspec.Struct):
    """Counters of one client since it was made. Bytes are those of bodies, as sent and received."""

    requests: int = 0
    resends: int = 0
    rate_limited: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


class _Upload(aiohttp.Payload):
    """A `BodyPlan` on its way out. Remembers how far it came and what stopped it."""

    def __init__(self, plan: BodyPlan, *, chunk: int, stall: float | None, sent: Progress) -> None:
        super().__init__(plan, content_type=plan.content_type)
        self._size = plan.length
        self._plan = plan
        self._chunk = chunk
        self._stall = stall
        self._sent = sent
        self.bytes = 0
        self.phase: Phase = "before"
        self.stopped_by: Exception | None = None

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002 - aiohttp's signature
        raise TypeError("a streamed body has no text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        self.phase = "sending"
        try:
            for part in self._plan.parts:
                if isinstance(part, bytes):
                    await self._push(writer, part)
                else:
                    # Closed here and not whenever the generator is collected: a cancelled upload keeps no file open.
                    async with contextlib.aclosing(read_chunks(part, self._chunk)) as chunks:
                        async for data in chunks:
                            await self._push(writer, data)
        except SourceError as error:
            # aiohttp wraps what stops a body; the reason is picked up from here.
            self.stopped_by = error
            raise

    async def write_with_length(
        self,
        writer: AbstractStreamWriter,
        content_length: int | None,  # noqa: ARG002 - aiohttp's signature; our length is exact
    ) -> None:
        await self.write(writer)

    async def _push(self, writer: AbstractStreamWriter, data: bytes) -> None:
        # Set before the last byte leaves: from here on the server may have the whole request.
        if self.bytes + len(data) == self._size:
            self.phase = "sent"
        try:
            async with asyncio.timeout(self._stall):
                await writer.write(data)
        except TimeoutError as error:
            self.stopped_by = RequestTimeout(f"the server took no data for {self._stall:g} s")
            raise ConnectionError("upload stalled") from error
        self.bytes += len(data)
        try:
            self._sent(len(data))
        except Exception as error:
            # The caller's `progress` failed; that is not the line's fault, and no reason to send again.
            self.stopped_by = error
            raise


class Transport:
    """Sessions, limits, timeouts, retries and counters for one service at one base URL. Enter it to use it."""

    def __init__(
        self,
        service: Service,
        *,
        base_url: str,
        key: Secret | None,
        limits: Limits,
        timeouts: Timeouts,
        retry: RetryPolicy,
        user_agent: str,
        clock: Clock | None = None,
    ) -> None:
        self.base_url = base_url
        self.limits = limits
        self.stats = Stats()
        self.clock: Clock = clock or SystemClock()
        self._service = service
        self._key = key
        self._timeouts = timeouts
        self._retry = retry
        self._agent = user_agent
        self._reading: aiohttp.ClientSession | None = None
        self._creating: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._reading = self._session(keep=True)
        # A connection that idled may already be closed by the server, and a submission that dies on it
        # cannot be told from an accepted one: each submission gets a connection of its own.
        self._creating = self._session(keep=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sessions, self._reading, self._creating = (self._reading, self._creating), None, None
        # Shielded: a cancelled block must not leave connections behind.
        with anyio.CancelScope(shield=True):
            for session in sessions:
                if session is not None:
                    await session.close()

    def _session(self, *, keep: bool) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=not keep),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": self._agent},
            trust_env=False,
        )

    async def send(self, request: WireRequest, *, progress: Progress | None = None) -> WireReply:
        """Send and read the whole answer. Raises `ApiError`, `TransportError` or `SourceError`."""

        async def whole(reply: aiohttp.ClientResponse) -> WireReply:
            return await self._read(reply)

        return await self._attempts(request, whole, progress)

    async def save(self, request: WireRequest, path: str) -> int:
        """Stream the answer to `path`, atomically; returns its bytes. A cut answer is asked for again."""

        async def to_file(reply: aiohttp.ClientResponse) -> int:
            async with contextlib.aclosing(self._chunks(reply)) as chunks:
                return await save_atomically(path, chunks)

        return await self._attempts(request, to_file, None)

    async def _attempts(
        self,
        request: WireRequest,
        consume: Callable[[aiohttp.ClientResponse], Awaitable[T]],
        progress: Progress | None,
    ) -> T:
        earlier: list[HumebatchError] = []
        while True:
            began = time.time()
            upload = self._upload(request.body, progress)
            try:
                return await self._once(request, upload, consume)
            except (ApiError, TransportError) as error:
                error.attempts = len(earlier) + 1
                if isinstance(error, TransportError):
                    error.earlier = tuple(earlier)
                status = error.status if isinstance(error, ApiError) else None
                phase: Phase = "before" if isinstance(error, ConnectFailed) else upload.phase if upload else "sent"
                wait = None
                if may_resend(creates=request.creates, phase=phase, status=status):
                    floor = error.retry_after if isinstance(error, (RateLimited, ServerError)) else None
                    wait = retry_wait(
                        self._retry,
                        failures=len(earlier) + 1,
                        floor=floor,
                        chance=random.random(),
                    )
                elif request.creates and may_have_created(phase=phase, status=status):
                    raise self._unknown(request, error, began) from error
                if wait is None:
                    raise
                _log.info("%s; trying again in %.1f s", error, wait)
                earlier.append(error)
                self.stats.resends += 1
                if upload is not None and progress is not None and upload.bytes:
                    progress(-upload.bytes)
                await self.clock.sleep(wait)

    def _unknown(self, request: WireRequest, error: ApiError | TransportError, began: float) -> SubmissionUnknown:
        return SubmissionUnknown(
            f"{request.method} {request.path}: the submission was sent whole and then failed ({error}); "
            "the server may have accepted it. Look for the job in the list before sending it again",
            method=request.method,
            path=request.path,
            attempts=error.attempts,
            earlier=(*error.earlier, error) if isinstance(error, TransportError) else (error,),
            since=began,
            filenames=request.filenames,
        )

    def _upload(self, body: BodyPlan | None, progress: Progress | None) -> _Upload | None:
        if body is None:
            return None

        def sent(count: int) -> None:
            self.stats.bytes_sent += count
            if progress is not None:
                progress(count)

        return _Upload(body, chunk=self.limits.chunk, stall=self._timeouts.read, sent=sent)

    async def _once(
        self,
        request: WireRequest,
        upload: _Upload | None,
        consume: Callable[[aiohttp.ClientResponse], Awaitable[T]],
    ) -> T:
        session = self._creating if request.creates else self._reading
        if session is None:
            raise ConfigError("the client is not open: use it inside `async with`")
        where: dict[str, Any] = {"method": request.method, "path": request.path}
        self.stats.requests += 1
        try:
            async with session.request(
                request.method,
                self.base_url + request.path,
                params=list(request.query),
                data=upload,
                headers=dict(self._service.sign(request, self._key)),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=None,
                    sock_connect=self._timeouts.connect,
                    sock_read=self._timeouts.answer if upload is not None else self._timeouts.read,
                ),
            ) as reply:
                if 200 <= reply.status < 300:
                    return await consume(reply)
                if reply.status == 429:
                    self.stats.rate_limited += 1
                raise self._service.refusal(request, self._without_key(await self._read(reply)))
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            if upload is not None and upload.stopped_by is not None:
                stopped = upload.stopped_by
                if isinstance(stopped, TransportError):
                    stopped.method, stopped.path = request.method, request.path
                raise stopped from error
            raise _translated(error, self.base_url, where) from error

    def _without_key(self, reply: WireReply) -> WireReply:
        # Some gateways echo the request's headers; what becomes an exception ends up in logs.
        key = b"" if self._key is None else self._key.reveal().encode()
        return msgspec.structs.replace(reply, body=reply.body.replace(key, b"***")) if key else reply

    async def _read(self, reply: aiohttp.ClientResponse) -> WireReply:
        body = await reply.read()
        self.stats.bytes_received += len(body)
        return WireReply(
            status=reply.status,
            headers={name.lower(): value for name, value in reply.headers.items()},
            body=body,
            received=time.time(),
        )

    async def _chunks(self, reply: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
        async for data in reply.content.iter_chunked(_DOWNLOAD_CHUNK):
            self.stats.bytes_received += len(data)
            yield data


def _translated(error: Exception, base_url: str, where: dict[str, Any]) -> TransportError:
    """The one seam: what aiohttp and the socket raise, in our words."""
    request = f"{where['method']} {where['path']}"
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | aiohttp.InvalidURL):
        reason = str(error) or type(error).__name__
        return ConnectFailed(f"{request}: no connection to {base_url}: {reason}", **where)
    if isinstance(error, TimeoutError):
        return RequestTimeout(f"{request}: {base_url} did not answer in time", **where)
    reason = str(error) or type(error).__name__
    return TransportError(f"{request}: the connection to {base_url} was lost: {reason}", **where)
