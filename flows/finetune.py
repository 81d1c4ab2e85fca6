"""Fine-tuning: a student and a few labels in, a better student out, and what it forgot."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow

from composition import label_space as spaces
from composition.errors import UserError
from flows.recipe import EvaluationSettings
from flows.stopwatch import Stopwatch
from model_zoo.finetuning import FinetuneSettings, human_share, student_settings
from model_zoo.student_settings import StudentSettings
from tasks import registry, tracking
from tasks.evaluate import EVALUATION_VERSION, Dataset, few_images, load_dataset, require_shared
from tasks.forgetting import load_forgetting, measure_forgetting_task
from tasks.home import Home
from tasks.image_index import read_json
from tasks.mixed_labels import MixedLabels, covered_classes, mix_labels
from tasks.model_card import FinetunedFacts
from tasks.packages import make_package
from tasks.registration import register_finetuned, with_origins
from tasks.store import Artifact, digest_of
from tasks.teachers import Teacher, add_bundle, find_student, require_free_name
from tasks.tracking import Run
from tasks.train import as_teacher, student_key, train_task

log = logging.getLogger("detcompose")

RECORD_FILE = "finetune.json"


@dataclass(frozen=True, slots=True)
class _Plan:
    """A fine-tuning with everything checked."""

    name: str
    start: Teacher
    human: Dataset
    pool: Dataset | None
    covered: dict[str, str]
    labels: MixedLabels
    settings: StudentSettings
    evaluate: dict[str, Dataset]
    seed: int

    @property
    def student_key(self) -> str:
        return student_key(
            self.labels.digest, self.settings, self.start, self.start.manifest.vocabulary, self.seed
        )

    @property
    def record_key(self) -> str:
        measured = [(name, one.digest, one.images_digest) for name, one in self.evaluate.items()]
        return digest_of("finetune", self.student_key, self.name, EVALUATION_VERSION, measured)


@flow(name="finetune", flow_run_name="finetune {name}", persist_result=False)
def finetune(
    name: str,
    student: str,
    labels: Path,
    root: Path | None = None,
    count: int | None = None,
    fraction: float | None = None,
    subset_seed: int = 0,
    classes: list[str] | None = None,
    pseudo_labels: Path | None = None,
    pool_root: Path | None = None,
    keep_pseudo_labels: bool = True,
    settings: FinetuneSettings | None = None,
    evaluate: list[EvaluationSettings] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Trains a student further on few labels of people, and measures what it gained and forgot.

    Args:
        name: Name by which the result is addressed afterwards, also in the registry.
        student: Name of a finished composition, of an added detector, or the folder of a bundle.
        labels: COCO file of the people's labels.
        root: Folder of its images; default: images/ beside the file, or its own folder.
        count: Use only so many of its images.
        fraction: Use only this part of its images, in (0, 1].
        subset_seed: Which ones. With the same seed fewer images are a part of more.
        classes: Classes that the labels are complete for; default: all of the file that the
            student knows.
        pseudo_labels: COCO file of pseudo-labels for everything else; default: those of the
            composition that ``student`` names.
        pool_root: Folder of its images.
        keep_pseudo_labels: False: learn from the people's labels alone.
        settings: Schedule and weights.
        evaluate: Image sets on which the student is measured before and after.
        seed: Seed of the training.

    Returns:
        The record: ``name``, ``digest`` (of the detector), ``bundle``, ``parent``, ``labels``
        (counts), ``settings``, ``evaluations`` (set name to `tasks.forgetting.load_forgetting`),
        ``model``, ``run_id``, ``seconds``.

    Raises:
        UserError: Something is wrong with the input; nothing expensive has happened.
    """
    home = Home.default()
    start = find_student(home, student)
    human = _subset(load_dataset(labels, root), count, fraction, subset_seed)
    pool = _pool(home, student, pseudo_labels, pool_root) if keep_pseudo_labels else None
    plan = _plan(
        home, name, start, human, pool, classes, settings or FinetuneSettings(), evaluate or [], seed
    )
    # a second run of the same fine-tuning waits for the first
    with home.store.working("finetunes", plan.record_key):
        finished = home.store.find("finetunes", plan.record_key)
        if finished:
            log.info("nothing to do: this fine-tuning is finished")
            return {**_publish(home, plan, finished), "unchanged": True}
        connection = tracking.client(home)
        vocabulary = start.manifest.vocabulary
        experiment = tracking.experiment(connection, home, spaces.build({name: vocabulary}))
        with tracking.composition_run(connection, experiment, name, plan.record_key) as run:
            return _run_steps(home, plan, run)


def _plan(
    home: Home,
    name: str,
    start: Teacher,
    human: Dataset,
    pool: Dataset | None,
    classes: Sequence[str] | None,
    settings: FinetuneSettings,
    evaluate: Sequence[EvaluationSettings],
    seed: int,
) -> _Plan:
    vocabulary = start.manifest.vocabulary
    covered = covered_classes(human, vocabulary, classes)
    measured = {one.name: load_dataset(one.annotations, one.root) for one in evaluate}
    for dataset in measured.values():
        require_shared(dataset, vocabulary, f"detector {start.name}")
    # before anything is written: is the architecture known, do the settings fit?
    student_settings(start.manifest, str(start.folder), settings, 1)
    shown = settings.steps * settings.batch_size
    share = human_share(settings, len(human.coco["images"]))
    mixed = mix_labels(home.store, human, pool, vocabulary, covered, share, shown, seed)
    counts = mixed.artifact.counts
    an_epoch = counts["images"] + counts["human_images"] * (counts["repeat"] - 1)
    chosen = student_settings(start.manifest, str(start.folder), settings, an_epoch)
    plan = _Plan(name, start, human, pool, covered, mixed, chosen, measured, seed)
    require_free_name(home, name, plan.student_key)
    return plan


