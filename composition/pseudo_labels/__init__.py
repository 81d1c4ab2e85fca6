"""The table that a student is trained on.

Contract (docs/design.md, "Pseudo-labels"): union class, box, class and box
weight, kind, the teachers that agreed and their scores, so that every box can
say where it comes from.
"""

from composition.pseudo_labels.arrow import (
    from_arrow,
    fused_from_arrow,
    fused_to_arrow,
    named_schema,
    schema,
    teacher_names,
    to_arrow,
)
from composition.pseudo_labels.coco import coco_text, to_coco
from composition.pseudo_labels.decide import Rules, Tally, decide
from composition.pseudo_labels.regions import open_regions, with_spread
from composition.pseudo_labels.silence import unspoken, unspoken_from_arrow, unspoken_to_arrow
from composition.pseudo_labels.table import (
    IGNORE,
    POSITIVE,
    PseudoLabels,
    as_detections,
    concatenate,
    from_fused,
)

__all__ = [
    "IGNORE",
    "POSITIVE",
    "PseudoLabels",
    "Rules",
    "Tally",
    "as_detections",
    "coco_text",
    "concatenate",
    "decide",
    "from_arrow",
    "from_fused",
    "fused_from_arrow",
    "fused_to_arrow",
    "named_schema",
    "open_regions",
    "schema",
    "teacher_names",
    "to_arrow",
    "to_coco",
    "unspoken",
    "unspoken_from_arrow",
    "unspoken_to_arrow",
    "with_spread",
]
