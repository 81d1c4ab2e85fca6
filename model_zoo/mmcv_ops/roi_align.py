"""RoIAlign (He et al., ICCV 2017) with average pooling."""

from __future__ import annotations

import torch
import torchvision.ops
from torch import Tensor

MAX_POOLING = 0


def forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Pools each region into a fixed grid.

    Args:
        input: (N, C, H, W) features.
        rois: (K, 5), batch index and x1 y1 x2 y2 in image pixels.
        output: (K, C, aligned_height, aligned_width), written in place; NaN
            for regions that are not finite.
        argmax_y: Not used by average pooling.
        argmax_x: Not used by average pooling.
        aligned_height: Rows of the grid.
        aligned_width: Columns of the grid.
        spatial_scale: Feature cells per image pixel.
        sampling_ratio: Samples per cell and axis; 0 = adaptive.
        pool_mode: 1 average; 0 (max) is not available.
        aligned: Shift by half a cell, so that centres of pixels agree.

    Raises:
        NotImplementedError: Max pooling was asked for.
    """
    _only_average(pool_mode)
    regions, broken = _finite(rois.to(input.dtype))
    pooled = torchvision.ops.roi_align(
        input, regions, (aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned
    )
    output.copy_(pooled.masked_fill(broken[:, None, None, None], torch.nan))


def backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Adds the gradient of the features to ``grad_input``; see `forward`."""
    _only_average(pool_mode)
    batch, channels, height, width = grad_input.shape
    grad_input += torch.ops.torchvision._roi_align_backward(
        grad_output,
        _finite(rois.to(grad_output.dtype))[0],
        spatial_scale,
        aligned_height,
        aligned_width,
        batch,
        channels,
        height,
        width,
        sampling_ratio,
        aligned,
    )


def _finite(rois: Tensor) -> tuple[Tensor, Tensor]:
    """Regions that are safe to pool, and a mask of those that were not.

    torchvision computes addresses from them and crashes the process when a
    training diverges; not a number in, not a number out is what shows in the
    loss.
    """
    broken = ~rois.isfinite().all(dim=1)
    return rois.masked_fill(broken[:, None], 0), broken


def _only_average(pool_mode: int) -> None:
    if pool_mode == MAX_POOLING:
        raise NotImplementedError(
            "mmcv op 'roi_align' with pool_mode='max' is not available without mmcv's compiled extension: "
            "torchvision pools by average only. Set pool_mode='avg' in the model's roi_layer."
        )