def _subset(dataset: Dataset, count: int | None, fraction: float | None, seed: int) -> Dataset:
    images = len(dataset.coco["images"])
    if count is not None and fraction is not None:
        raise UserError("both a number of images and a fraction are given", "Give one of the two.")
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise UserError(f"the fraction {fraction} is not in (0, 1]", "Write 0.1 for a tenth.")
        count = max(1, round(fraction * images))
    if count is None:
        return dataset
    if not 1 <= count <= images:
        raise UserError(
            f"{count} labelled images are asked for, but {dataset.source} has {images}",
            f"Ask for 1 to {images}.",
        )
    return few_images(dataset, count, seed)


def _pool(home: Home, student: str, source: Path | None, root: Path | None) -> Dataset | None:
    """The pseudo-labels that are given, or those of the composition that the student is named after."""
    if source is not None:
        return load_dataset(source, root)
    record = home.record(student)
    if "/" in student or not record.is_file():
        return None
    known = read_json(record)
    if "labels" not in known:
        raise UserError(
            f"the record of composition {student!r} does not say where its pseudo-labels are: it is older",
            "Give them with --pseudo-labels and --pool-root, or --no-pseudo-labels to do without.",
        )
    return load_dataset(Path(known["labels"]), Path(known["image_root"]))


def _run_steps(home: Home, plan: _Plan, run: Run) -> dict[str, Any]:
    store, watch, vocabulary = home.store, Stopwatch(run), plan.start.manifest.vocabulary
    counts = dict(plan.labels.artifact.counts)
    run.params({"covered": list(plan.covered.values()), **plan.settings.model_dump(mode="json")})
    run.tags({"parent": plan.start.digest})
    run.metrics({f"labels/{key}": value for key, value in counts.items()})
    run.dataset(plan.human.source.name, "training", plan.human.source, plan.labels.digest)
    for name, dataset in plan.evaluate.items():
        run.dataset(name, "evaluation", dataset.source, digest_of(dataset.digest, dataset.images_digest))
    log.info(
        "%d images with %d labels of people for %s, %d others with pseudo-labels",
        counts["human_images"],
        counts["human_boxes"],
        ", ".join(plan.covered.values()),
        counts["images"] - counts["human_images"],
    )
    provenance = {
        "finetuned_from": {"name": plan.start.name, "digest": plan.start.digest},
        "labels": {"source": str(plan.human.source), "digest": plan.labels.digest, **counts},
        "covered": list(plan.covered.values()),
        "seed": plan.seed,
    }
    with watch.step("train") as step:
        trained = train_task(
            store,
            key=plan.student_key,
            name=plan.name,
            settings=plan.settings,
            vocabulary=vocabulary,
            annotations=plan.labels.file,
            image_root=plan.labels.root,
            start=plan.start,
            seed=plan.seed,
            inputs={"annotations": plan.labels.artifact.digest, "start": plan.start.digest},
            provenance=provenance,
            on_progress=step.training_progress,
        )
        step.done(trained)
    detector = as_teacher(trained)
    evaluations = {}
    for name, dataset in plan.evaluate.items():
        with watch.step(f"evaluate {name}") as step:
            measured = measure_forgetting_task(
                store, name, dataset, plan.start, detector, list(plan.covered.values())
            )
            step.done(measured)
            step.run.artifacts(measured.folder, "forgetting")
            evaluations[name] = load_forgetting(measured)
            step.run.metrics(_headline(evaluations[name]))
    with watch.step("register"):
        add_bundle(detector.folder, plan.name, home.teachers / plan.name)
        facts = FinetunedFacts(
            name=plan.name,
            parent=with_origins(run.client, [plan.start])[0],
            classes=vocabulary,
            covered=list(plan.covered.values()),
            labels=counts,
            source=plan.human.source.name,
            evaluations=evaluations,
            run=run.place,
        )
        package = make_package(store, detector.folder)
        tags = {"architecture": plan.settings.architecture}
        model = register_finetuned(run, plan.name, package, plan.record_key, facts, tags).version
    record = {
        "name": plan.name,
        "digest": detector.digest,
        "bundle": str(home.teachers / plan.name),
        "parent": {"name": plan.start.name, "digest": plan.start.digest},
        "covered": list(plan.covered.values()),
        "labels": counts,
        "settings": plan.settings.model_dump(mode="json"),
        "evaluations": evaluations,
        "model": registry.uri(model),
        "run_id": run.run_id,
        "seconds": watch.seconds,
    }
    with store.write("finetunes", plan.record_key, {"student": detector.digest}) as draft:
        draft.file(RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n")
    return record


def _publish(home: Home, plan: _Plan, artifact: Artifact) -> dict[str, Any]:
    """The record of a finished fine-tuning; its detector is there under its name again."""
    trained = home.store.find("students", plan.student_key)
    if trained:
        add_bundle(as_teacher(trained).folder, plan.name, home.teachers / plan.name)
    record: dict[str, Any] = read_json(artifact.file(RECORD_FILE))
    return record


def _headline(evaluation: dict[str, Any]) -> dict[str, float]:
    """AP before and after, as metric names that MLflow accepts."""
    values = {}
    for title, part in (
        ("all", evaluation["AP"]),
        ("labelled", evaluation["labelled"]),
        ("others", evaluation["others"]),
    ):
        for when in ("before", "after"):
            if part is not None and part[when] is not None:
                values[f"{title}/AP {when}"] = float(part[when])
    return values
