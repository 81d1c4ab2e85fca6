"""One training by several processes of a machine, one a GPU: torchrun and DistributedDataParallel.

Each process takes its part of every batch, and the gradients are averaged. The
samples are those of a training in one process; what differs is batch norm,
whose statistics are those of a part on processors (on GPUs they are
synchronised), so that the number of processes is a setting of the student.

The processes speak JSON lines: progress or an error, from the first one on its
standard output. They end with the process that started them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from composition.errors import UserError
from model_zoo.training_checkpoint import write_tensors
from model_zoo.training_progress import Trained, TrainingProgress

JOB = "job.json"
LOG = "processes.log"
RESULT = "trained.safetensors"
MARK = "detcompose:"
"""Lines of the first process that are messages begin so."""
WAIT_SECONDS = 20.0
"""Between asking the processes to end and killing them."""


def run_in_processes(
    job: Mapping[str, Any],
    work_dir: Path,
    devices: Sequence[str],
    on_progress: Callable[[TrainingProgress], None] | None,
) -> Trained:
    """Trains in one process for each device.

    Args:
        job: Arguments of `model_zoo.training.train` as JSON values, see
            `model_zoo.training_worker`.
        work_dir: Working folder of the training.
        devices: Torch devices, one a process.
        on_progress: Called after every step.

    Raises:
        UserError: What a process reported, or that one failed.
    """
    (work_dir / JOB).write_text(json.dumps({**job, "devices": list(devices)}))
    result = work_dir / RESULT
    result.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        f"--nproc-per-node={len(devices)}",
        *("-m", "model_zoo.training_worker", str(work_dir)),
    ]
    packages = str(Path(__file__).resolve().parents[1])
    paths = [packages, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    problem: UserError | None = None
    with (
        (work_dir / LOG).open("w") as log,
        _ended(
            subprocess.Popen(  # noqa: S603 (our own command line)
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                start_new_session=True,
            )
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith(MARK):
                log.write(line)
                continue
            message = json.loads(line.removeprefix(MARK))
            if "problem" in message:
                problem = problem or UserError(message["problem"], message["way_out"])
            elif on_progress:
                on_progress(TrainingProgress(**message))
        code = process.wait()
    if problem is not None:
        raise problem
    if code or not result.exists():
        raise UserError(
            f"training in {len(devices)} processes: one of them failed (exit code {code})",
            f"Read {work_dir / LOG}; run again to go on from the last checkpoint.",
        )
    return read_result(result)


@contextlib.contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Leaves no process behind, whatever happens here."""
    try:
        yield process
    finally:
        if process.poll() is None:
            # torchrun ends its own children when it is asked to end, but not when it is killed
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(WAIT_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def send(message: Mapping[str, Any]) -> None:
    """Tells the process that started this one."""
    print(MARK + json.dumps(message), flush=True)


def send_progress(progress: TrainingProgress) -> None:
    """As ``on_progress`` of a training in a process of its own."""
    send(asdict(progress))


def write_result(path: Path, trained: Trained) -> None:
    """Writes weights and steps, whole or not at all."""
    counts = {"steps": str(trained.steps), "planned_steps": str(trained.planned_steps)}
    write_tensors(path, trained.state, counts)


def read_result(path: Path) -> Trained:
    """Reads what `write_result` wrote."""
    with safe_open(path, "pt") as file:
        counts = file.metadata()
        state: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return Trained(state, int(counts["steps"]), int(counts["planned_steps"]))
