"""Opening ONNX files that others wrote."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnx.external_data_helper import uses_external_data

from composition.errors import UserError
from model_zoo.adapters import onnx_limits
from model_zoo.cores import usable_cores

IMAGE_SIZE = "image_size"
"""Input of our own exports that has a default: height and width of the picture on the canvas."""

_FATAL_ONLY = 3  # onnxruntime's scale: 3 = errors; below it every unused initialiser is printed


def load_graph(path: Path) -> onnx.ModelProto:
    """Parses an ONNX file and takes weights out of the list of inputs.

    Old PyTorch exports list every weight as an input too; onnxruntime must then
    treat weights as variable and cannot fold or fuse them (NanoDet-m: 9 %
    slower).

    Raises:
        UserError: Not an ONNX file, one whose weights lie in other files, or
            one that `onnx_limits.check` refuses.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", "Check the path of the model.") from None
    except Exception as error:
        # protobuf's DecodeError, an OSError, a UnicodeDecodeError: all mean the same here
        raise UserError(f"{path} is not a readable ONNX file: {error}", "Export the model again.") from None
    if not model.graph.node or not model.graph.output:
        raise UserError(f"{path} is not a readable ONNX file: no network in it", "Export the model again.")
    nodes = [node for function in model.functions for node in function.node]
    tensors = itertools.chain(_tensors(model.graph), *map(_constants, nodes))
    outside = next((tensor.name for tensor in tensors if uses_external_data(tensor)), None)
    if outside is not None:
        raise UserError(
            f"{path}: weight {outside!r} lies in another file, a bundle needs all weights inside",
            "Convert it: onnx.save(onnx.load(MODEL), NEW) without save_as_external_data.",
        )
    onnx_limits.check(model, str(path))  # reads values, so that none may lie elsewhere
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights or value.name == IMAGE_SIZE]
    if len(inputs) != len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(inputs)
    return model


def open_session(path: Path, *, threads: int, device: str) -> onnxruntime.InferenceSession:
    """An onnxruntime session.

    Args:
        path: The file.
        threads: CPU threads inside one call; 0 = all cores.
        device: ``cuda`` or ``cuda:N`` uses CUDA where onnxruntime has it;
            anything else, and everything without it, the CPU.

    Raises:
        UserError: onnxruntime refuses the file.
    """
    model = load_graph(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = threads or usable_cores()
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=_providers(device))
    except Exception as error:
        # onnxruntime's exception classes are private and differ by kind of fault
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be run: {reason}", "Export the model again.") from None


def _providers(device: str) -> list[Any]:
    kind, _, index = device.partition(":")
    available = onnxruntime.get_available_providers()
    if kind == "cuda" and "CUDAExecutionProvider" in available:
        return [("CUDAExecutionProvider", {"device_id": int(index or 0)}), "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a graph: weights, constants, and those of nested graphs."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _constants(node)


def _constants(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that a node holds in its attributes, at any depth."""
    for attribute in node.attribute:
        # fields that are not set are empty messages: they hold no tensors
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for inner in (attribute.g, *attribute.graphs):
            yield from _tensors(inner)
