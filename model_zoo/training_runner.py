"""mmengine's Runner, set up for a student: quiet, on the device asked for, resumable."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from torch.utils.data import DataLoader

from model_zoo.cores import usable_cores
from model_zoo.student_configs import StudentConfig, learning_rate
from model_zoo.student_settings import StudentSettings
from model_zoo.training_data import EpochSampler, TrainingSet
from model_zoo.training_steps import SparingLoop

LOG = "training.log"
FINAL_RATE = 0.02
"""The cosine ends at this part of the peak learning rate."""


class QuietRunner(Runner):  # type: ignore[misc]  # mmengine ships no types
    """A Runner that writes one log file, nothing to stdout, and no config dumps.

    Args:
        device: Torch device; mmengine itself would take any GPU that it finds.
        **kwargs: As for mmengine's Runner.
    """

    def __init__(self, *, device: str, **kwargs: Any) -> None:
        self._asked_device = device
        super().__init__(**kwargs)
        with contextlib.suppress(FileNotFoundError):  # another process of this training was first
            Path(self._log_dir).rmdir()  # made by mmengine for its own log file

    def build_logger(
        self, log_level: int | str = "INFO", log_file: str | None = None, **kwargs: Any
    ) -> MMLogger:
        """Builds the file logger and takes its stdout handler away."""
        log_file = str(Path(self.work_dir) / LOG)
        logger: MMLogger = super().build_logger(log_level=log_level, log_file=log_file, **kwargs)
        logger.handlers = [handler for handler in logger.handlers if hasattr(handler, "baseFilename")]
        return logger

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: torch.nn.Module) -> torch.nn.Module:
        """Moves the model to the device, and joins the copies of several processes."""
        del model_wrapper_cfg
        model = model.to(self._asked_device)
        if get_world_size() == 1:
            return model
        device = torch.device(self._asked_device)
        if device.type == "cuda":
            model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        # every step begins with the first process's buffers, which are those that a checkpoint holds
        joined: torch.nn.Module = MMDistributedDataParallel(
            module=model, device_ids=[device] if device.type == "cuda" else None, broadcast_buffers=True
        )
        return joined

    def build_train_loop(self, loop: dict[str, Any]) -> SparingLoop:
        """Builds the loop that takes a batch in parts where memory is short."""
        return SparingLoop(runner=self, dataloader=self._train_dataloader, max_epochs=loop["max_epochs"])

    def dump_config(self) -> None:
        """Writes nothing: settings are in the fingerprint and in the bundle."""

    def _log_env(self, env_cfg: dict[str, Any]) -> None:
        """Logs nothing: mmengine would start compilers to ask for their versions."""


def build_runner(
    model: torch.nn.Module,
    student: StudentConfig,
    settings: StudentSettings,
    samples: TrainingSet,
    sampler: EpochSampler,
    *,
    work_dir: Path,
    seed: int,
    device: str,
    hooks: Sequence[Hook],
) -> Runner:
    """Builds the Runner of one training.

    Args:
        model: Initialised detector.
        student: Its architecture: optimiser and clipping.
        settings: Schedule.
        samples: Training data.
        sampler: Order of the samples.
        work_dir: Folder of the log file.
        seed: Seed of the training.
        device: Torch device.
        hooks: All hooks but mmengine's own for runtime information and
            learning-rate schedules.
    """
    steps = sampler.steps * settings.epochs
    rate = learning_rate(student, settings)
    warmup = min(round(steps * settings.warmup_fraction), steps - 1)
    optimizer = {**student.optimizer, "lr": rate}
    if optimizer["type"] == "AdamW":
        optimizer["fused"] = True  # one kernel for all parameters: saves 10 ms a step on a CPU
    schedulers: list[dict[str, Any]] = [
        {
            "type": "CosineAnnealingLR",
            "begin": warmup,
            "end": steps,
            "T_max": max(steps - warmup, 1),
            "eta_min": rate * FINAL_RATE,
            "by_epoch": False,
        }
    ]
    if warmup > 0:
        rise = {"type": "LinearLR", "start_factor": 0.02, "begin": 0, "end": warmup, "by_epoch": False}
        schedulers.insert(0, rise)
    name = f"detcompose-{uuid.uuid4().hex}"
    workers = loading_processes(device)
    loader = DataLoader(
        samples,
        batch_size=sampler.size,
        sampler=sampler,
        collate_fn=pseudo_collate,
        num_workers=workers,
        # samples depend on (seed, epoch, place) alone, so that any number of workers gives the same
        multiprocessing_context="spawn" if workers else None,
        persistent_workers=workers > 0,
        pin_memory=torch.device(device).type == "cuda",
    )
    return QuietRunner(
        device=device,
        model=model,
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg={"by_epoch": True, "max_epochs": settings.epochs},
        optim_wrapper={
            **precision(settings, device),
            "optimizer": optimizer,
            "clip_grad": {"max_norm": student.clip_norm},
            "paramwise_cfg": {"norm_decay_mult": 0.0, "bias_decay_mult": 0.0, "bypass_duplicate": True},
        },
        param_scheduler=schedulers,
        default_hooks=dict.fromkeys(("timer", "logger", "sampler_seed", "checkpoint")),
        custom_hooks=list(hooks),
        visualizer=Visualizer(name=name, vis_backends=None),
        default_scope="mmdet",
        randomness={"seed": seed},
        experiment_name=name,
    )


def precision(settings: StudentSettings, device: str) -> dict[str, Any]:
    """The optimiser wrapper: bfloat16 where a GPU has it, float32 elsewhere.

    bfloat16 has float32's range: the loss needs no scaling, so there is no
    scaler whose state a checkpoint would have to hold.
    """
    if (
        settings.amp
        and torch.device(device).type == "cuda"
        and torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        return {"type": "AmpOptimWrapper", "dtype": "bfloat16", "loss_scale": 1.0}
    return {"type": "OptimWrapper"}


def loading_processes(device: str) -> int:
    """Processes that load and augment: none where the network itself needs all processors."""
    return default_threads() if torch.device(device).type == "cuda" else 0


def averaging_hook(steps: int) -> EMAHook:
    """The moving average over about the last tenth of a run of so many steps.

    mmdet's exponential ramp (``ExpMomentumEMA``, from YOLOX): the average
    follows the weights closely at first and settles to ``momentum``. YOLOX's
    0.0001 would still remember the random start after a few hundred steps.
    """
    momentum = min(max(10.0 / steps, 0.0002), 0.2)
    return EMAHook(
        ema_type="ExpMomentumEMA",
        momentum=momentum,
        gamma=max(steps // 20, 1),
        update_buffers=True,
    )


def default_threads() -> int:
    """All cores that this process may use but one, at least 1 and at most 8.

    Small networks gain nothing from a second thread on two cores (YOLOX-nano
    at 320 px: 0.068 s an image with one, 0.079 s with two), and when anything
    else runs beside, threads that wait for each other cost ten times that.
    """
    return min(max(usable_cores() - 1, 1), 8)


@contextlib.contextmanager
def process_state(threads: int) -> Iterator[None]:
    """Sets torch's threads and puts back what mmengine changes in the process.

    Also forgets the loggers and message hubs that mmengine keeps forever, and
    closes the log file.
    """
    torch_threads, cv_threads = torch.get_num_threads(), cv2.getNumThreads()
    managers = (MMLogger, MessageHub, Visualizer, DefaultScope)
    known = {manager: set(manager._instance_dict) for manager in managers}
    # OMP_NUM_THREADS counts; torchrun sets it to 1 where nobody has
    own = (
        default_threads() // get_world_size()
        if get_world_size() > 1
        else min(default_threads(), torch_threads)
    )
    torch.set_num_threads(threads or max(own, 1))
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(cv_threads)
        for manager in managers:
            for name in set(manager._instance_dict) - known[manager]:
                instance = manager._instance_dict.pop(name)
                if isinstance(instance, MMLogger):
                    for handler in instance.handlers:
                        handler.close()
