"""One teacher's rounds of `benchmarks.inference`."""

from __future__ import annotations

import datetime
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tasks.image_index import ImageRecord
    from tasks.teachers import Teacher

LARGE = (4000, 3000)


def machine() -> dict[str, Any]:
    """What was measured on, and how busy it was."""
    from model_zoo.cores import usable_cores

    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {usable_cores()} cores, Python {platform.python_version()}",
        "load_average": round(os.getloadavg()[0], 1),
    }


class Bare:
    """A teacher's network without anything of ours around it: the runtime's own defaults.

    Args:
        teacher: An ONNX or darknet teacher.
        threads: Threads inside one call; 0: the runtime's default.
    """

    def __init__(self, teacher: Teacher, threads: int) -> None:
        import onnxruntime

        from model_zoo import bundle
        from model_zoo.adapters import darknet_cfg
        from model_zoo.adapters.onnx import make_decoder
        from model_zoo.adapters.preprocessing import Preprocessor

        manifest = teacher.manifest
        self.manifest = manifest
        self.preprocess = Preprocessor(manifest.input)
        self.onnx = manifest.adapter == "onnx"
        if self.onnx:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            options.intra_op_num_threads = threads
            path = bundle.listed_file(teacher.folder, manifest, "model.onnx")
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            self.input = self.session.get_inputs()[0].name
            self.outputs = [value.name for value in self.session.get_outputs()]
            self.decoder = make_decoder(manifest, teacher.folder)
        else:
            import cv2

            cfg, weights = (
                bundle.listed_file(teacher.folder, manifest, name) for name in ("model.cfg", "model.weights")
            )
            text = darknet_cfg.render(darknet_cfg.parse(cfg), 0.001)
            self.net = cv2.dnn.readNetFromDarknet(np_bytes(text), np_bytes(weights.read_bytes()))
            self.outputs = self.net.getUnconnectedOutLayersNames()

    def forward(self, pixels: NDArray[np.float32]) -> Any:
        """One call of the network."""
        if self.onnx:
            return self.session.run(self.outputs, {self.input: pixels})
        self.net.setInput(pixels)
        return self.net.forward(self.outputs)

    def input_of(self, record: ImageRecord) -> NDArray[np.float32]:
        """(1, 3, height, width) float32 of an image."""
        import numpy as np

        from model_zoo.images import read_rgb

        spec = self.manifest.input
        pixels = np.empty((1, 3, spec.height, spec.width), np.float32)
        self.preprocess.fill(read_rgb(Path(record.uri)), pixels[0])
        return pixels


def np_bytes(data: bytes) -> NDArray[np.uint8]:
    """Bytes as OpenCV takes them."""
    import numpy as np

    return np.frombuffer(data, np.uint8)


def loop_over(bare: Bare, records: Sequence[ImageRecord]) -> int:
    """Image by image: open, resize, normalise, call, decode, suppress. Returns the number of boxes."""
    import cv2
    import numpy as np

    from model_zoo.adapters.base import InferenceSettings
    from model_zoo.adapters.decoders.base import Candidates, centre_to_corners
    from model_zoo.adapters.postprocessing import finish
    from model_zoo.adapters.preprocessing import place

    spec, boxes = bare.manifest.input, 0
    size = np.array([spec.width, spec.height] * 2, np.float32)
    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
    for record in records:
        image = cv2.imread(record.uri)
        if spec.color == "rgb":
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        placement, width, height = place(spec, image.shape[1], image.shape[0])
        canvas = np.full((spec.height, spec.width, 3), spec.pad_value, np.uint8)
        left, top = placement.left, placement.top
        canvas[top : top + height, left : left + width] = cv2.resize(image, (width, height))
        pixels = ((canvas.astype(np.float32) - mean) / std).transpose(2, 0, 1)[None]
        found = bare.forward(np.ascontiguousarray(pixels))
        if bare.onnx:
            (candidates,) = bare.decoder(dict(zip(bare.outputs, found, strict=True)), 0.05)
        else:
            rows = np.concatenate(found)
            rows = rows[rows[:, 4] >= 0.05]
            row, class_id = np.nonzero(rows[:, 5:] >= 0.05)
            corners = centre_to_corners(rows[:, :4] * size)
            candidates = Candidates(corners[row], rows[row, 5 + class_id], class_id.astype(np.int32))
        kept = finish(
            candidates, placement, bare.manifest.output, InferenceSettings(), len(bare.manifest.vocabulary)
        )
        boxes += len(kept.score)
    return boxes


