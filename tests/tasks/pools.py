"""Synthetic pools: artifacts as index and inference leave them, without an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from composition import detections as table
from composition.detections import Detections
from composition.label_space import LabelSpace
from tasks.image_index import INDEX_FILE, INDEX_SCHEMA
from tasks.infer import SHARD_FILE
from tasks.store import Artifact, Store, digest_of


@dataclass(frozen=True)
class Pool:
    """An image index and the teachers' shards."""

    index: Artifact
    shards: dict[str, list[Artifact]]


def make_pool(
    store: Store,
    space: LabelSpace,
    images: int,
    shard_size: int,
    boxes: int = 30,
    seed: int = 0,
    prefix: str = "image",
) -> Pool:
    """Writes a pool whose content for an image depends on its id and the seed alone.

    All teachers see the same objects, each with noise of its own and misses.
    """
    index = _index(store, images, prefix)
    shards: dict[str, list[Artifact]] = {name: [] for name in space.teachers}
    for first in range(0, images, shard_size):
        ids = range(first, min(first + shard_size, images))
        for place, (name, entries) in enumerate(space.teachers.items()):
            found = table.concatenate(detections_of(image, place, len(entries), boxes, seed) for image in ids)
            shards[name].append(write_shard(store, name, ids, found))
    return Pool(index, shards)


def detections_of(image: int, teacher: int, classes: int, boxes: int, seed: int) -> Detections:
    """What one teacher sees on one image."""
    world, own = np.random.default_rng((seed, image)), np.random.default_rng((seed, image, teacher))
    corner, size = world.uniform(0, 300, (boxes, 2)), world.uniform(20, 120, (boxes, 2))
    class_id = world.integers(0, classes, boxes)
    truth = np.concatenate([corner, corner + size], axis=1)
    noisy = truth + own.normal(0, 0.05, (boxes, 4)) * np.concatenate([size, size], axis=1)
    noisy[:, 2:] = np.maximum(noisy[:, 2:], noisy[:, :2] + 4)
    seen = own.random(boxes) < 0.8
    score = own.beta(2, 2, boxes)
    rows = table.make(np.full(boxes, image), np.clip(noisy, 0, 500), score, class_id)
    return table.sort(rows[seen])


def write_shard(store: Store, teacher: str, images: Sequence[int], found: Detections) -> Artifact:
    """A shard of detections as inference writes it."""
    key = digest_of(teacher, list(images), [getattr(found, name).tolist() for name in ("boxes", "score")])
    with store.write("detections", key, {}) as draft:
        pq.write_table(table.to_arrow(found), draft.file(SHARD_FILE))
        draft.counts = {"images": len(images), "detections": len(found)}
    return draft.artifact


def _index(store: Store, images: int, prefix: str) -> Artifact:
    key = digest_of("synthetic index", images, prefix)

    def rows() -> Iterator[dict[str, object]]:
        for image in range(images):
            name = f"{prefix}-{image:07d}.jpg"
            yield {
                "image_id": image,
                "path": name,
                "uri": f"/nowhere/{name}",
                "width": 500,
                "height": 500,
                "sha256": digest_of(image),
            }

    with store.write("image-index", key, {}) as draft:
        with pq.ParquetWriter(draft.file(INDEX_FILE), INDEX_SCHEMA) as writer:
            batch: list[dict[str, object]] = []
            for row in rows():
                batch.append(row)
                if len(batch) == 1000:
                    writer.write_table(pa.Table.from_pylist(batch, INDEX_SCHEMA))
                    batch = []
            writer.write_table(pa.Table.from_pylist(batch, INDEX_SCHEMA))
        draft.counts = {"images": images, "quarantined": 0}
    return draft.artifact
