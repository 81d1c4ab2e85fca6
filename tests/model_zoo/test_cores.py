"""How many processors there are for us."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from model_zoo import cores
from model_zoo.cores import VARIABLE, thread_limit, usable_cores
from model_zoo.training_runner import default_threads


@pytest.mark.parametrize(
    ("quota", "expected"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 4), (None, 4), ("?", 4)]
)
def test_a_container_has_fewer_than_the_machine(
    quota: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr(cores, "_QUOTA", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    assert usable_cores() == expected
    assert default_threads() == max(expected - 1, 1), "training leaves one for the rest"
    assert thread_limit() == (0 if expected == 4 else expected), "runtimes see the affinity themselves"


def test_who_asks_for_a_number_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "7")
    assert usable_cores() == thread_limit() == 7
    monkeypatch.setenv(VARIABLE, "many")
    assert usable_cores() >= 1