def engine_over(
    team: Sequence[Teacher], records: Sequence[ImageRecord], batch_size: int | None = None
) -> int:
    """The engine, into a new store; its networks stay open between rounds. Returns the number of boxes."""
    from tasks.infer import GenerateSettings, run_shard
    from tasks.store import Store

    with tempfile.TemporaryDirectory() as folder:
        found = run_shard(
            Store(Path(folder)), team, records, GenerateSettings(batch_size=batch_size), "benchmark"
        )
        return sum(shard.counts["detections"] for shard in found.values())


def measure_teacher(teacher: Teacher, records: Sequence[ImageRecord], repeats: int) -> dict[str, Any]:
    """Medians over rounds of all four ways in turns."""
    from model_zoo.cores import usable_cores
    from tasks.teams import forget_detectors

    cores = usable_cores()
    alone = Bare(teacher, 0)
    # a network of OpenCV's holds the state of one call, a session of ONNX Runtime any number
    beside = [Bare(teacher, 1)] * cores if alone.onnx else [Bare(teacher, 1) for _ in range(cores)]
    inputs = [alone.input_of(record) for record in records[:16]]
    ready = [inputs[number % len(inputs)] for number in range(len(records))]

    def calls(network: Bare, first: int, step: int) -> None:
        for pixels in ready[first::step]:
            network.forward(pixels)

    with ThreadPoolExecutor(cores) as pool:

        def side_by_side() -> None:
            list(pool.map(lambda number: calls(beside[number], number, cores), range(cores)))

        ways: dict[str, Callable[[], Any]] = {
            "bare": lambda: calls(alone, 0, 1),
            "engine": lambda: engine_over([teacher], records),
            "side_by_side": side_by_side,
            "loop": lambda: loop_over(alone, records),
        }
        work: dict[str, list[float]] = {}
        seconds = in_turns(ways, repeats, work)
    forget_detectors()
    per_second = {name: quartiles([len(records) / one for one in taken]) for name, taken in seconds.items()}

    def ratio(other: str) -> list[float]:
        pairs = zip(seconds[other], seconds["engine"], strict=True)
        return quartiles([theirs / ours for theirs, ours in pairs])

    ratios = {name: ratio(name) for name in ("bare", "side_by_side", "loop")}
    return {
        "of_bare_forward": ratios["bare"][1],
        "of_side_by_side": ratios["side_by_side"][1],
        "over_loop": ratios["loop"][1],
        "quartiles": ratios,
        "images_per_second": per_second,
        "processor_milliseconds": {
            name: quartiles([1e3 * one / len(records) for one in taken])[1] for name, taken in work.items()
        },
        "images": len(records),
        "rounds": repeats,
    }


def measure_batches(teacher: Teacher, records: Sequence[ImageRecord], repeats: int) -> dict[str, Any]:
    """Images per second of the engine by images per call, relative to the size that it chooses itself."""
    from tasks.teams import forget_detectors

    def way(size: int | None) -> Callable[[], Any]:
        return lambda: engine_over([teacher], records, size)

    # a thread each: other settings would close the network that is open
    sizes: dict[str, int | None] = {"chosen": None, **{str(size): size for size in (1, 4, 8, 16, 32, 64)}}
    threads = {name: ThreadPoolExecutor(1) for name in sizes}
    ways = {
        name: (lambda name=name, size=size: threads[name].submit(way(size)).result())
        for name, size in sizes.items()
    }
    seconds = in_turns(ways, repeats)
    for pool in threads.values():
        pool.submit(forget_detectors).result()
        pool.shutdown()
    return {
        name: quartiles([base / one for base, one in zip(seconds["chosen"], taken, strict=True)])[1]
        for name, taken in seconds.items()
    }


