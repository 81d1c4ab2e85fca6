"""From boxes, regions and an assignment to a weight for every term of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from mmengine.structures import InstanceData
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    """Weights of the loss terms of R priors; a row is a prior of an image.

    Attributes:
        positives: (R,) bool, assigned to a box.
        classes: (R, C) float, of the class terms.
        positive_classes: (R,) float, of the positive class term; 0 for background.
        boxes: (R,) float, of the box terms; 0 for background.
        objects: (R,) float, of the objectness term.
    """

    positives: Tensor
    classes: Tensor
    positive_classes: Tensor
    boxes: Tensor
    objects: Tensor

    def __getitem__(self, rows: slice) -> Rows:
        """Some of the rows."""
        return Rows(
            self.positives[rows],
            self.classes[rows],
            self.positive_classes[rows],
            self.boxes[rows],
            self.objects[rows],
        )

    @staticmethod
    def cat(parts: Sequence[Rows]) -> Rows:
        """Rows below each other."""
        return Rows(
            torch.cat([part.positives for part in parts]),
            torch.cat([part.classes for part in parts]),
            torch.cat([part.positive_classes for part in parts]),
            torch.cat([part.boxes for part in parts]),
            torch.cat([part.objects for part in parts]),
        )


def rows_of_image(truth: InstanceData, assigned: Tensor, undecided: Tensor) -> Rows:
    """The weights of all priors of one image.

    Args:
        truth: Boxes with ``labels`` (N,) int64, ``class_weights`` and
            ``box_weights`` (N,) float32.
        assigned: (P,) int64, the box of each prior, -1 = none.
        undecided: (P, C) bool, where prior p must not teach that class c is absent.
    """
    positives = assigned >= 0
    box = assigned[positives]
    label = truth.labels[box]
    index = positives.nonzero().squeeze(1)
    weight = truth.class_weights[box]

    classes = torch.ones(undecided.shape, device=assigned.device)
    classes[index] = weight[:, None].expand(-1, classes.shape[1])
    classes[undecided] = 0.0
    classes[index, label] = weight  # that a class is there may be taught everywhere
    positive_classes = classes.new_zeros(len(classes))
    positive_classes[index] = weight
    boxes = classes.new_zeros(len(classes))
    boxes[index] = truth.box_weights[box]
    objects = (~undecided.any(1)).to(classes.dtype)
    objects[index] = weight
    return Rows(positives, classes, positive_classes, boxes, objects)


def by_level(images: Sequence[Rows], sizes: Sequence[int]) -> list[Rows]:
    """For each level the rows of all images: the order of mmdet's level by level losses."""
    levels, start = [], 0
    for size in sizes:
        levels.append(Rows.cat([image[start : start + size] for image in images]))
        start += size
    return levels


def points_inside(regions: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Which points lie in which regions, or have their centre in their cell.

    Args:
        regions: (R, 4), x1 y1 x2 y2.
        points: (P, 2), x y.
        strides: (P, 2), width and height of the cell around each point.

    Returns:
        (P, R) bool.
    """
    place = points[:, None]
    within = ((regions[:, :2] <= place) & (place < regions[:, 2:])).all(-1)
    offset = (regions[:, :2] + regions[:, 2:]) / 2 - place
    half = strides[:, None] / 2
    return within | ((-half <= offset) & (offset < half)).all(-1)


def shared_part(regions: Tensor, anchors: Tensor) -> Tensor:
    """Part of each anchor's area that lies in each region.

    Args:
        regions: (R, 4), x1 y1 x2 y2.
        anchors: (P, 4), x1 y1 x2 y2, of positive area.

    Returns:
        (P, R) float in [0, 1].
    """
    near = torch.maximum(regions[:, :2], anchors[:, None, :2])
    far = torch.minimum(regions[:, 2:], anchors[:, None, 2:])
    return (far - near).clamp(min=0).prod(-1) / (anchors[:, 2:] - anchors[:, :2]).prod(-1)[:, None]


def per_class(hits: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(P, R) bool of regions with labels (R,) -> (P, C) bool."""
    one_hot = torch.nn.functional.one_hot(labels, classes)
    return (hits.float() @ one_hot.float()) > 0
