"""Students as ONNX files that any runtime can run, and that come back as teachers.

The file takes RGB pixels 0..255 and returns finished detections in the layout
of decoder ``end2end``; normalisation, decoding and suppression are inside. A
second input, ``image_size``, has a default: the picture fills the canvas.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from composition.errors import UserError
from model_zoo import bundle
from model_zoo.adapters.base import InferenceSettings
from model_zoo.adapters.onnx_file import IMAGE_SIZE
from model_zoo.bundle import Manifest, OutputSpec, sha256_of
from model_zoo.onnx_metadata import METADATA, Description

SCORE_FLOOR = 0.01
"""The floor of evaluation: a lower one costs time in suppression and changes no figure."""
MAX_DETECTIONS = 300

INPUT = "images"
OUTPUTS = ("boxes", "scores", "labels")
# the newest that the exporter writes without a doubt, and that TensorRT, OpenVINO and old onnxruntimes read
_OPSET = 17
# scores of the same weights by two runtimes; kernels add in another order
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that was written.

    Attributes:
        path: Where.
        sha256: Of its bytes.
        bytes: Its size.
        description: What its metadata say.
        difference: Largest difference of a score between onnxruntime and torch
            on a generated image.
    """

    path: Path
    sha256: str
    bytes: int
    description: Description
    difference: float


def export_onnx(
    folder: Path,
    destination: Path,
    *,
    score_floor: float = SCORE_FLOOR,
    max_detections: int = MAX_DETECTIONS,
) -> Exported:
    """Writes a student's bundle as one ONNX file, after trying that it computes the same.

    Args:
        folder: A bundle with adapter ``mmdet``.
        destination: The file; replaced if it is there. Ends in ``.onnx``.
        score_floor: Detections at or below it do not leave the network.
        max_detections: At most so many an image, best first.

    Returns:
        What was written.

    Raises:
        UserError: Not a bundle of mmdet, a head that cannot be exported, a
            destination that cannot be written, or other results than torch's.
    """
    if destination.suffix.lower() != ".onnx":
        raise UserError(f"{destination} is no name for an ONNX file", "Let it end in .onnx.")
    if not destination.parent.is_dir():
        raise UserError(f"the folder {destination.parent} does not exist", "Make it, or choose another.")
    manifest = bundle.read(folder)
    if manifest.adapter != "mmdet":
        raise UserError(
            f"{manifest.name!r} is a detector of {manifest.adapter}: only those of mmdet are exported",
            f"Its own files lie in {folder}.",
        )
    detector, traced = _trace(folder, manifest, score_floor, max_detections)
    description = Description(
        vocabulary=manifest.vocabulary,
        # the graph swaps and normalises channels itself
        input=manifest.input.model_copy(update={"color": "rgb", "mean": (0.0,) * 3, "std": (1.0,) * 3}),
        output=OutputSpec(decoder="end2end", nms_iou=None),
        score_floor=score_floor,
        max_detections=max_detections,
        provenance={**manifest.provenance, "exported_from": manifest.digest},
        license=manifest.license,
    )
    model = _finished(traced, detector.rows, description)
    content = model.SerializeToString(deterministic=True)
    difference = _difference(detector, content, description)
    if difference > _TOLERANCE:
        raise UserError(
            f"{manifest.name!r}: onnxruntime's scores differ from torch's by {difference:.2g}",
            "Please report this with the versions that `detcompose doctor` shows.",
        )
    _write(destination, content)
    return Exported(destination, sha256_of(destination), len(content), description, difference)


def _trace(
    folder: Path, manifest: Manifest, score_floor: float, max_detections: int
) -> tuple[Any, onnx.ModelProto]:
    """The detector as a torch module and as a bare ONNX graph."""
    import torch

    from model_zoo.adapters.mmdet import read_model
    from model_zoo.exporting_graph import ExportedDetector

    model = read_model(folder, manifest, InferenceSettings())
    height, width = manifest.input.height, manifest.input.width
    detector = ExportedDetector(model, height, width, score_floor, max_detections)
    detector.requires_grad_(False)
    example = (torch.full((2, 3, height, width), 128.0), torch.tensor([[float(height), float(width)]]))
    names = (INPUT, IMAGE_SIZE, *OUTPUTS)
    with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory() as scratch:
        # the exporter's successor needs onnxscript; the rest warns of shapes that are fixed on purpose
        warnings.simplefilter("ignore")
        torch.onnx.export(
            detector,
            example,
            Path(scratch) / "traced.onnx",
            dynamo=False,
            opset_version=_OPSET,
            input_names=[INPUT, IMAGE_SIZE],
            output_names=list(OUTPUTS),
            dynamic_axes={name: {0: "batch"} for name in names},
        )
        return detector, onnx.load(Path(scratch) / "traced.onnx")


def _finished(model: onnx.ModelProto, rows: int, description: Description) -> onnx.ModelProto:
    """Adds the length of the outputs, the default of ``image_size`` and the metadata."""
    if any(value.name == IMAGE_SIZE for value in model.graph.input):
        canvas = np.array([[description.input.height, description.input.width]], np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(canvas, IMAGE_SIZE))
    for value in model.graph.output:  # the exporter does not see that it is a constant
        value.type.tensor_type.shape.dim[1].dim_value = rows
    onnx.helper.set_model_props(model, {METADATA: json.dumps(description.model_dump(mode="json"))})
    model.doc_string = "Object detector. Feeding it: see the metadata entry 'detcompose'."
    onnx.checker.check_model(model)
    return model


def _difference(detector: Any, content: bytes, description: Description) -> float:
    """Largest difference of a score between the two runtimes, on noise of several grains."""
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    pixels = _noise(description.input.height, description.input.width)
    size = np.array([pixels.shape[2:]], np.float32)
    with torch.no_grad():
        expected = detector(torch.from_numpy(pixels), torch.from_numpy(size))
    _, scores, _ = session.run(list(OUTPUTS), {INPUT: pixels})
    return float(np.abs(scores - expected[1].numpy()).max())


def _noise(height: int, width: int) -> NDArray[np.float32]:
    """(2, 3, height, width) float32 in 0..255, blotches of 32 and of 8 pixels."""
    random = np.random.default_rng(0)
    images = []
    for grain in (32, 8):
        rows, columns = -(-height // grain), -(-width // grain)
        coarse = random.integers(0, 256, (3, rows, columns)).astype(np.float32)
        images.append(coarse.repeat(grain, 1).repeat(grain, 2)[:, :height, :width])
    return np.stack(images)


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}", "Choose another place.") from None
    finally:
        temporary.unlink(missing_ok=True)
