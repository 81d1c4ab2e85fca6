"""What became of pseudo-labels: precision, recall, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from composition.detections import Detections
from composition.matching import IOUS, Objects, match

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Boxes and what became of them at IoU 0.5.

    Attributes:
        rows: N boxes.
        right: (N,) bool, the best box of an object.
        counted: (N,) bool, False inside a crowd region.
        object_class: (M,) classes of the objects, crowd regions left out.
        object_image: (M,) their images.
    """

    rows: Detections
    right: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    object_class: NDArray[np.int64]
    object_image: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Detections, truth: Objects) -> Verdicts:
        """Matches boxes with labels."""
        found = match(rows, truth, IOUS[:1])
        known = ~truth.crowd
        return cls(rows, found.quality > 0, found.counted, truth.class_id[known], truth.image_id[known])

    def counts(self, kept: NDArray[np.bool_], classes: int) -> NDArray[np.int64]:
        """(3, C) right boxes, boxes, objects."""
        boxes = kept & self.counted
        ids = (self.rows.class_id[boxes & self.right], self.rows.class_id[boxes], self.object_class)
        return np.stack([np.bincount(one, minlength=classes) for one in ids])

    def by_image(self, kept: NDArray[np.bool_], images: NDArray[np.int64]) -> NDArray[np.int64]:
        """(3, I) right boxes, boxes, objects of I images, whose ids rise."""
        boxes = kept & self.counted
        ids = (self.rows.image_id[boxes & self.right], self.rows.image_id[boxes], self.object_image)
        return np.stack([np.bincount(np.searchsorted(images, one), minlength=len(images)) for one in ids])

    def curve(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Precision and recall of the best 1, 2, 3, ... boxes of all classes."""
        order = np.argsort(-self.rows.score[self.counted], kind="stable")
        right = np.cumsum(self.right[self.counted][order])
        return right / np.arange(1, len(right) + 1), right / len(self.object_class)

    def recall_at(self, precision: float) -> float | None:
        """Highest recall that one threshold for all classes reaches with at least a precision."""
        precisions, recalls = self.curve()
        reached = recalls[precisions >= precision]
        return float(reached.max()) if len(reached) else None

    def precision_at(self, recall: float) -> float | None:
        """Highest precision that one threshold for all classes reaches with at least a recall."""
        precisions, recalls = self.curve()
        reached = precisions[recalls >= recall]
        return float(reached.max()) if len(reached) else None

    def best_f1(self) -> float:
        """F1 of the best one threshold for all classes, chosen with hindsight."""
        precision, recall = self.curve()
        return float((2 * precision * recall / np.maximum(precision + recall, 1e-12)).max())


def figures(counts: NDArray[np.int64]) -> dict[str, float]:
    """Precision, recall and F1 of all boxes, and their means over the classes with objects.

    Args:
        counts: (3, C) right boxes, boxes, objects. The mean of the precisions
            leaves out classes without boxes.
    """
    total = counts.sum(axis=1).astype(float)
    right, boxes, labelled = counts[:, counts[2] > 0].astype(float)
    return {
        "precision": float(total[0] / max(total[1], 1)),
        "recall": float(total[0] / total[2]),
        "f1": float(2 * total[0] / (total[1] + total[2])),
        "class_precision": float((right[boxes > 0] / boxes[boxes > 0]).mean()),
        "class_recall": float((right / labelled).mean()),
        "class_f1": float((2 * right / (boxes + labelled)).mean()),
    }


def f1_interval(ours: NDArray[np.int64], other: NDArray[np.int64], seed: int = 0) -> list[float]:
    """95 % interval of the difference of F1, images resampled (percentile bootstrap, Efron 1979).

    Args:
        ours: (3, I) right boxes, boxes, objects by image.
        other: The same of what it is compared with.
        seed: Of the resampling.
    """
    images = ours.shape[1]
    weight = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), RESAMPLES)

    def f1(counts: NDArray[np.int64]) -> NDArray[np.float64]:
        right, boxes, labelled = (weight @ counts.T).T.astype(float)
        return np.asarray(2 * right / (boxes + labelled))

    return [float(value) for value in np.quantile(f1(ours) - f1(other), [0.025, 0.975])]
