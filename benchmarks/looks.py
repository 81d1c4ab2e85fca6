"""What further looks are worth to single detectors, on images that they have not seen.

    python -m benchmarks.looks --home HOME [--data DIR] [--json]

The six pretrained teachers on COCO's val, and the teachers and supervised students that
`benchmarks.composition` has trained in HOME on val of their own data. AP on the classes that a
detector knows: once, also in the mirror, also enlarged, and with all looks, each where it was found to
serve without labels. Writes ``benchmarks/results/looks.json``. Five minutes on 2 cores.
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

RESULTS = Path(__file__).parent / "results" / "looks.json"


def measure(root: Path, data: Path) -> list[dict[str, Any]]:
    """AP by looks, of every detector that the home has."""
    from tasks import evaluate, teachers
    from tasks.ensemble import with_looks
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
            looking = with_looks(home.store, [teacher], dataset, images)[0]
            ways = {
                "once": teacher,
                "mirror": replace(looking, zoom=None),
                "zoom": replace(looking, mirrored=()),
                "all": looking,
            }
            rows.append(
                {"dataset": case.name, "detector": name}
                | {way: evaluate.evaluate_detector(home.store, one, dataset).AP for way, one in ways.items()}
                | {"mirrored_classes": len(looking.mirrored), "classes": len(teacher.manifest.vocabulary)}
                | {"zoom_taken": looking.zoom}
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
        "command": "python -m benchmarks.looks --home HOME",
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "rows": measure(chosen.home, chosen.data.resolve()),
    }
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    if chosen.json:
        print(json.dumps(document))
        return
    for row in document["rows"]:
        gains = "  ".join(f"{way} {row[way] - row['once']:+.1f}" for way in ("mirror", "zoom", "all"))
        print(f"{row['dataset']:6} {row['detector']:22} {row['once']:5.1f}  {gains}  {row['zoom_taken']}")


if __name__ == "__main__":
    main()
