"""A trained student against its start, on held-out images, by real small detectors."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from composition import label_space as spaces
from composition.fusion import Expert
from composition.label_space import LabelSpace
from model_zoo import bundle
from tasks import teachers as registry
from tasks.aggregate import fuse_shards
from tasks.home import Home
from tasks.label import COCO_FILE, label_pool
from tasks.method_settings import FilterSettings
from tasks.store import Artifact
from tasks.teachers import Teacher
from tasks.thresholds import find_thresholds
from tasks.trial import HELD_OUT_FILE, REFERENCE_FILE, can_be_tried, hold_out, load_verdict, try_student
from tests.tasks.conftest import Digits

FILTER = FilterSettings(rule="fixed", keep=0.4)


@dataclass(frozen=True)
class Labelled:
    """The pool with its pseudo-labels."""

    space: LabelSpace
    thresholds: Artifact
    labels: Artifact
    held_out: Artifact


@pytest.fixture(scope="module")
def labelled(digits: Digits) -> Labelled:
    store, fuser = digits.store, Expert()
    space = spaces.build({teacher.name: teacher.manifest.vocabulary for teacher in digits.teachers})
    fused = fuse_shards(store, digits.shards, space, fuser, 0.0)
    thresholds = find_thresholds(store, digits.teachers, fused, space, fuser, FILTER, "fixed", None, 0, 0.0)
    labels = label_pool(store, digits.index, fused, space, FILTER, thresholds)
    return Labelled(space, thresholds, labels, hold_out(store, labels))


@pytest.fixture(scope="module")
def damaged(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    """The second teacher with noise in its weights."""
    folder = tmp_path_factory.mktemp("damaged") / "damaged"
    good = digits.teachers[1]
    manifest, random = good.manifest, np.random.default_rng(0)
    weights = load_file(good.folder / "model.safetensors")
    for name, value in weights.items():
        if name.endswith("conv.weight"):
            weights[name] = (value + random.normal(0, value.std(), value.shape)).astype(value.dtype)
    bundle.write(
        folder,
        name="damaged",
        adapter=manifest.adapter,
        vocabulary=manifest.vocabulary,
        input=manifest.input,
        output=manifest.output,
        files={
            **{name: good.folder / name for name in manifest.files},
            "model.safetensors": save(weights),
        },
    )
    return registry.find(Home(folder.parent), str(folder))


def _try(digits: Digits, labelled: Labelled, student: Teacher, start: Teacher) -> Artifact:
    """The trial of a student; its start is the detector that it comes from, as it is."""
    return try_student(
        digits.store,
        student=student,
        start=start,
        origin=start,
        held_out=labelled.held_out,
        shards=digits.shards,
        teachers=digits.teachers,
        space=labelled.space,
        fuser=Expert(),
        thresholds=labelled.thresholds,
        filtering=FILTER,
        image_root=digits.scenes.root,
    )


def test_a_tenth_of_the_images_is_held_out(digits: Digits, labelled: Labelled) -> None:
    whole = json.loads(labelled.labels.file(COCO_FILE).read_text())
    left = json.loads(labelled.held_out.file(COCO_FILE).read_text())
    taken = json.loads(labelled.held_out.file(HELD_OUT_FILE).read_text())
    assert len(taken) == len(whole["images"]) // 10 > 0
    assert sorted(image["id"] for image in [*left["images"], *taken]) == [
        image["id"] for image in whole["images"]
    ]
    assert {row["image_id"] for row in left["annotations"]}.isdisjoint(image["id"] for image in taken)
    assert left["categories"] == whole["categories"]
    assert hold_out(digits.store, labelled.labels) == labelled.held_out


def test_images_on_which_a_teacher_failed_are_not_held_out(digits: Digits, labelled: Labelled) -> None:
    fused = fuse_shards(digits.store, digits.shards, labelled.space, Expert(), 0.0)
    taken = json.loads(labelled.held_out.file(HELD_OUT_FILE).read_text())
    failed = {"digits-low": [image["id"] for image in taken]}
    labels = label_pool(
        digits.store, digits.index, fused, labelled.space, FILTER, labelled.thresholds, failed
    )
    others = json.loads(hold_out(digits.store, labels).file(HELD_OUT_FILE).read_text())
    assert len(others) == len(taken)
    assert {image["id"] for image in others}.isdisjoint(failed["digits-low"])


def test_a_student_that_is_better_is_kept(digits: Digits, labelled: Labelled, damaged: Teacher) -> None:
    verdict = load_verdict(_try(digits, labelled, digits.teachers[1], damaged))
    assert verdict.student > verdict.start
    assert verdict.difference == pytest.approx(verdict.student - verdict.start)
    assert verdict.student_kept
    assert str(verdict).startswith("the student is better than its start")


def test_the_start_has_no_say_in_the_labels_that_judge_it(
    digits: Digits, labelled: Labelled, damaged: Teacher
) -> None:
    start = digits.teachers[1]
    trial = _try(digits, labelled, damaged, start)
    verdict = load_verdict(trial)
    assert verdict.student < verdict.start
    assert not verdict.student_kept
    assert "the start is kept" in str(verdict)
    reference = json.loads(trial.file(REFERENCE_FILE).read_text())
    seen = {labelled.space.classes[row["category_id"] - 1] for row in reference["annotations"]}
    assert seen
    assert seen <= set(digits.teachers[0].manifest.vocabulary)
    assert _try(digits, labelled, damaged, start) == trial


def test_who_can_be_tried(digits: Digits, labelled: Labelled, damaged: Teacher) -> None:
    low, high = digits.teachers
    shared = [name for name in low.manifest.vocabulary if name in high.manifest.vocabulary]
    narrow = spaces.build(
        {teacher.name: teacher.manifest.vocabulary for teacher in digits.teachers},
        classes=shared,
        overrides={low.name: {"*": "drop"}, high.name: {"*": "drop"}},
    )
    assert can_be_tried(high, digits.teachers, narrow)
    assert can_be_tried(damaged, digits.teachers, narrow)
    assert not can_be_tried(None, digits.teachers, narrow)
    assert not can_be_tried(high, digits.teachers, labelled.space), "it lacks zero to three"
    alone = spaces.build({high.name: high.manifest.vocabulary})
    assert not can_be_tried(high, [high], alone), "nobody else can judge"
