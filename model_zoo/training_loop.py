"""One training run: model, warm start, data, hooks, mmengine's loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import get_rank, get_world_size

from model_zoo import imperfect_labels, training_checkpoint, warm_start
from model_zoo.mmdet_runtime import build_model, import_mmdet
from model_zoo.student_configs import StudentConfig
from model_zoo.student_settings import StudentSettings
from model_zoo.training import CALIBRATION_BATCHES
from model_zoo.training_data import EpochSampler, TrainingSet, shown_images
from model_zoo.training_hooks import (
    BudgetSpent,
    CheckpointHook,
    FrozenNormHook,
    LastEpochsHook,
    ProgressHook,
    StepSeedHook,
    bare,
    diverged,
    freeze_norms,
)
from model_zoo.training_progress import Clock, Trained, TrainingProgress
from model_zoo.training_records import Record, imperfect
from model_zoo.training_runner import averaging_hook, build_runner, process_state


def run(
    *,
    student: StudentConfig,
    config: Mapping[str, Any],
    settings: StudentSettings,
    vocabulary: tuple[str, ...],
    records: Sequence[Record],
    work_dir: Path,
    seed: int,
    threads: int,
    device: str,
    warm_start_bundle: Path | None,
    on_progress: Callable[[TrainingProgress], None] | None,
    checkpoint_seconds: float,
) -> Trained:
    """Trains, or goes on training; see `model_zoo.training.train`."""
    import_mmdet()  # its logger outlives this training
    with process_state(threads):
        model = _untrained(config, seed)
        if imperfect(records):
            imperfect_labels.enable(model)
        samples = TrainingSet(records, settings, seed)
        shown = shown_images(records)
        sampler = EpochSampler(shown, settings.batch_size, seed, (get_rank(), get_world_size()))
        if not (work_dir / training_checkpoint.FILE).exists():
            _start(model, student, vocabulary, warm_start_bundle, samples)
        if settings.norm == "frozen":
            freeze_norms(model)
        # a fifth to a quarter faster on a CPU, for every student; inputs follow the weights
        model.to(memory_format=torch.channels_last)
        clock = Clock()
        budget = None if settings.budget_minutes is None else settings.budget_minutes * 60
        averaged = averaging_hook(sampler.steps * settings.epochs) if settings.ema else None
        hooks = [
            StepSeedHook(seed, sampler),
            LastEpochsHook(samples.first_plain_epoch),
            ProgressHook(on_progress, clock),
            CheckpointHook(work_dir, checkpoint_seconds, averaged, clock, budget),
        ]
        runner = build_runner(
            model,
            student,
            settings,
            samples,
            sampler,
            work_dir=work_dir,
            seed=seed,
            device=device,
            hooks=[
                *hooks,
                *([averaged] if averaged else []),
                *([FrozenNormHook()] if settings.norm == "frozen" else []),
            ],
        )
        try:
            with contextlib.suppress(BudgetSpent):
                runner.train()
        except (RuntimeError, ValueError, AssertionError) as error:
            # some assigners refuse what is not a number before there is a loss to look at
            if all(value.isfinite().all() for value in runner.model.state_dict().values()):
                raise
            raise diverged(f"after step {runner.iter} of {runner.max_iters}") from error
        result = bare(runner.model) if averaged is None else averaged.ema_model.module
        return Trained(
            {name: value.detach().cpu() for name, value in result.state_dict().items()},
            runner.iter,
            runner.max_iters,
        )


def start_state(
    student: StudentConfig,
    config: Mapping[str, Any],
    settings: StudentSettings,
    vocabulary: tuple[str, ...],
    records: Sequence[Record],
    seed: int,
    warm_start_bundle: Path,
) -> dict[str, torch.Tensor]:
    """The weights that a training begins with; see `model_zoo.training.keep_start`."""
    import_mmdet()
    with process_state(1):
        model = _untrained(config, seed)
        _start(model, student, vocabulary, warm_start_bundle, TrainingSet(records, settings, seed))
        return {name: value.detach().cpu() for name, value in model.state_dict().items()}


def _untrained(config: Mapping[str, Any], seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    model: torch.nn.Module = build_model(config)
    model.init_weights()  # type: ignore[operator]  # mmengine's, which nn.Module does not have
    return model


def _start(
    model: torch.nn.Module,
    student: StudentConfig,
    vocabulary: tuple[str, ...],
    folder: Path | None,
    samples: TrainingSet,
) -> None:
    if samples.settings.warm_start == "imagenet":
        warm_start.from_imagenet(model, student)
    elif folder is not None and warm_start.from_bundle(model, student, vocabulary, folder).folded:
        warm_start.unfold_batch_norm(model, _batches(samples))


def _batches(samples: TrainingSet) -> Iterator[Any]:
    # of all processes' images: they start from the same weights, whatever their number
    sampler = EpochSampler(shown_images(samples.records), samples.settings.batch_size, samples.seed)
    keys = iter(sampler)
    for _ in range(min(CALIBRATION_BATCHES, sampler.steps)):
        yield pseudo_collate([samples[next(keys)] for _ in range(sampler.batch_size)])
