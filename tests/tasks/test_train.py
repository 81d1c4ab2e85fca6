"""What is kept of a training beside its checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from model_zoo.training import TrainingProgress
from tasks.train import _History

STEPS = 4


def _learn(history: _History, steps: Iterable[int]) -> None:
    """Takes steps, counted from 0 over all epochs; the loss is the number of the step."""
    for step in steps:
        history.add(
            TrainingProgress(
                epoch=step // STEPS + 1,
                epochs=3,
                step=step % STEPS + 1,
                steps=STEPS,
                loss=float(step),
                losses={},
                learning_rate=0.1,
                seconds_elapsed=0.0,
                seconds_left=0.0,
            )
        )


def test_a_training_that_is_cut_off_within_an_epoch_has_the_same_history(tmp_path: Path) -> None:
    """The student of a killed run is the same to the byte, and its history is a part of it."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = _History(tmp_path / "whole")
    _learn(whole, range(3 * STEPS))
    assert [epoch["loss"] for epoch in whole.epochs] == [1.5, 5.5, 9.5]

    _learn(_History(tmp_path / "killed"), range(7))
    killed = _History(tmp_path / "killed")
    _learn(killed, range(6, 3 * STEPS))  # the last checkpoint was a step older
    assert killed.epochs == whole.epochs
    assert _History(tmp_path / "killed").epochs == whole.epochs
