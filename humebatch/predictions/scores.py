"""Named scores: a list in the order of the answer that can be asked by name.

An answer repeats the same few dozen names in every row. They are decoded to shared objects, so that a name costs
a pointer and no string of its own.
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Iterable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import msgspec

from ..vocabulary import BURST_DESCRIPTIONS, FACE_DESCRIPTIONS, FACS, LANGUAGE_EMOTIONS, SENTIMENT, TOXICITY

__all__ = ["Score", "Scores"]

_KNOWN = dict.fromkeys(
    (*LANGUAGE_EMOTIONS, *FACS, *FACE_DESCRIPTIONS, *BURST_DESCRIPTIONS, *SENTIMENT, *TOXICITY),
)
# Names of other vocabularies are shared as well, but nobody can fill the memory with them.
_MOST_UNKNOWN = 10_000
_LONGEST_UNKNOWN = 200

if TYPE_CHECKING:
    ScoreName = str
else:

    class _ScoreName(enum.StrEnum):
        """A string that msgspec decodes by looking it up; a name that it does not know becomes another one."""

        @classmethod
        def _missing_(cls, value: object) -> Any:
            name = _unknown.get(value)
            if name is None and isinstance(value, str):
                name = str.__new__(cls, value)
                # What makes it a member; its name is its text, for that is what an enum's hash is made of.
                name._name_ = name._value_ = value
                if len(_unknown) < _MOST_UNKNOWN and len(value) <= _LONGEST_UNKNOWN:
                    _unknown[value] = name
            return name

        __repr__ = str.__repr__

    _unknown: dict[object, _ScoreName] = {}
    ScoreName = _ScoreName("ScoreName", [(name, name) for name in _KNOWN], module=__name__)


class Score(msgspec.Struct, gc=False):
    """One named score. Typically 0..1; the vendor documents that values outside that range are possible."""

    name: ScoreName
    score: float


class Scores(list[Score]):
    """Scores in the order of the answer: `scores[0]` is a `Score`, `scores["Joy"]` the number of that name.

    `"Joy" in scores` asks for the name as well. If a name came twice, the last one counts, as in JSON objects.
    """

    __slots__ = ()

    @overload
    def __getitem__(self, key: SupportsIndex, /) -> Score: ...
    @overload
    def __getitem__(self, key: slice, /) -> list[Score]: ...
    @overload
    def __getitem__(self, key: str, /) -> float: ...
    def __getitem__(self, key: str | SupportsIndex | slice, /) -> float | Score | list[Score]:
        if not isinstance(key, str):
            return super().__getitem__(key)
        for score in reversed(self):
            if score.name == key:
                return score.score
        raise KeyError(key)

    def __contains__(self, key: object, /) -> bool:
        if isinstance(key, str):
            return any(score.name == key for score in self)
        return super().__contains__(key)

    @overload
    def get(self, name: str) -> float | None: ...
    @overload
    def get(self, name: str, default: float) -> float: ...
    def get(self, name: str, default: float | None = None) -> float | None:
        """The score of that name, or `default`."""
        try:
            return self[name]
        except KeyError:
            return default

    def top(self, n: int = 5) -> list[Score]:
        """The `n` highest scores, highest first; equal ones in the order of the answer."""
        return heapq.nlargest(n, self, key=attrgetter("score"))

    def as_dict(self) -> dict[str, float]:
        """Name to score, in the order of the answer."""
        return {score.name: score.score for score in self}


def scores(found: Iterable[Score]) -> Scores:
    """`found` itself if it is `Scores` already."""
    return found if type(found) is Scores else Scores(found)
