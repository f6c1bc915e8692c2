"""Other names into an answer's JSON, with every other byte as the server wrote it. Nothing large is copied."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

import msgspec

from ..._wire.codec import encode

__all__ = ["Pieces", "Unclear", "renamed_entry", "renamed_source"]

Pieces = list[bytes | memoryview]

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_array = msgspec.json.Decoder(list[msgspec.Raw])
_text = msgspec.json.Decoder(str)

_KEY = re.compile(rb'\s*[{,]\s*("[^"\\]*+(?:\\.[^"\\]*+)*+")\s*:\s*', re.DOTALL)
_ITEM = re.compile(rb"\s*[\[,]\s*")
_OBJECT_END = re.compile(rb"\s*\{?\s*\}\s*")


class Unclear(ValueError):
    """A name cannot be replaced because its place is not certain."""


def renamed_source(source: msgspec.Raw, said: Collection[str], name: str) -> Pieces:
    """A source of an answer with `name` in the place of every one of its names that is in `said`.

    Those are `source.filename`, and the `file` of predictions and errors. Raises `Unclear` when keys come twice.
    """
    view = memoryview(source)
    found: list[tuple[int, int]] = []
    top = _members(view)
    if "source" in top:
        found += _named(*top["source"], "filename", said)
    if "results" in top and bytes(top["results"][1][:1]) == b"{":
        place, results = top["results"]
        members = _members(results)
        for key in ("predictions", "errors"):
            if key in members:
                start, entries = members[key]
                for at, entry in _elements(entries):
                    found += _named(place + start + at, entry, "file", said)
    return _replaced(view, found, name)


def renamed_entry(entry: msgspec.Raw, said: Collection[str], name: str) -> Pieces:
    """One prediction or error with `name` as its `file`, if that is in `said`. Raises `Unclear` like the above."""
    view = memoryview(entry)
    return _replaced(view, list(_named(0, view, "file", said)), name)


def _replaced(view: memoryview, found: list[tuple[int, int]], name: str) -> Pieces:
    pieces: Pieces = []
    done = 0
    for start, end in sorted(found):
        pieces += [view[done:start], encode(name)]
        done = end
    return [*pieces, view[done:]]


def _named(place: int, text: memoryview, key: str, said: Collection[str]) -> Iterator[tuple[int, int]]:
    """Where the value of `key` stands, if it is one of `said`; the object `text` begins at `place`."""
    start, value = _members(text).get(key, (0, memoryview(b"")))
    if bytes(value[:1]) == b'"' and _text.decode(value) in said:
        if text[start : start + len(value)] != value:
            raise Unclear(f"the place of {key} is not certain")
        yield place + start, place + start + len(value)


def _members(text: memoryview) -> dict[str, tuple[int, memoryview]]:
    """Key to where its value begins, and the value."""
    found: dict[str, tuple[int, memoryview]] = {}
    end = 0
    for key, raw in _object.decode(text).items():
        value = memoryview(raw)
        match = _KEY.match(text, end)
        if match is None:
            break
        found[key] = match.end(), value
        end = match.end() + len(value)
    # Of a key that comes twice the dict has the first place and the last value, so that they do not fill the object.
    if not _OBJECT_END.fullmatch(text, end):
        raise Unclear("a key comes twice in one object")
    return found


def _elements(text: memoryview) -> Iterator[tuple[int, memoryview]]:
    end = 0
    for raw in _array.decode(text):
        value = memoryview(raw)
        match = _ITEM.match(text, end)
        assert match is not None
        yield match.end(), value
        end = match.end() + len(value)
