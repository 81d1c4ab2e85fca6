from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from composition import detections as table
from composition.stability import flip_spread

WIDTHS = np.array([100, 60])


def test_boxes_are_found_again_in_the_mirror_or_have_vanished() -> None:
    found = table.make(
        [0, 0, 0, 1],
        [[10, 0, 30, 20], [50, 0, 70, 20], [10, 0, 30, 20], [0, 0, 20, 20]],
        [0.9, 0.8, 0.7, 0.6],
        [0, 0, 1, 0],
    )
    mirrored = table.make(
        [0, 0, 1], [[70, 0, 90, 20], [30, 0, 40, 20], [30, 0, 50, 20]], [0.9, 0.8, 0.6], [0, 0, 0]
    )
    # at its place, half of it, another class, moved by half: 1 - 200/600
    np.testing.assert_allclose(flip_spread(found, mirrored, WIDTHS), [0, 0.5, 1, 2 / 3], rtol=1e-6)
    assert flip_spread(found, table.empty(), WIDTHS).tolist() == [1, 1, 1, 1]
    assert flip_spread(table.empty(), mirrored, WIDTHS).shape == (0,)


box = st.tuples(
    st.integers(0, 1), st.integers(0, 20), st.integers(0, 50), st.integers(1, 30), st.integers(0, 2)
)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(box, max_size=10))
def test_a_detector_that_does_not_mind_mirrors_has_no_spread(rows: list[tuple[int, ...]]) -> None:
    columns = np.array(rows, np.int64).reshape(-1, 5)
    image, x, y, side, class_id = columns.T
    found = table.make(image, np.stack([x, y, x + side, y + side], axis=1), np.ones(len(rows)), class_id)
    width = WIDTHS[image]
    turned = np.stack([width - x - side, y, width - x, y + side], axis=1)
    mirrored = table.make(image, turned, np.ones(len(rows)), class_id)
    assert flip_spread(found, mirrored, WIDTHS).tolist() == [0.0] * len(rows)
