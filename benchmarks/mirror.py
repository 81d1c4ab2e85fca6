"""What looking in the mirror, too, is worth to single detectors, on images that they have not seen.

    python -m benchmarks.mirror --home HOME [--data DIR] [--json]

The six pretrained teachers on COCO's val, and the teachers and supervised students that
`benchmarks.composition` has trained in HOME on val of their own data. AP on the classes that a
detector knows, alone and as the mean of both looks. Writes ``benchmarks/results/mirror.json``. Two minutes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.composition_rows import CASES, PRETRAINED, SEEDS

RESULTS = Path(__file__).parent / "results" / "mirror.json"


def measure(root: Path, data: Path) -> list[dict[str, Any]]:
    """AP with one look and with two, of every detector that the home has."""
    from tasks import evaluate, teachers
    from tasks.ensemble import with_mirrors
    from tasks.home import Home

    home = Home(root.resolve())
    rows = []
    for case in CASES.values():
        dataset = evaluate.load_dataset(data / case.name / "val.json")
        own = [teacher.name for teacher in case.own] or list(PRETRAINED)
        supervised = [f"{case.name}-supervised-{seed}" for seed in SEEDS if case.own]
        for name in [*own, *supervised]:
            if not (home.teachers / name).exists():
                continue
            teacher = teachers.find(home, name)
            images = len(dataset.coco["images"])
            looking = with_mirrors(home.store, [teacher], dataset, images)[0]
            aps = [
                evaluate.evaluate_detector(home.store, one, dataset).AP
                for one in (replace(teacher, mirrored=()), looking)
            ]
            rows.append(
                {"dataset": case.name, "detector": name, "one_look": aps[0], "two_looks": aps[1]}
                | {"mirrored_classes": len(looking.mirrored), "classes": len(teacher.manifest.vocabulary)}
            )
    return rows


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    default = Path(os.environ.get("DETCOMPOSE_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--home", type=Path, required=True, help="of benchmarks.composition")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args()
    document = {
        "command": "python -m benchmarks.mirror --home HOME",
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "rows": measure(chosen.home, chosen.data.resolve()),
    }
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    if chosen.json:
        print(json.dumps(document))
        return
    for row in document["rows"]:
        print(f"{row['dataset']:6} {row['detector']:22} {row['one_look']:5.1f}  {row['two_looks']:5.1f}")


if __name__ == "__main__":
    main()
