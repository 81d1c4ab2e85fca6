"""The experiment: is a student that saw no label as good as one that saw them all?

    python -m benchmarks.composition [--data DIR] [--home DIR] [--dataset bccd ...] [--row ours ...]
                                     [--seed 0 ...] [--minutes M] [--summary] [--json]

Goes through the rows of `benchmarks.composition_rows` for every data set and seed, each by the
commands of detcompose (``train``, ``compose``, ``finetune``), and measures the detector on
``val.json``, which no row learns from. Rows that are in the results file are not run again; a
row that was killed goes on from its last checkpoint. ``--minutes`` starts no row after so long.

Writes ``benchmarks/results/composition.json``: a list of ``{"dataset", "row", "seed", "mAP",
"AP50", "per_class", "seconds", "command", ...}``, percent; and with ``--summary``
``composition.md`` and ``composition.png``, with the differences between the rows. Students and
detections stay in ``--home``, which the summary needs.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fcntl
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask

from benchmarks.composition_rows import CASES, COMPOSED, PRETRAINED, SEEDS, Case, options, recipe, stretched
from benchmarks.teachers import add_teacher

RESULTS = Path(__file__).parent / "results" / "composition.json"
COMMAND = Path(sys.executable).with_name("detcompose")
SAME_OBJECT = 0.5
"""From this IoU on, a pseudo-label means the labelled object."""
MACHINE = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


class Experiment:
    """One data set in one home folder.

    Args:
        home: Where teachers, students and detections are kept.
        data: Folder of the data sets.
        case: What is done.
    """

    def __init__(self, home: Any, data: Path, case: Case) -> None:
        from tasks.evaluate import load_dataset

        self.home, self.data, self.case = home, data, case
        self.labels = data / case.name / "train.json"
        self.dataset = load_dataset(data / case.name / "val.json")
        self.work = home.root / "composition" / case.name
        self.work.mkdir(parents=True, exist_ok=True)

    def prepare(self, row: str) -> None:
        """Adds the pretrained teachers and trains the others, where a row needs them."""
        for name, folder in PRETRAINED.items():
            if not (self.home.teachers / name).exists():
                add_teacher(self.home, self.data, folder, name)
        if row.startswith("supervised"):
            return
        for own in self.case.own:
            if not (self.home.teachers / own.name).exists():
                classes = ("--classes", ",".join(own.classes), "--part", own.part)
                images = self._images(self.labels)
                self._detcompose("train", "--name", own.name, *images, *classes, *own.options)

    def run(self, row: str, seed: int) -> Path | None:
        """Trains the detector of a row; returns its bundle, or None for the row ``teacher``."""
        if row == "teacher":
            return None
        if row in COMPOSED:
            return Path(self.compose(row, seed)["bundle"])
        if row == "oracle_classes":
            return self.train(row, seed, self.with_true_classes(seed), self.case.student)
        if row == "supervised":
            return self.train(row, seed, self.labels, self.case.student)
        if row == "supervised_long":
            twice = {**self.case.student, "epochs": 2 * self.case.student["epochs"]}
            return self.train(row, seed, self.labels, twice)
        if row == "finetune_half":
            return self.finetune(row, seed, self.few_labels(10, seed)[0], self.classes[::2])
        kind, _, percent = row.rpartition("_")
        few, count = self.few_labels(int(percent), seed)
        if kind == "finetune":
            return self.finetune(row, seed, few, self.classes)
        total = len(json.loads(self.labels.read_text())["images"])
        student = stretched(self.case.student, count, total)
        if kind == "supervised":  # from scratch, as the paper compares
            student = {**student, "warm_start": "none"}
        return self.train(row, seed, few, student)

    def compose(self, row: str, seed: int) -> dict[str, Any]:
        """The record of a student by ``detcompose compose``."""
        file = self.work / f"{row}-{seed}.yaml"
        file.write_text(json.dumps(recipe(self.case, row, seed, self.data)))  # JSON is YAML
        record: dict[str, Any] = json.loads(self._detcompose("compose", str(file), "--json"))
        return record

    def with_true_classes(self, seed: int) -> Path:
        """The pseudo-labels of the row ``ours``, each with the class of the labelled box that it lies on.

        What is left of the distance to ``supervised`` when its student is trained comes from boxes that
        are missing, false or elsewhere.
        """
        labels = json.loads(Path(self.compose("ours", seed)["labels"]).read_text())
        truth = json.loads(self.labels.read_text())
        names = {category["name"]: category["id"] for category in labels["categories"]}
        classes = {category["id"]: names[category["name"]] for category in truth["categories"]}
        images = {image["id"]: image["file_name"] for image in truth["images"]}
        true: dict[str, list[dict[str, Any]]] = {}
        for row in truth["annotations"]:
            true.setdefault(images[row["image_id"]], []).append(row)
        files = {image["id"]: image["file_name"] for image in labels["images"]}
        for row in labels["annotations"]:
            found = true.get(files[row["image_id"]], [])
            ious = mask.iou([row["bbox"]], [one["bbox"] for one in found], [0] * len(found))
            if found and ious.max() >= SAME_OBJECT:
                row["category_id"] = classes[found[int(ious.argmax())]["category_id"]]
        file = self.work / f"true-classes-{seed}.json"
        file.write_text(json.dumps(labels))
        return file

    def train(self, row: str, seed: int, labels: Path, student: Mapping[str, Any]) -> Path:
        """A student by ``detcompose train``."""
        name = f"{self.case.name}-{row}-{seed}".replace("_", "-")
        classes = ("--classes", ",".join(self.classes))
        chosen = ("--seed", str(seed), *classes, *options(student), "--json")
        return Path(
            json.loads(self._detcompose("train", "--name", name, *self._images(labels), *chosen))["bundle"]
        )

    def finetune(self, row: str, seed: int, labels: Path, classes: Sequence[str]) -> Path:
        """The student of the row ``ours`` by ``detcompose finetune``: labels complete for some classes."""
        composed = recipe(self.case, "ours", seed, self.data)["name"]
        self.compose("ours", seed)
        name = f"{self.case.name}-{row}-{seed}".replace("_", "-")
        root = ("--root", str(self.data / self.case.name / "images"))
        chosen = ("--classes", ",".join(classes), "--seed", str(seed), "--json")
        done = self._detcompose("finetune", composed, "--labels", str(labels), *root, "--name", name, *chosen)
        return Path(json.loads(done)["bundle"])

    def few_labels(self, percent: int, seed: int) -> tuple[Path, int]:
        """A file with so many of the labelled images; a larger choice of a seed holds its smaller ones."""
        coco = json.loads(self.labels.read_text())
        order = np.random.default_rng(seed).permutation(len(coco["images"]))
        count = max(1, round(len(order) * percent / 100))
        images = [coco["images"][i] for i in sorted(order[:count].tolist())]
        kept = {image["id"] for image in images}
        rows = [row for row in coco["annotations"] if row["image_id"] in kept]
        file = self.work / f"labels-{percent}-{seed}.json"
        file.write_text(json.dumps({**coco, "images": images, "annotations": rows}))
        return file, count

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the student."""
        from tasks.annotations import category_names

        return self.case.classes or category_names(self.dataset)

    def outcome(self, bundle: Path | None) -> Any:
        """`tasks.comparison.Outcome` of a detector on all categories; None: of the best teacher."""
        from tasks import evaluate, teachers
        from tasks.comparison import examine

        index = evaluate.index_dataset(self.home.store, self.dataset)
        categories = evaluate.shared_categories(self.dataset, self.classes)
        outcomes = []
        for name in [str(bundle)] if bundle else self.case.teachers:
            detector = teachers.find(self.home, name)
            found = evaluate.run_on_dataset(self.home.store, detector, self.dataset, index)
            outcomes.append(examine(found, self.dataset.coco, detector.manifest.vocabulary, categories))
        return max(outcomes, key=lambda one: one.measured.metrics.AP)

    def _images(self, labels: Path) -> list[str]:
        return ["--images", str(labels), "--root", str(self.data / self.case.name / "images")]

    def _detcompose(self, *arguments: str) -> str:
        environment = {**os.environ, "DETCOMPOSE_HOME": str(self.home.root)}
        done = subprocess.run(
            [COMMAND, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout


def load_results() -> list[dict[str, Any]]:
    """The rows that have been run."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else []


def _key(entry: Mapping[str, Any]) -> tuple[str, str, int]:
    return entry["dataset"], entry["row"], entry["seed"]


def measure(experiment: Experiment, row: str, seed: int) -> dict[str, Any]:
    """Runs and measures one row, and writes it down."""
    from tasks.store import write_atomic

    case = experiment.case
    start = time.monotonic()
    bundle = experiment.run(row, seed)
    seconds = time.monotonic() - start
    metrics = experiment.outcome(bundle).measured.metrics
    entry = {
        "dataset": case.name,
        "row": row,
        "seed": seed,
        "mAP": metrics.AP,
        "AP50": metrics.AP50,
        "per_class": {name: one.AP for name, one in metrics.per_class.items()},
        "seconds": round(seconds),
        "command": f"python -m benchmarks.composition --dataset {case.name} --row {row} --seed {seed}",
        "date": datetime.date.today().isoformat(),
        "machine": MACHINE,
        "bundle": bundle and str(bundle.relative_to(experiment.home.root)),
    }
    with _alone(RESULTS.parent):
        others = [one for one in load_results() if _key(one) != _key(entry)]
        ordered = sorted([*others, entry], key=lambda one: (one["dataset"], one["seed"], one["row"]))
        write_atomic(RESULTS, (json.dumps(ordered, indent=1) + "\n").encode())
    return entry


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps other processes of this benchmark out: data sets may run side by side."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def planned(chosen: argparse.Namespace) -> list[tuple[str, str, int]]:
    """Data set, row and seed of what is to be run, the most telling first, the data sets in turn."""
    done = {_key(entry) for entry in load_results()}
    turns = zip_longest(*([(name, *step) for step in CASES[name].plan()] for name in chosen.dataset))
    return [
        step
        for turn in turns
        for step in turn
        if step and step not in done
        if (not chosen.row or step[1] in chosen.row) and step[2] in chosen.seed
    ]


def main() -> None:
    """Runs what is missing, prints every row."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("DETCOMPOSE_DATA", "../shared/data"))
    )
    parser.add_argument("--home", type=Path, help="default: the home of detcompose")
    parser.add_argument("--dataset", nargs="+", choices=sorted(CASES), default=sorted(CASES))
    parser.add_argument("--row", nargs="+", help="default: all of the data set")
    parser.add_argument("--seed", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no row after so long")
    parser.add_argument("--summary", action="store_true", help="run nothing; table, differences and plot")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args()
    if not (chosen.data / "bccd" / "val.json").is_file():
        sys.exit(f"no data at {chosen.data}; set DETCOMPOSE_DATA")
    from tasks.home import Home

    home = Home(chosen.home.resolve()) if chosen.home else Home.default()
    experiments = {name: Experiment(home, chosen.data.resolve(), CASES[name]) for name in chosen.dataset}
    if chosen.summary:
        from benchmarks.composition_summary import write_summary

        write_summary(load_results(), experiments)
        return
    begun = time.monotonic()
    for name, row, seed in planned(chosen):
        if time.monotonic() - begun > chosen.minutes * 60:
            break
        experiments[name].prepare(row)
        entry = measure(experiments[name], row, seed)
        print(json.dumps(entry) if chosen.json else _line(entry), flush=True)


def _line(entry: Mapping[str, Any]) -> str:
    return (
        f"{entry['dataset']:6} {entry['row']:22} seed {entry['seed']}  mAP {entry['mAP']:5.1f}  "
        f"AP50 {entry['AP50']:5.1f}  {entry['seconds']:5d} s"
    )


if __name__ == "__main__":
    main()
