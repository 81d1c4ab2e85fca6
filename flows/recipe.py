"""The recipe: what a person asks for. One model for YAML, command line and UI form."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from composition.errors import UserError
from model_zoo.student_settings import StudentSettings
from tasks.infer import GenerateSettings
from tasks.method_settings import CalibrateSettings, FilterSettings, FuseSettings
from tasks.references import is_reference
from tasks.remote_images import url_of

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$"
# keys that had another name, or another meaning under it
_RENAMED = {"filter.threshold": "'filter.keep', which acts on the fused score"}
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


Override = str | list[str] | dict[str, str | list[str]]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LabelSpaceSettings(_Section):
    """The union classes, and what the names alone do not say."""

    file: Path | None = Field(
        None, description="A label space file (`detcompose label-space propose`); replaces all others."
    )
    classes: list[str] | None = Field(
        None, description="The classes of the student, in order. Empty: the union of the teachers' classes."
    )
    overrides: dict[str, dict[str, Override]] = Field(
        default_factory=dict,
        description="Per teacher: its class name to a class of the label space, to 'drop', to "
        "{narrower: class} or {broader: [classes]}; a list of classes means broader than they are. "
        "'*' stands for all classes that match nothing.",
    )
    parents: dict[str, str] = Field(
        default_factory=dict, description="Class of the label space to the class that it is a kind of."
    )


class ImagesSettings(_Section):
    """The unlabeled images."""

    source: Path = Field(
        description="A folder of images, a COCO JSON file, a YOLO or VOC data set (labels are not read), or "
        "the URL of a folder in a store, e.g. s3://bucket/photos."
    )
    root: Path | None = Field(
        None, description="Folder of a COCO file's images; default: images/ beside it, or its own folder."
    )


class EvaluationSettings(_Section):
    """An annotated image set on which everybody is measured at the end."""

    name: str = Field("val", pattern=NAME_PATTERN, description="Short name, shown in the report.")
    annotations: Path = Field(description="COCO JSON file with labels, or a YOLO or VOC data set.")
    root: Path | None = Field(None, description="Folder of its images.")


class BaselineSettings(_Section):
    """A detector that the report shows beside teachers and student."""

    name: str = Field(description="How the report calls it, e.g. 'supervised'.")
    bundle: str = Field(description="Name or bundle path of a detector with the classes of the label space.")


class Recipe(_Section):
    """What a person asks for: teachers, images, method, student, evaluation."""

    name: str = Field(pattern=NAME_PATTERN, description="Name of the student in the registry.")
    teachers: list[str] = Field(
        min_length=1,
        max_length=62,
        description="Names of added teachers, paths of bundles, or addresses in the registry: "
        "teachers/NAME@champion, teachers/NAME@3, teachers/*@champion?pool=traffic (all that match).",
    )
    label_space: LabelSpaceSettings = LabelSpaceSettings()
    images: ImagesSettings
    generate: GenerateSettings = GenerateSettings()
    calibrate: CalibrateSettings = CalibrateSettings()
    filter: FilterSettings = FilterSettings()
    fuse: FuseSettings = FuseSettings()
    student: StudentSettings = StudentSettings()
    keep_start: Literal["auto", "never"] = Field(
        "auto",
        description="auto: of a student that starts from a detector with all of its classes, a tenth of the "
        "images is kept from training; if it is not clearly better there than its start (against "
        "pseudo-labels of the other teachers), its start is the student. never: the trained student.",
    )
    evaluate: list[EvaluationSettings] = Field(default_factory=list, description="Annotated image sets.")
    baselines: list[BaselineSettings] = Field(
        default_factory=list, description="Finished detectors to measure beside the student."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of everything random.")

    @property
    def looks_again(self) -> bool:
        """Whether the teachers may take further looks."""
        return self.generate.looks_again(self.fuse.method)

    @property
    def detection_floor(self) -> float:
        """Score of a teacher's detection below which nothing is fused."""
        return max(self.generate.score_floor, self.filter.floor)

    @field_validator("teachers")
    @classmethod
    def _no_duplicates(cls, value: list[str]) -> list[str]:
        for name in value:
            if value.count(name) > 1:
                raise ValueError(f"teacher {name!r} is named twice")
        return value

    @field_validator("evaluate")
    @classmethod
    def _distinct_names(cls, value: list[EvaluationSettings]) -> list[EvaluationSettings]:
        names = [entry.name for entry in value]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two evaluation sets are called {name!r}")
        return value


