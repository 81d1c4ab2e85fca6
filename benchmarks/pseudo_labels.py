"""Precision and recall of pseudo-labels on COCO images, by threshold rule, against fixed 0.5 and NMS.

    python -m benchmarks.pseudo_labels [--data DIR] [--home DIR] [--json]

The teachers label ``coco/unlabeled.json``. 100, 50 or 25 images of
``coco/train.json`` calibrate the ``expert`` fuser and teach the rules that want
labels; the 321 images that are never among them are measured against
``coco/train.json``. The baseline is what the teachers say with a score of at
least 0.5, suppressed across teachers (`Nms`).

COCO's teachers were trained on these images: figures are higher than on new
ones, for the baseline as for ours.

Writes ``benchmarks/results/pseudo_labels.json`` and ``.md``. Two minutes for
the detections (kept in --home), one for the rest.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.teachers import TEACHERS, add_teacher
from benchmarks.verdicts import Verdicts, f1_interval, figures
from composition import detections as table
from composition import label_space as spaces
from composition.aliases import shared_classes
from composition.detections import Detections
from composition.filtering import DROP, ExpectedCount, ExpectedF, FBeta, Fixed, Labelled, Mixture, Rule, kinds
from composition.fusion import Expert, Fused, Nms
from composition.matching import Objects, objects
from composition.pseudo_labels import IGNORE, POSITIVE
from composition.statistics import Statistics, empty, merge, statistics_of

RESULTS = Path(__file__).parent / "results"
LABELLED_IMAGES = (100, 50, 25)
SHARD_SIZE = 100
YOLOX, NANODET, FASTEST, _, VOC, _ = TEACHERS
GROUPS = {"pair": (YOLOX, VOC), "three": (YOLOX, NANODET, FASTEST), "six": tuple(TEACHERS)}
BEST = "expected_f"
LAST = Fixed(0.5, 0.3)
# the rule, and whether it is shown the labels
RULES: dict[str, tuple[Rule, bool]] = {
    "fixed 0.5": (LAST, False),
    "f_beta": (FBeta() | LAST, True),
    "mixture": (Mixture() | LAST, True),
    "expected_count": (ExpectedCount() | LAST, True),
    "expected_f": (ExpectedF() | LAST, True),
    "expected_f, beta 0.5": (ExpectedF(beta=0.5) | LAST, True),
    "mixture, then expected_f": (Mixture() | ExpectedF() | LAST, True),
    "mixture, no labels": (Mixture() | LAST, False),
    "expected_count, no labels": (ExpectedCount() | LAST, False),
    "expected_f, no labels": (ExpectedF() | LAST, False),
}


class Pool:
    """The unlabeled images with their labels, in a store."""

    def __init__(self, home: Any, data: Path) -> None:
        from tasks import evaluate
        from tasks.image_index import build_index, list_images, load_index

        self.home, self.data = home, data
        self.dataset = evaluate.load_dataset(data / "coco" / "train.json")
        self.index = build_index(home.store, list_images(data / "coco" / "unlabeled.json"))
        names = {image["file_name"]: image["id"] for image in self.dataset.coco["images"]}
        self.records = load_index(self.index)
        self.ids = np.zeros(max(record.image_id for record in self.records) + 1, np.int64)
        for record in self.records:
            self.ids[record.image_id] = names[record.path]

    def chosen(self, images: int) -> NDArray[np.int64]:
        """Ids of the images that `calibrated_expert` looks at; a larger choice holds a smaller one."""
        from tasks.evaluate import few_images

        return np.array([image["id"] for image in few_images(self.dataset, images).coco["images"]], np.int64)

    def image_ids(self) -> list[NDArray[np.int64]]:
        """Ids of the images of every shard."""
        from tasks.infer import shards

        parts = shards(self.records, SHARD_SIZE)
        return [self.ids[[record.image_id for record in part]] for part in parts]

    def shards(self, members: Sequence[Any], space: spaces.LabelSpace) -> list[list[Detections]]:
        """Per shard every teacher's detections in the union classes."""
        from tasks.infer import GenerateSettings, load_detections, run_inference

        settings = GenerateSettings(shard_size=SHARD_SIZE)
        columns = []
        for member in members:
            found = map(load_detections, run_inference(self.home.store, member, self.index, settings))
            mapped = (spaces.map_detections(space, member.name, part) for part in found)
            columns.append([table.with_image_ids(part, self.ids) for part in mapped])
        return [list(row) for row in zip(*columns, strict=True)]

    def truth(self, space: spaces.LabelSpace) -> tuple[Objects, NDArray[np.bool_]]:
        """The labels in the union classes, and (C,) which of these they cover."""
        categories = self.dataset.coco["categories"]
        shared = shared_classes(space.classes, [category["name"] for category in categories])
        covered = np.isin(np.arange(len(space.classes)), list(shared))
        return objects(self.dataset.coco, {categories[i]["id"]: c for c, i in shared.items()}), covered


