"""Who is who among faces that are followed: by look, by place, and what is made one at the end."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from humebatch.server.measure.face_people import Box, People
from humebatch.server.measure.tfjs_weights import Floats


def look(*weights: float) -> Floats:
    """A face as far from others as their weights are."""
    vector = np.zeros(128, np.float32)
    vector[: len(weights)] = weights
    return vector


HERE: Box = (0, 0, 100, 100)
THERE: Box = (300, 0, 400, 100)
ANNA, BOB = look(0, 0), look(0.9, 0)


def test_persons_are_numbered_in_order_of_appearance() -> None:
    people = People()
    assert people.assign(0, [HERE], [ANNA]) == [0]
    assert people.assign(1, [HERE, THERE], [ANNA, BOB]) == [0, 1]
    assert people.assign(2, [], []) == []
    assert people.assign(3, [THERE], [ANNA]) == [0]
    assert list(people.merged()) == []


def test_someone_else_in_the_same_place_after_a_cut_is_someone_else() -> None:
    people = People()
    assert people.assign(0.0, [HERE], [ANNA]) == [0]
    assert people.assign(0.3, [HERE], [BOB]) == [1]
    assert people.assign(0.6, [HERE], [ANNA]) == [0]


def test_a_face_that_stays_in_its_place_may_change_more() -> None:
    changed = look(0.6, 0)
    followed, lost = People(), People()
    followed.assign(0.0, [HERE], [ANNA])
    assert followed.assign(0.3, [(5, 5, 105, 105)], [changed]) == [0]
    lost.assign(0.0, [HERE], [ANNA])
    assert lost.assign(0.3, [THERE], [changed]) == [1]
    late = People()
    late.assign(0.0, [HERE], [ANNA])
    assert late.assign(30.0, [HERE], [changed]) == [1]


def test_two_faces_of_one_frame_are_two_people_however_alike() -> None:
    people = People()
    assert people.assign(0, [HERE, THERE], [ANNA, look(0.01)]) == [0, 1]
    assert list(people.merged()) == []


def test_those_who_turn_out_to_be_alike_become_one_at_the_end() -> None:
    people = People()
    assert people.assign(0, [HERE], [ANNA]) == [0]
    assert people.assign(10, [THERE], [look(0.55)]) == [1]  # a bad picture of her, and better ones of the same place
    for second in (10.3, 10.6, 10.9):
        assert people.assign(second, [THERE], [look(0.3)]) == [1]
    assert people.assign(30, [HERE], [look(0, 0.9)]) == [2]
    assert list(people.merged()) == [(1, 0)]


def test_without_looks_only_the_place_counts() -> None:
    people = People()
    assert people.assign(0.0, [HERE, THERE], None) == [0, 1]
    assert people.assign(0.3, [(310, 0, 410, 100), (10, 0, 110, 100)], None) == [1, 0]
    assert people.assign(9.0, [HERE], None) == [2]
    assert list(people.merged()) == []


@given(
    st.lists(
        st.lists(st.tuples(st.floats(0, 500), st.floats(-2, 2), st.floats(-2, 2)), max_size=4), min_size=1, max_size=25
    )
)
def test_nobody_is_twice_in_a_frame_not_even_after_merging(frames: list[list[tuple[float, float, float]]]) -> None:
    people = People()
    assigned = []
    for number, faces in enumerate(frames):
        boxes = [(left, 0.0, left + 80, 80.0) for left, _, _ in faces]
        assigned.append(people.assign(number / 3, boxes, [look(one, other) for _, one, other in faces]))
    seen = [number for numbers in assigned for number in numbers]
    assert sorted(set(seen)) == list(range(len(set(seen))))
    into = dict(people.merged())
    assert all(earlier < number and earlier not in into for number, earlier in into.items())
    for numbers in assigned:
        final = [into.get(number, number) for number in numbers]
        assert len(set(final)) == len(final)
