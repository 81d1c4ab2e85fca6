"""mmdet's dense heads taught to weigh what they learn from; see the package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

from composition.errors import UserError
from model_zoo.imperfect_labels.losses import SUPPORTED_LOSSES, Part, WeightedLoss, supported
from model_zoo.imperfect_labels.weights import (
    Rows,
    by_level,
    per_class,
    points_inside,
    rows_of_image,
    shared_part,
)

SUPPORTED_HEADS = ("ATSSHead", "FCOSHead", "RTMDetHead", "RTMDetSepBNHead", "RetinaHead", "YOLOXHead")
LOSSES: dict[str, Part] = {
    "loss_cls": "classes",
    "loss_bbox": "boxes",
    "loss_l1": "boxes",
    "loss_centerness": "boxes",
    "loss_obj": "objects",
}
IN_REGION = 0.5
"""An anchor with more than this part of its area in an ignore region is in it."""


def enable(model: nn.Module) -> None:
    """Makes a built mmdet detector learn from imperfect labels.

    Ground truth must then carry ``class_weights`` and ``box_weights`` beside
    boxes and labels, and ignored instances ``labels`` and ``unspoken`` (bool).
    Parameters, state dict and predictions stay as they are.

    Args:
        model: A detector of one stage, changed in place.

    Raises:
        UserError: Its head or one of its losses is not supported; names those
            that are.
    """
    head = getattr(model, "bbox_head", None)
    name = type(head).__name__
    if head is None or name not in SUPPORTED_HEADS:
        raise UserError(
            f"{name if head is not None else type(model).__name__} cannot be trained with weights, "
            "ignore regions or class masks",
            f"Choose a student with one of {', '.join(SUPPORTED_HEADS)}, or switch them off: "
            "student.weights 'hard', student.ignore false, student.class_mask false.",
        )
    for attribute, part in LOSSES.items():
        loss = getattr(head, attribute, None)
        if loss is None:
            continue
        if not supported(loss, part):
            raise UserError(
                f"{name}.{attribute}: {type(loss).__name__} cannot be weighted term by term",
                f"Choose one of {', '.join(SUPPORTED_LOSSES[part])} (with sigmoid).",
            )
        setattr(head, attribute, WeightedLoss(loss, part))
    if hasattr(head, "sampler"):
        head.sampler = _recording_sampler()
    # the class of the object changes, not its state: copies and state dicts go on working
    head.__class__ = _weighing_class(type(head))


def _weighing_class(head: type) -> type:
    mixin = {"FCOSHead": _OfFCOS, "YOLOXHead": _OfYOLOX, "RetinaHead": _OfRetina, "ATSSHead": _OfATSS}.get(
        head.__name__, _OfRTMDet
    )
    return type(f"Weighing{head.__name__}", (mixin, head), {})


def _recording_sampler() -> Any:
    from mmdet.models.task_modules import PseudoSampler

    class RecordingSampler(PseudoSampler):  # type: ignore[misc]  # mmdet ships no types
        """Takes every prior, and remembers which box each positive was given to."""

        def __init__(self) -> None:
            super().__init__()
            self.boxes: list[Tensor] = []

        def sample(self, *args: Any, **kwargs: Any) -> Any:
            result = super().sample(*args, **kwargs)
            self.boxes.append(result.pos_assigned_gt_inds)
            return result

    return RecordingSampler()


@dataclass(slots=True)
class _Batch:
    """What a head knows about the batch that it is computing the losses of."""

    sizes: list[tuple[int, int]]
    truths: Sequence[InstanceData]
    undecided: Sequence[Tensor] = ()
    images: list[Rows] = field(default_factory=list)
    levels: Iterator[Rows] = field(default_factory=lambda: iter(()))
    class_total: Any = None
    box_total: Any = None

    def add(self, assigned: Tensor) -> None:
        """Takes down the assignment of the next image."""
        image = len(self.images)
        self.images.append(rows_of_image(self.truths[image], assigned, self.undecided[image]))


if TYPE_CHECKING:

    class _Head:
        """The mixins stand before one of mmdet's heads, which has no types."""

        loss_by_feat: Any
        loss_by_feat_single: Any
        get_targets: Any
        _get_targets_single: Any

        def __getattr__(self, name: str) -> Any: ...
else:
    _Head = object


