"""Which kind of label files lies at a place.

A part of a set is named behind a ``#``: ``data.yaml#val``, ``VOC2007#train,val``.
"""

from __future__ import annotations

from pathlib import Path

from composition.errors import UserError
from tasks.label_files import voc, yolo
from tasks.label_files.found import LabelFiles, choose_part

COCO_FOLDER = "annotations"


def coco_file(source: Path) -> Path | None:
    """The COCO file at a place; None where a YOLO or VOC set lies there.

    Args:
        source: A JSON file, or a folder with ``annotations/*.json``; with ``#<name of the file>`` where
            there are several.

    Raises:
        UserError: There are several.
    """
    place, part = _split(source)
    if place.is_dir():
        if _is_yolo(place) or voc.is_voc(place):
            return None
        files = {path.stem: path for path in sorted((place / COCO_FOLDER).glob("*.json"))}
        if not files:
            return None
        chosen = choose_part(place, list(files), part)
        if len(chosen) > 1:
            raise UserError(f"{source}: several COCO files at once", "Name one of them.")
        return files[chosen[0]]
    if place.suffix.lower() in yolo.SUFFIXES_OF_DATA:
        return None
    if part is not None and place.exists():
        raise UserError(f"{place} has no parts, so that #{part} means nothing", "Leave it out.")
    return place


def find_label_files(source: Path) -> LabelFiles:
    """The YOLO or VOC set at a place, with its labels.

    Args:
        source: A ``data.yaml``, a folder that holds one, a folder with ``images/``, ``labels/`` and a class
            list, or a VOC folder; with ``#part`` where it has several parts.

    Raises:
        UserError: The set cannot be used; or a folder without labels.
    """
    place, part = _split(source)
    if place.is_file():
        return yolo.find_data_file(place, part)
    for name in yolo.DATA_FILES:
        if (place / name).is_file():
            return yolo.find_data_file(place / name, part)
    if voc.is_voc(place):
        return voc.find_voc(place, part)
    if _is_yolo(place):
        return yolo.find_folder(place, part)
    if not place.exists():
        raise UserError(f"{place} does not exist", "Check the path.")
    raise UserError(
        f"{place} holds no labels in a known form",
        "Give a COCO JSON file, a YOLO data.yaml, a folder with images/, labels/ and classes.txt, or a VOC "
        "folder with Annotations/ and JPEGImages/.",
    )


def find_image_files(source: Path) -> LabelFiles | None:
    """The images of a YOLO or VOC set; None where it is a COCO file, or all images below a folder count.

    Args:
        source: As in `find_label_files`. Of a folder all images count unless a part is named; of a VOC
            folder those of ``JPEGImages/``, for ``SegmentationClass/`` holds no photographs.

    Raises:
        UserError: The set cannot be used.
    """
    place, part = _split(source)
    if place.is_dir() and part is None:
        return voc.find_images(place) if voc.is_voc(place) else None
    return None if coco_file(source) else find_label_files(source)


def _split(source: Path) -> tuple[Path, str | None]:
    if source.exists() or "#" not in source.name:
        return source, None
    name, _, part = source.name.rpartition("#")
    return source.with_name(name) if name else source.parent, part


def _is_yolo(folder: Path) -> bool:
    named = any((folder / name).is_file() for name in yolo.DATA_FILES)
    return named or ((folder / "images").is_dir() and (folder / "labels").is_dir())
