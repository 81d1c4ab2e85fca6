"""Label Studio: tasks with predictions to look over, and the interface to look at them with.

Ignore regions are boxes with a note: they are what a person should decide.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np

from tasks.formats.labelled import LabelledImage, LabelledSet

TASKS, INTERFACE = "tasks.json", "interface.xml"
NOTE = "not sure enough to be a label, too sure to be background"
_FROM, _TO = "label", "image"


def write(labelled: LabelledSet, folder: Path) -> None:
    """Writes ``tasks.json`` and ``interface.xml``.

    Images are addressed as Label Studio's local files below its document root:
    ``<folder>/images/...``.
    """
    with (folder / TASKS).open("w") as file:
        file.write("[")
        for number, image in enumerate(labelled):
            file.write(",\n" if number else "\n")
            file.write(json.dumps(_task(image, labelled.classes), ensure_ascii=False))
        file.write("\n]\n")
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name=_TO, value="$image", zoom="true")
    choices = ElementTree.SubElement(view, "RectangleLabels", name=_FROM, toName=_TO)
    for name in labelled.classes:
        ElementTree.SubElement(choices, "Label", value=name)
    tree = ElementTree.ElementTree(view)
    ElementTree.indent(tree)
    tree.write(folder / INTERFACE, encoding="unicode")


def _task(image: LabelledImage, classes: tuple[str, ...]) -> dict[str, Any]:
    size = np.array([image.width, image.height] * 2, np.float64)
    percent = 100 * image.boxes / size
    rows = zip(
        percent.tolist(), image.class_id.tolist(), image.score.tolist(), image.ignore.tolist(), strict=True
    )
    result = []
    for number, ((x1, y1, x2, y2), class_id, score, ignore) in enumerate(rows):
        region: dict[str, Any] = {
            "id": f"box{number}",
            "type": "rectanglelabels",
            "from_name": _FROM,
            "to_name": _TO,
            "original_width": image.width,
            "original_height": image.height,
            "image_rotation": 0,
            "value": {
                "x": round(x1, 6),
                "y": round(y1, 6),
                "width": round(x2 - x1, 6),
                "height": round(y2 - y1, 6),
                "rotation": 0,
                "rectanglelabels": [classes[class_id]],
            },
        }
        region |= {} if score != score else {"score": round(score, 6)}
        result.append(region | ({"meta": {"text": [NOTE]}} if ignore else {}))
    mean = float(np.nanmean(image.score)) if np.isfinite(image.score).any() else None
    prediction: dict[str, Any] = {"model_version": "detcompose", "result": result}
    prediction |= {} if mean is None else {"score": round(mean, 6)}
    return {
        "data": {"image": f"/data/local-files/?d={quote(f'images/{image.name}')}"},
        "predictions": [prediction],
    }
