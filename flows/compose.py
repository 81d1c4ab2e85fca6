"""The main job: several detectors and unlabeled images in, one detector out."""

from __future__ import annotations

import datetime
import json
import logging
import shlex
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from prefect import flow

from flows.plan import Plan, make_plan
from flows.pseudo_labelling import SECOND_HALF, PseudoLabelling, describe, make_pseudo_labels
from flows.recipe import Recipe
from flows.stopwatch import Stopwatch
from flows.student_training import make_student
from flows.student_version import register_version, student_facts
from tasks import registry, shown, tracking
from tasks.benchmark_speed import measure_costs_task, with_costs
from tasks.devices import enough_devices
from tasks.evaluate import compare, load_rows
from tasks.fan_out import Runner, ready_runner
from tasks.home import RECORD_FILE, Home
from tasks.label import COCO_FILE
from tasks.publish import Finished, report_task
from tasks.store import Artifact, digest_of, disk_errors, write_atomic
from tasks.tracking import Run
from tasks.train import as_teacher
from tasks.trial import Verdict

log = logging.getLogger("detcompose")

REPORT_FILE = "report.html"
RECIPE_FILE = "recipe.yaml"
"""The whole recipe, defaults and absolute paths written out: what the report says to run again."""


@flow(name="compose", flow_run_name="compose {recipe.name}", persist_result=False)
def compose(recipe: Recipe, limit: int | None = None, runner: Runner | None = None) -> dict[str, Any]:
    """Composes several detectors into one; a second run of the same composition waits for the first.

    Args:
        recipe: What is asked for.
        limit: Use only the first so many images.
        runner: Where the teachers run; default: what ``DETCOMPOSE_RUNNER`` says, else one after the other.

    Returns:
        The composition's record: digests, where everything lies, the results.

    Raises:
        UserError: Something in the recipe is wrong; nothing expensive has happened.
    """
    home = Home.default()
    runner = ready_runner(runner)
    enough_devices(recipe.student.processes)
    plan = make_plan(recipe, home, limit)
    done = find_record(home, plan)
    if done is None:
        with home.store.working("compositions", plan.record_key):
            done = find_record(home, plan) or _compose(home, plan, runner)
    if done.get("unchanged"):
        log.info("nothing to do: composition %s is finished (student %s)", plan.digest[:12], done["student"])
    return done


def _compose(home: Home, plan: Plan, runner: Runner) -> dict[str, Any]:
    connection = tracking.client(home)
    experiment = tracking.experiment(connection, home, plan.space)
    name = plan.recipe.name
    with tracking.composition_run(connection, experiment, name, plan.digest, plan.record_key) as run:
        return _run_steps(home, plan, run, runner)


