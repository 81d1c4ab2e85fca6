"""YOLO: ``data.yaml`` as Ultralytics and Roboflow write it, or ``images/``, ``labels/`` and a class list.

A line of a label file is ``class x y width height`` in fractions of the upright
image, a sixth number is a score, and more are the corners of a polygon, of
which the surrounding box counts. An image without a label file, or with an
empty one, holds nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from composition.errors import UserError
from model_zoo.bundle import check_vocabulary
from model_zoo.class_lists import read_classes
from model_zoo.images import SUFFIXES
from tasks.label_files.found import (
    Box,
    LabelFiles,
    Labelled,
    choose_part,
    clipped,
    images_below,
    read_all,
    read_text,
    relative,
    to_coco,
    upright_size,
)

PARTS = ("train", "val", "test")
CLASS_LISTS = ("classes.txt", "obj.names", "labels/classes.txt")
DATA_FILES = ("data.yaml", "data.yml", "dataset.yaml")
SUFFIXES_OF_DATA = (".yaml", ".yml")
_SLACK = 1e-3
"""Exporters round: fractions may leave 0..1 by so much."""


def find_data_file(file: Path, part: str | None) -> LabelFiles:
    """The set of a ``data.yaml``.

    Raises:
        UserError: Not such a file, names missing, no image in a part, or a part to be named.
    """
    document = _document(file)
    classes = _names(document.get("names"), file)
    if "nc" in document and document["nc"] != len(classes):
        raise UserError(
            f"{file}: 'nc' is {document['nc']!r}, but 'names' has {len(classes)} classes",
            "Mend one of the two.",
        )
    base = _absolute(file.parent, str(document.get("path") or "."))
    if not base.is_dir():
        base = _absolute(file.parent, ".")  # 'path' of the machine that the file comes from
    places = {name: _places(document[name], name, base, file) for name in PARTS if document.get(name)}
    known = list(places)
    if not known:
        raise UserError(f"{file} has neither 'train' nor 'val' nor 'test'", "Name the folder of the images.")
    if part is None and all(places[name] == places[known[0]] for name in known):
        known = known[:1]
    images = [
        image
        for name in choose_part(file, known, part)
        for place in places[name]
        for image in _images(place, base)
    ]
    return _found(file, images, classes)


def find_folder(folder: Path, part: str | None) -> LabelFiles:
    """The set of a folder with ``images/``, ``labels/`` and a class list.

    Raises:
        UserError: No class list, or no image.
    """
    for name in CLASS_LISTS:
        if (folder / name).is_file():
            classes = read_classes(folder / name)
            break
    else:
        raise UserError(
            f"{folder} has images/ and labels/, but no class list",
            f"Put one name a line into {folder / CLASS_LISTS[0]}, or write a {DATA_FILES[0]}.",
        )
    images = _absolute(folder, "images")
    if part is None:
        return _found(folder, images_below(images), classes)
    parts = sorted(path.name for path in images.iterdir() if path.is_dir())
    chosen = choose_part(folder, parts, part)
    return _found(folder, [image for name in chosen for image in images_below(images / name)], classes)


def _document(file: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(read_text(file))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{file}{line}: not valid YAML", "Mend this line.") from None
    if not isinstance(document, dict):
        raise UserError(f"{file} is not a YOLO data file: no YAML mapping", "It has 'names' and 'train'.")
    return document


def _names(names: Any, file: Path) -> tuple[str, ...]:
    """Class names of a list, or of a mapping from 0, 1, 2, ... to names."""
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise UserError(f"{file}: 'names' does not count from 0 without a gap", "Number all classes.")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str | int) for name in names):
        raise UserError(
            f"{file}: 'names' is missing or no list of class names", "Write names: [car, bus] into it."
        )
    texts = [str(name) for name in names]
    check_vocabulary(texts, f"{file}: names")
    return tuple(texts)


def _places(value: Any, key: str, base: Path, file: Path) -> list[Path]:
    """The folders and list files of a part."""
    values = value if isinstance(value, list) else [value]
    places = []
    for text in values:
        if not isinstance(text, str):
            raise UserError(f"{file}: {key!r} is {text!r}, not a folder", "Name the folder of the images.")
        # Roboflow writes ../train/images into a file that lies beside train/
        near = [text, text.removeprefix("../")]
        found = next((path for path in (_absolute(base, name) for name in near) if path.exists()), None)
        if found is None:
            raise UserError(
                f"{file}: {key!r}: {_absolute(base, text)} does not exist",
                f"Mend 'path' or {key!r}; relative paths count from the file's folder.",
            )
        places.append(found)
    return places


def _absolute(folder: Path, name: str) -> Path:
    """A path without ``..``; links stay, for labels lie beside the link, not beside what it points to."""
    return Path(os.path.normpath((folder / name).absolute()))


def _images(place: Path, base: Path) -> list[Path]:
    """The images of a folder, or of a text file that lists them."""
    if place.is_dir():
        return images_below(place)
    images = []
    for number, line in enumerate(read_text(place).splitlines(), 1):
        if not (name := line.strip()):
            continue
        found = [path for folder in (place.parent, base) if (path := _absolute(folder, name)).is_file()]
        if not found or found[0].suffix.lower() not in SUFFIXES:
            raise UserError(f"{place}:{number}: there is no image {name}", "Mend the line or take it out.")
        images.append(found[0])
    return images


def _found(source: Path, images: Sequence[Path], classes: tuple[str, ...]) -> LabelFiles:
    if not images:
        raise UserError(f"{source} holds no images", f"Image files end in {', '.join(SUFFIXES)}.")
    root = Path(os.path.commonpath([image.parent for image in images]))
    paths = relative(images, root)

    def read() -> dict[str, Any]:
        labels = {path: label_file(root / path) for path in paths}
        if not any(label.is_file() for label in labels.values()):
            raise UserError(
                f"{source}: not one image has a label file; expected for example {labels[paths[0]]}",
                "Put the text files into labels/ where the images are in images/, or beside the images.",
            )
        return to_coco(
            paths, read_all(lambda path: _labelled(root / path, labels[path], classes), paths), classes
        )

    return LabelFiles(root, paths, read)


def label_file(image: Path) -> Path:
    """Where the labels of an image are: the last ``images`` of its path becomes ``labels``; or beside it."""
    beside = image.with_suffix(".txt")
    parts = image.parts
    if "images" not in parts[:-1]:
        return beside
    last = len(parts) - 2 - parts[-2::-1].index("images")
    mirrored = Path(*parts[:last], "labels", *parts[last + 1 :]).with_suffix(".txt")
    return beside if beside.is_file() and not mirrored.is_file() else mirrored


def _labelled(image: Path, labels: Path, classes: Sequence[str]) -> Labelled:
    size = upright_size(image)
    if not labels.is_file():
        return Labelled(size)
    lines = [(number, line.split()) for number, line in enumerate(read_text(labels).splitlines(), 1)]
    rows = [_row(words, classes, f"{labels}:{number}") for number, words in lines if words]
    if size is None:
        return Labelled(None)  # fractions of nobody knows what; the index says why the image is left out
    return Labelled(size, [_box(row, size) for row in rows])


def _row(words: Sequence[str], classes: Sequence[str], where: str) -> tuple[str, list[float], float | None]:
    """Class, corners as fractions, and score of a line."""
    way_out = "A line is: class x y width height, as fractions of the image's size."
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        raise UserError(f"{where}: not all are numbers: {' '.join(words)[:80]}", way_out) from None
    if not all(map(math.isfinite, numbers)):
        raise UserError(f"{where}: a number is not finite", way_out)
    polygon = len(numbers) >= 7 and len(numbers) % 2 == 1
    if len(numbers) not in (5, 6) and not polygon:
        raise UserError(f"{where}: {len(numbers)} numbers instead of 5", way_out)
    class_id, values = numbers[0], numbers[1:]
    if class_id != int(class_id) or not 0 <= class_id < len(classes):
        raise UserError(
            f"{where}: class {words[0]} is not one of 0 to {len(classes) - 1}",
            f"The class list has {len(classes)} names: {', '.join(classes[:10])}.",
        )
    if not all(-_SLACK <= value <= 1 + _SLACK for value in values):
        raise UserError(f"{where}: a number is not from 0 to 1: {' '.join(words)[:80]}", way_out)
    name = classes[int(class_id)]
    if polygon:
        xs, ys = values[::2], values[1::2]
        return name, [min(xs), min(ys), max(xs), max(ys)], None
    x, y, width, height = values[:4]
    corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    return name, corners, min(max(values[4], 0.0), 1.0) if len(values) == 5 else None


def _box(row: tuple[str, list[float], float | None], size: tuple[int, int]) -> Box:
    name, fractions, score = row
    width, height = size
    pixels = [fraction * side for fraction, side in zip(fractions, (width, height) * 2, strict=True)]
    return Box(name, clipped(pixels, width, height), {} if score is None else {"score": score})
