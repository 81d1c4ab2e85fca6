"""Writing a labelled set as a folder that other tools import."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

from composition.errors import UserError
from tasks.export_form import Form
from tasks.formats import coco, cvat, label_studio, parquet, voc, yolo
from tasks.formats.labelled import LabelledImage, LabelledSet
from tasks.step import step
from tasks.store import disk_errors, staged

MARKER = ".detcompose.json"
"""In every folder that an export has made: such a folder may be replaced by another export."""

ImageMode = Literal["link", "copy", "none"]
Writer = Callable[[LabelledSet, Path], None]


@dataclass(frozen=True, slots=True)
class Exporter:
    """A form of labelled sets.

    Attributes:
        write: Writes everything but the images into a folder.
        images: Where in that folder the images belong; None = they stay where they are.
        scores: Whether scores are kept.
        ignore: Whether ignore regions are kept; otherwise they are left out.
        one_file_an_image: Named after the image without its ending, so that two images that differ
            only in that cannot both be in the set.
    """

    write: Writer
    images: str | None
    scores: bool = True
    ignore: bool = True
    one_file_an_image: bool = False


EXPORTERS: dict[Form, Exporter] = {
    Form.COCO: Exporter(coco.write, "images"),
    Form.YOLO: Exporter(yolo.write, "images/train", scores=False, ignore=False, one_file_an_image=True),
    Form.YOLO_SCORES: Exporter(
        partial(yolo.write, scores=True), "images/train", ignore=False, one_file_an_image=True
    ),
    Form.VOC: Exporter(voc.write, "JPEGImages", scores=False, one_file_an_image=True),
    Form.PARQUET: Exporter(parquet.write, None),
    Form.CVAT: Exporter(cvat.write, "images"),
    Form.LABEL_STUDIO: Exporter(label_studio.write, "images"),
}


@dataclass(frozen=True, slots=True)
class ExportCounts:
    """What an export wrote.

    Attributes:
        images: Images, those without a box included.
        labels: Boxes.
        ignore_regions: Regions to ignore that were kept.
        left_out: Ignore regions that the form cannot express.
    """

    images: int
    labels: int
    ignore_regions: int
    left_out: int


def export(labelled: LabelledSet, form: str, folder: Path, images: ImageMode = "link") -> ExportCounts:
    """Writes a labelled set; the folder appears whole or not at all.

    Args:
        labelled: What to write.
        form: A `tasks.export_form.Form`.
        folder: Where to; replaced if an earlier export made it.
        images: ``link`` puts symbolic links into the folder, ``copy`` the files themselves, ``none`` neither.

    Raises:
        UserError: An unknown form, a folder that holds something else, names that the form cannot
            tell apart, no space.
    """
    exporter = exporter_of(form)
    folder = folder.absolute()
    check_target(folder)
    counts = _count(labelled, exporter)
    with disk_errors(folder), staged(folder) as staging:
        exporter.write(labelled, staging)
        if exporter.images and images != "none":
            for image in labelled:
                place_image(labelled.root / image.name, staging / exporter.images / image.name, images)
        facts = {"format": form, "source": labelled.name, "images": counts.images, "labels": counts.labels}
        (staging / MARKER).write_text(json.dumps(facts) + "\n")
        with staged(folder) as former:
            if folder.exists():  # a folder is never replaced by another: the old one steps aside
                folder.rename(former / "replaced")
            staging.rename(folder)
    return counts


export_task = step(export, "export")


def exporter_of(form: str) -> Exporter:
    """The exporter of a format.

    Raises:
        UserError: There is none of that name.
    """
    if form not in list(Form):
        raise UserError(f"there is no format {form!r}", f"Choose one of: {', '.join(Form)}.")
    return EXPORTERS[Form(form)]


def check_target(folder: Path) -> None:
    """Checks that a folder may be written, before any work for its content.

    Raises:
        UserError: It holds something that no export has made.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() and not (folder / MARKER).is_file():
        raise UserError(
            f"{folder} exists already and was not made by an export",
            "Give a new folder; only a folder of an earlier export is replaced.",
        )


def place_image(source: Path, target: Path, mode: ImageMode) -> None:
    """Puts an image file, or a link to it, where a format wants it.

    Raises:
        UserError: There is no such file to copy.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if mode == "link":
        target.symlink_to(source.absolute())
        return
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        raise UserError(
            f"{source} is gone since it was labelled", "Put it back, or export with --images none."
        ) from None


def _count(labelled: LabelledSet, exporter: Exporter) -> ExportCounts:
    """Counts, and finds what the form cannot express, before anything is written."""
    images = labels = ignored = 0
    stems: dict[PurePosixPath, str] = {}
    for image in labelled:
        _check_name(image, labelled)
        if exporter.one_file_an_image:
            other = stems.setdefault(PurePosixPath(image.name).with_suffix(""), image.name)
            if other != image.name:
                raise UserError(
                    f"{other} and {image.name} would share one label file in this format",
                    "Rename one of the two, or export as coco or parquet.",
                )
        images += 1
        ignored += int(image.ignore.sum())
        labels += int((~image.ignore).sum())
    kept = ignored if exporter.ignore else 0
    return ExportCounts(images, labels, kept, ignored - kept)


def _check_name(image: LabelledImage, labelled: LabelledSet) -> None:
    path = PurePosixPath(image.name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(
            f"{labelled.name}: image {image.name!r} lies outside of the set's folder",
            "Export as parquet, or move the image into the folder.",
        )
