"""Which compositions a person is asked about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.deployments import review
from flows.deployments.review import Review, reviewed
from flows.recipe import Recipe
from tasks.fan_out import Runner
from tasks.home import Home
from tasks.registration import register_teacher
from tasks.teachers import find
from tests.flows.conftest import TEACHERS, small_recipe


class Looked(Exception):
    """The teachers would be compared now."""


@pytest.mark.parametrize(
    ("changes", "looks"),
    [
        ({"teachers": ["teachers/*@champion"]}, True),
        ({"teachers": ["teachers/digits-low@champion"]}, False),
        ({"label_space": {"classes": ["four", "five"], "overrides": {"*": {"*": "drop"}}}}, False),
        ({}, True),
    ],
)
def test_several_teachers_without_a_label_space_are_compared(
    home: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], looks: bool
) -> None:
    """Also those that one pattern of the registry stands for."""

    def look(*_: object) -> None:
        raise Looked

    monkeypatch.setattr(review, "_findings", look)
    place = Home(home)
    for name in ("digits-low", "digits-high"):
        register_teacher(place, find(place, str(TEACHERS / name)), name)
    recipe = Recipe.model_validate(small_recipe(scenes, evaluate=[], **changes))

    def call() -> Recipe:
        return reviewed(place, recipe, None, Review.ASK, 1.0, Runner.SEQUENTIAL)

    if looks:
        with pytest.raises(Looked):
            call()
    else:
        assert call() is recipe
