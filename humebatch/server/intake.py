"""The way in: an upload becomes files on disk with their md5, or a `Refused` that names what is wrong.

Nothing is held in memory but one piece of a part, every size is counted while it arrives, and a
stalled or cut upload leaves nothing behind. Real clients send the `json` part as a plain field or as
a file, before or after the files, with any content type or none; all of that is accepted.
"""

from __future__ import annotations

import asyncio
import difflib
import errno
import hashlib
import itertools
import os
from collections.abc import Awaitable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar, overload

import aiohttp
import anyio.to_thread
import msgspec
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage
from msgspec import UNSET

from .._wire.batch import RequestBody
from .._wire.codec import decode
from .._wire.multipart import read_disposition
from ..errors import ConfigError, DecodeError
from ..jobs import MODEL_NAMES, Burst, Face, Facemesh, File, Language, Ner, Prosody, check_request

__all__ = ["IntakeLimits", "Received", "Refused", "receive"]

T = TypeVar("T")


class IntakeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one request may bring, and how long a client may pause in the middle of it (seconds)."""

    file_bytes: int = 5 * 2**30
    request_bytes: int = 20 * 2**30
    json_bytes: int = 64 * 2**20
    parts: int = 1000
    stall: float = 60.0


class Received(msgspec.Struct):
    """A whole, valid submission: its JSON, and its files in order, lying in the folder as `0`, `1`, …"""

    body: RequestBody
    files: list[File]


class Refused(Exception):
    """The request is refused: HTTP `status`, a message for the user and the field that it is about.

    `field` is `body` unless given. `detail` says more where old clients expect the message word for word.
    """

    def __init__(self, status: int, message: str, field: str | None = None, *, detail: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.field = field
        self.detail = detail


# Big enough that a hop to a thread costs little beside the write, small enough to hold for each upload.
_PIECE = 1024 * 1024
_body_decoder = msgspec.json.Decoder(RequestBody)
_members_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])

LARGE = 256 * 1024
"""JSON of so many bytes is not worked on in the event loop."""
# The options that are switches: the API knows nothing to put into their objects.
_SWITCHES = {"face": ("facs", "descriptions"), "language": ("sentiment", "toxicity")}
_SWITCH_BYTES = 1024
_OPTIONS = {
    name: kind.__struct_fields__
    for name, kind in zip(MODEL_NAMES, (Face, Burst, Prosody, Language, Ner, Facemesh), strict=True)
}
# A slip of the pen, not a field of another API: "granularty", "url", but not "notify_all".
_LIKENESS = 0.8
_NAME_LENGTH = 64
_NAMES_COMPARED = 100


async def receive(request: web.Request, folder: Path, limits: IntakeLimits) -> Received:
    """Read a submission into `folder` (made here, by the first file). Raises `Refused`."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refused(
            415, "compressed request bodies are not accepted: send it without Content-Encoding", "Content-Encoding"
        )
    if (request.content_length or 0) > limits.request_bytes:
        raise _too_large(limits)
    try:
        if request.content_type.startswith("multipart/"):
            json, files = await _form(request, folder, limits)
        else:
            json, files = await _limited(request.content, limits, limits.json_bytes, "the JSON body"), []
            if not json.strip():
                raise Refused(400, "the request has no body: send JSON, or a form with file parts", "body")
    except TimeoutError:
        raise Refused(408, f"the upload paused for more than {limits.stall:g} s") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Refused(507, "the server has no room to store this upload") from error
        raise
    if len(json) < LARGE:
        return _checked(json, files)
    return await anyio.to_thread.run_sync(_checked, json, files)


def _checked(json: bytes, files: list[File]) -> Received:
    body = _parse(json)
    try:
        check_request(
            models=body.models,
            transcription=body.transcription,
            urls=_or_empty(body.urls),
            text=_or_empty(body.text),
            callback_url=body.callback_url,
            notify=body.notify,
            files=len(files),
        )
    except ConfigError as error:
        raise Refused(400, str(error), error.field) from None
    return Received(body=body, files=files)


