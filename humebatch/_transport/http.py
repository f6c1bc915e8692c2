"""The transport: sends a `WireRequest`, gives back a `WireReply`, and translates every foreign exception.

The only module that knows aiohttp's client. There is one layer of retries, here; what may be sent
again is decided in `_wire.pacing`. Redirects are never followed: the API has none, and the key must
not travel to another host. Cancellation passes through untouched.
"""

from __future__ import annotations

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

from .._wire.message import BodyPlan, Service, WireReply, WireRequest
from .._wire.pacing import Phase, may_have_created, may_resend, retry_wait
from .._wire.throttle import Breaker, RetryBudget, rate_limit_pause
from ..config import Limits, RetryPolicy, Secret, Timeouts
from ..errors import (
    ApiError,
    ConfigError,
    ConnectFailed,
    HumebatchError,
    RateLimited,
    RequestTimeout,
    ServerError,
    SubmissionUnknown,
    TransportError,
)
from .clock import Clock, SystemClock
from .files import save_atomically
from .lanes import Lane
from .reading import keep_freed_blocks
from .upload import Progress, Upload

__all__ = ["Stats", "Transport"]

T = TypeVar("T")
_log = logging.getLogger("humebatch.transport")
_DOWNLOAD_CHUNK = 64 * 1024
# Seconds that a connection may idle before it is used again.
_KEPT = 15.0
_KEPT_FOR_SUBMISSIONS = 1.0
# A server that asks for longer is not waited for by the whole class; the request itself fails and says so.
_LONGEST_PAUSE = 900.0


class Stats(msgspec.Struct):
    """Counters of one client since it was made. Bytes are those of bodies, as sent and received."""

    requests: int = 0
    resends: int = 0
    rate_limited: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


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
        self._budget = RetryBudget()
        breaker = Breaker()
        self.submissions = Lane(limits.uploads, breaker, self.clock)
        self.looks = Lane(limits.polls, breaker, self.clock)
        self._files = anyio.CapacityLimiter(limits.open_files)

    async def __aenter__(self) -> Self:
        keep_freed_blocks(self.limits.piece)
        self._reading = self._session(keep=_KEPT)
        # A connection that idled may just be closed by the server, and a submission that dies on it cannot be told
        # from an accepted one. Servers keep connections for 5 s and more, so one that was used a moment ago is safe.
        self._creating = self._session(keep=_KEPT_FOR_SUBMISSIONS)
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

    def _session(self, *, keep: float) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=keep),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": self._agent},
            trust_env=False,
        )
        # aiohttp would silently repeat a GET whose connection broke: unseen by the counters, and at once.
        session._retry_connection = False
        return session

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
        lane = self.submissions if request.creates else self.looks
        while True:
            await lane.ready()
            began = time.time()
            upload = self._upload(request.body, progress)
            try:
                value = await self._once(request, upload, consume, lane)
            except (ApiError, TransportError) as error:
                _learn(lane, error)
                error.attempts = len(earlier) + 1
                if isinstance(error, TransportError):
                    error.earlier = tuple(earlier)
                status = error.status if isinstance(error, ApiError) else None
                phase: Phase = "before" if isinstance(error, ConnectFailed) else upload.phase if upload else "sent"
                wait = None
                once = upload is not None and phase != "before" and request.body is not None and not request.body.again
                if once and may_resend(creates=request.creates, phase=phase, status=status):
                    error.message += " (not tried again: its content comes from a stream that can be read only once)"
                elif may_resend(creates=request.creates, phase=phase, status=status):
                    floor = error.retry_after if isinstance(error, (RateLimited, ServerError)) else None
                    wait = retry_wait(
                        self._retry,
                        failures=len(earlier) + 1,
                        floor=floor,
                        chance=random.random(),
                    )
                elif request.creates and may_have_created(phase=phase, status=status):
                    raise self._unknown(request, error, began) from error
                if wait is None or not self._budget.spend(timeout=isinstance(error, RequestTimeout)):
                    raise
                _log.info("%s; trying again in %.1f s", error, wait)
                earlier.append(error)
                self.stats.resends += 1
                if upload is not None and progress is not None and upload.bytes:
                    progress(-upload.bytes)
                await self.clock.sleep(wait)
            else:
                lane.answered(ok=True)
                if not earlier:
                    self._budget.succeeded()
                return value

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

    def _upload(self, body: BodyPlan | None, progress: Progress | None) -> Upload | None:
        if body is None:
            return None

        def sent(count: int) -> None:
            self.stats.bytes_sent += count
            if progress is not None:
                progress(count)

        return Upload(body, piece=self.limits.piece, stall=self._timeouts.read, sent=sent, files=self._files)

    async def _once(
        self,
        request: WireRequest,
        upload: Upload | None,
        consume: Callable[[aiohttp.ClientResponse], Awaitable[T]],
        lane: Lane,
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
                pause = rate_limit_pause(reply.headers, now=time.time())
                if pause is not None:
                    lane.hold(pause)
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
        finally:
            if upload is not None:
                await upload.settle()

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


def _learn(lane: Lane, error: ApiError | TransportError) -> None:
    """Tell the lane what a failure says about the server."""
    if isinstance(error, ApiError) and error.status < 500:
        lane.answered(ok=False)
    else:
        lane.failed()
    if isinstance(error, RequestTimeout) or (isinstance(error, ApiError) and error.status in (429, 503)):
        pause = error.retry_after if isinstance(error, (RateLimited, ServerError)) else None
        lane.pushed_back(pause if pause is None else min(pause, _LONGEST_PAUSE))


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
