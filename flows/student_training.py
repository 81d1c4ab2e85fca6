"""The second half of the main job: pseudo-labels in, a student out."""

from __future__ import annotations

import logging
from typing import Any

from flows.plan import Plan
from flows.pseudo_labelling import PseudoLabelling
from flows.stopwatch import Stopwatch
from tasks.label import COCO_FILE
from tasks.store import Artifact, Store
from tasks.train import as_teacher, student_key, train_task
from tasks.trial import Verdict, hold_out_task, load_verdict, student_of_start_task, try_student_task

log = logging.getLogger("detcompose")


def make_student(
    store: Store, plan: Plan, made: PseudoLabelling, watch: Stopwatch
) -> tuple[Artifact, Verdict | None]:
    """Trains the student, and where it has to be better than its start, tries it.

    Args:
        store: Where the artifacts are and go.
        plan: What to do.
        made: The finished first half.
        watch: Tracks and times the steps.

    Returns:
        The trained student, or the start as a student; and what the trial said, if there was one.
    """
    labels = made.labels
    if plan.trial:
        with watch.step("hold out") as step:
            labels = hold_out_task(store, made.labels)
            step.done(labels)
    shared: dict[str, Any] = {
        "name": plan.recipe.name,
        "settings": plan.recipe.student,
        "vocabulary": plan.space.classes,
        "annotations": labels.file(COCO_FILE),
        "image_root": plan.listing.root,
        "seed": plan.recipe.seed,
        "start": plan.start,
        "provenance": provenance(plan),
    }
    with watch.step("train") as step:
        student: Artifact = train_task(
            store,
            key=student_key(
                labels.digest, plan.recipe.student, plan.start, plan.space.classes, plan.recipe.seed
            ),
            inputs={"pseudo-labels": labels.digest},
            on_progress=step.training_progress,
            **shared,
        )
        step.done(student)
    if not plan.trial or not labels.counts["held_out"]:
        return student, None
    assert plan.start is not None
    with watch.step("try") as step:
        start: Artifact = student_of_start_task(store, student, **shared)
        trial = try_student_task(
            store,
            student=as_teacher(student),
            start=as_teacher(start),
            origin=plan.start,
            held_out=labels,
            shards=made.seen,
            teachers=plan.teachers,
            space=plan.space,
            fuser=made.fuser,
            thresholds=made.thresholds,
            filtering=plan.recipe.filter,
            image_root=plan.listing.root,
        )
        step.done(trial)
        verdict = load_verdict(trial)
        step.run.metrics({"difference": verdict.difference, "low": verdict.low, "high": verdict.high})
        (log.info if verdict.student_kept else log.warning)("%s", verdict)
        return (student if verdict.student_kept else start), verdict


def provenance(plan: Plan) -> dict[str, Any]:
    """What the student's bundle says about where it comes from."""
    return {
        "composition": plan.digest,
        "teachers": {
            teacher.name: {"digest": teacher.digest, "license": teacher.manifest.license}
            for teacher in plan.teachers
        },
        "images": plan.images_digest,
        "seed": plan.recipe.seed,
    }
