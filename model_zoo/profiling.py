"""How large a detector is: parameters, operations of a forward pass, bytes.

Counted, not timed; what cannot be counted honestly is None. A multiplication
with its addition is 2 operations everywhere. Parameters are what training
would change; ONNX files have batch norm folded into the convolutions, so that
the same network has slightly fewer there, and darknet's weights count the
statistics of batch norm in.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from model_zoo import bundle
from model_zoo.adapters.base import InferenceSettings
from model_zoo.adapters.onnx_file import load_graph
from model_zoo.bundle import Manifest

_DECIDING = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}
# larger tensors are weights, smaller ones may be limits and factors of the post-processing
_SMALLEST_WEIGHT = 8


@dataclass(frozen=True, slots=True)
class Profile:
    """Of one detector.

    Attributes:
        parameters: Trained numbers.
        flops: Operations of the convolutions and matrix products of one
            forward pass on one image at the input size, 2 a multiply-add.
        bytes: Size of the bundle's files.
    """

    parameters: int | None
    flops: int | None
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def profile(folder: Path, manifest: Manifest) -> Profile:
    """Counts a detector.

    Args:
        folder: The bundle, already verified.
        manifest: Its manifest.
    """
    counts = {"mmdet": _mmdet, "onnx": _onnx, "darknet": _darknet}.get(manifest.adapter)
    parameters, flops = counts(folder, manifest) if counts else (None, None)
    return Profile(parameters, flops, sum(entry.bytes for entry in manifest.files.values()))


def _mmdet(folder: Path, manifest: Manifest) -> tuple[int, int]:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from model_zoo.adapters.mmdet import read_model

    model = read_model(folder, manifest, InferenceSettings()).eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(torch.zeros(1, 3, manifest.input.height, manifest.input.width), mode="tensor")
    return sum(weight.numel() for weight in model.parameters()), int(counter.get_total_flops())


def _onnx(folder: Path, manifest: Manifest) -> tuple[int, int | None]:
    from model_zoo.adapters.onnx import MODEL

    model = load_graph(bundle.listed_file(folder, manifest, MODEL))
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    used = {name for node in model.graph.node if node.op_type in _COUNTED for name in node.input[1:]}
    parameters = sum(
        math.prod(tensor.dims)
        for name, tensor in weights.items()
        if tensor.data_type in _DECIDING
        and (name in used or (math.prod(tensor.dims) >= _SMALLEST_WEIGHT and len(tensor.dims) == 1))
    )
    return parameters, _graph_flops(model)


def _graph_flops(model: onnx.ModelProto) -> int | None:
    """Operations of the counted nodes; None where a shape is not known or a node hides in a subgraph."""
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    batch.dim_value = 1  # a name or another number before
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return None
    graph = inferred.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        shapes[value.name] = tuple(
            dim.dim_value if dim.HasField("dim_value") else 0 for dim in value.type.tensor_type.shape.dim
        )
    total = 0
    for node in graph.node:
        if any(attribute.HasField("g") for attribute in node.attribute):
            return None
        if node.op_type not in _COUNTED:
            continue
        weight, output = shapes.get(node.input[1], ()), shapes.get(node.output[0], ())
        if not weight or not output or 0 in output or 0 in weight:
            return None
        total += 2 * math.prod(output) * _depth(node, weight)
    return total


_COUNTED = ("Conv", "Gemm", "MatMul")


def _depth(node: onnx.NodeProto, weight: tuple[int, ...]) -> int:
    """Multiply-adds for one output value."""
    if node.op_type == "Conv":  # (out, in / groups, kernel ...)
        return math.prod(weight[1:])
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return weight[-1] if transposed else weight[-2] if len(weight) > 1 else weight[0]


def _darknet(folder: Path, manifest: Manifest) -> tuple[int, None]:
    from model_zoo.adapters import darknet, darknet_cfg

    # OpenCV's getFLOPS takes grouped convolutions for whole ones: Yolo-Fastest comes out at 12 GFLOPs
    network = darknet_cfg.parse(bundle.listed_file(folder, manifest, darknet.CFG))
    return network.parameters, None
