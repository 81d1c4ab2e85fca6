"""Filters: which rows stay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composition import detections
from composition.errors import UserError
from composition.filtering import MinimumSize, Policy, ScoreThreshold, Stability, apply, box_weight

TABLE = detections.make(
    [0, 0, 0, 1],
    [[0, 0, 10, 10], [0, 0, 2, 20], [5, 5, 8, 8], [0, 0, 4, 4]],
    [0.9, 0.7, 0.5, 0.3],
    [0, 1, 2, 1],
    [0.05, 0.2, np.nan, 0.1],
)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (ScoreThreshold(0), [True, True, True, True]),
        (ScoreThreshold(0.5), [True, True, True, False]),
        (ScoreThreshold(0.7), [True, True, False, False]),  # float32(0.7) < 0.7
        (ScoreThreshold(1), [False, False, False, False]),
        (ScoreThreshold(0.6, {1: 0.3}), [True, True, False, True]),
        (ScoreThreshold(0.6, {2: 0.5, 7: 0.1}), [True, True, True, False]),
        (MinimumSize(0), [True, True, True, True]),
        (MinimumSize(3), [True, False, True, True]),
        (Stability(0.1), [True, False, True, True]),  # NaN was not measured
        (Stability(0), [False, False, True, False]),
        (Stability(0.1) & MinimumSize(4), [True, False, False, True]),
        (ScoreThreshold(0.5) & MinimumSize(3), [True, False, True, False]),
        (ScoreThreshold(0) & MinimumSize(3) & ScoreThreshold(0.6), [True, False, False, False]),
    ],
)
def test_keep(policy: Policy, expected: list[bool]) -> None:
    np.testing.assert_array_equal(policy.keep(TABLE), expected)
    np.testing.assert_array_equal(apply(policy, TABLE).score, TABLE.score[expected])
    assert policy.keep(detections.empty()).shape == (0,)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_thresholds_are_checked(value: float) -> None:
    with pytest.raises(UserError, match="not in"):
        ScoreThreshold(value)
    with pytest.raises(UserError, match="class 3"):
        ScoreThreshold(0.5, {3: value})


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_sizes_are_checked(value: float) -> None:
    with pytest.raises(UserError, match="not a number of pixels"):
        MinimumSize(value)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=50)
def test_a_higher_threshold_keeps_no_more(one: float, other: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    table = detections.make(
        np.zeros(30), np.tile([0, 0, 1, 1], (30, 1)), random.uniform(size=30), random.integers(0, 3, 30)
    )
    low, high = sorted([one, other])
    assert not (ScoreThreshold(high).keep(table) & ~ScoreThreshold(low).keep(table)).any()


@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_spreads_are_checked(value: float) -> None:
    with pytest.raises(UserError, match="stability"):
        Stability(value)


def test_what_moves_trains_the_class_only() -> None:
    weight = box_weight(TABLE.spread, 0.1)
    assert weight.tolist() == [1, 0, 1, 1]
    assert weight.dtype == np.float32
    np.testing.assert_array_equal(weight > 0, Stability(0.1).keep(TABLE))


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=50)
def test_policies_compose_as_sets_do(threshold: float, spread: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    size = random.uniform(1, 9, (30, 2))
    table = detections.make(
        np.zeros(30),
        np.concatenate([np.zeros((30, 2)), size], axis=1),
        random.uniform(size=30),
        random.integers(0, 3, 30),
        random.choice([np.nan, *random.uniform(size=5)], 30),
    )
    a, b, c = ScoreThreshold(threshold), Stability(spread), MinimumSize(4)
    one, two = (a & b) & c, c & (b & a)
    np.testing.assert_array_equal(one.keep(table), two.keep(table))
    np.testing.assert_array_equal(one.keep(table), a.keep(table) & b.keep(table) & c.keep(table))
    assert not (Stability(spread / 2).keep(table) & ~b.keep(table)).any()
    np.testing.assert_array_equal(apply(c, apply(a, table)).score, apply(a & c, table).score)
