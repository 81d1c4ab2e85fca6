"""Non-maximum suppression, hard and soft."""

from __future__ import annotations

import torch
import torchvision.ops
from torch import Tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy non-maximum suppression.

    Args:
        boxes: (N, 4) float, x1 y1 x2 y2.
        scores: (N,) float.
        iou_threshold: A box is dropped if its IoU with a kept one exceeds it.
        offset: 0, or 1 for boxes whose last pixel belongs to them, so that
            their width is ``x2 - x1 + 1``.

    Returns:
        (K,) int64, the kept rows by falling score.
    """
    if boxes.dtype in (torch.float16, torch.bfloat16):
        boxes = boxes.float()  # the CPU kernel knows no half precision, and areas overflow in it
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    kept: Tensor = torchvision.ops.nms(boxes, scores.to(boxes.dtype), iou_threshold)
    return kept


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft non-maximum suppression (Bodla et al., ICCV 2017), in plain torch.

    Args:
        boxes: (N, 4) float, x1 y1 x2 y2.
        scores: (N,) float.
        dets: (N, 5) float, written in place: row k is the k-th kept box and
            its decayed score.
        iou_threshold: Overlap from which methods 0 and 1 act.
        sigma: Width of the Gaussian of method 2.
        min_score: Boxes whose score decays below it are dropped.
        method: 0 hard, 1 linear (``1 - iou``), 2 Gaussian.
        offset: As in `nms`.

    Returns:
        (K,) int64, the kept rows in the order in which they were taken.
    """
    scores = scores.clone()
    corners = boxes + boxes.new_tensor([0, 0, offset, offset])
    alive = torch.arange(len(boxes), device=boxes.device)
    taken: list[Tensor] = []
    while len(alive):
        best = alive[scores[alive].argmax()]
        dets[len(taken), :4] = boxes[best]
        dets[len(taken), 4] = scores[best]
        taken.append(best)
        alive = alive[alive != best]
        iou = torchvision.ops.box_iou(corners[best][None], corners[alive])[0]
        scores[alive] *= _decay(iou, iou_threshold, sigma, method)
        alive = alive[scores[alive] >= min_score]
    return torch.stack(taken) if taken else alive


def _decay(iou: Tensor, iou_threshold: float, sigma: float, method: int) -> Tensor:
    if method == 2:
        return torch.exp(-(iou**2) / sigma)
    kept = 1 - iou if method == 1 else torch.zeros_like(iou)
    return torch.where(iou >= iou_threshold, kept, torch.ones_like(iou))
