"""Planted faults: what goes wrong inside a service or before it, said in advance by a test."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Literal

import anyio.to_thread
import msgspec
from aiohttp import web

from .._wire.batch import CAPABILITIES_HEADER, JOBS_PATH
from ..errors import ConfigError
from ..jobs import JobId
from .proxy import Proxy, proxying, resets_when_closed

__all__ = ["Answer", "Before", "Trouble"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_FROM_GATEWAY = web.ResponseKey("from a gateway", bool)
# What belongs to the connection that a held request came on, and not to the request.
_OF_THE_CONNECTION = {b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"expect"}


class Answer(msgspec.Struct, frozen=True):
    """This answer in place of the service's own: what a gateway, a balancer or a captive portal says.

    `body` is a short page in HTML unless given, as gateways send them. For a submission: the job is made first, and
    its id is lost.
    """

    status: int
    headers: dict[str, str] = {}
    body: bytes | None = None

    def __post_init__(self) -> None:
        if isinstance(self.status, bool) or not isinstance(self.status, int) or not 200 <= self.status <= 599:
            raise ConfigError(f"status: must be a status code from 200 to 599, got {self.status!r}", field="status")


class Before(Answer, frozen=True):
    """The whole submission is read, this is answered, and no job is made: a rate limit, a gateway that holds it back.

    A 503 of this kind looks to a client exactly like one behind which there is a job. A 429 of this kind means what
    it says.
    """


SubmissionFault = Literal["reset", "drop", "cut", "late"] | int | Answer | None
AnswerFault = Literal["reset", "cut"] | int | Answer | None


class _Made(msgspec.Struct):
    created_timestamp_ms: int


class _Listed(msgspec.Struct):
    job_id: str
    state: _Made


class Trouble:
    """Faults to be planted in a server (`running_server(trouble=...)`) and on the line to it (`proxy`).

    Nothing goes wrong until a test says so. `accepted`: the ids of the jobs that the service made, in order,
    whatever was answered. `address`: host and port of the server, where `release` delivers to.
    """

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self.address: tuple[str, int] | None = None
        self._submissions: deque[Answer | str | None] = deque()
        self._answers: list[tuple[str, str, deque[Answer | str | None]]] = []
        self._held: list[bytes] = []
        self._delivering: set[tuple[str, int]] = set()
        self._begun = 0
        # Jobs made from this time on (Unix milliseconds) but these, which were made in the same millisecond before.
        self._hidden: tuple[int, frozenset[str]] | None = None

    def submissions(self, *faults: SubmissionFault) -> None:
        """What happens to the next submissions, in the order in which they arrive; afterwards all is well.

        - `"drop"`: the job is made, and the connection is reset without an answer. A server or a balancer that dies
          between doing and saying so.
        - `"cut"`: the job is made, and the connection is closed in the middle of the answer: 200, and half an id.
        - a status, or `Answer`: the job is made, and this is answered. A gateway that gave up waiting (502, 504), a
          retry layer that asked twice (409).
        - `"late"`: the whole submission is read and held, and the connection is reset; the job is made on
          `release()`. A queue in between that delivers when nobody expects it any more.
        - `Before(status, ...)`: read whole, refused, and no job is made.
        - `"reset"`: the connection is reset before the body is read, and no job is made.
        - None: nothing.

        Added to what was planted before. A submission that the service itself refuses, or that does not arrive
        whole, leaves its fault to the next one.
        """
        self._submissions.extend(_planted(faults, ("reset", "drop", "cut", "late")))

    def answers(self, method: str, route: str, *faults: AnswerFault) -> None:
        """What is answered to the next requests of one kind, in the order in which they arrive.

        `route` is how the path ends: `/jobs`, `/jobs/{id}`, `/predictions` or `/artifacts`. A status or an `Answer`
        is given, and a connection is reset (`"reset"`), without the service hearing of the request, and before its
        body is read. `"cut"`: the service's own answer breaks off after half of its body. None: nothing. Added to
        what was planted before.
        """
        self._answers.append((method, route, deque(_planted(faults, ("reset", "cut")))))

    @property
    def left(self) -> int:
        """How many planted faults have not happened yet, those of submissions and of answers."""
        return len(self._submissions) + sum(len(script) for _, _, script in self._answers)

    @property
    def hide_new_jobs(self) -> bool:
        """While True, jobs made since it was set are not in the job list; whoever knows their id can ask for them.

        A list that is read from a copy, and comes late.
        """
        return self._hidden is not None

    @hide_new_jobs.setter
    def hide_new_jobs(self, hide: bool) -> None:
        if hide != self.hide_new_jobs:
            self._hidden = (time.time_ns() // 1_000_000, frozenset(self.accepted)) if hide else None

    @property
    def held(self) -> int:
        """How many late submissions wait for `release`."""
        return len(self._held)

    async def release(self) -> int:
        """Deliver the late submissions to the service, one after the other; returns how many there were.

        They come as requests of their own, to the server that runs by then, and nobody hears what it says to them.
        """
        count = 0
        while self._held:
            assert self.address is not None, "only a server holds anything"
            reader, writer = await asyncio.open_connection(*self.address)
            ours: tuple[str, int] = writer.get_extra_info("sockname")
            self._delivering.add(ours)
            try:
                if self._held:  # or another call was quicker
                    writer.write(self._held.pop(0))
                    await reader.read()
                    count += 1
            finally:
                self._delivering.discard(ours)
                writer.close()
        return count

    def proxy(self, base_url: str) -> contextlib.AbstractAsyncContextManager[Proxy]:
        """A TCP proxy before the service at `base_url`, for the faults of lines.

            async with trouble.proxy(server.base_url) as proxy, hb.BatchClient(base_url=proxy.base_url) as client:
                proxy.connections(Reset(after_up=1000), None, Cut(after_down=20))

        The end of the block closes all connections.
        """
        return proxying(base_url)

    def plant(self, app: web.Application) -> None:
        """Put these troubles around an application of `create_app`; what `running_server(trouble=...)` does."""
        app.middlewares.insert(0, self._around)
        app.on_response_prepare.append(_as_a_gateway)

    @web.middleware
    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        route = "" if resource is None else resource.canonical
        fault = self._next_answer(request.method, route)
        if fault == "reset":
            return _reset(request)
        if isinstance(fault, Answer):
            return _said(fault)
        response = await self._served(request, handler, route)
        return await _cut(request, response) if fault == "cut" else response

    def _next_answer(self, method: str, route: str) -> Answer | str | None:
        for planted, ending, script in self._answers:
            if script and planted == method and route.endswith(ending):
                return script.popleft()
        return None

    async def _served(self, request: web.Request, handler: Handler, route: str) -> web.StreamResponse:
        if (request.method, route) == ("POST", JOBS_PATH):
            return await self._submission(request, handler)
        if (request.method, route) == ("GET", JOBS_PATH) and self._hidden is not None:
            return await self._list(request, handler, *self._hidden)
        return await handler(request)

    async def _submission(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        peer = None if request.transport is None else request.transport.get_extra_info("peername")
        fault = self._submissions.popleft() if self._submissions and peer not in self._delivering else None
        if fault == "reset":
            return _reset(request)
        if fault == "late" or isinstance(fault, Before):
            try:
                body = await request.read()
            except ConnectionError:
                self._submissions.appendleft(fault)
                return web.Response(status=400)  # to nobody
            if isinstance(fault, Before):
                return _said(fault)
            self._held.append(_as_bytes(request, body))
            return _reset(request)
        self._begun += 1
        response = await handler(request)
        job_id = _job_id(response)
        if job_id is None:
            if fault is not None:
                self._submissions.appendleft(fault)
            return response
        if job_id not in self.accepted:
            self.accepted.append(job_id)
        if fault == "drop":
            return _reset(request)
        if fault == "cut":
            return await _cut(request, response)
        return _said(fault) if isinstance(fault, Answer) else response

    async def _list(
        self, request: web.Request, handler: Handler, since_ms: int, known: frozenset[str]
    ) -> web.StreamResponse:
        limit = request.query.get("limit", "50")
        if limit.isascii() and limit.isdigit() and len(limit) <= 18 and int(limit):
            # So many more that the page is full without those that are hidden.
            request = request.clone(
                rel_url=request.rel_url.update_query(limit=str(min(int(limit), 2**31) + self._begun))
            )
        response = await handler(request)
        if response.status == 200 and isinstance(response, web.Response) and isinstance(response.body, bytes):
            shown: list[bytes] = []
            for row in msgspec.json.decode(response.body, type=list[msgspec.Raw]):
                listed = msgspec.json.decode(row, type=_Listed)
                if listed.state.created_timestamp_ms < since_ms or listed.job_id in known:
                    shown.append(bytes(row))
            response.body = b"[" + b",".join(shown[: int(limit)]) + b"]"
        return response


def _planted(faults: Iterable[object], words: tuple[str, ...]) -> list[Answer | str | None]:
    planted: list[Answer | str | None] = []
    for fault in faults:
        if isinstance(fault, int):
            planted.append(Answer(fault))
        elif fault is None or isinstance(fault, Answer) or (isinstance(fault, str) and fault in words):
            planted.append(fault)
        else:
            raise ConfigError(f"{fault!r}: no such fault; there are {', '.join(words)} and answers", field="faults")
    return planted


def _said(answer: Answer) -> web.Response:
    body, headers = answer.body, {"Content-Type": "text/html", **answer.headers}
    if body is None:
        title = f"{answer.status} {http.client.responses.get(answer.status, '')}".strip()
        body = f"<html><h1>{title}</h1></html>".encode()
    response = web.Response(status=answer.status, headers=headers, body=body)
    response[_FROM_GATEWAY] = True
    return response


async def _as_a_gateway(_request: web.BaseRequest, response: web.StreamResponse) -> None:
    # What the service announces in its own answers, gateways do not know of.
    if response.get(_FROM_GATEWAY):
        response.headers.pop(CAPABILITIES_HEADER, None)


def _reset(request: web.Request) -> web.Response:
    """Reset the connection. The answer that is returned cannot be sent any more, which aiohttp takes calmly."""
    if request.transport is not None:
        resets_when_closed(request.transport.get_extra_info("socket"))
        request.transport.abort()
    return web.Response()


async def _cut(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Send the headers and half of the body, and close the connection in good order."""
    if isinstance(response, web.FileResponse):
        body = await anyio.to_thread.run_sync(response._path.read_bytes)
    else:
        whole = response.body if isinstance(response, web.Response) else None
        body = whole if isinstance(whole, bytes) else b""
    half = web.StreamResponse(status=response.status, headers=response.headers)
    half.content_length = len(body)
    await half.prepare(request)
    await half.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return half


def _job_id(response: web.StreamResponse) -> str | None:
    """The id in the service's answer to a submission, None if that is a refusal."""
    if response.status != 200 or not isinstance(response, web.Response) or not isinstance(response.body, bytes):
        return None
    return msgspec.json.decode(response.body, type=JobId).job_id


def _as_bytes(request: web.Request, body: bytes) -> bytes:
    """The request again, for a connection of its own."""
    lines = [f"{request.method} {request.raw_path} HTTP/1.1".encode()]
    lines += [name + b": " + value for name, value in request.raw_headers if name.lower() not in _OF_THE_CONNECTION]
    lines += [b"Connection: close", b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
