"""The worked example of docs/label-space.md does what the guide says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from composition import detections, label_space
from composition.label_space import LabelSpace, parse_yaml

GUIDE = Path(__file__).parents[2] / "docs" / "label-space.md"
VOCABULARIES = {
    "coco": ["person", "car", "bus", "truck", "sofa"],
    "traffic": ["pedestrian", "vehicle", "suv", "banner"],
}


def _blocks() -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)


@pytest.fixture
def space() -> LabelSpace:
    return parse_yaml(_blocks()[0], "docs/label-space.md", VOCABULARIES)


def _what_becomes_of(space: LabelSpace, teacher: str, name: str) -> tuple[list[str], list[str]]:
    box = detections.make([0], [[0, 0, 9, 9]], [0.5], [VOCABULARIES[teacher].index(name)])
    tables = (
        label_space.map_detections(space, teacher, box),
        label_space.ignore_regions(space, teacher, box),
    )
    positive, ignored = ([space.classes[c] for c in table.class_id] for table in tables)
    return positive, ignored


@pytest.mark.parametrize(
    ("teacher", "name", "positive", "ignored"),
    [
        ("coco", "sofa", ["couch"], []),
        ("coco", "truck", ["vehicle"], []),
        ("traffic", "suv", ["vehicle", "car"], []),
        ("traffic", "vehicle", ["vehicle"], ["car", "bus"]),
        ("traffic", "banner", [], []),
    ],
)
def test_the_table(
    space: LabelSpace, teacher: str, name: str, positive: list[str], ignored: list[str]
) -> None:
    assert _what_becomes_of(space, teacher, name) == (positive, ignored)


def test_without_the_parent() -> None:
    text = _blocks()[0].replace("  - vehicle\n", "").replace("parents:\n  car: vehicle\n  bus: vehicle\n", "")
    text = text.replace("    vehicle: vehicle\n", _blocks()[1]).replace("{narrower: vehicle}", "drop")
    space = parse_yaml(text, "docs/label-space.md", VOCABULARIES)
    assert _what_becomes_of(space, "traffic", "vehicle") == ([], ["car", "bus"])
