"""Fusion: tables of small cases, and the laws that every fuser obeys."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from composition import detections
from composition.detections import Detections
from composition.errors import UserError
from composition.fusion import Fused, Fuser, Nms, SoftNms, Wbf, fuser

NAN = np.nan
BOX = [0, 0, 10, 10]
NEAR = [1, 0, 11, 10]  # IoU with BOX 90/110 = 0.82
HALF = [5, 0, 15, 10]  # with BOX 1/3, with NEAR 60/140 = 0.43
NEXT = [10, 0, 20, 10]  # touches BOX, with HALF 1/3


def _table(*rows: tuple[int, Sequence[float], float, int]) -> Detections:
    """Rows of (image, box, score, class)."""
    if not rows:
        return detections.empty()
    return detections.sort(detections.make(*zip(*rows, strict=True)))


def _random(seed: int, teachers: int, images: int = 3, classes: int = 2, boxes: int = 12) -> list[Detections]:
    """Objects that each teacher sees with some jitter, or not, plus noise."""
    random = np.random.default_rng(seed)
    tables = []
    centre = random.uniform(20, 80, (images, 4, 2))
    for _ in range(teachers):
        count = int(random.integers(0, boxes * images + 1))
        image = random.integers(0, images, count)
        middle = centre[image, random.integers(0, 4, count)] + random.normal(0, 2, (count, 2))
        half = random.uniform(6, 14, (count, 2))
        tables.append(
            detections.sort(
                detections.make(
                    image,
                    np.hstack([middle - half, middle + half]),
                    random.uniform(0.05, 1, count),
                    random.integers(0, classes, count),
                )
            )
        )
    return tables


def _equal(one: Fused, other: Fused) -> None:
    np.testing.assert_array_equal(one.detections.image_id, other.detections.image_id)
    np.testing.assert_array_equal(one.detections.boxes, other.detections.boxes)
    np.testing.assert_array_equal(one.detections.score, other.detections.score)
    np.testing.assert_array_equal(one.detections.class_id, other.detections.class_id)
    np.testing.assert_array_equal(one.teachers, other.teachers)
    np.testing.assert_array_equal(one.scores, other.scores)


@pytest.mark.parametrize(
    ("fuser", "tables", "boxes", "scores", "teachers", "best"),
    [
        pytest.param(
            Nms(), [_table((1, BOX, 0.9, 0)), _table((1, NEAR, 0.6, 0))],
            [BOX], [0.9], [3], [[0.9, 0.6]], id="nms: the higher score wins, both agreed",
        ),
        pytest.param(
            Nms(), [_table((1, BOX, 0.6, 0)), _table((1, NEAR, 0.9, 1))],
            [NEAR, BOX], [0.9, 0.6], [2, 1], [[NAN, 0.9], [0.6, NAN]], id="nms: classes do not touch",
        ),
        pytest.param(
            Nms(), [_table((1, BOX, 0.6, 0)), _table((2, NEAR, 0.9, 0))],
            [BOX, NEAR], [0.6, 0.9], [1, 2], [[0.6, NAN], [NAN, 0.9]], id="nms: images do not touch",
        ),
        pytest.param(
            Nms(0.4), [_table((1, BOX, 0.9, 0), (1, NEAR, 0.8, 0)), _table((1, HALF, 0.7, 0))],
            [BOX, HALF], [0.9, 0.7], [1, 2], [[0.9, NAN], [NAN, 0.7]],
            id="nms: a suppressed box suppresses nothing",
        ),
        pytest.param(
            Nms(0.3), [_table((1, BOX, 0.9, 0)), _table((1, NEXT, 0.8, 0)), _table((1, HALF, 0.7, 0))],
            [BOX, NEXT], [0.9, 0.8], [5, 2], [[0.9, NAN, 0.7], [NAN, 0.8, NAN]],
            id="nms: the best of two winners takes it",
        ),
        pytest.param(
            Nms(1 / 3), [_table((1, BOX, 0.9, 0), (1, HALF, 0.8, 0))],
            [BOX, HALF], [0.9, 0.8], [1, 1], [[0.9], [0.8]], id="nms: the IoU must be exceeded",
        ),
        pytest.param(
            Nms(), [_table(), _table((1, BOX, 0.9, 0))],
            [BOX], [0.9], [2], [[NAN, 0.9]], id="nms: a silent teacher",
        ),
        pytest.param(Nms(), [_table(), _table()], [], [], [], [], id="nms: nobody spoke"),
        pytest.param(
            Wbf(), [_table((1, BOX, 0.75, 0)), _table((1, NEAR, 0.25, 0))],
            [[0.25, 0, 10.25, 10]], [0.5], [3], [[0.75, 0.25]], id="wbf: mean weighted by score",
        ),
        pytest.param(
            Wbf(), [_table((1, BOX, 0.9, 0)), _table()],
            [BOX], [0.45], [1], [[0.9, NAN]], id="wbf: a silent teacher halves the score",
        ),
        pytest.param(
            Wbf(conf_type="max"), [_table((1, BOX, 0.9, 0)), _table()],
            [BOX], [0.9], [1], [[0.9, NAN]], id="wbf: max keeps the score",
        ),
        pytest.param(
            Wbf(weights=(3, 1)), [_table((1, BOX, 0.5, 0)), _table((1, NEAR, 0.5, 0))],
            [[0.25, 0, 10.25, 10]], [0.5], [3], [[0.5, 0.5]], id="wbf: weights",
        ),
        pytest.param(
            Wbf(skip_below=0.3), [_table((1, BOX, 0.8, 0)), _table((1, NEAR, 0.2, 0))],
            [BOX], [0.4], [1], [[0.8, NAN]], id="wbf: low scores are left out",
        ),
        pytest.param(
            Wbf(weights=(2, 1), conf_type="avg"), [_table((1, BOX, 1, 0), (1, NEAR, 1, 0)), _table()],
            [[0.5, 0, 10.5, 10]], [1], [1], [[1, NAN]], id="wbf: never above 1",
        ),
        pytest.param(
            Wbf(), [_table((1, BOX, 0, 0)), _table((1, NEAR, 0, 0))],
            [BOX], [0], [3], [[0, 0]], id="wbf: zero scores have no mean",
        ),
    ],
)  # fmt: skip
def test_small_cases(
    fuser: Fuser,
    tables: list[Detections],
    boxes: list[list[float]],
    scores: list[float],
    teachers: list[int],
    best: list[list[float]],
) -> None:
    fused = fuser.fuse(tables)
    assert fused.scores.shape == (len(boxes), len(tables))
    assert fused.scores.dtype == np.float32
    assert fused.teachers.dtype == np.int64
    np.testing.assert_allclose(fused.detections.boxes, np.reshape(boxes, (-1, 4)), rtol=1e-6)
    np.testing.assert_allclose(fused.detections.score, scores, rtol=1e-6)
    np.testing.assert_array_equal(fused.teachers, teachers)
    np.testing.assert_allclose(fused.scores, np.reshape(best, fused.scores.shape), rtol=1e-6)


def _nms_reference(boxes: NDArray[np.float32], scores: NDArray[np.float32], threshold: float) -> list[int]:
    """Textbook greedy suppression of one image and class; returns the rows kept."""
    order = list(np.argsort(-scores, kind="stable"))
    kept: list[int] = []
    while order:
        best = order.pop(0)
        kept.append(int(best))
        x1, y1, x2, y2 = boxes[best].astype(float)
        rest = []
        for other in order:
            a1, b1, a2, b2 = boxes[other].astype(float)
            shared = max(min(x2, a2) - max(x1, a1), 0) * max(min(y2, b2) - max(y1, b1), 0)
            union = (x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - shared
            if shared / union <= threshold:
                rest.append(other)
        order = rest
    return kept


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.floats(0, 1))
@settings(deadline=None, max_examples=40)
def test_nms_is_the_textbook_one(seed: int, teachers: int, threshold: float) -> None:
    tables = _random(seed, teachers)
    pooled = detections.sort(detections.concatenate(tables))
    expected = []
    for image in np.unique(pooled.image_id):
        for class_id in np.unique(pooled.class_id):
            part = pooled[(pooled.image_id == image) & (pooled.class_id == class_id)]
            expected.append(part[_nms_reference(part.boxes, part.score, threshold)])
    wanted = detections.sort(detections.concatenate(expected))
    fused = Nms(threshold).fuse(tables).detections
    np.testing.assert_array_equal(fused.boxes, wanted.boxes)
    np.testing.assert_array_equal(fused.score, wanted.score)


def test_nms_keeps_the_spread_of_the_winner() -> None:
    measured = detections.make([1, 1], [BOX, NEAR], [0.9, 0.8], [0, 0], [0.1, 0.2])
    np.testing.assert_array_equal(Nms().fuse([measured]).detections.spread, np.array([0.1], np.float32))
    assert np.isnan(Wbf().fuse([measured]).detections.spread).all()


def test_sixty_three_teachers() -> None:
    fused = Nms().fuse([_table((1, BOX, 0.5, 0))] * 63)
    assert fused.teachers.tolist() == [2**63 - 1]


@pytest.mark.parametrize("fuser", [Nms(), SoftNms(), Wbf()], ids=repr)
@pytest.mark.parametrize(
    ("tables", "text"),
    [
        ([], "no detections to fuse"),
        ([_table()] * 64, "64 teachers"),
        ([_table(), _table((4, [0, 0, NAN, 1], 0.5, 0))], r"teacher 2 of 2, row 0 \(image 4\)"),
        ([_table((4, [0, 0, 0, 1], 0.5, 0))], "cannot be fused"),
        ([_table((4, [0, 0, np.inf, 1], 0.5, 0))], "cannot be fused"),
        ([_table((4, [5, 0, 1, 1], 0.5, 0))], "cannot be fused"),
        ([_table((4, BOX, NAN, 0))], "cannot be fused"),
        ([_table((4, BOX, 1.5, 0))], "cannot be fused"),
        ([_table((4, BOX, -0.5, 0))], "cannot be fused"),
    ],
)
def test_bad_rows_are_refused_at_the_border(fuser: Fuser, tables: list[Detections], text: str) -> None:
    with pytest.raises(UserError, match=text):
        fuser.fuse(tables)


@pytest.mark.parametrize(
    ("name", "given_settings", "text"),
    [
        ("nmw", {}, "no fuser 'nmw'"),
        ("nms", {"iuo": 0.5}, "no setting 'iuo'"),
        ("nms", {"iou": 1.5}, "not in"),
        ("wbf", {"iou": -1}, "not in"),
        ("wbf", {"conf_type": "median"}, "no conf_type 'median'"),
        ("wbf", {"skip_below": 2}, "skip_below"),
        ("wbf", {"weights": [1, 0]}, "not all positive"),
        ("wbf", {"weights": [1, NAN]}, "not all positive"),
        ("soft_nms", {"decay": "cubic"}, "no decay 'cubic'"),
        ("soft_nms", {"sigma": 0}, "sigma 0 is not positive"),
        ("soft_nms", {"sigma": NAN}, "sigma nan is not positive"),
        ("soft_nms", {"floor": 2}, "floor 2"),
        ("soft_nms", {"iou": 2}, "not in"),
    ],
)
def test_settings_are_checked(name: str, given_settings: dict[str, object], text: str) -> None:
    with pytest.raises(UserError, match=text):
        fuser(name, given_settings)


def test_weights_must_fit_the_teachers() -> None:
    with pytest.raises(UserError, match="2 weights for 1 teachers"):
        Wbf(weights=(1, 2)).fuse([_table()])


def test_fusers_by_name() -> None:
    assert fuser("nms", {"iou": 0.6}) == Nms(0.6)
    assert fuser("wbf", {"weights": [1, 2]}) == Wbf(weights=(1, 2))
    assert fuser("soft_nms", {"decay": "linear"}) == SoftNms("linear")
    assert [fuser(name).name for name in ("nms", "soft_nms", "wbf")] == ["nms", "soft_nms", "wbf"]