class _Weighing(_Head):
    """What all heads share: regions before the assignment, weights after it."""

    def loss_by_feat(self, *arguments: Any) -> dict[str, Any]:
        """The head's own, between looking at the labels and forgetting them."""
        *predictions, truths, metas, ignored = arguments
        sizes = [tuple(level.shape[-2:]) for level in predictions[0]]
        self._batch = _Batch(sizes, truths)
        try:
            with torch.no_grad():
                self._batch.undecided = self._all_undecided(ignored, predictions[0][0].device)
            # regions are per class, the head's assigner would ignore all classes there
            losses: dict[str, Any] = super().loss_by_feat(*predictions, truths, metas, None)
            return losses | self._more_losses(predictions)
        finally:
            self._start(None)
            del self._batch

    def _more_losses(self, predictions: Sequence[Any]) -> dict[str, Tensor]:
        return {}

    def _start(self, rows: Rows | None, **options: dict[str, Any]) -> None:
        """Tells the losses which rows they are called for next; options by name of the loss."""
        for attribute in LOSSES:
            if hasattr(self, attribute):
                getattr(self, attribute).start(rows, **options.get(attribute, {}))

    def _all_undecided(self, ignored: Sequence[InstanceData], device: torch.device) -> list[Tensor]:
        """For each image (P, C) bool: where the absence of a class must not be taught."""
        priors = self._priors(device)
        return [
            self._covered(regions[~regions.unspoken], priors, touching=False)
            | self._covered(regions[regions.unspoken], priors, touching=True)
            for regions in ignored
        ]

    @property
    def _level_sizes(self) -> list[int]:
        return [
            height * width * self.prior_generator.num_base_priors[level]
            for level, (height, width) in enumerate(self._batch.sizes)
        ]


class _OnPoints(_Weighing):
    """Heads whose priors are points."""

    location_offset = 0.0
    """Where the head's assigner sees a point, in strides from the prior generator's."""

    def _priors(self, device: torch.device) -> Tensor:
        levels = self.prior_generator.grid_priors(self._batch.sizes, device=device, with_stride=True)
        priors: Tensor = torch.cat(levels)
        return torch.cat([priors[:, :2] + self.location_offset * priors[:, 2:], priors[:, 2:]], dim=1)

    def _covered(self, regions: InstanceData, priors: Tensor, *, touching: bool) -> Tensor:
        del touching  # a point is in a region or it is not
        hits = points_inside(regions.bboxes, priors[:, :2], priors[:, 2:])
        return per_class(hits, regions.labels, self.num_classes)


class _OnAnchors(_Weighing):
    """Heads whose priors are anchor boxes."""

    def _priors(self, device: torch.device) -> Tensor:
        return torch.cat(self.prior_generator.grid_priors(self._batch.sizes, device=device))

    def _covered(self, regions: InstanceData, priors: Tensor, *, touching: bool) -> Tensor:
        part = shared_part(regions.bboxes, priors)
        covered = per_class(part > (0.0 if touching else IN_REGION), regions.labels, self.num_classes)
        if not touching:
            for label in regions.labels.unique():
                objects = InstanceData(bboxes=regions.bboxes[regions.labels == label])
                objects.labels = torch.zeros(len(objects.bboxes), dtype=torch.long, device=priors.device)
                covered[:, label] |= self._would_assign(objects, priors)
        return covered

    def _would_assign(self, objects: InstanceData, priors: Tensor) -> Tensor:
        result = self.assigner.assign(InstanceData(priors=priors), objects)
        taken: Tensor = result.gt_inds != 0
        return taken


class _ByLevel(_Weighing):
    """Heads that compute the losses level by level."""

    def get_targets(self, *args: Any, **kwargs: Any) -> Any:
        """The head's own; the assignment of the whole batch is known then."""
        self.sampler.boxes.clear()
        targets = super().get_targets(*args, **kwargs)
        labels = torch.cat(self._labels(targets), dim=1)
        positives = (labels >= 0) & (labels < self.num_classes)
        assigned = torch.full_like(labels, -1)
        for image, boxes in enumerate(self.sampler.boxes):
            assigned[image, positives[image]] = boxes
            self._batch.add(assigned[image])
        self._set_totals()
        self._batch.levels = iter(by_level(self._batch.images, self._level_sizes))
        return targets

    def _labels(self, targets: Any) -> list[Tensor]:
        labels: list[Tensor] = targets[1]
        return labels

    def _set_totals(self) -> None:
        """What anchor heads divide by: an image without positives counts one, as for mmdet's samplers."""
        images = self._batch.images
        empty = sum(not image.positives.any() for image in images)
        classes = sum(float(image.positive_classes.sum()) for image in images)
        boxes = sum(float(image.boxes.sum()) for image in images)
        self._batch.class_total = max(classes + empty, 1.0)
        self._batch.box_total = max(boxes + empty, 1.0)


class _OfRetina(_OnAnchors, _ByLevel):
    """RetinaNet: all losses are divided by the number of positives."""

    def _labels(self, targets: Any) -> list[Tensor]:
        labels: list[Tensor] = targets[0]
        return labels

    def loss_by_feat_single(self, *args: Any, **kwargs: Any) -> Any:
        """The head's own, for the next level."""
        self._start(
            next(self._batch.levels),
            loss_cls={"total": self._batch.class_total},
            loss_bbox={"total": self._batch.box_total},
        )
        return super().loss_by_feat_single(*args, **kwargs)


