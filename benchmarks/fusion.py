"""Our fusers beside ensemble-boxes, mmdet and supervision, in one process on the same detections.

    python -m benchmarks.fusion [--images N] [--repeats N] [--seed N] [--json]

Writes ``benchmarks/results/fusion.json`` and ``fusion.md``. On all 5,000 images
about four minutes on 2 cores, nearly all of it the peers.

Ours is given the tables of all images at once, as the pipeline has them; the
peers, which fuse one image a call, get lists prepared beforehand. Ours is the
quickest of several runs spread between those of the peers; ensemble-boxes' WBF
runs once over all images, the other peers over the first `PEER_IMAGES`, and
their time is scaled up.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.fusion_scene import SCALE, per_image, repeat, scene
from benchmarks.wbf_margin import ENOUGH, margin
from composition.errors import UserError
from composition.fusion import Fused, Fuser, fuser
from composition.fusion.expert import Expertise

RESULTS = Path(__file__).parent / "results"
IOU = 0.55
OURS = ("wbf", "expert", "nms", "soft_nms")  # the order of the table
PEER_IMAGES = 500
SHARD_IMAGES = 500
SHARDS = (1, 4, 16)
TURNS = 5  # ensemble-boxes runs in so many parts, with ours in between

CALIBRATED: dict[str, Any] = {
    # a curve of twenty steps and every weight of the fused score, for each of the scene's teachers
    "expertise": (
        Expertise(
            scores=tuple(np.linspace(0, 1, 21).tolist()),
            quality=tuple((np.linspace(0, 1, 21) ** 3).tolist()),
            trust=-0.3,
            agreement=0.1,
            presence=0.3,
            silence=-0.8,
        ),
    )
    * 3,
    "bias": -0.7,
    "best": 0.6,
}
"""Settings of ``expert`` as calibration leaves them: without them it would do less."""

Peer = Callable[[Any], Any]


def our_fusers() -> dict[str, Fuser]:
    """Every fuser of ours that exists, with the settings compared here."""
    made = {}
    for name in OURS:
        try:
            made[name] = fuser(name, CALIBRATED if name == "expert" else {"iou": IOU})
        except UserError:  # no such fuser in this version
            continue
    return made


def peers() -> dict[str, Peer]:
    """Name to a function of one image as `per_image` gives it."""
    import ensemble_boxes
    import supervision

    from model_zoo.mmdet_runtime import import_mmdet

    import_mmdet()
    from mmdet.models.utils import weighted_boxes_fusion as mmdet_wbf

    def merge(image: Any) -> Any:
        boxes, scores, labels = (np.concatenate(part) for part in image)
        table = supervision.Detections(xyxy=boxes, confidence=scores, class_id=labels)
        return table.with_nmm(threshold=IOU)

    return {
        "ensemble-boxes WBF": lambda image: ensemble_boxes.weighted_boxes_fusion(*image, iou_thr=IOU),
        "mmdet WBF": lambda image: mmdet_wbf(*image, iou_thr=IOU),
        "supervision with_nmm": merge,
        "ensemble-boxes NMS": lambda image: ensemble_boxes.nms(*image, iou_thr=IOU),
        "ensemble-boxes soft-NMS": lambda image: ensemble_boxes.soft_nms(*image, sigma=0.5, thresh=0.001),
    }


def seconds(action: Callable[[], Any]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure_speed(
    tables: Sequence[Any], images: list[Any], repeats: int
) -> tuple[dict[str, float], list[Any]]:
    """Seconds for all images by fuser, ours and theirs; and what ensemble-boxes' WBF returned."""
    fusers, others = our_fusers(), peers()
    took: dict[str, float] = {}

    def ours() -> None:
        for name, fuser_ in fusers.items():
            for _ in range(repeats):
                took[name] = min(took.get(name, np.inf), seconds(lambda: fuser_.fuse(tables)))  # noqa: B023

    ours()
    expected: list[Any] = []
    stock = others.pop("ensemble-boxes WBF")
    took["ensemble-boxes WBF"] = 0.0
    for part in np.array_split(np.arange(len(images)), TURNS):
        took["ensemble-boxes WBF"] += seconds(lambda: expected.extend(stock(images[i]) for i in part))  # noqa: B023
        ours()
    few = images[:PEER_IMAGES]
    for name, peer in others.items():
        peer(few[0])  # what it compiles or imports is not counted
        took[name] = seconds(lambda: [peer(image) for image in few]) * len(images) / len(few)  # noqa: B023
        ours()
    return took, expected


