"""A request body on its way out: files by `sendfile` or in pieces, streams as they come, and how far it all got.

How far matters more than that it failed: until the last part is handed to the socket the server cannot have the
whole request, so everything before is a plain failure, and a file that turns out to have changed stops it there.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import inspect
from collections.abc import AsyncGenerator, Callable
from typing import Any

import aiohttp
import anyio
from aiohttp.abc import AbstractStreamWriter

from .._wire.message import BodyPlan, FilePart, StreamPart
from .._wire.pacing import Phase
from ..errors import RequestTimeout, SourceError
from .reading import OpenPart, changed

__all__ = ["Progress", "Upload"]

Progress = Callable[[int], None]
"""Called with the number of body bytes just handed to the socket (negative when a try starts over)."""

# Below this, setting up a sendfile costs more than the copy that it saves.
_SENDFILE_FROM = 1024 * 1024
# What one sendfile call sends follows the speed of the line, so that a slow one still shows progress.
_SMALLEST, _LARGEST = 64 * 1024, 16 * 1024 * 1024
_TOO_QUICK, _TOO_SLOW = 0.02, 0.5
_TURNS = 6


class Upload(aiohttp.Payload):
    """A `BodyPlan` as aiohttp sends it. `phase` and `bytes` say how far it came, `stopped_by` what stopped it."""

    def __init__(
        self, plan: BodyPlan, *, piece: int, stall: float | None, sent: Progress, files: anyio.CapacityLimiter
    ) -> None:
        super().__init__(plan, content_type=plan.content_type)
        self._size = plan.length
        self._plan = plan
        self._piece = piece
        self._stall = stall
        self._sent = sent
        self._files = files
        self._batch = 1024 * 1024
        self.bytes = 0
        self.phase: Phase = "before"
        self.stopped_by: Exception | None = None
        self._line_broke: Exception | None = None
        self._ended = asyncio.Event()
        self._ended.set()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002 - aiohttp's signature
        raise TypeError("a streamed body has no text")

    async def write_with_length(
        self,
        writer: AbstractStreamWriter,
        content_length: int | None,  # noqa: ARG002 - aiohttp's signature; our length is exact
    ) -> None:
        await self.write(writer)

    async def write(self, writer: AbstractStreamWriter) -> None:
        self.phase = "sending"
        self._ended.clear()
        try:
            for number, part in enumerate(self._plan.parts, start=1):
                if number == len(self._plan.parts):
                    # Set before the last part leaves: from here on the server may have the whole request.
                    self.phase = "sent"
                if isinstance(part, bytes):
                    await self._bytes(writer, part)
                elif isinstance(part, FilePart):
                    await self._file(writer, part)
                else:
                    await self._stream(writer, part)
        except Exception as error:
            # aiohttp wraps what stops a body; the reason is picked up from here, unless it was the line.
            if error is not self._line_broke and self.stopped_by is None:
                self.stopped_by = error
            raise
        finally:
            self._ended.set()

    async def settle(self) -> None:
        """Wait until nothing more is sent and the file is closed; aiohttp stops a body, but does not wait for it."""
        with anyio.CancelScope(shield=True):
            await self._ended.wait()

    async def _bytes(self, writer: AbstractStreamWriter, part: bytes) -> None:
        # What the socket does not take at once is copied, so a large one goes in pieces as well.
        whole = memoryview(part)
        for start in range(0, len(part), self._piece):
            await self._push(writer, whole[start : start + self._piece])

    async def _file(self, writer: AbstractStreamWriter, part: FilePart) -> None:
        async with self._files, OpenPart(part) as opened:
            # A sendfile moves the offset that a caller's own file shares with our duplicate, and shows us no byte.
            direct = part.size >= _SENDFILE_FROM and part.descriptor is None and part.md5 is None
            transport = _plain(writer) if direct else None
            digest = hashlib.md5(usedforsecurity=False)
            while opened.left:
                batch = min(self._batch, opened.left)
                # A sendfile from a file that is not cached would wait for the disk on the event loop.
                if transport is not None and opened.cached(batch):
                    if await self._sendfile(writer, transport, opened, batch):
                        continue
                    transport = None
                data = await opened.read(self._piece)
                if part.md5 is not None:
                    digest.update(data)
                await self._push(writer, data)
                del data
            await opened.check()
            # Before the end of the request leaves: until then the server has nothing that it could accept.
            if part.md5 not in (None, digest.hexdigest()):
                raise changed(part)

    async def _sendfile(self, writer: AbstractStreamWriter, transport: Any, opened: OpenPart, batch: int) -> bool:
        """Send up to `batch` bytes without copying them. False if this loop cannot."""
        loop = asyncio.get_running_loop()
        # What was written before must be on its way first; sendfile goes to the socket directly.
        await self._within_stall(writer.drain())
        began = loop.time()
        try:
            count = await self._within_stall(
                loop.sendfile(transport, opened.file, opened.offset, batch, fallback=False)  # type: ignore[arg-type]
            )
        except (NotImplementedError, asyncio.SendfileNotAvailableError):
            return False
        if not count:
            raise changed(opened.part)
        opened.offset += count
        took = loop.time() - began
        if took < _TOO_QUICK:
            self._batch = min(_LARGEST, self._batch * 2)
        elif took > _TOO_SLOW:
            self._batch = max(_SMALLEST, self._batch // 2)
        self._count(count)
        # A sendfile stops the reading of the connection. Between two of them a server that has already refused
        # the request must be heard, and it takes some turns of the loop until its answer has cancelled this body.
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        return True

    async def _stream(self, writer: AbstractStreamWriter, part: StreamPart) -> None:
        left = part.size
        empty = True
        digest = hashlib.md5(usedforsecurity=False)
        async with contextlib.AsyncExitStack() as stack:
            if part.again:
                # What can be made again is made of files, one of them open at a time.
                await stack.enter_async_context(self._files)
            chunks = part.chunks()
            # Closed here and not whenever the generator is collected: a cancelled upload keeps no file open.
            if isinstance(chunks, AsyncGenerator):
                stack.push_async_callback(chunks.aclose)
            async for data in chunks:
                whole = _view(data, part.name)
                if left is not None:
                    left -= len(whole)
                    if left < 0:
                        raise SourceError(f"{part.name}: yields more than its {part.size} bytes", path=part.name)
                empty = empty and not whole
                if part.md5 is not None:
                    digest.update(whole)
                for start in range(0, len(whole), self._piece):
                    piece = whole[start : start + self._piece]
                    # The socket may keep what it is given beyond this turn, and the caller write into its buffer again.
                    await self._push(writer, piece if isinstance(data, bytes) else bytes(piece))
                del data, whole  # not held while the next one is made
        if left:
            raise SourceError(f"{part.name}: ended {left} bytes before its {part.size} bytes", path=part.name)
        if part.md5 not in (None, digest.hexdigest()):
            raise SourceError(f"{part.name}: its files changed while it was being sent", path=part.name)
        if part.size is None and empty:
            raise SourceError(f"{part.name}: the stream is empty; there is nothing to measure", path=part.name)

    async def _push(self, writer: Any, data: bytes | bytearray | memoryview) -> None:
        async def taken() -> None:
            await writer.write(data, drain=False)
            # Counted before the wait: whoever is cancelled during it knows that these bytes may arrive.
            self._count(len(data))
            await writer.drain()

        await self._within_stall(taken())

    async def _within_stall(self, step: Any) -> Any:
        """A step of the socket's."""
        patience = asyncio.timeout(self._stall)
        try:
            async with patience:
                return await step
        except Exception as error:
            self._line_broke = error
            if patience.expired():
                self.stopped_by = RequestTimeout(f"the server took no data for {self._stall:g} s")
                raise ConnectionError("upload stalled") from error
            raise

    def _count(self, count: int) -> None:
        self.bytes += count
        try:
            self._sent(count)
        except Exception as error:
            # The caller's `progress` failed; that is not the line's fault, and no reason to send again.
            self.stopped_by = error
            raise


def _view(data: Any, name: str) -> memoryview:
    """The bytes of a chunk, whatever holds them. Raises `SourceError` for what is none."""
    try:
        # An int would make that many zero bytes of `bytes()`; a memoryview takes only what holds bytes.
        return memoryview(data).cast("B")
    except TypeError:
        if inspect.iscoroutine(data):
            data.close()  # or Python complains that nobody awaited it
        raise SourceError(f"{name}: gives {type(data).__name__} where bytes are needed", path=name) from None


def _plain(writer: Any) -> asyncio.Transport | None:
    """The socket's transport when bytes may go past the writer: no TLS, no chunks to frame."""
    transport: asyncio.Transport | None = writer.transport
    if transport is None or writer.chunked or transport.get_extra_info("sslcontext") is not None:
        return None
    return transport
