"""CVAT for images 1.1: one XML file. Scores and ignore regions are attributes of the boxes."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from tasks.formats.labelled import LabelledImage, LabelledSet

FILE = "annotations.xml"


def write(labelled: LabelledSet, folder: Path) -> None:
    """Writes ``annotations.xml``, image after image."""
    with (folder / FILE).open("w", encoding="utf-8") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n')
        file.write(ElementTree.tostring(_meta(labelled.classes), encoding="unicode") + "\n")
        for number, image in enumerate(labelled):
            row = _image(number, image, labelled.classes)
            file.write(ElementTree.tostring(row, encoding="unicode") + "\n")
        file.write("</annotations>\n")


def _meta(classes: tuple[str, ...]) -> ElementTree.Element:
    """The labels and their attributes, as a task of CVAT has to have them."""
    meta = ElementTree.Element("meta")
    labels = ElementTree.SubElement(ElementTree.SubElement(meta, "task"), "labels")
    for name in classes:
        label = ElementTree.SubElement(labels, "label")
        _add(label, "name", name)
        attributes = ElementTree.SubElement(label, "attributes")
        for attribute, kind, default, values in (
            ("score", "text", "", ""),
            ("ignore", "checkbox", "false", "false\ntrue"),
        ):
            entry = ElementTree.SubElement(attributes, "attribute")
            _add(entry, "name", attribute)
            _add(entry, "mutable", "False")
            _add(entry, "input_type", kind)
            _add(entry, "default_value", default)
            _add(entry, "values", values)
    return meta


def _image(number: int, image: LabelledImage, classes: tuple[str, ...]) -> ElementTree.Element:
    size = {"width": str(image.width), "height": str(image.height)}
    item = ElementTree.Element("image", {"id": str(number), "name": image.name, **size})
    for box, class_id, score, ignore in image.rows():
        corners = {
            side: f"{value:.4f}" for side, value in zip(("xtl", "ytl", "xbr", "ybr"), box, strict=True)
        }
        facts = {"label": classes[class_id], "source": "auto", "occluded": "0", **corners, "z_order": "0"}
        row = ElementTree.SubElement(item, "box", facts)
        _add(row, "attribute", "true" if ignore else "false", name="ignore")
        if score == score:
            _add(row, "attribute", f"{score:.6f}", name="score")
    return item


def _add(parent: ElementTree.Element, tag: str, text: str, **attributes: str) -> None:
    ElementTree.SubElement(parent, tag, attributes).text = text
