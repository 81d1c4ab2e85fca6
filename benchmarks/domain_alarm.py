"""How often the domain alarm rings: on images of the teacher's own kind, and on others, by size of the pool.

    python -m benchmarks.domain_alarm [--data DIR] [--home DIR] [--json]

Every COCO and VOC teacher is profiled on ``coco/val.json`` (155 images) and held
against pools drawn from COCO training images and from cards, blood cells and
fruits; and, as the harder question, against pools of COCO images that all show,
or all lack, a person. Writes ``benchmarks/results/domain_alarm.json`` and ``.md``.
About half an hour on 2 busy cores.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.teachers import TEACHERS, add_teacher
from composition.detections import Detections
from composition.domain_alarm import AlarmSettings, check_domain, profile

RESULTS = Path(__file__).parent / "results"
POOLS = {"COCO": "coco", "cards": "cards", "blood cells": "bccd", "fruits": "fruits"}
SIZES = (25, 50, 100, 290)
DRAWS = 40


def measure(data: Path, home_folder: Path | None = None) -> list[dict[str, Any]]:
    """Share of random pools that alarm, by teacher, kind and size."""
    from tasks import evaluate
    from tasks.home import Home

    datasets = {title: evaluate.load_dataset(data / name / "train.json") for title, name in POOLS.items()}
    own = evaluate.load_dataset(data / "coco" / "val.json")
    coco = datasets["COCO"].coco
    person = next(category["id"] for category in coco["categories"] if category["name"] == "person")
    peopled = {row["image_id"] for row in coco["annotations"] if row["category_id"] == person}
    images = {title: [image["id"] for image in part.coco["images"]] for title, part in datasets.items()}
    kinds: dict[str, tuple[str, list[int]]] = {title: (title, ids) for title, ids in images.items()}
    kinds["COCO with people"] = ("COCO", [i for i in images["COCO"] if i in peopled])
    kinds["COCO without people"] = ("COCO", [i for i in images["COCO"] if i not in peopled])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        home = Home(home_folder or Path(folder))
        for name in TEACHERS:
            teacher = add_teacher(home, data, name)
            found = {
                title: evaluate.run_on_dataset(
                    home.store, teacher, part, evaluate.index_dataset(home.store, part)
                )
                for title, part in {**datasets, "own": own}.items()
            }
            reference = profile(found["own"], len(own.coco["images"]))
            for title, (source, ids) in kinds.items():
                for size in (size for size in SIZES if size <= len(ids)):
                    checks = [
                        check_domain(reference, profile(_of(found[source], chosen), size))
                        for chosen in _draws(ids, size)
                    ]
                    distances = [max(s.distance for s in check.features.values()) for check in checks]
                    rows.append(
                        {
                            "teacher": name,
                            "pool": title,
                            "images": size,
                            "draws": len(checks),
                            "alarms": sum(check.verdict == "alarm" for check in checks),
                            "distance": [round(float(np.quantile(distances, q)), 3) for q in (0.0, 0.5, 1.0)],
                        }
                    )
    return rows


def _draws(ids: list[int], size: int) -> Iterable[list[int]]:
    generator = np.random.default_rng(size)
    for _ in range(DRAWS if size < len(ids) else 1):
        yield generator.choice(ids, size, replace=False).tolist()


def _of(found: Detections, images: list[int]) -> Detections:
    return found[np.isin(found.image_id, images)]


def markdown(document: dict[str, Any]) -> str:
    """The results as a page."""
    rows = document["rows"]
    sizes = list(dict.fromkeys(row["images"] for row in rows))
    limits = AlarmSettings()
    lines = [
        "# How often the domain alarm rings",
        "",
        f"`{document['command']}`, {document['date']}, {document['machine']}. Six teachers, profiled on the "
        f"155 images of coco/val.json; {DRAWS} random pools of each kind and size. An alarm needs "
        f"p < {limits.p_value} and a Kolmogorov-Smirnov distance of at least {limits.distance}.",
        "",
        "Share of pools that alarm, in percent, over all teachers (lowest teacher to highest):",
        "",
        "| pool | " + " | ".join(f"{size} images" for size in sizes) + " |",
        "|---|" + "---:|" * len(sizes),
    ]
    for title in dict.fromkeys(row["pool"] for row in rows):
        cells = []
        for size in sizes:
            part = [row for row in rows if (row["pool"], row["images"]) == (title, size)]
            shares = [100 * row["alarms"] / row["draws"] for row in part]
            cells.append(f"{np.mean(shares):.0f} ({min(shares):.0f} to {max(shares):.0f})" if part else "")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    largest = [row for row in rows if row["images"] == sizes[-1]]
    lines += [
        "",
        f"Median distance at {sizes[-1]} images:",
        "",
        "| teacher | " + " | ".join(dict.fromkeys(row["pool"] for row in largest)) + " |",
        "|---|" + "---:|" * len({row["pool"] for row in largest}),
    ]
    for name in dict.fromkeys(row["teacher"] for row in largest):
        cells = [f"{row['distance'][1]:.2f}" for row in largest if row["teacher"] == name]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    default = Path(os.environ.get("DETCOMPOSE_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=default, help="folder with the image sets and teachers/")
    parser.add_argument("--home", type=Path, help="keep detections in this folder; default: a temporary one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args()
    if not (chosen.data / "coco" / "val.json").is_file():
        sys.exit(f"no data at {chosen.data}; set DETCOMPOSE_DATA")
    document = {
        "command": "python -m benchmarks.domain_alarm",
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "rows": measure(chosen.data, chosen.home),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "domain_alarm.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "domain_alarm.md").write_text(markdown(document))
    print(json.dumps(document) if chosen.json else markdown(document))


if __name__ == "__main__":
    main()
