"""Small real detectors for tests of the registry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from model_zoo.importing import import_teacher
from tasks.home import Home
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
