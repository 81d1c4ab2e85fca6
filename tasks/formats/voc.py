"""Pascal VOC: an XML file an image. Ignore regions are ``difficult``, as VOC evaluates them; no scores.

Pixels count from 1 and the last one belongs to the box, as in the files of the
challenges: left and top are ours plus 1, right and bottom are ours. Two digits
behind the point are kept.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from tasks.formats.labelled import LabelledImage, LabelledSet

ANNOTATIONS, IMAGES, LIST = "Annotations", "JPEGImages", "ImageSets/Main/train.txt"
CLASSES, LABEL_MAP = "labels.txt", "labelmap.txt"


def write(labelled: LabelledSet, folder: Path) -> None:
    """Writes ``Annotations/<image>.xml``, ``ImageSets/Main/train.txt`` and the class list.

    The list is there twice: plainly in ``labels.txt``, and in ``labelmap.txt``
    as Datumaro and CVAT want it, which know only the challenges' classes otherwise.
    """
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
    rows = ["# label:color_rgb:parts:actions\n", *(f"{name}:::\n" for name in labelled.classes)]
    (folder / LABEL_MAP).write_text("".join(rows))
    (folder / CLASSES).write_text("".join(f"{name}\n" for name in labelled.classes))


def _document(image: LabelledImage, classes: tuple[str, ...]) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    _add(root, "folder", IMAGES)
    _add(root, "filename", image.name)
    size = ElementTree.SubElement(root, "size")
    for key, value in (("width", image.width), ("height", image.height), ("depth", 3)):
        _add(size, key, str(value))
    _add(root, "segmented", "0")
    for (x1, y1, x2, y2), class_id, _, ignore in image.rows():
        item = ElementTree.SubElement(root, "object")
        _add(item, "name", classes[class_id])
        _add(item, "pose", "Unspecified")
        _add(item, "truncated", "0")
        _add(item, "difficult", str(int(ignore)))
        corners = ElementTree.SubElement(item, "bndbox")
        for key, place in zip(("xmin", "ymin", "xmax", "ymax"), (x1 + 1, y1 + 1, x2, y2), strict=True):
            _add(corners, key, f"{place:.2f}")
    return root


def _add(parent: ElementTree.Element, tag: str, text: str) -> None:
    ElementTree.SubElement(parent, tag).text = text
