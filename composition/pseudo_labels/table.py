"""The pseudo-labels as a value: one row per box, with where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from composition import detections as table
from composition.detections import Detections
from composition.errors import UserError
from composition.fusion import Fused

POSITIVE: Final = 0
IGNORE: Final = 1


@dataclass(frozen=True, slots=True)
class PseudoLabels:
    """N labels, sorted by image and then by falling weight.

    Attributes:
        image_id: (N,) int64, ids of the image index.
        boxes: (N, 4) float32, x1 y1 x2 y2 in pixels of the original image.
        class_id: (N,) int32, index into the union classes.
        weight: (N,) float32 in [0, 1]: the fused score, the weight of the class.
            Whether the student uses it or takes all positives as certain is the
            student's setting.
        box_weight: (N,) float32 in [0, 1]: how far the place of the box is to be
            trusted, whatever its class; 1 where nothing speaks against it.
        kind: (N,) int8: `POSITIVE`, or `IGNORE` for a region without a loss.
        teachers: (N,) int64 bit mask of the teachers that agreed.
        scores: (N, T) float32 best score per teacher, NaN where silent.
    """

    image_id: NDArray[np.int64]
    boxes: NDArray[np.float32]
    class_id: NDArray[np.int32]
    weight: NDArray[np.float32]
    box_weight: NDArray[np.float32]
    kind: NDArray[np.int8]
    teachers: NDArray[np.int64]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.weight)

    def __getitem__(self, rows: Any) -> PseudoLabels:
        """Selects rows with a slice, a boolean mask or an integer array."""
        return PseudoLabels(*(getattr(self, column.name)[rows] for column in fields(self)))


def from_fused(
    fused: Fused, kind: NDArray[np.int8] | None = None, box_weight: NDArray[np.float32] | None = None
) -> PseudoLabels:
    """Makes labels of fused boxes.

    Args:
        fused: The fused boxes.
        kind: (N,) `POSITIVE` or `IGNORE` per box; None = all positive.
        box_weight: (N,) in [0, 1]; None = all 1.

    Returns:
        One label per fused box, in the same order, weighted by the fused score.
    """
    rows, count = fused.detections, len(fused)
    return PseudoLabels(
        image_id=rows.image_id,
        boxes=rows.boxes,
        class_id=rows.class_id,
        weight=rows.score,
        box_weight=np.ones(count, np.float32) if box_weight is None else np.asarray(box_weight, np.float32),
        kind=np.full(count, POSITIVE, np.int8) if kind is None else np.asarray(kind, np.int8),
        teachers=fused.teachers,
        scores=fused.scores,
    )


def as_detections(labels: PseudoLabels, kind: int = POSITIVE) -> Detections:
    """The labels of one kind as detections whose score is the weight, for drawing and measuring."""
    chosen = labels[labels.kind == kind]
    return table.make(chosen.image_id, chosen.boxes, chosen.weight, chosen.class_id)


def concatenate(parts: Sequence[PseudoLabels]) -> PseudoLabels:
    """All rows of tables of the same teachers, in the order given (shards).

    Raises:
        UserError: There is no table, or they differ in the number of teachers.
    """
    widths = {part.scores.shape[1] for part in parts}
    if len(widths) != 1:
        raise UserError(
            "there are no pseudo-labels to join"
            if not parts
            else f"pseudo-labels of {sorted(widths)} teachers cannot be joined",
            "Join the shards of one composition.",
        )
    return PseudoLabels(
        *(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(PseudoLabels))
    )
