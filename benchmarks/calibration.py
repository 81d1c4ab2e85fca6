"""Calibration errors of the real pretrained teachers before and after calibration on 100 labelled images.

    python -m benchmarks.calibration [--data DIR] [--json]

Calibrated on 100 images of ``coco/train.json``; measured on its other images
(which the COCO teachers saw in training, like the 100) and on ``coco/val.json``
(which they did not). The boxes measured are those with a raw score of at least
0.05, the same ones before and after. Writes ``benchmarks/results/calibration.json``,
``.md`` and ``.png``. Three minutes on 2 cores.
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

import numpy as np
from numpy.typing import NDArray

from benchmarks.teachers import TEACHERS, add_teacher
from composition import label_space as spaces
from composition.aliases import shared_classes
from composition.calibration_error import CalibrationErrors, Reliability, both_matches, calibration_errors
from composition.detections import Detections
from composition.fusion.expert import Expert
from composition.label_space import LabelSpace
from composition.matching import Objects, objects

RESULTS = Path(__file__).parent / "results"
CALIBRATION_IMAGES = 100
FLOOR = 0.05
RESAMPLES = 300
MEASURES = {"D-ECE": "dece", "LaECE": "laece", "quality_error": "quality_error"}


def measure(data: Path, home_folder: Path | None = None) -> list[dict[str, Any]]:
    """Every teacher on both sets of images, before and after."""
    from tasks import ensemble, evaluate
    from tasks.home import Home

    labelled = evaluate.load_dataset(data / "coco" / "train.json")
    few = {image["id"] for image in evaluate.few_images(labelled, CALIBRATION_IMAGES).coco["images"]}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        home = Home(home_folder or Path(folder))
        members = [add_teacher(home, data, name) for name in TEACHERS]
        space = spaces.build({teacher.name: teacher.manifest.vocabulary for teacher in members})
        expert = ensemble.calibrated_expert(home.store, members, space, labelled, CALIBRATION_IMAGES)
        for name, skipped in {"train": few, "val": set()}.items():
            dataset = evaluate.load_dataset(data / "coco" / f"{name}.json")
            kept = sorted({image["id"] for image in dataset.coco["images"]} - skipped)
            truth = _labels(dataset.coco, space, kept)
            tables = ensemble.mapped_detections(home.store, members, space, dataset)
            title = f"{len(kept)} images of coco/{name}.json"
            rows += [
                {"images": title, **row}
                for row in _measure_all([teacher.name for teacher in members], tables, expert, truth, kept)
            ]
    return rows


def _labels(coco: Any, space: LabelSpace, images: list[int]) -> Objects:
    names = [category["name"] for category in coco["categories"]]
    shared = shared_classes(space.classes, names)
    categories = {coco["categories"][index]["id"]: class_id for class_id, index in shared.items()}
    chosen = set(images)
    annotations = [row for row in coco["annotations"] if row["image_id"] in chosen]
    return objects({**coco, "annotations": annotations}, categories)


def _measure_all(
    names: list[str], tables: list[Detections], expert: Expert, truth: Objects, images: list[int]
) -> list[dict[str, Any]]:
    assert expert.expertise is not None
    rows = []
    for name, table, worth in zip(names, tables, expert.expertise, strict=True):
        found = table[np.isin(table.image_id, images) & (table.score >= np.float32(FLOOR))]
        rows.append(
            {"teacher": name, **_before_and_after(found, worth.calibrated(found.score), truth, images)}
        )
    return rows


def _before_and_after(
    found: Detections, calibrated: NDArray[np.float64], truth: Objects, images: list[int]
) -> dict[str, Any]:
    matches = both_matches(found, truth)
    before = calibration_errors(found, truth, matches=matches)
    after = calibration_errors(found, truth, calibrated, matches=matches)
    place = np.searchsorted(images, found.image_id)
    generator = np.random.default_rng(1)
    drawn: dict[str, list[float]] = {title: [] for title in MEASURES}
    for _ in range(RESAMPLES):
        weight = np.bincount(generator.integers(0, len(images), len(images)), minlength=len(images))[place]
        pair = [
            calibration_errors(found, truth, score, matches=matches, weight=weight.astype(np.float64))
            for score in (None, calibrated)
        ]
        for title, field in MEASURES.items():
            drawn[title].append(_percent(pair[1], field) - _percent(pair[0], field))
    result: dict[str, Any] = {"boxes": before.boxes, "classes": before.classes}
    for title, field in MEASURES.items():
        low, high = np.quantile(drawn[title], [0.025, 0.975]).tolist()
        result[title] = {
            "before": round(_percent(before, field), 2),
            "after": round(_percent(after, field), 2),
            "change_95": [round(low, 2), round(high, 2)],
        }
    result["curves"] = {
        when: {key: errors.to_dict()[key] for key in ("precision_curve", "quality_curve")}
        for when, errors in {"before": before, "after": after}.items()
    }
    return result


def _percent(errors: CalibrationErrors, field: str) -> float:
    return 100 * float(getattr(errors, field))


def markdown(document: dict[str, Any]) -> str:
    """The results as a page."""
    lines = [
        "# Calibration errors before and after calibration",
        "",
        f"`{document['command']}`, {document['date']}, {document['machine']}. In percent, smaller is better. "
        f"Calibrated on {CALIBRATION_IMAGES} labelled images (`tasks.ensemble.calibrated_expert`, isotonic "
        "per teacher), measured on others. In brackets: 95 % bootstrap interval of the change over images "
        f"({RESAMPLES} resamples). Formulas and sources: `composition/calibration_error.py`.",
        "",
        "The calibrated score means the expected share of the ten COCO IoU thresholds at which a box is "
        "right: of the three targets, that of the quality error. D-ECE asks for the precision at IoU 0.5, "
        "which is higher by nature, and LaECE for precision times IoU, class by class, although one curve "
        "serves all classes of a teacher.",
        "",
        "![reliability curves](calibration.png)",
        "",
    ]
    for images in dict.fromkeys(row["images"] for row in document["rows"]):
        lines += [
            f"## On {images}",
            "",
            "| teacher | boxes | quality error | D-ECE | LaECE |",
            "|---|---:|---|---|---|",
        ]
        for row in document["rows"]:
            if row["images"] == images:
                cells = [_cell(row[title]) for title in ("quality_error", "D-ECE", "LaECE")]
                lines.append(f"| {row['teacher']} | {row['boxes']:,} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def picture(document: dict[str, Any]) -> bytes:
    """Reliability curves on the images that no teacher has seen."""
    from tasks.diagnostics_figures import reliability, to_png

    rows = [row for row in document["rows"] if "val.json" in row["images"]]
    curves = {
        row["teacher"]: {when: _curve(row["curves"][when]["quality_curve"]) for when in ("before", "after")}
        for row in rows
    }
    data = to_png(reliability, curves, "share of IoU thresholds")
    assert data is not None
    return data


def _curve(values: dict[str, list[float]]) -> Reliability:
    count, score, target = (np.array(values[key]) for key in ("count", "score", "target"))
    return Reliability(count, count * score, count * target)


def _cell(values: dict[str, Any]) -> str:
    low, high = values["change_95"]
    return f"{values['before']:.1f} → {values['after']:.1f} ({low:+.1f} to {high:+.1f})"


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    default = Path(os.environ.get("DETCOMPOSE_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=default, help="folder with coco/ and teachers/")
    parser.add_argument("--home", type=Path, help="keep detections in this folder; default: a temporary one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args()
    if not (chosen.data / "coco" / "val.json").is_file():
        sys.exit(f"no data at {chosen.data}; set DETCOMPOSE_DATA")
    document = {
        "command": "python -m benchmarks.calibration",
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "calibration_images": CALIBRATION_IMAGES,
        "score_floor": FLOOR,
        "rows": measure(chosen.data, chosen.home),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "calibration.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "calibration.md").write_text(markdown(document))
    (RESULTS / "calibration.png").write_bytes(picture(document))
    print(json.dumps(document) if chosen.json else markdown(document))


if __name__ == "__main__":
    main()
