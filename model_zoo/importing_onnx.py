"""What an ONNX file tells about itself, and what its decoder implies for the rest."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from composition.errors import UserError
from model_zoo import onnx_metadata
from model_zoo.adapters.decoders import DECODERS, Outputs
from model_zoo.adapters.decoders.base import grid
from model_zoo.adapters.decoders.yolox import STRIDES
from model_zoo.adapters.onnx import OnnxNetwork, check_layout, describe
from model_zoo.adapters.onnx_file import load_graph
from model_zoo.bundle import InputSpec, OutputSpec
from model_zoo.onnx_metadata import Description

MAX_SIDE = 8192

_BY_255: dict[str, Any] = {"std": (255.0, 255.0, 255.0)}
_IMAGENET_BGR: dict[str, Any] = {"mean": (103.53, 116.28, 123.675), "std": (57.375, 57.12, 58.395)}

# how the makers of each layout feed their networks and suppress boxes
DEFAULTS: dict[str, tuple[dict[str, Any], OutputSpec]] = {
    # Megvii YOLOX: ValTransform (BGR, 0..255, padded with 114) and `nmsthre` of its experiments
    "yolox": (
        {"resize": "letterbox", "color": "bgr", "pad_value": 114},
        OutputSpec(decoder="yolox", nms_iou=0.65),
    ),
    # RangiLyu/nanodet: `normalize` of nanodet-m.yml, NMS of its head; stretched as in the ONNX
    # samples whose figures we reproduce (a centred letterbox measured 2 AP more on COCO photos)
    "nanodet": (
        {"resize": "stretch", "color": "bgr", **_IMAGENET_BGR},
        OutputSpec(decoder="nanodet", nms_iou=0.6),
    ),
    # dog-qiuqiu/FastestDet: its onnx-runtime example, which suppresses across classes
    "fastestdet": (
        {"resize": "stretch", "color": "bgr", **_BY_255},
        OutputSpec(decoder="fastestdet", nms_iou=0.35, nms_agnostic=True),
    ),
    # ultralytics: LetterBox and the `iou` default of its predict mode
    "yolov8": (
        {"resize": "letterbox_center", "color": "rgb", "pad_value": 114, **_BY_255},
        OutputSpec(decoder="yolov8", nms_iou=0.7),
    ),
    # the exports with suppression inside come from the YOLO family
    "end2end": (
        {"resize": "letterbox_center", "color": "rgb", "pad_value": 114, **_BY_255},
        OutputSpec(decoder="end2end", nms_iou=None),
    ),
}


def description(path: Path) -> Description | None:
    """What an export of ours says about itself; None for the files of others.

    Raises:
        UserError: Not an ONNX file, or damaged metadata.
    """
    properties = load_graph(path).metadata_props
    return onnx_metadata.parse({entry.key: entry.value for entry in properties}, path)


def class_names(path: Path) -> list[str] | None:
    """The class names that ultralytics writes into its exports; None where there are none.

    Raises:
        UserError: Not an ONNX file.
    """
    properties = {entry.key: entry.value for entry in load_graph(path).metadata_props}
    names = _literal(properties.get("names", ""))
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[number] for number in range(len(names))]
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def inspect(path: Path, vocabulary: Sequence[str], decoder: str | None) -> tuple[InputSpec, OutputSpec]:
    """Runs a network once and settles how it is fed and read.

    Args:
        path: The ONNX file.
        vocabulary: Its class names.
        decoder: Layout of its outputs; None = find out.

    Returns:
        Input and output part of the manifest.

    Raises:
        UserError: The file cannot be run, its layout is unknown or is not the
            decoder's, or the class list has another length.
    """
    if decoder is not None and decoder not in DECODERS:
        raise UserError(f"unknown decoder {decoder!r}", f"Choose one of: {', '.join(DECODERS)}.")
    network = OnnxNetwork(path)
    known = onnx_metadata.parse(network.metadata, path)
    if known is not None and decoder in (None, known.output.decoder):
        return _as_described(network, known, vocabulary)
    height, width = _size(network)
    size = InputSpec(height=height, width=width)
    noise = np.random.default_rng(0).random((network.batch or 1, 3, height, width))
    outputs = network.run(noise.astype(network.dtype))
    _check_metadata(network, vocabulary)
    decoder = decoder or _infer(path, outputs, size)
    if decoder == "yolox" and _in_pixels(outputs, size):
        raise UserError(
            f"{path}: its boxes are decoded already, decoder 'yolox' expects raw ones",
            "Export YOLOX without --decode_in_inference.",
        )
    check_layout(path, decoder, outputs, size, vocabulary)
    fields, output = DEFAULTS[decoder]
    return InputSpec(height=height, width=width, **fields), output


def _as_described(
    network: OnnxNetwork, known: Description, vocabulary: Sequence[str]
) -> tuple[InputSpec, OutputSpec]:
    """Checks what one of our own exports says of itself against the network."""
    spec, sides = known.input, (known.input.height, known.input.width)
    if (network.height or sides[0], network.width or sides[1]) != sides:
        raise UserError(
            f"{network.path}: its metadata says {spec.width} x {spec.height} pixels, "
            f"its input is {network.width} x {network.height}",
            "Export it again, or say how it is read with --decoder.",
        )
    if len(vocabulary) != len(known.vocabulary):
        raise UserError(
            f"{network.path}: the class list has {len(vocabulary)} names, "
            f"the network {len(known.vocabulary)} classes",
            "Leave out --classes: the file has its class names inside.",
        )
    decoder = known.output.decoder
    if decoder not in DECODERS:
        raise UserError(
            f"{network.path}: its metadata names decoder {decoder!r}",
            f"Choose one with --decoder: {', '.join(DECODERS)}.",
        )
    outputs = network.run(np.zeros((network.batch or 1, 3, *sides), network.dtype))
    check_layout(network.path, decoder, outputs, spec, vocabulary)
    return spec, known.output


def _size(network: OnnxNetwork) -> tuple[int, int]:
    height, width = network.height, network.width
    if height is None or width is None:
        match _literal(network.metadata.get("imgsz", "")):  # ultralytics writes "[640, 640]"
            case [int(height), int(width)]:
                pass
            case _:
                raise UserError(
                    f"{network.path}: the input has no fixed height and width",
                    "Export it with a fixed input size (only the batch size may be free).",
                )
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise UserError(
            f"{network.path}: an input of {width} x {height} pixels, at most {MAX_SIDE} a side can be used",
            "Export it with a smaller input size.",
        )
    return height, width


def _check_metadata(network: OnnxNetwork, vocabulary: Sequence[str]) -> None:
    """What ultralytics writes into its exports, where it is there."""
    task = network.metadata.get("task", "detect")
    if task != "detect":
        raise UserError(f"{network.path} is a model for {task!r}", "Export a model that detects boxes.")
    names = _literal(network.metadata.get("names", ""))
    if isinstance(names, dict | list) and len(names) != len(vocabulary):
        raise UserError(
            f"{network.path}: the class list has {len(vocabulary)} names, the network {len(names)} classes",
            "Give the class list that the network was trained with, in its order.",
        )


def _literal(text: str) -> Any:
    """A Python literal that an exporter wrote; None where it is none, or hostile."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _infer(path: Path, outputs: Outputs, size: InputSpec) -> str:
    fits = [name for name, decoder in DECODERS.items() if decoder.classes_in(outputs, size) is not None]
    if "yolox" in fits and "yolov8" in fits:
        # (batch, anchor points, columns) is either; only one has its boxes in pixels
        fits.remove("yolox" if _in_pixels(outputs, size) else "yolov8")
    if len(fits) > 1 and "end2end" in fits:
        # finished detections are a few hundred, not by chance one for each anchor point
        fits.remove("end2end")
    if len(fits) != 1:
        state = f"may be {' or '.join(fits)}" if fits else "are of no known layout"
        raise UserError(
            f"{path}: its outputs ({describe(outputs)}) {state}",
            f"Say which with --decoder: {', '.join(DECODERS)}.",
        )
    return fits[0]


def _in_pixels(outputs: Outputs, size: InputSpec) -> bool:
    """Whether (batch, anchor points, columns) begins with box centres in pixels.

    Decoded centres lie near their anchor points whatever the picture shows;
    raw ones are a few cells at most, far from most anchor points.
    """
    rows = next(iter(outputs.values()))
    cells, stride = grid(size, STRIDES, offset=0.5)
    if len(outputs) != 1 or rows.ndim != 3 or rows.shape[1] != len(cells):
        return False
    distance = np.abs(rows[0, :, 0].astype(np.float64) - (cells * stride)[:, 0])
    return bool(np.median(distance[np.isfinite(distance)]) < size.width / 8)