def _too_large(limits: IntakeLimits) -> Refused:
    return Refused(413, f"the request is larger than the {limits.request_bytes} bytes that this server takes")


def _or_empty(value: Any) -> list[str]:
    return value or []


def _parse(json: bytes) -> RequestBody:
    if not json.strip():
        return RequestBody()
    try:
        # The skipping of unknown members does not look at their characters.
        json.decode()
        raw = decode(_members_decoder, json, "the request")
        models = _members(raw.get("models"))
        # Before anything is built of it: a few bytes of JSON become a hundred times as many in memory.
        for name, config in models.items():
            for extra in _SWITCHES.get(name, ()):
                value = _members(config).get(extra)
                if value is not None and len(memoryview(value)) > _SWITCH_BYTES:
                    field = f"models.{name}.{extra}"
                    raise Refused(400, f"{field}: must be {{}} (on) or null (off); it has no options", field)
        body = decode(_body_decoder, json, "the request")
    except UnicodeDecodeError as error:
        raise Refused(400, f"json: the request is not UTF-8: byte {error.start}", "json") from None
    except DecodeError as error:
        # Text that is no JSON has no fields yet; the message says near which one it breaks off.
        wrong = isinstance(error.__cause__, msgspec.ValidationError)
        field = (error.path.removeprefix("$").removeprefix(".") if wrong else "") or "json"
        raise Refused(400, f"{field}: {error}", field) from None
    # What the structs ignore, because servers may grow fields, is a mistake when it comes from a client.
    for name in models:
        if name not in MODEL_NAMES:
            shown = f"models.{name[:_NAME_LENGTH]}"
            raise Refused(400, f"{shown}: no such model; there are {', '.join(MODEL_NAMES)}", shown)
    if body.models is UNSET:
        for name in MODEL_NAMES:
            if name in raw:
                raise Refused(400, f'{name}: models go under "models": {{"models": {{"{name}": {{}}}}}}', name)
    _refuse_slips(raw, RequestBody.__struct_fields__, "")
    for name, config in models.items():
        _refuse_slips(_members(config), _OPTIONS[name], f"models.{name}.")
    return body


def _members(json: msgspec.Raw | None) -> dict[str, msgspec.Raw]:
    """The members of an object, undecoded; of anything else, none."""
    if json is None or bytes(memoryview(json)[:1]) != b"{":
        return {}
    return decode(_members_decoder, bytes(json), "the request")


def _refuse_slips(given: Iterable[str], known: Sequence[str], where: str) -> None:
    """Refuse a name that is nearly a known one. Others pass: the hosted service ignored them, so programs send them."""
    unknown = (name for name in given if name not in known and len(name) <= _NAME_LENGTH)
    for name in itertools.islice(unknown, _NAMES_COMPARED):
        if meant := difflib.get_close_matches(name, known, n=1, cutoff=_LIKENESS):
            field = f"{where}{name}"
            raise Refused(400, f"{field}: no such field; did you mean {meant[0]}?", field)


async def _limited(content: Any, limits: IntakeLimits, most: int, what: str) -> bytes:
    data = bytearray()
    while piece := await _next(content.read(_PIECE), limits):
        data += piece
        if len(data) > most:
            raise Refused(413, f"{what} is larger than the {most} bytes that this server takes")
    return bytes(data)


async def _next(reading: Awaitable[T], limits: IntakeLimits) -> T:
    async with asyncio.timeout(limits.stall):
        return await reading


