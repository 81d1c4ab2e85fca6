"""``detcompose diagnose`` and ``teacher evaluate --save-profile`` on the demo's teachers and scenes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from composition.errors import UserError
from flows.cli.main import app
from tests.flows.conftest import TEACHERS

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def run(*words: str) -> str:
    return CliRunner().invoke(app, words, catch_exceptions=False).stdout


@pytest.fixture
def options(home: Path, scenes: Path) -> list[str]:
    for name in ("digits-low", "digits-high"):
        run("teacher", "add", str(TEACHERS / name), "--name", name)
    return ["diagnose", "-t", "digits-low", "-t", "digits-high"]


def test_it_shows_and_writes_what_would_be_taught(options: list[str], scenes: Path, tmp_path: Path) -> None:
    labelled = str(scenes / "evaluation" / "scenes.json")
    run("teacher", "evaluate", "digits-low", "--images", labelled, "--save-profile")
    pool = ["--images", str(scenes / "pool"), "--keep", "0.4", "--ignore", "0.2"]
    document: dict[str, Any] = json.loads(run(*options, *pool, "--json", "--out", str(tmp_path / "out")))
    assert document["images"] == 24
    assert [one["name"] for one in document["classes"]] == NAMES
    assert document["classes"][0]["keep"] == 0.4
    # eight images are too few to say anything by; the other teacher has no profile
    domain = [teacher["domain"] for teacher in document["teachers"]]
    assert domain[0]["verdict"] == "too few images"
    assert domain[1] is None
    assert sorted(Path(file).name for file in document["files"]) == [
        "agreement.png", "classes.png", "diagnosis.json", "scores.png",
    ]  # fmt: skip
    text = run(*options, *pool)
    assert "no reference" in text
    assert "! " in text


def test_it_measures_against_labels(options: list[str], scenes: Path) -> None:
    labelled = str(scenes / "evaluation" / "scenes.json")
    text = run(*options, "--images", labelled, "--labelled", "--calibrate-on", labelled, "--json")
    document = json.loads(text)
    assert document["calibrated"]
    assert document["quality"]["precision"] > 0.5
    shown = run(*options, "--images", labelled, "--labelled")
    assert "recall" in shown


def test_thresholds_that_contradict_each_other_are_refused(options: list[str], scenes: Path) -> None:
    pool = ["--images", str(scenes / "pool")]
    with pytest.raises(UserError, match="--ignore needs --keep"):
        run(*options, *pool, "--ignore", "0.2")
    with pytest.raises(UserError, match="ignored from"):
        run(*options, *pool, "--keep", "0.2", "--ignore", "0.4")


def test_scores_are_calibrated_without_labels_unless_told_otherwise(options: list[str], scenes: Path) -> None:
    pool = ["--images", str(scenes / "pool"), "--json"]
    document = json.loads(run(*options, *pool))
    assert document["calibrated"]
    raw = json.loads(run(*options, *pool, "--calibrate", "none"))
    assert not raw["calibrated"]
    decided = {one["reason"].partition(":")[0] for one in document["classes"]}
    assert decided <= {"expected_f", "fixed"}
    with pytest.raises(UserError, match="contradict"):
        run(*options, *pool, "--calibrate", "none", "--calibrate-on", "few.json")