def measure_difference(fused: Fused, images: list[Any], expected: list[Any]) -> dict[str, Any]:
    """The largest difference of a score or a side, as a fraction, over the images that are well defined."""
    found = fused.detections
    edges = np.searchsorted(found.image_id, np.arange(len(images) + 1))
    largest, undefined = 0.0, 0
    for number, (image, theirs) in enumerate(zip(images, expected, strict=True)):
        rows = found[edges[number] : edges[number + 1]]
        difference = _difference(
            np.column_stack([rows.class_id, rows.score, rows.boxes / SCALE]),
            np.column_stack([theirs[2], theirs[1], theirs[0]]),
        )
        if difference > 1e-6:
            boxes, scores, labels = (np.concatenate(part) for part in image)
            if margin(boxes, scores, labels, IOU) <= ENOUGH:
                undefined += 1
                continue
        largest = max(largest, difference)
    return {"wbf_max_difference": largest, "wbf_ill_defined_images": undefined}


def _difference(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    first, second = (rows[np.lexsort((*np.round(rows, 4)[:, 2:].T, rows[:, 0]))] for rows in (ours, theirs))
    return float(np.abs(first - second).max(initial=0))


def measure_scaling(images: int, seed: int, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds at 1, 4 and 16 times a quarter of the images, by fuser."""
    small = scene(max(1, images // 4), seed=seed)
    took: dict[str, dict[str, float]] = {name: {} for name in our_fusers()}
    for times in SHARDS:
        tables = repeat(small, times)
        for name, fuser_ in our_fusers().items():
            took[name][str(times)] = min(
                seconds(lambda: fuser_.fuse(tables))  # noqa: B023
                for _ in range(repeats)
            )
    return took


MEMORY = """
import sys
from benchmarks.fusion import IOU, SHARD_IMAGES
from benchmarks.fusion_scene import scene
from composition.fusion import fuser
total = 0
for shard in range(int(sys.argv[1])):
    total += len(fuser("wbf", {"iou": IOU}).fuse(scene(SHARD_IMAGES, seed=shard)))
status = open("/proc/self/status").read()
print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
"""
IMPORT = (
    "import time; start = time.perf_counter(); import composition.fusion; print(time.perf_counter() - start)"
)
FIRST = """
import sys, time
from composition import detections
from composition.fusion import fuser
table = detections.make([1], [[0, 0, 5, 5]], [0.5], [0])
start = time.perf_counter()
fuser(sys.argv[1]).fuse([table])
print(time.perf_counter() - start)
"""


def in_new_process(code: str, *arguments: str, **environment: str) -> float:
    """The number that a program prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def measure_processes() -> dict[str, Any]:
    """What only a fresh process shows: import, compilation, peak memory."""
    with tempfile.TemporaryDirectory() as cache:
        first = {
            # one after the other: wbf pays for what all of them share
            kind: {
                name: round(in_new_process(FIRST, name, NUMBA_CACHE_DIR=cache), 2) for name in our_fusers()
            }
            for kind in ("compiled", "from_cache")
        }
    memory = {}
    if sys.platform == "linux":
        memory = {str(count): round(in_new_process(MEMORY, str(count))) for count in SHARDS}
    return {
        "import_seconds": round(min(in_new_process(IMPORT) for _ in range(3)), 3),
        "first_call_seconds": first,
        "peak_memory_mb_by_shards": memory,
    }


def measure(images: int, repeats: int, seed: int) -> dict[str, Any]:
    """Everything."""
    tables = scene(images, seed=seed)
    prepared = per_image(tables, images)
    took, expected = measure_speed(tables, prepared, repeats)
    difference = measure_difference(fuser("wbf", {"iou": IOU}).fuse(tables), prepared, expected)
    scaling = measure_scaling(images, seed, repeats)
    stock = took["ensemble-boxes WBF"]
    return {
        "wbf_speedup": stock / took["wbf"],
        "expert_speedup": stock / took["expert"] if "expert" in took else None,
        **difference,
        "scaling": scaling["wbf"],
        "nms_speedup": took["ensemble-boxes NMS"] / took["nms"],
        "soft_nms_speedup": took["ensemble-boxes soft-NMS"] / took["soft_nms"],
        "wbf_speedup_over_mmdet": took["mmdet WBF"] / took["wbf"],
        "wbf_speedup_over_supervision": took["supervision with_nmm"] / took["wbf"],
        "seconds": took,
        "scaling_by_fuser": scaling,
        "scaling_rows_at_1": sum(map(len, tables)) // 4,
        **measure_processes(),
        "images": images,
        "rows": sum(map(len, tables)),
        "seed": seed,
        "repeats": repeats,
        "command": f"python -m benchmarks.fusion --images {images} --repeats {repeats} --seed {seed}",
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_average": os.getloadavg()[0],
        "versions": {
            name: version(name)
            for name in ("numpy", "numba", "ensemble-boxes", "onedl-mmdetection", "supervision")
        },
    }


def markdown(document: dict[str, Any]) -> str:
    """The figures as tables."""
    stock = document["seconds"]["ensemble-boxes WBF"]
    rows = sorted(document["seconds"].items(), key=lambda item: item[1])
    lines = [
        "# Speed of fusion",
        "",
        f"`{document['command']}`, {document['date']}, {document['machine']}: {document['images']} images, "
        f"{document['rows']:,} boxes of 3 teachers, seed {document['seed']}.",
        "",
        "| fuser | seconds | images a second | times ensemble-boxes WBF |",
        "|---|---|---|---|",
        *(
            f"| {'**' + name + '** (ours)' if name in OURS else name} | {took:.3f} "
            f"| {document['images'] / took:,.0f} | {stock / took:.1f} |"
            for name, took in rows
        ),
        "",
        f"Ours against the same method of ensemble-boxes: wbf {document['wbf_speedup']:.0f}, "
        f"nms {document['nms_speedup']:.1f}, soft_nms {document['soft_nms_speedup']:.1f} times.",
        f"Largest difference of `wbf` to ensemble-boxes: {document['wbf_max_difference']:.1e} "
        f"(images left out because a decision hangs on rounding: {document['wbf_ill_defined_images']}).",
        "",
        f"Seconds at 1, 4 and 16 times {document['scaling_rows_at_1']:,} boxes: "
        + "; ".join(
            f"{name} " + ", ".join(f"{took:.3f}" for took in times.values())
            for name, times in document["scaling_by_fuser"].items()
        )
        + ".",
        f"Peak memory of a process that makes and fuses 1, 4, 16 shards of {SHARD_IMAGES} images: "
        + ", ".join(f"{peak} MB" for peak in document["peak_memory_mb_by_shards"].values())
        + ".",
        f"Importing `composition.fusion`: {document['import_seconds']} s. First call in a process, one fuser "
        "after the other (with numba's import), seconds: "
        + "; ".join(
            f"{kind.replace('_', ' ')} " + ", ".join(f"{name} {took}" for name, took in times.items())
            for kind, times in document["first_call_seconds"].items()
        )
        + ".",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=5000, help="fewer for a quick look")
    parser.add_argument("--repeats", type=int, default=3, help="runs of ours at each turn")
    parser.add_argument("--seed", type=int, default=0, help="of the synthetic detections")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--no-write", action="store_true", help="leave the results folder alone")
    chosen = parser.parse_args()
    document = measure(chosen.images, chosen.repeats, chosen.seed)
    if not chosen.no_write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "fusion.json").write_text(json.dumps(document, indent=2) + "\n")
        (RESULTS / "fusion.md").write_text(markdown(document))
    print(json.dumps(document) if chosen.json else markdown(document))


if __name__ == "__main__":
    main()
