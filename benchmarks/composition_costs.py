"""What the student of `benchmarks.composition` costs beside all its teachers run together.

    python -m benchmarks.composition_costs --home HOME [--data DIR] [--dataset coco ...] [--json]

Milliseconds an image, decoding left out, for the row ``ours`` of seed 0: the student as it is
trained (torch), the same exported to ONNX, its teachers one after the other, and these when they
also look in the mirror, as ``compose`` has them do. To be run on an idle machine.
Writes ``benchmarks/results/composition_costs.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
from pathlib import Path
from typing import Any

from benchmarks.composition import Experiment, load_results
from benchmarks.composition_rows import CASES

RESULTS = Path(__file__).parent / "results" / "composition_costs.json"


def measure(experiment: Experiment, bundle: str) -> dict[str, Any]:
    """Costs of a student and its teachers; times are medians, batch of one and of eight."""
    from composition import label_space as spaces
    from composition.fusion import Expert
    from model_zoo.exporting import export_onnx
    from model_zoo.importing import import_teacher
    from tasks import teachers
    from tasks.benchmark_speed import ENSEMBLE, measure_costs
    from tasks.ensemble import with_looks
    from tasks.image_index import POOL_SAMPLE

    home, case, dataset = experiment.home, experiment.case, experiment.dataset
    student = teachers.find(home, str(home.root / bundle))
    exported = experiment.work / "student-onnx"
    if not exported.exists():
        file = experiment.work / "student.onnx"
        export_onnx(student.folder, file)
        import_teacher(file, classes=None, name="student-onnx", destination=exported)
    found = teachers.find_all(home, case.teachers)
    space = spaces.build({one.name: one.manifest.vocabulary for one in found}, case.classes)
    both = with_looks(home.store, found, dataset, POOL_SAMPLE, "auto")
    light = teachers.find(home, str(exported))
    once = measure_costs(home.store, dataset, found, [student, light], space, Expert())
    twice = measure_costs(home.store, dataset, both, [], space, Expert())
    costs = {
        "student": once[student.name],
        "student_onnx": once[light.name],
        "teachers": once[ENSEMBLE],
        "teachers_and_mirror": twice[ENSEMBLE],
    }
    times = {
        name: {"batch_1": round(cost.single.median, 1), "batch_8": round(cost.batched.median, 1)}
        for name, cost in costs.items()
    }
    faster = {
        batch: round(times["teachers"][batch] / times["student_onnx"][batch], 1)
        for batch in ("batch_1", "batch_8")
    }
    return {
        "dataset": case.name,
        "milliseconds": times,
        "times_faster": faster,
        "machine": once[light.name].machine,
    }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    default = Path(os.environ.get("DETCOMPOSE_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--home", type=Path, required=True, help="of benchmarks.composition")
    parser.add_argument("--dataset", nargs="+", choices=sorted(CASES), default=sorted(CASES))
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args()
    from tasks.home import Home

    home = Home(chosen.home.resolve())
    bundles = {
        one["dataset"]: one["bundle"] for one in load_results() if (one["row"], one["seed"]) == ("ours", 0)
    }
    document: dict[str, Any] = {
        "command": "python -m benchmarks.composition_costs --home HOME",
        "date": datetime.date.today().isoformat(),
        "load": round(os.getloadavg()[0], 1),
        "rows": [
            measure(Experiment(home, chosen.data.resolve(), CASES[name]), bundles[name])
            for name in chosen.dataset
            if name in bundles
        ],
    }
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    for row in [document] if chosen.json else document["rows"]:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
