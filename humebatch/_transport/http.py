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

from .._allocation import keep_freed_blocks
from .._wire.message import BodyPlan, Service, WireReply, WireRequest
from .._wire.pacing import Phase, kept_open, may_have_created, may_resend, retry_wait
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
    error_class,
)
from .clock import Clock, SystemClock
from .files import save_atomically
from .lanes import Lane
from .upload import Progress, Upload

__all__ = ["Stats", "Transport"]

T = TypeVar("T")
_log = logging.getLogger("humebatch.transport")
_DOWNLOAD_CHUNK = 64 * 1024
_KEPT_BLOCK = 1024 * 1024  # a piece, the TLS records made of it, and the next ones
# Seconds that a connection may idle before it is used again; for submissions, where a server promises to keep it for
# that much longer at least.
_KEPT = 15.0
_KEPT_FOR_SUBMISSIONS = 1.0
_MARGIN = 3.0
# A pause up to `RetryPolicy.max_retry_after` is waited for. During a longer one every request of its class fails at
# once, unsent, and says how long it lasts; after an hour at most, whatever was asked for, they go out again.
_LONGEST_PAUSE = 3600.0
# No time heals a certificate or a scheme that is wrong.
_FOR_GOOD = (aiohttp.ClientSSLError, aiohttp.InvalidURL)


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
        self._creating_again: aiohttp.ClientSession | None = None
        self._keeps: bool | None = None
        self._budget = RetryBudget()
        breaker = Breaker()
        self.submissions = Lane(limits.uploads, breaker, self.clock)
        self.looks = Lane(limits.polls, breaker, self.clock)
        self._files = anyio.CapacityLimiter(limits.open_files)

    async def __aenter__(self) -> Self:
        keep_freed_blocks(max(4 * self.limits.piece, _KEPT_BLOCK))
        self._reading = self._session(aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT))
        # A connection that idled may just be closed by the server, and a submission that dies on it cannot be told
        # from an accepted one. So each gets a connection of its own, unless the server has promised to keep them.
        self._creating = self._session(aiohttp.TCPConnector(limit=0, force_close=True))
        self._creating_again = self._session(aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_FOR_SUBMISSIONS))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sessions = (self._reading, self._creating, self._creating_again)
        self._reading = self._creating = self._creating_again = None
        # Shielded, and in tasks of their own, which asyncio's own cancellation does not reach either: a cancelled block
        # must not leave connections behind.
        closing = [asyncio.ensure_future(session.close()) for session in sessions if session is not None]
        if closing:
            with anyio.CancelScope(shield=True):
                await asyncio.wait(closing)
            for one in closing:
                one.result()

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=connector,
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
            if held := await lane.ready(self._retry.max_retry_after):
                raise _held_back(request, earlier, *held) from (earlier[-1] if earlier else None)
            began, let_through = time.time(), self.clock.now()
            upload = self._upload(request.body, progress)
            try:
                value = await self._once(request, upload, consume, lane)
            except (ApiError, TransportError) as error:
                error.attempts = len(earlier) + 1
                if isinstance(error, TransportError):
                    error.earlier = tuple(earlier)
                if isinstance(error.__cause__, _FOR_GOOD):
                    raise
                _learn(lane, error, let_through)
                wait = self._wait(request, upload, error, began)
                if wait is None or not self._budget.spend(timeout=isinstance(error, RequestTimeout)):
                    raise
                _log.info("%s; trying again in %.1f s", error, wait)
                earlier.append(error)
                self.stats.resends += 1
                if upload is not None and progress is not None and upload.bytes:
                    progress(-upload.bytes)
                await self.clock.sleep(wait)
            except Exception as error:
                # The caller's `progress` failed; if that was at the last piece, the server has the whole request.
                if not request.creates or upload is None or upload.phase != "sent" or upload.stopped_by is not error:
                    raise
                raise self._unknown(request, error, began) from error
            else:
                lane.answered(ok=True)
                if not earlier:
                    self._budget.succeeded()
                return value

    def _wait(
        self, request: WireRequest, upload: Upload | None, error: ApiError | TransportError, began: float
    ) -> float | None:
        """Seconds to the next try, None if there is none. Raises `SubmissionUnknown` when there may be a job."""
        status = error.status if isinstance(error, ApiError) else None
        phase: Phase = "before" if isinstance(error, ConnectFailed) else upload.phase if upload else "sent"
        if may_resend(creates=request.creates, phase=phase, status=status, once=request.once):
            if upload is not None and phase != "before" and request.body is not None and not request.body.again:
                error.message += " (not tried again: its content comes from a stream that can be read only once)"
                return None
            floor = error.retry_after if isinstance(error, (RateLimited, ServerError)) else None
            return retry_wait(self._retry, failures=error.attempts, floor=floor, chance=random.random())
        if request.creates and may_have_created(phase=phase, status=status):
            raise self._unknown(request, error, began) from error
        return None

    def _unknown(self, request: WireRequest, error: Exception, began: float) -> SubmissionUnknown:
        return SubmissionUnknown(
            f"{request.method} {request.path}: the submission was sent whole and then failed "
            f"({str(error) or type(error).__name__}); "
            "the server may have accepted it. Look for the job in the list before sending it again",
            method=request.method,
            path=request.path,
            attempts=error.attempts if isinstance(error, (ApiError, TransportError)) else 1,
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
        session = self._reading
        if request.creates:
            session = self._creating_again if self._keeps else self._creating
        if session is None:
            raise ConfigError("the client is not open: use it inside `async with`")
        headers = dict(self._service.sign(request, self._key))
        if request.idempotency_key is not None:
            headers["Idempotency-Key"] = request.idempotency_key
        if request.creates and self._keeps is None:
            # Without it aiohttp would ask the server to close, and then none would promise to keep the connection.
            headers["Connection"] = "keep-alive"
        where: dict[str, Any] = {"method": request.method, "path": request.path}
        self.stats.requests += 1
        try:
            async with session.request(
                request.method,
                self.base_url + request.path,
                params=list(request.query),
                data=upload,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=None,
                    sock_connect=self._timeouts.connect,
                    sock_read=self._timeouts.answer if upload is not None else self._timeouts.read,
                ),
            ) as reply:
                if request.creates:
                    # The word of one answer without it counts more: behind a balancer not all servers are the same.
                    promised = kept_open(reply.headers) >= _KEPT_FOR_SUBMISSIONS + _MARGIN
                    self._keeps = promised and self._keeps is not False
                pause = rate_limit_pause(reply.headers, now=time.time())
                if pause is not None:
                    lane.hold(pause)
                if 200 <= reply.status < 300:
                    # An answer that trickles would never end; those that may be long have no such bound.
                    async with asyncio.timeout(self._timeouts.answer if request.creates else None):
                        return await consume(reply)
                if reply.status == 429:
                    self.stats.rate_limited += 1
                raise self._service.refusal(request, self._without_key(await self._read(reply)))
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            if upload is not None and upload.stopped_by is not None:
                stopped = upload.stopped_by
                if isinstance(stopped, TransportError):
                    stopped.method, stopped.path = request.method, request.path
                # What a source raised has a cause of its own, which says more than that the connection broke.
                raise stopped from (stopped.__cause__ or error)
            if session is self._creating_again and not isinstance(error, aiohttp.ClientConnectorError | TimeoutError):
                self._keeps = False  # it may have died of being used again
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


