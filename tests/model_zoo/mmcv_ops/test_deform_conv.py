"""Deformable convolution against grid_sample and a sum over kernel cells, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from model_zoo.mmcv_ops import ensure_ops

# kernel (rows, columns), stride, padding, dilation, groups, deformable groups
CASES = [
    ((3, 3), (1, 1), (1, 1), (1, 1), 1, 1),
    ((3, 3), (2, 1), (0, 2), (1, 1), 1, 2),
    ((2, 3), (1, 2), (2, 1), (2, 1), 2, 1),
    ((1, 1), (1, 1), (0, 0), (1, 1), 2, 2),
]


@pytest.fixture(scope="module")
def ops():
    ensure_ops()
    import mmcv.ops

    return mmcv.ops


def reference(x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups):
    """Sum over kernel cells of weight x mask x bilinear sample at the shifted place."""
    batch, channels, height, width = x.shape
    kernel_h, kernel_w = weight.shape[2:]
    out_h, out_w = offset.shape[2:]
    shifts = offset.reshape(batch, deform_groups, kernel_h * kernel_w, 2, out_h, out_w)
    gains = mask.reshape(batch, deform_groups, kernel_h * kernel_w, out_h, out_w)
    rows = torch.arange(out_h, dtype=x.dtype)[:, None] * stride[0] - padding[0]
    columns = torch.arange(out_w, dtype=x.dtype)[None, :] * stride[1] - padding[1]
    per_shift, per_group = channels // deform_groups, channels // groups
    total = torch.zeros(batch, weight.shape[0], out_h, out_w, dtype=x.dtype)
    for cell in range(kernel_h * kernel_w):
        i, j = divmod(cell, kernel_w)
        sampled = []
        for group in range(deform_groups):
            y = rows + i * dilation[0] + shifts[:, group, cell, 0]
            z = columns + j * dilation[1] + shifts[:, group, cell, 1]
            grid = torch.stack([2 * z / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1)
            part = x[:, group * per_shift : (group + 1) * per_shift]
            values = functional.grid_sample(part, grid, "bilinear", "zeros", align_corners=True)
            sampled.append(values * gains[:, group, cell, None])
        column = torch.cat(sampled, dim=1).reshape(batch, groups, per_group, out_h, out_w)
        kernel = weight[:, :, i, j].reshape(groups, -1, per_group)
        total = total + torch.einsum("bgchw,goc->bgohw", column, kernel).flatten(1, 2)
    return total if bias is None else total + bias[None, :, None, None]


def random_case(case, seed=0):
    kernel, stride, padding, dilation, groups, deform_groups = case
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    size = (7, 8)
    out = [(size[d] + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1 for d in range(2)]
    cells = kernel[0] * kernel[1] * deform_groups
    return {
        "x": randn(2, 4, *size),
        "offset": randn(2, 2 * cells, *out),
        "mask": torch.sigmoid(randn(2, cells, *out)),
        "weight": randn(6, 4 // groups, *kernel),
        "bias": randn(6),
    }


def leaves(tensors, names):
    return {name: tensors[name].clone().requires_grad_() for name in names}


def assert_same_gradients(ours, theirs, out, expected):
    torch.testing.assert_close(out, expected)
    weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).reshape(out.shape)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    for name, tensor in ours.items():
        torch.testing.assert_close(
            tensor.grad, theirs[name].grad, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("case", CASES)
def test_version_1(ops, case):
    tensors = random_case(case)
    names = ("x", "offset", "weight")
    ours, theirs = leaves(tensors, names), leaves(tensors, names)
    out = ops.deform_conv2d(*ours.values(), *case[1:])
    ones = torch.ones_like(tensors["mask"])
    expected = reference(theirs["x"], theirs["offset"], ones, theirs["weight"], None, *case[1:])
    assert_same_gradients(ours, theirs, out, expected)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_version_2(ops, case, with_bias):
    tensors = random_case(case, seed=1)
    names = ("x", "offset", "mask", "weight", *(("bias",) if with_bias else ()))
    ours, theirs = leaves(tensors, names), leaves(tensors, names)
    settings = (None,) * (not with_bias) + case[1:]
    out = ops.modulated_deform_conv2d(*ours.values(), *settings)
    expected = reference(*theirs.values(), *settings)
    assert_same_gradients(ours, theirs, out, expected)


def test_layers_train(ops):
    torch.manual_seed(0)
    for layer in (
        ops.DeformConv2dPack(4, 6, 3, padding=1),
        ops.ModulatedDeformConv2dPack(4, 6, 3, padding=1),
    ):
        out = layer(torch.randn(2, 4, 8, 8))
        assert out.shape == (2, 6, 8, 8)
        out.square().sum().backward()
        assert all(parameter.grad.any() for parameter in layer.parameters())


def test_shifts_that_are_no_number_sample_nothing(ops):
    tensors = random_case(CASES[0])
    tensors["offset"][:, :2] = float("nan")  # the first kernel cell
    out = ops.deform_conv2d(tensors["x"], tensors["offset"], tensors["weight"], *CASES[0][1:])
    weight, offset = tensors["weight"].clone(), tensors["offset"].nan_to_num(0)
    weight[:, :, 0, 0] = 0
    torch.testing.assert_close(out, ops.deform_conv2d(tensors["x"], offset, weight, *CASES[0][1:]))


def test_nothing_but_no_number_does_not_crash(ops):
    leaf = torch.randn(2, 64, 40, 50, requires_grad=True)
    offset = torch.full((2, 18, 40, 50), float("nan"), requires_grad=True)
    weight = torch.randn(8, 64, 3, 3, requires_grad=True)
    out = ops.modulated_deform_conv2d(leaf, offset, torch.ones(2, 9, 40, 50), weight, None, 1, 1)
    out.sum().backward()
    assert not out.any()
    assert not leaf.grad.any()


def test_version_2_reads_larger_maps_from_their_beginning(ops):
    """What mmcv's kernel does with maps of a finer level, which DyHead hands over."""
    case = CASES[0]
    tensors = random_case(case)
    generator = torch.Generator().manual_seed(5)
    tensors["offset"] = torch.randn(2, 18, 14, 16, dtype=torch.float64, generator=generator)
    tensors["mask"] = torch.rand(2, 9, 14, 16, dtype=torch.float64, generator=generator)
    names = ("x", "offset", "mask", "weight", "bias")
    ours, theirs = leaves(tensors, names), leaves(tensors, names)
    out = ops.modulated_deform_conv2d(*ours.values(), *case[1:])
    read = {
        name: torch.stack(
            [image.reshape(-1)[: planes * 7 * 8].reshape(planes, 7, 8) for image in theirs[name]]
        )
        for name, planes in (("offset", 18), ("mask", 9))
    }
    expected = reference(*{**theirs, **read}.values(), *case[1:])
    assert_same_gradients(ours, theirs, out, expected)
