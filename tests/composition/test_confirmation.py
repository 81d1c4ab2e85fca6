from __future__ import annotations

import numpy as np
import pytest

from composition import detections as table
from composition.confirmation import confirmations, confirmed_by
from composition.detections import Detections
from composition.discovery.answers import overlaps


def random(seed: int, count: int = 200) -> Detections:
    generator = np.random.default_rng(seed)
    corner = generator.uniform(0, 40, (count, 2))
    boxes = np.concatenate([corner, corner + generator.uniform(5, 40, (count, 2))], axis=1)
    return table.make(
        generator.integers(0, 6, count),
        boxes,
        generator.uniform(0, 1, count),
        generator.integers(0, 3, count),
    )


@pytest.mark.parametrize("iou", [0.3, 0.5, 0.9])
def test_every_row_is_held_against_every_row_of_its_image_and_class(iou: float) -> None:
    one, two = random(1), random(2, 150)
    same = (one.image_id[:, None] == two.image_id) & (one.class_id[:, None] == two.class_id)
    expected = ((overlaps(one.boxes, two.boxes) >= iou) & same).any(axis=1)
    assert confirmed_by(one, two, iou).tolist() == expected.tolist()
    assert not confirmed_by(one, table.empty(), iou).any()
    assert len(confirmed_by(table.empty(), two, iou)) == 0


def test_only_confident_boxes_of_shared_classes_are_asked() -> None:
    boxes = [[0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]]
    first = table.make([0, 0, 0], boxes, [0.9, 0.4, 0.8], [0, 0, 1])
    second = table.make([0, 0], [[0, 0, 10, 9], [40, 40, 50, 50]], [0.21, 0.19], [0, 0])
    made = confirmations([first, second], np.array([[True, True], [True, False]]))
    # class 1 is not the second teacher's; its own boxes are not confident
    assert made.asked[0, 1].tolist() == [1, 0]
    assert made.confirmed[0, 1].tolist() == [1, 0]
    assert made.asked[1].sum() == made.asked[0, 0].sum() == 0


def test_shards_add_up_to_the_whole() -> None:
    tables, coverage = [random(1), random(2), random(3)], np.ones((3, 3), np.bool_)
    whole = confirmations(tables, coverage)
    halves = [
        confirmations([part[(part.image_id < 3) == first] for part in tables], coverage)
        for first in (True, False)
    ]
    total = halves[0] + halves[1]
    assert (total.asked == whole.asked).all()
    assert (total.confirmed == whole.confirmed).all()
    assert (whole.confirmed <= whole.asked).all()
