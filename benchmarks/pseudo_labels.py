"""Precision and recall of pseudo-labels on COCO images, by threshold rule, against fixed 0.5 and NMS.

    python -m benchmarks.pseudo_labels [--data DIR] [--home DIR] [--json]

100, 50 or 25 images of ``coco/train.json`` calibrate the ``expert`` fuser and
teach the rules that want labels. The teachers label ``coco/unlabeled.json``; the
321 images that are never among the labelled ones are measured against
``coco/train.json``. The COCO teachers were trained on these images, so the 155
of ``coco/val.json``, which they have not seen, are labelled and measured, too,
with the 100 labelled images of the other file. With 0 labelled images the fuser is
calibrated by a second look at the pool itself, and no label is used but to measure.
The teachers take the further looks that ``compose`` has them take; the baseline is what they
say in one look with a score of at least 0.5, suppressed across teachers (`Nms`).

Writes ``benchmarks/results/pseudo_labels.json`` and ``.md``. Fifteen minutes for
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

from benchmarks.pools import Pool, fuse, labels_on, on
from benchmarks.teachers import TEACHERS, add_teacher
from benchmarks.verdicts import Verdicts, f1_interval, figures
from composition import detections as table
from composition import label_space as spaces
from composition.filtering import DROP, ExpectedCount, ExpectedF, FBeta, Fixed, Labelled, Mixture, Rule, kinds
from composition.filtering.labels import SHARE_EXPONENT
from composition.fusion import Nms
from composition.pseudo_labels import IGNORE, POSITIVE

RESULTS = Path(__file__).parent / "results"
LABELLED_IMAGES = (100, 50, 25)
YOLOX, NANODET, FASTEST, _, VOC, _ = TEACHERS
GROUPS = {"pair": (YOLOX, VOC), "three": (YOLOX, NANODET, FASTEST), "six": tuple(TEACHERS)}
BEST = "expected_f"
TITLES = {"seen": "`coco/unlabeled.json`", "unseen": "`coco/val.json`, not seen by any teacher"}
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
    "expected_f, no labels, chances": (ExpectedF(exponent=SHARE_EXPONENT) | LAST, False),
    "expected_count, no labels, chances": (ExpectedCount(exponent=SHARE_EXPONENT) | LAST, False),
    "mixture, no labels, chances": (Mixture(exponent=SHARE_EXPONENT) | LAST, False),
}


def measure(labelled_pool: Pool, pool: Pool, names: Sequence[str], numbers: Sequence[int]) -> dict[str, Any]:
    """Every rule for one group of teachers.

    Args:
        labelled_pool: Where the labelled images come from.
        pool: What is labelled and measured, without any of the labelled images.
        names: The teachers.
        numbers: How many labelled images.
    """
    from tasks.ensemble import calibrated_expert

    once = [add_teacher(pool.home, pool.data, name) for name in names]
    members = pool.looking(once)
    space = spaces.build({member.name: member.manifest.vocabulary for member in members})
    coverage, classes = spaces.coverage(space), len(space.classes)
    shards, known_shards = pool.shards(members, space), labelled_pool.shards(members, space)
    truth, _ = pool.truth(space)
    known_truth, covered = labelled_pool.truth(space)
    few = labelled_pool.chosen(max(LABELLED_IMAGES))
    known_ids = labelled_pool.image_ids()
    rest = [np.setdiff1d(part, few) for part in pool.image_ids()]
    images = np.sort(np.concatenate(rest))
    measured = labels_on(images, truth)

    first = pool.shards(once, space)
    raw = [on(images, table.concatenate(shard[t] for shard in first)) for t in range(len(members))]
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
    for number in (0, *numbers):
        labelled = None
        if number:
            expert = calibrated_expert(pool.home.store, members, space, labelled_pool.dataset, number)
            chosen = labelled_pool.chosen(number)
            few_ids = [np.intersect1d(part, chosen) for part in known_ids]
            seen, _ = fuse(expert, known_shards, few_ids, coverage)
            labelled = Labelled(seen.detections, labels_on(chosen, known_truth), covered)
        else:
            expert = pool.label_free(members, space)
        fused, statistics = fuse(expert, shards, rest, coverage)
        verdicts = Verdicts.of(fused.detections, measured)
        rows = {}
        for name, (rule, shown) in RULES.items():
            if shown and not labelled:
                continue
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
            "labelled_objects": int((~labelled.truth.crowd).sum()) if labelled else 0,
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
    lines = [
        "# Pseudo-labels by threshold rule",
        "",
        f"`{document['command']}`, {document['date']}, {document['machine']}. Percent at IoU 0.5; the three "
        "`class` columns are means over classes with objects. Boxes are fused by `expert`, calibrated on the "
        "labelled images, with 0 of them on a second look at the pool; rules with `no labels` are not shown "
        "them, with `chances` they take a score for the chance that `SHARE_EXPONENT` makes of it. Teachers "
        "take further looks. Baseline: one look, scores of at least 0.5, NMS. The interval is that of F1 "
        "minus the baseline's, by resampling images.",
    ]
    for pool, groups in document["pools"].items():
        lines += ["", f"## {TITLES[pool]}"]
        for group, result in groups.items():
            lines += ["", f"### {group}: {', '.join(result['teachers'])}", "", *_group(result)]
    return "\n".join([*lines, "", *_per_class(document["pools"]["seen"])]) + "\n"


def _group(result: dict[str, Any]) -> list[str]:
    keys = ("precision", "recall", "f1")
    means = tuple(f"class_{key}" for key in keys)
    base = result["baseline"]
    lines = [
        f"{result['images']} images, {result['objects']} objects. One threshold for all classes, chosen with "
        f"hindsight: F1 {_percent(base['best_f1_of_one_threshold'])} after NMS.",
    ]
    for number, run in result["labelled_images"].items():
        lines += [
            "",
            f"{number} labelled images ({run['labelled_objects']} objects). With one threshold: recall "
            f"{_percent(run['recall_at_precision_of_baseline'])} at the baseline's precision, precision "
            f"{_percent(run['precision_at_recall_of_baseline'])} at the baseline's recall, best F1 "
            f"{_percent(run['best_f1_of_one_threshold'])}.",
            "",
            "| rule | boxes | precision | recall | F1 | interval | baseline's recall at this precision "
            "| class precision | class recall | class F1 | ignored (right) | right, taken for background |",
            "|---|" + "---:|" * 11,
            f"| baseline | {base['boxes']} | {_percent(*(base[key] for key in keys))} | | | "
            f"{_percent(*(base[key] for key in means))} | | |",
        ]
        for name, row in run["rules"].items():
            low, high = row["f1_minus_baseline_95"]
            lines.append(
                f"| {name} | {row['boxes']} | {_percent(*(row[key] for key in keys))} | "
                f"{100 * low:+.1f} to {100 * high:+.1f} | "
                f"{_percent(row['baseline_recall_at_this_precision'])} | "
                f"{_percent(*(row[key] for key in means))} | "
                f"{row['ignored']} ({row['right_among_ignored']}) | {row['right_below_both']} |"
            )
    return lines


def _per_class(groups: dict[str, Any]) -> list[str]:
    """Precision and recall of the baseline and of the best rule, class by class."""
    number = str(max(LABELLED_IMAGES))
    head = " | ".join(f"{group}: baseline | {BEST}" for group in groups)
    lines = [
        f"## Classes: precision / recall on `coco/unlabeled.json`, {number} labelled images",
        "",
        f"| class | objects | {head} |",
        "|---|---:|" + "---|" * 2 * len(groups),
    ]
    for name in next(iter(groups.values()))["classes"]:
        cells, total = [], 0
        for result in groups.values():
            place = result["classes"].index(name)
            rule = result["labelled_images"][number]["rules"][BEST]
            for right, boxes, total in (result["baseline"]["per_class"][place], rule["per_class"][place]):
                precision = f"{100 * right / boxes:.0f}" if boxes else "-"
                cells.append(f"{precision} / {100 * right / total:.0f}" if total else "-")
        if total:
            lines.append(f"| {name} | {total} | {' | '.join(cells)} |")
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
        home = Home(chosen.home or Path(folder))
        pool = Pool(home, chosen.data, "unlabeled.json", "train.json")
        unseen = Pool(home, chosen.data, "val.json", "val.json")
        pools = {
            "seen": {group: measure(pool, pool, names, LABELLED_IMAGES) for group, names in GROUPS.items()},
            "unseen": {
                group: measure(pool, unseen, names, LABELLED_IMAGES[:1]) for group, names in GROUPS.items()
            },
        }
    document = {
        "command": "python -m benchmarks.pseudo_labels",
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "seed": 0,
        "pools": pools,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "pseudo_labels.json").write_text(json.dumps(document, indent=None) + "\n")
    text = markdown(document)
    (RESULTS / "pseudo_labels.md").write_text(text)
    print(json.dumps(document) if chosen.json else text)


if __name__ == "__main__":
    main()
