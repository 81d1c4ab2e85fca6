"""What a person may choose when a student is fine-tuned, and the training that follows from it."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from composition.errors import UserError
from model_zoo.bundle import Manifest, first_problem
from model_zoo.student_configs import learning_rate, load_student
from model_zoo.student_settings import StudentSettings, available_students

RATE = 0.1
"""Part of the learning rate of a warm start (see `model_zoo.student_configs.learning_rate`).

A warm start has a full schedule to settle again, fine-tuning a few hundred
steps: a bccd student of 51.6 AP had 27.0 after 45 steps at the rate of a warm
start (0.001)."""


MOST_VIEWS = 30
"""Of each labelled image in a fine-tuning.

A few that are seen hundreds of times are learned by heart: with 3 images of
BCCD, each seen about 430 times, a student fell from 61.8 to 59.8 AP."""


class FinetuneSettings(BaseModel):
    """How a student is fine-tuned; what is empty is as it was when the student was trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(
        300,
        ge=1,
        le=1_000_000,
        description="Optimiser steps, rounded up to whole epochs. Few images make short epochs, so that "
        "steps say better than epochs how much is learned.",
    )
    human_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Part of the images shown that people have labelled, beside those with pseudo-labels "
        "only; they are repeated until it is reached. Empty: a half, or less where that would show each of "
        f"them more than {MOST_VIEWS} times.",
    )
    learning_rate: float | None = Field(
        None, gt=0, le=10, description="Peak learning rate. Empty: that of a student with a warm start."
    )
    batch_size: int = Field(8, ge=1, le=1024, description="Images per optimiser step.")
    architecture: str | None = Field(
        None, description="Architecture, for a detector that was not trained by detcompose."
    )
    image_size: int | None = Field(None, description="Side of the network input. Empty: the detector's.")
    augmentation: Literal["none", "light", "standard"] = Field(
        "light", description="As for a student: 'none', 'light' or 'standard'."
    )
    flip: bool | None = Field(None, description="Mirror half of the images. Empty: as the student did.")
    norm: Literal["trained", "frozen"] = Field(
        "trained", description="'frozen': batch norms stay as the student has them."
    )
    weights: Literal["soft", "hard"] = Field("soft", description="As for a student, of the pseudo-labels.")
    ignore: bool = Field(True, description="As for a student.")
    class_mask: bool = Field(True, description="As for a student.")
    budget_minutes: float | None = Field(None, gt=0, description="Stop after so many minutes of training.")
    processes: int = Field(1, ge=1, le=64, description="Training processes, one on each GPU.")
    amp: bool = Field(True, description="Mixed precision on GPUs that have it.")


def human_share(chosen: FinetuneSettings, images: int) -> float:
    """Part of the images shown that shall be people's, of whom there are so many images."""
    if chosen.human_share is not None:
        return chosen.human_share
    return min(0.5, MOST_VIEWS * images / (chosen.steps * chosen.batch_size))


def student_settings(manifest: Manifest, start: str, chosen: FinetuneSettings, shown: int) -> StudentSettings:
    """The settings of the training that fine-tunes a detector.

    Args:
        manifest: The detector's.
        start: Name or folder of its bundle.
        chosen: What was asked for.
        shown: Images that an epoch shows.

    Raises:
        UserError: Its architecture is not known or not one of ours.
    """
    training = manifest.provenance.get("training")
    earlier: dict[str, Any] = training.get("settings", {}) if isinstance(training, dict) else {}
    architecture = chosen.architecture or earlier.get("architecture")
    if architecture is None:
        raise UserError(
            f"it is not known which architecture detector {manifest.name!r} has",
            f"Say which: --architecture, one of {', '.join(available_students())}.",
        )
    steps = math.ceil(shown / chosen.batch_size)
    values = {
        "architecture": architecture,
        "image_size": chosen.image_size or max(manifest.input.width, manifest.input.height),
        "epochs": math.ceil(chosen.steps / steps),
        "warm_start": f"bundle:{start}",
        "flip": earlier.get("flip", True) if chosen.flip is None else chosen.flip,
        **chosen.model_dump(
            include={
                "batch_size",
                "augmentation",
                "norm",
                "weights",
                "ignore",
                "class_mask",
                "budget_minutes",
                "processes",
                "amp",
            }
        ),
    }
    try:
        settings = StudentSettings.model_validate({**values, "learning_rate": chosen.learning_rate})
    except ValidationError as error:
        raise UserError(
            f"detector {manifest.name!r} cannot be fine-tuned: "
            f"{first_problem(error).replace('Value error, ', '', 1)}",
            "Choose another value for it.",
        ) from None
    rate = chosen.learning_rate or learning_rate(load_student(settings.architecture), settings) * RATE
    return settings.model_copy(update={"learning_rate": rate})
