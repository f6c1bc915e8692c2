"""Fetching the `urls` of a submission: one URL becomes one file on disk, or an `Unmeasurable` that says why not.

Callers choose the URL, so every hop goes through the `Guard`, redirects are followed by hand, and size, time and
pauses are limited. Content that arrives compressed is decompressed here, in bounded pieces, and counted afterwards.
Messages show a URL without user info and query: they are stored with the results, and queries hold signatures.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import http
import logging
import mimetypes
import os
import re
import socket
import threading
import zlib
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

import aiohttp
import anyio
import anyio.to_thread
import msgspec
from yarl import URL

from .._wire.multipart import read_disposition
from .guard import Guard, Refusal
from .measure import Media, Unmeasurable
from .outgoing import find_route, open_session, origin_of, parse_url

__all__ = ["FetchLimits", "fetch", "fetcher", "file_name"]

_log = logging.getLogger("humebatch.server")
# Big enough that a hop to a thread costs little beside the write.
_PIECE = 1024 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OVERLOADED = frozenset({408, 425, 429})
_SHOWN = 200
_NAME = 150
_NAME_END = 20
_ENCODINGS = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


class FetchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one URL may take. Times are seconds.

    `file_bytes`: the API's limit for a URL, counted after decompression. `total`: for all redirects and tries
    together. `stall`: the longest pause of a server, also before its answer. `waits`: before the second and each
    further try, after a failure that may pass.
    """

    file_bytes: int = 2**30
    total: float = 900.0
    stall: float = 30.0
    connect: float = 10.0
    redirects: int = 5
    waits: tuple[float, ...] = (0.5, 2.0)


class _Passing(Exception):
    """A failure that another try may not meet."""


def fetcher(guard: Guard, limits: FetchLimits | None = None) -> Callable[[str, Path], Coroutine[Any, Any, Media]]:
    """`fetch` with these settings."""
    return functools.partial(fetch, guard=guard, limits=limits)


async def fetch(url: str, target: Path, *, guard: Guard, limits: FetchLimits | None = None) -> Media:
    """Fetch `url` to the file `target`, whose folder must exist. What kind of file it is is left open.

    Raises `Unmeasurable` with a sentence for the user; then, and when it is cancelled, no file is left behind.
    Raises `OSError` only for this machine's disk.
    """
    limits = limits or FetchLimits()
    try:
        async with asyncio.timeout(limits.total), open_session(auto_decompress=False) as session:
            for turn, wait in enumerate((*limits.waits, None)):
                try:
                    return await _attempt(session, url, target, turn, guard, limits)
                except _Passing as trouble:
                    if wait is None:
                        tries = f" ({turn + 1} tries)" if turn else ""
                        raise Unmeasurable(f"{trouble}{tries}") from trouble
                    await anyio.sleep(wait)
    except TimeoutError:
        pass
    raise Unmeasurable(f"{_shown(url)}: not fetched within {limits.total:g} s")


async def _attempt(
    session: aiohttp.ClientSession, url: str, target: Path, turn: int, guard: Guard, limits: FetchLimits
) -> Media:
    """Follow `url` to its file. Raises `_Passing` and `Unmeasurable`."""
    at = _usable(url, "not an http or https URL that can be fetched")
    for _ in range(limits.redirects + 1):
        where = _shown(at)
        async with await _ask(session, at, turn, guard, limits) as reply:
            location = reply.headers.get("Location")
            if reply.status in _REDIRECTS and location:
                with contextlib.suppress(ValueError):  # of what cannot be joined, `_usable` says so
                    location = str(at.join(URL(location, encoded=location.isascii())))
                at = _usable(location, f"{where}: redirects to something that is not an http or https URL")
                continue
            if not 200 <= reply.status < 300:
                raise _failure(where, reply.status)
            md5sum = await _store(reply, target, where, limits)
            name = file_name(
                reply.headers.get("Content-Disposition", ""),
                [unquote(one.raw_name) for one in (at, parse_url(url))],
                reply.headers.get("Content-Type", ""),
            )
            return Media(path=str(target), name=name, file_type="unknown", md5sum=md5sum)
    raise Unmeasurable(f"{_shown(url)}: more than {limits.redirects} redirects, the last one to {_shown(at)}")


