"""Positive, ignore, covered or background: examples in rows, and laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composition import detections as table
from composition import pseudo_labels
from composition.detections import Detections
from composition.errors import UserError
from composition.fusion import Expert, Fused, Nms
from composition.fusion.expert import Expertise
from composition.label_space import Entry, LabelSpace, related
from composition.pseudo_labels import IGNORE, POSITIVE, Rules, Tally, decide
from composition.pseudo_labels.decide import BACKGROUND, COVERED, judge

VEHICLES = LabelSpace(
    ("vehicle", "car", "boat"),
    {
        "fine": (Entry("car", "same", "car"), Entry("boat", "same", "boat")),
        "coarse": (Entry("vehicle", "same", "vehicle"),),
    },
    {"car": "vehicle"},
)
VEHICLE, CAR, BOAT = 0, 1, 2
RULES = Rules(np.full(3, 0.6), np.full(3, 0.3), related(VEHICLES))
BOX, NEAR, HALF, FAR = [0, 0, 100, 100], [0, 0, 100, 90], [0, 0, 100, 55], [200, 200, 300, 300]


def fused(*rows: tuple[list[int], float, int], image: int = 0) -> Fused:
    boxes, scores, classes = zip(*rows, strict=True) if rows else ((), (), ())
    found = table.make([image] * len(rows), list(boxes), scores, classes)
    return Fused(found, np.ones(len(rows), np.int64), np.array(scores, np.float32).reshape(-1, 1))


@pytest.mark.parametrize(
    ("boxes", "regions", "verdicts"),
    [
        ([(BOX, 0.6, CAR)], [], [POSITIVE]),
        ([(BOX, 0.59, CAR)], [], [IGNORE]),
        ([(BOX, 0.3, CAR)], [], [IGNORE]),
        ([(BOX, 0.29, CAR)], [], [BACKGROUND]),
        # a region is never a positive, however sure
        ([], [(BOX, 1.0, CAR)], [IGNORE]),
        ([], [(BOX, 0.2, CAR)], [BACKGROUND]),
        # a positive of the class covers uncertain boxes and regions on it, others stay
        ([(BOX, 0.9, CAR), (HALF, 0.4, CAR), (FAR, 0.4, CAR)], [], [POSITIVE, COVERED, IGNORE]),
        ([(BOX, 0.9, CAR)], [(NEAR, 0.9, CAR), (FAR, 0.9, CAR)], [POSITIVE, COVERED, IGNORE]),
        # what is known to be a boat is no open question for car; what is a vehicle is
        ([(BOX, 0.9, BOAT)], [(NEAR, 0.9, CAR)], [POSITIVE, COVERED]),
        ([(BOX, 0.9, BOAT)], [(HALF, 0.9, CAR)], [POSITIVE, IGNORE]),
        ([(BOX, 0.9, VEHICLE)], [(BOX, 0.9, CAR)], [POSITIVE, IGNORE]),
        ([(BOX, 0.5, BOAT)], [(BOX, 0.9, CAR)], [IGNORE, IGNORE]),
        # a large region around a small positive may hold more of them
        ([([0, 0, 40, 40], 0.9, CAR)], [(BOX, 0.9, CAR)], [POSITIVE, IGNORE]),
        # two names for one object: the more probable one is kept
        ([(BOX, 0.7, CAR), (NEAR, 0.8, BOAT)], [], [COVERED, POSITIVE]),
        ([(BOX, 0.7, CAR), (HALF, 0.8, BOAT)], [], [POSITIVE, POSITIVE]),
        # a car is a vehicle: no conflict
        ([(BOX, 0.7, CAR), (BOX, 0.8, VEHICLE)], [], [POSITIVE, POSITIVE]),
        # what has given way makes nothing else give way
        (
            [(BOX, 0.9, BOAT), ([0, 0, 100, 88], 0.8, CAR), ([0, 0, 100, 75], 0.7, BOAT)],
            [],
            [POSITIVE, COVERED, POSITIVE],
        ),
        # an uncertain box makes nothing give way, and a positive on it answers what it asks
        ([(BOX, 0.4, CAR), (BOX, 0.9, BOAT)], [], [COVERED, POSITIVE]),
        ([(BOX, 0.4, CAR), (BOX, 0.9, VEHICLE)], [], [IGNORE, POSITIVE]),
    ],
)
def test_verdicts(boxes: list[Any], regions: list[Any], verdicts: list[int]) -> None:
    _, verdict, _ = judge(fused(*boxes), fused(*regions), RULES)
    assert verdict.tolist() == verdicts


def test_equal_probability_is_settled_by_class() -> None:
    for rows in ([(BOX, 0.7, CAR), (BOX, 0.7, BOAT)], [(BOX, 0.7, BOAT), (BOX, 0.7, CAR)]):
        labels, tally = decide(fused(*rows), fused(), RULES)
        assert (labels.class_id.tolist(), labels.kind.tolist()) == ([CAR], [POSITIVE])
        assert tally == Tally(positive=1, covered=1, conflicts=1)


def test_small_boxes_are_ignored_not_denied() -> None:
    rules = replace(RULES, minimum_size=20)
    rows = fused(([0, 0, 20, 20], 0.9, CAR), ([50, 50, 69, 150], 0.9, CAR))
    assert judge(rows, fused(), rules)[1].tolist() == [POSITIVE, IGNORE]


def test_the_weight_of_the_box_follows_its_box() -> None:
    rows = fused((BOX, 0.7, CAR), (FAR, 0.8, CAR), ([0, 200, 50, 300], 0.9, CAR))
    labels, _ = decide(
        rows, fused(([0, 300, 50, 400], 0.5, CAR)), RULES, np.array([0, 0.5, 0.25], np.float32)
    )
    assert labels.kind.tolist() == [POSITIVE] * 3 + [IGNORE]
    np.testing.assert_allclose(labels.weight, [0.9, 0.8, 0.7, 0.5])
    assert labels.box_weight.tolist() == [0.25, 0.5, 0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": np.full(3, 0.2)}, "ignored from 0.3 on, kept from 0.2 on"),
        ({"keep": np.array([0.5, np.nan, 0.5])}, "class 1"),
        ({"keep": np.full(2, 0.5)}, "thresholds of 2 and 3 classes"),
        ({"related": np.zeros((2, 2), np.bool_)}, "relations of 2"),
        ({"minimum_size": -1.0}, "minimum_size -1.0"),
    ],
)
def test_rules_that_make_no_sense_are_errors(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(RULES, **change)


def test_a_class_may_be_kept_never() -> None:
    rules = Rules(np.array([2.0, 2, 2]), np.array([0.5, 2, 2]), related(VEHICLES))
    _, tally = decide(fused((BOX, 1.0, VEHICLE), (BOX, 1.0, CAR)), fused(), rules)
    assert tally == Tally(ignore=1, background=1)


# -- laws, on many images, three classes and three teachers ------------------------------

corner = st.integers(0, 30)
side = st.integers(2, 40)
score = st.integers(1, 100).map(lambda value: value / 100)
detection = st.tuples(st.integers(0, 3), corner, corner, side, side, score, st.integers(0, 2))
teachers = st.lists(st.lists(detection, max_size=12), min_size=3, max_size=3)


def tables_of(rows: list[list[Any]]) -> list[Detections]:
    found = []
    for part in rows:
        columns = np.array(part, np.float64).reshape(-1, 7)
        boxes = np.concatenate([columns[:, 1:3], columns[:, 1:3] + columns[:, 3:5]], axis=1)
        found.append(table.sort(table.make(columns[:, 0], boxes, columns[:, 5], columns[:, 6])))
    return found


def _key(labels: pseudo_labels.PseudoLabels) -> list[Any]:
    columns = (labels.image_id, labels.boxes, labels.class_id, labels.weight, labels.kind)
    return [np.asarray(column).tolist() for column in columns]


@settings(max_examples=60, deadline=None)
@given(boxes=teachers, regions=teachers)
def test_laws_of_decisions(boxes: list[list[Any]], regions: list[list[Any]]) -> None:
    tables, open_ = tables_of(boxes), tables_of(regions)
    fused_, regions_ = Nms().fuse(tables), Nms(iou=0.8).fuse(open_)
    labels, tally = decide(fused_, regions_, RULES)

    # nothing is lost silently
    assert tally.positive + tally.ignore + tally.covered + tally.background == len(fused_) + len(regions_)
    assert tally.positive == int((labels.kind == POSITIVE).sum())
    assert tally.ignore == int((labels.kind == IGNORE).sum())

    # the order of the rows plays no part
    for shuffled in (slice(None, None, -1), np.random.default_rng(0).permutation(len(fused_))):
        other = Fused(fused_.detections[shuffled], fused_.teachers[shuffled], fused_.scores[shuffled])
        again, tally_again = decide(other, regions_, RULES)
        assert _key(again) == _key(labels)
        assert tally_again == tally

    # nor the order of the teachers
    turned, _ = decide(Nms().fuse(tables[::-1]), Nms(iou=0.8).fuse(open_[::-1]), RULES)
    assert _key(turned) == _key(labels)

    # nor where shards end
    parts, sums = [], Tally()
    for images in ([0], [1, 2], [3]):
        part, counts = decide(
            Nms().fuse([one[np.isin(one.image_id, images)] for one in tables]),
            Nms(iou=0.8).fuse([one[np.isin(one.image_id, images)] for one in open_]),
            RULES,
        )
        parts.append(part)
        sums = sums + counts
    assert _key(pseudo_labels.concatenate(parts)) == _key(labels)
    assert sums == tally

    # no two positives are in conflict, and no ignore region asks what one has answered
    _no_conflict(labels)


def _no_conflict(labels: pseudo_labels.PseudoLabels) -> None:
    for i in range(len(labels)):
        for j in range(i):
            if labels.image_id[i] != labels.image_id[j]:
                continue
            one, other = int(labels.class_id[i]), int(labels.class_id[j])
            kinds = {int(labels.kind[i]), int(labels.kind[j])}
            overlap = _iou(labels.boxes[i], labels.boxes[j])
            if kinds == {POSITIVE} and one != other and not RULES.related[one, other]:
                assert overlap < 0.8
            if kinds == {POSITIVE, IGNORE} and one == other:
                assert overlap < 0.5
            if kinds == {POSITIVE, IGNORE} and one != other and not RULES.related[one, other]:
                assert overlap < 0.8


def _iou(one: Any, other: Any) -> float:
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = float(np.prod(np.clip(high - low, 0, None), dtype=np.float64))
    area = [float(np.prod((box[2:] - box[:2]).astype(np.float64))) for box in (one, other)]
    return shared / (sum(area) - shared)


@settings(max_examples=40, deadline=None)
@given(boxes=teachers, low=st.floats(0, 1), high=st.floats(0, 1))
def test_a_higher_threshold_never_adds_positives_without_conflicts(
    boxes: list[list[Any]], low: float, high: float
) -> None:
    low, high = min(low, high), max(low, high)
    fused_ = Nms().fuse(tables_of(boxes))
    everything = np.ones((3, 3), np.bool_)  # no class excludes another
    nothing = Nms().fuse([table.empty()] * 3)
    counts = [
        decide(fused_, nothing, Rules(np.full(3, keep), np.zeros(3), everything))[1].positive
        for keep in (low, high)
    ]
    assert counts[1] <= counts[0]


# -- regions, spread, silence ------------------------------------------------------------


def test_broader_classes_leave_regions_open_and_are_positives_of_the_parent() -> None:
    found = {
        "fine": table.make([0], [FAR], [0.9], [0]),
        "coarse": table.make([0, 0], [BOX, NEAR], [0.8, 0.7], [0, 0]),
    }
    regions = pseudo_labels.open_regions(VEHICLES, found, Nms())
    # BOX and NEAR overlap with 0.9: one region
    assert regions.detections.class_id.tolist() == [CAR]
    assert regions.detections.boxes.tolist() == [BOX]
    assert regions.teachers.tolist() == [2]
    curve = Expertise((0.0, 1.0), (0.0, 0.5))
    expert = Expert(expertise=(Expertise(), curve), coverage=((True, True),) * 3)
    calibrated = pseudo_labels.open_regions(VEHICLES, found, expert)
    np.testing.assert_allclose(calibrated.detections.score, [0.4])


def test_the_spread_of_a_fused_box_is_that_of_its_members() -> None:
    one = table.make([0, 0, 1], [BOX, FAR, BOX], [0.5, 0.4, 0.9], [0, 0, 1], [0.2, 0.6, np.nan])
    other = table.make([0, 1], [NEAR, BOX], [0.25, 0.3], [0, 1], [0.5, np.nan])
    fused_ = pseudo_labels.with_spread(Expert().fuse([one, other]), [one, other])
    np.testing.assert_allclose(
        fused_.detections.spread, [(0.5 * 0.2 + 0.25 * 0.5) / 0.75, 0.6, np.nan], rtol=1e-6
    )
    bare = [replace(part, spread=np.full(len(part), np.nan, np.float32)) for part in (one, other)]
    assert np.isnan(pseudo_labels.with_spread(Expert().fuse(bare), bare).detections.spread).all()
    silent = [one, table.empty()]
    alone = pseudo_labels.with_spread(Expert().fuse(silent), silent)
    np.testing.assert_allclose(alone.detections.spread, [0.2, 0.6, np.nan], rtol=1e-6)


def test_classes_are_unspoken_where_all_their_experts_failed() -> None:
    assert pseudo_labels.unspoken(VEHICLES, {}).shape == (0, 2)
    # coarse still speaks of vehicles where fine failed
    assert pseudo_labels.unspoken(VEHICLES, {"fine": [7, 3]}).tolist() == [
        [3, CAR], [3, BOAT], [7, CAR], [7, BOAT],
    ]  # fmt: skip
    both = pseudo_labels.unspoken(VEHICLES, {"fine": [3], "coarse": [3, 4]})
    # fine sees cars, which are vehicles: on image 4 nothing is unspoken
    assert both.tolist() == [[3, VEHICLE], [3, CAR], [3, BOAT]]
    with pytest.raises(UserError, match="'nobody' failed"):
        pseudo_labels.unspoken(VEHICLES, {"nobody": [1]})