def _held_back(
    request: WireRequest, earlier: list[HumebatchError], pause: float, status: int | None
) -> ApiError | ConnectFailed:
    where: dict[str, Any] = {"method": request.method, "path": request.path, "attempts": len(earlier)}
    said = f"{request.method} {request.path}: not sent:"
    if status is None:
        return ConnectFailed(f"{said} the server fails, and is tried again in {pause:.0f} s", earlier=earlier, **where)
    asked = f"{said} the server asked for a pause, and {pause:.0f} s of it are left"
    error = error_class(status)(asked, status=status, **where)
    if isinstance(error, (RateLimited, ServerError)):
        error.retry_after = pause
    return error


def _learn(lane: Lane, error: ApiError | TransportError, began: float) -> None:
    """Tell the lane what a failure of a request let through at `began` says about the server."""
    if isinstance(error, ApiError) and error.status < 500:
        lane.answered(ok=False)
    else:
        lane.failed(began=began)
    if isinstance(error, RequestTimeout) or (isinstance(error, ApiError) and error.status in (429, 503)):
        pause = error.retry_after if isinstance(error, (RateLimited, ServerError)) else None
        status = error.status if isinstance(error, ApiError) else 0
        lane.pushed_back(pause if pause is None else min(pause, _LONGEST_PAUSE), status=status)


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
