"""What happens around a training step: seeds, progress, checkpoints, the last epochs.

mmengine hooks; imported only when a training starts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import broadcast, get_rank, get_world_size, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from torch.nn.modules.batchnorm import _BatchNorm

from composition.errors import UserError
from model_zoo import training_checkpoint
from model_zoo.training_checkpoint import Checkpoint
from model_zoo.training_data import EpochSampler
from model_zoo.training_progress import Clock, TrainingProgress


def diverged(what: str) -> UserError:
    """The error for weights or a loss that are not finite any more."""
    return UserError(
        f"training diverged: {what}", "Lower student.learning_rate or raise student.warmup_fraction."
    )


class BudgetSpent(Exception):  # noqa: N818 - ends a training like StopIteration ends a loop
    """The time for a training is over; its state has been saved."""


class StepSeedHook(Hook):  # type: ignore[misc]  # mmengine ships no types
    """Makes every step's random numbers depend on (seed, step) alone.

    Together with the sampler and the data set, which do the same for samples,
    this is what makes a resumed run equal an uninterrupted one.
    """

    priority = "VERY_HIGH"

    def __init__(self, seed: int, sampler: EpochSampler) -> None:
        self.seed = seed
        self.sampler = sampler

    def before_train_epoch(self, runner: Any) -> None:
        """Tells the sampler which epoch comes and where in it a resumed run stands."""
        self.sampler.start(runner.epoch, runner.iter % self.sampler.steps)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seeds torch (dropout and the like) for this step."""
        del batch_idx, data_batch
        # one process draws what it always has; others must not draw the same for other images
        place = (self.seed, runner.iter, *([get_rank()] if get_rank() else []))
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))


class FrozenNormHook(Hook):  # type: ignore[misc]
    """Keeps the statistics of all batch norms as they are; `freeze_norms` keeps their weights.

    Statistics of small batches are noise, and few images look alike: a detector
    that knew more forgets it through them first.
    """

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Puts them into eval mode, which mmengine's loop ends at the start of every epoch."""
        del batch_idx, data_batch
        for norm in _batch_norms(runner.model):
            norm.eval()


def freeze_norms(model: torch.nn.Module) -> None:
    """Takes the weights of all batch norms out of a training: an optimiser leaves them alone then."""
    for norm in _batch_norms(model):
        norm.requires_grad_(False)


def bare(model: torch.nn.Module) -> torch.nn.Module:
    """The model itself, where several processes have it wrapped."""
    inner: torch.nn.Module = model.module if is_model_wrapper(model) else model  # type: ignore[assignment]
    return inner


