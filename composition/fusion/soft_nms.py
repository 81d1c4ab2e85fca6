"""Soft suppression (Bodla, Singh, Chellappa, Davis 2017, arXiv:1704.04503)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from composition.detections import Detections
from composition.errors import UserError
from composition.fusion.base import Fused, check_iou, collect, pool
from composition.fusion.blocks import in_blocks

Decay = Literal["gaussian", "linear"]


@dataclass(frozen=True)
class SoftNms:
    """The highest score wins, and what it overlaps loses score instead of its life.

    Over the boxes of all teachers of an image and class: the box M with the
    highest score so far is kept, and the score s of every box b that is left
    becomes (equations 3 and 2 of the paper)

    - ``gaussian``: s · exp(-IoU(M, b)² / sigma),
    - ``linear``: s · (1 - IoU(M, b)) where the IoU exceeds ``iou``.

    The teachers of a fused box are its own and those of the boxes with an IoU
    above ``iou`` that were left when it won and that no winner before it had.
    A box that wins after having been claimed counts in both.

    Attributes:
        decay: ``gaussian`` or ``linear``.
        sigma: Width of the Gaussian, above 0.
        iou: In [0, 1]; with ``gaussian`` it decides the provenance only.
        floor: Boxes whose score falls below it are dropped, in [0, 1].
    """

    decay: Decay = "gaussian"
    sigma: float = 0.5
    iou: float = 0.5
    floor: float = 0.001

    def __post_init__(self) -> None:
        check_iou(self.iou, "soft_nms")
        if self.decay not in get_args(Decay):
            raise UserError(
                f"soft_nms: there is no decay {self.decay!r}", f"Use one of: {', '.join(get_args(Decay))}."
            )
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise UserError(f"soft_nms: sigma {self.sigma} is not positive", "The paper uses 0.5.")
        if not 0 <= self.floor <= 1:
            raise UserError(f"soft_nms: floor {self.floor} is not in [0, 1]", "It is a score.")

    @property
    def name(self) -> str:
        """Its name in recipes."""
        return "soft_nms"

    def fuse(self, tables: Sequence[Detections]) -> Fused:
        """See `composition.fusion.base.Fuser.fuse`; boxes keep their corners and spread."""
        return in_blocks(tables, self._fuse)

    def _fuse(self, tables: Sequence[Detections]) -> Fused:
        from composition.fusion import cluster_kernels as kernels

        pooled = pool(tables)
        rows = len(pooled.rank)
        score, opener = pooled.rank.copy(), np.empty(rows, np.int64)
        members = np.empty((rows, pooled.num_teachers), np.int64)
        count = kernels.soften(
            pooled.boxes, pooled.teacher, pooled.starts, pooled.sizes,
            float(self.iou), float(self.sigma) if self.decay == "gaussian" else 0.0, float(self.floor),
            score, opener, members,
        )  # fmt: skip
        kept = pooled.source[pooled.row[opener[:count]]]
        fused = replace(kept, score=score[opener[:count]].astype(np.float32))
        return collect(pooled, members[:count], fused)
