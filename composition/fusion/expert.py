"""Expert-aware fusion: every teacher counts for the classes that it can see, by what it is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from composition import detections as table
from composition.detections import Detections
from composition.errors import UserError
from composition.fusion.base import Fused, Pool, check_iou, collect, pool
from composition.fusion.blocks import in_blocks
from composition.fusion.clusters import Clusters, assign

_TINY = 1e-4  # calibrated values stay this far from 0 and 1: their logits are finite


def logit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(p / (1 - p)) with p kept inside [1e-4, 1 - 1e-4]."""
    inside = np.clip(values, _TINY, 1 - _TINY)
    return np.asarray(np.log(inside / (1 - inside)))


@dataclass(frozen=True)
class Expertise:
    """What one teacher is worth.

    Attributes:
        scores: Rising knots of the calibration curve, its raw scores.
        quality: Their calibrated values in [0, 1], never falling; in between,
            straight lines; beyond the ends, the end values.
        trust: Added to the logarithm of its boxes' weights in fused boxes.
        agreement: Factor, not negative, on the logit of its calibrated score.
        presence: Added when it has a box in the cluster.
        silence: Added when it could have one and has none.
    """

    scores: tuple[float, ...] = (0.0, 1.0)
    quality: tuple[float, ...] = (0.0, 1.0)
    trust: float = 0.0
    agreement: float = 0.0
    presence: float = 0.0
    silence: float = 0.0

    def calibrated(self, score: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N,) float64 in [1e-4, 1 - 1e-4] for (N,) raw scores."""
        curve = np.interp(score.astype(np.float64), self.scores, self.quality)
        return np.asarray(np.clip(curve, _TINY, 1 - _TINY))


@dataclass(frozen=True)
class Expert:
    """Calibrated fusion that knows who can see what (ours).

    Boxes of one image and class are clustered, at most one per teacher, best
    calibrated score first; the fused box is the mean with the weights
    exp(trust_t + sharpness · l_t). The fused score of a cluster is

        sigmoid(bias + best · max_t l_t + Σ present (agreement_t · l_t + presence_t) + Σ silent silence_t)

    with l_t the logit of teacher t's calibrated score. The sum over the silent
    runs over the experts of the class only: a teacher that cannot see it does
    not count. `composition.calibration` learns the numbers from a few labels,
    `composition.label_free` without any. Without either (``expertise`` None)
    the highest raw score of a cluster wins.

    Attributes:
        iou: IoU with the current fused box from which on a box joins it.
        expertise: One per teacher.
        coverage: Per union class, whether each teacher can see it; None: all can.
        bias: Constant of the sum.
        best: Factor, not negative, on the best member's logit.
        sharpness: How much more a surer box of a cluster weighs in its box.
    """

    iou: float = 0.6
    expertise: tuple[Expertise, ...] | None = None
    coverage: tuple[tuple[bool, ...], ...] | None = None
    bias: float = 0.0
    best: float = 1.0
    sharpness: float = 1.0

    def __post_init__(self) -> None:
        check_iou(self.iou, "expert")

    @property
    def name(self) -> str:
        """Its name in recipes."""
        return "expert"

    def fuse(self, tables: Sequence[Detections]) -> Fused:
        """See `composition.fusion.base.Fuser.fuse`; also raises UserError for a wrong number of teachers."""
        if self.expertise is not None and len(self.expertise) != len(tables):
            raise UserError(
                f"expert: calibrated for {len(self.expertise)} teachers, but given {len(tables)}",
                "Calibrate with the teachers that are fused.",
            )
        return in_blocks(tables, self._fuse)

    def _fuse(self, tables: Sequence[Detections]) -> Fused:
        pooled, clusters = self.clusters(tables)
        fused = table.make(
            pooled.image_id[clusters.opener],
            clusters.boxes,
            self._scores(pooled, clusters),
            pooled.class_id[clusters.opener],
        )
        return collect(pooled, clusters.members, fused)

    def clusters(self, tables: Sequence[Detections]) -> tuple[Pool, Clusters]:
        """The rows and their clusters; calibration looks at them, too."""
        worth = self._worth(len(tables))
        # the raw score breaks the ties of the calibration curve's steps
        ranks = [
            one.calibrated(part.score) + 1e-6 * part.score for one, part in zip(worth, tables, strict=True)
        ]
        pooled = pool(tables, rank=ranks)
        trust = np.array([one.trust for one in worth])
        weight = np.exp(trust[pooled.teacher] + self.sharpness * logit(pooled.rank))
        return pooled, assign(pooled, self.iou, weight=weight)

    def _worth(self, teachers: int) -> tuple[Expertise, ...]:
        return self.expertise or (Expertise(),) * teachers

    def _scores(self, pooled: Pool, clusters: Clusters) -> NDArray[np.float64]:
        if self.expertise is None:
            return np.asarray(pooled.score[clusters.opener], np.float64)
        return np.asarray(1 / (1 + np.exp(-self.odds(pooled, clusters))))

    def odds(self, pooled: Pool, clusters: Clusters) -> NDArray[np.float64]:
        """(M,) logits of the fused scores."""
        logits, present, silent = self.evidence(pooled, clusters)
        worth = self._worth(pooled.num_teachers)
        coefficient = np.array([(one.agreement, one.presence, one.silence) for one in worth])
        total = self.bias + self.best * np.where(present, logits, -np.inf).max(axis=1, initial=-np.inf)
        total += (np.where(present, logits, 0) * coefficient[:, 0] + present * coefficient[:, 1]).sum(axis=1)
        return np.asarray(total + silent @ coefficient[:, 2])

    def evidence(
        self, pooled: Pool, clusters: Clusters
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        """What the teachers say of M clusters.

        Returns:
            (M, T) logits of the calibrated scores (meaningless where silent),
            (M, T) bool present, (M, T) bool silent although it can see the class.
        """
        present = clusters.members >= 0
        score = pooled.score[clusters.members]
        worth = self._worth(pooled.num_teachers)
        logits = np.stack([logit(one.calibrated(score[:, t])) for t, one in enumerate(worth)], axis=1)
        class_id = pooled.class_id[clusters.opener]
        sees = np.ones_like(present) if self.coverage is None else np.array(self.coverage, np.bool_)[class_id]
        return logits, present, sees & ~present
