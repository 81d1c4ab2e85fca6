"""Weights of boxes in fused boxes, learned for their overlap with the objects."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from composition import box_weights
from composition import detections as table
from composition.fusion.expert import Expert
from composition.matching import Objects

IMAGES = 80


def scene(noise: tuple[float, float], seed: int = 0) -> tuple[Objects, list[table.Detections]]:
    """One object an image, found by two teachers whose corners are off by so many pixels."""
    random = np.random.default_rng(seed)
    ids = np.arange(IMAGES)
    boxes = np.concatenate([random.uniform(0, 40, (IMAGES, 2)), random.uniform(90, 140, (IMAGES, 2))], axis=1)
    truth = Objects(ids, np.zeros(IMAGES, np.int64), boxes, np.zeros(IMAGES, np.bool_))
    tables = [
        table.make(ids, boxes + random.normal(0, one, boxes.shape), random.uniform(0.5, 0.9, IMAGES), ids * 0)
        for one in noise
    ]
    return truth, tables


def test_the_more_exact_teacher_weighs_more() -> None:
    truth, tables = scene((1.0, 8.0))
    trust, _ = box_weights.fit_box_weights(*Expert().clusters(tables), truth)
    assert trust[0] > trust[1] + 2
    truth, tables = scene((4.0, 4.0))
    trust, _ = box_weights.fit_box_weights(*Expert().clusters(tables), truth)
    assert abs(trust[0] - trust[1]) < 1


def test_the_order_of_the_teachers_makes_no_difference() -> None:
    truth, (first, second) = scene((2.0, 6.0))
    one, sharp = box_weights.fit_box_weights(*Expert().clusters([first, second]), truth)
    other, other_sharp = box_weights.fit_box_weights(*Expert().clusters([second, first]), truth)
    assert other[::-1] == pytest.approx(one, abs=1e-3)
    assert other_sharp == pytest.approx(sharp, abs=1e-3)


def test_without_common_objects_nothing_is_learned() -> None:
    truth, (first, _) = scene((2.0, 6.0))
    trust, sharpness = box_weights.fit_box_weights(*Expert().clusters([first, table.empty()]), truth)
    assert trust.tolist() == [0, 0]
    assert sharpness == 1


def test_the_gradient_is_that_of_the_overlap() -> None:
    random = np.random.default_rng(1)
    low = random.uniform(0, 20, (7, 3, 2))
    boxes = np.concatenate([low, low + random.uniform(30, 60, (7, 3, 2))], axis=2)
    target = boxes.mean(axis=1) + random.uniform(-4, 4, (7, 4))
    present = random.random((7, 3)) < 0.8
    present[:, 0] = True
    logits = random.normal(size=(7, 3))
    values = np.array([0.3, -0.2, 0.1, 0.9])

    def overlap(at: np.ndarray) -> float:
        return box_weights._overlap(at, boxes, logits, present, target)[0]

    _, slope = box_weights._overlap(values, boxes, logits, present, target)
    assert slope == pytest.approx(approx_fprime(values, overlap, 1e-7), abs=1e-4)
