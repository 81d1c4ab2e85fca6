"""mmdet's loss modules, weighted term by term."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from model_zoo.imperfect_labels.weights import Rows

Part = Literal["classes", "boxes", "objects"]

_BOX_LOSSES = ("L1Loss", "SmoothL1Loss", "IoULoss", "GIoULoss", "DIoULoss", "CIoULoss", "EIoULoss")
SUPPORTED_LOSSES: dict[Part, tuple[str, ...]] = {
    "classes": ("FocalLoss", "QualityFocalLoss", "CrossEntropyLoss"),
    "boxes": (*_BOX_LOSSES, "CrossEntropyLoss"),
    "objects": ("CrossEntropyLoss",),
}
"""Losses whose weights are per term; CrossEntropyLoss only with sigmoid."""


def supported(loss: nn.Module, part: Part) -> bool:
    """Whether a loss is a sum of terms that can be weighted one by one."""
    sigmoid = getattr(loss, "use_sigmoid", True)
    return type(loss).__name__ in SUPPORTED_LOSSES[part] and bool(sigmoid)


class WeightedLoss(nn.Module):
    """A loss module whose terms are multiplied by the weights of the rows at hand.

    Has no parameters of its own, so state dicts do not change.

    Args:
        loss: mmdet's module.
        part: Which of the rows' weights apply.
    """

    def __init__(self, loss: nn.Module, part: Part) -> None:
        super().__init__()
        self.loss = loss
        self.part = part
        self.rows: Rows | None = None
        self.total: Any = None
        self.factor: Tensor | None = None
        self.weight_sum: Tensor | None = None

    def start(self, rows: Rows | None, total: Any = None, factor: Tensor | None = None) -> None:
        """Sets what the next calls are about; None ends it.

        Args:
            rows: Weights of the priors.
            total: Replaces the ``avg_factor`` that the head gives; "sum" for
                the sum of the weights with which this loss is called.
            factor: The loss is multiplied by it.
        """
        self.rows, self.total, self.factor, self.weight_sum = rows, total, factor, None

    def forward(
        self, pred: Tensor, target: Any, weight: Tensor | None = None, avg_factor: Any = None
    ) -> Tensor:
        """As the wrapped module, for all rows or for the positives among them.

        Args:
            pred: (R, ...) or (positives, ...).
            target: As the wrapped module wants it.
            weight: The head's own weights, (rows,) or (rows, 4).
            avg_factor: The head's own divisor.
        """
        assert self.rows is not None, "the head was not told about its labels"
        own = getattr(self.rows, self.part)
        if len(own) != len(pred):
            own = own[self.rows.positives]
        if self.total is not None:
            avg_factor = self.total
        if type(self.loss).__name__ == "QualityFocalLoss":
            result = self._quality_focal(pred, target, weight, own, avg_factor)
        else:
            if own.dim() < pred.dim() and not type(self.loss).__name__.endswith("IoULoss"):
                own = own[:, None]  # a term per coordinate; the IoU losses have one per box
            weight = own if weight is None else _product(own, weight)
            if self.part == "boxes":
                self.weight_sum = weight.detach().sum()
                if self.total == "sum":
                    avg_factor = _floor(self.weight_sum, 1e-6)
            divisor = {} if avg_factor is None else {"avg_factor": avg_factor}
            result = self.loss(pred, target, weight, **divisor)
        return result if self.factor is None else result * self.factor

    def _quality_focal(
        self, pred: Tensor, target: tuple[Tensor, Tensor], weight: Tensor | None, own: Tensor, avg_factor: Any
    ) -> Tensor:
        """The stock function sums over the classes itself: give it every term as a row of one class."""
        from mmdet.models.losses.gfocal_loss import quality_focal_loss
        from mmdet.models.losses.utils import weight_reduce_loss

        label, score = target
        rows, classes = pred.shape
        # in a problem of one class, label 0 is that class and label 1 is background
        terms = (label[:, None] != torch.arange(classes, device=label.device)).long()
        flat = (terms.reshape(-1), score[:, None].expand(rows, classes).reshape(-1))
        loss: Tensor = quality_focal_loss(
            pred.reshape(-1, 1), flat, beta=self.loss.beta, reduction="none"
        ).reshape(rows, classes)
        loss = (loss * own).sum(dim=1)
        reduced: Tensor = weight_reduce_loss(loss, weight, "mean", avg_factor)
        factor: float = self.loss.loss_weight  # type: ignore[assignment]  # nn.Module declares its attributes so
        return reduced * factor


def _product(own: Tensor, weight: Tensor) -> Tensor:
    """Our weights times the head's: either may lack the last axis."""
    if weight.dim() < own.dim():
        weight = weight[:, None]
    return own * weight


def _floor(value: Tensor, least: float) -> Any:
    """As FCOS writes it: the number itself, where the tensor is smaller."""
    from mmdet.utils import reduce_mean

    return max(reduce_mean(value), least)
