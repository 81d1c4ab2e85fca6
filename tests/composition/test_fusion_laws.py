"""The laws that every fuser obeys. A new fuser joins by one line in `FUSERS`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composition import detections
from composition.detections import Detections
from composition.fusion import Expert, Fused, Fuser, Nms, SoftNms, Wbf
from composition.fusion.blocks import in_blocks, split

FUSERS: list[Fuser] = [
    Expert(),
    Expert(0.3),
    Nms(),
    Nms(0.3),
    Wbf(),
    Wbf(conf_type="max"),
    Wbf(0.3, conf_type="absent_model_aware_avg"),
    Wbf(conf_type="box_and_model_avg"),
    SoftNms(),
    SoftNms("linear", iou=0.3),
]
# a single teacher at IoU 1 merges and suppresses nothing; a Gaussian decay has no such setting
IDENTITIES: list[Fuser] = [Expert(1), Nms(1), Wbf(1), SoftNms("linear", iou=1, floor=0)]

LAW = pytest.mark.parametrize("fuser", FUSERS, ids=repr)
SEEDS = given(st.integers(0, 2**32 - 1), st.integers(1, 5))
FEW = settings(deadline=None, max_examples=15)
IMAGES, CLASSES = 4, 2


def _scene(seed: int, teachers: int, boxes: int = 12) -> list[Detections]:
    """Objects that each teacher sees with some jitter, or not, plus noise; off the origin."""
    random = np.random.default_rng(seed)
    centre = random.uniform(120, 180, (IMAGES, 4, 2))
    tables = []
    for _ in range(teachers):
        count = int(random.integers(0, boxes * IMAGES + 1))
        image = random.integers(0, IMAGES, count)
        middle = centre[image, random.integers(0, 4, count)] + random.normal(0, 2, (count, 2))
        half = random.uniform(6, 14, (count, 2))
        found = detections.make(
            image * 7,
            np.hstack([middle - half, middle + half]),
            random.uniform(0.05, 1, count),
            random.integers(0, CLASSES, count),
        )
        tables.append(detections.sort(found))
    return tables


def _equal(one: Fused, other: Fused) -> None:
    np.testing.assert_array_equal(one.detections.image_id, other.detections.image_id)
    np.testing.assert_array_equal(one.detections.boxes, other.detections.boxes)
    np.testing.assert_array_equal(one.detections.score, other.detections.score)
    np.testing.assert_array_equal(one.detections.class_id, other.detections.class_id)
    np.testing.assert_array_equal(one.teachers, other.teachers)
    np.testing.assert_array_equal(one.scores, other.scores)


def _rows(fused: Fused, rows: object) -> Fused:
    return Fused(fused.detections[rows], fused.teachers[rows], fused.scores[rows])  # type: ignore[index]


def _of_images(tables: Sequence[Detections], low: int, high: int) -> list[Detections]:
    return [part[(part.image_id >= low) & (part.image_id < high)] for part in tables]


@pytest.mark.parametrize("fuser", IDENTITIES, ids=repr)
@given(st.integers(0, 2**32 - 1))
@FEW
def test_one_teacher_at_iou_1_is_the_identity(fuser: Fuser, seed: int) -> None:
    (table,) = _scene(seed, 1)
    fused = fuser.fuse([table])
    np.testing.assert_array_equal(fused.detections.image_id, table.image_id)
    np.testing.assert_array_equal(fused.detections.class_id, table.class_id)
    np.testing.assert_array_equal(fused.detections.boxes, table.boxes)
    np.testing.assert_array_equal(fused.detections.score, table.score)
    np.testing.assert_array_equal(fused.scores[:, 0], table.score)


@LAW
@SEEDS
@FEW
def test_permuting_teachers_changes_nothing(fuser: Fuser, seed: int, teachers: int) -> None:
    tables = _scene(seed, teachers)
    order = np.random.default_rng(seed).permutation(teachers)
    fused = fuser.fuse(tables)
    permuted = fuser.fuse([tables[teacher] for teacher in order])
    bits = permuted.teachers[:, None] >> np.arange(teachers) & 1
    back = np.zeros_like(permuted.scores)
    back[:, order] = permuted.scores
    _equal(fused, Fused(permuted.detections, (bits << order).sum(axis=1), back))


@LAW
@SEEDS
@FEW
def test_row_order_does_not_matter(fuser: Fuser, seed: int, teachers: int) -> None:
    tables = _scene(seed, teachers)
    random = np.random.default_rng(seed)
    _equal(fuser.fuse(tables), fuser.fuse([part[random.permutation(len(part))] for part in tables]))


@LAW
@SEEDS
@FEW
def test_a_fused_box_lies_in_the_hull_of_its_members(fuser: Fuser, seed: int, teachers: int) -> None:
    tables = _scene(seed, teachers)
    fused = fuser.fuse(tables)
    for row in range(len(fused)):
        box = fused.detections[row : row + 1]
        members = detections.concatenate(
            part[(part.image_id == box.image_id) & (part.class_id == box.class_id)]
            for teacher, part in enumerate(tables)
            if fused.teachers[row] >> teacher & 1
        ).boxes
        assert (box.boxes[:, :2] >= members[:, :2].min(axis=0)).all()
        assert (box.boxes[:, 2:] <= members[:, 2:].max(axis=0)).all()


@LAW
@SEEDS
@FEW
def test_scores_provenance_and_order_are_valid(fuser: Fuser, seed: int, teachers: int) -> None:
    tables = _scene(seed, teachers)
    fused = fuser.fuse(tables)
    assert len(fused) <= sum(map(len, tables))
    detections.validate(fused.detections, {7 * image: (1000, 1000) for image in range(IMAGES)}, CLASSES, "")
    np.testing.assert_array_equal(detections.order(fused.detections), np.arange(len(fused)))
    spoken = ~np.isnan(fused.scores)
    np.testing.assert_array_equal((spoken << np.arange(teachers)).sum(axis=1), fused.teachers)
    assert (fused.teachers > 0).all()
    for teacher, part in enumerate(tables):
        assert np.isin(fused.scores[spoken[:, teacher], teacher], part.score).all()


@LAW
@given(
    st.lists(st.floats(1 / 64, 1, width=32), min_size=1, max_size=5),
    st.integers(0, 4),
    st.floats(0, 1, width=32),
)
@FEW
def test_raising_a_member_raises_the_object(
    fuser: Fuser, scores: list[float], which: int, higher: float
) -> None:
    """For a fixed cluster: teachers that see the very same box.

    The object's score is the highest on its box. Where boxes differ, no fuser here
    is monotone: a higher score changes the order, and so who meets whom; and
    with soft-NMS it lowers what it overlaps.
    """
    which %= len(scores)
    raised = [max(score, higher) if teacher == which else score for teacher, score in enumerate(scores)]
    before, after = (
        fuser.fuse([detections.make([0], [[10, 10, 30, 40]], [score], [0]) for score in case])
        for case in (scores, raised)
    )
    assert after.detections.score.max() >= before.detections.score.max()


@LAW
@SEEDS
@FEW
def test_scaling_the_image_scales_the_boxes(fuser: Fuser, seed: int, teachers: int) -> None:
    tables = _scene(seed, teachers)
    factor = np.float32(2.0 ** (seed % 9 - 4))  # exact, so no decision can tip
    scaled = fuser.fuse([replace(part, boxes=part.boxes * factor) for part in tables])
    fused = fuser.fuse(tables)
    larger = replace(fused.detections, boxes=fused.detections.boxes * factor)
    _equal(scaled, Fused(larger, fused.teachers, fused.scores))


@LAW
@SEEDS
@FEW
def test_shard_boundaries_do_not_matter(fuser: Fuser, seed: int, teachers: int) -> None:
    tables = _scene(seed, teachers)
    fused = fuser.fuse(tables)
    cut = 7 * (seed % (IMAGES + 1))
    first, second = fuser.fuse(_of_images(tables, 0, cut)), fuser.fuse(_of_images(tables, cut, 1000))
    _equal(_rows(fused, fused.detections.image_id < cut), first)
    _equal(_rows(fused, fused.detections.image_id >= cut), second)


@LAW
@SEEDS
@FEW
def test_block_boundaries_do_not_matter(fuser: Fuser, seed: int, teachers: int) -> None:
    tables = _scene(seed, teachers)
    for rows in (1, 20):
        assert len(split(tables, rows)) <= IMAGES
        _equal(fuser.fuse(tables), in_blocks(tables, lambda block: fuser.fuse(block), rows))
