"""Students with random weights that see much in every picture, written as bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_zoo.adapters.mmdet import write_mmdet_bundle
from model_zoo.adapters.preprocessing import Preprocessor
from model_zoo.mmdet_runtime import build_model
from model_zoo.student_configs import input_spec, load_student, model_config

# the last convolution before the classes, by head
_REGRESSORS = ("multi_level_conv_reg", "rtm_reg", "retina_reg", "atss_reg")
_CLASSIFIERS = ("multi_level_conv_cls", "rtm_cls", "retina_cls", "atss_cls")
_QUALITY = ("multi_level_conv_obj", "atss_centerness")


def write_lively(folder: Path, name: str, vocabulary: tuple[str, ...], size: int, images: list[Any]) -> None:
    """Writes a bundle whose scores spread over 0 to 1 and have no ties.

    Untrained weights give all anchors nearly the same score, which would leave the order, and so
    the suppression, to rounding. Batch norm takes its statistics from the images, and the class
    logits are brought to mean -2 and standard deviation 0.5; wilder ones would show how random
    weights amplify the last bit of a sum.
    """
    torch.manual_seed(0)
    student = load_student(name)
    config = model_config(student, len(vocabulary), from_scratch=True)
    model = build_model(config)
    model.init_weights()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    pixels = np.empty((len(images), 3, size, size), np.float32)
    preprocessor = Preprocessor(input_spec(student, size))
    for image, target in zip(images, pixels, strict=True):
        preprocessor.fill(image, target)
    batch = torch.from_numpy(pixels)
    with torch.no_grad():
        model.train()(batch, mode="tensor")
        model.eval()
        classes, boxes = model(batch, mode="tensor")[:2]
        for layer in _layers(model.bbox_head, _CLASSIFIERS):
            layer.weight *= 0.5 / torch.cat([level.flatten() for level in classes]).std()
            layer.bias.fill_(-2.0)
        for layer in _layers(model.bbox_head, _REGRESSORS):
            layer.weight *= 0.3 / torch.cat([level.flatten() for level in boxes]).std().clamp(min=0.3)
        for layer in _layers(model.bbox_head, _QUALITY):
            layer.bias.fill_(2.0)
    write_mmdet_bundle(
        folder,
        "lively",
        config,
        model.state_dict(),
        vocabulary,
        input_spec(student, size),
        {"student": name},
        "Apache-2.0",
    )


def _layers(head: Any, names: tuple[str, ...]) -> list[Any]:
    return [
        part
        for name in names
        if hasattr(head, name)
        for part in getattr(head, name).modules()
        if isinstance(part, torch.nn.Conv2d)
    ]
