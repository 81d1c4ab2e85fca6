"""AP of ensembles of the real pretrained teachers on 155 COCO images, by fuser.

    python -m benchmarks.ensembles [--data DIR] [--json]

``expert`` is calibrated on 100 images of ``coco/train.json``, never on the
measured ones; ``label_free`` is the same fuser, calibrated without any label from
a second look at the measured images. ``_mirror``: they also look in the mirror. Writes
``benchmarks/results/ensembles.json``. Two minutes on 2 cores.
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
from composition.fusion import Fuser
from composition.label_space import LabelSpace
from tasks.teachers import Teacher

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
    from tasks.home import Home
    from tasks.image_index import POOL_SAMPLE

    dataset = evaluate.load_dataset(data / "coco" / "val.json")
    labelled = evaluate.load_dataset(data / "coco" / "train.json")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        for group, names in GROUPS.items():
            members = [add_teacher(home, data, name) for name in names]
            space = spaces.build({teacher.name: teacher.manifest.vocabulary for teacher in members})
            row: dict[str, Any] = {"group": group, "teachers": list(names)}

            def expert(looking: list[Teacher], space: LabelSpace = space) -> Fuser:
                return ensemble.calibrated_expert(home.store, looking, space, labelled, CALIBRATION_IMAGES)

            def label_free(looking: list[Teacher], space: LabelSpace = space) -> Fuser:
                return ensemble.label_free_expert(home.store, looking, space, dataset, POOL_SAMPLE)

            tried = ensemble.with_mirrors(home.store, members, labelled, CALIBRATION_IMAGES)
            free = ensemble.with_mirrors(home.store, members, dataset, POOL_SAMPLE)
            fusers = {
                "nms": (members, fuser("nms")),
                "wbf": (members, fuser("wbf")),
                "expert": (members, expert(members)),
                "expert_mirror": (tried, expert(tried)),
                "label_free": (members, label_free(members)),
                "label_free_mirror": (free, label_free(free)),
            }
            for name, (looking, fusing) in fusers.items():
                result = ensemble.evaluate_ensemble(home.store, looking, space, dataset, fusing)
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
        figures = "  ".join(f"{key} {value:.1f}" for key, value in row.items() if isinstance(value, float))
        print(f"{row['group']:6} {figures}")


if __name__ == "__main__":
    main()