def on(images: NDArray[np.int64], rows: Detections) -> Detections:
    """The rows on some images."""
    return rows[np.isin(rows.image_id, images)]


def labels_on(images: NDArray[np.int64], truth: Objects) -> Objects:
    """The objects on some images."""
    rows = np.isin(truth.image_id, images)
    return Objects(truth.image_id[rows], truth.class_id[rows], truth.boxes[rows], truth.crowd[rows])


def fuse(
    expert: Expert, shards: Sequence[Sequence[Detections]], ids: Sequence[NDArray[np.int64]], coverage: Any
) -> tuple[Fused, Statistics]:
    """Fuses shard by shard and reduces the statistics."""
    parts, total = [], empty(*coverage.shape)
    for tables, images in zip(shards, ids, strict=True):
        fused = expert.fuse([on(images, part) for part in tables])
        parts.append(fused)
        total = merge(
            total, statistics_of(fused, [on(images, part) for part in tables], coverage, len(images))
        )
    whole = Fused(
        table.concatenate(part.detections for part in parts),
        np.concatenate([part.teachers for part in parts]),
        np.concatenate([part.scores for part in parts]),
    )
    return whole, total


def measure_group(pool: Pool, names: Sequence[str]) -> dict[str, Any]:
    """Every rule for one group of teachers, with more and fewer labelled images."""
    from tasks.ensemble import calibrated_expert

    members = [add_teacher(pool.home, pool.data, name) for name in names]
    space = spaces.build({member.name: member.manifest.vocabulary for member in members})
    coverage, classes = spaces.coverage(space), len(space.classes)
    shards = pool.shards(members, space)
    truth, covered = pool.truth(space)
    few = pool.chosen(max(LABELLED_IMAGES))
    ids = pool.image_ids()
    rest = [np.setdiff1d(part, few) for part in ids]
    images = np.sort(np.concatenate(rest))
    measured = labels_on(images, truth)

    raw = [on(images, table.concatenate(shard[t] for shard in shards)) for t in range(len(members))]
    plain = Verdicts.of(Nms().fuse(raw).detections, measured)
    kept = plain.rows.score >= 0.5
    counts, by_image = plain.counts(kept, classes), plain.by_image(kept, images)
    base = figures(counts)
    result: dict[str, Any] = {
        "teachers": list(names),
        "images": len(images),
        "objects": int(counts[2].sum()),
        "classes": list(space.classes),
        "baseline": {
            **base,
            "boxes": int(counts[1].sum()),
            "best_f1_of_one_threshold": plain.best_f1(),
            "per_class": counts.T.tolist(),
        },
        "labelled_images": {},
    }
    for number in LABELLED_IMAGES:
        expert = calibrated_expert(pool.home.store, members, space, pool.dataset, number)
        fused, statistics = fuse(expert, shards, rest, coverage)
        chosen = pool.chosen(number)
        seen, _ = fuse(expert, shards, [np.intersect1d(part, chosen) for part in ids], coverage)
        labelled = Labelled(seen.detections, labels_on(chosen, truth), covered)
        verdicts = Verdicts.of(fused.detections, measured)
        rows = {}
        for name, (rule, shown) in RULES.items():
            thresholds = rule.thresholds(statistics, labelled if shown else None)
            kind = kinds(fused, thresholds)
            counts = verdicts.counts(kind == POSITIVE, classes)
            found = figures(counts)
            ours = verdicts.by_image(kind == POSITIVE, images)
            rows[name] = {
                **found,
                "boxes": int(counts[1].sum()),
                "f1_minus_baseline_95": f1_interval(ours, by_image),
                "baseline_recall_at_this_precision": plain.recall_at(found["precision"]),
                "ignored": int((kind == IGNORE).sum()),
                "right_among_ignored": int(verdicts.right[kind == IGNORE].sum()),
                "right_below_both": int(verdicts.right[kind == DROP].sum()),
                "decided_by": dict(Counter(reason.partition(":")[0] for reason in thresholds.reason)),
                "keep_quantiles": np.quantile(thresholds.keep, [0.1, 0.5, 0.9]).tolist(),
            }
            if number == max(LABELLED_IMAGES):
                rows[name]["per_class"] = counts.T.tolist()
        result["labelled_images"][str(number)] = {
            "labelled_objects": int((~labelled.truth.crowd).sum()),
            "recall_at_precision_of_baseline": verdicts.recall_at(base["precision"]),
            "precision_at_recall_of_baseline": verdicts.precision_at(base["recall"]),
            "best_f1_of_one_threshold": verdicts.best_f1(),
            "rules": rows,
        }
    return result


