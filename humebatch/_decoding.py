"""JSON to structs, with errors that say where: the one place where a decoding failure becomes `DecodeError`."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, TypeVar

import msgspec

from .errors import DecodeError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["decode", "near", "offset_of"]

T = TypeVar("T")

# msgspec ends its messages with the place: " - at `$[0].state`" or "(byte 20)".
_AT = re.compile(r" - at `(?P<path>[^`]+)`$")
_BYTE = re.compile(r" \(byte (?P<offset>\d+)\)$")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_NEAR = 40
_CHUNK = 1024 * 1024
# Finding the path of a broken place means reading all before it, at about 70 MB/s; further in it is not worth it.
_TRACED = 64 * 1024 * 1024
_UNTRACED = ", the path is not looked for beyond 64 MiB"
_OPEN = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+'
_STRING = _OPEN + rb'"'
_FLAT = rb'\{[^{}\[\]"]*+(?:' + _STRING + rb'[^{}\[\]"]*+)*+\}'
# Objects that hold nothing but scalars, and lists of them, are tokens: that is what most of an answer is made of.
_TOKEN = re.compile(
    rb"\[\s*+(?:%b\s*+,?\s*+)++\]|%b|%b|%b|[\[\]{},:]|[^\s\[\]{},:\"]+" % (_FLAT, _FLAT, _STRING, _OPEN), re.DOTALL
)
_KEY = re.compile(rb"\s*[{,]?\s*(" + _STRING + rb")\s*:\s*", re.DOTALL)
_ITEM = re.compile(rb"\s*[\[,]?\s*")


def decode(
    decoder: msgspec.json.Decoder[T],
    data: Buffer,
    what: str,
    *,
    path: str = "$",
    whole: Buffer | None = None,
    file: str | None = None,
) -> T:
    """`data` by `decoder`. Raises `DecodeError` with the JSON path, the offset in bytes and the text near it.

    `data` is what stands at `path` of `whole` (all of it if None), which can be found in `file`, if it is given.
    """
    try:
        return decoder.decode(data)
    except (ValueError, RecursionError) as error:  # ValueError: msgspec's own errors and UnicodeDecodeError
        why, inner, offset = _explained(error, data)
        untraced = ""
        if inner is None:
            inner, untraced = "$", _UNTRACED
        shown = near(data, offset)
        if whole is None:
            whole = data
        else:
            offset += offset_of(whole, path)
        path += inner.removeprefix("$")
        named = "" if file is None else f"{file}: "
        raise DecodeError(
            f"{named}{what}: {why} at {path} (byte {offset}{untraced}); near {shown!r}",
            path=path,
            offset=offset,
            near=shown,
            data=bytes(whole) if file is None else None,
            file=file,
        ) from error


def _explained(error: ValueError | RecursionError, data: Buffer) -> tuple[str, str | None, int]:
    """What is wrong, at which path (None if that is too far in to look), at which byte."""
    if isinstance(error, RecursionError):
        return "nested too deeply", "$", 0
    text = str(error)
    if at := _AT.search(text):
        return text[: at.start()], at["path"], offset_of(data, at["path"])
    if isinstance(error, msgspec.ValidationError):  # of the outermost value
        return text, "$", 0
    if isinstance(error, UnicodeDecodeError):
        text, offset = "text is not UTF-8", _not_utf8(data)
    elif byte := _BYTE.search(text):
        text, offset = text[: byte.start()], int(byte["offset"])
    else:
        offset = len(memoryview(data))
    return text, _path_at(data, offset), offset


def _not_utf8(data: Buffer) -> int:
    """Where the first byte stands that is not UTF-8."""
    view, decoder = memoryview(data), codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(view), _CHUNK):
        begun = len(decoder.getstate()[0])
        try:
            decoder.decode(view[start : start + _CHUNK])
        except UnicodeDecodeError as error:
            return start - begun + error.start
    return len(view)


def near(data: Buffer, offset: int) -> str:
    """The text around a place."""
    return bytes(memoryview(data)[max(0, offset - _NEAR) : offset + _NEAR]).decode("utf-8", "replace")


def offset_of(data: Buffer, path: str) -> int:
    """Where the value at `path` begins, or the last value on the way there that can be reached."""
    found, at = memoryview(data), 0
    for name, index in _STEP.findall(path):
        try:
            inner, step = _member(found, name) if name else _element(found, int(index))
        except (ValueError, LookupError, RecursionError):
            break
        found, at = memoryview(inner), at + step
    return at


def _member(data: memoryview, name: str) -> tuple[msgspec.Raw, int]:
    place = 0
    for key, value in msgspec.json.decode(data, type=dict[str, msgspec.Raw]).items():
        match = _KEY.match(data, place)
        if match is None or msgspec.json.decode(match[1]) != key:
            break  # a key came twice: the first is gone from the dict
        if key == name:
            return value, match.end()
        place = match.end() + len(memoryview(value))
    raise LookupError(name)


def _element(data: memoryview, index: int) -> tuple[msgspec.Raw, int]:
    place = 0
    for number, value in enumerate(msgspec.json.decode(data, type=list[msgspec.Raw])):
        match = _ITEM.match(data, place)
        assert match is not None
        if number == index:
            return value, match.end()
        place = match.end() + len(memoryview(value))
    raise LookupError(index)


def _path_at(data: Buffer, offset: int) -> str | None:
    """The path of what stands at `offset` in text that is broken there; None if that is too far in to look."""
    if offset > _TRACED:
        return None
    steps: list[str | int] = []  # a key, or the number of an element, per open container
    key = ""
    for match in _TOKEN.finditer(memoryview(data)[:offset]):
        token = match[0]
        if token == b"[":
            steps.append(0)
        elif token == b"{":
            steps.append(key := "")
        elif token in (b"]", b"}"):
            if steps:
                steps.pop()
        elif token == b"," and steps:
            last = steps[-1]
            steps[-1] = last + 1 if isinstance(last, int) else ""
        elif token == b":" and steps:
            steps[-1] = key
        elif token.startswith(b'"'):
            key = token[1:-1].decode("utf-8", "replace")
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps if step != "")
