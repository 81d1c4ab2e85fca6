"""What became of every detection, counted once, so that figures of any sample of the images are cheap.

pycocotools matches image by image; which images are looked at, and how often,
enters only when the precision-recall curves are drawn. A bootstrap replicate
is a weight an image, and costs one pass over the detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

WRONG, RIGHT, IGNORED = 0, 1, 2
RECALLS = np.linspace(0.0, 1.0, 101, dtype=np.float64)
"""The recalls at which COCO reads the precision."""


@dataclass(frozen=True, slots=True)
class ClassTally:
    """One category.

    Attributes:
        image: (D,) int64, position of each detection's image, by falling score.
        outcome: (T, D) uint8, `WRONG`, `RIGHT` or `IGNORED` at each IoU threshold.
        objects: (I,) int64, labelled objects in each image.
    """

    image: NDArray[np.int64]
    outcome: NDArray[np.uint8]
    objects: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tally:
    """A detector on an image set.

    Attributes:
        images: (I,) int64 image ids, ascending.
        classes: Category name to its counts.
    """

    images: NDArray[np.int64]
    classes: dict[str, ClassTally]

    def restricted(self, names: Sequence[str]) -> Tally:
        """Only some categories, in the order of the names."""
        return Tally(self.images, {name: self.classes[name] for name in names})


def tally_of(run: Any, names: Sequence[str]) -> Tally:
    """Reads the matches out of pycocotools.

    Args:
        run: A ``COCOeval`` after ``evaluate()``.
        names: Names of its categories, in the order of ``params.catIds``.
    """
    images = np.array(run.params.imgIds, np.int64)
    areas = len(run.params.areaRng)  # the first of them is "all"
    classes = {}
    for position, name in enumerate(names):
        start = position * areas * len(images)
        results = run.evalImgs[start : start + len(images)]
        classes[name] = _class_tally(results, len(run.params.iouThrs))
    return Tally(images, classes)


def _class_tally(results: Sequence[dict[str, Any] | None], thresholds: int) -> ClassTally:
    objects = np.zeros(len(results), np.int64)
    # empty ones first: there may be no result at all
    image: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    scores: list[NDArray[np.float64]] = [np.zeros(0)]
    outcomes: list[NDArray[np.uint8]] = [np.zeros((thresholds, 0), np.uint8)]
    for position, result in enumerate(results):
        if result is None:
            continue
        objects[position] = np.count_nonzero(np.asarray(result["gtIgnore"]) == 0)
        image.append(np.full(len(result["dtScores"]), position, np.int64))
        scores.append(np.array(result["dtScores"], np.float64))
        matched = np.asarray(result["dtMatches"]) > 0
        ignored = np.asarray(result["dtIgnore"], np.bool_)
        outcomes.append(np.where(ignored, IGNORED, np.where(matched, RIGHT, WRONG)).astype(np.uint8))
    # the stable sort of pycocotools: ties stay in the order of the images
    order = np.argsort(-np.concatenate(scores), kind="stable")
    outcome = np.ascontiguousarray(np.concatenate(outcomes, axis=1)[:, order])
    return ClassTally(np.concatenate(image)[order], outcome, objects)


def average_precision(tally: Tally, weights: NDArray[np.int64]) -> NDArray[np.float64]:
    """Average precision of samples of the images.

    The same as pycocotools gives for a data set that holds each image as often
    as its weight says (Lin et al. 2014, arXiv:1405.0312; 101 recalls), but for
    detections of equal score in one image: there the copies would take turns.

    Args:
        tally: The detector's counts over I images.
        weights: (R, I) how often each sample holds each image, not negative.

    Returns:
        (R, K, T) in [0, 1] by sample, category and IoU threshold; NaN where a
        sample has no object of the category.
    """
    # numba takes half a second to import
    from composition.evaluation.curve_kernels import curve_areas

    counts = np.ascontiguousarray(weights, np.int64)
    parts = []
    for one in tally.classes.values():
        area = np.empty((len(counts), len(one.outcome)))
        curve_areas(counts, one.image, one.outcome, counts @ one.objects, RECALLS, area)
        parts.append(area)
    return np.stack(parts, axis=1)
