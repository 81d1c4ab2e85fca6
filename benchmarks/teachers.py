"""AP of the real pretrained teachers on 155 COCO images, beside the independently measured reference.

    python -m benchmarks.teachers [--data DIR] [--json]

Writes ``benchmarks/results/teachers.json``. About two minutes on 2 cores.
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

RESULTS = Path(__file__).parent / "results" / "teachers.json"
# file, class list, AP measured independently (pycocotools, maxDets 100, all categories of the teacher)
TEACHERS = {
    "yolox_nano_coco": ("yolox_nano.onnx", "coco.names", 33.1),
    "nanodet_m_320_coco": ("nanodet_m_320.onnx", "coco.names", 25.3),
    "yolo_fastest_1.1_xl_coco": ("yolo-fastest-1.1-xl.cfg", "coco.names", 21.2),
    "fastestdet_coco": ("FastestDet.onnx", "coco.names", 16.5),
    "yolo_fastest_xl_voc": ("yolo-fastest-xl.cfg", "voc.names", 19.9),
    "mobilenetv2_yolov3_nano_voc": ("MobileNetV2-YOLOv3-Nano-voc.cfg", "voc.names", 18.1),
}


def add_teacher(home: Any, data: Path, name: str, called: str | None = None) -> Any:
    """Adds one of `TEACHERS` to a home folder, under its own name or another."""
    from tasks import teachers

    file, classes, _ = TEACHERS[name]
    folder = data / "teachers"
    return teachers.add(home, folder / name / file, called or name, classes=folder / classes)


def measure(data: Path) -> list[dict[str, Any]]:
    """Adds every teacher to a fresh home and evaluates it."""
    from tasks import evaluate
    from tasks.home import Home

    dataset = evaluate.load_dataset(data / "coco" / "val.json")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        for name, (_, _, reference) in TEACHERS.items():
            teacher = add_teacher(home, data, name)
            metrics = evaluate.evaluate_detector(home.store, teacher, dataset)
            rows.append({"teacher": name, "AP": metrics.AP, "AP50": metrics.AP50, "reference_AP": reference})
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
        "command": "python -m benchmarks.teachers",
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "rows": measure(chosen.data),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    if chosen.json:
        print(json.dumps(document))
        return
    for row in document["rows"]:
        print(
            f"{row['teacher']:30} AP {row['AP']:.2f} (reference {row['reference_AP']}) AP50 {row['AP50']:.2f}"
        )


if __name__ == "__main__":
    main()
