"""The first half alone: teachers and unlabeled images in, a labelled data set out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import flow

from composition.errors import UserError
from flows.plan import LabelPlan, make_label_plan
from flows.pseudo_labelling import PseudoLabelling, describe, make_pseudo_labels
from flows.recipe import Recipe
from flows.stopwatch import Stopwatch
from tasks import tracking
from tasks.devices import enough_devices
from tasks.fan_out import ready_runner
from tasks.formats import ImageMode, LabelledSet
from tasks.formats.export import check_target, export_task, exporter_of
from tasks.home import Home
from tasks.label_export import detection_set, pseudo_label_set

LABELS = "pseudo-labels"


@flow(name="label", flow_run_name="label {recipe.name}", persist_result=False)
def label(
    recipe: Recipe,
    limit: int | None = None,
    form: str = "coco",
    to: Path | None = None,
    images: ImageMode = "link",
    detections: bool = False,
) -> dict[str, Any]:
    """Labels the images of a recipe; a later `compose` goes on from the same artifacts.

    Args:
        recipe: What is asked for; its student and evaluation sets are not looked at.
        limit: Use only the first so many images.
        form: Format of the export, a `tasks.export_form.Form`.
        to: Folder of the export; None = no export.
        images: Whether links to the images, copies or nothing goes into it.
        detections: Also export what every teacher found, to ``teachers/<name>`` beside
            the pseudo-labels, which then go to ``labels``.

    Returns:
        Digests, counts, and where everything lies.

    Raises:
        UserError: Something is wrong; nothing expensive has happened.
    """
    home = Home.default()
    exporter_of(form)
    ready_runner()
    enough_devices(1)
    plan = make_label_plan(recipe, home, limit)
    targets = {} if to is None else _targets(plan, to, detections)
    for folder in targets.values():
        check_target(folder)
        _require_outside(folder, plan)
    connection = tracking.client(home)
    experiment = tracking.experiment(connection, home, plan.space)
    with tracking.composition_run(connection, experiment, f"{recipe.name} labels", plan.labels_digest) as run:
        watch = Stopwatch(run)
        describe(run, plan)
        made = make_pseudo_labels(home.store, plan, watch)
        exports: dict[str, Any] = {}
        if targets:
            with watch.step("export"):
                sets = labelled_sets(plan, made)
                for name, folder in targets.items():
                    counts = export_task(sets[name], form, folder, images)
                    exports[name] = {"folder": str(folder), **asdict(counts)}
    return {
        "name": recipe.name,
        "labelling": plan.labels_digest,
        "run_id": run.run_id,
        "images": dict(made.index.counts),
        "pseudo_labels": dict(made.labels.counts),
        "labels": made.labels.uri,
        "diagnosis": made.diagnosis.uri,
        "exports": exports,
        "seconds": watch.seconds,
    }


def labelled_sets(plan: LabelPlan, made: PseudoLabelling) -> dict[str, LabelledSet]:
    """The pseudo-labels under `LABELS`, and every teacher's detections under its name."""
    root = plan.listing.root
    sets = {LABELS: pseudo_label_set(plan.recipe.name, made.index, made.labels, plan.space.classes, root)}
    for teacher in plan.teachers:
        shards = made.shards[teacher.name]
        sets[teacher.name] = detection_set(
            teacher.name, made.index, shards, teacher.manifest.vocabulary, root
        )
    return sets


def _require_outside(folder: Path, plan: LabelPlan) -> None:
    """Raises UserError where an export would be found among the images the next time."""
    root = plan.listing.root
    if plan.listing.source.is_dir() and folder.resolve().is_relative_to(root):
        raise UserError(
            f"{folder} lies within the images, {root}: what is exported there would be labelled next time",
            "Give a folder elsewhere.",
        )


def _targets(plan: LabelPlan, to: Path, detections: bool) -> dict[str, Path]:
    if not detections:
        return {LABELS: to}
    return {
        LABELS: to / "labels",
        **{teacher.name: to / "teachers" / teacher.name for teacher in plan.teachers},
    }
