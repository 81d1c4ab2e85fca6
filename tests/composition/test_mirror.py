"""Looking in the mirror: turning back, taking the mean, and finding out where that is wrong."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from composition import detections as table
from composition.detections import Detections
from composition.mirror import Faithfulness, faithfulness, merged, turned_back

BOX = [10.0, 0.0, 30.0, 20.0]
NEAR = [12.0, 0.0, 32.0, 20.0]
FAR = [60.0, 0.0, 80.0, 20.0]


def test_turning_back() -> None:
    found = table.make([0, 1], [[70, 5, 90, 20], [30, 0, 50, 20]], [0.9, 0.5], [0, 1])
    back = turned_back(found, np.array([100, 60]))
    assert back.boxes.tolist() == [[10, 5, 30, 20], [10, 0, 30, 20]]
    assert turned_back(back, np.array([100, 60])).boxes.tolist() == found.boxes.tolist()


def test_the_mean_of_two_looks() -> None:
    first = table.make([0, 0, 0], [BOX, FAR, BOX], [0.9, 0.4, 0.75], [0, 0, 1])
    mirror = table.make([0, 0], [NEAR, FAR], [0.7, 0.6], [0, 1])
    both = merged(first, mirror, (0,), most=10)
    assert both.class_id.tolist() == [0, 1, 0]
    # the mean by score; the same as it was, of a class that is not looked at; halved where one look has none
    np.testing.assert_allclose(both.score, [0.8, 0.75, 0.2], rtol=1e-6)
    np.testing.assert_allclose(both.boxes[0], [10.875, 0, 30.875, 20], rtol=1e-6)
    assert both.boxes[1:].tolist() == [BOX, FAR]
    overlap = (20 - 1.125) / (20 + 1.125)
    np.testing.assert_allclose(both.spread, [1 - overlap, np.nan, 1], rtol=1e-5)
    assert len(merged(first, mirror, (0, 1), most=2)) == 2
    assert merged(first, mirror, (), most=10).boxes.tolist() == table.sort(first).boxes.tolist()


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
def test_laws_of_the_mean(one: list[tuple[int, ...]], two: list[tuple[int, ...]], most: int) -> None:
    first, other = made(one), made(two)
    both = merged(first, other, (0, 2), most)
    twin = merged(other, first, (0, 2), most)
    own = both.class_id != 1
    # which look comes first does not matter, no image has too many, no score is above the highest
    if not (first.class_id == 1).any() and not (other.class_id == 1).any():
        np.testing.assert_allclose(np.sort(both.score), np.sort(twin.score), rtol=1e-5)
    assert all((both.image_id == image).sum() <= most for image in range(3))
    highest = max([*first.score.tolist(), *other.score.tolist()], default=0.0)
    assert both.score.max(initial=0) <= highest + 1e-6
    assert ((both.spread[own] >= 0) & (both.spread[own] <= 1)).all()
    assert np.isnan(both.spread[~own]).all()
    assert (np.diff(both.image_id) >= 0).all()


def seen(class_id: int, count: int, score: float = 0.8) -> Detections:
    """One object in each of so many pictures."""
    return table.make(np.arange(count), [BOX] * count, [score] * count, [class_id] * count)


def test_classes_that_a_mirror_changes_are_told_from_the_others() -> None:
    first = table.concatenate([seen(0, 40), seen(1, 40), seen(2, 4)])
    mirror = table.concatenate([seen(0, 40, 0.1), seen(1, 8)])  # whatever its scores are
    found = faithfulness(first, first, mirror, 4)
    # 48 of 84 are confirmed: most change, so none is trusted
    np.testing.assert_allclose(found.overall, 48 / 84, rtol=1e-6)
    assert found.classes == ()
    first, mirror = (table.concatenate([seen(3, 200), part]) for part in (first, mirror))
    found = faithfulness(first, first, mirror, 4)
    overall = 248 / 284
    expected = [(weight * share + 3 * overall) / (weight + 3) for weight, share in
                ((32, 1), (32, 0.2), (3.2, 0), (160, 1))]  # fmt: skip
    np.testing.assert_allclose(found.by_class, expected, rtol=1e-5)
    assert found.classes == (0, 3)
    # a class of which nothing was seen is like the others of its teacher
    assert faithfulness(seen(0, 9), seen(0, 9), seen(0, 9), 3).classes == (0, 1, 2)


def test_without_a_confirmed_box_nothing_is_known() -> None:
    nothing = faithfulness(seen(0, 5), table.empty(), seen(0, 5), 2)
    assert np.isnan(nothing.overall)
    assert nothing.classes == ()
    assert faithfulness(table.empty(), table.empty(), table.empty(), 2).classes == ()
    assert Faithfulness(0.79, np.ones(2)).classes == ()
