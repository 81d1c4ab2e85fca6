"""Two looks of one detector as one table."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from composition import detections as table
from composition.detections import Detections
from composition.looks import ALONE, merged

BOX = [10.0, 0.0, 30.0, 20.0]
NEAR = [12.0, 0.0, 32.0, 20.0]
FAR = [60.0, 0.0, 80.0, 20.0]


def test_the_surer_look_is_believed() -> None:
    first = table.make([0, 0, 0], [BOX, FAR, BOX], [0.9, 0.4, 0.75], [0, 0, 1])
    mirror = table.make([0, 0], [NEAR, FAR], [0.7, 0.6], [0, 1])
    both = merged(first, mirror, 10, classes=(0,))
    assert both.class_id.tolist() == [0, 1, 0]
    # the higher score; as it was, of a class that is not looked at; less where one look has none
    np.testing.assert_allclose(both.score, [0.9, 0.75, 0.4 * ALONE], rtol=1e-6)
    odds = np.array([0.9 / 0.1, 0.7 / 0.3])
    left = (odds @ [10, 12]) / odds.sum()
    np.testing.assert_allclose(both.boxes[0], [left, 0, left + 20, 20], rtol=1e-5)
    assert both.boxes[1:].tolist() == [BOX, FAR]
    overlap = (20 - (12 - left)) / (20 + 12 - left)
    np.testing.assert_allclose(both.spread, [1 - overlap, np.nan, 1], rtol=1e-4)
    assert len(merged(first, mirror, 2)) == 2
    assert merged(first, mirror, 10, classes=()).boxes.tolist() == table.sort(first).boxes.tolist()


def test_what_the_other_look_cannot_show_is_not_held_against_a_box() -> None:
    first = table.make([0, 0], [BOX, FAR], [0.5, 0.8], [0, 0], [0.1, 0.2])
    small = [2.0, 2.0, 5.0, 5.0]
    enlarged = table.make([0], [small], [0.6], [0])
    # the rows are given in another order than the result's
    both = merged(first, enlarged, 10, shown=np.array([True, False]))
    assert both.boxes.tolist() == [FAR, small, BOX]
    np.testing.assert_allclose(both.score, [0.8, 0.6 * ALONE, 0.5 * ALONE], rtol=1e-6)
    # what only an enlarged look has is not measured; what is measured only grows
    np.testing.assert_allclose(both.spread, [0.2, np.nan, 1], rtol=1e-6)
    again = merged(both, table.make([0], [FAR], [0.9], [0]), 10)
    np.testing.assert_allclose(again.spread[0], 0.2, rtol=1e-6)


rows = st.lists(
    st.tuples(
        st.integers(0, 2), st.integers(0, 40), st.integers(0, 40), st.integers(1, 30), st.integers(0, 2),
        st.integers(1, 100),
    ),
    max_size=12,
)  # fmt: skip


def made(given_rows: list[tuple[int, ...]]) -> Detections:
    image, x, y, side, class_id, score = np.array(given_rows, np.int64).reshape(-1, 6).T
    return table.make(image, np.stack([x, y, x + side, y + side], axis=1), score / 100, class_id)


@settings(max_examples=60, deadline=None)
@given(rows, rows, st.integers(1, 6))
def test_laws_of_joining(one: list[tuple[int, ...]], two: list[tuple[int, ...]], most: int) -> None:
    first, other = made(one), made(two)
    both = merged(first, other, most, classes=(0, 2))
    own = both.class_id != 1
    # which look comes first does not matter, no image has too many, no score is above the highest
    if not (first.class_id == 1).any() and not (other.class_id == 1).any():
        twin = merged(other, first, most, classes=(0, 2))
        np.testing.assert_allclose(np.sort(both.score), np.sort(twin.score), rtol=1e-5)
    assert all((both.image_id == image).sum() <= most for image in range(3))
    highest = max([*first.score.tolist(), *other.score.tolist()], default=0.0)
    assert both.score.max(initial=0) <= highest + 1e-6
    assert ((both.spread[own] >= 0) & (both.spread[own] <= 1)).all()
    assert np.isnan(both.spread[~own]).all()
    assert (np.diff(both.image_id) >= 0).all()
    # a look at nothing that it can show takes nothing away
    blind = merged(first, table.empty(), 100, shown=np.zeros(len(first), np.bool_))
    assert blind.score.tolist() == table.sort(first).score.tolist()
