"""What is handed over is exactly what was planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from composition.errors import UserError
from flows.plan import make_plan
from flows.recipe import Recipe
from flows.recompose import pinned, start_once
from tasks.home import Home
from tasks.registration import register_teacher
from tasks.teachers import add, find
from tests.flows.conftest import TEACHERS, small_recipe

HIGH, LOW = str(TEACHERS / "digits-high"), str(TEACHERS / "digits-low")


@pytest.fixture
def full(home: Path) -> Home:
    """A home with digits-high under the name ``mine`` and in the registry as ``auto-high``."""
    made = Home.default()
    add(made, Path(HIGH), "mine")
    register_teacher(made, find(made, HIGH), "auto-high")
    return made


@pytest.mark.parametrize(
    ("teachers", "expected"),
    [
        ([LOW, "mine"], [LOW, "mine"]),
        (["mine", LOW], ["mine", LOW]),
        ([LOW, "teachers/auto-high@champion"], [LOW, "models:/teachers.auto-high/1"]),
        (["teachers/auto-*@champion", LOW, "mine"], ["models:/teachers.auto-high/1", LOW, "mine"]),
    ],
)
def test_registry_teachers_become_versions_and_others_stay(
    full: Home, scenes: Path, teachers: list[str], expected: list[str]
) -> None:
    recipe = Recipe.model_validate(small_recipe(scenes, teachers=teachers, evaluate=[]))
    plan = make_plan(recipe, full)
    exact = pinned(plan)
    assert exact.teachers == expected
    again = make_plan(Recipe.model_validate(exact.model_dump(mode="json")), full)
    assert again.digest == plan.digest
    assert [one.name for one in again.teachers] == [one.name for one in plan.teachers]


def test_the_label_space_is_written_out_and_the_same(full: Home, scenes: Path) -> None:
    recipe = Recipe.model_validate(
        small_recipe(
            scenes,
            teachers=[LOW, "teachers/auto-high@champion"],
            evaluate=[],
            label_space={"overrides": {"auto-high": {"nine": "drop"}}, "parents": {"one": "zero"}},
        )
    )
    plan = make_plan(recipe, full)
    exact = pinned(plan)
    # a label space that names its classes is not asked about
    assert exact.label_space.classes == list(plan.space.classes)
    assert "nine" not in exact.label_space.classes
    assert make_plan(exact, full).space == plan.space
    assert make_plan(exact, full).digest == plan.digest


def test_the_start_of_the_student_becomes_a_version(full: Home, scenes: Path) -> None:
    content = small_recipe(scenes, teachers=[LOW, HIGH], evaluate=[])
    start = {"architecture": "yolox_nano", "warm_start": "bundle:teachers/auto-high@champion"}
    student = content["student"] | start
    plan = make_plan(Recipe.model_validate({**content, "student": student}), full)
    exact = pinned(plan)
    assert exact.student.warm_start == "bundle:models:/teachers.auto-high/1"
    again = make_plan(Recipe.model_validate(exact.model_dump(mode="json")), full)
    assert again.digest == plan.digest


@pytest.mark.usefixtures("prefect_server")
def test_a_deployment_that_there_is_not_is_told() -> None:
    with pytest.raises(UserError, match="the Prefect server has no deployment 'compose/nowhere'"):
        start_once("compose/nowhere", {}, "digest")
