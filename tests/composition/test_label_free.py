"""Calibration from a second look at unlabeled images."""

from __future__ import annotations

import numpy as np
import pytest

from composition import detections as table
from composition.detections import Detections
from composition.errors import UserError
from composition.label_free import calibrate_label_free
from composition.second_look import bordered, without_border

IMAGES = 150


def test_a_border_makes_the_picture_smaller_and_shifts_it() -> None:
    image = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
    canvas = bordered(image)
    assert canvas.shape == (46, 69, 3)
    assert (canvas[4:44, 6:66] == image).all()
    assert (canvas[:4] == 114).all()
    assert bordered(image[:1, :1]).shape == (1, 1, 3)


def test_boxes_come_back_into_the_pixels_of_the_picture() -> None:
    found = table.make(
        [0, 1, 1], [[16, 8, 36, 28], [20, 10, 220, 110], [0, 0, 15, 9]], [0.9, 0.8, 0.7], [0, 1, 2]
    )
    back = without_border(found, np.array([60, 200]), np.array([40, 100]))
    assert back.image_id.tolist() == [0, 1]  # the third lay in the border
    assert back.boxes.tolist() == [[10, 4, 30, 24], [0, 0, 200, 100]]
    assert back.class_id.tolist() == [0, 1]


def pool(seed: int = 0) -> tuple[list[Detections], list[Detections]]:
    """One object an image; a steady teacher, and a shaky one with as many guesses as boxes."""
    random = np.random.default_rng(seed)
    ids = np.arange(IMAGES)
    boxes = np.concatenate([random.uniform(0, 40, (IMAGES, 2)), random.uniform(80, 120, (IMAGES, 2))], axis=1)
    guesses = np.concatenate(
        [random.uniform(200, 260, (IMAGES, 2)), random.uniform(300, 340, (IMAGES, 2))], axis=1
    )
    steady_score, shaky_score = random.uniform(0.3, 0.9, IMAGES), random.uniform(0.5, 1, 2 * IMAGES)

    def steady() -> Detections:
        return table.sort(table.make(ids, boxes + random.normal(0, 1, boxes.shape), steady_score, ids * 0))

    def shaky() -> Detections:
        seen = boxes + random.normal(0, 7, boxes.shape)
        # a guess is somewhere else the next time
        guessed = guesses + random.normal(0, 60, (IMAGES, 1))
        both = np.concatenate([ids, ids])
        return table.sort(table.make(both, np.concatenate([seen, guessed]), shaky_score, both * 0))

    return [steady(), shaky()], [steady(), shaky()]


def test_the_steady_teacher_is_trusted_and_the_shaky_one_is_not() -> None:
    tables, second = pool()
    fuser = calibrate_label_free(tables, second, np.ones((1, 2), np.bool_))
    assert fuser.expertise is not None
    steady, shaky = fuser.expertise
    score = np.array([0.8], np.float32)
    assert steady.calibrated(score)[0] > 2 * shaky.calibrated(score)[0]
    assert steady.trust > shaky.trust + 0.5
    assert steady.silence < shaky.silence < 0
    fused = fuser.fuse(tables)
    both, alone = fused.teachers == 3, fused.teachers == 2
    assert fused.detections.score[both].mean() > 2 * fused.detections.score[alone].mean()


def test_fused_scores_sum_to_what_the_strongest_expects() -> None:
    tables, second = pool()
    fuser = calibrate_label_free(tables, second, np.ones((1, 2), np.bool_))
    assert fuser.expertise is not None
    expected = fuser.expertise[0].calibrated(tables[0].score).sum()
    assert fuser.fuse(tables).detections.score.sum() == pytest.approx(expected, rel=1e-3)


def test_further_looks_change_how_much_is_expected_not_what_a_score_is_worth() -> None:
    """One border cannot confirm what further looks alone have: scores are calibrated by the first look."""
    tables, second = pool()
    coverage = np.ones((1, 2), np.bool_)
    lost = [tables[0][: IMAGES // 2], tables[1]]
    plain, fuser = (calibrate_label_free(lost, second, coverage, seen=seen) for seen in (None, tables))
    assert plain.expertise is not None
    assert fuser.expertise is not None
    for one, two in zip(plain.expertise, fuser.expertise, strict=True):
        assert (one.scores, one.quality, one.trust) == (two.scores, two.quality, two.trust)
    assert fuser.expertise[1].agreement < plain.expertise[1].agreement
    expected = fuser.expertise[0].calibrated(tables[0].score).sum()
    assert fuser.fuse(tables).detections.score.sum() == pytest.approx(expected, rel=1e-3)


def test_order_of_rows_and_of_teachers_makes_no_difference() -> None:
    tables, second = pool()
    coverage = np.array([[True, True]])
    fused = calibrate_label_free(tables, second, coverage).fuse(tables).detections
    turned = calibrate_label_free(tables[::-1], second[::-1], coverage).fuse(tables[::-1]).detections
    assert turned.score == pytest.approx(fused.score, abs=1e-6)
    random = np.random.default_rng(5)
    shuffled = [[part[random.permutation(len(part))] for part in look] for look in (tables, second)]
    again = calibrate_label_free(*shuffled, coverage).fuse(tables).detections
    assert again.score == pytest.approx(fused.score, abs=1e-6)


def test_teachers_of_different_classes_do_not_measure_themselves_with_each_other() -> None:
    tables, second = pool()
    apart = [
        [look[0], table.make(look[1].image_id, look[1].boxes, look[1].score, look[1].class_id + 1)]
        for look in (tables, second)
    ]
    fuser = calibrate_label_free(*apart, np.array([[True, False], [False, True]]))
    assert fuser.expertise is not None
    assert fuser.expertise[0].silence == fuser.expertise[1].silence


def test_a_silent_teacher_and_too_few_detections() -> None:
    tables, second = pool()
    silent = table.empty()
    fuser = calibrate_label_free([tables[0], silent], [second[0], silent], np.ones((1, 2), np.bool_))
    assert len(fuser.fuse([tables[0], silent])) == IMAGES
    with pytest.raises(UserError, match="0 detections are too few"):
        calibrate_label_free([silent], [silent], np.ones((1, 1), np.bool_))
