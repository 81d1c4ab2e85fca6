"""Our `Wbf` against the installed ensemble-boxes 1.0.9, on generated cases."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
from ensemble_boxes import weighted_boxes_fusion
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.wbf_margin import ENOUGH, margin
from composition import detections
from composition.detections import Detections
from composition.fusion import Wbf

WIDTH, HEIGHT = 480, 320
SCALE = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], np.float64)
Rows = NDArray[np.float64]


def _scene(seed: int, teachers: int, boxes: int, crowding: float, classes: int) -> list[Detections]:
    """One image: objects of which every teacher has a jittered view, inside the image."""
    random = np.random.default_rng(seed)
    objects = max(1, int(boxes * crowding))
    centre = random.uniform([40, 40], [WIDTH - 40, HEIGHT - 40], (objects, 2))
    half = random.uniform(5, 38, (objects, 2))
    tables = []
    for _ in range(teachers):
        count = int(random.integers(0, boxes + 1))
        chosen = random.integers(0, objects, count)
        middle = centre[chosen] + random.normal(0, 0.15, (count, 2)) * half[chosen]
        size = half[chosen] * np.exp(random.normal(0, 0.15, (count, 2)))
        corners = np.clip(np.hstack([middle - size, middle + size]), 0, SCALE)
        found = detections.make(
            np.zeros(count), corners, random.uniform(0.01, 1, count), random.integers(0, classes, count)
        )
        x1, y1, x2, y2 = found.boxes.T
        tables.append(detections.sort(found[(x2 > x1) & (y2 > y1)]))
    return tables


def _peer(tables: list[Detections], fuser: Wbf, iou: float) -> Rows:
    """Rows of (class, score, box as fractions), as ensemble-boxes has them."""
    settings_: dict[str, Any] = {
        "weights": list(fuser.weights) if fuser.weights else None,
        "iou_thr": iou,
        "skip_box_thr": fuser.skip_below,
        "conf_type": fuser.conf_type,
    }
    boxes, scores, labels = weighted_boxes_fusion(
        [part.boxes.astype(np.float64) / SCALE for part in tables],
        [part.score.astype(np.float64) for part in tables],
        [part.class_id for part in tables],
        **settings_,
    )
    return _in_order(np.column_stack([labels, np.minimum(scores, 1), boxes]))


def _ours(tables: list[Detections], fuser: Wbf) -> Rows:
    fused = fuser.fuse(tables).detections
    return _in_order(
        np.column_stack([fused.class_id, fused.score, fused.boxes.astype(np.float64) / SCALE]).astype(
            np.float64
        )
    )


def _margin(tables: list[Detections], fuser: Wbf) -> float:
    """How close the closest decision is on these tables."""
    weights = fuser.weights or [1.0] * len(tables)
    rows = detections.concatenate(tables)
    scores = np.concatenate([part.score * weight for part, weight in zip(tables, weights, strict=True)])
    kept = rows.score >= fuser.skip_below
    return margin(rows.boxes[kept] / SCALE, scores[kept], rows.class_id[kept], fuser.iou)


def _in_order(rows: Rows) -> Rows:
    """By class and box, rounded so that differences under the tolerance keep the order."""
    keys = np.round(rows, 4)
    order = np.lexsort((*keys[:, 2:].T, keys[:, 0]))
    return np.asarray(rows[order])


FUSERS = st.builds(
    Wbf,
    iou=st.sampled_from([0.3, 0.5, 0.55, 0.7, 0.9]),
    skip_below=st.sampled_from([0.0, 0.2]),
    conf_type=st.sampled_from(["avg", "max", "box_and_model_avg", "absent_model_aware_avg"]),
)


@given(
    seed=st.integers(0, 2**32 - 1),
    teachers=st.integers(1, 5),
    boxes=st.sampled_from([1, 3, 10, 40]),
    crowding=st.sampled_from([0.1, 0.4, 1.0]),
    classes=st.integers(1, 4),
    fuser=FUSERS,
    weighted=st.booleans(),
)
@settings(deadline=None, max_examples=250)
def test_equal_to_ensemble_boxes(
    seed: int, teachers: int, boxes: int, crowding: float, classes: int, fuser: Wbf, weighted: bool
) -> None:
    tables = _scene(seed, teachers, boxes, crowding, classes)
    if weighted:
        factors = np.random.default_rng(seed).uniform(0.5, 3, teachers)
        fuser = Wbf(fuser.iou, fuser.skip_below, tuple(factors.tolist()), fuser.conf_type)
    assume(_margin(tables, fuser) > ENOUGH)  # else ill-defined, see the docstring of Wbf
    expected = _peer(tables, fuser, fuser.iou)
    found = _ours(tables, fuser)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_the_peer_is_the_version_that_we_claim() -> None:
    assert version("ensemble-boxes") == "1.0.9"


@pytest.mark.parametrize("conf_type", ["avg", "box_and_model_avg", "absent_model_aware_avg"])
@pytest.mark.parametrize("teachers", [2, 4])
def test_why_it_is_only_a_baseline(conf_type: Any, teachers: int) -> None:
    """A class that one teacher knows is punished for the teachers that cannot see it."""
    known = detections.make([0], [[48, 32, 96, 64]], [0.9], [0])
    tables = [known, *[detections.empty()] * (teachers - 1)]
    fuser = Wbf(conf_type=conf_type)
    np.testing.assert_allclose(_ours(tables, fuser), [[0, 0.9 / teachers, 0.1, 0.1, 0.2, 0.2]], atol=1e-6)
    np.testing.assert_allclose(_peer(tables, fuser, 0.55), _ours(tables, fuser), atol=1e-6)
