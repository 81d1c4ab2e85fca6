"""Inference: one teacher over one image index, shard by shard.

Every shard is an artifact of its own, keyed by the teacher's digest, the bytes
of its images and the settings: a killed run goes on at the first missing shard,
and a pool that grew costs only its new shards.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from composition import detections as table
from composition.detections import Detections
from composition.errors import UserError
from composition.second_look import bordered, without_border
from composition.stability import flip_spread
from model_zoo.adapters.base import Detector, InferenceSettings
from model_zoo.adapters.registry import open_detector
from model_zoo.images import BadImageError, read_rgb
from model_zoo.memory import SparingDetector
from tasks import unanswered
from tasks.devices import reserve_device
from tasks.image_index import ImageRecord, load_index, shards
from tasks.progress import Tracker
from tasks.step import step
from tasks.store import Artifact, Store, digest_of
from tasks.teachers import Teacher

INFERENCE_VERSION = 1
SECOND_LOOK_VERSION = 1
SHARD_FILE = "detections.parquet"


class GenerateSettings(BaseModel):
    """How the teachers are run on the unlabeled images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    score_floor: float = Field(
        0.05, ge=0, le=1, description="Detections with a lower score are not kept at all."
    )
    max_detections: int = Field(100, ge=1, le=10_000, description="At most so many detections per image.")
    max_unanswered: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="A composition goes on when a service left at most this share of the images unanswered; "
        "on them its classes are not background.",
    )
    batch_size: int = Field(8, ge=1, le=1024, description="Images per call of the detector.")
    shard_size: int = Field(256, ge=1, description="Images per shard, the unit of work that a resume keeps.")
    augment: Literal["none", "flip"] = Field(
        "none",
        description="flip: also show every image mirrored, at twice the time; a box that is then elsewhere "
        "is unstable and is trusted less. Not for classes that a mirror changes, such as digits.",
    )

    def decisive(self) -> dict[str, Any]:
        """What decides the detections: neither batch size nor shard size changes one (tested)."""
        # without augmentation nothing is said about it: shards of earlier versions stay valid
        chosen = {"score_floor", "max_detections"} | ({"augment"} if self.augment != "none" else set())
        return self.model_dump(mode="json", include=chosen)


Look = Literal["first", "second"]


def shard_key(
    teacher: Teacher, records: Sequence[ImageRecord], settings: GenerateSettings, look: Look = "first"
) -> str:
    """Digest of everything that decides a shard's content."""
    images = [(record.image_id, record.sha256) for record in records]
    how = [] if look == "first" else [look, SECOND_LOOK_VERSION]
    return digest_of("detections", INFERENCE_VERSION, teacher.digest, settings.decisive(), images, *how)


def missing_shards(store: Store, teacher: Teacher, index: Artifact, settings: GenerateSettings) -> int:
    """How many images still have to be shown to the teacher."""
    missing = 0
    for records in shards(load_index(index), settings.shard_size):
        found, _ = unanswered.find(store, shard_key(teacher, records, settings))
        missing += len(records) if found is None else found.counts.get("unanswered", 0)
    return missing


def run_inference(
    store: Store,
    teacher: Teacher,
    index: Artifact,
    settings: GenerateSettings,
    look: Look = "first",
    only: NDArray[np.int64] | None = None,
    incomplete: bool = False,
) -> list[Artifact]:
    """Runs a teacher on every image of an index.

    Args:
        store: Where the shards go.
        teacher: The detector.
        index: An image index.
        settings: Score floor, batch and shard size.
        look: ``second`` shows the images with a border, see `composition.second_look`.
        only: (n,) ids of the images to show; None: all.
        incomplete: Whether the caller can deal with images on which the
            teacher has not spoken (`tasks.unanswered`), up to
            ``settings.max_unanswered``.

    Returns:
        One artifact per shard, in the order of the images.

    Raises:
        UserError: The teacher left images unanswered, more than may be. What
            it answered is kept.
    """
    records = load_index(index)
    if only is not None:
        wanted = set(only.tolist())
        records = [record for record in records if record.image_id in wanted]
    again = ", again" if look == "second" else ""
    parts = list(shards(records, settings.shard_size))
    with (
        Tracker(f"{teacher.name} on {len(records)} images{again}", len(records)) as tracker,
        ExitStack() as stack,
    ):
        run = _Run(
            store,
            teacher,
            settings,
            look,
            lambda: _open(teacher, settings, stack.enter_context(reserve_device())),
        )
        before = accumulate(map(len, parts), initial=0)
        return unanswered.gather(
            teacher.name,
            parts,
            [partial(run.shard, part, tracker, done) for part, done in zip(parts, before, strict=False)],
            lambda number: partial(run.shard, parts[number], tracker, len(records)),
            settings.max_unanswered if incomplete else 0.0,
            tracker,
        )


infer = step(run_inference, "infer", run_name="infer {teacher.name}")


def load_detections(shard: Artifact) -> Detections:
    """Reads one shard."""
    return table.from_arrow(pq.read_table(shard.file(SHARD_FILE)))


def load_all(artifacts: Sequence[Artifact]) -> Detections:
    """Reads all shards of a small set (evaluation); pools are read shard by shard."""
    return table.concatenate(load_detections(shard) for shard in artifacts)


