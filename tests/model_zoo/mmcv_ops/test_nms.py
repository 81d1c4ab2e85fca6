"""NMS and soft-NMS against loops over single boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from model_zoo.mmcv_ops import ensure_ops


@pytest.fixture(scope="module")
def ops():
    ensure_ops()
    import mmcv.ops

    return mmcv.ops


def random_boxes(count, seed):
    generator = np.random.default_rng(seed)
    corner = generator.uniform(0, 40, (count, 2))
    boxes = np.concatenate([corner, corner + generator.uniform(4, 30, (count, 2))], axis=1)
    return boxes.astype(np.float32), generator.permutation(np.linspace(0.02, 0.98, count)).astype(np.float32)


def iou(a, b, offset):
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    inter = max(width, 0) * max(height, 0)
    area_a, area_b = ((c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b))
    return inter / (area_a + area_b - inter)


def reference_nms(boxes, scores, threshold, offset):
    kept = []
    for row in np.argsort(-scores):
        if all(iou(boxes[row], boxes[other], offset) <= threshold for other in kept):
            kept.append(int(row))
    return kept


def reference_soft_nms(boxes, scores, threshold, sigma, min_score, method, offset):
    left = {row: float(score) for row, score in enumerate(scores)}
    kept = []
    while left:
        best = max(left, key=left.get)
        kept.append((best, left.pop(best)))
        for row in list(left):
            overlap = iou(boxes[best], boxes[row], offset)
            if method == "gaussian":
                left[row] *= math.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                left[row] *= {"naive": 0, "linear": 1 - overlap}[method]
            if left[row] < min_score:
                del left[row]
    return kept


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(("count", "seed"), [(1, 0), (7, 1), (60, 2), (200, 3)])
def test_nms(ops, count, seed, threshold, offset):
    boxes, scores = random_boxes(count, seed)
    rows, kept = ops.nms(boxes, scores, threshold, offset)
    assert kept.tolist() == reference_nms(boxes, scores, threshold, offset)
    np.testing.assert_array_equal(rows, np.concatenate([boxes, scores[:, None]], axis=1)[kept])


def test_nms_of_nothing(ops):
    rows, kept = ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert rows.shape == (0, 5)
    assert kept.dtype == torch.int64


def test_nms_score_threshold_and_limit(ops):
    boxes, scores = random_boxes(60, 4)
    _, kept = ops.nms(boxes, scores, 0.5, score_threshold=0.3, max_num=5)
    above = [row for row in reference_nms(boxes, scores, 0.5, 0) if scores[row] > 0.3]
    assert kept.tolist() == above[:5]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_nms_in_other_precisions(ops, dtype):
    boxes, scores = (torch.from_numpy(values).to(dtype) for values in random_boxes(10, 5))
    _, kept = ops.nms(boxes, scores, 0.5)
    assert kept.tolist() == reference_nms(boxes.double().numpy(), scores.double().numpy(), 0.5, 0)


def test_nms_per_class(ops):
    boxes, scores = random_boxes(80, 6)
    classes = np.arange(80) % 3
    _, kept = ops.batched_nms(
        torch.from_numpy(boxes),
        torch.from_numpy(scores),
        torch.from_numpy(classes),
        {"type": "nms", "iou_threshold": 0.5},
    )
    expected = []
    for label in range(3):
        rows = np.flatnonzero(classes == label)
        expected += rows[reference_nms(boxes[rows], scores[rows], 0.5, 0)].tolist()
    assert kept.tolist() == sorted(expected, key=lambda row: -scores[row])


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize(("count", "offset"), [(1, 0), (40, 0), (40, 1)])
def test_soft_nms(ops, count, offset, method):
    boxes, scores = random_boxes(count, 8)
    settings = {"iou_threshold": 0.3, "sigma": 0.5, "min_score": 0.05, "method": method, "offset": offset}
    rows, kept = ops.soft_nms(boxes, scores, **settings)
    expected = reference_soft_nms(boxes, scores, 0.3, 0.5, 0.05, method, offset)
    assert kept.tolist() == [row for row, _ in expected]
    np.testing.assert_allclose(rows[:, 4], [score for _, score in expected], rtol=1e-5)
    np.testing.assert_array_equal(rows[:, :4], boxes[kept])


def test_soft_nms_of_nothing(ops):
    rows, kept = ops.soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert rows.shape == (0, 5)
    assert len(kept) == 0
