"""RoIAlign against its definition, sample by sample, gradients included."""

from __future__ import annotations

import math

import pytest
import torch

from model_zoo.mmcv_ops import ensure_ops

# batch index and x1 y1 x2 y2 in image pixels (4 per feature cell); inside, tiny, across the border, outside
ROIS = [
    [0, 4, 6, 30, 26],
    [1, 8.5, 3.25, 9, 4.5],
    [0, -12, -6, 20, 50],
    [1, 28, 20, 60, 61],
    [1, 90, 90, 120, 99],
]


@pytest.fixture(scope="module")
def ops():
    ensure_ops()
    import mmcv.ops

    return mmcv.ops


def sample(feature, y, x):
    """Bilinear value of a (C, H, W) map; nothing beyond one cell outside of it."""
    height, width = feature.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return feature[:, 0, 0] * 0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = y - top, x - left
    return (
        feature[:, top, left] * (1 - down) * (1 - across)
        + feature[:, top, right] * (1 - down) * across
        + feature[:, bottom, left] * down * (1 - across)
        + feature[:, bottom, right] * down * across
    )


def reference(features, rois, size, scale, ratio, aligned):
    rows, columns = size
    pooled = []
    for index, *box in rois.tolist():
        x1, y1, x2, y2 = (value * scale - (0.5 if aligned else 0) for value in box)
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1), max(height, 1)
        across = ratio or math.ceil(width / columns)
        down = ratio or math.ceil(height / rows)
        cells = [
            sum(
                sample(
                    features[int(index)],
                    y1 + height / rows * (row + (i + 0.5) / down),
                    x1 + width / columns * (column + (j + 0.5) / across),
                )
                for i in range(down)
                for j in range(across)
            )
            / (down * across)
            for row in range(rows)
            for column in range(columns)
        ]
        pooled.append(torch.stack(cells, dim=1).reshape(-1, rows, columns))
    return torch.stack(pooled)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("size", [(2, 2), (3, 5)])
def test_values_and_gradients(ops, aligned, ratio, size):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, 3, 9, 11, dtype=torch.float64, generator=generator)
    rois = torch.tensor(ROIS, dtype=torch.float64)
    weights = torch.randn(len(ROIS), 3, *size, dtype=torch.float64, generator=generator)
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    pooled = ops.roi_align(ours, rois, size, 0.25, ratio, "avg", aligned)
    expected = reference(theirs, rois, size, 0.25, ratio, aligned)
    torch.testing.assert_close(pooled, expected)
    (pooled * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_gradcheck(ops):
    features = torch.randn(1, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 1, 1, 14, 17]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: ops.roi_align(x, rois, 2, 0.25, 2, "avg", True), features)


def test_no_regions(ops):
    features = torch.randn(1, 2, 5, 5, requires_grad=True)
    pooled = ops.roi_align(features, torch.zeros(0, 5), 7)
    assert pooled.shape == (0, 2, 7, 7)
    pooled.sum().backward()
    assert not features.grad.any()


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_regions_that_are_not_finite_do_not_crash(ops, value, ratio):
    features = torch.randn(1, 2, 9, 9, requires_grad=True)
    rois = torch.tensor([[0, 1, 1, 6, 6], [0, value, 1, 5, 5], [0, 1, 1, value, value]])
    pooled = ops.roi_align(features, rois, 7, 1.0, ratio, "avg", True)
    assert pooled[0].isfinite().all()
    assert pooled[1:].isnan().all()
    pooled[0].sum().backward()
    assert features.grad.isfinite().all()


def test_max_pooling_is_refused_with_the_way_out(ops):
    with pytest.raises(NotImplementedError, match=r"pool_mode='max'.*Set pool_mode='avg'"):
        ops.roi_align(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), 2, 1.0, 0, "max", True)
