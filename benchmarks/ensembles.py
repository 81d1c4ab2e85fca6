"""AP of ensembles of the real pretrained teachers on 155 COCO images, by fuser.

    python -m benchmarks.ensembles [--data DIR] [--json]

``expert`` is calibrated on 100 images of ``coco/train.json``, never on the
measured ones; ``label_free`` is the same fuser, calibrated without any label from
a second look at the measured images. Writes ``benchmarks/results/ensembles.json``. Two minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.teachers import TEACHERS, add_teacher

RESULTS = Path(__file__).parent / "results" / "ensembles.json"
CALIBRATION_IMAGES = 100
YOLOX, NANODET, FASTEST, FASTESTDET, VOC, NANO_VOC = TEACHERS
GROUPS = {
    "three": (YOLOX, NANODET, FASTEST),
    "six": tuple(TEACHERS),
    "pair": (YOLOX, VOC),
    "two": (NANODET, FASTEST),
    "weak": (YOLOX, FASTESTDET, NANO_VOC),
}


def measure(data: Path) -> list[dict[str, Any]]:
    """Every group with every fuser, beside the best of its teachers."""
    from composition import label_space as spaces
    from composition.fusion import fuser
    from tasks import ensemble, evaluate
    from tasks.calibrate import POOL_SAMPLE
    from tasks.home import Home

    dataset = evaluate.load_dataset(data / "coco" / "val.json")
    labelled = evaluate.load_dataset(data / "coco" / "train.json")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        for group, names in GROUPS.items():
            members = [add_teacher(home, data, name) for name in names]
            space = spaces.build({teacher.name: teacher.manifest.vocabulary for teacher in members})
            expert = ensemble.calibrated_expert(home.store, members, space, labelled, CALIBRATION_IMAGES)
            row: dict[str, Any] = {"group": group, "teachers": list(names)}
            label_free = ensemble.label_free_expert(home.store, members, space, dataset, POOL_SAMPLE)
            fusers = {"nms": fuser("nms"), "wbf": fuser("wbf"), "expert": expert, "label_free": label_free}
            for name, fusing in fusers.items():
                result = ensemble.evaluate_ensemble(home.store, members, space, dataset, fusing)
                row[name] = result.ensemble.AP
                row["best_teacher"] = max(metrics.AP or 0 for metrics in result.teachers.values())
            rows.append(row)
    return rows


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    default = Path(os.environ.get("DETCOMPOSE_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=default, help="folder with coco/ and teachers/")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args()
    if not (chosen.data / "coco" / "val.json").is_file():
        sys.exit(f"no data at {chosen.data}; set DETCOMPOSE_DATA")
    document = {
        "command": "python -m benchmarks.ensembles",
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "calibration_images": CALIBRATION_IMAGES,
        "rows": measure(chosen.data),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    if chosen.json:
        print(json.dumps(document))
        return
    for row in document["rows"]:
        figures = "  ".join(
            f"{key} {row[key]:.1f}" for key in ("best_teacher", "nms", "wbf", "expert", "label_free")
        )
        print(f"{row['group']:6} {figures}")


if __name__ == "__main__":
    main()