def run_shard(
    store: Store, teacher: Teacher, records: Sequence[ImageRecord], settings: GenerateSettings, label: str
) -> Artifact:
    """Runs a teacher on one shard: the unit of work that is spread over threads, processes and machines.

    The detector stays open for the next shard in this thread, see
    `forget_detector`; the device is free again when the shard is done.

    Args:
        store: Where the shard goes.
        teacher: The detector.
        records: Its images.
        settings: Score floor and batch size.
        label: What is shown as being done.

    Returns:
        The shard, which may be incomplete (`tasks.unanswered`).
    """
    with Tracker(label, len(records), bar=False) as tracker, ExitStack() as stack:
        run = _Run(
            store,
            teacher,
            settings,
            "first",
            lambda: _kept_open(teacher, settings, stack.enter_context(reserve_device())),
        )
        return run.shard(records, tracker, 0)


infer_shard = step(run_shard, "infer shard", run_name="infer {label}")

_KEPT = threading.local()


def _kept_open(teacher: Teacher, settings: GenerateSettings, device: str) -> Detector:
    """The detector that this thread used last, or another one in its place."""
    key = (teacher.digest, settings, device)
    if getattr(_KEPT, "key", None) != key:
        forget_detector()
        _KEPT.detector, _KEPT.key = _open(teacher, settings, device), key
    detector: Detector = _KEPT.detector
    return detector


def forget_detector() -> None:
    """Closes the detector that `run_shard` has left open in this thread."""
    _KEPT.detector = _KEPT.key = None


def _open(teacher: Teacher, settings: GenerateSettings, device: str) -> Detector:
    chosen = InferenceSettings(
        score_floor=settings.score_floor, max_detections=settings.max_detections, device=device
    )
    return SparingDetector(open_detector(teacher.folder, chosen), teacher.name)


class _Run:
    """One teacher at work; its network is opened late: a run with nothing to do loads none."""

    def __init__(
        self,
        store: Store,
        teacher: Teacher,
        settings: GenerateSettings,
        look: Look,
        opener: Callable[[], Detector],
    ) -> None:
        self.store, self.teacher, self.settings, self.look = store, teacher, settings, look
        self._opener = opener
        self._detector: Detector | None = None

    @property
    def detector(self) -> Detector:
        """The network."""
        self._detector = self._detector or self._opener()
        return self._detector

    def shard(self, records: Sequence[ImageRecord], tracker: Tracker, done: int) -> Artifact:
        """A shard from the store, or by asking for what is missing in it."""
        key = shard_key(self.teacher, records, self.settings, self.look)
        before, attempts = unanswered.find(self.store, key)
        silent = unanswered.load(before) if before else {}
        if before and not silent:
            return before
        missing = [record for record in records if not before or record.image_id in silent]
        found, reasons = _detect(self.detector, missing, self.settings, self.look, tracker, done)
        if before and len(reasons) == len(missing):
            return before
        key = unanswered.attempt_key(key, attempts) if reasons else key
        rows = unanswered.joined(before, found, load_detections)
        return _write(self.store, key, self.teacher, records, rows, reasons)


def _detect(
    detector: Detector,
    shard: Sequence[ImageRecord],
    settings: GenerateSettings,
    look: Look,
    tracker: Tracker,
    done: int,
) -> tuple[Detections, dict[int, str]]:
    parts: list[Detections] = []
    silent: dict[int, str] = {}
    with ThreadPoolExecutor(1) as ahead:
        batches = list(shards(shard, settings.batch_size))
        # the next batch is decoded while the network computes on this one
        pending = ahead.submit(_read, batches[0])
        for number, batch in enumerate(batches):
            images = pending.result()
            if number + 1 < len(batches):
                pending = ahead.submit(_read, batches[number + 1])
            ids = np.array([record.image_id for record in batch], np.int64)
            widths = np.array([record.width for record in batch], np.int64)
            heights = np.array([record.height for record in batch], np.int64)
            if look == "second":
                found, reasons = unanswered.ask(detector, [bordered(image) for image in images])
                found = without_border(found, widths, heights)
            else:
                found, reasons = unanswered.ask(detector, images)
            if look == "first" and settings.augment == "flip":
                mirrored, more = unanswered.ask(
                    detector, [np.ascontiguousarray(image[:, ::-1]) for image in images]
                )
                found = replace(found, spread=flip_spread(found, mirrored, widths))
                reasons |= more
                found = unanswered.without(found, list(more))
            parts.append(table.with_image_ids(found, ids))
            silent |= {batch[position].image_id: reason for position, reason in reasons.items()}
            done += len(batch)
            tracker.update(done)
    return table.sort(table.concatenate(parts)), silent


def _read(batch: Sequence[ImageRecord]) -> list[NDArray[np.uint8]]:
    images = []
    for record in batch:
        try:
            pixels = read_rgb(Path(record.uri))
        except BadImageError as error:
            raise UserError(
                f"{record.uri} was readable when it was indexed and is not any more: {error}",
                "Restore the file, or run again: changed images are indexed anew.",
            ) from None
        if pixels.shape[:2] != (record.height, record.width):
            raise UserError(
                f"{record.uri} changed while the composition ran",
                "Run again: changed images are indexed anew.",
            )
        images.append(pixels)
    return images


def _write(
    store: Store,
    key: str,
    teacher: Teacher,
    shard: Sequence[ImageRecord],
    found: Detections,
    silent: Mapping[int, str],
) -> Artifact:
    sizes = {record.image_id: (record.width, record.height) for record in shard}
    table.validate(found, sizes, len(teacher.manifest.vocabulary), f"teacher {teacher.name}")
    with store.write("detections", key, {"teacher": teacher.digest}) as draft:
        pq.write_table(table.to_arrow(found), draft.file(SHARD_FILE))
        draft.counts = {"images": len(shard), "detections": len(found)}
        if silent:
            unanswered.write(silent, draft.file)
            draft.counts["unanswered"] = len(silent)
    return draft.artifact
