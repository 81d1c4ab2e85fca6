"""The plan of a composition: everything checked and every digest known before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from composition import label_space as spaces
from composition.errors import UserError
from composition.label_space import LabelSpace
from flows.recipe import LabelSpaceSettings, Recipe
from tasks import fusers
from tasks import teachers as registry
from tasks.aggregate import METHOD_VERSION
from tasks.calibrate import CALIBRATION_VERSION
from tasks.evaluate import EVALUATION_VERSION, Dataset, load_dataset, require_shared
from tasks.home import Home
from tasks.image_index import ImageList, content_digest, list_images
from tasks.infer import INFERENCE_VERSION
from tasks.label import LABEL_VERSION
from tasks.looks import LOOKS_VERSION
from tasks.method_settings import LABEL_RULES, CalibrateSettings, Calibration, Rule
from tasks.remote_images import url_of
from tasks.store import digest_of
from tasks.teachers import Teacher
from tasks.thresholds import THRESHOLDS_VERSION
from tasks.train import student_identity, warm_start_teacher
from tasks.trial import TRIAL_VERSION, can_be_tried

MAX_TEACHERS = 62


@dataclass(frozen=True, slots=True)
class LabelPlan:
    """What decides the pseudo-labels: the teachers, the images and the method.

    Attributes:
        recipe: What was asked for.
        limit: Cap on the number of images, if any.
        teachers: The detectors, in the recipe's order.
        space: The label space.
        listing: The unlabeled images.
        images_digest: Digest of the images' paths and bytes.
        labelled: The few labelled images that the method may learn from, if any.
        calibration: What the fuser is calibrated on.
        rule: Where the thresholds come from.
    """

    recipe: Recipe
    limit: int | None
    teachers: tuple[Teacher, ...]
    space: LabelSpace
    listing: ImageList
    images_digest: str
    labelled: Dataset | None
    calibration: Calibration
    rule: Rule

    @property
    def labels_digest(self) -> str:
        """Identity of the pseudo-labels, whatever is trained on them."""
        return digest_of("labelling", *self._decisive)

    @property
    def _decisive(self) -> list[Any]:
        recipe = self.recipe
        return [
            [INFERENCE_VERSION, CALIBRATION_VERSION, METHOD_VERSION, THRESHOLDS_VERSION, LABEL_VERSION],
            [teacher.digest for teacher in self.teachers],
            spaces.digest(self.space),
            self.images_digest,
            recipe.generate.decisive(),
            *([[recipe.generate.augment, LOOKS_VERSION]] if recipe.looks_again else []),
            self.calibration,
            self._labels_used,
            self.rule,
            recipe.filter.model_dump(mode="json", exclude={"rule"}),
            fusers.to_json(recipe.fuse.fuser()),
        ]

    @property
    def _labels_used(self) -> list[Any] | None:
        """What identifies the labels that the method learns from, None where it looks at none."""
        if self.labelled is None or (self.calibration != "labels" and self.rule not in LABEL_RULES):
            return None
        return [self.labelled.digest, self.labelled.images_digest, self.recipe.calibrate.images]

    def to_dict(self) -> dict[str, Any]:
        """JSON form, for ``--dry-run --json`` and the tracking server."""
        coverage = spaces.coverage(self.space)
        return {
            "name": self.recipe.name,
            "labelling": self.labels_digest,
            "teachers": [
                {
                    "name": teacher.name,
                    "adapter": teacher.manifest.adapter,
                    "classes": len(teacher.manifest.vocabulary),
                    "digest": teacher.digest,
                    "registry": teacher.origin,
                }
                for teacher in self.teachers
            ],
            "label_space": {
                "classes": list(self.space.classes),
                "digest": spaces.digest(self.space),
                "coverage": {
                    teacher.name: [bool(known) for known in coverage[:, column]]
                    for column, teacher in enumerate(self.teachers)
                },
            },
            "images": {
                "source": url_of(self.listing.source) or str(self.listing.source),
                "count": len(self.listing.paths),
                "digest": self.images_digest,
            },
            "method": self._method(),
        }

    def _method(self) -> dict[str, Any]:
        recipe = self.recipe
        used = self.labelled if self._labels_used else None
        return {
            "generate": recipe.generate.model_dump(mode="json"),
            "fuser": fusers.to_json(recipe.fuse.fuser()),
            "calibration": self.calibration,
            "labels": used
            and {
                "source": str(used.source),
                "images": min(recipe.calibrate.images, len(used.coco["images"])),
            },
            "thresholds": {**recipe.filter.model_dump(mode="json"), "rule": self.rule},
        }


@dataclass(frozen=True, slots=True)
class Plan(LabelPlan):
    """A composition: a recipe with the exact teachers and the exact images.

    Attributes:
        start: The detector to start the student from, if any.
        baselines: Finished detectors to measure beside the student.
        datasets: Evaluation set name to the set.
    """

    start: Teacher | None
    baselines: tuple[Teacher, ...]
    datasets: dict[str, Dataset]

    @property
    def digest(self) -> str:
        """Identity of the composition: equal digest, equal student, nothing to do."""
        recipe = self.recipe
        return digest_of(
            "composition",
            *self._decisive,
            student_identity(recipe.student, self.start),
            recipe.seed,
            *([TRIAL_VERSION] if self.trial else []),
        )

    @property
    def trial(self) -> bool:
        """Whether the student has to be better than its start."""
        return self.recipe.keep_start == "auto" and can_be_tried(self.start, self.teachers, self.space)

    @property
    def record_key(self) -> str:
        """Digest of the composition together with what is measured and how it is called."""
        return digest_of(
            self.digest,
            self.recipe.name,
            EVALUATION_VERSION,
            [(name, dataset.digest, dataset.images_digest) for name, dataset in self.datasets.items()],
            [(baseline.name, baseline.digest) for baseline in self.baselines],
        )

    def finished(self, home: Home) -> bool:
        """Whether a run would find everything done."""
        return home.store.find("compositions", self.record_key) is not None

    def to_dict(self) -> dict[str, Any]:
        """JSON form, for ``--dry-run --json`` and the tracking server."""
        shared = super(Plan, self).to_dict()
        return {
            "name": shared.pop("name"),
            "composition": self.digest,
            **shared,
            "student": self.recipe.student.model_dump(mode="json"),
            "trial": self.trial,
            "evaluate": {
                name: {
                    "images": len(dataset.coco["images"]),
                    "digest": dataset.digest,
                    "images_digest": dataset.images_digest,
                }
                for name, dataset in self.datasets.items()
            },
        }


def make_label_plan(recipe: Recipe, home: Home, limit: int | None = None) -> LabelPlan:
    """Checks everything that pseudo-labels need and works out their digest.

    Args:
        recipe: What is asked for; its student and evaluation sets are not looked at.
        home: Where named teachers are.
        limit: Use only the first so many images.

    Raises:
        UserError: The first thing that is wrong, before any expensive work.
    """
    teachers = tuple(registry.find_all(home, recipe.teachers))
    _few_enough(teachers)
    space = make_label_space(recipe.label_space, teachers)
    recipe.filter.check(space.classes)
    recipe.fuse.check(len(teachers))
    labelled = _labelled(recipe.calibrate)
    calibration = recipe.calibrate.chosen(recipe.fuse)
    rule = recipe.filter.chosen(labelled is not None, calibration)
    if labelled is not None and (calibration == "labels" or rule in LABEL_RULES):
        require_shared(labelled, space.classes, "the label space")
    listing = list_images(recipe.images.source, recipe.images.root, limit)
    return LabelPlan(
        recipe=recipe,
        limit=limit,
        teachers=teachers,
        space=space,
        listing=listing,
        images_digest=content_digest(listing),
        labelled=labelled,
        calibration=calibration,
        rule=rule,
    )


def make_plan(recipe: Recipe, home: Home, limit: int | None = None) -> Plan:
    """Checks everything that a composition needs and works out its digests.

    Args:
        recipe: What is asked for.
        home: Where named teachers are.
        limit: Use only the first so many images (also of the evaluation sets).

    Raises:
        UserError: The first thing that is wrong, before any expensive work.
    """
    labels = make_label_plan(recipe, home, limit)
    datasets = {entry.name: load_dataset(entry.annotations, entry.root, limit) for entry in recipe.evaluate}
    for dataset in datasets.values():
        # after the training it would be late to find that nothing can be measured
        require_shared(dataset, labels.space.classes, "the label space")
    return Plan(
        **{field.name: getattr(labels, field.name) for field in fields(LabelPlan)},
        start=warm_start_teacher(home, recipe.student),
        baselines=_baselines(recipe, home, labels.space),
        datasets=datasets,
    )


def _labelled(settings: CalibrateSettings) -> Dataset | None:
    """The labels that the method may learn from; a limit on the pool does not touch them."""
    if settings.annotations is None:
        return None
    return load_dataset(settings.annotations, settings.root)


def make_label_space(settings: LabelSpaceSettings, teachers: Sequence[Teacher]) -> LabelSpace:
    """The label space of a recipe: from its file, or from names, aliases and overrides.

    Raises:
        UserError: A name that maps to nothing, with candidates; errors of the file.
    """
    known = vocabularies(teachers)
    if settings.file is None:
        overrides = {
            teacher: {
                name: {"broader": value} if isinstance(value, list) else value for name, value in rule.items()
            }
            for teacher, rule in settings.overrides.items()
        }
        return spaces.build(known, settings.classes, overrides, settings.parents)
    if settings.classes or settings.overrides or settings.parents:
        raise UserError(
            "label_space: 'file' cannot be combined with 'classes', 'overrides' or 'parents'",
            "Put them into the file, or remove 'file'.",
        )
    return read_label_space(settings.file, teachers)


def read_label_space(path: Path, teachers: Sequence[Teacher]) -> LabelSpace:
    """Reads a label space file.

    Raises:
        UserError: Names the file and the line.
    """
    known = vocabularies(teachers)
    try:
        text = path.read_text()
    except OSError as error:
        raise UserError(
            f"label space {path} cannot be read: {error.strerror}",
            "Write one with `detcompose label-space propose`.",
        ) from None
    return spaces.parse_yaml(text, str(path), known)


def vocabularies(teachers: Sequence[Teacher]) -> dict[str, tuple[str, ...]]:
    """Teacher name to its class names.

    Raises:
        UserError: Two are called the same.
    """
    names = [teacher.name for teacher in teachers]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"teachers: two of them are called {name!r}",
                "Name it once, or add one under another name: `detcompose teacher add ... --name`.",
            )
    return {teacher.name: teacher.manifest.vocabulary for teacher in teachers}


def _baselines(recipe: Recipe, home: Home, space: LabelSpace) -> tuple[Teacher, ...]:
    found = []
    for entry in recipe.baselines:
        teacher = registry.find(home, entry.bundle)
        if teacher.manifest.vocabulary != space.classes:
            raise UserError(
                f"baselines: {entry.name} has other classes than the label space",
                f"Its classes must be, in this order: {', '.join(space.classes)}.",
            )
        found.append(Teacher(entry.name, teacher.folder, teacher.manifest))
    return tuple(found)


def _few_enough(teachers: Sequence[Teacher]) -> None:
    """A pattern may stand for more than a pseudo-label's bit mask has room for."""
    if len(teachers) > MAX_TEACHERS:
        raise UserError(
            f"teachers: {len(teachers)} of them, at most {MAX_TEACHERS} can be composed",
            "Choose by name or tag: teachers/traffic-*@champion?pool=traffic.",
        )
