from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from composition.errors import UserError
from model_zoo import training_checkpoint
from model_zoo.bundle import sha256_of
from model_zoo.student_settings import StudentSettings
from model_zoo.training_checkpoint import Checkpoint
from tests.model_zoo.squares import doubt, train_squares, write_squares

SETTINGS = StudentSettings(
    architecture="yolox_pico", image_size=64, epochs=4, batch_size=4, close_mosaic_epochs=1
)
# three steps an epoch; the process kills itself the hard way after each step whose number is given
CHILD = """
import os, signal, sys
from pathlib import Path
from tests.model_zoo.squares import train_squares
from tests.model_zoo.test_training_resume import SETTINGS

def report(progress):
    # the checkpoint is written after the report: die in the step after the one to keep
    if (progress.epoch - 1) * progress.steps + progress.step == int(sys.argv[2]) + 1:
        os.kill(os.getpid(), signal.SIGKILL)

train_squares(Path(sys.argv[1]), SETTINGS, on_progress=report, checkpoint_seconds=0.0)
"""


def test_killed_and_resumed_training_ends_in_the_same_bytes(tmp_path: Path) -> None:
    doubt(write_squares(tmp_path / "data", count=12))
    whole = train_squares(tmp_path / "whole", SETTINGS, checkpoint_seconds=0.0)
    for step in (4, 9):  # in the middle of the second epoch, and where mosaics have just been closed
        done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path / "killed"), str(step)], check=False)
        assert done.returncode == -signal.SIGKILL
        assert not (tmp_path / "killed" / "bundle").exists()
        checkpoint = training_checkpoint.load(tmp_path / "killed" / "work")
        assert checkpoint is not None
        assert checkpoint.step == step
    seen: list[int] = []
    resumed = train_squares(
        tmp_path / "killed",
        SETTINGS,
        on_progress=lambda progress: seen.append((progress.epoch - 1) * 3 + progress.step),
        checkpoint_seconds=0.0,
    )
    assert seen == [10, 11, 12]
    assert resumed.digest == whole.digest
    weights = "model.safetensors"
    assert sha256_of(tmp_path / "killed" / "bundle" / weights) == sha256_of(
        tmp_path / "whole" / "bundle" / weights
    )


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_checkpoint_returns_every_bit(kind: str, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    options = {"momentum": 0.9} if kind == "SGD" else {"fused": True}
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.1 / 3, **options)
    for _ in range(3):
        model(torch.rand(5, 3)).square().sum().backward()
        optimizer.step()
    saved = Checkpoint(3, model.state_dict(), {}, optimizer.state_dict(), [{"last": 1 / 3}], 0.1)
    training_checkpoint.save(tmp_path, saved)
    assert [path.name for path in tmp_path.iterdir()] == [training_checkpoint.FILE]
    loaded = training_checkpoint.load(tmp_path)
    assert loaded is not None
    assert (loaded.step, loaded.schedulers, loaded.seconds) == (3, [{"last": 1 / 3}], 0.1)
    assert all(torch.equal(loaded.model[name], value) for name, value in model.state_dict().items())
    again = getattr(torch.optim, kind)(model.parameters(), lr=1.0, **options)
    again.load_state_dict(loaded.optimizer)
    assert again.param_groups[0]["lr"] == 0.1 / 3
    for ours, theirs in zip(
        again.state_dict()["state"].values(), optimizer.state_dict()["state"].values(), strict=True
    ):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(torch.as_tensor(ours[key]), torch.as_tensor(theirs[key])) for key in ours)


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert training_checkpoint.load(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"not safetensors at all"])
def test_damaged_checkpoint_says_to_delete_it(content: bytes, tmp_path: Path) -> None:
    (tmp_path / training_checkpoint.FILE).write_bytes(content)
    with pytest.raises(UserError, match="damaged") as error:
        training_checkpoint.load(tmp_path)
    assert "Delete it" in error.value.way_out
