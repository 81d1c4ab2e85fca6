"""What a training reports after every step and at its end. Imports nothing heavy."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Where a training stands after a step.

    Attributes:
        epoch: Epoch of this step, from 1.
        epochs: Epochs in all.
        step: Step within the epoch, from 1.
        steps: Steps of an epoch.
        loss: Total loss of this step.
        losses: Its parts by name.
        learning_rate: Rate that this step was taken with.
        seconds_elapsed: Time trained so far, killed runs included.
        seconds_left: Estimate from the steps of this process.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    losses: Mapping[str, float]
    learning_rate: float
    seconds_elapsed: float
    seconds_left: float


@dataclass(frozen=True, slots=True)
class Trained:
    """What came out of a training.

    Attributes:
        state: State dict of the moving average, or of the last step without one.
        steps: Optimiser steps done.
        planned_steps: Optimiser steps of the schedule; more than done when the
            budget was spent before.
    """

    state: dict[str, torch.Tensor]
    steps: int
    planned_steps: int


class Clock:
    """Time trained, over all processes that worked on this training."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.before = 0.0
        self.first_step = 0

    def resume(self, seconds: float, step: int) -> None:
        """Goes on from a checkpoint: so many seconds and steps lie behind."""
        self.started = time.monotonic()
        self.before, self.first_step = seconds, step

    def elapsed(self) -> float:
        """Seconds trained."""
        return self.before + time.monotonic() - self.started

    def left(self, done: int, steps: int) -> float:
        """Seconds to go at the mean speed of this process."""
        return (time.monotonic() - self.started) / max(done - self.first_step, 1) * (steps - done)
