"""Detectors of the EfficientDet family, by the package effdet."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from composition import detections
from composition.detections import Detections
from composition.errors import UserError
from model_zoo.adapters import network_file
from model_zoo.adapters.base import Image, InferenceSettings
from model_zoo.adapters.network_file import Network
from model_zoo.adapters.network_labels import lookup
from model_zoo.adapters.preprocessing import Placement, check_image
from model_zoo.adapters.torch_support import (
    device_of,
    largest_batch,
    placed,
    predicting,
    to_numpy,
    upload,
)
from model_zoo.bundle import InputSpec, Manifest

_STEP = 64  # pixels; the smallest networks of the family have sizes of odd multiples of it


class EffdetDetector:
    """An EfficientDet with effdet's own prediction bench behind it.

    Images are resized as effdet's transforms do: by Pillow, whose bilinear
    filter takes all pixels of a large image into account (OpenCV's looks at
    four), by one scale for both sides, cut to whole pixels.
    The bench takes the 5,000 best anchors of all levels and suppresses at IoU
    0.5 within each class, as effdet's figures are measured.

    Args:
        folder: The bundle, already verified.
        manifest: Its manifest.
        settings: Score floor, limits, threads, device.

    Raises:
        UserError: No such architecture, or weights that do not fit it.
    """

    def __init__(self, folder: Path, manifest: Manifest, settings: InferenceSettings) -> None:
        network, state = network_file.read(folder, manifest)
        spec = manifest.input
        size = (spec.height, spec.width)
        model = build(network.architecture, network.classes, size, biases=has_redundant_biases(state))
        network_file.load_state(model, state, f"bundle {manifest.name!r}")
        self._device = device_of(settings.device)
        self._bench = placed(_bench(model, network, settings), self._device)
        self._manifest, self._settings, self._network = manifest, settings, network
        self._mean, self._std = (np.array(of, np.float32)[:, None, None] for of in (spec.mean, spec.std))
        grey = np.full(3, spec.pad_value)
        self._padding = np.round(spec.mean) if network.pad_with_mean else grey
        self._lookup = lookup(network.numbers, network.classes)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Class names in the order of the class ids."""
        return self._manifest.vocabulary

    def predict(self, images: Sequence[Image]) -> Detections:
        """See `model_zoo.adapters.base.Detector.predict`."""
        tables = []
        most = largest_batch(self._device)
        for start in range(0, len(images), most):
            chunk = images[start : start + most]
            pixels, placements = self.prepare(chunk)
            with predicting(self._device, self._settings):
                inside = _inside(placements).to(self._device)
                # boxes are clipped to the picture before suppression, as in effdet's own evaluation
                info = {"img_scale": torch.ones(len(chunk), device=self._device), "img_size": inside}
                rows = to_numpy(self._bench(upload(pixels, self._device), info)).astype(np.float32)
            numbers = range(start, start + len(chunk))
            tables += [self._table(*one) for one in zip(numbers, rows, placements, strict=True)]
        return detections.concatenate(tables)

    def prepare(
        self, images: Sequence[Image]
    ) -> tuple[np.ndarray[Any, np.dtype[np.float32]], list[Placement]]:
        """(N, 3, height, width) float32 network input, and where the images lie in it."""
        spec = self._manifest.input
        pixels = np.empty((len(images), 3, spec.height, spec.width), np.float32)
        return pixels, [self._fill(*pair) for pair in zip(images, pixels, strict=True)]

    def _fill(self, image: Image, out: Any) -> Placement:
        check_image(image)
        target_height, target_width = out.shape[1:]
        height, width = image.shape[:2]
        scale = min(target_height / height, target_width / width)
        size = max(1, int(width * scale)), max(1, int(height * scale))
        canvas = np.empty((target_height, target_width, 3), np.uint8)
        canvas[:] = self._padding
        resized = PIL.Image.fromarray(image).resize(size, PIL.Image.Resampling.BILINEAR)
        canvas[: size[1], : size[0]] = resized
        np.subtract(canvas.transpose(2, 0, 1), self._mean, out=out)
        out /= self._std
        return Placement(scale, scale, 0, 0, width, height)

    def _table(self, position: int, rows: Any, placement: Placement) -> Detections:
        # x1 y1 x2 y2 score class, the class counted from 1; what is left over of the fixed number is 0
        rows = rows[rows[:, 5] >= 1]
        class_id = self._lookup[rows[:, 5].astype(np.int64) - 1]
        boxes = placement.to_image(rows[:, :4])
        has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        kept = has_area & (class_id >= 0) & (rows[:, 4] >= max(self._settings.score_floor, 1e-12))
        found = detections.make(
            np.full(int(kept.sum()), position), boxes[kept], np.minimum(rows[kept, 4], 1), class_id[kept]
        )
        return detections.sort(found)[: self._settings.max_detections]


