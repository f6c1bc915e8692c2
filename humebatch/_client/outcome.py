"""What came of one item of a bulk call: a value or an error, never both."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from ..errors import HumebatchError

__all__ = ["Outcome"]

I = TypeVar("I")  # noqa: E741 - the item, beside V, its value
V = TypeVar("V")


class Outcome(msgspec.Struct, Generic[I, V], frozen=True, kw_only=True):
    """One item's end. `item` is what was given in; exactly one of `value` and `error` is set."""

    item: I
    value: V | None = None
    error: HumebatchError | None = None

    def unwrap(self) -> V:
        """The value, or raise the error."""
        if self.error is not None:
            raise self.error
        assert self.value is not None
        return self.value
