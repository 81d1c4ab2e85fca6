"""Throughput and memory of the inference engine, beside the bare network and the loop over single images.

    python -m benchmarks.inference [--data DIR] [--repeats N] [--images N] [--json]
    python -m benchmarks.inference --memory [1000 5000 20000]

For every pretrained teacher, in turns and several times over the same images:

- ``bare``: the runtime alone on inputs that are ready in memory, one call after the other with all
  processors to itself, as a user of the runtime gets it. Batch 1: the ONNX files have it fixed, and
  OpenCV takes longer per image with more.
- ``side by side``: the same calls, one a processor, on one thread each: the most that the network can do.
- ``loop``: what tools that label image by image do: open a file, resize, call the network, suppress.
- ``engine``: `tasks.infer.run_shard` from the files to the shard in the store.

Figures are ratios of one round, their medians and quartiles: the machine may be busy with other things.
Writes ``benchmarks/results/inference.json`` and ``.md`` (``inference_memory.json`` with ``--memory``).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import inference_rows

if TYPE_CHECKING:
    from tasks.home import Home
    from tasks.image_index import ImageRecord
    from tasks.teachers import Teacher

RESULTS = Path(__file__).parent / "results"
TINY = "fastestdet_coco"


def prepare(data: Path, home: Home, images: int) -> tuple[list[Teacher], list[ImageRecord]]:
    """All teachers, and the first images of the validation set."""
    from benchmarks.teachers import TEACHERS, add_teacher
    from tasks.image_index import build_index, list_images, load_index

    teachers = [add_teacher(home, data, name) for name in TEACHERS]
    listing = list_images(data / "coco" / "val.json", limit=images)
    return teachers, load_index(build_index(home.store, listing))


def measure(data: Path, repeats: int, images: int) -> dict[str, Any]:
    """Every teacher's figures, and what decoding once for all of them is worth."""
    from tasks.home import Home

    with tempfile.TemporaryDirectory() as folder:
        teachers, records = prepare(data, Home(Path(folder)), images)
        rows = {
            teacher.name: inference_rows.measure_teacher(teacher, records, repeats) for teacher in teachers
        }
        batches = {
            teacher.name: inference_rows.measure_batches(teacher, records, repeats)
            for teacher in teachers
            if teacher.name in (TINY, "yolox_nano_coco")
        }
        together = {
            "images as they are": inference_rows.measure_together(teachers, records[:48], repeats),
            "enlarged to 12 megapixels": inference_rows.measure_together(
                teachers, inference_rows.enlarged(records[:12], Path(folder) / "large"), repeats
            ),
        }
    command = f"python -m benchmarks.inference --repeats {repeats} --images {images}"
    return {**_about(command), "rows": rows, "together": together, "batches": batches}


def measure_memory(data: Path, sizes: list[int]) -> dict[str, Any]:
    """Peak memory of indexing and inference, in a process of its own for every size."""
    rows = []
    for images in sizes:
        command = [
            sys.executable,
            "-m",
            "benchmarks.inference",
            "--data",
            str(data),
            "--one-size",
            str(images),
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], file=sys.stderr)
    return {**_about("python -m benchmarks.inference --memory " + " ".join(map(str, sizes))), "rows": rows}


def one_size(data: Path, images: int) -> dict[str, Any]:
    """Peak memory of this process after each step; the images are links to the validation set's."""
    from benchmarks.teachers import add_teacher
    from tasks.home import Home
    from tasks.image_index import build_index, list_images
    from tasks.infer import GenerateSettings, run_teachers

    sources = sorted((data / "coco" / "images").resolve().glob("*.jpg"))[:100]
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home")
        pool = Path(folder) / "pool"
        pool.mkdir()
        for number in range(images):
            (pool / f"{number:06d}.jpg").symlink_to(sources[number % len(sources)])
        teacher = add_teacher(home, data, TINY)
        # opened and warm: what every run holds
        small = build_index(home.store, list_images(pool, limit=100))
        run_teachers(home.store, [teacher], small, GenerateSettings())
        peaks = [_peak()]
        index = build_index(home.store, list_images(pool))
        peaks.append(_peak())
        shards = run_teachers(home.store, [teacher], index, GenerateSettings())
        peaks.append(_peak())
        counts = sum(shard.counts["images"] for shard in shards[teacher.name])
    return {
        "images": counts,
        "MB_of_100_images": peaks[0],
        "MB_after_index": peaks[1],
        "MB_after_inference": peaks[2],
    }


def _peak() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def _about(command: str) -> dict[str, Any]:
    return {"command": command, **inference_rows.machine()}


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    default = Path(os.environ.get("DETCOMPOSE_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=default, help="folder with coco/ and teachers/")
    parser.add_argument("--repeats", type=int, default=7, help="rounds per teacher")
    parser.add_argument("--images", type=int, default=155, help="images per round")
    parser.add_argument("--json", action="store_true", help="print {teacher: {of_bare_forward, over_loop}}")
    parser.add_argument("--memory", type=int, nargs="*", help="peak memory for so many images each")
    parser.add_argument("--one-size", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if not (chosen.data / "coco" / "val.json").is_file():
        sys.exit(f"no data at {chosen.data}; set DETCOMPOSE_DATA")
    if chosen.one_size is not None:
        print(json.dumps(one_size(chosen.data, chosen.one_size)))
        return
    RESULTS.mkdir(exist_ok=True)
    if chosen.memory is not None:
        document = measure_memory(chosen.data, chosen.memory or [1000, 5000, 20000, 50000])
        (RESULTS / "inference_memory.json").write_text(json.dumps(document, indent=2) + "\n")
        print(json.dumps(document["rows"], indent=1))
        return
    document = measure(chosen.data, chosen.repeats, chosen.images)
    (RESULTS / "inference.json").write_text(json.dumps(document, indent=2) + "\n")
    page = inference_rows.page(document)
    (RESULTS / "inference.md").write_text(page)
    if chosen.json:
        short = ("of_bare_forward", "over_loop")
        print(json.dumps({name: {key: row[key] for key in short} for name, row in document["rows"].items()}))
    else:
        print(page)


if __name__ == "__main__":
    main()
