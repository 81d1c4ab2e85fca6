"""Thresholds of the fused scores: a few numbers a class, from statistics of all shards or from labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from composition import filtering as rules
from composition import label_space as spaces
from composition.filtering import Fixed, Thresholds
from composition.filtering.labels import SHARE_EXPONENT
from composition.fusion import Expert, Fuser
from composition.label_space import LabelSpace
from tasks import fusers
from tasks.aggregate import load_statistics
from tasks.ensemble import labelled_evidence
from tasks.evaluate import Dataset
from tasks.method_settings import LABEL_RULES, ClassThresholds, FilterSettings, Rule
from tasks.step import step
from tasks.store import Artifact, Store, digest_of
from tasks.teachers import Teacher

THRESHOLDS_VERSION = 2
THRESHOLDS_FILE = "thresholds.json"


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
        dataset: The labels, if any; needed for ``f_beta`` only.
        images: How many labelled images to use at most.
        floor: Raw scores below it do not count.

    Returns:
        The artifact with ``thresholds.json``; see `load_thresholds`.

    Raises:
        UserError: Labels without a class of the label space.
    """
    chain = threshold_rule(filtering, rule, score_exponent(fuser))
    key = digest_of(
        "thresholds",
        THRESHOLDS_VERSION,
        repr(chain),
        filtering.model_dump(mode="json", include={"per_class"}),
        spaces.digest(space),
        # the other rules need them as well: for classes that labels cannot decide
        [shard.digest for shard in fused] if rule != "fixed" else [],
        [fusers.to_json(fuser), dataset.digest, dataset.images_digest, images, floor]
        if rule in LABEL_RULES and dataset
        else [],
    )
    found = store.find("thresholds", key)
    if found:
        return found
    labelled = None
    if rule in LABEL_RULES and dataset:
        evidence = labelled_evidence(store, teachers, space, dataset, images, floor)
        covered = np.isin(np.arange(len(space.classes)), evidence.classes)
        labelled = rules.Labelled(fuser.fuse(evidence.tables).detections, evidence.truth, covered)
    chosen = with_own(chain.thresholds(load_statistics(fused), labelled), filtering, space.classes)
    with store.write("thresholds", key, {"label-space": spaces.digest(space)}) as draft:
        document = {"rule": rule, "classes": list(space.classes), "thresholds": chosen.to_dict()}
        draft.file(THRESHOLDS_FILE).write_text(json.dumps(document, indent=1) + "\n")
        draft.counts = {
            "classes": len(space.classes),
            "classes_by_fallback": sum(
                reason.startswith("fixed") and rule != "fixed" for reason in chosen.reason
            ),
        }
    return draft.artifact


thresholds_task = step(find_thresholds, "thresholds")


def load_thresholds(artifact: Artifact) -> Thresholds:
    """The thresholds of every class, in the label space's order, all decided."""
    document: dict[str, Any] = json.loads(artifact.file(THRESHOLDS_FILE).read_text())
    return rules.from_dict(document["thresholds"])


def score_exponent(fuser: Fuser) -> float:
    """What turns a fuser's scores into chances at IoU 0.5: calibrated ones are shares of IoU thresholds.

    Of raw scores nothing is known; they stay what they are.
    """
    calibrated = isinstance(fuser, Expert) and fuser.expertise is not None
    return SHARE_EXPONENT if calibrated else 1.0


def threshold_rule(filtering: FilterSettings, rule: Rule, exponent: float = 1.0) -> rules.Rule:
    """The rule, with those behind it that decide the classes that it cannot.

    Args:
        filtering: What the recipe says about thresholds.
        rule: Where they come from.
        exponent: See `score_exponent`.
    """
    keep = filtering.fallback_keep
    if filtering.keep is None:
        # where a box is as likely to be right as wrong
        keep = 1 - (1 - keep) ** (1 / exponent)
    fixed = Fixed(keep, keep / 2 if filtering.ignore is None else filtering.ignore)
    if rule == "fixed":
        return fixed
    if rule == "f_beta":
        return rules.FBeta() | rules.ExpectedF(exponent=exponent) | fixed
    if rule == "expected_f":
        return rules.ExpectedF(exponent=exponent) | fixed
    if rule == "expected_count":
        return rules.ExpectedCount(exponent=exponent) | fixed
    return rules.Mixture(exponent=exponent) | rules.ExpectedCount(exponent=exponent) | fixed


def with_own(thresholds: Thresholds, filtering: FilterSettings, classes: Sequence[str]) -> Thresholds:
    """Puts in the thresholds that the recipe gives for single classes."""
    keep, ignore, reason = thresholds.keep.copy(), thresholds.ignore.copy(), list(thresholds.reason)
    for name, own in filtering.per_class.items():
        place = classes.index(name)
        if isinstance(own, ClassThresholds):
            keep[place], lower = own.keep, own.ignore
        else:
            keep[place], lower = own, None
        ignore[place] = keep[place] / 2 if lower is None else lower
        reason[place] = "recipe"
    return Thresholds(keep, ignore, tuple(reason))
