"""Per-class non-maximum suppression over all teachers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from composition.detections import Detections
from composition.fusion.base import Fused, check_iou, collect, pool
from composition.fusion.blocks import in_blocks
from composition.fusion.clusters import suppress


@dataclass(frozen=True)
class Nms:
    """The highest score wins, whoever gave it: our reading of the paper.

    A box is suppressed by the best remaining box of its image and class that it
    overlaps with an IoU above ``iou``. The teachers of a fused box are those of
    the winner and of the boxes that it suppressed.

    Attributes:
        iou: In [0, 1].
    """

    iou: float = 0.5

    def __post_init__(self) -> None:
        check_iou(self.iou, "nms")

    @property
    def name(self) -> str:
        """Its name in recipes."""
        return "nms"

    def fuse(self, tables: Sequence[Detections]) -> Fused:
        """See `composition.fusion.base.Fuser.fuse`; winners keep box, score and spread."""
        return in_blocks(tables, self._fuse)

    def _fuse(self, tables: Sequence[Detections]) -> Fused:
        pooled = pool(tables)
        clusters = suppress(pooled, self.iou)
        return collect(pooled, clusters.members, pooled.source[pooled.row[clusters.opener]])
