"""Suppression against its definition, and coordinates that trip up shifted boxes."""

from __future__ import annotations

import numpy as np
import pytest

from model_zoo.adapters.nms import nms_per_class


def by_definition(boxes, score, class_id, iou):
    kept = []
    for row in np.argsort(-score, kind="stable"):
        x1, y1, x2, y2 = boxes[row].astype(float)
        for other in kept:
            a1, b1, a2, b2 = boxes[other].astype(float)
            both = max(0, min(x2, a2) - max(x1, a1)) * max(0, min(y2, b2) - max(y1, b1))
            union = (x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - both
            if class_id[row] == class_id[other] and both > iou * union:
                break
        else:
            kept.append(int(row))
    return kept


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("iou", [0.1, 0.45, 0.9, 1.0])
@pytest.mark.parametrize("classes", [1, 3, 600])
@pytest.mark.parametrize("origin", [-300, 0, 300])
def test_as_defined(seed, iou, classes, origin):
    generator = np.random.default_rng(seed)
    count = 120
    corner = origin + generator.uniform(-60, 60, (count, 2))
    boxes = np.concatenate([corner, corner + generator.uniform(5, 60, (count, 2))], axis=1).astype(np.float32)
    # rounded scores: ties keep their order
    score = np.round(generator.uniform(0.05, 1, count), 1).astype(np.float32)
    class_id = generator.integers(0, classes, count).astype(np.int32)
    assert nms_per_class(boxes, score, class_id, iou).tolist() == by_definition(boxes, score, class_id, iou)


@pytest.mark.parametrize(
    ("boxes", "classes", "kept"),
    [
        ([], [], []),
        ([[0, 0, 9, 9]], [3], [0]),
        # a box of one class to the left of the origin must not meet the other class's box on the right
        ([[0, 0, 100, 100], [-101, 0, -1, 100]], [0, 1], [0, 1]),
        ([[0, 0, 9, 9], [0, 0, 9, 9]], [0, 1], [0, 1]),
        ([[0, 0, 9, 9], [0, 0, 9, 9]], [1, 1], [0]),
        # one absurd box must not blur the others
        ([[0, 0, 9, 9], [10, 0, 19, 9], [-1e30, -1e30, 1e30, 1e30]], [1, 1, 1], [0, 1, 2]),
    ],
)
def test_corner_cases(boxes, classes, kept):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    score = np.linspace(1, 0.5, len(boxes), dtype=np.float32)
    assert nms_per_class(boxes, score, np.array(classes, np.int32), 0.5).tolist() == kept


def test_only_the_best_candidates_enter():
    boxes = np.arange(50, dtype=np.float32)[:, None] * 10 + np.array([0, 0, 5, 5], np.float32)
    score = np.linspace(0.1, 1, 50, dtype=np.float32)
    assert nms_per_class(boxes, score, np.zeros(50, np.int32), 0.5, candidates=3).tolist() == [49, 48, 47]
