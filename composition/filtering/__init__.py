"""Which boxes are kept: policies decide row by row, rules choose the thresholds of fused boxes.

Example:
    >>> policy = ScoreThreshold(0.5, {3: 0.3}) & MinimumSize(4)
    >>> kept = apply(policy, detections)  # doctest: +SKIP
    >>> rule = ExpectedF() | Fixed(0.5, 0.3)
    >>> kind = kinds(fused, rule.thresholds(statistics, labelled))  # doctest: +SKIP
"""

from composition.filtering.expected_count import ExpectedCount
from composition.filtering.expected_f import ExpectedF
from composition.filtering.f_beta import FBeta
from composition.filtering.labels import Labelled
from composition.filtering.mixture import Mixture
from composition.filtering.policies import (
    Both,
    MinimumSize,
    Policy,
    ScoreThreshold,
    Stability,
    apply,
    box_weight,
)
from composition.filtering.thresholds import (
    DROP,
    FirstThat,
    Fixed,
    Rule,
    Thresholds,
    from_dict,
    kinds,
)

__all__ = [
    "DROP",
    "Both",
    "ExpectedCount",
    "ExpectedF",
    "FBeta",
    "FirstThat",
    "Fixed",
    "Labelled",
    "MinimumSize",
    "Mixture",
    "Policy",
    "Rule",
    "ScoreThreshold",
    "Stability",
    "Thresholds",
    "apply",
    "box_weight",
    "from_dict",
    "kinds",
]
