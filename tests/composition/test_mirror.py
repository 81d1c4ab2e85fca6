"""Looking in the mirror: turning back, and finding out where that is wrong."""

from __future__ import annotations

import numpy as np

from composition import detections as table
from composition.detections import Detections
from composition.mirror import Faithfulness, faithfulness, turned_back

BOX = [10.0, 0.0, 30.0, 20.0]


def test_turning_back() -> None:
    found = table.make([0, 1], [[70, 5, 90, 20], [30, 0, 50, 20]], [0.9, 0.5], [0, 1])
    back = turned_back(found, np.array([100, 60]))
    assert back.boxes.tolist() == [[10, 5, 30, 20], [10, 0, 30, 20]]
    assert turned_back(back, np.array([100, 60])).boxes.tolist() == found.boxes.tolist()


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
