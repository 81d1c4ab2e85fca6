"""Showing a picture in enlarged parts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composition import detections as table
from composition.zoom import CUT, PARTS, can_show, is_steady, joined, steady, windows

SIZES = np.array([[100, 200], [31, 17]])


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([0.6, 0.75]))
def test_parts_cover_the_picture_and_overlap(width: int, height: int, share: float) -> None:
    parts = windows(np.array([[width, height]]), share)[:, 0]
    assert parts.shape == (PARTS, 4)
    assert (parts[:, :2] >= 0).all()
    assert (parts[:, 2:] <= [width, height]).all()
    assert (parts[:, 2:] > parts[:, :2]).all()
    # left and right, top and bottom
    assert parts[0, :2].tolist() == [0, 0]
    assert parts[3, 2:].tolist() == [width, height]
    if min(width, height) > 10:
        assert parts[0, 2] > parts[1, 0]
        assert parts[0, 3] > parts[2, 1]


@settings(deadline=None)
@given(
    st.integers(40, 400), st.integers(40, 400), st.floats(0, 0.9), st.floats(0, 0.9), st.floats(0.05, 0.4),
    st.sampled_from([0.6, 0.75]),
)  # fmt: skip
def test_an_object_that_can_be_shown_is_found_where_it_is(
    width: int, height: int, left: float, top: float, side: float, share: float
) -> None:
    """Cut up and joined again, an object is the box that it was, once."""
    sizes = np.array([[width, height]])
    box = np.array([left, top, min(left + side, 1), min(top + side, 1)]) * [width, height, width, height]
    answers = []
    for window in windows(sizes, share)[:, 0]:
        seen = np.clip(box - np.tile(window[:2], 2), 0, np.tile(window[2:] - window[:2], 2))
        there = (seen[2:] - seen[:2]).min() > 0.3
        answers.append(table.make([0], [seen], [0.9], [3]) if there else table.empty())
    found = joined(answers, sizes, share, 10)
    if can_show(box[None].astype(np.float32), sizes, share)[0]:
        assert len(found) == 1
        np.testing.assert_allclose(found.boxes[0], box, atol=1e-3)
        assert (found.class_id[0], found.score[0]) == (3, np.float32(0.9))
    else:
        assert len(found) == 0


def test_what_a_part_cuts_is_dropped_and_twins_are_one() -> None:
    # parts of 60 of 100 columns: 0 to 60 and 40 to 100, of 120 of 200 rows: 0 to 120 and 80 to 200
    corner = [0.0, 0.0, 30.0, 30.0]
    middle = [45.0, 85.0, 55.0, 95.0]
    cut = [20.0, 10.0, 60 - 60 * CUT + 0.1, 40.0]
    first = table.make([0, 0, 0], [corner, middle, cut], [0.9, 0.5, 0.8], [0, 1, 0])
    second = table.make([0], [[5.0, 85.0, 15.0, 95.0]], [0.6], [1])
    found = joined([first, second, table.empty(), table.empty()], SIZES, 0.6, 10)
    assert found.boxes.tolist() == [corner, middle]
    np.testing.assert_allclose(found.score, [0.9, 0.6])
    assert len(joined([first, second, table.empty(), table.empty()], SIZES, 0.6, 1)) == 1
    wide = np.array([[0.0, 0.0, 99.0, 20.0], corner], np.float32)
    assert can_show(wide, SIZES[[0, 0]], 0.6).tolist() == [False, True]


def test_a_zoom_is_taken_where_boxes_stay_where_they_are() -> None:
    boxes = np.array([[10, 0, 30, 20]] * 20, np.float64)
    first = table.make(np.arange(20), boxes, [0.8] * 20, [0] * 20)
    border = table.make(np.arange(20), boxes + np.array([1, 0, 1, 0]), [0.5] * 20, [0] * 20)
    good = table.make(np.arange(14), boxes[:14] + np.array([0, 1, 0, 1]), [0.5] * 14, [0] * 14)
    bad = table.make(np.arange(20), boxes + np.array([2, 0, 2, 0]), [0.5] * 20, [0] * 20)
    moves, confirmed = steady(first, border, good)
    assert (moves, confirmed) == pytest.approx((1, 0.7))
    assert is_steady(moves, confirmed)
    moves, confirmed = steady(first, border, bad)
    assert moves == pytest.approx((1 - 18 / 22) / (1 - 19 / 21))
    assert confirmed == pytest.approx(1)
    assert not is_steady(moves, confirmed)
    assert not is_steady(1.0, 0.4)
    for nothing in (steady(first, table.empty(), good), steady(first, border, table.empty())):
        assert not is_steady(*nothing)
