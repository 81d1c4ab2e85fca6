from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from composition.errors import UserError
from model_zoo import training_checkpoint
from model_zoo.bundle import Manifest
from model_zoo.student_settings import StudentSettings
from model_zoo.training import train
from tests.model_zoo.squares import CLASSES, doubt, train_squares, write_squares

ALONE = StudentSettings(
    architecture="atss_pico", image_size=64, epochs=3, batch_size=4, close_mosaic_epochs=0, learning_rate=1e-4
)
TWO = ALONE.model_copy(update={"processes": 2})
# killed the hard way after its fourth step; the processes that it started must end by themselves
CHILD = """
import os, signal, sys
from pathlib import Path
from tests.model_zoo.test_training_processes import TWO, train_parts

def report(progress):
    if (progress.epoch - 1) * progress.steps + progress.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)

train_parts(Path(sys.argv[1]), TWO, on_progress=report)
"""


def train_parts(folder: Path, settings: StudentSettings, **options: Any) -> Manifest:
    devices = ("cpu",) * settings.processes
    return train_squares(folder, settings, devices=devices, checkpoint_seconds=0.0, **options)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "bundle" / "model.safetensors")


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    """Without batch norm nothing depends on how a batch is divided, imperfect labels included.

    A part needs a positive or more: mmdet divides by one at least.
    """
    doubt(write_squares(tmp_path / "data", count=12))
    train_parts(tmp_path / "start", ALONE.model_copy(update={"epochs": 1}))
    frozen = {"warm_start": "bundle:start", "norm": "frozen", "batch_size": 12}
    seen: list[int] = []
    for name, settings in (("alone", ALONE), ("two", TWO)):
        train_parts(
            tmp_path / name,
            settings.model_copy(update=frozen),
            warm_start_bundle=tmp_path / "start" / "bundle",
            on_progress=lambda progress: seen.append(progress.epoch),
        )
    assert seen == [1, 2, 3, 1, 2, 3]
    start, alone, two = (weights(tmp_path / name) for name in ("start", "alone", "two"))
    moved = torch.cat([(alone[key] - start[key]).flatten() for key in alone])
    apart = torch.cat([(alone[key] - two[key]).flatten() for key in alone])
    assert float(apart.norm()) < 0.001 * float(moved.norm())


def test_killed_in_two_processes_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    doubt(write_squares(tmp_path / "data", count=12))
    whole = train_parts(tmp_path / "whole", TWO)
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path / "killed")], check=False)
    assert done.returncode == -signal.SIGKILL
    _wait_for_the_end_of(tmp_path / "killed" / "work")
    checkpoint = training_checkpoint.load(tmp_path / "killed" / "work")
    assert checkpoint is not None
    assert checkpoint.step < 9
    seen: list[int] = []
    resumed = train_parts(
        tmp_path / "killed",
        TWO,
        on_progress=lambda progress: seen.append((progress.epoch - 1) * progress.steps + progress.step),
    )
    assert seen == list(range(checkpoint.step + 1, 10))
    assert resumed.digest == whole.digest


def _wait_for_the_end_of(work: Path) -> None:
    for _ in range(240):
        found = [
            entry
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and str(work) in _command_line(entry)
        ]
        if not found:
            return
        time.sleep(0.25)
    raise AssertionError(f"processes of {work} are left: {found}")


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def test_what_goes_wrong_in_a_process_is_said_as_in_one(tmp_path: Path) -> None:
    write_squares(tmp_path / "data", count=12)
    Image.new("RGB", (32, 16)).save(tmp_path / "data" / "004.png")
    with pytest.raises(UserError, match=r"004\.png is 32 x 16 pixels, but its annotations are for 64 x 64"):
        train_parts(tmp_path / "bad", TWO)
    _wait_for_the_end_of(tmp_path / "bad" / "work")


def test_a_cancelled_training_leaves_no_process(tmp_path: Path) -> None:
    write_squares(tmp_path / "data", count=12)

    def cancel(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_parts(tmp_path / "cancelled", TWO, on_progress=cancel)
    _wait_for_the_end_of(tmp_path / "cancelled" / "work")


def test_processes_must_share_a_batch_evenly() -> None:
    with pytest.raises(ValueError, match="3 processes cannot share a batch of 8 images"):
        StudentSettings(batch_size=8, processes=3)


def test_one_process_is_no_setting_of_its_own(tmp_path: Path) -> None:
    assert "processes" not in StudentSettings().decisive()
    assert StudentSettings(processes=2).decisive()["processes"] == 2
    with pytest.raises(UserError, match=r"student\.processes is 2, but there are 1 devices"):
        train(
            settings=TWO,
            vocabulary=CLASSES,
            annotations=tmp_path / "none.json",
            image_root=tmp_path,
            work_dir=tmp_path / "work",
            output=tmp_path / "bundle",
            name="none",
            seed=0,
        )
    assert not list(tmp_path.iterdir())
