"""``detcompose export``, and back as a teacher with one command; ``detcompose evaluate`` on both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from composition.errors import UserError
from flows.cli.main import app
from tests.flows.conftest import TEACHERS


def run(*words: str | Path) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def back(home: Path, tmp_path: Path) -> dict[str, Any]:
    """A trained student that was exported and added; what `export` said."""
    file = tmp_path / "low.onnx"
    said: dict[str, Any] = json.loads(run("export", TEACHERS / "digits-low", "--to", file, "--json"))
    run("teacher", "add", file, "--name", "back")
    return said


def test_the_teacher_that_comes_back_has_the_students_figures(back: dict[str, Any], scenes: Path) -> None:
    images = scenes / "evaluation" / "scenes.json"
    out = json.loads(run("evaluate", TEACHERS / "digits-low", "back", "--images", images, "--json"))
    student, teacher = out["rows"]
    assert student["AP"] > 20
    assert abs(student["AP"] - teacher["AP"]) < 0.01  # AP points
    assert abs(student["AP50"] - teacher["AP50"]) < 0.01
    (change,) = out["differences"]
    assert change["first"] == "digits-low"
    assert change["classes"] == 7
    assert abs(change["AP"]["value"]) < 0.01
    assert student["interval"]["AP"]["low"] < student["AP"] < student["interval"]["AP"]["high"]
    assert back["description"]["vocabulary"][0] == "zero"
    assert Path(back["file"]).stat().st_size == back["bytes"]


def test_tables_show_intervals_differences_and_cost(
    back: dict[str, Any], scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.benchmark_speed.SECONDS", 0.05)
    images = scenes / "evaluation" / "scenes.json"
    out = run("evaluate", TEACHERS / "digits-low", "back", "--images", images, "--speed", "--threads", "1")
    for words in ("95 % interval", "Differences on the same images", "GFLOPs", "1 threads, cpu"):
        assert words in out


def test_a_finished_composition_is_exported_by_its_name(home: Path, tmp_path: Path) -> None:
    folder = home / "reports" / "digits"
    folder.mkdir(parents=True)
    (folder / "composition.json").write_text(json.dumps({"bundle": str(TEACHERS / "digits-high")}))
    out = run("export", "digits", "--to", tmp_path / "digits.onnx")
    assert "6 classes, 192x192 RGB" in out
    assert f"detcompose teacher add {tmp_path / 'digits.onnx'} --name" in out.replace("\n", " ")
    with pytest.raises(UserError, match="there is no teacher 'letters'"):
        run("export", "letters", "--to", tmp_path / "letters.onnx")
