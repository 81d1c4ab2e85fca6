"""A student that starts from a detector with all of its classes has to be better than that one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from flows.compose import compose
from flows.plan import make_plan
from flows.recipe import load_recipe
from model_zoo import bundle
from tasks.home import Home
from tests.flows.conftest import TEACHERS, read, small_recipe

pytestmark = pytest.mark.usefixtures("prefect_server")

BOTH_KNOW = ["four", "five", "six"]


def _recipe(path: Path, scenes: Path, **changes: object) -> Path:
    student = {
        "architecture": "yolox_nano",
        "image_size": 96,
        "epochs": 1,
        "batch_size": 8,
        "flip": False,
        "warm_start": f"bundle:{TEACHERS / 'digits-high'}",
        "learning_rate": 0.5,  # nothing is left of what the start knew
    }
    document = small_recipe(scenes, **{"label_space": {"classes": BOTH_KNOW}, "student": student, **changes})
    names = [Path(teacher).name for teacher in document["teachers"]]
    document["label_space"]["overrides"] = {name: {"*": "drop"} for name in names}
    path.write_text(yaml.safe_dump(document))
    return path


def _student_ap(record: dict[str, Any]) -> float:
    rows = record["evaluations"]["evaluation"]
    return next(float(row["AP"]) for row in rows if row["role"] == "student")


def test_a_student_that_got_worse_is_its_start(home: Path, scenes: Path, tmp_path: Path) -> None:
    recipe = load_recipe(_recipe(tmp_path / "recipe.yaml", scenes))
    record = compose(recipe)
    trial = record["trial"]
    assert trial["images"] == 2
    assert not trial["student_kept"]
    assert trial["student"] <= trial["start"]

    student = bundle.read(Path(record["bundle"]))
    assert student.vocabulary == tuple(BOTH_KNOW)
    assert student.provenance["training"]["steps"] == 0
    start = load_file(TEACHERS / "digits-high" / "model.safetensors")
    ours = load_file(Path(record["bundle"]) / "model.safetensors")
    equal = [name for name in ours if ours[name].shape == start[name].shape]
    assert len(equal) > 300
    assert all(np.array_equal(ours[name], start[name]) for name in equal)
    classes = [name for name in ours if ours[name].shape != start[name].shape]
    for name in classes:  # four, five and six are the first of four to nine
        assert np.array_equal(ours[name], start[name][:3])

    page = Path(record["report"]).read_text()
    assert "the start is kept" in page
    assert "so what it started from is the student" in page
    assert compose(recipe)["unchanged"]
    worst = compose(load_recipe(_recipe(tmp_path / "never.yaml", scenes, keep_start="never")))
    assert worst["trial"] is None
    assert worst["composition"] != record["composition"]
    assert _student_ap(worst) < 1 < _student_ap(record)
    left = read(next((home / "store" / "held-out").glob("*/instances.json")))
    assert len(left["images"]) == 22


def test_a_trial_is_only_held_where_there_is_something_to_lose(
    home: Path, scenes: Path, tmp_path: Path
) -> None:
    def plan(name: str, **changes: object) -> bool:
        return make_plan(
            load_recipe(_recipe(tmp_path / f"{name}.yaml", scenes, **changes)), Home.default()
        ).trial

    assert plan("all")
    assert not plan("never", keep_start="never")
    assert not plan("more", label_space={"classes": ["three", *BOTH_KNOW]})
    assert not plan("nobody else", teachers=[str(TEACHERS / "digits-high")])
