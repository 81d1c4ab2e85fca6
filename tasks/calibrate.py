"""Calibration: what the teachers' scores are worth, from a few labels or from a second look at the pool."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composition import label_space as spaces
from composition.calibration import calibrate
from composition.detections import Detections
from composition.fusion import Expert, Fuser
from composition.label_free import calibrate_label_free
from composition.label_space import LabelSpace
from tasks import fusers, unanswered
from tasks.ensemble import labelled_evidence
from tasks.evaluate import Dataset
from tasks.image_index import pool_sample
from tasks.infer import GenerateSettings, load_images, run_teachers
from tasks.method_settings import Calibration
from tasks.step import step
from tasks.store import Artifact, Store, digest_of
from tasks.teachers import Teacher

CALIBRATION_VERSION = 3
FUSER_FILE = "fuser.json"


def calibrate_fuser(
    store: Store,
    teachers: Sequence[Teacher],
    index: Artifact,
    shards: Mapping[str, Sequence[Artifact]],
    space: LabelSpace,
    fuser: Fuser,
    method: Calibration,
    dataset: Dataset | None,
    images: int,
    floor: float,
    generate: GenerateSettings,
    seen: Mapping[str, Sequence[Artifact]] | None = None,
) -> Artifact:
    """The fuser of a composition, with everything that calibration could learn.

    Args:
        store: Where it goes.
        teachers: In the label space's order.
        index: The pool's images.
        shards: Teacher name to its shards on the pool, in looks `tasks.looks.without_zoom`.
        space: The label space.
        fuser: As the recipe has it.
        method: What to learn from.
        dataset: The labels; needed for ``labels`` only.
        images: How many labelled images to use at most.
        floor: Raw scores below it do not count.
        generate: How the teachers were run on the pool, for the second look.
        seen: As ``shards``, in all looks that are fused; None: the same.

    Returns:
        The artifact with ``fuser.json``; see `load_fuser`.

    Raises:
        UserError: Too few labels, or none of a class of the label space.
    """
    sources: dict[str, Any] = {"labels": dataset and [dataset.digest, dataset.images_digest, images]}
    if method == "label-free":
        looks = (shards, seen) if seen else (shards,)
        sources = {name: [[shard.digest for shard in look[name]] for look in looks] for name in shards}
    key = digest_of(
        "fuser",
        CALIBRATION_VERSION,
        fusers.to_json(fuser),
        method,
        sources if method != "none" else {},
        [teacher.way_of_looking for teacher in teachers],
        spaces.digest(space),
        floor,
    )
    found = store.find("fusers", key)
    if found:
        return found
    counts: dict[str, int] = {}
    if method == "labels":
        assert dataset is not None
        assert isinstance(fuser, Expert)
        evidence = labelled_evidence(store, teachers, space, dataset, images, floor)
        fuser = calibrate(evidence.tables, spaces.coverage(space), evidence.truth, fuser.iou)
        counts = {"images": min(images, len(dataset.coco["images"])), "objects": len(evidence.truth)}
    elif method == "label-free":
        assert isinstance(fuser, Expert)
        sample = pool_sample(index)
        again = run_teachers(store, teachers, index, generate, "second", sample, incomplete=True)
        # where somebody has not spoken, his silence is no evidence
        for silent in (*unanswered.images_of(shards).values(), *unanswered.images_of(again).values()):
            sample = np.setdiff1d(sample, silent)
        tables, second, fused = (
            pool_tables(look, space, sample, floor) for look in (shards, again, seen or shards)
        )
        fuser = calibrate_label_free(tables, second, spaces.coverage(space), fuser.iou, seen=fused)
        counts = {"images": len(sample), "detections": sum(map(len, tables))}
    inputs = {"label-space": spaces.digest(space), **{t.name: t.digest for t in teachers}}
    with store.write("fusers", key, inputs) as draft:
        document = {"calibration": method, **fusers.to_json(fuser)}
        draft.file(FUSER_FILE).write_text(json.dumps(document, indent=1) + "\n")
        draft.counts = counts
    return draft.artifact


calibrate_task = step(calibrate_fuser, "calibrate")


def load_fuser(artifact: Artifact) -> Fuser:
    """The fuser that `calibrate_fuser` kept."""
    return fusers.from_json(json.loads(artifact.file(FUSER_FILE).read_text()))


def pool_tables(
    shards: Mapping[str, Sequence[Artifact]], space: LabelSpace, images: NDArray[np.int64], floor: float
) -> list[Detections]:
    """Every teacher's detections on some images of the pool, in the union classes."""
    tables = []
    for name, parts in shards.items():
        found = load_images(parts, images)
        tables.append(spaces.map_detections(space, name, found[found.score >= np.float32(floor)]))
    return tables