def load_recipe(path: Path) -> Recipe:
    """Reads a recipe file; relative paths in it count from its folder.

    ``${NAME}`` and ``${NAME:-default}`` in values are replaced from the environment.

    Raises:
        UserError: Names the file, the line and the key, and what would be right.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise UserError(f"recipe {path} does not exist", "Check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path} cannot be read: {error}", "Give a YAML file in UTF-8.") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error)
        raise UserError(f"{path}{line}: not valid YAML: {reason}", "Mend this line.") from None
    if not isinstance(document, dict) or node is None:
        raise UserError(f"{path}: a recipe is a YAML mapping", "See recipes/ for examples.")
    _reject_duplicate_keys(node, path)
    try:
        recipe = Recipe.model_validate(_expand(document, path))
    except ValidationError as error:
        raise _explain(error, node, path) from None
    return _resolve(recipe, path.parent.resolve())


def _expand(value: Any, path: Path) -> Any:
    if isinstance(value, dict):
        return {key: _expand(item, path) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, path) for item in value]
    if not isinstance(value, str):
        return value

    def replacement(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], match[2])
        if found is None:
            raise UserError(f"{path}: the environment variable {match[1]} is not set", f"Set {match[1]}.")
        return found

    return _VARIABLE.sub(replacement, value)


def _resolve(recipe: Recipe, base: Path) -> Recipe:
    """Makes relative paths absolute, so that the recipe means the same everywhere."""

    def absolute(path: Path | None) -> Path | None:
        return path if path is None or url_of(path) else (base / path.expanduser()).resolve()

    def reference(name: str) -> str:
        if "/" not in name or is_reference(name):
            return name
        return str((base / Path(name).expanduser()).resolve())

    student = recipe.student
    if student.warm_start_teacher:
        student = student.model_copy(update={"warm_start": f"bundle:{reference(student.warm_start_teacher)}"})
    return recipe.model_copy(
        update={
            "teachers": [reference(name) for name in recipe.teachers],
            "label_space": recipe.label_space.model_copy(update={"file": absolute(recipe.label_space.file)}),
            "images": recipe.images.model_copy(
                update={"source": absolute(recipe.images.source), "root": absolute(recipe.images.root)}
            ),
            "calibrate": recipe.calibrate.model_copy(
                update={
                    "annotations": absolute(recipe.calibrate.annotations),
                    "root": absolute(recipe.calibrate.root),
                }
            ),
            "evaluate": [
                entry.model_copy(
                    update={"annotations": absolute(entry.annotations), "root": absolute(entry.root)}
                )
                for entry in recipe.evaluate
            ],
            "baselines": [
                entry.model_copy(update={"bundle": reference(entry.bundle)}) for entry in recipe.baselines
            ],
            "student": student,
        }
    )


def _explain(error: ValidationError, node: yaml.Node, path: Path) -> UserError:
    first = _first_of(error, node)
    location = first["loc"]
    way = _way(node, location)
    line = way[-1][1] if way else node.start_mark.line + 1
    missing = [location[-1]] if first["type"] == "missing" else []
    key = ".".join(str(part) for part in (*(part for part, _ in way), *missing))
    if first["type"] == "extra_forbidden":
        if renamed := _RENAMED.get(key):
            return UserError(f"{path}:{line}: unknown key {key!r}", f"It is now {renamed}.")
        known = _known_keys(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known keys here: {', '.join(known)}."
        return UserError(f"{path}:{line}: unknown key {key!r}", hint)
    if first["type"] == "missing":
        return UserError(f"{path}:{line}: {key!r} is missing", "Add it; see recipes/ for examples.")
    message = first["msg"].removeprefix("Value error, ")
    return UserError(f"{path}:{line}: {key}: {message}", f"The value is {first['input']!r}.")


def _first_of(error: ValidationError, node: yaml.Node) -> Any:
    """The first error; where a value may be of several kinds, that of the kind which it was meant to be."""
    every = error.errors()
    location = every[0]["loc"]
    depth = len(_way(node, location))
    if every[0]["type"] == "missing" or depth == len(location):
        return every[0]
    # the last part names no key of the file but one of the kinds, each of which has an error of its own
    rivals = [one for one in every if one["loc"][:depth] == location[:depth]]
    return max(rivals, key=lambda one: (len(one["loc"]), one["type"] == "extra_forbidden"))


def _way(node: yaml.Node, location: Sequence[str | int]) -> list[tuple[str | int, int]]:
    """The parts of a location that are in the file, each with its line (from 1).

    Names of the kinds that a value may be of, which pydantic puts in between, are left out.
    """
    way: list[tuple[str | int, int]] = []
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found:
                way.append((part, found[0].start_mark.line + 1))
                node = found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            way.append((part, node.start_mark.line + 1))
    return way


def _known_keys(location: Sequence[str | int]) -> list[str]:
    """The keys of the section at a location."""
    model: type[BaseModel] = Recipe
    for part in location:
        # all others are places in lists, keys of mappings, and names of kinds
        if part in model.model_fields:
            model = next(_sections(model.model_fields[str(part)].annotation), model)
    return list(model.model_fields)


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections of a recipe that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _sections(inner)


def _reject_duplicate_keys(node: yaml.Node, path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            if key.value in seen:
                raise UserError(
                    f"{path}:{key.start_mark.line + 1}: key {key.value!r} was already given in line "
                    f"{seen[key.value]}",
                    "Remove one of the two.",
                )
            seen[key.value] = key.start_mark.line + 1
            _reject_duplicate_keys(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _reject_duplicate_keys(item, path)
