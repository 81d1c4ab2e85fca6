"""Sigmoid focal loss (Lin et al., ICCV 2017), with class indices as targets."""

from __future__ import annotations

import torch
import torchvision.ops
from torch import Tensor


def forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Writes the loss of every (row, class) into ``output``.

    Args:
        input: (N, C) logits.
        target: (N,) int64, a class in [0, C); any other value is background.
        weight: (C,) weight of the rows of each class, or empty for none;
            background rows count once.
        output: (N, C), written in place.
        gamma: Exponent of the modulating factor.
        alpha: Share of the positives.
    """
    output.copy_(_loss(input, target, weight, gamma, alpha))


def backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Writes the derivative of each element of the loss into ``grad_input``; see `forward`."""
    logits = input.detach().requires_grad_()
    with torch.enable_grad():  # autograd functions run their backward without
        total = _loss(logits, target, weight, gamma, alpha).sum()
    (gradient,) = torch.autograd.grad(total, logits)
    grad_input.copy_(gradient)


def _loss(input: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    classes = torch.arange(input.shape[1], device=input.device)
    one_hot = (target[:, None] == classes).to(input.dtype)
    loss: Tensor = torchvision.ops.sigmoid_focal_loss(input, one_hot, alpha, gamma, reduction="none")
    if weight.numel():
        # exactly one class per foreground row, none per background row
        loss = loss * (one_hot @ weight.to(input.dtype) + (1 - one_hot.sum(dim=1)))[:, None]
    return loss