def _run_steps(home: Home, plan: Plan, run: Run, runner: Runner) -> dict[str, Any]:
    recipe, store, watch = plan.recipe, home.store, Stopwatch(run)
    describe(run, plan)
    run.params(recipe.model_dump(mode="json", include=SECOND_HALF))
    for name, dataset in plan.datasets.items():
        run.dataset(name, "evaluation", dataset.source, digest_of(dataset.digest, dataset.images_digest))

    made = make_pseudo_labels(store, plan, watch, runner)
    fuser, labels = made.fuser, made.labels
    student, verdict = make_student(store, plan, made, watch)
    evaluations, costs = {}, {}
    for name, dataset in plan.datasets.items():
        with watch.step(f"evaluate {name}") as step:
            detectors = [*(("baseline", one) for one in plan.baselines), ("student", as_teacher(student))]
            evaluations[name] = compare(store, name, dataset, made.teachers, detectors, plan.space, fuser)
            step.done(evaluations[name])
            step.run.metrics(_headline(evaluations[name]))
            shown.show_results(name, load_rows(evaluations[name]))
    if plan.datasets:
        with watch.step("measure costs"):
            costs = measure_costs_task(
                store,
                next(iter(plan.datasets.values())),
                made.teachers,
                [*plan.baselines, as_teacher(student)],
                plan.space,
                fuser,
            )
    with watch.step("register"):
        model = register_version(home, plan, run, made.index, labels, student, verdict, evaluations).version
    record = {
        "name": recipe.name,
        "composition": plan.digest,
        "student": as_teacher(student).digest,
        "bundle": str(as_teacher(student).folder),
        "labels": str(labels.file(COCO_FILE)),
        "image_root": str(plan.listing.root),
        "model": registry.uri(model),
        "run_id": run.run_id,
        "images": dict(made.index.counts),
        "pseudo_labels": dict(labels.counts),
        "trial": verdict and {**asdict(verdict), "student_kept": verdict.student_kept},
        "evaluations": {
            name: with_costs(load_rows(artifact), costs) for name, artifact in evaluations.items()
        },
        "seconds": watch.seconds,
    }
    with (
        watch.step("report"),
        store.write("compositions", plan.record_key, {"student": student.digest}) as draft,
    ):
        draft.file(RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n")
        text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        draft.file(RECIPE_FILE).write_text(text)
        report_task(draft.folder, _finished(home, plan, record, made, student, verdict))
        # what is finished is not done again, so nothing may be left to do
        run.artifacts(draft.folder, "report")
    published = _publish(home, plan, draft.artifact)
    shown.show_report(run, recipe.name, Path(published["report"]))
    return published


def find_record(home: Home, plan: Plan) -> dict[str, Any] | None:
    """The record of a finished composition, or None."""
    artifact = home.store.find("compositions", plan.record_key)
    return {**_publish(home, plan, artifact), "unchanged": True} if artifact else None


def _publish(home: Home, plan: Plan, artifact: Artifact) -> dict[str, Any]:
    """Puts record, page and recipe where `detcompose report` finds them: ``reports/<name>/``."""
    target = home.reports / plan.recipe.name
    record: dict[str, Any] = json.loads(artifact.file(RECORD_FILE).read_text())
    record["report"] = str(target / REPORT_FILE)
    with disk_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        for name in (REPORT_FILE, RECIPE_FILE):
            if artifact.file(name).is_file():  # earlier versions kept no recipe
                write_atomic(target / name, artifact.file(name).read_bytes())
        write_atomic(home.record(plan.recipe.name), json.dumps(record, indent=2).encode())
    return record


def _finished(
    home: Home,
    plan: Plan,
    record: dict[str, Any],
    made: PseudoLabelling,
    student: Artifact,
    verdict: Verdict | None,
) -> Finished:
    kept = home.reports / plan.recipe.name / RECIPE_FILE
    now = f"{datetime.datetime.now(datetime.UTC):%-d %B %Y, %H:%M} UTC"
    return Finished(
        name=plan.recipe.name,
        facts={
            "composition": plan.digest,
            "images": plan.images_digest,
            "pseudo-labels": made.labels.digest,
            "student": record["student"],
            "model": record["model"],
            "MLflow run": record["run_id"],
            "seed": str(plan.recipe.seed),
            "detcompose": version("detcompose"),
        },
        student_facts=student_facts(plan, student, verdict),
        space=plan.space,
        teachers=plan.teachers,
        index=made.index,
        shards=made.shards,
        labels=made.labels,
        diagnosis=made.diagnosis,
        student=student,
        verdict=verdict,
        evaluations=record["evaluations"],
        seconds=record["seconds"],
        command=shlex.join(["detcompose", "compose", str(kept), *_limit_option(plan)]),
        created=now,
    )


def _limit_option(plan: Plan) -> list[str]:
    return ["--limit", str(plan.limit)] if plan.limit else []


def _headline(evaluation: Artifact) -> dict[str, float]:
    """AP and AP50 of every row, as metrics."""
    values: dict[str, float] = {}
    for row in load_rows(evaluation):
        label = f"{row['role']} {row['name']} {row['scope']}".replace("(", "").replace(")", "")
        values |= {f"{label}/{key}": row[key] for key in ("AP", "AP50") if row[key] is not None}
    return values
