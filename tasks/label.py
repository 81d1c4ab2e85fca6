"""The second pass over the pool: thresholds turn fused boxes into pseudo-labels, shard by shard.

One shard is in memory at a time; both files are written as they come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from composition import label_space as spaces
from composition import pseudo_labels as pseudo
from composition.filtering import box_weight
from composition.label_space import LabelSpace
from composition.pseudo_labels import PseudoLabels, Rules, Tally
from tasks.aggregate import load_fused, load_regions
from tasks.image_index import iter_index
from tasks.method_settings import FilterSettings
from tasks.progress import track
from tasks.step import step
from tasks.store import Artifact, Store, digest_of
from tasks.thresholds import load_thresholds

LABEL_VERSION = 2
LABELS_FILE = "pseudo_labels.parquet"
COCO_FILE = "instances.json"
UNSPOKEN_FILE = "unspoken.parquet"
INFO = {"description": "pseudo-labels of detcompose"}


def label_pool(
    store: Store,
    index: Artifact,
    fused: Sequence[Artifact],
    space: LabelSpace,
    filtering: FilterSettings,
    thresholds: Artifact,
    failed: Mapping[str, Collection[int]] | None = None,
) -> Artifact:
    """Decides what is a label, what an ignore region, and what background.

    Args:
        store: Where the pseudo-labels go.
        index: The images.
        fused: The fused shards, in the order of the images.
        space: The label space.
        filtering: Size and stability of a label.
        thresholds: What `tasks.thresholds.find_thresholds` made.
        failed: Teacher to the ids of the images on which it said nothing
            because it failed or was kept out.

    Returns:
        The artifact with ``pseudo_labels.parquet`` (a row group per shard),
        ``instances.json`` (COCO; its images also say which categories are
        unspoken) and ``unspoken.parquet`` (images and classes for which no
        expert has spoken).
    """
    pairs = pseudo.unspoken(space, failed or {})
    chosen = load_thresholds(thresholds)
    rules = Rules(chosen.keep, chosen.ignore, spaces.related(space), filtering.minimum_size)
    key = digest_of(
        "pseudo-labels",
        LABEL_VERSION,
        [shard.digest for shard in fused],
        names_digest(index),
        spaces.digest(space),
        thresholds.digest,
        [filtering.max_spread, filtering.minimum_size],
        pairs.tolist(),
    )
    found = store.find("pseudo-labels", key)
    if found:
        return found
    inputs = {f"fused/{number}": shard.digest for number, shard in enumerate(fused)}
    inputs |= {"thresholds": thresholds.digest, "label-space": spaces.digest(space)}
    with store.write("pseudo-labels", key, inputs) as draft:
        tally, empty = _write_labels(
            draft.file(LABELS_FILE), fused, list(space.teachers), rules, filtering.max_spread
        )
        with draft.file(COCO_FILE).open("w") as file:
            file.writelines(
                pseudo.coco_text(
                    _images(index, pairs, len(space.classes)),
                    space.classes,
                    _read(draft.file(LABELS_FILE)),
                    INFO,
                )
            )
        pq.write_table(pseudo.unspoken_to_arrow(pairs), draft.file(UNSPOKEN_FILE))
        draft.counts = {
            "images": index.counts["images"],
            "labels": tally.positive,
            "ignore_regions": tally.ignore,
            "covered": tally.covered,
            "background": tally.background,
            "conflicts": tally.conflicts,
            "images_without_labels": empty,
        }
    return draft.artifact


label = step(label_pool, "label")


def _write_labels(
    path: Path, fused: Sequence[Artifact], teachers: Sequence[str], rules: Rules, max_spread: float
) -> tuple[Tally, int]:
    """Writes the table; what became of the boxes, and how many images have no positive."""
    tally, empty = Tally(), 0
    with pq.ParquetWriter(path, pseudo.named_schema(teachers)) as writer:
        for shard in track(fused, "labelling shards", len(fused)):
            boxes = load_fused(shard)
            trust = box_weight(boxes.detections.spread, max_spread)
            labels, counts = pseudo.decide(boxes, load_regions(shard), rules, trust)
            tally += counts
            labelled = np.unique(labels.image_id[labels.kind == pseudo.POSITIVE])
            empty += shard.counts["images"] - len(labelled)
            writer.write_table(pseudo.to_arrow(labels, teachers))
    return tally, empty


def _read(path: Path) -> Iterator[PseudoLabels]:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield pseudo.from_arrow(file.read_row_group(group))


def iter_labels(labels: Artifact) -> Iterator[PseudoLabels]:
    """The pseudo-labels shard by shard."""
    return _read(labels.file(LABELS_FILE))


def load_labels(labels: Artifact) -> PseudoLabels:
    """All pseudo-labels at once: for small pools and tests."""
    return pseudo.from_arrow(pq.read_table(labels.file(LABELS_FILE)))


def load_unspoken(labels: Artifact) -> dict[int, list[int]]:
    """Image id to the classes for which no expert has spoken there."""
    return _by_image(pseudo.unspoken_from_arrow(pq.read_table(labels.file(UNSPOKEN_FILE))))


def _by_image(unspoken: NDArray[np.int64]) -> dict[int, list[int]]:
    missing: dict[int, list[int]] = {}
    for image_id, class_id in unspoken.tolist():
        missing.setdefault(image_id, []).append(class_id)
    return missing


def _images(index: Artifact, unspoken: NDArray[np.int64], classes: int) -> Iterator[dict[str, Any]]:
    missing = _by_image(unspoken)
    for record in iter_index(index):
        if len(missing.get(record.image_id, ())) == classes:
            continue  # nobody has seen it: it teaches nothing, and its file may not be readable any more
        yield {
            "id": record.image_id,
            "file_name": record.path,
            "width": record.width,
            "height": record.height,
            "unspoken": [class_id + 1 for class_id in missing.get(record.image_id, [])],
        }


def names_digest(index: Artifact) -> str:
    """Digest of the ids and names of the usable images, which stand in ``instances.json``."""
    digest = hashlib.sha256()
    for record in iter_index(index):
        digest.update(f"{record.image_id}\0{record.path}\0".encode())
    return digest.hexdigest()
