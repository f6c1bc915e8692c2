"""What the query string of a job list asks for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal, cast

from .._wire.batch import DIRECTIONS, SORT_KEYS, WHEN
from ..jobs import Status
from .intake import Refused
from .store import ListFilter

__all__ = ["list_filter"]


def list_filter(query: Any) -> ListFilter:
    """The filter that a query string asks for. Raises `Refused` naming the parameter that is wrong."""
    known = {"limit", "status", "when", "timestamp_ms", "sort_by", "direction"}
    for name in query:
        if name not in known:
            raise Refused(400, f"{name}: no such parameter; there are {', '.join(sorted(known))}", name)
    # SQLite's integers have 64 bits; no list needs more jobs than that.
    limit = min(_integer(query, "limit", 50, low=1), 2**31)
    statuses = query.getall("status", [])
    for status in statuses:
        if status not in tuple(Status):
            raise Refused(400, f"status: {status!r} is not one of {', '.join(Status)}", "status")
    when = _choice(query, "when", WHEN)
    timestamp = _integer(query, "timestamp_ms", None, low=-(2**63))
    if when is not None and timestamp is None:
        timestamp = time.time_ns() // 1_000_000
    return ListFilter(
        limit=limit,
        statuses=tuple(statuses),
        when=cast("Literal['created_before', 'created_after'] | None", when),
        timestamp_ms=timestamp,
        sort_by=cast("Literal['created', 'started', 'ended']", _choice(query, "sort_by", SORT_KEYS) or "created"),
        direction=cast("Literal['asc', 'desc']", _choice(query, "direction", DIRECTIONS) or "desc"),
    )


def _choice(query: Any, name: str, allowed: Sequence[str]) -> str | None:
    value: str | None = query.get(name)
    if value is not None and value not in allowed:
        raise Refused(400, f"{name}: {value!r} is not one of {', '.join(allowed)}", name)
    return value


def _integer(query: Any, name: str, default: Any, *, low: int) -> Any:
    value = query.get(name)
    if value is None:
        return default
    digits = value.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18) or int(value) < low:
        wanted = f"a whole number of at least {low}" if low > 0 else "a whole number"
        raise Refused(400, f"{name}: {value!r} is not {wanted}", name)
    return int(value)