async def _ask(
    session: aiohttp.ClientSession, url: URL, turn: int, guard: Guard, limits: FetchLimits
) -> aiohttp.ClientResponse:
    """The head of the answer; its body is still to come."""
    where = _shown(url)
    with _network(where, limits):
        async with asyncio.timeout(limits.stall):
            try:
                route = await find_route(guard, url, turn=turn)
            except Refusal as refusal:
                # The log is the operator's; a caller is not told what names inside the network resolve to.
                _log.warning("%s is not fetched: %s", origin_of(str(url)), refusal)
                raise Unmeasurable(
                    f"{where}: not fetched: {url.raw_host} has no public address; the server's option "
                    f"--fetch-allow {url.raw_host} would permit it"
                ) from None
            return await session.get(
                route.url,
                # Media are compressed already. A server that compresses all the same is understood, see `_Inflating`.
                headers={"Host": route.host, "Accept": "*/*", "Accept-Encoding": "identity"},
                allow_redirects=False,
                server_hostname=route.server_name,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.connect),
            )


async def _store(reply: aiohttp.ClientResponse, target: Path, where: str, limits: FetchLimits) -> str:
    """Write the body to `target`: its md5."""
    encoding = reply.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity", *_ENCODINGS):
        raise Unmeasurable(f"{where}: its Content-Encoding {_printable(encoding)!r} is not supported")
    if (reply.content_length or 0) > limits.file_bytes:
        raise _too_large(where, limits)
    file = _File(target, where, _ENCODINGS.get(encoding), limits)
    try:
        pending = bytearray()
        while piece := await _next(reply, where, limits):
            pending += piece
            if len(pending) >= _PIECE:
                await anyio.to_thread.run_sync(file.add, bytes(pending))
                pending.clear()
        return await anyio.to_thread.run_sync(file.finish, bytes(pending))
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(file.close)


async def _next(reply: aiohttp.ClientResponse, where: str, limits: FetchLimits) -> bytes:
    with _network(where, limits):
        async with asyncio.timeout(limits.stall):
            return await reply.content.read(_PIECE)


