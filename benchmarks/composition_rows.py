"""The rows of the composition experiment: what each of them trains, and on what.

Three kinds of photographs: blood cells and playing cards with two teachers of our own each, of
different architectures, trained on disjoint halves of the training images with partly
overlapping classes; COCO with six pretrained teachers, two of which know VOC's classes only.
All students of a data set have one architecture, image size, schedule and start; they differ in
their labels alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START = "yolox-nano-coco"
"""YOLOX-nano as trained on COCO; its converted weights are the start of the students."""
PRETRAINED = {
    START: "yolox_nano_coco",
    "nanodet-coco": "nanodet_m_320_coco",
    "yolo-fastest-xl-coco": "yolo_fastest_1.1_xl_coco",
    "fastestdet-coco": "fastestdet_coco",
    "yolo-fastest-xl-voc": "yolo_fastest_xl_voc",
    "mobilenet-yolo-voc": "mobilenetv2_yolov3_nano_voc",
}
"""Name in the home to the name in `benchmarks.teachers`."""
FRACTIONS = (1, 5, 10)
"""Percent of the labels in the rows with few labels."""
SEEDS = (0, 1, 2)
MAIN = ("supervised", "ours", "naive", "wbf")
ABLATIONS: dict[str, dict[str, Any]] = {
    "ours_no_calibration": {"calibrate": {"method": "none"}},
    "ours_no_ignore": {"student": {"ignore": False}},
    "ours_no_class_mask": {"student": {"class_mask": False}},
    "ours_no_weights": {"student": {"weights": "hard"}},
}
# only where the students' start knows all of the classes; elsewhere there is no trial
NO_TRIAL: dict[str, dict[str, Any]] = {"ours_no_trial": {"keep_start": "never"}}
# every box is certain, and whatever is no box is background
_STOCK = {"student": {"weights": "hard", "ignore": False, "class_mask": False}, "keep_start": "never"}
BASELINES: dict[str, dict[str, Any]] = {
    "naive": {"fuse": {"method": "nms"}, "filter": {"rule": "fixed", "keep": 0.5}, **_STOCK},
    # stock WBF halves the score of a box whose class only one of two teachers knows: half the threshold
    "wbf": {"fuse": {"method": "wbf"}, "filter": {"rule": "fixed", "keep": 0.25}, **_STOCK},
}
# also enlarged parts
LOOKS: dict[str, dict[str, Any]] = {"ours_looks": {"generate": {"augment": "all"}}}
COMPOSED = ("ours", *LOOKS, *BASELINES, *ABLATIONS, *NO_TRIAL)


@dataclass(frozen=True, slots=True)
class OwnTeacher:
    """A teacher that the experiment trains itself, on labels.

    Attributes:
        name: Its name in the home.
        classes: Its vocabulary.
        part: The half of the training images that it sees, as ``detcompose train --part``.
        options: Other options of ``detcompose train``.
    """

    name: str
    classes: tuple[str, ...]
    part: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A data set with its teachers and its student.

    Attributes:
        name: Folder in the data.
        teachers: Names in the home.
        student: Settings of all its students.
        own: The teachers that are trained here, if any.
        classes: The label space; None: the union of the teachers' classes.
    """

    name: str
    teachers: tuple[str, ...]
    student: Mapping[str, Any]
    own: tuple[OwnTeacher, ...] = ()
    classes: tuple[str, ...] | None = None

    def plan(self) -> list[tuple[str, int]]:
        """All rows and seeds, in the order in which they are worth their time."""
        main = ("teacher", *MAIN)
        if not self.own:
            return [(row, 0) for row in (*main, *LOOKS, *NO_TRIAL)]
        few = [f"{kind}_{n}" for n in FRACTIONS for kind in ("finetune", "supervised", "supervised_warm")]
        once = ("finetune_half", "oracle_classes", *ABLATIONS, "supervised_long")
        return [
            *((row, 0) for row in (*main, *few)),
            *((row, seed) for seed in SEEDS[1:] for row in MAIN),
            *((row, seed) for seed in SEEDS for row in LOOKS),
            *((row, 0) for row in once),
            *((row, seed) for seed in SEEDS[1:] for row in few),
        ]


def recipe(case: Case, row: str, seed: int, data: Path) -> dict[str, Any]:
    """The recipe of a row that composes."""
    changes = {**BASELINES, **ABLATIONS, **NO_TRIAL, **LOOKS, "ours": {}}[row]
    space = {"label_space": {"classes": list(case.classes)}} if case.classes else {}
    return {
        "name": f"{case.name}-{row}-{seed}".replace("_", "-"),
        "teachers": list(case.teachers),
        "images": {"source": str(data / case.name / "unlabeled.json")},
        "seed": seed,
        **space,
        **changes,
        "student": {**case.student, **changes.get("student", {})},
    }


def stretched(student: Mapping[str, Any], images: int, all_images: int) -> dict[str, Any]:
    """The settings for fewer images: more epochs, so that there are as many steps."""
    steps = student["epochs"] * math.ceil(all_images / student["batch_size"])
    return {**student, "epochs": max(1, round(steps / math.ceil(images / student["batch_size"])))}


def options(student: Mapping[str, Any]) -> list[str]:
    """Student settings as options of ``detcompose train``."""
    return [part for name, value in student.items() for part in (f"--{name.replace('_', '-')}", str(value))]


_STUDENT = {
    "architecture": "yolox_nano",
    "image_size": 320,
    "epochs": 16,
    "batch_size": 8,
    "augmentation": "light",
    "warm_start": f"bundle:{START}",
}
_FIRST = ("--architecture", "yolox_nano", "--warm-start", f"bundle:{START}", "--augmentation", "light")
_SECOND = ("--architecture", "atss_effnet_lite0", "--warm-start", "imagenet", "--augmentation", "light")
_COARSE = (("--image-size", "320", "--epochs", "24"), ("--image-size", "320", "--epochs", "50"))
# what tells a king from a queen, or a nine from a ten, is small
_FINE = (("--image-size", "416", "--epochs", "40"),) * 2


def _own(
    name: str,
    classes: tuple[str, ...],
    first: tuple[str, ...],
    second: tuple[str, ...],
    sizes: tuple[tuple[str, ...], ...],
) -> Case:
    own = (
        OwnTeacher(f"{name}-first", first, "1/2", (*_FIRST, *sizes[0])),
        OwnTeacher(f"{name}-second", second, "2/2", (*_SECOND, *sizes[1])),
    )
    return Case(name, tuple(teacher.name for teacher in own), _STUDENT, own, classes)


CASES = {
    "bccd": _own("bccd", ("RBC", "WBC", "Platelets"), ("RBC", "WBC"), ("WBC", "Platelets"), _COARSE),
    "cards": _own(
        "cards",
        ("nine", "ten", "jack", "queen", "king", "ace"),
        ("nine", "ten", "jack", "queen"),
        ("jack", "queen", "king", "ace"),
        _FINE,
    ),
    "coco": Case(
        "coco",
        tuple(PRETRAINED),
        # 421 images after 118,000: few and small steps, or the few take the place of the many
        {**_STUDENT, "image_size": 416, "epochs": 3, "learning_rate": 0.00002, "norm": "frozen"},
    ),
}
