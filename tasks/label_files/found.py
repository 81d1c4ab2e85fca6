"""What is common to all label files: the images they speak of, and boxes in COCO's form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from PIL import ExifTags, Image

from composition.errors import UserError
from model_zoo.cores import usable_cores
from model_zoo.images import FORMATS, SUFFIXES

T = TypeVar("T")

MAX_LABEL_BYTES = 16 << 20
"""Largest label file that is read: a million boxes of one image."""


@dataclass(frozen=True, slots=True)
class LabelFiles:
    """A labelled image set, its labels not yet read.

    Attributes:
        root: Folder that the paths are relative to.
        paths: Sorted relative paths of the images, with forward slashes.
        read: Reads the labels as a COCO dictionary (``images``, ``annotations``, ``categories``; ids from
            1, images in the order of the paths). Raises `UserError` with file and line.
    """

    root: Path
    paths: tuple[str, ...]
    read: Callable[[], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Box:
    """One labelled box.

    Attributes:
        name: Its class.
        corners: x1 y1 x2 y2 in pixels of the upright image, inside of it.
        extra: Further keys of the COCO annotation, such as ``iscrowd`` and ``score``.
    """

    name: str
    corners: tuple[float, float, float, float]
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Labelled:
    """The size of an image, None where it cannot be read, and its boxes."""

    size: tuple[int, int] | None
    boxes: Sequence[Box] = ()


def upright_size(path: Path) -> tuple[int, int] | None:
    """Width and height of an image after EXIF orientation, from its header; None if that is unreadable."""
    try:
        if not path.is_file():  # a pipe would block for ever
            return None
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    except Exception:
        # Pillow reports damage in a dozen ways; the index says what is wrong with the image
        return None
    return (height, width) if turned else (width, height)


def clipped(corners: Sequence[float], width: int, height: int) -> tuple[float, float, float, float]:
    """The part of a box that lies inside the image; the sides keep their order."""
    x1, y1, x2, y2 = corners
    return (min(max(x1, 0), width), min(max(y1, 0), height), min(max(x2, 0), width), min(max(y2, 0), height))


def read_all(work: Callable[[str], T], paths: Sequence[str]) -> list[T]:
    """Reads the labels of all images, several at a time."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(work, paths))


def to_coco(paths: Sequence[str], labelled: Iterable[Labelled], classes: Sequence[str]) -> dict[str, Any]:
    """The COCO dictionary of a set."""
    ids = {name: number for number, name in enumerate(classes, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (path, found) in enumerate(zip(paths, labelled, strict=True), 1):
        size = {} if found.size is None else dict(zip(("width", "height"), found.size, strict=True))
        images.append({"id": number, "file_name": path, **size})
        for box in found.boxes:
            x1, y1, x2, y2 = box.corners
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": ids[box.name],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    **box.extra,
                }
            )
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def images_below(folder: Path) -> list[Path]:
    """The image files of a folder and its subfolders."""
    return [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]


def relative(images: Iterable[Path], root: Path) -> tuple[str, ...]:
    """Sorted paths relative to a folder above them, each once."""
    return tuple(sorted({path.relative_to(root).as_posix() for path in images}))


def read_text(path: Path) -> str:
    """The text of a label file.

    Raises:
        UserError: Unreadable, larger than `MAX_LABEL_BYTES` or not UTF-8.
    """
    try:
        if path.stat().st_size > MAX_LABEL_BYTES:
            raise UserError(f"{path} has more than {MAX_LABEL_BYTES:,} bytes", "This is no label file.")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", "Check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}", "Give a text file in UTF-8.") from None


def choose_part(source: Path, known: Sequence[str], part: str | None) -> list[str]:
    """The parts (train, val, ...) of a set that are meant.

    Args:
        source: The set, for messages.
        known: Its parts.
        part: What was asked for: one name, or several with commas; None: nothing.

    Raises:
        UserError: There is no such part, or several and none was named.
    """
    names = ", ".join(known)
    if part is not None:
        wanted = [name.strip() for name in part.split(",")]
        for name in wanted:
            if name not in known:
                raise UserError(f"{source} has no part {name!r}", f"Its parts: {names}.")
        return wanted
    if len(known) > 1:
        raise UserError(
            f"{source} has several parts: {names}",
            f"Say which one: {source}#{known[0]}; several with a comma: {source}#{known[0]},{known[1]}.",
        )
    return list(known)
