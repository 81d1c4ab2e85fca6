"""Sigmoid focal loss against the formula of the paper."""

from __future__ import annotations

import pytest
import torch

from model_zoo.mmcv_ops import ensure_ops

CLASSES = 4
# classes 0..3; 4 is mmdet's background
TARGETS = [0, 3, 4, 2, 2, 4, 1]


@pytest.fixture(scope="module")
def ops():
    ensure_ops()
    import mmcv.ops

    return mmcv.ops


def reference(logits, targets, gamma, alpha, weight):
    p = torch.sigmoid(logits)
    rows = []
    for row, target in enumerate(targets.tolist()):
        scale = 1.0 if weight is None or target == CLASSES else weight[target]
        for label in range(CLASSES):
            q = p[row, label]
            if label == target:
                rows.append(-scale * alpha * (1 - q) ** gamma * torch.log(q))
            else:
                rows.append(-scale * (1 - alpha) * q**gamma * torch.log(1 - q))
    return torch.stack(rows).reshape(logits.shape)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.0, 0.5), (1.5, 0.9)])
@pytest.mark.parametrize("weighted", [False, True])
def test_values_and_gradients(ops, gamma, alpha, weighted, reduction):
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(len(TARGETS), CLASSES, dtype=torch.float64, generator=generator)
    targets = torch.tensor(TARGETS)
    weight = torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64) if weighted else None
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = ops.sigmoid_focal_loss(ours, targets, gamma, alpha, weight, reduction)
    each = reference(theirs, targets, gamma, alpha, weight)
    expected = {"none": each, "sum": each.sum(), "mean": each.sum() / len(TARGETS)}[reduction]
    torch.testing.assert_close(loss, expected)
    # one number per element must come through for "none", too
    upstream = torch.linspace(0.5, 2, loss.numel(), dtype=torch.float64).reshape(loss.shape)
    (loss * upstream).sum().backward()
    (expected * upstream).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_gradcheck(ops):
    logits = torch.randn(len(TARGETS), CLASSES, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor(TARGETS)
    assert torch.autograd.gradcheck(
        lambda x: ops.sigmoid_focal_loss(x, targets, 2.0, 0.25, None, "none"), logits
    )


def test_sure_logits_stay_finite(ops):
    logits = torch.tensor([[200.0, -200.0, 0.0, 50.0]], requires_grad=True)
    loss = ops.sigmoid_focal_loss(logits, torch.tensor([1]), 2.0, 0.25, None, "sum")
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_no_rows(ops):
    loss = ops.sigmoid_focal_loss(torch.zeros(0, CLASSES), torch.zeros(0).long(), 2.0, 0.25, None, "sum")
    assert loss == 0
