"""A server on a real socket that does what a script says, byte by byte, and keeps what it saw."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

JOB = "11111111-2222-4333-8444-555555555555"
ACCEPTED = b'{"job_id":"' + JOB.encode() + b'"}'


class Exchange:
    """One connection: what came in, and how to answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.head = b""
        self._body = bytearray()

    @property
    def body(self) -> bytes:
        return bytes(self._body)

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("utf-8", "surrogateescape").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}

    @property
    def line(self) -> str:
        return self.head.split(b"\r\n")[0].decode()

    async def read_head(self) -> None:
        self.head = await self._reader.readuntil(b"\r\n\r\n")

    async def read_body(self, most: int | None = None) -> None:
        """The announced body, or its first `most` bytes, or what comes until the client hangs up."""
        left = int(self.headers.get("content-length", "0"))
        left = left if most is None else min(most, left)
        while left and (data := await self._reader.read(min(left, 2**16))):
            self._body += data
            left -= len(data)

    async def read_rest(self) -> None:
        while data := await self._reader.read(2**16):
            self._body += data

    async def read_all(self) -> None:
        await self.read_head()
        await self.read_body()

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def reply(self, status: int, body: bytes = b"", *headers: str, length: int | None = None) -> None:
        lines = [f"HTTP/1.1 {status} Scripted", f"Content-Length: {len(body) if length is None else length}"]
        lines += ["Connection: close", *headers]
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def reset(self) -> None:
        """Cut the connection with a RST, as a crashed machine does."""
        self._writer.transport.abort()


Script = Callable[[Exchange], Awaitable[None]]


class ScriptedServer:
    """Runs a script for each connection and closes it: the n-th gets the n-th script, later ones the last."""

    def __init__(self, *scripts: Script, limit: int = 2**20) -> None:
        self._scripts = scripts
        self._limit = limit
        self.exchanges: list[Exchange] = []
        self.now = 0
        self.most = 0
        self._running: set[asyncio.Task[None]] = set()
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def lines(self) -> list[str]:
        return [exchange.line for exchange in self.exchanges if exchange.head]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=self._limit)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        exchange = Exchange(reader, writer)
        self.exchanges.append(exchange)
        script = self._scripts[min(len(self.exchanges), len(self._scripts)) - 1]
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        self._quiet.clear()
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await script(exchange)
        finally:
            self.now -= 1
            self._running.discard(task)
            if not self._running:
                self._quiet.set()
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def quiet(self) -> None:
        """Wait until no script runs: every client has hung up or was answered."""
        async with asyncio.timeout(10):
            await self._quiet.wait()


def answering(status: int, body: bytes = b"", *headers: str) -> Script:
    """Read the whole request, then answer."""

    async def script(exchange: Exchange) -> None:
        await exchange.read_all()
        await exchange.reply(status, body, *headers)

    return script


accepting: Script = answering(200, ACCEPTED)


@contextlib.asynccontextmanager
async def closed_port() -> AsyncIterator[str]:
    """A URL where nobody listens."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    yield f"http://127.0.0.1:{port}"
