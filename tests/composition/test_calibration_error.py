from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from composition import detections as table
from composition.calibration_error import calibration_errors, reliability
from composition.matching import Objects


def test_the_error_of_a_curve_by_hand() -> None:
    # two bins of two: means 0.25 / 0.5 and 0.8 / 0.5, half of the rows each
    curve = reliability(np.array([0.2, 0.3, 0.7, 0.9]), np.array([0, 1, 1, 0]), bins=2)
    assert curve.count.tolist() == [2, 2]
    assert curve.mean_score == pytest.approx([0.25, 0.8])
    assert curve.mean_target == pytest.approx([0.5, 0.5])
    assert float(curve.error) == pytest.approx(0.5 * 0.25 + 0.5 * 0.3)


@pytest.mark.parametrize(("score", "place"), [(0.0, 0), (0.1, 0), (0.100001, 1), (0.95, 9), (1.0, 9)])
def test_bins_are_closed_above(score: float, place: int) -> None:
    assert int(reliability(np.array([score]), np.array([0]), bins=10).count.argmax()) == place


rows = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 2)), min_size=1, max_size=40)


@given(rows, st.integers(0, 40))
def test_parts_add_up_to_the_whole(values: list[tuple[float, float, int]], cut: int) -> None:
    score, target, classes = (np.array(column) for column in zip(*values, strict=True))

    def curve(part: slice) -> object:
        return reliability(score[part], target[part], 7, class_id=classes[part], num_classes=3)

    whole, parts = curve(slice(None)), curve(slice(cut)) + curve(slice(cut, None))  # type: ignore[operator]
    for name in ("count", "score", "target"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name))


@given(rows)
def test_an_error_is_a_distance(values: list[tuple[float, float, int]]) -> None:
    score, target, _ = (np.array(column) for column in zip(*values, strict=True))
    assert float(reliability(score, score).error) == pytest.approx(0, abs=1e-12)
    error = float(reliability(score, target).error)
    assert abs(score.mean() - target.mean()) - 1e-12 <= error <= 1


@given(rows)
def test_a_weight_counts_a_row_so_often(values: list[tuple[float, float, int]]) -> None:
    score, target, times = (np.array(column) for column in zip(*values, strict=True))
    weighted = reliability(score, target, weight=times.astype(float))
    repeated = reliability(np.repeat(score, times), np.repeat(target, times))
    assert weighted.count == pytest.approx(repeated.count)
    assert weighted.target == pytest.approx(repeated.target)


def scene() -> tuple[table.Detections, Objects]:
    """Class 0: a box at IoU 0.75, and a miss; class 1: an exact box; class 2: no labels; a crowd."""
    found = table.make(
        [1, 1, 1, 2, 2],
        [[0, 0, 10, 7.5], [50, 50, 60, 60], [20, 20, 30, 30], [0, 0, 9, 9], [70, 70, 80, 80]],
        [0.9, 0.5, 0.6, 0.3, 0.4],
        [0, 0, 1, 2, 1],
    )
    boxes = np.array([[0, 0, 10, 10], [20, 20, 30, 30], [60, 60, 99, 99]], float)
    truth = Objects(np.array([1, 1, 2]), np.array([0, 1, 1]), boxes, np.array([False, False, True]))
    return found, truth


def test_the_three_errors_by_hand() -> None:
    errors = calibration_errors(*scene())
    # the box in the crowd does not count; every other box has a bin of its own
    assert errors.boxes == 4
    assert errors.dece == pytest.approx((0.1 + 0.5 + 0.4 + 0.3) / 4, abs=1e-6)
    # right at 0.50 to 0.75, six of ten thresholds; exact: all ten
    assert errors.quality_error == pytest.approx((0.3 + 0.5 + 0.4 + 0.3) / 4, abs=1e-6)
    # class 0: |0.75 - 0.9| and |0 - 0.5|; class 1: |1 - 0.6|; class 2 has no labels
    assert errors.classes == 2
    assert errors.laece == pytest.approx(((0.15 + 0.5) / 2 + 0.4) / 2, abs=1e-6)


def test_other_scores_in_the_place_of_the_rows_own() -> None:
    found, truth = scene()
    perfect = calibration_errors(found, truth, np.array([1, 0, 1, 0, 0.5]))
    assert perfect.dece == 0
    assert (
        calibration_errors(found, truth, found.score).to_dict() == calibration_errors(found, truth).to_dict()
    )


def test_without_rows_there_is_nothing_to_measure() -> None:
    _, truth = scene()
    nothing = calibration_errors(table.empty(), truth).to_dict()
    assert (nothing["D-ECE"], nothing["LaECE"], nothing["quality_error"], nothing["boxes"]) == (
        None,
        None,
        None,
        0,
    )
    assert nothing["precision_curve"] == {"count": [], "score": [], "target": []}