class _OfATSS(_OnAnchors, _ByLevel):
    """ATSS: box losses are weighted with centerness and divided by its sum."""

    def _would_assign(self, objects: InstanceData, priors: Tensor) -> Tensor:
        result = self.assigner.assign(InstanceData(priors=priors), self._level_sizes, objects)
        taken: Tensor = result.gt_inds != 0
        return taken

    def _set_totals(self) -> None:
        super()._set_totals()
        batch = self._batch
        totals = torch.tensor([batch.class_total, batch.box_total], device=batch.images[0].boxes.device)
        batch.class_total, batch.box_total = _mean_over_processes(totals).tolist()

    def loss_by_feat_single(self, *args: Any, **kwargs: Any) -> Any:
        """The head's own, for the next level; its last value is the sum of the box weights."""
        self._start(
            next(self._batch.levels),
            loss_cls={"total": self._batch.class_total},
            loss_centerness={"total": self._batch.box_total},
        )
        *losses, total = super().loss_by_feat_single(*args, **kwargs)
        weight_sum = self.loss_bbox.weight_sum
        return (*losses, total if weight_sum is None else weight_sum)


class _OfRTMDet(_OnPoints, _ByLevel):
    """RTMDet: losses are divided by the sums of the positives' quality."""

    def _set_totals(self) -> None:
        """Nothing: the quality of the predictions decides, level by level."""

    def loss_by_feat_single(self, *args: Any, **kwargs: Any) -> Any:
        """The head's own, for the next level; its last values are the sums of the weights."""
        rows = next(self._batch.levels)
        self._start(rows)
        *losses, _, box_total = super().loss_by_feat_single(*args, **kwargs)
        quality = args[5].reshape(-1)
        weight_sum = self.loss_bbox.weight_sum
        return (
            *losses,
            (quality * rows.positive_classes).sum(),
            box_total if weight_sum is None else weight_sum,
        )


class _OfFCOS(_OnPoints):
    """FCOS assigns without an assigner: the labels carry the numbers of the boxes."""

    def get_targets(self, points: Any, truths: Any) -> Any:
        """The head's own; the assignment of the whole batch is known then."""
        targets = super().get_targets(points, truths)
        rows = Rows.cat(by_level(self._batch.images, self._level_sizes))
        self._start(
            rows,
            loss_cls={"total": _at_least(rows.positive_classes.sum(), 1.0)},
            loss_bbox={"total": "sum"},
            loss_centerness={"total": _at_least(rows.boxes.sum(), 1.0)},
        )
        return targets

    def _get_targets_single(self, truth: InstanceData, *args: Any, **kwargs: Any) -> Any:
        first = self.num_classes + 1  # num_classes itself means background
        numbers = torch.arange(len(truth.bboxes), device=truth.bboxes.device) + first
        tags, boxes = super()._get_targets_single(
            InstanceData(bboxes=truth.bboxes, labels=numbers), *args, **kwargs
        )
        assigned = torch.where(tags >= first, tags - first, -1)
        self._batch.add(assigned)
        labels = torch.full_like(tags, self.num_classes)
        labels[assigned >= 0] = truth.labels[assigned[assigned >= 0]]
        return labels, boxes


class _OfYOLOX(_OnPoints):
    """YOLOX: one objectness for all classes, class losses at positives alone."""

    location_offset = 0.5  # the assigner sees the centre of the cell

    def _get_targets_single(self, *args: Any, **kwargs: Any) -> Any:
        self.sampler.boxes.clear()
        *targets, count = super()._get_targets_single(*args, **kwargs)
        foreground = targets[0]
        assigned = torch.full(foreground.shape, -1, dtype=torch.long, device=foreground.device)
        if self.sampler.boxes:
            assigned[foreground] = self.sampler.boxes[0]
        batch = self._batch
        batch.add(assigned)
        if len(batch.images) == len(batch.truths):
            self._start_batch()
        if count:
            # the head skips its positives when this is 0, though boxes may be learned where classes are not
            count = max(float(batch.images[-1].positive_classes.sum()), 1e-9)
        return (*targets, count)

    def _start_batch(self) -> None:
        rows = Rows.cat(self._batch.images)
        self._batch.class_total = _at_least(rows.positive_classes.sum(), 1.0)
        # the head divides all of its losses by the sum of class weights
        options = {"factor": self._batch.class_total / _at_least(rows.boxes.sum(), 1.0)}
        self._start(rows, loss_bbox=options, loss_l1=options)

    def _more_losses(self, predictions: Sequence[Any]) -> dict[str, Tensor]:
        """Background of the other classes where objectness must not learn it."""
        rows = Rows.cat(self._batch.images)
        there = ~rows.positives & (rows.objects == 0)
        if not there.any():
            return {}
        scores, _, objectness = (
            torch.cat([level.permute(0, 2, 3, 1).flatten(1, 2) for level in levels], dim=1).flatten(0, 1)
            for levels in predictions
        )
        terms = objectness[there].detach().sigmoid() * torch.nn.functional.softplus(scores[there])
        return {"loss_background": (terms * rows.classes[there]).sum() / self._batch.class_total}


def _mean_over_processes(value: Tensor) -> Tensor:
    from mmdet.utils import reduce_mean

    mean: Tensor = reduce_mean(value)
    return mean


def _at_least(value: Tensor, least: float) -> Any:
    """As mmdet writes it: a plain number where the tensor is smaller."""
    return max(_mean_over_processes(value), least)
