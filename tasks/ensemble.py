"""Running teachers as an ensemble on annotated images, calibrated on others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from composition import evaluation
from composition import label_space as spaces
from composition.aliases import shared_classes
from composition.calibration import calibrate
from composition.detections import Detections
from composition.errors import UserError
from composition.evaluation import Metrics
from composition.fusion import Fuser
from composition.fusion.expert import Expert
from composition.label_free import calibrate_label_free
from composition.label_space import LabelSpace
from composition.matching import Objects, objects
from tasks.evaluate import SETTINGS, Dataset, few_images, index_dataset, require_shared, run_on_dataset
from tasks.infer import run_teachers
from tasks.looks import find_looks, looking, without_zoom
from tasks.store import Store
from tasks.teachers import Look, Teacher


@dataclass(frozen=True, slots=True)
class EnsembleResult:
    """Figures of an ensemble and of its members, all on the same categories.

    Attributes:
        ensemble: The fused detections.
        teachers: Every teacher alone, by name, looking once.
    """

    ensemble: Metrics
    teachers: dict[str, Metrics]

    def to_dict(self) -> dict[str, Any]:
        """JSON form, in percent."""
        return {
            **self.ensemble.to_dict(),
            "teachers": {name: metrics.to_dict() for name, metrics in self.teachers.items()},
        }


def with_looks(
    store: Store,
    teachers: Sequence[Teacher],
    dataset: Dataset,
    images: int,
    augment: str = "all",
) -> list[Teacher]:
    """The teachers, with the further looks that serve them.

    Args:
        store: Keeps the detections.
        teachers: The detectors.
        dataset: Images to try them out on; their labels are not read.
        images: At most so many of them, in the order of a hash of their names.
        augment: auto, all, flip or zoom, see `tasks.infer.GenerateSettings`.
    """
    index = index_dataset(store, few_images(dataset, images))
    settings = SETTINGS.model_copy(update={"augment": augment})
    shards = run_teachers(store, teachers, index, settings)
    return looking(teachers, find_looks(store, teachers, index, shards, settings))


def evaluate_ensemble(
    store: Store, teachers: Sequence[Teacher], space: LabelSpace, dataset: Dataset, fusing: Fuser
) -> EnsembleResult:
    """Fuses the teachers' detections on a data set and measures them.

    Raises:
        UserError: The data set and the label space have no class in common.
    """
    categories = require_shared(dataset, space.classes, "the label space")
    look = _looker(store, space, dataset)
    alone = [look(one.looking_once) for one in teachers]
    tables = [look(one) if one.further_looks else own for one, own in zip(teachers, alone, strict=True)]

    def measure(found: Detections) -> Metrics:
        return evaluation.evaluate(found, dataset.coco, space.classes, restrict_to=categories)

    return EnsembleResult(
        measure(fusing.fuse(tables).detections),
        {teacher.name: measure(found) for teacher, found in zip(teachers, alone, strict=True)},
    )


@dataclass(frozen=True, slots=True)
class Evidence:
    """A few labelled images as the method sees them.

    Attributes:
        tables: Every teacher's detections on them, in the union classes that
            the labels cover.
        truth: The labels.
        classes: Union classes that the labels cover.
    """

    tables: list[Detections]
    truth: Objects
    classes: tuple[int, ...]


def labelled_evidence(
    store: Store,
    teachers: Sequence[Teacher],
    space: LabelSpace,
    dataset: Dataset,
    images: int,
    floor: float = 0.0,
) -> Evidence:
    """Runs the teachers on a few labelled images.

    Args:
        store: Keeps the detections.
        teachers: In the label space's order.
        space: The label space.
        dataset: Labelled images.
        images: At most so many are used, chosen by a hash of their names.
        floor: Detections with a lower score are left out, as they are on the
            pool: from which score on a teacher counts as silent must be the
            same in both.

    Raises:
        UserError: No class in common.
    """
    chosen = few_images(dataset, images)
    names = [category["name"] for category in chosen.coco["categories"]]
    shared = shared_classes(space.classes, names)
    if not shared:
        raise UserError(
            f"{dataset.source} has no class of the label space",
            f"The label space has {', '.join(space.classes[:10])}; the file has {', '.join(names[:10])}.",
        )
    categories = {chosen.coco["categories"][index]["id"]: class_id for class_id, index in shared.items()}
    # of classes that these labels do not cover, nothing is known to be wrong
    tables = [
        part[np.isin(part.class_id, list(shared)) & (part.score >= np.float32(floor))]
        for part in mapped_detections(store, teachers, space, chosen)
    ]
    return Evidence(tables, objects(chosen.coco, categories), tuple(sorted(shared)))


def calibrated_expert(
    store: Store, teachers: Sequence[Teacher], space: LabelSpace, dataset: Dataset, images: int
) -> Expert:
    """The `Expert` fuser, calibrated on a few images of a data set.

    Args:
        store: Keeps the detections.
        teachers: In the label space's order.
        space: The label space.
        dataset: Labelled images; only the first ``images`` in the order of a
            hash of their names are shown to the teachers.
        images: How many to use.

    Raises:
        UserError: No class in common, or too few labelled objects.
    """
    evidence = labelled_evidence(store, teachers, space, dataset, images)
    return calibrate(evidence.tables, spaces.coverage(space), evidence.truth)


def label_free_expert(
    store: Store, teachers: Sequence[Teacher], space: LabelSpace, dataset: Dataset, images: int
) -> Expert:
    """The `Expert` fuser, calibrated on images of a data set without looking at their labels.

    Args:
        store: Keeps the detections.
        teachers: In the label space's order.
        space: The label space.
        dataset: The images; at most ``images`` of them, in the order of a hash of their names.
        images: How many to use.

    Raises:
        UserError: Too few detections.
    """
    chosen = few_images(dataset, images)
    return calibrate_label_free(
        mapped_detections(store, without_zoom(teachers), space, chosen),
        mapped_detections(store, teachers, space, chosen, "second"),
        spaces.coverage(space),
        seen=mapped_detections(store, teachers, space, chosen),
    )


def mapped_detections(
    store: Store,
    teachers: Sequence[Teacher],
    space: LabelSpace,
    dataset: Dataset,
    look: Look = "first",
) -> list[Detections]:
    """Every teacher's detections on a data set in the union classes."""
    return list(map(_looker(store, space, dataset, look), teachers))


def _looker(
    store: Store, space: LabelSpace, dataset: Dataset, look: Look = "first"
) -> Callable[[Teacher], Detections]:
    """What gives a teacher's detections on a data set in the union classes."""
    index = index_dataset(store, dataset)
    return lambda teacher: spaces.map_detections(
        space, teacher.name, run_on_dataset(store, teacher, dataset, index, look)
    )
