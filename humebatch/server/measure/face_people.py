"""Which faces of a video are the same person: followed from frame to frame, and known again after a cut.

A face is the person whose earlier faces look most like it; one that stayed in its place may look less like them.
Two faces of one frame are always two people. Persons that turn out to look alike once all of their faces were seen,
and that never shared a frame, become one at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from .face_identity import distance
from .tfjs_weights import Floats

__all__ = ["AGAIN", "STAYED", "Box", "People"]

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""

# Distances from the mean of a person's faces. Of two single photographs, 90 in 100 pairs of one person are nearer than
# `AGAIN`, and 0.12 in 100 pairs of two people (benchmarks/measuring/face.py); the mean of several faces is nearer to
# the next one. Who stays in place may change more; two groups of faces become one only if they are much alike.
AGAIN: Final = 0.52
STAYED: Final = 0.68
_ONE_AFTER_ALL: Final = 0.45

_SAME_PLACE: Final = 0.3  # shared over joint area
_SECONDS_LOST: Final = 1.0  # how long a place is remembered


class _Person:
    def __init__(self, number: int) -> None:
        self.number = number
        self.box: Box = (0.0, 0.0, 0.0, 0.0)
        self.seen = 0.0
        self.faces = 0
        self.sum: Floats | None = None

    @property
    def look(self) -> Floats | None:
        return None if self.sum is None else self.sum / np.float32(self.faces)

    def add(self, box: Box, time: float, look: Floats | None) -> None:
        self.box, self.seen = box, time
        if look is not None:
            self.sum = look.copy() if self.sum is None else self.sum + look
            self.faces += 1


class People:
    """The persons seen so far, numbered from 0 in the order of their first faces. Keeps one vector for each."""

    def __init__(self) -> None:
        self._persons: list[_Person] = []
        self._together: set[tuple[int, int]] = set()

    def assign(self, time: float, boxes: Sequence[Box], looks: Sequence[Floats] | None) -> list[int]:
        """The person of each face of the frame at `time` (seconds; frames come in order).

        `looks`: what `IdentityReader` says of each face, or None, and then only its place counts.
        """
        offers: list[tuple[float, int, int]] = []
        for place, box in enumerate(boxes):
            for person in self._persons:
                cost = self._cost(person, time, box, None if looks is None else looks[place])
                if cost is not None:
                    offers.append((cost, place, person.number))
        chosen: dict[int, int] = {}
        for _, place, number in sorted(offers):
            if place not in chosen and number not in chosen.values():
                chosen[place] = number
        for place, box in enumerate(boxes):
            if place not in chosen:
                chosen[place] = len(self._persons)
                self._persons.append(_Person(chosen[place]))
            self._persons[chosen[place]].add(box, time, None if looks is None else looks[place])
        numbers = [chosen[place] for place in range(len(boxes))]
        self._together.update((one, other) for one in numbers for other in numbers if one < other)
        return numbers

    def merged(self) -> Iterator[tuple[int, int]]:
        """(person, earlier person): those who turned out to be one; the second is never merged itself."""
        into: dict[int, int] = {}
        members = {person.number: {person.number} for person in self._persons}
        for one, other in self._alike():
            first, second = sorted((into.get(one, one), into.get(other, other)))
            if first != second and not self._met(members[first], members[second]):
                members[first] |= members.pop(second)
                into.update(dict.fromkeys(members[first] - {first}, first))
        yield from sorted(into.items())

    def _alike(self) -> list[tuple[int, int]]:
        """Pairs of persons who look like one, most alike first."""
        seen = [(person.number, person.look) for person in self._persons]
        known = [(number, look) for number, look in seen if look is not None]
        pairs: list[tuple[float, int, int]] = []
        for place, (one, look) in enumerate(known[:-1]):
            others = np.array([other for _, other in known[place + 1 :]])
            far = np.linalg.norm(others - look, axis=1)
            pairs.extend(
                (float(far[at]), one, known[place + 1 + at][0]) for at in np.flatnonzero(far <= _ONE_AFTER_ALL)
            )
        return [(one, other) for _, one, other in sorted(pairs)]

    def _met(self, ones: set[int], others: set[int]) -> bool:
        return any((min(one, other), max(one, other)) in self._together for one in ones for other in others)

    @staticmethod
    def _cost(person: _Person, time: float, box: Box, look: Floats | None) -> float | None:
        """How badly the face fits the person, smaller is better; None where it does not fit."""
        shared = _shared(person.box, box) if time - person.seen <= _SECONDS_LOST else 0.0
        stayed = shared >= _SAME_PLACE
        if look is None or person.look is None:
            return 1 - shared if stayed else None
        far = distance(person.look, look)
        return far - 0.1 * stayed if far <= (STAYED if stayed else AGAIN) else None


def _shared(one: Box, other: Box) -> float:
    """Shared over joint area, 0..1."""
    width = max(min(one[2], other[2]) - max(one[0], other[0]), 0.0)
    height = max(min(one[3], other[3]) - max(one[1], other[1]), 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (areas - width * height) if areas else 0.0