class _File:
    """The file while it arrives. Methods block; without `finish` the file is removed by `close`.

    Each holds a lock: `close` waits for a write that a cancelled task left behind in its thread.
    """

    def __init__(self, target: Path, where: str, window: int | None, limits: FetchLimits) -> None:
        self._target, self._where, self._limits = target, where, limits
        self._inflating = None if window is None else _Inflating(window)
        self._digest = hashlib.md5(usedforsecurity=False)
        self._size = 0
        self._lock = threading.Lock()
        self._out: IO[bytes] | None = None
        self._whole = self._closed = False

    def add(self, data: bytes) -> None:
        """Write what came, decompressed."""
        with self._lock:
            if self._closed:
                return
            if self._out is None:
                self._out = open(self._target, "wb", buffering=0, opener=_private)  # noqa: SIM115 - closed by `close`
            try:
                for piece in [data] if self._inflating is None else self._inflating.pieces(data):
                    self._write(self._out, piece)
            except zlib.error:
                raise Unmeasurable(f"{self._where}: its compressed content is damaged") from None

    def _write(self, out: IO[bytes], piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._limits.file_bytes:
            raise _too_large(self._where, self._limits)
        self._digest.update(piece)
        view = memoryview(piece)
        while view:
            view = view[out.write(view) :]

    def finish(self, data: bytes) -> str:
        """Write the rest: the md5 of all."""
        self.add(data)
        if self._inflating is not None and not self._inflating.whole:
            raise _Passing(f"{self._where}: its content ends too early")
        if not self._size:
            raise Unmeasurable(f"{self._where}: the file is empty")
        self._whole = True
        return self._digest.hexdigest()

    def close(self) -> None:
        """Close it, and remove it if it is not whole."""
        with self._lock:
            self._closed = True
            if self._out is not None:
                self._out.close()
            if not self._whole:
                self._target.unlink(missing_ok=True)


class _Inflating:
    """gzip or deflate, undone piece by piece: however much a few bytes expand to, `_PIECE` of it is in memory."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._engine = zlib.decompressobj(window)
        self._begun = False

    @property
    def whole(self) -> bool:
        """Whether nothing is missing at its end."""
        return self._engine.eof or not self._begun

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What `data` expands to."""
        if data and not self._begun:
            self._begun = True
            # Some servers call raw deflate data "deflate" too; zlib's header has 8 in its low bits (RFC 1950).
            if self._window == zlib.MAX_WBITS and data[0] & 0x0F != 8:
                self._engine = zlib.decompressobj(-zlib.MAX_WBITS)
        while data:
            if self._engine.eof:
                if self._window == zlib.MAX_WBITS or not data.startswith(b"\x1f"):
                    return  # padding
                self._engine = zlib.decompressobj(self._window)  # a further member of gzip
            # Output that is left over when the input is used up comes with the next call, which may have no input.
            full = True
            while full:
                piece = self._engine.decompress(data, _PIECE)
                yield piece
                data = self._engine.unconsumed_tail
                full = len(piece) == _PIECE and not self._engine.eof
            data = self._engine.unused_data


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def file_name(disposition: str, names: list[str], content_type: str) -> str:
    """What a fetched file is called, by its `Content-Disposition`, else by the first of `names` with an ending.

    Always a plain, printable name that leads into no folder. A name without an ending gets the one that its type
    has, because a file's kind may depend on it.
    """
    parameters = read_disposition(disposition, None) or {}
    charset, _, rest = parameters.get("filename*", "").partition("'")
    encoded = rest.partition("'")[2] if charset.lower() in ("utf-8", "iso-8859-1") else ""
    told = [unquote(encoded, charset, "replace") if encoded else "", parameters.get("filename", "")]
    found = [plain for name in (*told, *sorted(names, key=lambda one: "." not in one)) if (plain := _plain(name))]
    name = found[0] if found else "download"
    kind = content_type.partition(";")[0].strip().lower()
    ending = "" if "." in name or kind == "application/octet-stream" else mimetypes.guess_extension(kind)
    return name + (ending or "")


def _plain(name: str) -> str:
    last = _printable(re.split(r"[/\\]", name)[-1]).strip(". ")
    return last if len(last) <= _NAME else last[: _NAME - _NAME_END] + last[-_NAME_END:]


def _printable(text: str) -> str:
    # Not even what turns the direction of writing: such a name looks like another one.
    return "".join(one if one.isprintable() else "_" for one in text[: 10 * _NAME]).strip()


def _usable(text: str, otherwise: str) -> URL:
    try:
        return parse_url(text)
    except Refusal:
        raise Unmeasurable(otherwise) from None


def _shown(url: str | URL) -> str:
    """A URL as messages show it."""
    try:
        parsed = url if isinstance(url, URL) else parse_url(url)
        text = f"{parsed.origin()}{parsed.raw_path}"
    except (Refusal, ValueError):
        return "this URL"
    return _printable(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def _failure(where: str, status: int) -> Exception:
    try:
        phrase = f" ({http.HTTPStatus(status).phrase})"
    except ValueError:
        phrase = ""
    sentence = f"{where}: its server answered {status}{phrase}"
    return _Passing(sentence) if status >= 500 or status in _OVERLOADED else Unmeasurable(sentence)


def _too_large(where: str, limits: FetchLimits) -> Unmeasurable:
    return Unmeasurable(f"{where}: larger than the {limits.file_bytes} bytes that this server fetches")


@contextlib.contextmanager
def _network(where: str, limits: FetchLimits) -> Iterator[None]:
    """Say in our words what failed on the network. The texts of libraries may quote the URL."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError:
        raise Unmeasurable(f"{where}: the TLS certificate of its server cannot be verified") from None
    except aiohttp.ClientSSLError:
        raise Unmeasurable(f"{where}: its server does not speak TLS as it should") from None
    except aiohttp.ConnectionTimeoutError:
        raise _Passing(f"{where}: no connection to its server within {limits.connect:g} s") from None
    except TimeoutError:
        raise _Passing(f"{where}: its server sent nothing for {limits.stall:g} s") from None
    except aiohttp.ClientPayloadError:
        raise _Passing(f"{where}: its content ends too early") from None
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise _Passing(f"{where}: the name of its server cannot be resolved for now") from None
        raise Unmeasurable(f"{where}: the name of its server is not known") from None
    except (aiohttp.ClientConnectionError, OSError) as error:
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        reason = (cause.strerror if isinstance(cause, OSError) else None) or type(error).__name__
        raise _Passing(f"{where}: no connection to its server: {reason}") from None
    except aiohttp.ClientError:
        raise Unmeasurable(f"{where}: the answer of its server is not valid HTTP") from None
    except UnicodeError:  # the resolver's way to refuse a host name
        raise Unmeasurable(f"{where}: its host name is not valid") from None
