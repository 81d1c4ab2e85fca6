"""Detectors of torchvision: every builder of the installed release."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torchvision.models.detection import ssdlite
from torchvision.models.detection._utils import retrieve_out_channels

from composition import detections
from composition.detections import Detections
from composition.errors import UserError
from model_zoo.adapters import network_file
from model_zoo.adapters.base import Image, InferenceSettings
from model_zoo.adapters.network_labels import lookup
from model_zoo.adapters.preprocessing import check_image
from model_zoo.adapters.torch_support import (
    device_of,
    largest_batch,
    placed,
    predicting,
    to_numpy,
    upload,
)
from model_zoo.bundle import InputSpec, Manifest

SSDLITE = "ssdlite320_mobilenet_v3_large"


class TorchvisionDetector:
    """A detector whose network a builder of ``torchvision.models.detection`` makes.

    The builders resize and normalise themselves, to the sizes of the manifest:
    a range for most (short side, long side), a fixed size for SSD. They pad
    the images of a batch to the largest; here only images of equal size share
    a pass, so that no image's result depends on its neighbours. Masks and
    keypoints are not computed.

    Args:
        folder: The bundle, already verified.
        manifest: Its manifest.
        settings: Score floor, limits, threads, device.

    Raises:
        UserError: No such builder, or weights that do not fit it.
    """

    def __init__(self, folder: Path, manifest: Manifest, settings: InferenceSettings) -> None:
        network, state = network_file.read(folder, manifest)
        model = build(network.architecture, network.classes, manifest.input, wide_tail=has_wide_tail(state))
        network_file.load_state(model, state, f"bundle {manifest.name!r}")
        network_file.set_norm_eps(model, network.norm_eps)
        _configure(model, manifest, settings)
        self._device = device_of(settings.device)
        self._model = placed(model, self._device)
        self._manifest, self._settings = manifest, settings
        self._lookup = lookup(network.numbers, network.classes)
        self._thinnest = 0.0 if model.transform.fixed_size else 2 / model.transform.max_size

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Class names in the order of the class ids."""
        return self._manifest.vocabulary

    def predict(self, images: Sequence[Image]) -> Detections:
        """See `model_zoo.adapters.base.Detector.predict`."""
        by_size: dict[tuple[int, ...], list[int]] = {}
        for position, image in enumerate(images):
            check_image(image)
            by_size.setdefault(image.shape, []).append(position)
        tables = []
        most = largest_batch(self._device)
        with predicting(self._device, self._settings):
            for positions in by_size.values():
                for start in range(0, len(positions), most):
                    chunk = positions[start : start + most]
                    answers = self._model([self._tensor(images[position]) for position in chunk])
                    tables += [self._table(*pair) for pair in zip(chunk, answers, strict=True)]
        heights, widths = (np.array([image.shape[axis] for image in images]) for axis in (0, 1))
        found = (
            detections.clip(detections.concatenate(tables), widths, heights) if tables else detections.empty()
        )
        return detections.sort(found)

    def _tensor(self, image: Image) -> torch.Tensor:
        """(3, height, width) float32 in 0..1; the network's own transform does the rest."""
        height, width = image.shape[:2]
        needed = int(np.ceil(self._thinnest * max(height, width)))
        if min(height, width) < needed:
            # resized to the long side, nothing would be left of the short one: grey is put below or beside
            below, beside = max(0, needed - height), max(0, needed - width)
            grey = self._manifest.input.pad_value
            image = np.pad(image, ((0, below), (0, beside), (0, 0)), constant_values=grey)
        pixels = upload(np.array(image, order="C"), self._device)
        return pixels.permute(2, 0, 1).float().div_(255)

    def _table(self, position: int, answer: Mapping[str, torch.Tensor]) -> Detections:
        class_id = self._lookup[to_numpy(answer["labels"])]
        score, boxes = to_numpy(answer["scores"]), to_numpy(answer["boxes"])
        kept = (class_id >= 0) & (score >= self._settings.score_floor) & np.isfinite(boxes).all(axis=1)
        rows = np.flatnonzero(kept)[: self._settings.max_detections]
        return detections.make(
            np.full(len(rows), position), boxes[rows], np.minimum(score[rows], 1), class_id[rows]
        )


