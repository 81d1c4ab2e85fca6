"""The first half of the main job: teachers and unlabeled images in, pseudo-labels out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from composition.diagnostics import warnings
from composition.fusion import Expert, Fuser
from flows.plan import LabelPlan
from flows.stopwatch import Stopwatch
from tasks import shown, unanswered
from tasks.aggregate import aggregate
from tasks.calibrate import calibrate_task, load_fuser
from tasks.diagnosis import diagnose_task, load_diagnosis
from tasks.fan_out import Runner, inference
from tasks.image_index import index_images, load_quarantine
from tasks.label import label
from tasks.looks import Seen, find_looks_task, look_again, looking
from tasks.store import Artifact, Store
from tasks.teachers import Teacher
from tasks.thresholds import thresholds_task
from tasks.tracking import Run

log = logging.getLogger("detcompose")

WARNINGS_SHOWN = 5
SECOND_HALF = {"student", "evaluate", "baselines", "seed"}
"""Fields of a recipe that have no say in its pseudo-labels."""


@dataclass(frozen=True, slots=True)
class PseudoLabelling:
    """The artifacts of a finished first half.

    Attributes:
        index: The images.
        teachers: With the further looks that they take.
        shards: Teacher name to its detections on the images as they are.
        seen: The same with further looks: what was fused.
        fuser: Calibrated where it can be.
        fused: The fused boxes, shard by shard.
        thresholds: Per class, from which score on a box is a label.
        labels: The pseudo-labels.
        diagnosis: What they are worth, as far as that can be told without labels.
    """

    index: Artifact
    teachers: tuple[Teacher, ...]
    shards: dict[str, list[Artifact]]
    seen: Mapping[str, Sequence[Artifact]]
    fuser: Fuser
    fused: list[Artifact]
    thresholds: Artifact
    labels: Artifact
    diagnosis: Artifact


def describe(run: Run, plan: LabelPlan) -> None:
    """Says in the tracking run what the pseudo-labels are made of."""
    recipe = plan.recipe
    shown.show_run(run, recipe.name)
    shown.show_label_space(plan.space)
    run.params(recipe.model_dump(mode="json", exclude=SECOND_HALF))
    run.tags({"images": plan.images_digest, **{f"teacher.{t.name}": t.digest for t in plan.teachers}})
    run.dataset(recipe.images.source.name, "unlabeled", recipe.images.source, plan.images_digest)


def make_pseudo_labels(
    store: Store, plan: LabelPlan, watch: Stopwatch, runner: Runner | None = None
) -> PseudoLabelling:
    """Runs the steps up to the diagnosis; what is in the store already is not made again.

    Args:
        store: Where the artifacts are and go.
        plan: What to do.
        watch: Tracks and times the steps.
        runner: Where the teachers run; default: what ``DETCOMPOSE_RUNNER`` says, else one after the other.
    """
    recipe = plan.recipe
    with watch.step("index") as step:
        index = index_images(store, plan.listing, plan.images_digest)
        step.done(index)
        _warn_of_bad_images(index)
    with watch.step("infer") as step:
        shards = inference(store, plan.teachers, index, recipe.generate, runner)
        for name, parts in shards.items():
            step.done_by(name, *parts)
    silent = unanswered.images_of(shards)
    for name, images in silent.items():
        log.warning(
            "teacher %s has not spoken on %d images: its classes are not background there", name, len(images)
        )
    seen, again = Seen(shards, shards), plan
    if recipe.looks_again:
        with watch.step("look again") as step:
            found = find_looks_task(store, plan.teachers, index, shards, recipe.generate)
            step.done(found)
            again = replace(plan, teachers=tuple(looking(plan.teachers, found)))
            run = partial(inference, runner=runner)
            seen = look_again(run, store, again.teachers, index, shards, recipe.generate)
    with watch.step("calibrate") as step:
        calibrated = calibrate(calibrate_task, store, again, index, seen)
        fuser = load_fuser(calibrated)
        step.done(calibrated)
    with watch.step("aggregate") as step:
        fused = aggregate(store, seen.all, plan.space, fuser, recipe.filter.floor)
        step.done(*fused)
    with watch.step("thresholds") as step:
        limits = thresholds(thresholds_task, store, again, fused, fuser)
        step.done(limits)
    with watch.step("label") as step:
        labels = label(store, index, fused, plan.space, recipe.filter, limits, silent)
        step.done(labels)
    with watch.step("diagnose") as step:
        diagnosis = diagnose_task(
            store,
            plan.teachers,
            shards,
            fused,
            plan.space,
            limits,
            labels,
            calibrated=isinstance(fuser, Expert) and fuser.expertise is not None,
            floor=recipe.filter.floor,
            score_floor=recipe.generate.score_floor,
        )
        step.done(diagnosis)
        step.run.artifacts(diagnosis.folder, "diagnosis")
        _show_diagnosis(diagnosis, labels, step.run)
    return PseudoLabelling(index, again.teachers, shards, seen.all, fuser, fused, limits, labels, diagnosis)


def calibrate(
    how: Callable[..., Artifact],
    store: Store,
    plan: LabelPlan,
    index: Artifact,
    seen: Seen,
) -> Artifact:
    """Calibrates as planned; ``how`` is `calibrate_fuser`, or the task of it."""
    recipe = plan.recipe
    return how(
        store,
        plan.teachers,
        index,
        seen.level,
        plan.space,
        recipe.fuse.fuser(),
        plan.calibration,
        plan.labelled,
        recipe.calibrate.images,
        recipe.detection_floor,
        recipe.generate,
        seen.all,
    )


def thresholds(
    how: Callable[..., Artifact], store: Store, plan: LabelPlan, fused: Sequence[Artifact], fuser: Fuser
) -> Artifact:
    """Finds thresholds as planned; ``how`` is `find_thresholds`, or the task of it."""
    recipe = plan.recipe
    return how(
        store,
        plan.teachers,
        fused,
        plan.space,
        fuser,
        recipe.filter,
        plan.rule,
        plan.labelled,
        recipe.calibrate.images,
        recipe.detection_floor,
    )


def _warn_of_bad_images(index: Artifact) -> None:
    bad = load_quarantine(index)
    if bad:
        log.warning(
            "%d of %d images cannot be used and were left out, the first: %s: %s",
            len(bad),
            len(bad) + index.counts["images"],
            bad[0]["path"],
            bad[0]["reason"],
        )


def _show_diagnosis(diagnosis: Artifact, labels: Artifact, run: Run) -> None:
    """The gravest first; the report has them all."""
    lines = warnings(load_diagnosis(diagnosis))[:WARNINGS_SHOWN]
    for line in lines:
        log.warning("before training: %s", line)
    pictures = sorted(path.name for path in diagnosis.folder.glob("*.png"))
    shown.show_diagnosis(lines, labels.counts, pictures, run)
