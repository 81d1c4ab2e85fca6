"""What a student gained and lost by fine-tuning, class by class."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from composition.aliases import shared_classes
from composition.evaluation import Change, Measured, paired_difference
from tasks.evaluate import EVALUATION_VERSION, Dataset, examine_detector
from tasks.step import step
from tasks.store import Artifact, Store, digest_of
from tasks.teachers import Teacher

FORGETTING_FILE = "forgetting.json"
PER_CLASS_FILE = "forgetting.csv"


def measure_forgetting(
    store: Store, name: str, dataset: Dataset, before: Teacher, after: Teacher, covered: Collection[str]
) -> Artifact:
    """Measures a detector before and after fine-tuning on the same images.

    Args:
        store: Where the result goes.
        name: Name of the data set.
        dataset: The data set.
        before: The detector that was fine-tuned.
        after: What came out; the same vocabulary.
        covered: The classes (of the vocabulary) that people's labels cover.

    Returns:
        The artifact with ``forgetting.json`` (see `load_forgetting`) and ``forgetting.csv``.
    """
    key = digest_of(
        "forgetting",
        EVALUATION_VERSION,
        [dataset.digest, dataset.images_digest],
        [before.digest, after.digest],
        sorted(covered),
    )
    found = store.find("forgetting", key)
    if found:
        return found
    labelled = set(shared_names(dataset, before.manifest.vocabulary, covered))
    old, new = (examine_detector(store, one, dataset).measured for one in (before, after))
    change = paired_difference(new.tally, old.tally)
    document: dict[str, Any] = {
        "dataset": name,
        "images": len(dataset.coco["images"]),
        "boxes": len(dataset.coco["annotations"]),
        "classes": len(old.metrics.per_class),
        **{
            key: {
                "before": getattr(old.metrics, key),
                "after": getattr(new.metrics, key),
                "change": _values(getattr(change, key)),
            }
            for key in ("AP", "AP50")
        },
        "labelled": _group(new, old, labelled),
        "others": _group(new, old, set(old.tally.classes) - labelled),
        "per_class": {
            category: {
                "labelled": category in labelled,
                "before": figures.AP,
                "after": new.metrics.per_class[category].AP,
                "change": _values(change.per_class.get(category)),
                "boxes": figures.boxes,
            }
            for category, figures in old.metrics.per_class.items()
        },
        "level": change.level,
        "resamples": change.resamples,
        "seed": change.seed,
    }
    inputs = {"dataset": dataset.digest, "before": before.digest, "after": after.digest}
    with store.write("forgetting", key, inputs) as draft:
        draft.file(FORGETTING_FILE).write_text(json.dumps(document, indent=2) + "\n")
        _write_csv(draft.file(PER_CLASS_FILE), document["per_class"])
        draft.counts = {"images": len(dataset.coco["images"])}
    return draft.artifact


measure_forgetting_task = step(measure_forgetting, "measure forgetting", run_name="forgetting on {name}")


def load_forgetting(artifact: Artifact) -> dict[str, Any]:
    """The result in JSON form.

    Returns:
        ``AP`` and ``AP50`` with ``before``, ``after`` and ``change`` (``value``,
        ``low``, ``high``, ``p``: after minus before with its paired interval), the
        same of AP for the classes that people's labels cover (``labelled``) and
        for the ``others`` (None where there are none), and ``per_class``; all in percent.
    """
    document: dict[str, Any] = json.loads(artifact.file(FORGETTING_FILE).read_text())
    return document


def shared_names(dataset: Dataset, vocabulary: Sequence[str], classes: Collection[str]) -> list[str]:
    """The categories of a data set that some classes of a vocabulary are called there."""
    names = [category["name"] for category in dataset.coco["categories"]]
    pairs = shared_classes(vocabulary, names)
    return [names[theirs] for own, theirs in pairs.items() if vocabulary[own] in classes]


def _group(new: Measured, old: Measured, names: Collection[str]) -> dict[str, Any] | None:
    """Mean AP of some classes before and after."""
    chosen = [name for name in old.tally.classes if name in names]
    if not chosen:
        return None
    change = paired_difference(new.tally.restricted(chosen), old.tally.restricted(chosen))
    return {
        "classes": len(chosen),
        "before": _mean(old, chosen),
        "after": _mean(new, chosen),
        "change": _values(change.AP),
    }


def _mean(measured: Measured, names: Collection[str]) -> float | None:
    """Mean AP of the classes that have objects."""
    per_class = measured.metrics.per_class
    values = [value for name in names if (value := per_class[name].AP) is not None]
    return sum(values) / len(values) if values else None


def _values(change: Change | None) -> dict[str, float] | None:
    return None if change is None else asdict(change)


def _write_csv(path: Path, per_class: Mapping[str, Mapping[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "labelled", "before", "after", "change", "low", "high", "p", "boxes"])
        for name, row in per_class.items():
            change = [(row["change"] or {}).get(key) for key in ("value", "low", "high", "p")]
            writer.writerow([name, row["labelled"], row["before"], row["after"], *change, row["boxes"]])
