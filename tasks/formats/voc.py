"""Pascal VOC: an XML file an image. Ignore regions are ``difficult``, as VOC evaluates them; no scores.

Coordinates count from 0 and have two digits behind the point, as CVAT, FiftyOne
and mmdet read and write them; the files of the VOC challenges themselves count
whole pixels from 1.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from tasks.formats.labelled import LabelledImage, LabelledSet

ANNOTATIONS, IMAGES, LIST = "Annotations", "JPEGImages", "ImageSets/Main/train.txt"
CLASSES = "labels.txt"


def write(labelled: LabelledSet, folder: Path) -> None:
    """Writes ``Annotations/<image>.xml``, ``ImageSets/Main/train.txt`` and ``labels.txt``, the class list."""
    names = []
    for image in labelled:
        path = folder / ANNOTATIONS / PurePosixPath(image.name).with_suffix(".xml")
        path.parent.mkdir(parents=True, exist_ok=True)
        tree = ElementTree.ElementTree(_document(image, labelled.classes))
        ElementTree.indent(tree)
        tree.write(path, encoding="utf-8")
        names.append(f"{PurePosixPath(image.name).with_suffix('')}\n")
    listed = folder / LIST
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("".join(names))
    (folder / CLASSES).write_text("".join(f"{name}\n" for name in labelled.classes))


def _document(image: LabelledImage, classes: tuple[str, ...]) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    _add(root, "folder", IMAGES)
    _add(root, "filename", image.name)
    size = ElementTree.SubElement(root, "size")
    for key, value in (("width", image.width), ("height", image.height), ("depth", 3)):
        _add(size, key, str(value))
    _add(root, "segmented", "0")
    for box, class_id, ignore in zip(
        image.boxes.tolist(), image.class_id.tolist(), image.ignore.tolist(), strict=True
    ):
        item = ElementTree.SubElement(root, "object")
        _add(item, "name", classes[class_id])
        _add(item, "pose", "Unspecified")
        _add(item, "truncated", "0")
        _add(item, "difficult", str(int(ignore)))
        corners = ElementTree.SubElement(item, "bndbox")
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            _add(corners, key, f"{value:.2f}")
    return root


def _add(parent: ElementTree.Element, tag: str, text: str) -> None:
    ElementTree.SubElement(parent, tag).text = text
