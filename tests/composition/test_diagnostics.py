from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from composition import detections as table
from composition import diagnostics, statistics
from composition.confirmation import confirmations
from composition.detections import Detections
from composition.diagnostics import Diagnosis, LabelQuality
from composition.domain_alarm import profile
from composition.filtering import DROP, Fixed, Thresholds, kinds
from composition.fusion.expert import Expert
from composition.matching import Objects
from composition.pseudo_labels import from_fused

CLASSES, TEACHERS = ("cat", "dog", "owl", "newt"), ("low", "high")
COVERAGE = np.array([[True, True], [True, False], [False, True], [False, False]])


def sees(class_ids: list[int], scores: list[float], seed: int) -> Detections:
    """One box an image, far apart from one image to the next."""
    count = len(scores)
    boxes = np.tile([0, 0, 20, 20], (count, 1)) + np.random.default_rng(seed).uniform(0, 1, (count, 4))
    return table.make(range(count), boxes, scores, class_ids)


def pool() -> list[Detections]:
    low = sees([0] * 30 + [1] * 10, [0.9] * 25 + [0.3] * 5 + [0.75] * 10, 1)
    high = sees([0] * 20 + [2] * 30, [0.8] * 20 + [0.1] * 30, 2)
    return [low, high]


def diagnosed(limits: Thresholds | None = None, **changes: Any) -> Diagnosis:
    tables = pool()
    sums = statistics.statistics_of(Expert().fuse(tables), tables, COVERAGE, 60)
    return diagnostics.diagnose(
        sums,
        confirmations(tables, COVERAGE),
        CLASSES,
        TEACHERS,
        COVERAGE,
        limits or Fixed(0.5, 0.25).thresholds(sums),
        **{"calibrated": True, **changes},
    )


def test_classes_by_hand() -> None:
    cat, dog, owl, newt = diagnosed().classes
    assert (cat.boxes, cat.confident) == ({"low": 30, "high": 20}, {"low": 25, "high": 20})
    assert (cat.fused, cat.images, cat.positives, cat.ignored) == (30, 30, 25, 5)
    assert cat.expected_precision == pytest.approx(0.9, abs=1e-3)
    # 20 of low's 25 boxes have one of high's beside them, and all 20 of high's one of low's
    assert cat.confirmed == pytest.approx(40 / 45)
    assert (dog.positives, dog.confirmed) == (10, None)
    assert (owl.boxes, owl.fused, owl.positives, owl.expected_precision) == ({"high": 30}, 30, 0, None)
    assert (newt.boxes, newt.fused) == ({}, 0)
    assert [one.verdict for one in diagnosed().classes] == ["enough", "thin", "no boxes", "no expert"]


def test_agreement_is_a_matrix() -> None:
    made = diagnosed()
    assert made.asked.tolist() == [[0, 25], [20, 0]]
    assert made.agreement[0, 1] == pytest.approx(0.8)
    assert made.agreement[1, 0] == 1
    assert np.isnan(made.agreement[0, 0])
    assert made.confirmed == {"low": pytest.approx(0.8), "high": 1.0}


def test_without_calibration_no_precision_is_expected() -> None:
    assert {one.expected_precision for one in diagnosed(calibrated=False).classes} == {None}


def test_a_class_that_no_rule_decides_teaches_nothing() -> None:
    nan = np.nan
    limits = Thresholds(np.array([0.5, nan, nan, nan]), np.array([0.5, nan, nan, nan]), ("x",) * 4)
    made = diagnosed(limits)
    assert [one.positives + one.ignored for one in made.classes] == [25, 0, 0, 0]
    assert made.classes[1].keep is None


