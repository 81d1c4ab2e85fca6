"""How large a detector is: parameters, operations of a forward pass, bytes.

Counted, not timed; what cannot be counted honestly is None. A multiplication
with its addition is 2 operations everywhere. Parameters are what training
would change; ONNX files have batch norm folded into the convolutions, so that
the same network has slightly fewer there (RTMDet's more: convolutions that its
levels share are folded with a batch norm each), and darknet's weights count
the statistics of batch norm in.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from model_zoo import bundle
from model_zoo.adapters.base import InferenceSettings
from model_zoo.adapters.onnx_file import load_graph
from model_zoo.bundle import InputSpec, Manifest

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
    return parameters, _graph_flops(model, manifest.input)


def _graph_flops(model: onnx.ModelProto, spec: InputSpec) -> int | None:
    """Operations of the counted nodes; None where nodes hide in subgraphs."""
    if any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute):
        return None
    nodes = [node for node in model.graph.node if node.op_type in _COUNTED]
    shapes = _shapes(model, {name for node in nodes for name in (node.input[1], node.output[0])}, spec)
    batch = shapes[""][0]
    return sum(2 * math.prod(shapes[n.output[0]]) * _depth(n, shapes[n.input[1]]) for n in nodes) // batch


def _shapes(model: onnx.ModelProto, names: set[str], spec: InputSpec) -> dict[str, tuple[int, ...]]:
    """Shapes of values, and under "" of the input, seen in a run on a black picture.

    Shape inference gives up where padding is computed in the graph, as in EfficientNet.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    wanted = sorted(names - shapes.keys())
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in wanted)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (given,) = session.get_inputs()
    batch = given.shape[0] if isinstance(given.shape[0], int) else 1
    kind = np.float16 if "16" in given.type else np.float32
    pixels = np.zeros((batch, 3, spec.height, spec.width), kind)
    values = session.run(wanted, {given.name: pixels})
    seen = {name: value.shape for name, value in zip(wanted, values, strict=True)}
    return {**shapes, **seen, "": pixels.shape}


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
