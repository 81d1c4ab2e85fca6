"""The diagnosis as a step of a composition: from its artifacts, one shard in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from composition import detections as table
from composition import diagnostics, domain_alarm, filtering, statistics
from composition import label_space as spaces
from composition.confirmation import Confirmations, confirmations
from composition.diagnostics import Diagnosis, LabelCounts, count_labels
from composition.domain_alarm import FLOOR, empty_profile, profile
from composition.label_space import LabelSpace
from tasks.aggregate import load_statistics
from tasks.diagnose import write_diagnosis
from tasks.infer import load_detections
from tasks.label import iter_labels
from tasks.progress import track
from tasks.score_profiles import load_profile
from tasks.step import step
from tasks.store import Artifact, Store, digest_of
from tasks.teachers import Teacher
from tasks.thresholds import load_thresholds

STEP_VERSION = 1
SUMS_FILE = "sums.json"


def diagnose_composition(
    store: Store,
    teachers: Sequence[Teacher],
    shards: Mapping[str, Sequence[Artifact]],
    fused: Sequence[Artifact],
    space: LabelSpace,
    thresholds: Artifact,
    labels: Artifact,
    *,
    calibrated: bool,
    floor: float,
    score_floor: float,
) -> Artifact:
    """Looks at what the pseudo-labels of a composition would teach.

    Args:
        store: Where the diagnosis goes.
        teachers: In the label space's order.
        shards: Teacher name to its shards, in the order of the images.
        fused: The fused shards.
        space: The label space.
        thresholds: What `tasks.thresholds.find_thresholds` made.
        labels: What `tasks.label.label_pool` made.
        calibrated: Whether the fused scores are calibrated probabilities.
        floor: Raw scores below it did not take part in fusion.
        score_floor: Raw scores below it were not kept by inference.

    Returns:
        The artifact with ``diagnosis.json``, the plots, and ``sums.json``, from
        which `load_diagnosis` makes the diagnosis again.
    """
    # a higher floor than the profiles' would look like another domain
    profiled = score_floor <= FLOOR
    # profiles lie beside what a teacher's digest covers
    own = {teacher.name: load_profile(teacher) for teacher in teachers} if profiled else {}
    references = {name: one.to_dict() if one else None for name, one in own.items()}
    key = digest_of(
        "diagnosis",
        [STEP_VERSION, diagnostics.DIAGNOSIS_VERSION],
        [(name, [part.digest for part in parts]) for name, parts in shards.items()],
        [shard.digest for shard in fused],
        spaces.digest(space),
        thresholds.digest,
        labels.digest,
        [calibrated, floor, profiled],
        references,
    )
    found = store.find("diagnosis", key)
    if found:
        return found
    asked, pool = _sums_of_shards(shards, space, floor)
    counts = _count(labels, len(space.classes))
    document = {
        "classes": list(space.classes),
        "teachers": list(shards),
        "coverage": spaces.coverage(space).tolist(),
        "calibrated": calibrated,
        "statistics": statistics.to_dict(load_statistics(fused)),
        "thresholds": load_thresholds(thresholds).to_dict(),
        "confirmations": {"asked": asked.asked.tolist(), "confirmed": asked.confirmed.tolist()},
        "labels": {
            "positives": counts.positives.tolist(),
            "ignored": counts.ignored.tolist(),
            "weight": counts.weight.tolist(),
        },
        "profiles": {name: [references[name], pool[name].to_dict()] for name in own},
    }
    inputs = {"thresholds": thresholds.digest, "pseudo-labels": labels.digest}
    with store.write("diagnosis", key, inputs) as draft:
        draft.file(SUMS_FILE).write_text(json.dumps(document) + "\n")
        diagnosis = _from_sums(document)
        write_diagnosis(draft.folder, diagnosis)
        draft.counts = {
            "warnings": len(diagnostics.warnings(diagnosis)),
            "thin_classes": sum(one.verdict == "thin" for one in diagnosis.classes),
            "classes_without_labels": sum(not one.positives for one in diagnosis.classes),
        }
    return draft.artifact


diagnose_task = step(diagnose_composition, "diagnose")


def load_diagnosis(artifact: Artifact) -> Diagnosis:
    """The diagnosis of a composition."""
    return _from_sums(json.loads(artifact.file(SUMS_FILE).read_text()))


def _sums_of_shards(
    shards: Mapping[str, Sequence[Artifact]], space: LabelSpace, floor: float
) -> tuple[Confirmations, dict[str, domain_alarm.ScoreProfile]]:
    """Confirmations of the boxes that took part, and profiles of all that the teachers said."""
    coverage = spaces.coverage(space)
    asked = confirmations([table.empty()] * len(shards), coverage)
    profiles = dict.fromkeys(shards, empty_profile())
    rounds = list(zip(*shards.values(), strict=True))
    for round_ in track(rounds, "diagnosing shards", len(rounds)):
        tables = []
        for name, shard in zip(shards, round_, strict=True):
            raw = load_detections(shard)
            spoken = shard.counts["images"] - shard.counts.get("unanswered", 0)
            profiles[name] = profiles[name] + profile(raw, spoken)
            tables.append(spaces.map_detections(space, name, raw[raw.score >= np.float32(floor)]))
        asked = asked + confirmations(tables, coverage)
    return asked, profiles


def _count(labels: Artifact, classes: int) -> LabelCounts:
    zeros = np.zeros(classes, np.int64)
    total = LabelCounts(zeros, zeros, np.zeros(classes))
    for part in iter_labels(labels):
        total = total + count_labels(part, classes)
    return total


def _from_sums(document: Mapping[str, Any]) -> Diagnosis:
    asked, labels = document["confirmations"], document["labels"]
    return diagnostics.diagnose(
        statistics.from_dict(document["statistics"]),
        Confirmations(np.array(asked["asked"], np.int64), np.array(asked["confirmed"], np.int64)),
        document["classes"],
        document["teachers"],
        np.array(document["coverage"], np.bool_),
        filtering.from_dict(document["thresholds"]),
        calibrated=document["calibrated"],
        labels=LabelCounts(
            np.array(labels["positives"], np.int64),
            np.array(labels["ignored"], np.int64),
            np.array(labels["weight"], np.float64),
        ),
        profiles={
            name: (
                domain_alarm.from_dict(own, f"the score profile of {name}") if own else None,
                domain_alarm.from_dict(pool, f"the score profile of {name} on the pool"),
            )
            for name, (own, pool) in document["profiles"].items()
        },
    )
