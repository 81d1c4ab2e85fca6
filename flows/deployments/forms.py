"""What a person fills in to start a run; each form becomes a recipe, which stays the one source.

Fields that a recipe has take their default, limits and description from it.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from flows.recipe import ImagesSettings, LabelSpaceSettings, Recipe, load_recipe
from model_zoo.student_settings import StudentSettings


def _same(model: type[BaseModel], field: str, **changes: Any) -> Any:
    """A field as another model has it: default, limits, description."""
    found = copy.copy(model.model_fields[field])
    for name, value in changes.items():
        setattr(found, name, value)
        found._attributes_set[name] = value
    return found


def blank(schema: dict[str, Any]) -> None:
    """Shows a field that may be left out as one box to fill or leave empty.

    Prefect's form would make two tabs of ``int | None``, and an empty box is sent as nothing at all.
    """
    (only,) = (kind for kind in schema.pop("anyOf") if kind != {"type": "null"})
    schema.pop("default")
    schema.update(only)


class RecipeFile(BaseModel):
    """A recipe that lies on the worker's machine."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="Recipe file")

    file: Path = Field(
        title="Recipe file",
        description="YAML file on the worker's machine; relative paths count from the worker's folder.",
        examples=["recipes/bccd.yaml"],
    )

    def recipe(self) -> Recipe:
        """The recipe in the file."""
        return load_recipe(self.file)


class CommonSettings(BaseModel):
    """The questions of a first composition; everything else keeps its default."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="Common settings")

    name: str = _same(Recipe, "name", examples=["traffic"])
    teachers: list[str] = _same(Recipe, "teachers", examples=[["yolox-coco", "yolo-voc"]])
    images: Path = _same(ImagesSettings, "source", title="Unlabeled images")
    classes: list[str] | None = _same(LabelSpaceSettings, "classes", json_schema_extra=blank)
    labels: Path | None = Field(
        None,
        title="Few labels",
        description="COCO JSON file of a few labelled images to calibrate the teachers on. Empty: no labels.",
        json_schema_extra=blank,
    )
    evaluation: Path | None = Field(
        None,
        title="Evaluation set",
        description="COCO JSON file with labels on which everybody is measured at the end. Empty: nothing.",
        json_schema_extra=blank,
    )
    architecture: str = _same(StudentSettings, "architecture")
    image_size: int = _same(StudentSettings, "image_size")
    epochs: int = _same(StudentSettings, "epochs")
    batch_size: int = _same(StudentSettings, "batch_size")
    warm_start: str = _same(StudentSettings, "warm_start")
    flip: bool = _same(StudentSettings, "flip")
    seed: int = _same(Recipe, "seed")

    def recipe(self) -> Recipe:
        """The recipe with these settings and defaults for all others."""
        student = {name: getattr(self, name) for name in StudentSettings.model_fields if hasattr(self, name)}
        return Recipe.model_validate(
            {
                "name": self.name,
                "teachers": self.teachers,
                "images": {"source": self.images},
                "label_space": {"classes": self.classes or None},
                "calibrate": {"annotations": self.labels},
                "evaluate": [{"name": "evaluation", "annotations": self.evaluation}]
                if self.evaluation
                else [],
                "student": student,
                "seed": self.seed,
            }
        )


ComposeForm = RecipeFile | CommonSettings | Recipe


def to_recipe(form: ComposeForm) -> Recipe:
    """The recipe that a form stands for.

    Raises:
        UserError: The recipe file is missing or wrong.
    """
    return form if isinstance(form, Recipe) else form.recipe()