def _inside(placements: Sequence[Placement]) -> torch.Tensor:
    """(N, 2) float32 width and height of the pictures in network pixels."""
    return torch.tensor([[place.scale_x * place.width, place.scale_y * place.height] for place in placements])


def architectures() -> list[str]:
    """Names of the installed release's configs."""
    return list(_package().config.model_config.efficientdet_model_param_dict)


def plain_name(architecture: str) -> str:
    """A config's name out of what model hubs write: ``timm/tf_efficientdet_d0.in1k``."""
    return architecture.rpartition("/")[2].partition(".")[0]


def config_of(architecture: str) -> Any:
    """The config of an architecture, a copy.

    Raises:
        UserError: There is none.
    """
    if architecture not in architectures():
        raise UserError(
            f"effdet has no architecture {architecture!r}", f"It has: {', '.join(architectures())}."
        )
    return _package().get_efficientdet_config(architecture)


def has_redundant_biases(state: Mapping[str, Any]) -> bool:
    """Whether convolutions before a normalisation have a bias; effdet's trainer can switch that."""
    return any(key.startswith("box_net.conv_rep.0.") and key.endswith(".bias") for key in state)


def build(architecture: str, classes: int, size: tuple[int, int], *, biases: bool | None = None) -> Any:
    """An untrained network; nothing is downloaded.

    Args:
        architecture: One of `architectures`.
        classes: Number of classes.
        size: Height and width in pixels, multiples of 64.
        biases: See `has_redundant_biases`; None = as the architecture has it.

    Raises:
        UserError: No such architecture, or a size that it cannot have.
    """
    config = config_of(architecture)
    if any(side % _STEP for side in size):
        raise UserError(
            f"{architecture}: an input of {size[1]} x {size[0]} pixels",
            f"Height and width must be multiples of {_STEP}.",
        )
    config.num_classes = classes
    config.image_size = size
    if biases is not None:
        config.redundant_bias = biases
    return _package().EfficientDet(config, pretrained_backbone=False)


def input_spec(architecture: str, size: tuple[int, int] | None = None) -> tuple[InputSpec, bool]:
    """How effdet feeds an architecture, and whether it pads with the mean colour."""
    config = config_of(architecture)
    height, width = size or tuple(config.image_size)
    mean = config.get("mean", (0.485, 0.456, 0.406))
    std = config.get("std", (0.229, 0.224, 0.225))
    fill = config.get("fill_color", "mean")
    grey = round(255 * sum(mean) / 3) if fill == "mean" else int(fill)
    spec = InputSpec(
        height=height,
        width=width,
        resize="letterbox",
        color="rgb",
        pad_value=grey,
        mean=tuple(round(255 * value, 4) for value in mean),
        std=tuple(round(255 * value, 4) for value in std),
    )
    return spec, fill == "mean"


def _bench(model: Any, network: Network, settings: InferenceSettings) -> Any:
    bench = _package().DetBenchPredict(model)
    bench.max_det_per_image = settings.max_detections
    # a small network may have fewer anchors than effdet wants to look at
    candidates = len(bench.anchors.boxes) * network.classes
    bench.max_detection_points = min(bench.max_detection_points, candidates)
    return bench


def _package() -> Any:
    """effdet, without the warnings of what it compiles at import."""
    with warnings.catch_warnings():
        # "torch.jit.script is deprecated", once for each of its losses
        warnings.simplefilter("ignore")
        import effdet
    return effdet
