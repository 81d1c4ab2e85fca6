"""What a detector costs on this machine: milliseconds an image, parameters, operations, bytes.

Times are of the whole way from decoded pixels to detections (resize, network,
suppression), as `detcompose predict` and a composition pay it; reading and
decoding files is left out. They depend on the machine and on what else it
does, so that they are kept apart from the figures of an evaluation, which do not.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composition import label_space as spaces
from composition.detections import Detections
from composition.errors import UserError
from composition.fusion import Fuser
from composition.label_space import LabelSpace
from model_zoo.adapters.base import Detector, InferenceSettings
from model_zoo.adapters.registry import open_detector
from model_zoo.cores import usable_cores
from model_zoo.images import BadImageError, read_rgb
from model_zoo.profiling import Profile, profile
from tasks.evaluate import Dataset, few_images, index_dataset, run_on_dataset
from tasks.step import step
from tasks.store import Artifact, Store, digest_of
from tasks.teachers import Teacher

COST_VERSION = 1
COST_FILE = "cost.json"
ENSEMBLE = "the teachers together"
BATCH = 8
IMAGES = 16
WARM_UP = 3
"""Calls before the clock runs: memory is allocated and kernels are chosen in them."""
SECONDS = 1.0
"""For each of the two batch sizes; at least `LEAST` calls are timed however long they take."""
LEAST, MOST = 5, 200


@dataclass(frozen=True, slots=True)
class Speed:
    """Milliseconds an image.

    Attributes:
        batch: Images in a call.
        median: Of the calls.
        low: Lower quartile.
        high: Upper quartile.
        calls: How many were timed.
    """

    batch: int
    median: float
    low: float
    high: float
    calls: int


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one detector, or of several that run together.

    Attributes:
        profile: Size.
        single: One image a call.
        batched: `BATCH` images a call.
        threads: CPU threads that the runtime may use.
        device: Where it ran.
        machine: On what.
    """

    profile: Profile
    single: Speed
    batched: Speed
    threads: int
    device: str
    machine: str

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def cost_from_dict(document: Mapping[str, Any]) -> Cost:
    """The other way from `Cost.to_dict`."""
    return Cost(
        Profile(**document["profile"]),
        Speed(**document["single"]),
        Speed(**document["batched"]),
        document["threads"],
        document["device"],
        document["machine"],
    )


