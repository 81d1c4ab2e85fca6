"""Detectors that effdet and torchvision have trained: their own figures beside ours.

    python -m benchmarks.trained_elsewhere --home HOME [--data DIR] [--json]

The data are photographs of blood cells. What is in HOME already is not trained again. Each detector is
measured by its library, and after ``detcompose teacher add`` by ``detcompose teacher evaluate``, on the same
images. Writes ``benchmarks/results/trained_elsewhere.json``. Five minutes of one core, most of it training.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import json
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "trained_elsewhere.json"
COMMAND = Path(sys.executable).with_name("detcompose")
EPOCHS = {"effdet": 2, "torchvision": 6}
SEED = 0
FLOOR, MOST = 0.01, 100
"""Lowest score, and boxes of an image, of `tasks.evaluate`; torchvision's SSDlite has 0.001 and 300."""


def train(library: str, data: Path, home: Path) -> None:
    """Trains one detector with its library alone, and notes for how long."""
    _module(library).train(data, home, epochs=EPOCHS[library], seed=SEED)
    _notes(library, home).write_text(json.dumps({"epochs": EPOCHS[library]}) + "\n")


def measure(library: str, data: Path, home: Path) -> dict[str, Any]:
    """The library's figures of its detector, and ours."""
    module, name = _module(library), f"{library}-bccd"
    found = module.detect(data, home)
    labels = data / "val.json"
    added = ("teacher", "add", home / module.FILE, "--classes", labels, "--name", name, *module.OPTIONS)
    _detcompose(home, *added)
    outcome = json.loads(_detcompose(home, "teacher", "evaluate", name, "--images", labels, "--json"))
    checks = json.loads(_detcompose(home, "teacher", "check", name, "--images", data / "images", "--json"))
    return {
        "library": f"{library} {version(library)}",
        "architecture": module.ARCHITECTURE,
        **json.loads(_notes(library, home).read_text()),
        "own": average_precision(data, found),
        "own_cut": average_precision(data, cut(found)),
        "ours": {key: outcome[key] for key in ("AP", "AP50")},
        "promises_kept": sum(not check["problem"] for check in checks["checks"]),
        "promises": len(checks["checks"]),
    }


def cut(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of every image the `MOST` best detections from `FLOOR` on."""
    kept: list[dict[str, Any]] = []
    number = Counter[int]()
    for row in sorted(found, key=lambda row: -row["score"]):
        number[row["image_id"]] += 1
        if row["score"] >= FLOOR and number[row["image_id"]] <= MOST:
            kept.append(row)
    return kept


def average_precision(data: Path, found: Sequence[dict[str, Any]]) -> dict[str, float]:
    """AP and AP50 on ``val.json`` in percent, by pycocotools alone.

    Args:
        data: Folder with ``val.json``.
        found: Detections in COCO's form.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(data / "val.json"))
        run = COCOeval(truth, truth.loadRes(list(found)), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return {"AP": 100 * float(run.stats[0]), "AP50": 100 * float(run.stats[1])}


def _module(library: str) -> Any:
    from benchmarks import trained_with_effdet, trained_with_torchvision

    return {"effdet": trained_with_effdet, "torchvision": trained_with_torchvision}[library]


def _notes(library: str, home: Path) -> Path:
    return (home / _module(library).FILE).with_name("training.json")


def _detcompose(home: Path, *arguments: str | Path) -> str:
    environment = {**os.environ, "DETCOMPOSE_HOME": str(home / "detcompose")}
    done = subprocess.run(
        [COMMAND, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def main() -> None:
    """Trains what is missing, measures, prints and writes."""
    import torch

    parser = argparse.ArgumentParser(description=main.__doc__)
    default = Path(os.environ.get("DETCOMPOSE_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=default, help="folder with bccd/")
    parser.add_argument("--home", type=Path, required=True, help="keeps weights and teachers")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    data, home = chosen.data.resolve() / "bccd", chosen.home.resolve()
    for library in EPOCHS:
        if not _notes(library, home).is_file():
            train(library, data, home)
    document = {
        "command": "python -m benchmarks.trained_elsewhere --home HOME",
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "seed": SEED,
        "rows": [measure(library, data, home) for library in EPOCHS],
    }
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    if chosen.json:
        print(json.dumps(document))
        return
    for row in document["rows"]:
        own, ours = row["own"], row["ours"]
        print(
            f"{row['architecture']:30} {row['library']}: AP {own['AP']:.2f}, AP50 {own['AP50']:.2f}; "
            f"here: {ours['AP']:.2f}, {ours['AP50']:.2f}"
        )


if __name__ == "__main__":
    main()
