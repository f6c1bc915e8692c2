"""The text of a text file."""

from __future__ import annotations

import codecs
import unicodedata
from pathlib import Path
from typing import Final

from . import Unmeasurable

__all__ = ["MAX_BYTES", "read_text"]

MAX_BYTES: Final = 4 * 2**20
"""The largest text that is measured: at `word` a prediction costs some 250 bytes, at `sentence` a MiB takes minutes."""


def read_text(path: str | Path) -> str:
    """The text of a file: UTF-8, or UTF-16 with a byte order mark. A byte order mark is not part of it.

    Raises `Unmeasurable` when it is neither, holds no visible character, or is larger than `MAX_BYTES`.
    """
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise Unmeasurable(f"the text is larger than {MAX_BYTES // 2**20} MiB; split it over several files")
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unmeasurable(
            f"the file is not readable as text: byte {error.start} is not {'UTF-16' if wide else 'UTF-8'} "
            "(UTF-8, and UTF-16 with a byte order mark, are read)"
        ) from error
    if "\0" in text:
        raise Unmeasurable("the file is not readable as text: it holds NUL characters (UTF-16 needs a byte order mark)")
    # Z…: spaces and separators, C…: controls and invisible formatting.
    if all(unicodedata.category(char)[0] in "ZC" for char in set(text)):
        raise Unmeasurable("the text is empty: there is nothing to measure")
    return text
