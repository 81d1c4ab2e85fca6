"""Diagnosis of a pool of images before any training: runs the teachers, sums up, writes data and plots."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from composition import detections as table
from composition import diagnostics, evaluation, statistics
from composition import label_space as spaces
from composition.aliases import shared_classes
from composition.confirmation import Confirmations, confirmations
from composition.detections import Detections
from composition.diagnostics import Diagnosis, LabelQuality
from composition.domain_alarm import FLOOR, ScoreProfile, empty_profile, profile
from composition.filtering import DROP, Rule, Thresholds, kinds
from composition.fusion import Fuser
from composition.label_space import LabelSpace
from composition.matching import objects
from composition.pseudo_labels import POSITIVE, PseudoLabels, concatenate, from_fused
from composition.statistics import Statistics
from tasks import diagnostics_figures as figures
from tasks.evaluate import Dataset, dataset_ids
from tasks.image_index import ImageList, build_index
from tasks.infer import GenerateSettings, load_detections, run_teachers
from tasks.progress import track
from tasks.score_profiles import load_profile
from tasks.store import Artifact, Store, disk_errors
from tasks.teachers import Teacher

DIAGNOSIS_FILE = "diagnosis.json"


def diagnose_pool(
    store: Store,
    teachers: Sequence[Teacher],
    space: LabelSpace,
    images: ImageList | Dataset,
    fusing: Fuser,
    rule: Rule,
    *,
    calibrated: bool,
    generate: GenerateSettings | None = None,
) -> Diagnosis:
    """Runs the teachers on a pool and looks at what they would teach.

    Detections are made, or found, under the keys of a composition of the same
    teachers and images; shards are read one after the other, twice where labels
    are to be held against them: the thresholds come from all shards.

    Args:
        store: Where index and detections go.
        teachers: In the label space's order.
        space: The label space.
        images: The pool. A data set has labels, which are held against the
            pseudo-labels and used for nothing else.
        fusing: The fuser.
        rule: Chooses the thresholds; has to decide every class that occurs.
        calibrated: Whether the fuser's scores are calibrated probabilities.
        generate: How the teachers are run.
    """
    settings = generate or GenerateSettings()
    index = build_index(store, images.listing if isinstance(images, Dataset) else images)
    shards = run_teachers(store, teachers, index, settings)
    sums, asked, profiles = _collect(shards, space, fusing)
    thresholds = rule.thresholds(sums)
    counts, quality = None, None
    if isinstance(images, Dataset):
        labels = _labels(shards, space, fusing, thresholds)
        counts = diagnostics.count_labels(labels, len(space.classes))
        quality = _quality(labels, images, index, space)
    return diagnostics.diagnose(
        sums,
        asked,
        space.classes,
        list(shards),
        spaces.coverage(space),
        thresholds,
        calibrated=calibrated,
        labels=counts,
        # a higher floor than the profiles' would look like another domain
        profiles={
            teacher.name: (load_profile(teacher), profiles[teacher.name])
            for teacher in teachers
            if settings.score_floor <= FLOOR
        },
        quality=quality,
    )


Shards = Mapping[str, Sequence[Artifact]]


def _rounds(shards: Shards, title: str) -> Iterator[dict[str, Artifact]]:
    rounds = list(zip(*shards.values(), strict=True))
    for round_ in track(rounds, title, len(rounds)):
        yield dict(zip(shards, round_, strict=True))


def _collect(
    shards: Shards, space: LabelSpace, fusing: Fuser
) -> tuple[Statistics, Confirmations, dict[str, ScoreProfile]]:
    """Everything that adds up over the shards."""
    coverage = spaces.coverage(space)
    profiles = dict.fromkeys(shards, empty_profile())
    total = statistics.empty(*coverage.shape)
    asked = confirmations([table.empty()] * len(shards), coverage)
    for round_ in _rounds(shards, "looking at shards"):
        tables = []
        images = next(iter(round_.values())).counts["images"]
        for name, shard in round_.items():
            found = load_detections(shard)
            profiles[name] = profiles[name] + profile(found, images)
            tables.append(spaces.map_detections(space, name, found))
        asked = asked + confirmations(tables, coverage)
        total = statistics.merge(
            total, statistics.statistics_of(fusing.fuse(tables), tables, coverage, images)
        )
    return total, asked, profiles


def _labels(shards: Shards, space: LabelSpace, fusing: Fuser, thresholds: Thresholds) -> PseudoLabels:
    """Positives and ignore regions of all shards."""
    parts = []
    for round_ in _rounds(shards, "deciding labels"):
        tables = [
            spaces.map_detections(space, name, load_detections(shard)) for name, shard in round_.items()
        ]
        fused = fusing.fuse(tables)
        kind = kinds(fused, thresholds)
        parts.append(from_fused(fused, kind)[kind != DROP])
    return concatenate(parts)


def _quality(
    pseudo: PseudoLabels, dataset: Dataset, index: Artifact, space: LabelSpace
) -> dict[int, LabelQuality]:
    """The positives against the labels, on the classes that the data set has."""
    categories = dataset.coco["categories"]
    shared = shared_classes(space.classes, [category["name"] for category in categories])
    labels = table.with_image_ids(_positives(pseudo, list(shared)), dataset_ids(dataset, index))
    truth = objects(dataset.coco, {categories[place]["id"]: class_id for class_id, place in shared.items()})
    result = diagnostics.label_quality(labels, truth, len(space.classes))
    if not shared:
        return result
    names = {class_id: categories[place]["name"] for class_id, place in shared.items()}
    metrics = evaluation.evaluate(
        labels, dataset.coco, space.classes, restrict_to=sorted(set(names.values()))
    ).per_class
    return {
        c: replace(one, ap=metrics[names[c]].AP, ap50=metrics[names[c]].AP50) for c, one in result.items()
    }


def _positives(labels: PseudoLabels, classes: Sequence[int]) -> Detections:
    rows = labels[(labels.kind == POSITIVE) & np.isin(labels.class_id, classes)]
    return table.make(rows.image_id, rows.boxes, rows.weight, rows.class_id)


def write_diagnosis(folder: Path, diagnosis: Diagnosis) -> list[Path]:
    """Writes ``diagnosis.json`` and the plots as PNG files.

    Returns:
        The files.

    Raises:
        UserError: The folder cannot be written.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / DIAGNOSIS_FILE]
        files[0].write_text(json.dumps(diagnosis.to_dict(), indent=1, ensure_ascii=False) + "\n")
        for name, data in figures.pictures(diagnosis).items():
            files.append(folder / f"{name}.png")
            files[-1].write_bytes(data)
    return files
