"""The clustering kernels against plain loops, and their options on small cases."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from composition import detections
from composition.detections import Detections
from composition.fusion.base import Pool, collect, pool
from composition.fusion.clusters import Clusters, assign, conflicts, suppress

BOX = [0, 0, 10, 10]
NEAR = [1, 0, 11, 10]  # IoU with BOX 90/110
HALF = [5, 0, 15, 10]  # with BOX 1/3, with NEAR 3/7
FEW = settings(deadline=None, max_examples=40)
Taken = Literal["next", "open"]


def _scene(seed: int, teachers: int, boxes: int = 25) -> list[Detections]:
    random = np.random.default_rng(seed)
    tables = []
    for _ in range(teachers):
        count = int(random.integers(0, boxes))
        middle, half = random.uniform(20, 50, (count, 2)), random.uniform(6, 14, (count, 2))
        score = np.round(random.random(count), int(random.integers(1, 4)))  # some are equal
        corners = np.round(np.hstack([middle - half, middle + half]))
        tables.append(
            detections.make(random.integers(-1, 2, count), corners, score, random.integers(0, 3, count))
        )
    return tables


def _iou(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    width, height = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1])
    return float(shared / (areas - shared))


def _reference(
    pooled: Pool,
    threshold: float,
    weight: NDArray[np.float64],
    one_per_teacher: bool,
    taken: Taken,
    inclusive: bool,
) -> tuple[list[list[int]], list[NDArray[np.float64]]]:
    """Rows and box of every cluster, as the docstring of `assign` says it."""
    clusters: list[list[int]] = []
    boxes: list[NDArray[np.float64]] = []
    for start, size in zip(pooled.starts, pooled.sizes, strict=True):
        first = len(clusters)
        for row in range(start, start + size):
            ious = {k: _iou(boxes[k], pooled.boxes[row]) for k in range(first, len(clusters))}
            full = {
                k
                for k in ious
                if any(pooled.teacher[member] == pooled.teacher[row] for member in clusters[k])
            }
            fitting = [
                k
                for k, iou in ious.items()
                if iou > 0 and (iou > threshold or (inclusive and iou == threshold))
            ]
            if one_per_teacher and taken == "next":
                fitting = [k for k in fitting if k not in full]
            best = max(fitting, key=lambda k: (ious[k], -k), default=-1)
            if one_per_teacher and best in full:
                best = -1
            if best < 0:
                clusters.append([row])
                boxes.append(pooled.boxes[row])
                continue
            clusters[best].append(row)
            mass, moment = 0.0, np.zeros(4)
            for member in clusters[best]:
                mass, moment = mass + weight[member], moment + weight[member] * pooled.boxes[member]
            if mass > 0:
                boxes[best] = moment / mass
    return clusters, boxes


@given(
    seed=st.integers(0, 2**32 - 1),
    teachers=st.integers(1, 4),
    threshold=st.sampled_from([0.0, 0.3, 0.55, 1.0]),
    weighted=st.booleans(),
    one_per_teacher=st.booleans(),
    taken=st.sampled_from(["next", "open"]),
    inclusive=st.booleans(),
)
@settings(deadline=None, max_examples=150)
def test_assign_is_the_plain_loop(
    seed: int,
    teachers: int,
    threshold: float,
    weighted: bool,
    one_per_teacher: bool,
    taken: Taken,
    inclusive: bool,
) -> None:
    pooled = pool(_scene(seed, teachers))
    weight = np.random.default_rng(seed).random(len(pooled.rank)) if weighted else None
    found = assign(
        pooled,
        threshold,
        weight=weight,
        one_per_teacher=one_per_teacher,
        taken=taken,
        inclusive=inclusive,
    )
    used = pooled.rank if weight is None else weight
    clusters, boxes = _reference(pooled, threshold, used, one_per_teacher, taken, inclusive)
    assert len(found) == len(clusters)
    for number, rows in enumerate(clusters):
        assert np.flatnonzero(found.cluster == number).tolist() == rows
        assert found.opener[number] == rows[0]
    np.testing.assert_array_equal(found.boxes, np.reshape(boxes, (-1, 4)))
    _members_are_the_first_of_each_teacher(pooled, found)
    if one_per_teacher:
        pairs = set(zip(found.cluster.tolist(), pooled.teacher.tolist(), strict=True))
        assert len(pairs) == len(found.cluster)


def _members_are_the_first_of_each_teacher(pooled: Pool, found: Clusters) -> None:
    expected = np.full((len(found), pooled.num_teachers), -1)
    for row in range(len(pooled.rank) - 1, -1, -1):
        expected[found.cluster[row], pooled.teacher[row]] = row
    np.testing.assert_array_equal(found.members, expected)


@given(seed=st.integers(0, 2**32 - 1), teachers=st.integers(1, 4), threshold=st.sampled_from([0.0, 0.3, 1.0]))
@FEW
def test_suppress_is_the_plain_loop(seed: int, teachers: int, threshold: float) -> None:
    pooled = pool(_scene(seed, teachers))
    found = suppress(pooled, threshold)
    group = np.repeat(np.arange(len(pooled.starts)), pooled.sizes)
    openers: list[int] = []
    for row in range(len(pooled.rank)):
        hits = [
            number
            for number, opener in enumerate(openers)
            if group[opener] == group[row] and _iou(pooled.boxes[opener], pooled.boxes[row]) > threshold
        ]
        if not hits:
            openers.append(row)
        assert found.cluster[row] == (hits[0] if hits else len(openers) - 1)
    assert found.opener.tolist() == openers
    np.testing.assert_array_equal(found.boxes, pooled.boxes[openers])
    _members_are_the_first_of_each_teacher(pooled, found)


@pytest.mark.parametrize(
    ("taken", "cluster"), [("next", [0, 1, 1, 0]), ("open", [0, 1, 2, 0])], ids=["next best", "open"]
)
def test_a_second_box_of_a_teacher(taken: Taken, cluster: list[int]) -> None:
    """Rows by rank: BOX of A, HALF of B, NEAR of A (overlaps BOX most), BOX of B."""
    tables = [
        detections.make([0, 0], [BOX, NEAR], [0.9, 0.7], [0, 0]),
        detections.make([0, 0], [HALF, BOX], [0.8, 0.6], [0, 0]),
    ]
    found = assign(pool(tables), 0.4, weight=np.ones(4), taken=taken)
    assert found.cluster.tolist() == cluster


def test_weight_and_rank_are_separate() -> None:
    tables = [detections.make([0], [BOX], [0.1], [0]), detections.make([0], [NEAR], [0.9], [0])]
    pooled = pool(tables, rank=[np.array([5.0]), np.array([-2.0])])
    assert pooled.teacher.tolist() == [0, 1]
    found = assign(pooled, 0.5, weight=np.array([1.0, 3.0]))
    np.testing.assert_array_equal(found.boxes, [[0.75, 0, 10.75, 10]])
    assert found.members.tolist() == [[0, 1]]
    assert collect(pooled, found.members, detections.make([0], found.boxes, [0.5], [0])).teachers == 3


def test_boxes_that_do_not_touch_never_meet() -> None:
    tables = [detections.make([0, 0], [BOX, [20, 0, 30, 10]], [0.9, 0.8], [0, 0])]
    assert len(assign(pool(tables), 0.0, one_per_teacher=False)) == 2


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.booleans())
@FEW
def test_the_pool_is_in_order(seed: int, teachers: int, skip: bool) -> None:
    tables = _scene(seed, teachers, boxes=150)
    floor = 0.3 if skip else 0.0
    pooled = pool(tables, skip_below=floor)
    rows = detections.concatenate(tables)
    owner = np.repeat(np.arange(teachers), [len(part) for part in tables])
    rows, owner = rows[rows.score >= floor], owner[rows.score >= floor]
    x1, y1, x2, y2 = rows.boxes.T
    order = np.lexsort((owner, y2, x2, y1, x1, -rows.score, rows.class_id, rows.image_id))
    np.testing.assert_array_equal(pooled.image_id, rows.image_id[order])
    np.testing.assert_array_equal(pooled.class_id, rows.class_id[order])
    np.testing.assert_array_equal(pooled.boxes, rows.boxes[order])
    np.testing.assert_array_equal(pooled.score, rows.score[order])
    np.testing.assert_array_equal(pooled.rank, rows.score[order].astype(np.float64))
    np.testing.assert_array_equal(pooled.teacher, owner[order])
    np.testing.assert_array_equal(pooled.detections.boxes, pooled.boxes)
    groups = list(zip(pooled.image_id.tolist(), pooled.class_id.tolist(), strict=True))
    assert pooled.sizes.sum() == len(groups)
    assert [groups[start] for start in pooled.starts] == sorted(set(groups))


def test_a_rank_must_be_finite() -> None:
    with pytest.raises(ValueError, match="rank"):
        pool([detections.make([0], [BOX], [0.5], [0])], rank=[np.array([np.nan])])


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 0.8, 1.0]), st.integers(0, 300))
@settings(deadline=None, max_examples=20)
def test_conflicts_are_all_the_pairs(seed: int, threshold: float, count: int) -> None:
    random = np.random.default_rng(seed)
    middle, half = random.uniform(0, 5, (count, 2)), random.uniform(8, 10, (count, 2))
    boxes = np.round(np.hstack([middle - half, middle + half]), int(random.integers(0, 3)))
    image, class_id = random.integers(0, 3, count), random.integers(0, 3, count)
    expected = [
        [i, j]
        for i in range(count)
        for j in range(i + 1, count)
        if image[i] == image[j]
        and class_id[i] != class_id[j]
        and _iou(boxes[i], boxes[j]) >= max(threshold, 1e-12)
    ]
    assert conflicts(image, class_id, boxes, threshold).tolist() == expected
    order = np.argsort(image, kind="stable")
    again = order[conflicts(image[order], class_id[order], boxes[order], threshold)]
    assert sorted(np.sort(again, axis=1).tolist()) == expected
