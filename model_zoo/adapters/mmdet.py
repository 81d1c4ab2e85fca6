"""Detectors of mmdet: a JSON config and safetensors weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import safetensors.torch
import torch

from composition import detections
from composition.detections import Detections
from composition.errors import UserError
from model_zoo import bundle
from model_zoo.adapters import mmdet_config
from model_zoo.adapters.base import Image, InferenceSettings
from model_zoo.adapters.preprocessing import Placement, Preprocessor, place
from model_zoo.adapters.torch_support import (
    device_of,
    largest_batch,
    placed,
    predicting,
    to_numpy,
    upload,
)
from model_zoo.bundle import InputSpec, Manifest, OutputSpec
from model_zoo.mmdet_runtime import build_model

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


class MMDetDetector:
    """Any box detector of mmdet behind the protocol of `model_zoo.adapters.base`.

    Args:
        folder: The bundle: ``config.json`` and ``model.safetensors``.
        manifest: Its manifest. Colour order, mean and std repeat what the
            config's data preprocessor does and must agree with it.
        settings: Replaces the config's own score threshold and number of boxes.

    Raises:
        UserError: The config is unsafe or cannot be built, the weights do not
            fit it, the classes are not as many as the vocabulary's.
    """

    def __init__(self, folder: Path, manifest: Manifest, settings: InferenceSettings) -> None:
        self._device = device_of(settings.device)
        self._model = placed(read_model(folder, manifest, settings), self._device)
        self._vocabulary = manifest.vocabulary
        self._input = manifest.input
        self._settings = settings
        self._lock = Lock()  # the preprocessor has one scratch memory
        # the model's data preprocessor takes raw BGR and does the rest itself
        self._preprocessor = Preprocessor(
            manifest.input.model_copy(update={"color": "bgr", "mean": (0.0,) * 3, "std": (1.0,) * 3})
        )

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Class names in the order of the class ids."""
        return self._vocabulary

    def predict(self, images: Sequence[Image]) -> Detections:
        """Detects objects in a batch; see `model_zoo.adapters.base.Detector`."""
        most = largest_batch(self._device)
        tables: list[Detections] = []
        for start in range(0, len(images), most):
            tables += self._tables(start, images[start : start + most])
        return detections.concatenate(tables) if tables else detections.empty()

    def _tables(self, start: int, images: Sequence[Image]) -> list[Detections]:
        """The rows of each image of one forward pass; the first image has the position ``start``."""
        pixels = np.empty((len(images), 3, self._input.height, self._input.width), np.float32)
        with self._lock:
            placements = [
                self._preprocessor.fill(image, target) for image, target in zip(images, pixels, strict=True)
            ]
        with predicting(self._device, self._settings):
            samples = _forward(self._model, upload(pixels, self._device), placements)
        return [
            self._table(start + position, sample.pred_instances, placement)
            for position, (sample, placement) in enumerate(zip(samples, placements, strict=True))
        ]

    def _table(self, position: int, instances: Any, placement: Placement) -> Detections:
        """The rows of one image, sorted."""
        boxes = getattr(instances.bboxes, "tensor", instances.bboxes)  # some heads return box structures
        scores = to_numpy(instances.scores)
        table = detections.make(
            np.full(len(scores), position),
            placement.to_image(to_numpy(boxes)),
            scores,
            to_numpy(instances.labels),
        )
        x1, y1, x2, y2 = table.boxes.T
        kept = table[(table.score >= self._settings.score_floor) & (x2 > x1) & (y2 > y1)]
        return detections.sort(kept)[: self._settings.max_detections]