def machine() -> str:
    """Processor, number of cores and runtimes, in words."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        cpu = names[0] if names else cpu
    runtimes = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime"))
    return f"{cpu}, {os.cpu_count()} cores, {runtimes}"


def time_calls(call: Callable[[], object], batch: int, seconds: float = SECONDS) -> Speed:
    """Times a call again and again.

    Args:
        call: Handles ``batch`` images.
        batch: How many.
        seconds: When to stop, once `LEAST` calls are timed.
    """
    for _ in range(WARM_UP):
        call()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < LEAST or (time.perf_counter() < end and len(taken) < MOST):
        start = time.perf_counter()
        call()
        taken.append((time.perf_counter() - start) * 1000 / batch)
    low, median, high = statistics.quantiles(taken, n=4)
    return Speed(batch, median, low, high, len(taken))


def time_detector(
    detector: Detector, images: Sequence[NDArray[np.uint8]], batch: int, seconds: float = SECONDS
) -> Speed:
    """Times a detector; the calls go round the images, so that no content is favoured."""
    position = 0

    def call() -> Detections:
        nonlocal position
        chosen = [images[(position + k) % len(images)] for k in range(batch)]
        position += batch
        return detector.predict(chosen)

    return time_calls(call, batch, seconds)


def measure_cost(
    store: Store,
    detector: Teacher,
    dataset: Dataset,
    *,
    threads: int = 0,
    device: str = "cpu",
    seconds: float = SECONDS,
) -> Artifact:
    """Measures a detector on a few images of a data set, once per machine.

    Args:
        store: Keeps the result.
        detector: The detector.
        dataset: Where the images come from; its labels are not looked at.
        threads: CPU threads that the runtime may use; 0 = all that this process may use.
        device: Torch-style device.
        seconds: Time for each of the two batch sizes.

    Raises:
        UserError: None of the images can be read.
    """
    threads = threads or usable_cores()
    chosen = few_images(dataset, IMAGES)
    host = machine()
    key = digest_of(
        "cost", COST_VERSION, detector.digest, chosen.images_digest, host, threads, device, seconds
    )
    done = store.find("costs", key)
    if done:
        return done
    images = load_images(chosen)
    runner = open_detector(detector.folder, InferenceSettings(threads=threads, device=device))
    cost = Cost(
        profile(detector.folder, detector.manifest),
        time_detector(runner, images, 1, seconds),
        time_detector(runner, images, BATCH, seconds),
        threads,
        device,
        host,
    )
    with store.write("costs", key, {"detector": detector.digest, "images": chosen.images_digest}) as draft:
        draft.file(COST_FILE).write_text(json.dumps(cost.to_dict(), indent=2) + "\n")
        draft.counts = {"images": len(images), "calls": cost.single.calls + cost.batched.calls}
    return draft.artifact


def load_cost(artifact: Artifact) -> Cost:
    """Reads what `measure_cost` wrote."""
    return cost_from_dict(json.loads(artifact.file(COST_FILE).read_text()))


def load_images(dataset: Dataset) -> list[NDArray[np.uint8]]:
    """The images of a small data set, decoded; those that cannot be read are left out.

    Raises:
        UserError: None can be read.
    """
    images = []
    for row in dataset.coco["images"]:
        try:
            images.append(read_rgb(dataset.root / row["file_name"]))
        except BadImageError:
            continue
    if not images:
        raise UserError(
            f"{dataset.source}: none of {len(dataset.coco['images'])} images can be read",
            "Measure speed on images that can.",
        )
    return images


def together(costs: Sequence[Cost], fusing: float, looks: Sequence[int]) -> Cost:
    """What several detectors cost that run one after the other and are fused.

    Args:
        costs: Of each, measured alone.
        fusing: Milliseconds an image for the fusion.
        looks: How often each looks at an image.
    """

    def total(speeds: Sequence[Speed]) -> Speed:
        return Speed(
            speeds[0].batch,
            sum(one.median * times for one, times in zip(speeds, looks, strict=True)) + fusing,
            sum(one.low * times for one, times in zip(speeds, looks, strict=True)) + fusing,
            sum(one.high * times for one, times in zip(speeds, looks, strict=True)) + fusing,
            min(one.calls for one in speeds),
        )

    def added(values: Sequence[int | None]) -> int | None:
        known = [value for value in values if value is not None]
        return sum(known) if len(known) == len(values) else None

    def computed(flops: int | None, times: int) -> int | None:
        return None if flops is None else flops * times

    first = costs[0]
    size = Profile(
        added([one.profile.parameters for one in costs]),
        added([computed(one.profile.flops, times) for one, times in zip(costs, looks, strict=True)]),
        sum(one.profile.bytes for one in costs),
    )
    return Cost(
        size,
        total([one.single for one in costs]),
        total([one.batched for one in costs]),
        first.threads,
        first.device,
        first.machine,
    )


def time_fusion(
    fuser: Fuser, space: LabelSpace, found: Mapping[str, Detections], images: int, seconds: float = 1.0
) -> float:
    """Milliseconds an image to map and fuse the teachers' detections of all images in one call."""

    def call() -> object:
        return fuser.fuse([spaces.map_detections(space, name, rows) for name, rows in found.items()])

    return time_calls(call, images, seconds).median


def measure_costs(
    store: Store,
    dataset: Dataset,
    teachers: Sequence[Teacher],
    others: Sequence[Teacher],
    space: LabelSpace,
    fuser: Fuser,
) -> dict[str, Cost]:
    """Costs of everybody in a comparison whose networks run here.

    Services are left out, and an ensemble that asks one: the clock would be
    that of another machine, and every look costs a request.

    Args:
        store: Keeps what was measured.
        dataset: Its images.
        teachers: Those that make up the ensemble, named as in the label space.
        others: Students and baselines.
        space: The label space.
        fuser: Stands for all fusers: they differ by less than the detectors spread.

    Returns:
        Costs by name of the detector, and of the ensemble under `ENSEMBLE`.
    """
    timed = [one for one in (*teachers, *others) if not one.is_service]
    costs = {one.name: load_cost(measure_cost(store, one, dataset)) for one in timed}
    if any(teacher.is_service for teacher in teachers):
        return costs
    index = index_dataset(store, dataset)
    found = {teacher.name: run_on_dataset(store, teacher, dataset, index) for teacher in teachers}
    fusing = time_fusion(fuser, space, found, len(dataset.coco["images"]))
    looks = [teacher.passes for teacher in teachers]
    costs[ENSEMBLE] = together([costs[teacher.name] for teacher in teachers], fusing, looks)
    return costs


measure_costs_task = step(measure_costs, "measure costs")


def with_costs(rows: Sequence[Mapping[str, Any]], costs: Mapping[str, Cost]) -> list[dict[str, Any]]:
    """Adds ``cost`` to the rows of a comparison in JSON form, where it is known."""
    result = []
    for row in rows:
        cost = costs.get(ENSEMBLE if row["role"] == "ensemble" else row["name"])
        result.append({**row, "cost": cost.to_dict()} if cost else dict(row))
    return result
