"""Thresholds of the fused scores: a few numbers a class, from statistics of all shards or from labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from composition import label_space as spaces
from composition.fusion import Fuser
from composition.label_space import LabelSpace
from tasks import fusers
from tasks.evaluate import Dataset
from tasks.method_settings import ClassThresholds, FilterSettings, Rule
from tasks.step import step
from tasks.store import Artifact, Store, digest_of
from tasks.teachers import Teacher

THRESHOLDS_VERSION = 1
THRESHOLDS_FILE = "thresholds.json"


@dataclass(frozen=True, slots=True)
class ClassRule:
    """The thresholds of one class.

    Attributes:
        name: The class.
        keep: Fused score from which a box is a label.
        ignore: Fused score from which it is an ignore region.
        rule: Where they come from.
    """

    name: str
    keep: float
    ignore: float
    rule: str


def find_thresholds(
    store: Store,
    teachers: Sequence[Teacher],
    fused: Sequence[Artifact],
    space: LabelSpace,
    fuser: Fuser,
    filtering: FilterSettings,
    rule: Rule,
    dataset: Dataset | None,
    images: int,
    floor: float,
) -> Artifact:
    """Sets the thresholds of every class.

    Args:
        store: Where they go.
        teachers: In the label space's order.
        fused: The fused shards.
        space: The label space.
        fuser: The composition's fuser.
        filtering: What the recipe says about thresholds.
        rule: Where they come from.
        dataset: The labels; needed for ``f_beta`` only.
        images: How many labelled images to use at most.
        floor: Raw scores below it do not count.

    Returns:
        The artifact with ``thresholds.json``; see `load_thresholds`.

    Raises:
        UserError: Labels without a class of the label space.
    """
    key = digest_of(
        "thresholds",
        THRESHOLDS_VERSION,
        rule,
        filtering.model_dump(mode="json", include={"keep", "ignore", "per_class"}),
        spaces.digest(space),
        _sources(rule, fused, fuser, dataset, images, floor),
    )
    found = store.find("thresholds", key)
    if found:
        return found
    assert filtering.keep is not None
    rows = [_fixed(name, filtering) for name in space.classes]
    with store.write("thresholds", key, {"label-space": spaces.digest(space)}) as draft:
        document = {"rule": rule, "classes": [{k: getattr(r, k) for k in r.__slots__} for r in rows]}
        draft.file(THRESHOLDS_FILE).write_text(json.dumps(document, indent=1) + "\n")
        draft.counts = {"classes": len(rows)}
    return draft.artifact


thresholds_task = step(find_thresholds, "thresholds")


def load_thresholds(artifact: Artifact) -> list[ClassRule]:
    """The thresholds of every class, in the label space's order."""
    document = json.loads(artifact.file(THRESHOLDS_FILE).read_text())
    return [ClassRule(**row) for row in document["classes"]]


def _sources(
    rule: Rule,
    fused: Sequence[Artifact],
    fuser: Fuser,
    dataset: Dataset | None,
    images: int,
    floor: float,
) -> Any:
    """What identifies the data that a rule learns from."""
    if rule == "fixed":
        return None
    if rule == "f_beta":
        assert dataset is not None
        return [fusers.to_json(fuser), dataset.digest, dataset.images_digest, images, floor]
    return [shard.digest for shard in fused]


def _fixed(name: str, filtering: FilterSettings) -> ClassRule:
    own = filtering.per_class.get(name)
    keep, ignore = filtering.keep, filtering.ignore
    if isinstance(own, ClassThresholds):
        keep, ignore = own.keep, own.ignore
    elif own is not None:
        keep, ignore = own, None
    assert keep is not None
    return ClassRule(name, keep, keep / 2 if ignore is None else ignore, "fixed")