def read_model(folder: Path, manifest: Manifest, settings: InferenceSettings) -> Any:
    """Builds the network of a bundle.

    Args:
        folder: The bundle, already verified.
        manifest: Its manifest.
        settings: Replaces the config's own score threshold and number of boxes.

    Returns:
        mmdet's ``BaseDetector`` on the CPU, in training mode.

    Raises:
        UserError: As `MMDetDetector`.
    """
    source = f"bundle {manifest.name!r}: {CONFIG}"
    document = mmdet_config.parse(_read(folder, manifest, CONFIG), source)
    config = mmdet_config.model_part(document, source)
    if mmdet_config.normalised(manifest.input, config) != manifest.input:
        raise UserError(
            f"bundle {manifest.name!r}: 'input' of the manifest and model.data_preprocessor of {CONFIG} "
            "disagree on colour order, mean or std",
            "Add the detector again.",
        )
    state = _parse_weights(_read(folder, manifest, WEIGHTS), f"bundle {manifest.name!r}: {WEIGHTS}")
    return load_model(_with_settings(config, settings), state, manifest.vocabulary, source)


def load_model(
    config: Mapping[str, Any],
    state: Mapping[str, torch.Tensor],
    vocabulary: Sequence[str],
    source: str,
) -> Any:
    """Builds a detector and fills in its weights, strictly.

    Args:
        config: From `mmdet_config.model_part`.
        state: Key to weight; exactly the keys and shapes of the model.
        vocabulary: Class names that the heads must have.
        source: Who says so, for error texts.

    Returns:
        mmdet's ``BaseDetector`` on the CPU, in training mode.

    Raises:
        UserError: Names the first key and both shapes, or both class counts.
    """
    _check_class_counts(mmdet_config.class_counts(config), vocabulary, source)
    try:
        model = build_model(config)
    except Exception as error:  # whatever a constructor chokes on, the config is to blame
        raise UserError(
            f"{source}: mmdet cannot build this model: {str(error).strip() or type(error).__name__}",
            "Check the config against the mmdet version that `detcompose doctor` shows.",
        ) from error
    if not isinstance(model, _base_detector()):
        raise UserError(
            f"{source}: model.type: {type(model).__name__} is not a detector", mmdet_config.CONVERT
        )
    _check_class_counts(_built_class_counts(model), vocabulary, source)
    _check_state({key: tuple(value.shape) for key, value in model.state_dict().items()}, state, source)
    model.load_state_dict(state, strict=True)
    return model


def write_mmdet_bundle(
    folder: Path,
    name: str,
    model_config: Mapping[str, Any],
    state_dict: Mapping[str, torch.Tensor],
    vocabulary: Sequence[str],
    input: InputSpec,
    provenance: Mapping[str, Any] | None = None,
    license: str = "unknown",
) -> Manifest:
    """Writes a bundle that `MMDetDetector` reads, after trying it.

    Args:
        folder: Where it shall lie.
        name: Short name of the detector.
        model_config: The ``model`` part of an mmdet config.
        state_dict: Its weights, on any device.
        vocabulary: Class names in order.
        input: Size, resize and padding; colour order, mean and std are taken
            from the config's data preprocessor.
        provenance: Where it comes from, JSON values.
        license: Licence of the weights.

    Returns:
        The manifest as written.

    Raises:
        UserError: Config, weights and vocabulary do not fit one another.
    """
    source = f"detector {name!r}"
    config = mmdet_config.model_part({"model": model_config}, source)
    # models that share layers between levels name the same memory twice, which safetensors refuses
    state = {key: value.detach().cpu().clone().contiguous() for key, value in state_dict.items()}
    _try(load_model(config, state, vocabulary, source), input, source)
    return bundle.write(
        folder,
        name=name,
        adapter="mmdet",
        vocabulary=tuple(vocabulary),
        input=mmdet_config.normalised(input, config),
        output=OutputSpec(nms_iou=None),  # the config's test_cfg says how
        files={
            CONFIG: json.dumps({"model": config}, indent=1, sort_keys=True).encode() + b"\n",
            WEIGHTS: safetensors.torch.save(state),
        },
        provenance=provenance,
        license=license,
    )


def _forward(model: Any, pixels: torch.Tensor, placements: Sequence[Placement]) -> list[Any]:
    """Raw BGR pixels, (N, 3, H, W) float32, to mmdet's samples with boxes in network pixels."""
    from mmdet.structures import DetDataSample

    samples = [DetDataSample(metainfo=_metainfo(*item)) for item in enumerate(placements)]
    batch = model.data_preprocessor({"inputs": list(pixels), "data_samples": samples}, training=False)
    # not rescaled by mmdet: its heads divide by one scale and know no offset, we know both
    results: list[Any] = model.predict(batch["inputs"], batch["data_samples"], rescale=False)
    return results


