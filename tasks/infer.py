"""Inference: one teacher over one image index, shard by shard.

Every shard is an artifact of its own, keyed by the teacher's digest, the bytes
of its images and the settings: a killed run goes on at the first missing shard,
and a pool that grew costs only its new shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
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
    return sum(
        len(records)
        for records in shards(load_index(index), settings.shard_size)
        if store.find("detections", shard_key(teacher, records, settings)) is None
    )


def run_inference(
    store: Store,
    teacher: Teacher,
    index: Artifact,
    settings: GenerateSettings,
    look: Look = "first",
    only: NDArray[np.int64] | None = None,
) -> list[Artifact]:
    """Runs a teacher on every image of an index.

    Args:
        store: Where the shards go.
        teacher: The detector.
        index: An image index.
        settings: Score floor, batch and shard size.
        look: ``second`` shows the images with a border, see `composition.second_look`.
        only: (n,) ids of the images to show; None: all.

    Returns:
        One artifact per shard, in the order of the images.
    """
    records = load_index(index)
    if only is not None:
        wanted = set(only.tolist())
        records = [record for record in records if record.image_id in wanted]
    again = ", again" if look == "second" else ""
    detector: Detector | None = None
    artifacts = []
    with Tracker(f"{teacher.name} on {len(records)} images{again}", len(records)) as tracker:
        done = 0
        for shard in shards(records, settings.shard_size):
            key = shard_key(teacher, shard, settings, look)
            artifact = store.find("detections", key)
            if artifact is None:
                # opened late: a run with nothing to do loads no model
                detector = detector or open_detector(
                    teacher.folder,
                    InferenceSettings(
                        score_floor=settings.score_floor, max_detections=settings.max_detections
                    ),
                )
                found = _detect(detector, shard, settings, look, tracker, done)
                artifact = _write(store, key, teacher, shard, found)
            artifacts.append(artifact)
            done += len(shard)
            tracker.update(done)
    return artifacts


infer = step(run_inference, "infer", run_name="infer {teacher.name}")


def load_detections(shard: Artifact) -> Detections:
    """Reads one shard."""
    return table.from_arrow(pq.read_table(shard.file(SHARD_FILE)))


def load_all(artifacts: Sequence[Artifact]) -> Detections:
    """Reads all shards of a small set (evaluation); pools are read shard by shard."""
    return table.concatenate(load_detections(shard) for shard in artifacts)


def _detect(
    detector: Detector,
    shard: Sequence[ImageRecord],
    settings: GenerateSettings,
    look: Look,
    tracker: Tracker,
    done: int,
) -> Detections:
    parts = []
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
                found = without_border(
                    detector.predict([bordered(image) for image in images]), widths, heights
                )
            else:
                found = detector.predict(images)
            if look == "first" and settings.augment == "flip":
                mirrored = detector.predict([np.ascontiguousarray(image[:, ::-1]) for image in images])
                found = replace(found, spread=flip_spread(found, mirrored, widths))
            parts.append(table.with_image_ids(found, ids))
            done += len(batch)
            tracker.update(done)
    return table.sort(table.concatenate(parts))


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
    store: Store, key: str, teacher: Teacher, shard: Sequence[ImageRecord], found: Detections
) -> Artifact:
    sizes = {record.image_id: (record.width, record.height) for record in shard}
    table.validate(found, sizes, len(teacher.manifest.vocabulary), f"teacher {teacher.name}")
    with store.write("detections", key, {"teacher": teacher.digest}) as draft:
        pq.write_table(table.to_arrow(found), draft.file(SHARD_FILE))
        draft.counts = {"images": len(shard), "detections": len(found)}
    return draft.artifact
