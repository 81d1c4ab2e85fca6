"""What each ingredient of calibrated expert fusion is worth: AP with one of them removed in turn.

    python -m benchmarks.ablation [--data DIR] [--home DIR] [--only SET ...] [--json]

Three kinds of photographs: COCO with the pretrained teachers (groups ``three``,
``six`` and ``pair`` of `benchmarks.ensembles`), blood cells and playing cards with
small teachers of our own, in whose vocabularies some classes are missing. Those are
taken from ``--home`` (default: the home of detcompose), where these commands put
them, each in minutes; the COCO teachers and all detections are kept there, too::

    detcompose train --name bccd-rbc-wbc --images DATA/bccd/train.json --classes RBC,WBC --part 1/2 \
        --architecture yolox_nano --image-size 320 --epochs 30
    detcompose train --name bccd-wbc-platelets --images DATA/bccd/train.json --classes WBC,Platelets \
        --part 2/2 --architecture rtmdet_pico --image-size 320 --epochs 30
    detcompose train --name cards-low --images DATA/cards/train.json --classes nine,ten,jack,queen \
        --part 1/2 --architecture yolox_nano --image-size 320 --epochs 30
    detcompose train --name cards-high --images DATA/cards/train.json --classes jack,queen,king,ace \
        --part 2/2 --architecture rtmdet_pico --image-size 320 --epochs 30

A data set whose teachers are missing is skipped, with a line that says so.
With labels, calibration is on 100 images of ``train.json``; each of our own teachers
was trained on one half of that file, so it has seen about half of the 100. Without
labels, it is on the measured images. What is measured is ``val.json`` always.
Writes ``benchmarks/results/ablation.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from benchmarks.ensembles import GROUPS
from benchmarks.teachers import add_teacher
from composition import calibration, evaluation
from composition import label_space as spaces
from composition.aliases import shared_classes
from composition.detections import Detections
from composition.fusion import Fuser, fuser
from composition.fusion.expert import Expert, Expertise
from composition.label_free import calibrate_label_free
from composition.matching import Objects, objects

RESULTS = Path(__file__).parent / "results"
CALIBRATION_IMAGES = 100
FEWER_IMAGES = 50
OWN = {
    "bccd": ("bccd-rbc-wbc", "bccd-wbc-platelets"),
    "cards": ("cards-low", "cards-high"),
}
COCO_GROUPS = ("three", "six", "pair")
WITH_LABELS = {
    "expert": "calibrated on labels, whole",
    "raw_scores": "raw scores for calibrated ones, the rest learned anew",
    "plain_mean": "trust 0 and sharpness 1 for learned box weights, the rest learned anew",
    "best_box": "the best member's box for a mean of boxes (sharpness 30, trust 0)",
    "no_silence": "silence says nothing, the rest learned anew",
    "best_score": "the best member's calibrated score for the weighted sum",
    "all_see_all": "everyone counts as seeing every class, the rest learned anew",
    "fewer_images": f"whole, calibrated on {FEWER_IMAGES} of the images",
}
WITHOUT_LABELS = {
    "label_free": "calibrated without labels, whole",
    "free_no_second_look": "raw scores, trust 0, all teachers equally strong (g = 1)",
    "free_raw_scores": "raw scores; trust and strengths from the second look",
    "free_cube_root": "m(s) for m(s)³",
    "free_equal_strength": "all teachers equally strong (g = 1)",
    "free_no_trust": "trust 0",
    "free_no_silence": "silence says nothing",
    "free_best_score": "the best member's calibrated score for the weighted sum",
    "free_all_see_all": "everyone counts as seeing every class",
}
PEERS = {"wbf": "stock weighted boxes fusion", "nms": "NMS over all boxes"}
# at any sharpness above some 20 the mean of a cluster is its best member
BEST_ONLY = 30.0


@dataclass(frozen=True)
class Case:
    """A group of teachers with what it is calibrated and measured on.

    Attributes:
        labelled: Their detections on the labelled images, one table per teacher; no classes without labels.
        truth: The labels of these images.
        first: Their detections on the measured images.
        second: The same on the second look.
        coverage: (C, T) bool.
    """

    labelled: list[Detections]
    truth: Objects
    first: list[Detections]
    second: list[Detections]
    coverage: NDArray[np.bool_]


def with_labels(case: Case) -> dict[str, Fuser]:
    """The calibrated fuser, and one for every ingredient removed."""

    def fitted(coverage: NDArray[np.bool_] = case.coverage) -> Expert:
        return calibration.calibrate(case.labelled, coverage, case.truth)

    whole = fitted()
    teachers = len(case.first)
    # what comes later is learned on top of what comes before, so the steps are removed inside `calibrate`
    with patch.object(calibration, "calibrate_curve", lambda *_: Expertise()):
        raw = fitted()
    with patch.object(calibration, "fit_box_weights", lambda *_: (np.zeros(teachers), 1.0)):
        plain = fitted()
    with patch.object(calibration, "fit_box_weights", lambda *_: (np.zeros(teachers), BEST_ONLY)):
        best_box = fitted()
    # where nobody can see a class nobody is silent: learned without, then put back
    silent = replace(fitted(np.zeros_like(case.coverage)), coverage=whole.coverage)
    return {
        "expert": whole,
        "raw_scores": raw,
        "plain_mean": plain,
        "best_box": best_box,
        "no_silence": silent,
        "best_score": _best_score(whole),
        "all_see_all": fitted(np.ones_like(case.coverage)),
    }


def _calibrated_on(case: Case, images: NDArray[np.int64]) -> Expert:
    truth, kept = case.truth, np.isin(case.truth.image_id, images)
    return calibration.calibrate(
        [part[np.isin(part.image_id, images)] for part in case.labelled],
        case.coverage,
        Objects(truth.image_id[kept], truth.class_id[kept], truth.boxes[kept], truth.crowd[kept]),
    )


def without_labels(case: Case) -> dict[str, Fuser]:
    """The same for the fuser calibrated without labels."""
    whole = calibrate_label_free(case.first, case.second, case.coverage)
    raw = {"scores": (0.0, 1.0), "quality": (0.0, 1.0)}
    # what `composition.label_free` gives to the strongest
    strong = {"agreement": 0.28, "presence": 0.7, "silence": -1.2}
    return {
        "label_free": whole,
        "free_no_second_look": _each(whole, lambda _: {**raw, **strong, "trust": 0.0}),
        "free_raw_scores": _each(whole, lambda _: raw),
        "free_cube_root": _each(whole, lambda one: {"quality": tuple(q ** (1 / 3) for q in one.quality)}),
        "free_equal_strength": _each(whole, lambda _: strong),
        "free_no_trust": _each(whole, lambda _: {"trust": 0.0}),
        "free_no_silence": _each(whole, lambda _: {"silence": 0.0}),
        "free_best_score": _best_score(whole),
        "free_all_see_all": replace(
            calibrate_label_free(case.first, case.second, np.ones_like(case.coverage)), coverage=None
        ),
    }


def _each(whole: Expert, change: Callable[[Expertise], dict[str, Any]]) -> Expert:
    assert whole.expertise is not None
    return replace(whole, expertise=tuple(replace(one, **change(one)) for one in whole.expertise))


def _best_score(whole: Expert) -> Expert:
    alone = _each(whole, lambda _: {"agreement": 0.0, "presence": 0.0, "silence": 0.0})
    return replace(alone, best=1.0, bias=0.0)


def measure_group(home: Any, members: Sequence[Any], folder: Path) -> dict[str, Any]:
    """AP in percent of every variant for one group of teachers.

    Args:
        home: Keeps the detections.
        members: The teachers.
        folder: Has ``train.json`` and ``val.json``.
    """
    from tasks import ensemble, evaluate

    space = spaces.build({teacher.name: teacher.manifest.vocabulary for teacher in members})
    dataset = evaluate.load_dataset(folder / "val.json")
    few = evaluate.few_images(evaluate.load_dataset(folder / "train.json"), CALIBRATION_IMAGES)
    shared = shared_classes(space.classes, [category["name"] for category in few.coco["categories"]])
    labelled = ensemble.mapped_detections(home.store, members, space, few)
    case = Case(
        [part[np.isin(part.class_id, list(shared))] for part in labelled],
        objects(few.coco, {few.coco["categories"][index]["id"]: c for c, index in shared.items()}),
        ensemble.mapped_detections(home.store, members, space, dataset),
        ensemble.mapped_detections(home.store, members, space, dataset, "second"),
        spaces.coverage(space),
    )
    categories = evaluate.shared_categories(dataset, space.classes)

    def measured(found: Detections) -> Any:
        return evaluation.evaluate(found, dataset.coco, space.classes, restrict_to=categories)

    alone = [measured(part) for part in case.first]
    fewer = evaluate.few_images(few, FEWER_IMAGES).coco["images"]
    fusers = {
        "wbf": fuser("wbf"),
        "nms": fuser("nms"),
        **with_labels(case),
        "fewer_images": _calibrated_on(case, np.array([image["id"] for image in fewer])),
        **without_labels(case),
    }
    by_class = [
        max(values)
        for name in alone[0].per_class
        if (values := [ap for one in alone if (ap := one.per_class[name].AP) is not None])
    ]
    return {
        "teachers": [teacher.name for teacher in members],
        "best_teacher": max(one.AP or 0.0 for one in alone),
        "best_per_class": float(np.mean(by_class)),
        **{name: measured(fusing.fuse(case.first).detections).AP for name, fusing in fusers.items()},
    }


def measure(data: Path, folder: Path, only: Sequence[str], skipped: list[str]) -> Iterator[dict[str, Any]]:
    """Every group whose teachers are there; what is skipped, and why, is added to ``skipped``."""
    from tasks import teachers
    from tasks.home import Home

    home = Home(folder)
    for name, members in OWN.items():
        missing = [one for one in members if one not in teachers.names(home)]
        if name not in only:
            skipped.append(f"{name}: not asked for")
        elif missing:
            skipped.append(f"{name}: there is no teacher {', '.join(missing)} in the home")
        else:
            found = [teachers.find(home, one) for one in members]
            yield {"data": name, "group": name, **measure_group(home, found, data / name)}
    if "coco" not in only:
        skipped.append("coco: not asked for")
        return
    for group in COCO_GROUPS:
        found = [add_teacher(home, data, one) for one in GROUPS[group]]
        yield {"data": "coco", "group": group, **measure_group(home, found, data / "coco")}


def markdown(document: dict[str, Any]) -> str:
    """The table of the results: AP of the whole, and what removing each part changes."""
    rows = document["rows"]
    head = "| | " + " | ".join(
        row["group"] if row["data"] != "coco" else f"coco {row['group']}" for row in rows
    )
    lines = [
        "# What each part of calibrated expert fusion is worth",
        "",
        f"`{document['command']}`, {document['date']}, {document['machine']}. AP on `val.json`, in points;",
        "below a whole fuser (bold), the change when one part of it is removed. To calibrate on: "
        f"{document['calibration_images']}",
        "labelled images of `train.json`; without labels, the measured images. Each of our own teachers was",
        "trained on one half of `train.json`, so it has seen about half of the images to calibrate on.",
        "AP compares scores within a class only: what shifts a whole class, such as the silence of one that",
        "is blind to it, shows in thresholds, not here.",
        "",
        head + " | mean |",
        "|---" * (len(rows) + 2) + "|",
    ]

    def line(text: str, values: list[float], sign: str) -> str:
        return (
            f"| {text} | "
            + " | ".join(f"{value:{sign}.2f}" for value in [*values, float(np.mean(values))])
            + " |"
        )

    lines.append(line("best single teacher", [row["best_teacher"] for row in rows], ""))
    lines.append(
        line("of every class its best teacher (needs labels)", [row["best_per_class"] for row in rows], "")
    )
    lines += [line(text, [row[name] for row in rows], "") for name, text in PEERS.items()]
    for variants in (WITH_LABELS, WITHOUT_LABELS):
        whole = next(iter(variants))
        for name, text in variants.items():
            values = [row[name] - (0 if name == whole else row[whole]) for row in rows]
            lines.append(line(f"**{text}**" if name == whole else text, values, "" if name == whole else "+"))
    lines += [f"\nSkipped: {text}." for text in document["skipped"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures, prints and writes."""
    from tasks.home import Home

    parser = argparse.ArgumentParser(description=main.__doc__)
    default = Path(os.environ.get("DETCOMPOSE_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=default, help="folder with coco/, bccd/ and cards/")
    parser.add_argument(
        "--home", type=Path, default=Home.default().root, help="home that has our own teachers"
    )
    every = [*OWN, "coco"]
    parser.add_argument("--only", nargs="+", choices=every, default=every, help="data sets to measure")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args()
    if not (chosen.data / "coco" / "val.json").is_file():
        sys.exit(f"no data at {chosen.data}; set DETCOMPOSE_DATA")
    start = time.perf_counter()
    document: dict[str, Any] = {
        "command": f"python -m benchmarks.ablation --only {' '.join(chosen.only)}",
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "calibration_images": CALIBRATION_IMAGES,
        "variants": {**PEERS, **WITH_LABELS, **WITHOUT_LABELS},
        "rows": [],
        "skipped": [],
    }
    RESULTS.mkdir(exist_ok=True)
    # written after every group: a run that is cut short leaves what it has measured
    for row in measure(chosen.data, chosen.home, chosen.only, document["skipped"]):
        document["rows"].append(row)
        document["seconds"] = round(time.perf_counter() - start)
        (RESULTS / "ablation.json").write_text(json.dumps(document, indent=2) + "\n")
        (RESULTS / "ablation.md").write_text(markdown(document))
        print(f"{row['data']} {row['group']} measured", file=sys.stderr, flush=True)
    print(json.dumps(document) if chosen.json else markdown(document))


if __name__ == "__main__":
    main()
