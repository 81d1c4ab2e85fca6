"""Diagnosis of a pool of images before any training: runs the teachers, sums up, writes data and plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from composition import detections as table
from composition import diagnostics, evaluation, pool_sums
from composition import label_space as spaces
from composition.aliases import shared_classes
from composition.detections import Detections
from composition.diagnostics import Diagnosis, LabelQuality
from composition.domain_alarm import FLOOR, ScoreProfile, empty_profile, profile
from composition.fusion import Fuser
from composition.label_space import LabelSpace
from composition.matching import objects
from composition.pool_sums import PoolSums
from tasks import diagnostics_figures as figures
from tasks.evaluate import Dataset
from tasks.image_index import ImageList, build_index, load_index
from tasks.infer import GenerateSettings, load_detections, run_inference
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
    keep: NDArray[np.float64],
    ignore: NDArray[np.float64],
    *,
    calibrated: bool,
    generate: GenerateSettings | None = None,
) -> Diagnosis:
    """Runs the teachers on a pool and looks at what they would teach.

    Detections are made, or found, under the keys of a composition of the same
    teachers and images; shards are read one after the other.

    Args:
        store: Where index and detections go.
        teachers: In the label space's order.
        space: The label space.
        images: The pool. A data set has labels, which are held against the
            pseudo-labels and used for nothing else.
        fusing: The fuser.
        keep: (C,) see `composition.diagnostics.diagnose`.
        ignore: (C,) see there.
        calibrated: Whether the fuser's scores are calibrated probabilities.
        generate: How the teachers are run.
    """
    settings = generate or GenerateSettings()
    labelled = images if isinstance(images, Dataset) else None
    index = build_index(store, images.listing if isinstance(images, Dataset) else images)
    shards = {teacher.name: run_inference(store, teacher, index, settings) for teacher in teachers}
    sums, profiles, positives = _collect(shards, space, fusing, keep)
    return diagnostics.diagnose(
        sums,
        space.classes,
        list(shards),
        spaces.coverage(space),
        keep,
        ignore,
        calibrated=calibrated,
        # a higher floor than the profiles' would look like another domain
        profiles={
            teacher.name: (load_profile(teacher), profiles[teacher.name])
            for teacher in teachers
            if settings.score_floor <= FLOOR
        },
        quality=_quality(positives, labelled, index, space) if labelled else None,
    )


def _collect(
    shards: Mapping[str, Sequence[Artifact]], space: LabelSpace, fusing: Fuser, keep: NDArray[np.float64]
) -> tuple[PoolSums, dict[str, ScoreProfile], Detections]:
    """Sums, profiles and positive labels of all shards."""
    coverage = spaces.coverage(space)
    profiles = dict.fromkeys(shards, empty_profile())
    parts: list[PoolSums] = []
    positives: list[Detections] = []
    rounds = list(zip(*shards.values(), strict=True))
    for round_ in track(rounds, "looking at shards", len(rounds)):
        tables = []
        for name, shard in zip(shards, round_, strict=True):
            found = load_detections(shard)
            profiles[name] = profiles[name] + profile(found, shard.counts["images"])
            tables.append(spaces.map_detections(space, name, found))
        fused = fusing.fuse(tables).detections
        one = pool_sums.collect(tables, fused, coverage, round_[0].counts["images"])
        parts = [parts[0] + one] if parts else [one]
        positives.append(fused[fused.score >= keep[fused.class_id].astype(np.float32)])
    return parts[0], profiles, table.concatenate(positives)


def _quality(
    positives: Detections, dataset: Dataset, index: Artifact, space: LabelSpace
) -> dict[int, LabelQuality]:
    """The positives against the labels, on the classes that the data set has."""
    ids = {image["file_name"]: image["id"] for image in dataset.coco["images"]}
    records = load_index(index)
    lookup = np.full(max(record.image_id for record in records) + 1, -1, np.int64)
    for record in records:
        lookup[record.image_id] = ids[record.path]
    categories = dataset.coco["categories"]
    shared = shared_classes(space.classes, [category["name"] for category in categories])
    labels = table.with_image_ids(positives[np.isin(positives.class_id, list(shared))], lookup)
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
