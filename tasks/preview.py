"""What teachers, fusion and thresholds make of some images, to be looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from composition import detections as table
from composition.detections import Detections
from composition.fusion import Fused
from composition.label_space import LabelSpace
from composition.pseudo_labels import IGNORE, POSITIVE, PseudoLabels, concatenate
from model_zoo.images import BadImageError
from tasks.aggregate import load_fused
from tasks.image_index import ImageRecord, iter_index
from tasks.infer import load_images
from tasks.label import iter_labels
from tasks.pixels import read_record
from tasks.store import Artifact, digest_of


@dataclass(frozen=True, slots=True)
class Seen:
    """One image with what everybody says about it.

    Attributes:
        record: The image.
        teachers: Teacher to its detections, in its own classes.
        fused: What fusion made of them, in the union classes, before thresholds.
        labels: The pseudo-labels, ignore regions included.
    """

    record: ImageRecord
    teachers: dict[str, Detections]
    fused: Detections
    labels: PseudoLabels

    @property
    def positive(self) -> PseudoLabels:
        """What trains as an object."""
        return self.labels[self.labels.kind == POSITIVE]

    @property
    def ignored(self) -> PseudoLabels:
        """What neither trains as an object nor as background."""
        return self.labels[self.labels.kind == IGNORE]

    @property
    def filtered(self) -> Detections:
        """Fused boxes that became neither, and so train as background."""
        kept = {_identity(*row) for row in zip(self.labels.class_id, self.labels.boxes, strict=True)}
        rows = zip(self.fused.class_id, self.fused.boxes, strict=True)
        return self.fused[np.array([_identity(*row) not in kept for row in rows], bool)]

    def pixels(self) -> NDArray[np.uint8] | None:
        """(height, width, 3) uint8 RGB; None if the image is gone or has changed."""
        try:
            return read_record(self.record)
        except BadImageError:
            return None


@dataclass(frozen=True, slots=True)
class Preview:
    """What a preview shows.

    Attributes:
        name: Of the recipe.
        space: The label space.
        images: The images, by path.
        whole: Whether thresholds and calibration are those of the whole pool.
        calibrated: Whether the teachers' scores are calibrated.
        pool: How many images the pool has.
    """

    name: str
    space: LabelSpace
    images: tuple[Seen, ...]
    whole: bool
    calibrated: bool
    pool: int


def _identity(class_id: int, box: NDArray[np.float32]) -> tuple[int, bytes]:
    return int(class_id), np.ascontiguousarray(box).tobytes()


def ranked(paths: Sequence[str]) -> list[str]:
    """Paths in an order that has nothing to do with folders and names: by a hash of each."""
    return sorted(paths, key=lambda path: digest_of("preview", path))


def pick(
    index: Artifact, labels: Artifact, space: LabelSpace, count: int, name: str | None
) -> list[ImageRecord]:
    """The images to show: the first so many by `ranked`, with a box of a class if one is named."""
    records = {record.path: record for record in iter_index(index)}
    if name is not None:
        wanted = space.classes.index(name)
        held: set[int] = set()
        for part in iter_labels(labels):
            held |= set(part.image_id[part.class_id == wanted].tolist())
        records = {path: record for path, record in records.items() if record.image_id in held}
    chosen = ranked(list(records))[:count]
    return [records[path] for path in sorted(chosen)]


def collect(
    records: Sequence[ImageRecord],
    shards: Mapping[str, Sequence[Artifact]],
    fused: Sequence[Artifact],
    labels: Artifact,
) -> tuple[Seen, ...]:
    """Everything that was said about some images; shards are read one after the other."""
    ids = np.array([record.image_id for record in records], np.int64)
    found = {name: load_images(parts, ids) for name, parts in shards.items()}
    boxes = table.concatenate(_only(load_fused(part), ids) for part in fused)
    decided = concatenate([part[np.isin(part.image_id, ids)] for part in iter_labels(labels)])
    return tuple(
        Seen(
            record,
            {name: rows[rows.image_id == record.image_id] for name, rows in found.items()},
            boxes[boxes.image_id == record.image_id],
            decided[decided.image_id == record.image_id],
        )
        for record in records
    )


def _only(part: Fused, ids: NDArray[np.int64]) -> Detections:
    return part.detections[np.isin(part.detections.image_id, ids)]
