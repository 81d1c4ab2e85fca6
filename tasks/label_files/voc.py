"""Pascal VOC: ``Annotations/*.xml``, ``JPEGImages/`` and the lists of ``ImageSets/Main/``.

Pixels count from 1 and the last one belongs to the box, as in the files of the
challenges: left and top minus 1, right and bottom as they are. ``difficult``
objects become ignore regions. XML that declares a document type or entities is
refused (defusedxml): label files come from strangers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from composition.errors import UserError
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

ANNOTATIONS, LISTS, CLASSES = "Annotations", "ImageSets/Main", "labels.txt"
IMAGES = ("JPEGImages", "images")
WAY_OUT = "Mend the file, or export it again."
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def is_voc(folder: Path) -> bool:
    """Whether a folder is laid out like VOC."""
    return (folder / ANNOTATIONS).is_dir() and image_folder(folder) is not None


def image_folder(folder: Path) -> Path | None:
    """``JPEGImages/`` of a VOC folder, or what stands for it."""
    return next((folder / name for name in IMAGES if (folder / name).is_dir()), None)


def find_images(folder: Path) -> LabelFiles:
    """All images of a VOC folder, annotated or not."""
    images = image_folder(folder)
    assert images is not None, "is_voc comes first"
    return LabelFiles(images.resolve(), relative(images_below(images), images), dict)


def find_voc(folder: Path, part: str | None) -> LabelFiles:
    """The set of a VOC folder.

    Args:
        folder: The folder.
        part: Name of a list in ``ImageSets/Main``; None: the only one, or all annotations if there is none.

    Raises:
        UserError: A list that names no image, no annotations, or a part to be named.
    """
    images = image_folder(folder)
    assert images is not None, "is_voc comes first"
    lists = {path.stem: path for path in sorted((folder / LISTS).glob("*.txt"))}
    if lists:
        names = [name for one in choose_part(folder, list(lists), part) for name in _listed(lists[one])]
    else:
        choose_part(folder, [], part)
        names = [
            path.relative_to(folder / ANNOTATIONS).with_suffix("").as_posix()
            for path in (folder / ANNOTATIONS).rglob("*.xml")
        ]
    if not names:
        raise UserError(f"{folder} holds no annotations", f"They belong into {folder / ANNOTATIONS}.")
    files = {_image(images, name, folder): folder / ANNOTATIONS / f"{name}.xml" for name in names}
    paths = tuple(sorted(files))

    def read() -> dict[str, Any]:
        given = folder / CLASSES
        classes = read_classes(given) if given.is_file() else None
        labelled = read_all(lambda path: _labelled(images / path, files[path], classes), paths)
        found = classes or sorted({box.name for one in labelled for box in one.boxes})
        return to_coco(paths, labelled, found)

    return LabelFiles(images.resolve(), paths, read)


def _listed(file: Path) -> list[str]:
    """The images of a list. Lists of one class have a second column, -1 where it is not on the image."""
    lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    marked = [re.fullmatch(r"(.*\S)\s+(-1|0|1)", line) for line in lines]
    names = [one[1] for one in marked if one and one[2] != "-1"] if all(marked) else lines
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UserError(f"{file}: {name} lies outside of the set", "Names count from the image folder.")
    return names


def _image(folder: Path, name: str, source: Path) -> str:
    """The path of an image below its folder, by its name without ending."""
    for suffix in (*SUFFIXES, *(suffix.upper() for suffix in SUFFIXES)):
        if (folder / f"{name}{suffix}").is_file():
            return f"{name}{suffix}"
    raise UserError(
        f"{source}: there is no image {folder / name}.* for its annotation",
        f"Put it there ({', '.join(SUFFIXES)}), or take the name out of the list.",
    )


def _labelled(image: Path, file: Path, classes: Sequence[str] | None) -> Labelled:
    root = _parse(file)
    size = upright_size(image)
    if size is None:
        return Labelled(None)  # the index says why the image is left out
    claimed = tuple(_number(root.find(f"size/{side}"), f"{file}: size", side) for side in ("width", "height"))
    if all(claimed) and claimed != size:
        raise UserError(
            f"{file} is about an image of {claimed[0]:g} x {claimed[1]:g} pixels, "
            f"but {image.name} has {size[0]} x {size[1]} (upright)",
            "Label the image as it is seen, or mend 'size' if only that is wrong.",
        )
    boxes = [
        _box(item, size, classes, f"{file}: object {number}")
        for number, item in enumerate(root.findall("object"), 1)
    ]
    return Labelled(size, boxes)


def _parse(file: Path) -> Element:
    text = read_text(file)
    try:
        root: Element = fromstring(text, forbid_dtd=True)
    except DefusedXmlException:
        raise UserError(
            f"{file} declares a document type or entities, which label files have no need of",
            "Take the declaration out if you trust the file.",
        ) from None
    except (ParseError, ValueError) as error:
        raise UserError(
            f"{file} is not readable XML: {error}", "Mend the file, or export it again."
        ) from None
    if root.tag != "annotation":
        raise UserError(f"{file} begins with <{root.tag}>, not <annotation>", "Give a VOC file.")
    return root


def _box(item: Element, size: tuple[int, int], classes: Sequence[str] | None, where: str) -> Box:
    name = (item.findtext("name") or "").strip()
    if not name:
        raise UserError(f"{where} has no name", WAY_OUT)
    if classes is not None and name not in classes:
        raise UserError(f"{where}: {name!r} is not in {CLASSES}", f"It has {', '.join(classes[:10])}.")
    corners = item.find("bndbox")
    if corners is None:
        raise UserError(f"{where} has no bndbox", WAY_OUT)
    x1, y1, x2, y2 = (_number(corners.find(side), where, side, needed=True) for side in _SIDES)
    if x2 < x1 - 1 or y2 < y1 - 1:
        raise UserError(f"{where}: the box {x1:g} {y1:g} {x2:g} {y2:g} has a negative size", "Mend the file.")
    crowd = {"iscrowd": 1} if (item.findtext("difficult") or "0").strip() == "1" else {}
    return Box(name, clipped((x1 - 1, y1 - 1, x2, y2), *size), crowd)


def _number(item: Element | None, where: str, key: str, *, needed: bool = False) -> float:
    """The number in an element; 0 where it may be missing."""
    text = "" if item is None else (item.text or "").strip()
    if not text and not needed:
        return 0.0
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: {key} is {text!r}, not a number", WAY_OUT)
    return value