def _batch_norms(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    return (module for module in model.modules() if isinstance(module, _BatchNorm))


class LastEpochsHook(Hook):  # type: ignore[misc]
    """Adds YOLOX's L1 box loss in the epochs without mosaics (arXiv:2107.08430, section 2.1)."""

    def __init__(self, first_epoch: int) -> None:
        self.first_epoch = first_epoch

    def before_train_epoch(self, runner: Any) -> None:
        """Switches by epoch number, so that a resumed run is right, too."""
        head = getattr(bare(runner.model), "bbox_head", None)
        if head is not None and hasattr(head, "use_l1"):
            head.use_l1 = runner.epoch >= self.first_epoch


class ProgressHook(Hook):  # type: ignore[misc]
    """Reports every step to the caller and stops a training that diverged."""

    priority = "LOW"

    def __init__(self, report: Callable[[TrainingProgress], None] | None, clock: Clock) -> None:
        self.report = report
        self.clock = clock
        self.rate = 0.0

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Keeps the learning rate of this step; schedulers move on before we report."""
        del batch_idx, data_batch
        self.rate = float(runner.optim_wrapper.get_lr()["lr"][0])

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        """Turns mmengine's log variables into a `TrainingProgress`."""
        del batch_idx, data_batch
        losses = {name: float(value.detach()) for name, value in (outputs or {}).items()}
        loss = losses.pop("loss")
        if not math.isfinite(loss):
            raise diverged(f"the loss of step {runner.iter + 1} of {runner.max_iters} is {loss}")
        if self.report is None:
            return
        done, steps = runner.iter + 1, len(runner.train_dataloader)
        self.report(
            TrainingProgress(
                epoch=runner.epoch + 1,
                epochs=runner.max_epochs,
                step=runner.iter % steps + 1,
                steps=steps,
                loss=loss,
                losses=losses,
                learning_rate=self.rate,
                seconds_elapsed=self.clock.elapsed(),
                seconds_left=self.clock.left(done, runner.max_iters),
            )
        )


class CheckpointHook(Hook):  # type: ignore[misc]
    """Saves the state every so many seconds, and takes it up again.

    Args:
        folder: The working folder.
        every_seconds: Least time between two checkpoints; the last step is
            always saved.
        averaged: The hook that keeps the moving average, or None.
        clock: Time trained so far.
        budget_seconds: Time that may be trained, or None.
    """

    priority = "VERY_LOW"

    def __init__(
        self,
        folder: Path,
        every_seconds: float,
        averaged: EMAHook | None,
        clock: Clock,
        budget_seconds: float | None,
    ) -> None:
        self.folder = folder
        self.every_seconds = every_seconds
        self.averaged = averaged
        self.clock = clock
        self.budget_seconds = math.inf if budget_seconds is None else budget_seconds
        self.saved_at = time.monotonic()

    def before_train(self, runner: Any) -> None:
        """Restores the newest checkpoint, if there is one.

        Raises:
            BudgetSpent: It was the last one.
        """
        checkpoint = training_checkpoint.load(self.folder)
        if checkpoint is None:
            return
        bare(runner.model).load_state_dict(checkpoint.model)
        if self.averaged is not None:
            self.averaged.ema_model.load_state_dict(checkpoint.ema)
        optimizer = runner.optim_wrapper.optimizer
        optimizer.load_state_dict(checkpoint.optimizer)
        for weight, state in optimizer.state.items():
            # the fused kernels walk through memory: moments must lie as their weights do (channels last)
            for key, value in state.items():
                if value.shape == weight.shape:
                    state[key] = torch.empty_like(weight, dtype=value.dtype, requires_grad=False).copy_(value)
        for scheduler, state in zip(runner.param_schedulers, checkpoint.schedulers, strict=True):
            scheduler.load_state_dict(state)
        loop = runner.train_loop
        loop._iter = checkpoint.step
        loop._epoch = checkpoint.step // len(loop.dataloader)
        self.clock.resume(checkpoint.seconds, checkpoint.step)
        runner.logger.info(f"resumed at step {checkpoint.step} of {runner.max_iters}")
        if checkpoint.seconds >= self.budget_seconds:
            raise BudgetSpent

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Saves when it is time, and after the last step.

        Raises:
            BudgetSpent: This was the last step, though not of the schedule.
        """
        del batch_idx, data_batch, outputs
        done, seconds = runner.iter + 1, self._elapsed()
        last = done == runner.max_iters or seconds >= self.budget_seconds
        if last or time.monotonic() - self.saved_at >= self.every_seconds:
            if is_main_process():
                self._save(runner, done, seconds)
            self.saved_at = time.monotonic()
        if last and done < runner.max_iters:
            runner.logger.info(f"the budget is spent after step {done} of {runner.max_iters}")
            runner.train_loop._iter = done
            raise BudgetSpent

    def _elapsed(self) -> float:
        """Seconds trained; with a budget by the first process's clock, as all must end together."""
        seconds = self.clock.elapsed()
        if math.isinf(self.budget_seconds) or get_world_size() == 1:
            return seconds
        agreed = torch.tensor([seconds], dtype=torch.float64)
        broadcast(agreed)
        return float(agreed)

    def _save(self, runner: Any, done: int, seconds: float) -> None:
        training_checkpoint.save(
            self.folder,
            Checkpoint(
                step=done,
                model=bare(runner.model).state_dict(),
                ema={} if self.averaged is None else self.averaged.ema_model.state_dict(),
                optimizer=runner.optim_wrapper.optimizer.state_dict(),
                schedulers=[scheduler.state_dict() for scheduler in runner.param_schedulers],
                seconds=seconds,
            ),
        )
