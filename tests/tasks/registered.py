"""Small real detectors for tests of the registry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from model_zoo.importing import import_teacher
from tasks import tracking
from tasks.home import Home
from tasks.model_card import StudentFacts
from tasks.packages import make_package
from tasks.registration import Registered, register_student
from tasks.store import digest_of
from tasks.teachers import Teacher, find
from tests.model_zoo.adapters.networks import yolov8

CLASSES = ("cat", "dog")


def detector(
    folder: Path,
    name: str,
    rows: Sequence[tuple[float, ...]] = ((32, 32, 20, 20, 0, 0.8),),
    classes: Sequence[str] = CLASSES,
    license: str = "MIT",
) -> Teacher:
    """A bundle of a network that answers the same rows (x, y, w, h, class, score) for every image."""
    model = yolov8(folder / f"{name}.onnx", list(rows), len(classes))
    place = folder / "bundles" / name
    import_teacher(
        model, classes=list(classes), name=name, destination=place, decoder="yolov8", license=license
    )
    return find(Home(folder / "home"), str(place))


def register_as_student(home: Home, one: Teacher, name: str) -> Registered:
    """Registers a detector as if a composition had made it."""
    connection = tracking.client(home)
    experiment = tracking.named_experiment(connection, home, f"students of {name}")
    composition = digest_of(name, one.digest)
    with tracking.composition_run(connection, experiment, name, composition) as run:
        facts = StudentFacts(
            name=name,
            teachers=[one],
            classes=one.manifest.vocabulary,
            images={"images": 1},
            source="pool",
            labels={"labels": 1},
            student={},
            evaluations={},
            digests={
                "composition": composition,
                "images": "i" * 64,
                "pseudo_labels": "p" * 64,
                "label_space": "l" * 64,
            },
            run="#",
        )
        return register_student(run, name, make_package(home.store, one.folder), facts, {})
