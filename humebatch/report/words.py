"""Numbers, times and names as the page writes them."""

from __future__ import annotations

import math
import os
from typing import Final

__all__ = ["bar", "clock", "count", "cut", "long", "model_title", "name_of", "score", "shown", "size", "spread"]

_TITLES: Final = {
    "face": "Faces",
    "prosody": "Speech prosody",
    "burst": "Vocal bursts",
    "language": "Language",
    "ner": "Named entities",
    "facemesh": "Face meshes",
}
_MOST_LETTERS: Final = 600
# Beyond them a number is written as a power of ten.
_HUGE: Final = 1e6


def model_title(model: str) -> str:
    """A model as a heading."""
    return _TITLES[model]


def score(value: float | None, places: int = 2) -> str:
    """`0.53`; a dash for what is missing or no number."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{places}f}" if abs(value) < _HUGE else f"{value:.2e}"


def bar(value: float) -> str:
    """A score as the width of a bar, in percent of 0 to 1."""
    return f"{100 * min(1.0, max(0.0, value)) if math.isfinite(value) else 0:.0f}"


def clock(seconds: float, places: int = 0) -> str:
    """`1:02:03`, `0:07.5`: hours only where there are any."""
    if not abs(seconds) < _HUGE * 100:
        return f"{seconds:.2e} s"
    units = round(abs(seconds) * 10**places)
    whole, part = divmod(units, 10**places)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    sign = "−" if seconds < 0 and units else ""
    text = f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
    return f"{sign}{text}.{part:0{places}}" if places else f"{sign}{text}"


def spread(begin: float, end: float, axis: str) -> str:
    """Where a point of a chart stands: a moment, a stretch of time or of characters."""
    ends = dict.fromkeys(f"{one:,.0f}" if axis == "characters" else clock(one, 1) for one in (begin, end))
    return "–".join(ends)


def long(seconds: float) -> str:
    """How long something took: `12.5 s`, `2 min 5 s`, `1 h 2 min`."""
    if not seconds < _HUGE * 100:
        return f"{seconds:.2e} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = (f"{hours} h" if hours else "", f"{minutes} min" if minutes else "", f"{rest} s" if rest else "")
    return " ".join(part for part in parts[:2] if part) if hours else " ".join(part for part in parts if part)


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 file`, `1,200 files`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def size(number: int) -> str:
    """Bytes as people say them."""
    if number < 1000:
        return count(number, "byte")
    for factor, unit in ((1e3, "KB"), (1e6, "MB")):
        if number < 999.5 * factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number / 1e9:,.2f} GB"


def cut(text: str) -> str:
    """Text that is not longer than anybody reads."""
    text = " ".join(text[: _MOST_LETTERS * 4].split())
    return text if len(text) <= _MOST_LETTERS else text[:_MOST_LETTERS].rstrip() + " …"


def shown(path: str | os.PathLike[str]) -> str:
    """A path as valid Unicode: a file name may hold bytes that are none."""
    return os.fsencode(path).decode("utf-8", "replace")


def name_of(person: str) -> str:
    """Whose predictions these are."""
    return "Not told apart" if person == "unknown" else person