def _percent(*values: float | None) -> str:
    return " | ".join("never" if value is None else f"{100 * value:.1f}" for value in values)


def markdown(document: dict[str, Any]) -> str:
    """The figures as tables."""
    keys = ("precision", "recall", "f1", "class_precision", "class_recall", "class_f1")
    lines = [
        "# Pseudo-labels by threshold rule",
        "",
        f"`{document['command']}`, {document['date']}, {document['machine']}. Percent at IoU 0.5; the last "
        "three are means over classes with objects. Boxes are fused by `expert`, calibrated on the "
        "labelled images; rules without labels are not shown them. Baseline: scores of at least 0.5, NMS.",
    ]
    for group, result in document["groups"].items():
        base = result["baseline"]
        lines += [
            "",
            f"## {group}: {', '.join(result['teachers'])}",
            "",
            f"{result['images']} images, {result['objects']} objects. One threshold for all classes, chosen "
            f"with hindsight, has F1 {100 * base['best_f1_of_one_threshold']:.1f} after NMS.",
        ]
        for number, run in result["labelled_images"].items():
            lines += [
                "",
                f"{number} labelled images ({run['labelled_objects']} objects). With one threshold: recall "
                f"{_percent(run['recall_at_precision_of_baseline'])} at the baseline's precision, precision "
                f"{_percent(run['precision_at_recall_of_baseline'])} at the baseline's recall, best F1 "
                f"{_percent(run['best_f1_of_one_threshold'])}.",
                "",
                "| rule | boxes | precision | recall | F1 | F1 - baseline (95 %) | baseline's recall at "
                "this precision | class precision | class recall | class F1 | ignored (right) | right, "
                "taken for background |",
                "|---|" + "---:|" * 11,
                f"| baseline | {base['boxes']} | {_percent(*(base[key] for key in keys[:3]))} | | | "
                f"{_percent(*(base[key] for key in keys[3:]))} | | |",
            ]
            for name, row in run["rules"].items():
                low, high = row["f1_minus_baseline_95"]
                lines.append(
                    f"| {name} | {row['boxes']} | {_percent(*(row[key] for key in keys[:3]))} | "
                    f"{100 * low:+.1f} to {100 * high:+.1f} | "
                    f"{_percent(row['baseline_recall_at_this_precision'])} | "
                    f"{_percent(*(row[key] for key in keys[3:]))} | "
                    f"{row['ignored']} ({row['right_among_ignored']}) | {row['right_below_both']} |"
                )
    lines += ["", *_per_class(document)]
    return "\n".join(lines) + "\n"


def _per_class(document: dict[str, Any]) -> list[str]:
    """Precision and recall of the baseline and of the best rule, class by class."""
    number = str(max(LABELLED_IMAGES))
    groups = document["groups"]
    head = " | ".join(f"{group}: NMS 0.5 | {BEST}" for group in groups)
    lines = [
        f"## Classes: precision / recall, {number} labelled images",
        "",
        f"| class | objects | {head} |",
        "|---|---:|" + "---|" * 2 * len(groups),
    ]
    names = next(iter(groups.values()))["classes"]
    for position, name in enumerate(names):
        cells, total = [], 0
        for result in groups.values():
            place = result["classes"].index(name)
            rule = result["labelled_images"][number]["rules"][BEST]
            for right, boxes, total in (result["baseline"]["per_class"][place], rule["per_class"][place]):
                precision = f"{100 * right / boxes:.0f}" if boxes else "-"
                cells.append(f"{precision} / {100 * right / total:.0f}" if total else "-")
        if total:
            lines.append(f"| {names[position]} | {total} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    default = Path(os.environ.get("DETCOMPOSE_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=default, help="folder with coco/ and teachers/")
    parser.add_argument("--home", type=Path, help="folder that keeps the detections; default: a fresh one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args()
    if not (chosen.data / "coco" / "unlabeled.json").is_file():
        sys.exit(f"no data at {chosen.data}; set DETCOMPOSE_DATA")
    from tasks.home import Home

    with tempfile.TemporaryDirectory() as folder:
        pool = Pool(Home(chosen.home or Path(folder)), chosen.data)
        groups = {group: measure_group(pool, names) for group, names in GROUPS.items()}
    document = {
        "command": "python -m benchmarks.pseudo_labels",
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "seed": 0,
        "groups": groups,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "pseudo_labels.json").write_text(json.dumps(document, indent=None) + "\n")
    text = markdown(document)
    (RESULTS / "pseudo_labels.md").write_text(text)
    print(json.dumps(document) if chosen.json else text)


if __name__ == "__main__":
    main()