def test_labels_that_exist_are_counted_as_they_are_and_foreseen_about_so() -> None:
    fused = Expert().fuse(pool())
    limits = Fixed(0.5, 0.25).thresholds(statistics.empty(4, 2))
    kind = kinds(fused, limits)
    labels = from_fused(fused, kind)[kind != DROP]
    counts = diagnostics.count_labels(labels, 4)
    parts = diagnostics.count_labels(labels[:9], 4) + diagnostics.count_labels(labels[9:], 4)
    made, foreseen = diagnosed(labels=counts), diagnosed()
    assert [one.positives for one in made.classes] == [one.positives for one in foreseen.classes]
    assert [one.ignored for one in made.classes] == [one.ignored for one in foreseen.classes]
    assert parts.positives.tolist() == counts.positives.tolist()
    assert parts.weight == pytest.approx(counts.weight)


def test_label_quality_by_hand() -> None:
    # an exact box, its duplicate, a miss; an object that nobody found; a crowd
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [81, 81, 89, 89]]
    labels = table.make([1, 1, 1, 1], boxes, [0.9, 0.8, 0.7, 0.6], [0, 0, 0, 1])
    truth = Objects(
        np.array([1, 2, 1]),
        np.array([0, 0, 1]),
        np.array([[0, 0, 10, 10], [0, 0, 5, 5], [80, 80, 99, 99]], float),
        np.array([False, False, True]),
    )
    quality = diagnostics.label_quality(labels, truth, 3)
    assert quality == {0: LabelQuality(positives=3, objects=2, right=1, quality=1.0)}
    assert quality[0].precision == pytest.approx(1 / 3)
    assert quality[0].recall == 0.5
    assert quality[0].mean_quality == pytest.approx(1 / 3)
    nothing = LabelQuality(0, 0, 0, 0.0)
    assert (nothing.precision, nothing.recall, nothing.mean_quality) == (None, None, None)


def test_warnings_name_what_is_wrong() -> None:
    lines = " | ".join(diagnostics.warnings(diagnosed()))
    assert "no teacher knows newt" in lines
    assert "no box is sure enough of owl" in lines
    assert "fewer than 20 labels for dog" in lines
    assert "no reference to judge the images by for low, high" in lines
    assert "stands alone" not in lines


def test_a_teacher_that_nobody_confirms_stands_alone() -> None:
    tables = [sees([0] * 30, [0.9] * 30, 1), sees([0] * 2, [0.9] * 2, 2)]
    coverage = np.ones((1, 2), np.bool_)
    sums = statistics.statistics_of(Expert().fuse(tables), tables, coverage, 30)
    made = diagnostics.diagnose(
        sums, confirmations(tables, coverage), ("cat",), TEACHERS, coverage,
        Fixed().thresholds(sums), calibrated=False,
    )  # fmt: skip
    assert "low stands alone: other teachers confirm only 7%" in diagnostics.warnings(made)[0]


def test_the_domain_alarm_comes_first() -> None:
    low = pool()[0]
    own = profile(sees([0] * 60, [0.9] * 60, 3), 60)
    made = diagnosed(profiles={"low": (own, profile(low, 60)), "high": (None, profile(pool()[1], 60))})
    assert made.domain["low"].verdict == "alarm"
    assert set(made.domain) == {"low"}
    lines = diagnostics.warnings(made)
    assert lines[0].startswith("low behaves on these images unlike on its own")
    assert lines[-1] == "no reference to judge the images by for high: no score profile"


def test_it_is_json() -> None:
    quality = {0: LabelQuality(25, 30, 20, 15.0, 40.0, 60.0), 1: LabelQuality(10, 5, 5, 2.0)}
    document = json.loads(json.dumps(diagnosed(quality=quality).to_dict(), allow_nan=False))
    assert document["version"] == 1
    assert document["images"] == 60
    assert document["agreement"]["share"] == [[None, 0.8], [1.0, None]]
    assert document["classes"][0]["quality"]["precision"] == 0.8
    assert document["quality"]["right"] == 25
    assert document["quality"]["ap"] == 40.0
    assert [one["name"] for one in document["teachers"]] == ["low", "high"]
