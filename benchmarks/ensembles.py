"""AP of ensembles of the real pretrained teachers on 155 COCO images, by fuser.

    python -m benchmarks.ensembles [--data DIR] [--home DIR] [--json]

``expert`` is calibrated on 100 images of ``coco/train.json``, never on the
measured ones; ``label_free`` is the same fuser, calibrated without any label from
a second look at the measured images. ``+looks``: the teachers also take the further looks that serve
them, as `ensemble` has them do, and so does ``best_teacher+looks``. Writes
``benchmarks/results/ensembles.json``. Four minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.teachers import TEACHERS, add_teacher
from tasks.evaluate import Dataset, load_dataset
from tasks.home import Home

if TYPE_CHECKING:
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

FUSERS = ("nms", "wbf", "expert", "expert+looks", "label_free", "label_free+looks")


def measure(
    home: Home, data: Path, names: Sequence[str], dataset: Dataset, fusers: Sequence[str] = FUSERS
) -> dict[str, float]:
    """AP of a group on a data set, by fuser, beside its best teacher's.

    Args:
        home: Where teachers and detections are kept.
        data: Folder of the data sets.
        names: The teachers, as in `benchmarks.teachers`.
        dataset: What is measured on; it is also the pool of what needs no label.
        fusers: Some of `FUSERS`.
    """
    from composition import label_space as spaces
    from composition.fusion import fuser
    from tasks import ensemble
    from tasks.image_index import POOL_SAMPLE

    labelled = load_dataset(data / "coco" / "train.json")
    members = [add_teacher(home, data, name) for name in names]
    space = spaces.build({teacher.name: teacher.manifest.vocabulary for teacher in members})
    figures = {}
    for name in fusers:
        method, _, looks = name.partition("+")
        looking = members
        if looks:
            tried = labelled if method == "expert" else dataset
            images = CALIBRATION_IMAGES if method == "expert" else POOL_SAMPLE
            looking = ensemble.with_looks(home.store, members, tried, images)
        if method == "expert":
            fusing = ensemble.calibrated_expert(home.store, looking, space, labelled, CALIBRATION_IMAGES)
        elif method == "label_free":
            fusing = ensemble.label_free_expert(home.store, looking, space, dataset, POOL_SAMPLE)
        else:
            fusing = fuser(method)
        result = ensemble.evaluate_ensemble(home.store, looking, space, dataset, fusing)
        figures[name] = result.ensemble.AP
        figures["best_teacher"] = max(metrics.AP or 0 for metrics in result.teachers.values())
        if looks:
            # each of them fused with nobody: on all classes, as the ensemble
            alone = [_alone(home, teacher, space, dataset) for teacher in looking]
            figures["best_teacher+looks"] = max(alone)
    return figures


def _alone(home: Home, teacher: Teacher, space: LabelSpace, dataset: Dataset) -> float:
    from composition import evaluation
    from tasks import ensemble
    from tasks.evaluate import shared_categories

    (found,) = ensemble.mapped_detections(home.store, [teacher], space, dataset)
    everything = shared_categories(dataset, space.classes)
    return evaluation.evaluate(found, dataset.coco, space.classes, restrict_to=everything).AP or 0.0


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    default = Path(os.environ.get("DETCOMPOSE_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=default, help="folder with coco/ and teachers/")
    parser.add_argument("--home", type=Path, help="keeps the detections; default: a temporary folder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args()
    if not (chosen.data / "coco" / "val.json").is_file():
        sys.exit(f"no data at {chosen.data}; set DETCOMPOSE_DATA")
    dataset = load_dataset(chosen.data / "coco" / "val.json")
    with tempfile.TemporaryDirectory() as folder:
        home = Home((chosen.home or Path(folder)).resolve())
        rows = [
            {"group": group, "teachers": names, **measure(home, chosen.data, names, dataset)}
            for group, names in GROUPS.items()
        ]
    document = {
        "command": "python -m benchmarks.ensembles",
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "calibration_images": CALIBRATION_IMAGES,
        "rows": rows,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    if chosen.json:
        print(json.dumps(document))
        return
    for row in rows:
        figures = "  ".join(f"{key} {value:.1f}" for key, value in row.items() if isinstance(value, float))
        print(f"{row['group']:6} {figures}")


if __name__ == "__main__":
    main()
