"""Pseudo-labels and detections as labelled sets, shard by shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from composition.detections import Detections
from composition.pseudo_labels import IGNORE, PseudoLabels
from tasks.formats.labelled import LabelledImage, LabelledSet, labelled_image
from tasks.image_index import ImageRecord, iter_index
from tasks.infer import load_detections
from tasks.label import iter_labels, load_unspoken
from tasks.store import Artifact


def pseudo_label_set(
    name: str, index: Artifact, labels: Artifact, classes: Sequence[str], root: Path
) -> LabelledSet:
    """The pseudo-labels of a pool.

    Args:
        name: How messages call it.
        index: The images.
        labels: What `tasks.label.label_pool` made of them.
        classes: The union classes.
        root: Folder of the images.
    """
    unspoken = load_unspoken(labels)
    return LabelledSet(name, tuple(classes), root, lambda: _with_images(index, iter_labels(labels), unspoken))


def detection_set(
    name: str, index: Artifact, shards: Sequence[Artifact], vocabulary: Sequence[str], root: Path
) -> LabelledSet:
    """The detections of one teacher on a pool, in its own vocabulary.

    Args:
        name: How messages call it.
        index: The images.
        shards: What `tasks.infer.run_inference` made of them.
        vocabulary: The teacher's class names.
        root: Folder of the images.
    """
    return LabelledSet(
        name, tuple(vocabulary), root, lambda: _with_images(index, map(load_detections, shards))
    )


def _with_images(
    index: Artifact,
    shards: Iterable[PseudoLabels] | Iterable[Detections],
    unspoken: Mapping[int, Sequence[int]] | None = None,
) -> Iterator[LabelledImage]:
    """Deals the rows out to the images; both come by rising image id."""
    groups, silent = _by_image(shards), unspoken or {}
    waiting = next(groups, None)
    for image in iter_index(index):
        missing = silent.get(image.image_id, ())
        if waiting is not None and waiting[0] == image.image_id:
            yield _labelled(image, waiting[1], missing)
            waiting = next(groups, None)
        else:
            yield labelled_image(image.path, image.width, image.height, unspoken=missing)


def _by_image(
    shards: Iterable[PseudoLabels] | Iterable[Detections],
) -> Iterator[tuple[int, PseudoLabels | Detections]]:
    for shard in shards:
        ids, starts = np.unique(shard.image_id, return_index=True)
        ends = [*starts.tolist()[1:], len(shard)]
        for image_id, start, end in zip(ids.tolist(), starts.tolist(), ends, strict=True):
            yield image_id, shard[start:end]


def _labelled(image: ImageRecord, rows: PseudoLabels | Detections, unspoken: Sequence[int]) -> LabelledImage:
    if isinstance(rows, PseudoLabels):
        score, ignore = rows.weight, rows.kind == IGNORE
    else:
        score, ignore = rows.score, None
    return labelled_image(
        image.path, image.width, image.height, rows.boxes, rows.class_id, score, ignore, unspoken
    )