def _metainfo(position: int, placement: Placement) -> dict[str, Any]:
    shape = (
        round(placement.scale_y * placement.height) + placement.top,
        round(placement.scale_x * placement.width) + placement.left,
    )
    return {
        "img_id": position,
        "ori_shape": (placement.height, placement.width),
        "img_shape": shape,  # heads clip boxes to it, transformers mask what lies beyond
        "scale_factor": (placement.scale_x, placement.scale_y),
    }


def _try(model: Any, spec: InputSpec, source: str) -> None:
    """One prediction on a grey image: some models of mmdet build, but do not predict."""
    pixels = torch.full((1, 3, spec.height, spec.width), 128.0)
    try:
        with torch.inference_mode():
            _forward(model.eval(), pixels, [place(spec, spec.width, spec.height)[0]])
    except Exception as error:
        raise UserError(
            f"{source}: the model does not predict at {spec.width} x {spec.height}: "
            f"{type(error).__name__}: {str(error).strip()}",
            "Use another input size, or a model that this mmdet runs: `detcompose doctor` tells its version.",
        ) from error


def _with_settings(config: dict[str, Any], settings: InferenceSettings) -> dict[str, Any]:
    """The config with the caller's threshold and number of boxes."""
    override = {"score_thr": settings.score_floor, "max_per_img": settings.max_detections}
    test = config["test_cfg"]
    if isinstance(test.get("rcnn"), dict):  # two stages: proposals keep their own limits
        test = {**test, "rcnn": {**test["rcnn"], **override}}
    else:
        test = {**test, **override}
    return {**config, "test_cfg": test}


def _base_detector() -> Any:
    from mmdet.models import BaseDetector

    return BaseDetector


def _built_class_counts(model: Any) -> dict[str, int]:
    """What the heads made of the config: some have a default number of classes."""
    heads = [getattr(model, "bbox_head", None), getattr(getattr(model, "roi_head", None), "bbox_head", None)]
    parts: list[Any] = []
    for head in heads:
        parts.extend(head if isinstance(head, torch.nn.ModuleList) else [head])
    counts = [part.num_classes for part in parts if isinstance(getattr(part, "num_classes", None), int)]
    return {f"number of classes of box head {i + 1}": count for i, count in enumerate(counts)}


def _check_class_counts(counts: Mapping[str, int], vocabulary: Sequence[str], source: str) -> None:
    for key, count in counts.items():
        if count != len(vocabulary):
            raise UserError(
                f"{source}: {key} is {count}, but the vocabulary has {len(vocabulary)} class names",
                "Give exactly the class names that the model was trained with, in their order.",
            )


def _check_state(
    expected: Mapping[str, tuple[int, ...]], state: Mapping[str, torch.Tensor], source: str
) -> None:
    way_out = "Give the weights that belong to this config."
    for key, shape in expected.items():
        if key not in state:
            missing = len(expected.keys() - state.keys())
            raise UserError(
                f"{source}: the weights lack {key!r} of shape {list(shape)} (and {missing - 1} more)", way_out
            )
        if tuple(state[key].shape) != shape:
            raise UserError(
                f"{source}: weight {key!r} has shape {list(state[key].shape)}, not {list(shape)}",
                way_out,
            )
    unexpected = [key for key in state if key not in expected]
    if unexpected:
        raise UserError(
            f"{source}: the weights hold {unexpected[0]!r} of shape {list(state[unexpected[0]].shape)}, "
            f"which the config does not know (and {len(unexpected) - 1} more)",
            way_out,
        )


def _read(folder: Path, manifest: Manifest, name: str) -> bytes:
    file = bundle.listed_file(folder, manifest, name)
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}", "Add the detector again.") from None


def _parse_weights(content: bytes, source: str) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise UserError(f"{source} is not a safetensors file: {error}", "Add the detector again.") from None
