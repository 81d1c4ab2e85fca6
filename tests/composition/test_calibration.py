"""Calibration from labels, and what the expert fuser makes of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from composition import detections as table
from composition.calibration import calibrate, calibrate_curve
from composition.detections import Detections
from composition.errors import UserError
from composition.fusion.expert import Expert, Expertise
from composition.matching import Objects, match, objects


def truth(boxes: list[list[float]], crowd: list[bool] | None = None) -> Objects:
    count = len(boxes)
    return Objects(
        np.zeros(count, np.int64),
        np.zeros(count, np.int64),
        np.array(boxes, float).reshape(-1, 4),
        np.array(crowd or [False] * count),
    )


@pytest.mark.parametrize(
    ("boxes", "scores", "labelled", "quality"),
    [
        ([[0, 0, 10, 10]], [0.9], [[0, 0, 10, 10]], [1.0]),
        ([[0, 0, 10, 6]], [0.9], [[0, 0, 10, 10]], [0.3]),  # IoU 0.6: right at 0.50, 0.55, 0.60
        ([[0, 0, 10, 10], [0, 0, 10, 10]], [0.5, 0.9], [[0, 0, 10, 10]], [0.0, 1.0]),  # a duplicate
        ([[0, 0, 10, 10], [0, 0, 10, 6]], [0.5, 0.9], [[0, 0, 10, 10]], [0.7, 0.3]),
        ([[50, 50, 60, 60]], [0.9], [[0, 0, 10, 10]], [0.0]),
        ([[0, 0, 10, 10]], [0.9], [], [0.0]),
    ],
)
def test_quality_is_the_share_of_thresholds(
    boxes: list[list[float]], scores: list[float], labelled: list[list[float]], quality: list[float]
) -> None:
    rows = table.make([0] * len(boxes), boxes, scores, [0] * len(boxes))
    assert match(rows, truth(labelled)).quality == pytest.approx(quality)


def test_a_box_in_a_crowd_is_neither_right_nor_wrong() -> None:
    rows = table.make([0, 0], [[0, 0, 10, 10], [60, 60, 70, 70]], [0.9, 0.9], [0, 0])
    found = match(rows, truth([[0, 0, 50, 50]], [True]))
    assert found.counted.tolist() == [False, True]


def test_objects_are_those_of_the_categories_asked_for() -> None:
    rows = [
        {"image_id": 4, "category_id": 7, "bbox": [1, 2, 3, 4], "iscrowd": 0},
        {"image_id": 4, "category_id": 8, "bbox": [1, 2, 3, 4], "iscrowd": 1},
    ]
    found = objects({"annotations": rows}, {7: 2})
    assert found.class_id.tolist() == [2]
    assert found.boxes.tolist() == [[1, 2, 4, 6]]


IMAGES = 120


def world(seed: int = 0) -> tuple[Objects, list[Detections]]:
    """A careful teacher, a sloppy and overconfident one, and noise of the second; one object an image."""
    random = np.random.default_rng(seed)
    ids = np.arange(IMAGES)
    boxes = np.concatenate([random.uniform(0, 40, (IMAGES, 2)), random.uniform(60, 100, (IMAGES, 2))], axis=1)
    labelled = Objects(ids, np.zeros(IMAGES, np.int64), boxes, np.zeros(IMAGES, np.bool_))
    careful = table.make(
        ids, boxes + random.normal(0, 1, boxes.shape), random.uniform(0.4, 0.9, IMAGES), ids * 0
    )
    noise = boxes + np.array([100, 100, 100, 100])
    sloppy = table.make(
        np.concatenate([ids, ids]),
        np.concatenate([boxes + random.normal(0, 6, boxes.shape), noise]),
        random.uniform(0.7, 1, 2 * IMAGES),
        np.zeros(2 * IMAGES),
    )
    return labelled, [careful, sloppy]


def test_an_overconfident_teacher_is_corrected() -> None:
    labelled, (careful, sloppy) = world()
    sure, unsure = calibrate_curve(careful, labelled), calibrate_curve(sloppy, labelled)
    score = np.array([0.85], np.float32)
    assert sure.calibrated(score)[0] > 0.8
    assert unsure.calibrated(score)[0] < 0.4


def test_calibrated_fusion_ranks_agreement_over_noise_and_keeps_the_better_box() -> None:
    labelled, tables = world()
    fuser = calibrate(tables, np.ones((1, 2), np.bool_), labelled)
    _, fresh = world(1)
    fused = fuser.fuse(fresh)
    both = fused.teachers == 3
    assert both.sum() > IMAGES * 0.8
    assert fused.detections.score[both].min() > fused.detections.score[fused.teachers == 2].max()
    assert fuser.expertise is not None
    assert fuser.expertise[0].trust > fuser.expertise[1].trust + 0.5
    # the mean lies by the careful teacher's box
    first = {int(i): box for i, box in zip(fresh[0].image_id, fresh[0].boxes, strict=True)}
    shift = [
        np.abs(box - first[int(i)]).max()
        for i, box in zip(fused.detections.image_id[both], fused.detections.boxes[both], strict=True)
    ]
    assert np.median(shift) < 1


def test_calibration_does_not_depend_on_the_order_of_the_rows() -> None:
    labelled, tables = world()
    coverage = np.ones((1, 2), np.bool_)
    shuffled = [part[np.random.default_rng(3).permutation(len(part))] for part in tables]
    first, second = calibrate(tables, coverage, labelled), calibrate(shuffled, coverage, labelled)
    assert second.bias == pytest.approx(first.bias, abs=1e-6)


def test_too_few_objects_are_an_error() -> None:
    labelled, tables = world()
    few = Objects(labelled.image_id[:5], labelled.class_id[:5], labelled.boxes[:5], labelled.crowd[:5])
    with pytest.raises(UserError, match="5 labelled objects are too few"):
        calibrate(tables, np.ones((1, 2), np.bool_), few)


def _score(fuser: Expert, scores: list[float]) -> float:
    tables = [table.make([0], [[0, 0, 9, 9]], [score], [0]) if score else table.empty() for score in scores]
    return float(fuser.fuse(tables).detections.score[0])


CALIBRATED = Expert(
    expertise=(
        Expertise(agreement=0.3, presence=0.5, silence=-1.0),
        Expertise((0.0, 0.5, 1.0), (0.0, 0.2, 0.6), agreement=0.1, presence=0.1, silence=-0.5),
    ),
    coverage=((True, True), (True, False)),
    bias=-0.4,
    best=0.6,
)


def test_a_silent_expert_counts_and_a_teacher_that_cannot_see_does_not() -> None:
    assert _score(CALIBRATED, [0.8, 0.8]) > _score(CALIBRATED, [0.8, 0])
    alone = table.make([0], [[0, 0, 9, 9]], [0.8], [1])
    unseen = CALIBRATED.fuse([alone, table.empty()]).detections.score[0]
    assert unseen > _score(CALIBRATED, [0.8, 0])


def test_the_fused_score_rises_with_every_member() -> None:
    for fixed in (0.1, 0.5, 0.9):
        rising = [_score(CALIBRATED, [score, fixed]) for score in np.linspace(0.05, 1, 12)]
        assert np.diff(rising).min() >= 0
        rising = [_score(CALIBRATED, [fixed, score]) for score in np.linspace(0.05, 1, 12)]
        assert np.diff(rising).min() >= 0


def test_fusing_other_teachers_than_calibrated_is_an_error() -> None:
    with pytest.raises(UserError, match="calibrated for 2 teachers, but given 1"):
        CALIBRATED.fuse([table.empty()])
    with pytest.raises(UserError, match="iou"):
        replace(CALIBRATED, iou=2)
