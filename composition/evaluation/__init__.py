"""How good detections are: COCO metrics, their intervals, differences of two detectors, confusion."""

from composition.evaluation.bootstrap import (
    Change,
    Difference,
    Interval,
    Intervals,
    intervals,
    paired_difference,
)
from composition.evaluation.confusion import Confusion, confusion
from composition.evaluation.metrics import ClassMetrics, Measured, Metrics, evaluate, measure
from composition.evaluation.tally import Tally

__all__ = [
    "Change",
    "ClassMetrics",
    "Confusion",
    "Difference",
    "Interval",
    "Intervals",
    "Measured",
    "Metrics",
    "Tally",
    "confusion",
    "evaluate",
    "intervals",
    "measure",
    "paired_difference",
]
