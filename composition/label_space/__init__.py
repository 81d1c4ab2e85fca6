"""The union of several vocabularies and each teacher's relation to it.

Contract (docs/design.md, "Label space"): union classes in order; per teacher
and teacher class one relation and its targets; every teacher class exactly
once; optionally a hierarchy of the union classes. Guide: docs/label-space.md.
"""

from composition.aliases import shared_classes
from composition.label_space.build import build
from composition.label_space.chain import compose
from composition.label_space.mapping import (
    base_class,
    coverage,
    experts,
    ignore_regions,
    ignored,
    map_detections,
    positives,
    related,
    relations,
)
from composition.label_space.serial import digest, from_json, to_json
from composition.label_space.space import Entry, LabelSpace, Relation, ancestors, descendants
from composition.label_space.text import Comments, dump_yaml, parse_yaml

__all__ = [
    "Comments",
    "Entry",
    "LabelSpace",
    "Relation",
    "ancestors",
    "base_class",
    "build",
    "compose",
    "coverage",
    "descendants",
    "digest",
    "dump_yaml",
    "experts",
    "from_json",
    "ignore_regions",
    "ignored",
    "map_detections",
    "parse_yaml",
    "positives",
    "related",
    "relations",
    "shared_classes",
    "to_json",
]
