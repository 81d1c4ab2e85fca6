"""Which classes of two detectors are the same, found from what they do on unlabeled images.

The names are never looked at. Each teacher's boxes are put to the other as
questions: what do you see here? The answer is the class of its surest box that
overlaps the question (IoU >= 0.5), or silence. From the answers in both
directions follow the pairs of classes that mean the same, and the classes of
one teacher that gather several of the other's. This is ours, not the paper's;
docs/label-space.md has the reasoning and benchmarks/discovery.py the figures.
"""

from composition.discovery.answers import Answers, ask
from composition.discovery.evidence import Direction, lower_bound
from composition.discovery.relations import Discovery, DiscoverySettings, Kind, Proposal, discover

__all__ = [
    "Answers",
    "Direction",
    "Discovery",
    "DiscoverySettings",
    "Kind",
    "Proposal",
    "ask",
    "discover",
    "lower_bound",
]
