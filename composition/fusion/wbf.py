"""Weighted boxes fusion (Solovyev, Wang, Gabruseva 2021, arXiv:1910.13302)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from composition import detections as table
from composition.detections import Detections
from composition.errors import UserError
from composition.fusion.base import Fused, Pool, check_iou, collect, pool
from composition.fusion.blocks import in_blocks
from composition.fusion.clusters import Clusters, assign

ConfType = Literal["avg", "max", "box_and_model_avg", "absent_model_aware_avg"]


@dataclass(frozen=True)
class Wbf:
    """The stock peer: equal to ``weighted_boxes_fusion`` of ensemble-boxes 1.0.9.

    Equal within 1e-6 (boxes as fractions of the image) where that function is
    well defined. It is not, and results may differ, for

    - equal weighted scores in one image and class (its sort is not stable; ours
      breaks ties by the box),
    - a box whose IoU with a cluster is within rounding of ``iou``, or equal with
      two clusters (it averages in float32, we in float64),
    - clusters in which all scores are 0 (it divides by 0; our first box stays),
    - fused scores above 1, which it can return with ``weights`` (its issue 40):
      ours are cut to 1, the contract of the table.

    Boxes without area or outside the image, NaN and unknown settings, which it
    mends, spreads or exits on, are errors here.

    Attributes:
        iou: IoU with the current fused box to be exceeded, in [0, 1].
        skip_below: Boxes with a score below it are left out.
        weights: One positive factor per teacher; None = all 1.
        conf_type: ``avg``, ``max``, ``box_and_model_avg`` or
            ``absent_model_aware_avg``: how member scores become the fused score.
    """

    iou: float = 0.55
    skip_below: float = 0.0
    weights: tuple[float, ...] | None = None
    conf_type: ConfType = "avg"

    def __post_init__(self) -> None:
        check_iou(self.iou, "wbf")
        if not 0 <= self.skip_below <= 1:
            raise UserError(f"wbf: skip_below {self.skip_below} is not in [0, 1]", "It is a score.")
        if self.conf_type not in get_args(ConfType):
            raise UserError(
                f"wbf: there is no conf_type {self.conf_type!r}",
                f"Use one of: {', '.join(get_args(ConfType))}.",
            )
        if self.weights is not None:
            object.__setattr__(self, "weights", tuple(self.weights))  # a recipe gives a list
            if not all(math.isfinite(weight) and weight > 0 for weight in self.weights):
                raise UserError(
                    f"wbf: weights {list(self.weights)} are not all positive", "Leave a teacher out."
                )

    @property
    def name(self) -> str:
        """Its name in recipes."""
        return "wbf"

    def fuse(self, tables: Sequence[Detections]) -> Fused:
        """See `composition.fusion.base.Fuser.fuse`; also raises UserError for a wrong number of weights."""
        if self.weights is not None and len(self.weights) != len(tables):
            raise UserError(
                f"wbf: {len(self.weights)} weights for {len(tables)} teachers", "Give one weight per teacher."
            )
        return in_blocks(tables, self._fuse)

    def _fuse(self, tables: Sequence[Detections]) -> Fused:
        weights = np.asarray(self.weights or np.ones(len(tables)), np.float64)
        pooled = pool(tables, weights, self.skip_below)
        clusters = assign(pooled, self.iou, one_per_teacher=False, inclusive=False)
        fused = table.make(
            pooled.image_id[clusters.opener],
            clusters.boxes,
            np.clip(self._scores(pooled, clusters, weights), 0, 1),
            pooled.class_id[clusters.opener],
        )
        return collect(pooled, clusters.members, fused)

    def _scores(self, pooled: Pool, clusters: Clusters, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Fused scores; with s member scores, w their teachers' weights, n members, T teachers.

        avg: mean(w·s) · min(T, n) / sum of all weights
        max: max(w·s) / largest weight
        box_and_model_avg: sum(w·s) / sum(w) · weights of the teachers present / sum of all weights
        absent_model_aware_avg: sum(w·s) / (sum(w) + weights of the teachers absent)
        """
        if self.conf_type == "max":
            return np.asarray(pooled.rank[clusters.opener] / weights.max())
        cluster, count = clusters.cluster, len(clusters)
        total = np.bincount(cluster, pooled.rank, count)
        if self.conf_type == "avg":
            members = np.bincount(cluster, minlength=count)
            return np.asarray(total / members * np.minimum(len(weights), members) / weights.sum())
        mass = np.bincount(cluster, weights[pooled.teacher], count)
        present = clusters.members >= 0
        if self.conf_type == "box_and_model_avg":
            return np.asarray(total / mass * (present @ weights) / weights.sum())
        return np.asarray(total / (mass + ~present @ weights))
