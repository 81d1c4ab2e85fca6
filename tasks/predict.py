"""Prediction on single pictures: boxes as JSON, and drawn into copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from composition.detections import Detections
from composition.errors import UserError
from model_zoo.adapters.base import Detector, InferenceSettings
from model_zoo.adapters.registry import open_detector
from model_zoo.images import SUFFIXES, BadImageError, read_rgb
from tasks import teachers
from tasks.home import Home
from tasks.progress import track
from tasks.store import disk_errors


def predict_files(
    home: Home, reference: str, sources: Sequence[Path], threshold: float, out: Path | None
) -> list[dict[str, Any]]:
    """Runs a detector on image files; a bad image is reported and left out.

    Args:
        home: Where named teachers are.
        reference: Name or bundle path of the detector, or the name of a composition.
        sources: Image files or folders of them.
        threshold: Lowest score returned.
        out: Folder for copies with the boxes drawn in; None = none.

    Returns:
        Per image ``{"image", "detections": [{"class", "score", "box"}], "picture"}``,
        boxes as x1 y1 x2 y2 in pixels; or ``{"image", "error"}``.

    Raises:
        UserError: No such detector or file, or a picture would replace one of the images.
    """
    teacher = teachers.find_student(home, reference)
    files = list(_files(sources, out))
    detector = open_detector(teacher.folder, InferenceSettings(score_floor=threshold))
    return [
        _predict_one(detector, file, target)
        for file, target in track(files, f"{teacher.name} on {len(files)} images", len(files))
    ]


def _predict_one(detector: Detector, file: Path, target: Path | None) -> dict[str, Any]:
    try:
        image = read_rgb(file)
    except BadImageError as error:
        return {"image": str(file), "error": str(error)}
    found = detector.predict([image])
    result: dict[str, Any] = {
        "image": str(file),
        "detections": detection_list(found, detector.vocabulary),
    }
    if target is not None:
        # the drawing library is not on every machine that predicts
        from tasks.drawing import draw_detections

        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(draw_detections(image, found, detector.vocabulary))
            picture.save(target, quality=92)
        result["picture"] = str(target)
    return result


def detection_list(found: Detections, vocabulary: Sequence[str]) -> list[dict[str, Any]]:
    """Detections of one image as ``{"class", "score", "box"}``, boxes as x1 y1 x2 y2 in pixels."""
    return [
        {
            "class": vocabulary[int(class_id)],
            "score": round(float(score), 4),
            "box": [round(float(value), 2) for value in box],
        }
        for box, score, class_id in zip(found.boxes, found.score, found.class_id, strict=True)
    ]


def _files(sources: Sequence[Path], out: Path | None) -> list[tuple[Path, Path | None]]:
    """Every file with the place of its picture, which is nobody else's and no image's."""
    named = list(_named(sources))
    if out is None:
        return [(file, None) for file, _ in named]
    images = {file.resolve() for file, _ in named}
    placed: list[tuple[Path, Path | None]] = []
    taken: set[Path] = set()
    for file, name in named:
        target = out / name.with_suffix(".jpg")
        number = 2
        while target in taken:
            # one/cat.jpg and two/cat.jpg, or cat.jpg and cat.png
            target = out / name.with_name(f"{name.stem}-{number}.jpg")
            number += 1
        if target.resolve() in images:
            raise UserError(
                f"the picture of {file} would replace {target}", "Give another folder with --out."
            )
        taken.add(target)
        placed.append((file, target))
    return placed


def _named(sources: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Every file with its name below ``--out`` (sub-folders are kept)."""
    for source in sources:
        if source.is_dir():
            inside = sorted(
                path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()
            )
            if not inside:
                raise UserError(f"{source} holds no images", f"Image files end in {', '.join(SUFFIXES)}.")
            yield from ((path, path.relative_to(source)) for path in inside)
        elif source.is_file():
            yield source, Path(source.name)
        else:
            raise UserError(f"{source} does not exist", "Check the path.")
