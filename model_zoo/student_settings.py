"""What a person may choose about a student; the rest is in ``students/*.yaml``.

Embedded in the recipe and shown as a form, so every field carries its
description. Imports neither torch nor mmdet.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

STUDENTS_FOLDER = Path(__file__).with_name("students")
_WARM_START = re.compile(r"^(none|imagenet|bundle:.+)$")
_LATER = ("norm", "mixup", "processes")
"""Settings that earlier versions did not have."""


def available_students() -> tuple[str, ...]:
    """Names of the student architectures that are shipped, sorted."""
    return tuple(sorted(path.stem for path in STUDENTS_FOLDER.glob("*.yaml")))


class StudentSettings(BaseModel):
    """The student detector and how it is trained.

    The defaults suit a few hundred images and a CPU; on a GPU raise
    ``image_size``, ``epochs`` and ``batch_size``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: str = Field(
        "yolox_nano",
        description="Which detector to train: the name of a file in model_zoo/students, without .yaml.",
        json_schema_extra={"enum": list(available_students())},
    )
    image_size: int = Field(
        416,
        ge=64,
        le=2048,
        multiple_of=32,
        description="Side of the square network input in pixels, a multiple of 32. "
        "Cost grows with its square; small objects need it large.",
    )
    epochs: int = Field(30, ge=1, le=10_000, description="How often every image is shown.")
    batch_size: int = Field(8, ge=1, le=1024, description="Images per optimiser step.")
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=10,
        description="Peak learning rate. Empty: the architecture's own, scaled linearly to the batch size; "
        "a quarter of it when starting from a teacher.",
    )
    warm_start: str = Field(
        "none",
        description="Initial weights: 'none' (random), 'imagenet' (a pretrained backbone) or "
        "'bundle:<teacher>' (a teacher of the same architecture).",
    )
    augmentation: Literal["none", "light", "standard"] = Field(
        "light",
        description="'none': only resize; 'light': random scale, shift and colour; "
        "'standard': light, and mosaics of four images until the last epochs, which pays from some "
        "thousand steps on.",
    )
    flip: bool = Field(
        True,
        description="Mirror half of the training images. Switch off where mirrored objects do not exist "
        "(digits, text). Without effect when augmentation is 'none'.",
    )
    mixup: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Part of the training images over which another one, scaled, is laid half transparent, "
        "until the last epochs. Without effect when augmentation is 'none'.",
    )
    close_mosaic_epochs: int = Field(
        5, ge=0, description="Train the last so many epochs on whole images instead of mosaics or mixed ones."
    )
    warmup_fraction: float = Field(
        0.05, ge=0, le=0.5, description="Part of all steps over which the learning rate rises linearly."
    )
    ema: bool = Field(
        True, description="Keep and export a moving average of the weights (over about a tenth of the run)."
    )

    norm: Literal["trained", "frozen"] = Field(
        "trained",
        description="'frozen': batch norms keep the statistics and weights that the training starts with: "
        "for small batches, few images and gentle fine-tuning. Needs a warm start.",
    )

    weights: Literal["soft", "hard"] = Field(
        "soft",
        description="'soft': a box counts in the loss as much as its label is sure ('score', 'box_weight'); "
        "'hard': every box counts the same.",
    )
    ignore: bool = Field(
        True,
        description="Ignore regions do not teach that their class is absent; false: they are background.",
    )
    class_mask: bool = Field(
        True,
        description="An image teaches nothing about the absence of classes that nobody looked for on it; "
        "false: they are absent.",
    )

    budget_minutes: float | None = Field(
        None,
        gt=0,
        description="Stop after so many minutes of training, killed runs included, and keep the moving "
        "average as it is then. A stop-gap: the learning rate follows 'epochs' and has not come down yet. "
        "Empty: train all epochs.",
    )
    processes: int = Field(
        1,
        ge=1,
        le=64,
        description="Train in so many processes of one machine, one on each GPU; every batch is divided "
        "among them.",
    )
    amp: bool = Field(
        True, description="Mixed precision (bfloat16) on GPUs that have it; without effect on a CPU."
    )

    @field_validator("architecture")
    @classmethod
    def _architecture(cls, value: str) -> str:
        known = available_students()
        if value not in known:
            raise ValueError(f"there is no student architecture {value!r}; choose one of {', '.join(known)}")
        return value

    @field_validator("warm_start")
    @classmethod
    def _warm_start(cls, value: str) -> str:
        if not _WARM_START.match(value):
            raise ValueError(f"{value!r} is no warm start; write 'none', 'imagenet' or 'bundle:<teacher>'")
        return value

    @field_validator("norm")
    @classmethod
    def _norm(cls, value: str, info: ValidationInfo) -> str:
        if value == "frozen" and info.data.get("warm_start") == "none":
            raise ValueError("without a warm start there are no statistics worth keeping; write 'trained'")
        return value

    @field_validator("processes")
    @classmethod
    def _processes(cls, value: int, info: ValidationInfo) -> int:
        size = info.data.get("batch_size", value)
        if size % value:
            raise ValueError(f"{value} processes cannot share a batch of {size} images evenly")
        return value

    def decisive(self) -> dict[str, Any]:
        """What decides the student, as JSON values.

        A setting that earlier versions did not have counts where it is used, so
        that a student that does without is the same as theirs.
        """
        values = self.model_dump(mode="json")
        return {
            name: value
            for name, value in values.items()
            if name not in _LATER or value != type(self).model_fields[name].default
        }

    @property
    def warm_start_teacher(self) -> str | None:
        """The teacher named by ``bundle:<teacher>``, or None."""
        kind, _, teacher = self.warm_start.partition(":")
        return teacher if kind == "bundle" else None
