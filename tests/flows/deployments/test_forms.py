"""What the forms ask, and what becomes of the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from composition.errors import UserError
from flows.deployments import DEPLOYMENTS, label
from flows.deployments.forms import CommonSettings, ComposeForm, RecipeFile, to_recipe
from flows.recipe import Recipe
from model_zoo.student_settings import StudentSettings
from tasks.formats import EXPORTERS
from tests.flows.conftest import small_recipe

COMMON = {"name": "traffic", "teachers": ["one", "two"], "images": "/pool"}
FORM: TypeAdapter[ComposeForm] = TypeAdapter(ComposeForm)


def test_common_settings_are_a_recipe_with_defaults() -> None:
    form = FORM.validate_python(COMMON)
    assert isinstance(form, CommonSettings)
    assert to_recipe(form) == Recipe.model_validate({**COMMON, "images": {"source": "/pool"}})


def test_every_common_setting_arrives() -> None:
    student = {
        "architecture": "rtmdet_pico",
        "image_size": 96,
        "epochs": 3,
        "batch_size": 2,
        "warm_start": "bundle:one",
        "flip": False,
    }
    recipe = to_recipe(
        FORM.validate_python(
            {
                **COMMON,
                **student,
                "classes": ["car"],
                "labels": "/few.json",
                "evaluation": "/val.json",
                "seed": 4,
            }
        )
    )
    assert recipe.student == StudentSettings.model_validate(student)
    assert recipe.label_space.classes == ["car"]
    assert recipe.calibrate.annotations == Path("/few.json")
    assert [str(entry.annotations) for entry in recipe.evaluate] == ["/val.json"]
    assert recipe.seed == 4


def test_a_whole_recipe_and_a_file_are_told_apart(tmp_path: Path, scenes: Path) -> None:
    content = small_recipe(scenes)
    whole = FORM.validate_python(content)
    assert isinstance(whole, Recipe)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    named = FORM.validate_python({"file": str(path)})
    assert isinstance(named, RecipeFile)
    assert to_recipe(named) == whole
    with pytest.raises(UserError, match="does not exist"):
        to_recipe(RecipeFile(file=tmp_path / "nothing.yaml"))
    with pytest.raises(ValidationError):
        FORM.validate_python({**COMMON, "epochs": 0})


def _boxes(schema: dict[str, Any], definitions: dict[str, Any]) -> list[dict[str, Any]]:
    """All fields of a schema, down to single ones, but for the two forms of everything."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return [] if name in ("Recipe", "FinetuneSettings") else _boxes(definitions[name], definitions)
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", [])]
    if "items" in schema:
        inner.append(schema["items"])
    return [box for one in inner for box in _boxes(one, definitions)] if inner else [schema]


@pytest.mark.parametrize("entry", DEPLOYMENTS, ids=lambda entry: entry.entrypoint.rpartition(".")[2])
def test_forms_have_no_raw_json_and_say_what_they_want(entry: Any) -> None:
    schema = entry.load().parameters.model_dump()
    for name, field in schema["properties"].items():
        assert field.get("description"), f"{name} has no description"
        for box in _boxes(field, schema["definitions"]):
            # an object without properties would be a JSON editor, and null a tab of its own
            assert box.get("type") in ("string", "integer", "number", "boolean"), (name, box)


def test_the_form_of_label_offers_every_format() -> None:
    schema = label.label.parameters.model_dump()
    assert set(EXPORTERS) <= {
        choice for one in schema["definitions"].values() for choice in one.get("enum", ())
    }