def architectures() -> list[str]:
    """Names of the installed release's detection builders."""
    names: list[str] = torchvision.models.list_models(module=torchvision.models.detection)
    return names


def build(architecture: str, classes: int, spec: InputSpec | None = None, *, wide_tail: bool = False) -> Any:
    """An untrained network; nothing is downloaded.

    Args:
        architecture: One of `architectures`.
        classes: Classes of the network, the background included.
        spec: Input size and normalisation; None = the builder's own.
        wide_tail: See `has_wide_tail`.

    Raises:
        UserError: No such builder.
    """
    if architecture not in architectures():
        raise UserError(
            f"torchvision {torchvision.__version__} has no detector {architecture!r}",
            f"It has: {', '.join(architectures())}.",
        )
    with warnings.catch_warnings():
        # "the size of the model is already fixed": set below, for all alike
        warnings.simplefilter("ignore")
        model = torchvision.models.get_model(
            architecture, weights=None, weights_backbone=None, num_classes=classes
        )
    if wide_tail and architecture == SSDLITE:
        _widen(model, classes)
    if spec is not None:
        transform = model.transform
        transform.image_mean = [value / 255 for value in spec.mean]
        transform.image_std = [value / 255 for value in spec.std]
        if spec.resize == "stretch":
            transform.fixed_size = (spec.width, spec.height)
        else:
            transform.fixed_size = None
            transform.min_size = (min(spec.height, spec.width),)
            transform.max_size = max(spec.height, spec.width)
    return model


def has_wide_tail(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether these are weights of an SSDlite that was trained from an ImageNet backbone.

    The builder halves the last stage of the backbone where it starts without
    one, as for its published weights.
    """
    last = state.get("backbone.features.1.3.0.weight")
    return last is not None and tuple(last.shape[:2]) == (960, 160)


def _widen(model: Any, classes: int) -> None:
    norm = partial(torch.nn.BatchNorm2d, eps=0.001, momentum=0.03)  # the builder's own
    backbone = torchvision.models.mobilenet_v3_large(weights=None, norm_layer=norm)
    model.backbone = ssdlite._mobilenet_extractor(backbone, 6, norm)
    channels = retrieve_out_channels(model.backbone, (320, 320))
    anchors = model.anchor_generator.num_anchors_per_location()
    model.head = ssdlite.SSDLiteHead(channels, anchors, classes, norm)


def input_spec(model: Any) -> InputSpec:
    """How a builder's network is fed, from its own transform."""
    transform = model.transform
    fixed = transform.fixed_size
    width, height = fixed or (transform.max_size, transform.min_size[-1])
    return InputSpec(
        height=height,
        width=width,
        resize="stretch" if fixed else "letterbox",
        color="rgb",
        pad_value=114,
        mean=tuple(round(value * 255, 4) for value in transform.image_mean),
        std=tuple(round(value * 255, 4) for value in transform.image_std),
    )


def suppression(model: Any) -> float:
    """The IoU at which a network's own suppression is set."""
    return float(getattr(model, "roi_heads", model).nms_thresh)


def _configure(model: Any, manifest: Manifest, settings: InferenceSettings) -> None:
    """The caller's limits, where the network has its own; boxes only."""
    head = getattr(model, "roi_heads", model)
    head.score_thresh = settings.score_floor
    head.detections_per_img = settings.max_detections
    if manifest.output.nms_iou is not None:
        head.nms_thresh = manifest.output.nms_iou
    for extra in ("mask", "keypoint"):
        if hasattr(head, f"{extra}_roi_pool"):
            setattr(head, f"{extra}_roi_pool", None)
