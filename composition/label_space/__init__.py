"""The union of several vocabularies and each teacher's relation to it.

Contract (docs/design.md, "Label space"): union classes in order; per teacher
and teacher class one relation and its target; every teacher class exactly once.
"""

from composition.aliases import shared_classes
from composition.label_space.build import build
from composition.label_space.space import (
    Entry,
    LabelSpace,
    Relation,
    coverage,
    digest,
    experts,
    from_json,
    map_detections,
    to_json,
)
from composition.label_space.text import dump_yaml, parse_yaml

__all__ = [
    "Entry",
    "LabelSpace",
    "Relation",
    "build",
    "coverage",
    "digest",
    "dump_yaml",
    "experts",
    "from_json",
    "map_detections",
    "parse_yaml",
    "shared_classes",
    "to_json",
]
