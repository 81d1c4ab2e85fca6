"""What an ensemble gains over its best teacher, by how much that hangs on chance.

    python -m benchmarks.shifted [--data DIR] [--home DIR] [--versions N] [--json]

The groups of `benchmarks.ensembles` on COCO's 155 images as they are, and on copies of them with
a few pixels of grey on each side: the same photographs and objects, placed otherwise. What
changes from copy to copy is chance; the mean over all of them says more than any one. The teachers
look once, and the fusers know nothing of it: ``expert`` is calibrated once, on 100 training images
as they are.

Writes ``benchmarks/results/shifted.json``. Ten minutes on 2 cores.
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
from PIL import Image, ImageOps

from benchmarks.ensembles import GROUPS, measure
from tasks.evaluate import Dataset, load_dataset
from tasks.home import Home

RESULTS = Path(__file__).parent / "results" / "shifted.json"
FUSERS = ("wbf", "expert", "label_free")
BORDER = 16
"""Most pixels of grey on a side."""
GREY = (114, 114, 114)


def shifted(data: Path, folder: Path, border: tuple[int, int, int, int]) -> Dataset:
    """A copy of COCO's images with a border.

    Args:
        data: Folder of the data sets.
        folder: Where the copy goes.
        border: Pixels on the left, top, right and bottom.
    """
    coco = json.loads((data / "coco" / "val.json").read_text())
    left, top, right, bottom = border
    (folder / "images").mkdir(parents=True)
    for image in coco["images"]:
        with Image.open(data / "coco" / "images" / image["file_name"]) as picture:
            wider = ImageOps.expand(picture.convert("RGB"), border, GREY)
        image["file_name"] = Path(image["file_name"]).with_suffix(".png").name
        wider.save(folder / "images" / image["file_name"], compress_level=1)
        image["width"] += left + right
        image["height"] += top + bottom
    for annotation in coco["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["bbox"] = [x + left, y + top, width, height]
        annotation.pop("segmentation", None)
    file = folder / "val.json"
    file.write_text(json.dumps(coco))
    return load_dataset(file)


def gains(versions: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean, deviation and range of what each fuser gains over the best teacher of a version."""
    found = {}
    for fuser in FUSERS:
        values = np.array([figures[fuser] - figures["best_teacher"] for figures in versions])
        found[fuser] = {
            "mean": float(values.mean()),
            "standard_error": float(values.std(ddof=1) / len(values) ** 0.5),
            "least": float(values.min()),
            "most": float(values.max()),
        }
    return found


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    default = Path(os.environ.get("DETCOMPOSE_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=default, help="folder with coco/ and teachers/")
    parser.add_argument("--home", type=Path, help="keeps the detections; default: a temporary folder")
    parser.add_argument("--versions", type=int, default=9, help="with the images as they are")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args()
    if not (chosen.data / "coco" / "val.json").is_file():
        sys.exit(f"no data at {chosen.data}; set DETCOMPOSE_DATA")
    borders = np.random.default_rng(0).integers(0, BORDER + 1, (chosen.versions - 1, 4)).tolist()
    with tempfile.TemporaryDirectory() as temporary:
        home = Home((chosen.home or Path(temporary)).resolve())
        datasets = [load_dataset(chosen.data / "coco" / "val.json")]
        datasets += [
            shifted(chosen.data, Path(temporary) / f"{number}", tuple(border))
            for number, border in enumerate(borders)
        ]
        rows: list[dict[str, Any]] = []
        for group, names in GROUPS.items():
            versions = [measure(home, chosen.data, names, dataset, FUSERS) for dataset in datasets]
            best = np.array([figures["best_teacher"] for figures in versions])
            rows.append(
                {
                    "group": group,
                    "best_teacher": {
                        "as_is": best[0],
                        "mean": best.mean(),
                        "deviation": best.std(ddof=1),
                    },
                    "gains": gains(versions),
                    "versions": versions,
                }
            )
            if not chosen.json:
                print(_line(rows[-1]), flush=True)
    document = {
        "command": "python -m benchmarks.shifted",
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "borders": [[0, 0, 0, 0], *borders],
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    if chosen.json:
        print(json.dumps(document))


def _line(row: dict[str, Any]) -> str:
    best = row["best_teacher"]
    won = "  ".join(
        f"{fuser} {one['mean']:+.2f} ± {one['standard_error']:.2f}" for fuser, one in row["gains"].items()
    )
    return f"{row['group']:6} best teacher {best['as_is']:.1f}, mean {best['mean']:.1f}  {won}"


if __name__ == "__main__":
    main()
