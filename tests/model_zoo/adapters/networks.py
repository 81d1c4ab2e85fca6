"""Small real networks whose detections can be worked out by hand.

Each answers the same boxes whatever it sees, and scores that grow with the
mean brightness of its input, so that every image of a batch has its own result.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 64
POINTS = 8 * 8 + 4 * 4 + 2 * 2


def save_onnx(
    path: Path,
    outputs: dict[str, np.ndarray],
    *,
    per_white: dict[str, np.ndarray] | None = None,
    batch: int | str = "n",
    side: int | str = SIDE,
    white: float = 1.0,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Writes a network.

    Args:
        path: Where.
        outputs: Name to values of one image, without the batch axis.
        per_white: Name to values that are added times the brightness (0..1).
        batch: Size, or a name for a free size.
        side: The same for the input height and width.
        white: Input value that means brightness 1.
        metadata: As exporters write it.
    """
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["brightness"]),
    ]
    constants = [numpy_helper.from_array(np.array([white], np.float32), "white")]
    values = []
    for name, fixed in outputs.items():
        kind = helper.np_dtype_to_tensor_dtype(fixed.dtype)
        growing = (per_white or {}).get(name, np.zeros_like(fixed))
        constants += [
            numpy_helper.from_array(np.array([-1] + [1] * fixed.ndim, np.int64), f"{name}/shape"),
            numpy_helper.from_array(fixed[None].astype(np.float32), f"{name}/fixed"),
            numpy_helper.from_array(growing[None].astype(np.float32), f"{name}/growing"),
        ]
        nodes += [
            helper.make_node("Reshape", ["brightness", f"{name}/shape"], [f"{name}/brightness"]),
            helper.make_node("Mul", [f"{name}/brightness", f"{name}/growing"], [f"{name}/product"]),
            helper.make_node("Add", [f"{name}/product", f"{name}/fixed"], [f"{name}/sum"]),
            helper.make_node("Cast", [f"{name}/sum"], [name], to=kind),
        ]
        values.append(helper.make_tensor_value_info(name, kind, [batch, *fixed.shape]))
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, side, side])],
        values,
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path


def yolov8(path: Path, rows: list[tuple[float, ...]], classes: int, *, transposed=False, **options) -> Path:
    """An ultralytics layout: rows of cx cy w h class score, at the first anchor points."""
    fixed = np.zeros((4 + classes, POINTS), np.float32)
    growing = np.zeros_like(fixed)
    # the others are boxes of no score around their anchor points, as a real network has them
    fixed[2:4] = 8
    centres = [np.mgrid[:n, :n][::-1].reshape(2, -1) * s + s / 2 for n, s in ((8, 8), (4, 16), (2, 32))]
    fixed[:2] = np.concatenate(centres, axis=1)
    for point, (cx, cy, w, h, class_id, score) in enumerate(rows):
        fixed[:4, point] = cx, cy, w, h
        growing[4 + int(class_id), point] = score
    if transposed:
        fixed, growing = fixed.T, growing.T
    return save_onnx(path, {"output0": fixed}, per_white={"output0": growing}, **options)


CFG = """
[net]
batch=64          # only training reads it
width=64
height=64
channels=3

[maxpool]
size=32
stride=32
padding=0

[convolutional]
filters=14
size=1
stride=1
pad=0
activation=linear

[yolo]
mask=0,1
anchors=32,16, 10,40, 60,60
classes=2
num=3
ignore_thresh=.7
"""


def save_darknet(folder: Path, *, cfg: str = CFG, extra: bytes = b"") -> Path:
    """A YOLO of 2 x 2 cells; two anchors and two classes, all weights zero but biases and one brightness.

    Anchor 0 is a box of 32 x 16 in the middle of each cell with the raw
    objectness 2 and classes 3 and -3; anchor 1 is never an object.
    """
    biases = np.array([0, 0, 0, 0, 2, 3, -3, 0, 0, 0, 0, -30, 0, 0], np.float32)
    kernels = np.zeros((14, 3), np.float32)
    kernels[4] = 1  # objectness rises with brightness
    header = np.array([0, 2, 0], np.int32).tobytes() + np.array([7], np.int64).tobytes()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.cfg").write_text(cfg)
    (folder / "net.weights").write_bytes(header + biases.tobytes() + kernels.tobytes() + extra)
    return folder / "net.cfg"
