"""Names on the wire: unique in their request, safe in any header, and found again in a list of jobs."""

from __future__ import annotations

import os
import re
import secrets
import unicodedata
from collections.abc import Sequence

__all__ = ["bundle_name", "new_tag", "own_name", "wire_names"]

_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_MOST = 255  # bytes: the longest name that file systems take
# A longer one is no ending but part of a name with a dot in it.
_LONGEST_ENDING = 32
# A quote and line breaks end a header's parameter; a slash leads into a folder; some readers of forms split
# at a semicolon and decode what follows a percent sign.
_UNSAFE = re.compile('[\\x00-\\x1f\\x7f-\\x9f\u2028\u2029"/\\\\;%]')
_EDGES = re.compile(r"\A\s+|[\s.]+\Z")
# Servers tell an archive by both.
_DOUBLE_ENDING = re.compile(r"\.tar\.(?:gz|bz2|xz)\Z", re.IGNORECASE)


def new_tag() -> str:
    """Ten random characters of lower-case base32 (50 bits), by which a group is known in a list of jobs."""
    return "".join(secrets.choice(_BASE32) for _ in range(10))


def own_name(path: bytes) -> str:
    """The last step of a path as results show it: valid Unicode, U+FFFD for bytes that are not UTF-8."""
    return os.path.basename(path).decode("utf-8", "replace")


def bundle_name(tag: str | None) -> str:
    """The name of an archive on the wire."""
    return _joined("bundle", 1, tag, ".zip")


def wire_names(names: Sequence[bytes], tag: str | None) -> list[str]:
    """One name on the wire for each path in `names`, in the same order; the same for the same input.

    Each is the path's last step, with `~tag` before the ending and, from the second of the same name on, `~2`, `~3`
    before that. At most 255 bytes of UTF-8 and in NFC. Unique also where a server takes upper and lower case, or
    composed and decomposed characters, for the same. Control characters and `"` `/` `\\` `;` `%` become `_`.
    """
    taken: set[str] = set()
    numbers: dict[str, int] = {}
    chosen: list[str] = []
    for path in names:
        stem, ending = _split(_safe(own_name(path)))
        plain = _key(_joined(stem, 1, tag, ending))
        number = numbers.get(plain, 1)
        # The first free one: a file may itself be called `clip~2.mp4`.
        while (key := _key(name := _joined(stem, number, tag, ending))) in taken:
            number += 1
        numbers[plain] = number + 1
        taken.add(key)
        chosen.append(name)
    return chosen


def _safe(name: str) -> str:
    name = _EDGES.sub("", unicodedata.normalize("NFC", _UNSAFE.sub("_", name)))
    if name.startswith("."):
        name = "_" + name[1:]
    return name or "file"


def _split(name: str) -> tuple[str, str]:
    double = _DOUBLE_ENDING.search(name)
    stem, ending = (name[: double.start()], double[0]) if double else os.path.splitext(name)
    if not stem or len(ending.encode()) > _LONGEST_ENDING:
        return name, ""
    return stem, ending


def _joined(stem: str, number: int, tag: str | None, ending: str) -> str:
    rest = ("" if number == 1 else f"~{number}") + ("" if tag is None else f"~{tag}") + ending
    room = _MOST - len(rest.encode())
    if len(stem.encode()) > room:
        stem = _EDGES.sub("", stem.encode()[:room].decode("utf-8", "ignore"))
    return stem + rest


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
