"""What an ONNX file may ask of this machine, checked before ONNX Runtime sees it.

A file of a few kilobytes can describe a graph of a billion nodes (functions
that call functions are written out when they are loaded), tensors of
terabytes, or operators that live in a library of somebody's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from composition.errors import UserError

MAX_NODES = 200_000
"""Nodes with all functions written out; the largest published detectors have about 10,000."""
MAX_TENSOR = 1 << 28
"""Values in one tensor that the graph computes from constants: 1 GB of floats."""
MAX_DEPTH = 64
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operators that ONNX Runtime brings along."""
_EXPORT = "Export the model again, with standard operators only."
# operators that make a tensor of the size that an input says, and which input that is
_SIZED = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1, "Tile": 1, "RandomUniform": 0, "OneHot": 1}
_Key = tuple[str, str]


def check(model: onnx.ModelProto, source: str) -> None:
    """Checks operators, number of nodes and sizes of tensors.

    Args:
        model: The parsed file.
        source: Its name, for error texts.

    Raises:
        UserError: Names the operator or tensor.
    """
    functions = {(function.domain, function.name): function for function in model.functions}
    _check_operators(model, functions, source)
    _check_count(model, functions, source)
    for graph_tensor in _weights(model.graph):
        _check_weight(graph_tensor, source)
    _check_sizes(model.graph, source)


def _check_operators(
    model: onnx.ModelProto, functions: Mapping[_Key, onnx.FunctionProto], source: str
) -> None:
    places = [model.graph.node, *(function.node for function in model.functions)]
    for node in (node for nodes in places for node in _nodes(nodes, source)):
        if node.domain not in DOMAINS and (node.domain, node.op_type) not in functions:
            raise UserError(
                f"{source}: operator {node.domain}.{node.op_type} is none of ONNX's own: it needs a library "
                "that would be loaded into this process",
                _EXPORT,
            )


def _check_count(model: onnx.ModelProto, functions: Mapping[_Key, onnx.FunctionProto], source: str) -> None:
    """Counts nodes as they are after functions are written out, without writing any out."""
    counted: dict[_Key, int] = {}
    open_: set[_Key] = set()

    def count(nodes: Iterator[onnx.NodeProto]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            total += 1 if key not in functions else function_size(key)
        return total

    def function_size(key: _Key) -> int:
        if key in open_ or len(open_) > MAX_DEPTH:
            raise UserError(f"{source}: function {key[1]!r} calls itself, or too deeply", _EXPORT)
        if key not in counted:
            open_.add(key)
            counted[key] = count(_nodes(functions[key].node, source))
            open_.discard(key)
        return counted[key]

    total = count(_nodes(model.graph.node, source))
    if total > MAX_NODES:
        raise UserError(f"{source}: its graph has {total:,} nodes; the limit is {MAX_NODES:,}", _EXPORT)


def _nodes(nodes: Iterator[onnx.NodeProto], source: str, depth: int = 0) -> Iterator[onnx.NodeProto]:
    """Every node, also of the graphs inside of nodes."""
    if depth > MAX_DEPTH:
        raise UserError(f"{source}: graphs within graphs, too deeply", _EXPORT)
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes(graph.node, source, depth + 1)


def _weights(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def _check_weight(tensor: onnx.TensorProto, source: str) -> None:
    """The shape of a weight and its bytes must belong together: a short file holds no large tensor."""
    sides = list(tensor.dims)
    if any(side < 0 for side in sides):
        raise UserError(f"{source}: weight {tensor.name!r} has the shape {sides}", _EXPORT)
    try:
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, ValueError):
        raise UserError(f"{source}: weight {tensor.name!r} is of unknown type", _EXPORT) from None
    # four bits a value is the least that ONNX stores
    needed = math.prod(sides) * kind.itemsize / (8 if kind.itemsize == 1 else 1)
    if tensor.HasField("raw_data") and needed > max(1, len(tensor.raw_data)) * 1.01:
        raise UserError(
            f"{source}: weight {tensor.name!r} of shape {sides} needs {int(needed):,} bytes, "
            f"the file has {len(tensor.raw_data):,}",
            "Fetch the file again.",
        )
    if not tensor.HasField("raw_data") and math.prod(sides) > 16 * max(1, tensor.ByteSize()):
        raise UserError(
            f"{source}: weight {tensor.name!r} of shape {sides} is not in the file", "Fetch it again."
        )


def _check_sizes(graph: onnx.GraphProto, source: str) -> None:
    """Tensors whose size is a constant of the file: they are made when it is opened."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            values = [part.t for part in node.attribute if part.name == "value"]
            constants |= dict(zip(node.output, values, strict=False))
    for node in graph.node:
        if node.op_type == "Range":
            _check_range(node, constants, source)
        place = _SIZED.get(node.op_type)
        if place is None or place >= len(node.input) or node.input[place] not in constants:
            continue
        sides = _integers(constants[node.input[place]])
        if math.prod(max(side, 1) for side in sides) > MAX_TENSOR:
            raise UserError(
                f"{source}: {node.op_type} {node.name!r} would make a tensor of {sides}: more than 1 GB",
                _EXPORT,
            )


def _check_range(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], source: str) -> None:
    if not all(name in constants for name in node.input):
        return
    begin, end, step = (float(np.ravel(numpy_helper.to_array(constants[name]))[0]) for name in node.input)
    if not step or abs((end - begin) / step) > MAX_TENSOR:
        raise UserError(f"{source}: Range {node.name!r} would make a tensor of more than 1 GB", _EXPORT)


def _integers(tensor: onnx.TensorProto) -> list[int]:
    if (
        tensor.data_type not in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
        or math.prod(tensor.dims) > 64
    ):
        return []
    return [int(side) for side in np.ravel(numpy_helper.to_array(tensor))]
