"""How long a composition will take, from short probes of its teachers and its student."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from composition.zoom import PARTS
from flows.plan import LabelPlan, Plan
from model_zoo.adapters.base import InferenceSettings
from model_zoo.adapters.registry import open_detector
from model_zoo.mmdet_runtime import build_model
from model_zoo.student_configs import load_student, model_config
from model_zoo.student_settings import StudentSettings
from tasks.evaluate import SETTINGS
from tasks.home import Home
from tasks.image_index import POOL_SAMPLE, find_index
from tasks.infer import missing_shards
from tasks.looks import LOOKS_SAMPLE
from tasks.teachers import Teacher

_PROBE_IMAGES = 4
# forward, backward (twice the forward's multiplications), loss and decoding of a training step
_STEP_OVER_FORWARD = 4


def estimate(home: Home, plan: Plan) -> dict[str, Any]:
    """Estimates the time of a composition on this machine.

    Both are probed: every teacher that has images to look at sees a few of
    noise, and the untrained student's forward pass is timed and taken four
    times. Good within a factor of two; a busy machine is slower.

    Returns:
        As `estimate_labels`, with ``training_seconds``; the inference is that on the evaluation sets, too.
    """
    evaluation = sum(len(dataset.coco["images"]) for dataset in plan.datasets.values())
    found = _inference(home, plan, evaluation)
    settings = plan.recipe.student
    training = _training_seconds_per_image(settings) * len(plan.listing.paths) * settings.epochs
    text = {**found["text"], "training": _readable(training)}
    return {**found, "training_seconds": round(training, 1), "text": text}


def estimate_labels(home: Home, plan: LabelPlan) -> dict[str, Any]:
    """Estimates the time of a labelling: every teacher on the images that it has not seen yet.

    Returns:
        ``{"missing": {teacher: images}, "inference_seconds", "text": {label: text}}``. Services take part in
        ``missing`` only: to time one would cost requests.
    """
    return _inference(home, plan, 0)


def _inference(home: Home, plan: LabelPlan, others: int) -> dict[str, Any]:
    """`estimate_labels`, with so many other images that every teacher has to look at."""
    index = find_index(home.store, plan.listing, plan.images_digest)
    missing = {
        teacher.name: missing_shards(home.store, teacher, index, plan.recipe.generate)
        if index
        else len(plan.listing.paths)
        for teacher in plan.teachers
    }
    shown = {
        teacher.name: _pictures(plan, teacher, missing[teacher.name]) + others for teacher in plan.teachers
    }
    timed = [teacher for teacher in plan.teachers if shown[teacher.name] and not teacher.is_service]
    seconds = sum(shown[teacher.name] * _seconds_per_image(teacher) for teacher in timed)
    text = [_readable(seconds)] if timed else []
    text += [
        f"{shown[teacher.name]:,} requests of {teacher.name}"
        for teacher in plan.teachers
        if shown[teacher.name] and teacher.is_service
    ]
    return {
        "missing": missing,
        "inference_seconds": round(seconds, 1),
        "text": {"inference": " and ".join(text) or "none, the store has it"},
    }


def _pictures(plan: LabelPlan, teacher: Teacher, missing: int) -> int:
    """How many pictures a teacher is shown, at most: not every look serves every teacher, and no service."""
    if not missing:
        return 0
    pool, generate = len(plan.listing.paths), plan.recipe.generate
    calibration = min(pool, POOL_SAMPLE) if plan.calibration == "label-free" else 0
    if teacher.is_service or not plan.recipe.looks_again:
        return missing + calibration
    # of what is tried out: the border, the mirror and two zooms
    tried = min(pool, LOOKS_SAMPLE) * {"auto": 2, "all": 2 + 2 * PARTS}.get(generate.augment, 0)
    further = {"auto": 1, "all": 1 + PARTS, "flip": 1, "zoom": PARTS}[generate.augment]
    return missing * (1 + further) + tried + calibration


def _seconds_per_image(teacher: Teacher) -> float:
    detector = open_detector(teacher.folder, InferenceSettings(score_floor=SETTINGS.score_floor))
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    return _best_of(lambda: detector.predict([noise] * _PROBE_IMAGES)) / _PROBE_IMAGES


def _training_seconds_per_image(settings: StudentSettings) -> float:
    import torch

    model = build_model(model_config(load_student(settings.architecture), 1)).eval()
    batch = torch.zeros(2, 3, settings.image_size, settings.image_size)
    with torch.inference_mode():
        seconds = _best_of(lambda: model(batch, mode="tensor"))
    return seconds / len(batch) * _STEP_OVER_FORWARD


def _best_of(probe: Callable[[], object], repeats: int = 4) -> float:
    """Seconds of the quickest call: the first one warms up, and busy moments are no measure."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        probe()
        times.append(time.perf_counter() - start)
    return min(times)


def _readable(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(seconds, 1):.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
