"""Supervised training by the same engine as a composition: teachers and baselines."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from prefect import flow

from composition import label_space as spaces
from flows.stopwatch import Stopwatch
from model_zoo.student_settings import StudentSettings
from tasks import tracking
from tasks.annotations import annotations_file, category_names, select_annotations
from tasks.evaluate import load_dataset
from tasks.home import Home
from tasks.store import digest_of
from tasks.teachers import add_bundle, require_free_name
from tasks.train import as_teacher, student_key, train_task, warm_start_teacher

log = logging.getLogger("detcompose")


@flow(name="train", flow_run_name="train {name}", persist_result=False)
def train(
    name: str,
    images: Path,
    student: StudentSettings,
    root: Path | None = None,
    classes: list[str] | None = None,
    part: tuple[int, int] = (1, 1),
    seed: int = 0,
) -> dict[str, Any]:
    """Trains a detector on labels and adds it under a name.

    Args:
        name: Name by which it is addressed afterwards.
        images: COCO file with labels.
        student: Architecture and schedule.
        root: Folder of the images; default: images/ beside the file, or its own folder.
        classes: Classes to learn, in order; default: all of the file.
        part: ``(k, n)``: learn only from the k-th of n disjoint random parts of the images.
        seed: Seed of everything random.

    Returns:
        Name, digest and bundle of the detector.

    Raises:
        UserError: Something is wrong with the input; nothing expensive has happened.
    """
    home = Home.default()
    start = warm_start_teacher(home, student)
    dataset = load_dataset(images, root)
    vocabulary = tuple(classes or category_names(dataset))
    images_digest = dataset.images_digest
    labels = select_annotations(home.store, dataset, vocabulary, images_digest, part=part, seed=seed)
    key = student_key(labels.digest, student, start, vocabulary, seed)
    require_free_name(home, name, key)
    connection = tracking.client(home)
    experiment = tracking.experiment(connection, home, spaces.build({name: vocabulary}))
    with tracking.composition_run(connection, experiment, name, key) as run:
        run.params({"classes": vocabulary, "part": f"{part[0]}/{part[1]}", **student.model_dump(mode="json")})
        run.dataset(images.name, "training", images, digest_of(dataset.digest, images_digest))
        with Stopwatch(run).step("train") as step:
            trained = train_task(
                home.store,
                key=key,
                name=name,
                settings=student,
                vocabulary=vocabulary,
                annotations=annotations_file(labels),
                image_root=dataset.root,
                start=start,
                seed=seed,
                inputs={"annotations": labels.digest},
                provenance={
                    "trained_on": str(images),
                    "annotations": labels.digest,
                    "part": f"{part[0]}/{part[1]}",
                    "seed": seed,
                },
                on_progress=step.training_progress,
            )
            step.done(trained)
    detector = as_teacher(trained)
    add_bundle(detector.folder, name, home.teachers / name)
    return {"name": name, "digest": detector.digest, "bundle": str(home.teachers / name)}
