"""Decoders against the formulas of their papers, spelled out cell by cell."""

from __future__ import annotations

import math

import numpy as np
import pytest

from model_zoo.adapters.decoders import DECODERS
from model_zoo.bundle import InputSpec

# not square and not a multiple of every stride: rows, columns and rounding up must not be mixed up
SPEC = InputSpec(height=72, width=104)
STRIDES = (8, 16, 32)
CLASSES = 5


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def cells(strides=STRIDES):
    for stride in strides:
        for row in range(math.ceil(SPEC.height / stride)):
            for column in range(math.ceil(SPEC.width / stride)):
                yield row, column, stride


def yolox(generator):
    raw = generator.normal(0, 1, (len(list(cells())), 5 + CLASSES)).astype(np.float32)
    raw[:, 4:] = generator.random(raw[:, 4:].shape)
    found = []
    for (row, column, stride), (x, y, w, h, objectness, *probabilities) in zip(
        cells(), raw.tolist(), strict=True
    ):
        cx, cy, w, h = (column + x) * stride, (row + y) * stride, math.exp(w) * stride, math.exp(h) * stride
        best = max(range(CLASSES), key=probabilities.__getitem__)
        found.append((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, objectness * probabilities[best], best))
    return {"output": raw}, found


def yolov8(generator):
    raw = generator.uniform(0, 100, (len(list(cells())), 4 + CLASSES)).astype(np.float32)
    raw[:, 4:] = generator.random(raw[:, 4:].shape)
    found = []
    for cx, cy, w, h, *probabilities in raw.tolist():
        best = max(range(CLASSES), key=probabilities.__getitem__)
        found.append((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, probabilities[best], best))
    return {"output0": raw.T}, found


def nanodet(generator):
    outputs, found = {}, []
    for stride in STRIDES:
        level = list(cells([stride]))
        probabilities = generator.random((len(level), CLASSES)).astype(np.float32)
        logits = generator.normal(0, 2, (len(level), 32)).astype(np.float32)
        outputs[f"cls_pred_stride_{stride}"], outputs[f"dis_pred_stride_{stride}"] = probabilities, logits
        for (row, column, _), scores, sides in zip(
            level, probabilities.tolist(), logits.tolist(), strict=True
        ):
            distances = []
            for side in range(4):
                weights = [math.exp(value) for value in sides[8 * side : 8 * side + 8]]
                mean = sum(index * weight for index, weight in enumerate(weights)) / sum(weights)
                distances.append(mean * stride)
            cx, cy = (column + 0.5) * stride, (row + 0.5) * stride
            left, top, right, bottom = distances
            best = max(range(CLASSES), key=scores.__getitem__)
            found.append((cx - left, cy - top, cx + right, cy + bottom, scores[best], best))
    # networks list all classes first or level by level
    return dict(sorted(outputs.items())), found


def fastestdet(generator):
    rows, columns = 9, 13
    raw = generator.normal(0, 1, (5 + CLASSES, rows, columns)).astype(np.float32)
    raw[0], raw[5:] = generator.random(raw[0].shape), generator.random(raw[5:].shape)
    found = []
    for row in range(rows):
        for column in range(columns):
            objectness, x, y, w, h, *probabilities = raw[:, row, column].tolist()
            cx = (column + math.tanh(x)) / columns * SPEC.width
            cy = (row + math.tanh(y)) / rows * SPEC.height
            w, h = sigmoid(w) * SPEC.width, sigmoid(h) * SPEC.height
            best = max(range(CLASSES), key=probabilities.__getitem__)
            score = objectness**0.6 * probabilities[best] ** 0.4
            found.append((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, score, best))
    return {"758": raw}, found


@pytest.mark.parametrize("floor", [0.0, 0.05, 0.6])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("layout", [yolox, yolov8, nanodet, fastestdet])
def test_decoder(layout, dtype, floor):
    images = [layout(np.random.default_rng(seed)) for seed in range(3)]
    outputs = {name: np.stack([image[name] for image, _ in images]).astype(dtype) for name in images[0][0]}
    assert DECODERS[layout.__name__].classes_in(outputs, SPEC) == CLASSES
    decoded = DECODERS[layout.__name__](SPEC, CLASSES)(outputs, floor)
    assert len(decoded) == len(images)
    for candidates, (_, expected) in zip(decoded, images, strict=True):
        if dtype is np.float16:  # near the floor and near a tie rounding decides
            assert abs(len(candidates.score) - sum(row[4] >= floor for row in expected)) <= 3
            continue
        rows = np.array([row for row in expected if row[4] >= floor])
        # every decoder keeps the order of its anchor points
        np.testing.assert_allclose(candidates.boxes, rows[:, :4], atol=1e-4, rtol=1e-5)
        np.testing.assert_allclose(candidates.score, rows[:, 4], atol=1e-6)
        np.testing.assert_array_equal(candidates.class_id, rows[:, 5])
        assert candidates.boxes.dtype == np.float32
        assert candidates.score.dtype == np.float32


@pytest.mark.parametrize("classes", [1, 31, 32, 33, 80])
def test_nanodet_tells_classes_from_distances(classes):
    outputs = {}
    for stride in STRIDES:
        count = len(list(cells([stride])))
        outputs[f"dis_{stride}"] = np.zeros((1, count, 32), np.float32)
        outputs[f"cls_{stride}"] = np.full((1, count, classes), 0.5, np.float32)
    decoder = DECODERS["nanodet"]
    assert decoder.classes_in(outputs, SPEC) == classes
    (candidates,) = decoder(SPEC, classes)(outputs, 0.1)
    np.testing.assert_allclose(candidates.score, 0.5)
    # equal logits: every side is 3.5 strides away
    np.testing.assert_allclose(candidates.boxes[0], [4 - 28, 4 - 28, 4 + 28, 4 + 28])
