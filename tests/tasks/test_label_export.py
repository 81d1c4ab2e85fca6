"""Artifacts of the pipeline as labelled sets, without a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from composition.fusion import Expert
from composition.label_space import Entry, LabelSpace
from composition.pseudo_labels import IGNORE
from tasks.aggregate import fuse_shards
from tasks.formats import export
from tasks.infer import load_detections
from tasks.label import COCO_FILE, label_pool, load_labels
from tasks.label_export import detection_set, pseudo_label_set
from tasks.method_settings import FilterSettings
from tasks.store import Store
from tasks.thresholds import find_thresholds
from tests.tasks.pools import make_pool

SPACE = LabelSpace(
    ("car", "bus"),
    {
        "one": (Entry("car", "same", "car"),),
        "two": (Entry("auto", "same", "car"), Entry("bus", "same", "bus")),
    },
)
SETTINGS = FilterSettings()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_exported_coco_says_what_the_store_says(store: Store, tmp_path: Path) -> None:
    pool = make_pool(store, SPACE, images=7, shard_size=3, boxes=4)
    fused = fuse_shards(store, pool.shards, SPACE, Expert(), SETTINGS.floor)
    rule = SETTINGS.chosen(False, "none")
    thresholds = find_thresholds(store, [], fused, SPACE, Expert(), SETTINGS, rule, None, 0, SETTINGS.floor)
    silent = {"two": [2, 5]}
    labels = label_pool(store, pool.index, fused, SPACE, SETTINGS, thresholds, silent)
    stored = json.loads(labels.file(COCO_FILE).read_text())
    assert {row["iscrowd"] for row in stored["annotations"]} == {0, 1}

    counts = export(
        pseudo_label_set("pool", pool.index, labels, SPACE.classes, tmp_path),
        "coco",
        tmp_path / "out",
        "none",
    )
    ignored = int((load_labels(labels).kind == IGNORE).sum())
    assert (counts.images, counts.ignore_regions) == (7, ignored)
    exported = COCO(tmp_path / "out" / "annotations" / "instances_train.json").dataset
    assert exported["categories"] == stored["categories"]
    ids = {row["file_name"]: row["id"] for row in stored["images"]}
    unspoken = {row["file_name"]: row.get("unspoken") for row in stored["images"]}
    assert {row["file_name"]: row.get("unspoken") for row in exported["images"]} == unspoken
    assert [2] in unspoken.values(), "nobody else knows the bus"
    names = {row["id"]: row["file_name"] for row in exported["images"]}
    for ours, theirs in zip(exported["annotations"], stored["annotations"], strict=True):
        assert ids[names[ours["image_id"]]] == theirs["image_id"]
        assert all(ours[key] == theirs[key] for key in ("category_id", "bbox", "iscrowd", "score"))


def test_detections_keep_their_teachers_classes(store: Store, tmp_path: Path) -> None:
    pool = make_pool(store, SPACE, images=5, shard_size=2, boxes=3)
    shards = pool.shards["two"]
    found = list(detection_set("two", pool.index, shards, ("auto", "bus"), tmp_path))
    assert len(found) == 5
    every = [load_detections(shard) for shard in shards]
    for column in ("boxes", "class_id", "score"):
        expected = np.concatenate([getattr(shard, column) for shard in every])
        np.testing.assert_array_equal(np.concatenate([getattr(image, column) for image in found]), expected)
    assert not any(image.ignore.any() or image.unspoken for image in found)
