"""Bytes to the server and back, below every HTTP client: tests decide each byte that goes out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import msgspec

from humebatch.testing import RunningServer

BOUNDARY = "7MA4YWxkTrZu0gW"
# Nothing here takes long; a server that hangs fails the test instead of the run.
PATIENCE = 30.0


class Reply(msgspec.Struct):
    """One answer; header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which must be JSON by its type and its content."""
        assert self.headers["content-type"].startswith("application/json"), self
        return json.loads(self.body)


@contextlib.asynccontextmanager
async def connection(server: RunningServer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A TCP connection to the server."""
    where = urlsplit(server.base_url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    """The next answer on the connection, whole."""
    with anyio.fail_after(PATIENCE):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Reply(status=int(first.split()[1]), headers=headers, body=body)


async def talk(server: RunningServer, data: bytes) -> Reply:
    """Send `data` as it is on a connection of its own, and read one answer."""
    async with connection(server) as (reader, writer):
        writer.write(data)
        # A server may answer and close before it has taken everything.
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        return await read_reply(reader)


def request(
    target: str = "/v0/batch/jobs",
    body: bytes | None = None,
    *,
    method: str | None = None,
    key: str | None = "test-key",
    content_type: str | None = "application/json",
    headers: Iterable[str] = (),
    length: int | None = None,
) -> bytes:
    """One HTTP request; `length` announces another Content-Length than the true one."""
    lines = [f"{method or ('GET' if body is None else 'POST')} {target} HTTP/1.1", "Host: test"]
    if key is not None:
        lines.append(f"X-Hume-Api-Key: {key}")
    if body is not None:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
        if content_type is not None:
            lines.append(f"Content-Type: {content_type}")
    lines += headers
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + (body or b"")


def part(name: str, data: bytes, *lines: str, filename: str | None = None) -> bytes:
    """One part of a form; `lines` are further headers."""
    disposition = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    head = "\r\n".join([f"--{BOUNDARY}", disposition, *lines])
    return head.encode() + b"\r\n\r\n" + data + b"\r\n"


def form(*parts: bytes) -> bytes:
    """A whole form of `parts`."""
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def form_request(body: bytes, **more: Any) -> bytes:
    """A request with `body` as its form."""
    return request(body=body, content_type=f"multipart/form-data; boundary={BOUNDARY}", **more)


def rows(server: RunningServer) -> list[tuple[str, str]]:
    """What the database holds: id and status of every job."""
    with contextlib.closing(sqlite3.connect(f"file:{server.data}/jobs.db?mode=ro", uri=True)) as database:
        return database.execute("SELECT id, status FROM job ORDER BY seq").fetchall()


def left_behind(server: RunningServer) -> list[str]:
    """Everything that lies in the server's folders for uploads and jobs."""
    return sorted(
        str(path.relative_to(server.data)) for name in ("incoming", "jobs") for path in (server.data / name).rglob("*")
    )


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something that the server does in its own time and tells nobody about."""
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.005)


def path_of_input(data: Path) -> Path | None:
    """The first file of any upload that is being collected."""
    return next(iter((data / "incoming").glob("*/0")), None)


UNKNOWN = str(uuid.UUID("00000000-0000-4000-8000-000000000404"))
