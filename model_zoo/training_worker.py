"""One process of a training in several; started by torchrun, see `model_zoo.training_processes`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from torch import distributed

from composition.errors import UserError
from model_zoo.student_configs import load_student, model_config
from model_zoo.student_settings import StudentSettings
from model_zoo.training_loop import run
from model_zoo.training_processes import JOB, RESULT, send, send_progress, write_result
from model_zoo.training_records import read_records, usable


def main(work_dir: Path) -> None:
    """Trains this process's part; the first one writes the result.

    Args:
        work_dir: Working folder of the training, with the job.
    """
    job = json.loads((work_dir / JOB).read_text())
    rank = int(os.environ["RANK"])
    device = job["devices"][rank]
    gpu = torch.device(device).type == "cuda"
    if gpu:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if gpu else "gloo")
    try:
        settings = StudentSettings.model_validate(job["settings"])
        student = load_student(settings.architecture)
        vocabulary = tuple(job["vocabulary"])
        records = read_records(
            Path(job["annotations"]), Path(job["image_root"]), vocabulary, job["other_categories"]
        )
        trained = run(
            student=student,
            config=model_config(student, len(vocabulary), from_scratch=settings.warm_start == "none"),
            settings=settings,
            vocabulary=vocabulary,
            records=usable(records, settings),
            work_dir=work_dir,
            seed=job["seed"],
            threads=job["threads"],
            device=device,
            warm_start_bundle=job["warm_start_bundle"] and Path(job["warm_start_bundle"]),
            on_progress=send_progress if rank == 0 else None,
            checkpoint_seconds=job["checkpoint_seconds"],
        )
        if rank == 0:
            write_result(work_dir / RESULT, trained)
        distributed.barrier()
    except UserError as error:
        send({"problem": error.problem, "way_out": error.way_out})
        sys.exit(1)
    finally:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
