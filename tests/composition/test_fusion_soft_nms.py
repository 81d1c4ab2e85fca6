"""Soft-NMS against the loop of the paper, and its provenance on small cases."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composition import detections
from composition.fusion import SoftNms

BOX = [0, 0, 10, 10]
NEAR = [1, 0, 11, 10]  # IoU with BOX 90/110
HALF = [5, 0, 15, 10]  # with BOX 1/3, with NEAR 3/7
FAR = [50, 0, 60, 10]


def _iou(one: list[float], other: list[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1])
    return width * height / (areas - width * height)


def _reference(rows: list[tuple[list[float], float]], fuser: SoftNms) -> list[tuple[float, list[float]]]:
    """Figure 2 of the paper: (score, box) of what is kept."""
    kept = []
    while rows:
        box, score = max(rows, key=lambda row: row[1])
        rows.remove((box, score))
        if score >= fuser.floor:
            kept.append((score, box))
        decayed = []
        for other, value in rows:
            iou = _iou(box, other)
            if fuser.decay == "gaussian":
                value *= math.exp(-(iou**2) / fuser.sigma)
            elif iou > fuser.iou:
                value *= 1 - iou
            decayed.append((other, value))
        rows = decayed
    return kept


@given(
    seed=st.integers(0, 2**32 - 1),
    teachers=st.integers(1, 3),
    fuser=st.builds(
        SoftNms,
        decay=st.sampled_from(["gaussian", "linear"]),
        sigma=st.sampled_from([0.1, 0.5, 2.0]),
        iou=st.sampled_from([0.0, 0.3, 0.5]),
        floor=st.sampled_from([0.0, 0.001, 0.2]),
    ),
)
@settings(deadline=None, max_examples=60)
def test_it_is_the_loop_of_the_paper(seed: int, teachers: int, fuser: SoftNms) -> None:
    random = np.random.default_rng(seed)
    tables = []
    for _ in range(teachers):
        count = int(random.integers(0, 40))
        middle, half = random.uniform(20, 60, (count, 2)), random.uniform(5, 15, (count, 2))
        corners = np.hstack([middle - half, middle + half])
        tables.append(
            detections.make(
                random.integers(0, 2, count), corners, random.random(count), random.integers(0, 2, count)
            )
        )
    pooled = detections.concatenate(tables)
    expected: list[tuple[Any, ...]] = []
    for image in range(2):
        for class_id in range(2):
            part = pooled[(pooled.image_id == image) & (pooled.class_id == class_id)]
            rows = list(zip(part.boxes.tolist(), part.score.tolist(), strict=True))
            expected += [(image, class_id, *box, score) for score, box in _reference(rows, fuser)]
    found = fuser.fuse(tables).detections
    rows_ = np.column_stack([found.image_id, found.class_id, found.boxes, found.score]).tolist()
    assert len(rows_) == len(expected)
    np.testing.assert_allclose(
        np.reshape(sorted(rows_), (-1, 7)), np.reshape(sorted(expected), (-1, 7)), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("fuser", "boxes", "scores", "teachers"),
    [
        pytest.param(
            SoftNms(),
            [BOX, FAR, HALF, NEAR],
            [0.9, 0.5, 0.6 * math.exp(-2 / 9), 0.8 * math.exp(-2 * ((9 / 11) ** 2 + (3 / 7) ** 2))],
            [0b011, 0b100, 0b100, 0b010],
            id="gaussian",
        ),
        pytest.param(
            SoftNms("linear"),
            [BOX, HALF, FAR, NEAR],
            [0.9, 0.6, 0.5, 0.8 * 2 / 11],
            [0b011, 0b100, 0b100, 0b010],
            id="linear: HALF is left alone",
        ),
        pytest.param(
            SoftNms("linear", floor=0.2),
            [BOX, HALF, FAR],
            [0.9, 0.6, 0.5],
            [0b011, 0b100, 0b100],
            id="what falls below the floor is gone, and still counted where it was claimed",
        ),
        pytest.param(
            SoftNms("linear", iou=0.3),
            [BOX, FAR, HALF, NEAR],
            [0.9, 0.5, 0.6 * 2 / 3, 0.8 * 2 / 11 * 4 / 7],
            [0b111, 0b100, 0b100, 0b010],
            id="the first winner claims both",
        ),
    ],
)
def test_small_cases(
    fuser: SoftNms, boxes: list[list[float]], scores: list[float], teachers: list[int]
) -> None:
    tables = [
        detections.make([1], [BOX], [0.9], [0], [0.1]),
        detections.make([1], [NEAR], [0.8], [0], [0.2]),
        detections.make([1, 1], [HALF, FAR], [0.6, 0.5], [0, 0], [0.3, 0.4]),
    ]
    fused = fuser.fuse(tables)
    np.testing.assert_array_equal(fused.detections.boxes, boxes)
    np.testing.assert_allclose(fused.detections.score, scores, rtol=1e-6)
    np.testing.assert_array_equal(fused.teachers, teachers)
    spread = {tuple(BOX): 0.1, tuple(NEAR): 0.2, tuple(HALF): 0.3, tuple(FAR): 0.4}
    np.testing.assert_allclose(fused.detections.spread, [spread[tuple(box)] for box in boxes])