async def _form(request: web.Request, folder: Path, limits: IntakeLimits) -> tuple[bytes, list[File]]:
    json: bytes | None = None
    files: list[File] = []
    room = limits.request_bytes
    try:
        reader = _FormReader(request.headers, request.content)
        for _ in range(limits.parts):
            part = await _next(reader.next(), limits)
            if part is None:
                return json or b"", files
            name, filename = _names(reader.disposition)
            if not isinstance(part, aiohttp.BodyPartReader):
                raise Refused(400, f"part {name!r}: a multipart inside a form is not accepted", name)
            if name == "json":
                if json is not None:
                    raise Refused(400, "json: more than one part of this name", "json")
                json = await _limited(_Part(part), limits, limits.json_bytes, "the json part")
            elif name == "file":
                file, size = await _store(part, filename, folder / str(len(files)), limits, room)
                files.append(file)
                room -= size
            else:
                raise Refused(400, f"{name}: no such part; a form has parts named json and file", name)
    except (ValueError, AssertionError, BadHttpMessage) as error:
        # aiohttp's way to say that the form is malformed or ends too early.
        raise Refused(400, f"the form is malformed or ends too early: {error}") from None
    raise Refused(413, f"more than {limits.parts} parts in one form")


class _FormReader(aiohttp.MultipartReader):
    """aiohttp's reader for the framing only: `disposition` is the Content-Disposition of the latest part, unread.

    Left to itself, aiohttp swallows a first part called `_charset_` and warns of a malformed header,
    with the file name in it.
    """

    disposition = ""

    async def fetch_next_part(self) -> aiohttp.MultipartReader | aiohttp.BodyPartReader:
        """The next part, without its Content-Disposition."""
        part = await super().fetch_next_part()
        self.disposition = part.headers.get("Content-Disposition", "")
        if isinstance(part, aiohttp.BodyPartReader):
            headers = part.headers.copy()
            # Two of them are none: which one counts would be anybody's guess.
            if len(headers.popall("Content-Disposition", [])) > 1:
                self.disposition = ""
            part.headers = type(part.headers)(headers)
        return part


def _names(disposition: str) -> tuple[str, str | None]:
    parameters = read_disposition(disposition)
    if parameters is None or not parameters.get("name"):
        raise Refused(400, "a part of the form has no valid Content-Disposition with a name")
    return _unicode(parameters["name"]), _unicode(parameters.get("filename"))


@overload
def _unicode(header: str) -> str: ...
@overload
def _unicode(header: str | None) -> str | None: ...
def _unicode(header: str | None) -> str | None:
    # aiohttp hands bytes that are not UTF-8 over as surrogates; an echo must be valid JSON.
    return None if header is None else header.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class _Part:
    """A part with the `read(n)` of a stream."""

    def __init__(self, part: aiohttp.BodyPartReader) -> None:
        self._part = part

    async def read(self, size: int) -> bytes:
        return bytes(await self._part.read_chunk(size))


async def _store(
    part: aiohttp.BodyPartReader, filename: str | None, target: Path, limits: IntakeLimits, room: int
) -> tuple[File, int]:
    digest = hashlib.md5(usedforsecurity=False)
    label = filename or "file"
    total = 0
    out = await anyio.to_thread.run_sync(_create, target)
    try:
        pending = bytearray()
        while piece := await _next(part.read_chunk(_PIECE), limits):
            total += len(piece)
            if total > limits.file_bytes:
                raise Refused(413, f"{label}: larger than the {limits.file_bytes} bytes that this server takes", "file")
            if total > room:
                # A request in chunks announces no size.
                raise _too_large(limits)
            pending += piece
            if len(pending) >= _PIECE:
                await anyio.to_thread.run_sync(_keep, out, digest, bytes(pending))
                pending.clear()
        await anyio.to_thread.run_sync(_keep, out, digest, bytes(pending))
        await anyio.to_thread.run_sync(_flush, out)
    finally:
        out.close()
    if not total:
        raise Refused(400, f"{label}: the file is empty", "file")
    content_type = _unicode(part.headers.get("Content-Type"))
    return File(md5sum=digest.hexdigest(), filename=filename, content_type=content_type), total


def _create(target: Path) -> IO[bytes]:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Unbuffered: pieces are large, and closing must have nothing left to write.
    return target.open("xb", buffering=0)


def _keep(out: IO[bytes], digest: Any, data: bytes) -> None:
    digest.update(data)
    view = memoryview(data)
    while view:
        view = view[out.write(view) :]


def _flush(out: IO[bytes]) -> None:
    os.fsync(out.fileno())