def measure_together(
    teachers: Sequence[Teacher], records: Sequence[ImageRecord], repeats: int
) -> dict[str, Any]:
    """All teachers over a shard together, and one after the other."""
    from tasks.teams import forget_detectors

    ways: dict[str, Callable[[], Any]] = {
        "together": lambda: engine_over(teachers, records),
        "in_turn": lambda: [engine_over([teacher], records) for teacher in teachers],
    }
    # opening networks is no part of it: each way keeps its own open in a thread of its own
    threads = {name: ThreadPoolExecutor(1) for name in ways}
    opened = {name: (lambda name=name: threads[name].submit(ways[name]).result()) for name in ways}
    seconds = in_turns(opened, max(2, repeats // 2))
    for pool in threads.values():
        pool.submit(forget_detectors).result()
        pool.shutdown()
    gains = [turn / both for turn, both in zip(seconds["in_turn"], seconds["together"], strict=True)]
    return {
        "teachers": len(teachers),
        "images": len(records),
        "megapixels": round(sum(one.width * one.height for one in records) / len(records) / 1e6, 2),
        "times_as_fast": quartiles(gains),
        "seconds": {name: quartiles(taken) for name, taken in seconds.items()},
    }


def enlarged(records: Sequence[ImageRecord], folder: Path) -> list[ImageRecord]:
    """The images as large photographs."""
    from PIL import Image

    folder.mkdir()
    found = []
    for record in records:
        path = folder / Path(record.uri).name
        with Image.open(record.uri) as image:
            image.convert("RGB").resize(LARGE).save(path, quality=90)
        found.append(replace(record, uri=str(path), width=LARGE[0], height=LARGE[1]))
    return found


def in_turns(
    ways: dict[str, Callable[[], Any]], repeats: int, work: dict[str, list[float]] | None = None
) -> dict[str, list[float]]:
    """Seconds of every way in every round after one that does not count; ``work``: of the processors."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    used = {} if work is None else work
    for number in range(repeats + 1):
        # every other round backwards, so that nobody always runs behind the same one
        order = list(ways) if number % 2 else list(ways)[::-1]
        for name in order:
            start, before = time.perf_counter(), time.process_time()
            ways[name]()
            if number:
                seconds[name].append(time.perf_counter() - start)
                used.setdefault(name, []).append(time.process_time() - before)
    return seconds


def quartiles(values: Sequence[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    import numpy as np

    return [round(float(value), 3) for value in np.percentile(values, [25, 50, 75])]


def page(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# Inference engine",
        "",
        f"`{document['command']}`, {document['date']}, {document['machine']}, "
        f"load average {document['load_average']}.",
        "",
        "Medians of paired rounds (quartiles in brackets); higher is better. What the columns mean: "
        "`benchmarks/inference.py`.",
        "",
        "| teacher | of the bare forward rate | of the rate side by side | over the loop | images/s "
        "| processor ms per image: bare | side by side | loop | engine |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in document["rows"].items():
        cells = [
            f"{middle:.2f} ({low:.2f} to {high:.2f})"
            for low, middle, high in (row["quartiles"][key] for key in ("bare", "side_by_side", "loop"))
        ]
        cells.append(f"{row['images_per_second']['engine'][1]:.0f}")
        work = row["processor_milliseconds"]
        cells += [f"{work[way]:.1f}" for way in ("bare", "side_by_side", "loop", "engine")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "All teachers over one shard together, each image decoded once, against one teacher after the other:",
        "",
        "| images | megapixels | times as fast |",
        "|---|---:|---:|",
    ]
    for name, row in document["together"].items():
        low, middle, high = row["times_as_fast"]
        megapixels = f"{row['megapixels']:.2f}"
        lines.append(f"| {row['images']}, {name} | {megapixels} | {middle:.2f} ({low:.2f} to {high:.2f}) |")
    lines += ["", "Images per second by images per call, relative to what the engine chooses:", ""]
    for name, row in document["batches"].items():
        lines.append(f"- {name}: " + ", ".join(f"{size}: {rate:.2f}" for size, rate in row.items()))
    return "\n".join(lines) + "\n"
