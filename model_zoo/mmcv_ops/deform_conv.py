"""Deformable convolution, version 1 (Dai et al., ICCV 2017) and 2 (Zhu et al., CVPR 2019).

mmcv and torchvision order the offsets alike: per deformable group and kernel
cell (row by row), first the vertical and then the horizontal shift. Shapes
below: input (N, C, H, W), weight (O, C / groups, kH, kW), offset
(N, 2 * deformable groups * kH * kW, H', W'), mask half as deep, output
(N, O, H', W'). The kernel size and all groups follow from the shapes.

The extension takes its geometry as keywords, spelled differently in the two
versions; they come in as ``**geometry``. Scratch tensors (``columns``,
``ones``) are of no use to torchvision.
"""

from __future__ import annotations

import torch
import torchvision.ops
from torch import Tensor

Pair = tuple[int, int]
# a shift beyond every image (that half precision can hold): nothing is sampled there
FAR = 6e4


def forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **geometry: int,
) -> None:
    """Version 1: writes the convolution into ``output``.

    Args:
        input: Features.
        weight: Kernel.
        offset: Shifts in pixels.
        output: Written in place.
        columns: Not used.
        ones: Not used.
        **geometry: ``dH dW padH padW dilationH dilationW`` and what the
            shapes tell as well.
    """
    stride, padding, dilation = _first(geometry)
    shifts = _without_nan(offset)
    output.copy_(torchvision.ops.deform_conv2d(input, shifts, weight, None, stride, padding, dilation))


def backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **geometry: int,
) -> None:
    """Version 1: adds the gradients of ``input`` and ``offset`` to the tensors given."""
    gradients = _gradients(grad_output, input, weight, offset, None, *_first(geometry))
    grad_input += gradients[0]
    grad_offset += gradients[2]


def backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    scale: float,
    **geometry: int,
) -> None:
    """Version 1: adds ``scale`` times the gradient of the weight to ``grad_weight``."""
    # the extension does not hand the weight over, and its gradient does not depend on it
    weight = torch.zeros_like(grad_weight)
    gradients = _gradients(grad_output, input, weight, offset, None, *_first(geometry))
    grad_weight += scale * gradients[1]


def modulated_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Version 2: writes the convolution, each sample times its mask, into ``output``.

    Args:
        input: Features.
        weight: Kernel.
        bias: (O,), or empty without bias.
        ones: Not used.
        offset: Shifts in pixels.
        mask: Modulation of each sample.
        output: Written in place.
        columns: Not used.
        with_bias: Whether ``bias`` counts.
        **geometry: ``stride_h stride_w pad_h pad_w dilation_h dilation_w``
            and what the shapes tell as well.
    """
    stride, padding, dilation = _second(geometry)
    shifts, gains = _as_read(_without_nan(offset), output.shape), _as_read(mask, output.shape)
    output.copy_(
        torchvision.ops.deform_conv2d(
            input, shifts, weight, bias if with_bias else None, stride, padding, dilation, gains
        )
    )


def modulated_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Version 2: adds all gradients to the tensors given."""
    shifts, gains = _as_read(offset, grad_output.shape), _as_read(mask, grad_output.shape)
    gradients = _gradients(grad_output, input, weight, shifts, gains, *_second(geometry))
    grad_input += gradients[0]
    grad_weight += gradients[1]
    for target, gradient in ((grad_offset, gradients[2]), (grad_mask, gradients[3])):
        read = gradient[0].numel()
        target.view(len(target), -1)[:, :read] += gradient.flatten(1)
    if with_bias:
        grad_bias += gradients[4]


def _without_nan(offset: Tensor) -> Tensor:
    """The shifts, with those that are no number moved out of the image.

    torchvision computes an address from them and may crash the process, as
    would a training that diverges; mmcv samples nothing there.
    """
    return torch.where(offset.isnan(), FAR, offset)


def _as_read(maps: Tensor, output: torch.Size) -> Tensor:
    """Offsets or masks as version 2 of the extension reads them.

    It takes them image by image from contiguous memory with the size of its
    output, whatever their own size. DyHead (Dai et al., CVPR 2021) hands over
    maps of the next finer level, and its published weights are trained so.
    """
    if maps.shape[2:] == output[2:]:
        return maps
    read = maps.shape[1] * output[2] * output[3]
    return maps.flatten(1)[:, :read].reshape(len(maps), maps.shape[1], output[2], output[3])


def _first(geometry: dict[str, int]) -> tuple[Pair, Pair, Pair]:
    return (
        (geometry["dH"], geometry["dW"]),
        (geometry["padH"], geometry["padW"]),
        (geometry["dilationH"], geometry["dilationW"]),
    )


def _second(geometry: dict[str, int]) -> tuple[Pair, Pair, Pair]:
    return (
        (geometry["stride_h"], geometry["stride_w"]),
        (geometry["pad_h"], geometry["pad_w"]),
        (geometry["dilation_h"], geometry["dilation_w"]),
    )


def _gradients(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of input, weight, offset, mask and bias."""
    groups = input.shape[1] // weight.shape[1]
    deformable_groups = offset.shape[1] // (2 * weight.shape[2] * weight.shape[3])
    gradients: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] = torch.ops.torchvision._deform_conv2d_backward(
        grad_output,
        input,
        weight,
        _without_nan(offset),
        input.new_zeros((len(input), 1)) if mask is None else mask,
        input.new_zeros(weight.shape[0]),
        *stride,
        *padding,
        *dilation,
        groups,
        deformable_groups,
        mask is not None,
    )
    return gradients
