"""Pools of images with labels kept aside, labelled by teachers shard by shard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from composition import detections as table
from composition import label_space as spaces
from composition.aliases import shared_classes
from composition.detections import Detections
from composition.fusion import Expert, Fused
from composition.label_free import calibrate_label_free
from composition.matching import Objects, objects
from composition.statistics import Statistics, empty, merge, statistics_of
from tasks.infer import GenerateSettings

if TYPE_CHECKING:
    from tasks.teachers import Look

SHARD_SIZE = 100
SETTINGS = GenerateSettings(shard_size=SHARD_SIZE, augment="all")


class Pool:
    """Images as a composition sees them, and their labels.

    Args:
        home: Where teachers and detections are kept.
        data: Folder with ``coco/`` and ``teachers/``.
        images: COCO file of the images.
        labels: COCO file of their labels; the same names.
        folder: Where in ``data`` the two files are.
    """

    def __init__(self, home: Any, data: Path, images: str, labels: str, folder: str = "coco") -> None:
        from tasks import evaluate
        from tasks.image_index import build_index, list_images, load_index

        self.home, self.data = home, data
        self.dataset = evaluate.load_dataset(data / folder / labels)
        self.index = build_index(home.store, list_images(data / folder / images))
        self.records = load_index(self.index)
        self.ids = evaluate.dataset_ids(self.dataset, self.index)

    def chosen(self, images: int) -> NDArray[np.int64]:
        """Ids of the images that `calibrated_expert` looks at; a larger choice holds a smaller one."""
        from tasks.evaluate import few_images

        return np.array([image["id"] for image in few_images(self.dataset, images).coco["images"]], np.int64)

    def image_ids(self) -> list[NDArray[np.int64]]:
        """Ids of the images of every shard."""
        from tasks.image_index import shards

        parts = shards(self.records, SHARD_SIZE)
        return [self.ids[[record.image_id for record in part]] for part in parts]

    def looking(self, members: Sequence[Any]) -> list[Any]:
        """The teachers with the further looks that serve them on these images."""
        from tasks.infer import run_teachers
        from tasks.looks import find_looks, looking

        shards = run_teachers(self.home.store, members, self.index, SETTINGS)
        return looking(members, find_looks(self.home.store, members, self.index, shards, SETTINGS))

    def shards(
        self, members: Sequence[Any], space: spaces.LabelSpace, look: Look = "first"
    ) -> list[list[Detections]]:
        """Per shard every teacher's detections in the union classes, in all looks that it takes."""
        from tasks.infer import load_detections, run_teachers
        from tasks.looks import look_again

        store = self.home.store
        shards: dict[str, Any] = dict(run_teachers(store, members, self.index, SETTINGS, look))
        if look == "first":
            shards = look_again(run_teachers, store, members, self.index, shards, SETTINGS).all
        columns = []
        for member in members:
            found = map(load_detections, shards[member.name])
            mapped = (spaces.map_detections(space, member.name, part) for part in found)
            columns.append([table.with_image_ids(part, self.ids) for part in mapped])
        return [list(row) for row in zip(*columns, strict=True)]

    def label_free(self, members: Sequence[Any], space: spaces.LabelSpace) -> Expert:
        """The fuser that these images calibrate without their labels."""
        from tasks.looks import without_zoom

        def tables(who: Sequence[Any], look: Look) -> list[Detections]:
            return [table.concatenate(parts) for parts in zip(*self.shards(who, space, look), strict=True)]

        level = without_zoom(members)
        first, second, seen = tables(level, "first"), tables(level, "second"), tables(members, "first")
        return calibrate_label_free(first, second, spaces.coverage(space), seen=seen)

    def truth(self, space: spaces.LabelSpace) -> tuple[Objects, NDArray[np.bool_]]:
        """The labels in the union classes, and (C,) which of these they cover."""
        categories = self.dataset.coco["categories"]
        shared = shared_classes(space.classes, [category["name"] for category in categories])
        covered = np.isin(np.arange(len(space.classes)), list(shared))
        return objects(self.dataset.coco, {categories[i]["id"]: c for c, i in shared.items()}), covered


def on(images: NDArray[np.int64], rows: Detections) -> Detections:
    """The rows on some images."""
    return rows[np.isin(rows.image_id, images)]


def labels_on(images: NDArray[np.int64], truth: Objects) -> Objects:
    """The objects on some images."""
    rows = np.isin(truth.image_id, images)
    return Objects(truth.image_id[rows], truth.class_id[rows], truth.boxes[rows], truth.crowd[rows])


def fuse(
    expert: Expert, shards: Sequence[Sequence[Detections]], ids: Sequence[NDArray[np.int64]], coverage: Any
) -> tuple[Fused, Statistics]:
    """Fuses shard by shard and reduces the statistics."""
    parts, total = [], empty(*coverage.shape)
    for tables, images in zip(shards, ids, strict=True):
        fused = expert.fuse([on(images, part) for part in tables])
        parts.append(fused)
        total = merge(
            total, statistics_of(fused, [on(images, part) for part in tables], coverage, len(images))
        )
    whole = Fused(
        table.concatenate(part.detections for part in parts),
        np.concatenate([part.teachers for part in parts]),
        np.concatenate([part.scores for part in parts]),
    )
    return whole, total
