"""From detections to pseudo-labels: map, filter, aggregate, shard by shard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from composition import detections as table
from composition import label_space as spaces
from composition import pseudo_labels as pseudo
from composition.aliases import require_known
from composition.detections import Detections
from composition.filtering import ScoreThreshold
from composition.fusion import Fuser, Nms, Wbf
from composition.label_space import LabelSpace
from tasks.image_index import load_index
from tasks.infer import load_detections
from tasks.progress import track
from tasks.step import step
from tasks.store import Artifact, Store, digest_of

METHOD_VERSION = 1
LABELS_FILE = "pseudo_labels.parquet"
COCO_FILE = "instances.json"


class FilterSettings(BaseModel):
    """Which detections are trusted enough to become pseudo-labels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float = Field(0.4, ge=0, le=1, description="Keep detections with at least this score.")
    per_class: dict[str, float] = Field(
        default_factory=dict, description="Thresholds of single classes of the label space."
    )

    def policy(self, classes: Sequence[str]) -> ScoreThreshold:
        """The filter for a label space.

        Raises:
            UserError: ``per_class`` names a class that is not in the label space.
        """
        position = {name: index for index, name in enumerate(classes)}
        for name in self.per_class:
            require_known(name, classes, "filter.per_class")
        return ScoreThreshold(
            self.threshold, {position[name]: value for name, value in self.per_class.items()}
        )


class FuseSettings(BaseModel):
    """How the teachers' boxes become one set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["nms", "wbf"] = Field(
        "wbf",
        description="nms: per-class suppression over all teachers, highest score wins; "
        "wbf: weighted boxes fusion.",
    )
    iou: float = Field(0.55, gt=0, le=1, description="Boxes of one class that overlap more are one object.")

    def fuser(self) -> Fuser:
        """The fuser itself."""
        return Nms(iou=self.iou) if self.method == "nms" else Wbf(iou=self.iou)


def labels_key(
    shards: Mapping[str, Sequence[Artifact]],
    space: LabelSpace,
    filtering: FilterSettings,
    fusing: FuseSettings,
) -> str:
    """Digest of everything that decides the pseudo-labels."""
    sources = {name: [shard.digest for shard in parts] for name, parts in shards.items()}
    return digest_of(
        "pseudo-labels",
        METHOD_VERSION,
        list(sources.items()),
        spaces.digest(space),
        filtering.model_dump(mode="json"),
        fusing.model_dump(mode="json"),
    )


def make_pseudo_labels(
    store: Store,
    index: Artifact,
    shards: Mapping[str, Sequence[Artifact]],
    space: LabelSpace,
    filtering: FilterSettings,
    fusing: FuseSettings,
) -> Artifact:
    """Maps, filters and fuses the teachers' detections.

    Args:
        store: Where the pseudo-labels go.
        index: The images.
        shards: Teacher name to its shards, all in the same order of images.
        space: The label space.
        filtering: Thresholds.
        fusing: The fuser.

    Returns:
        The artifact with ``pseudo_labels.parquet`` and ``instances.json`` (COCO).
    """
    key = labels_key(shards, space, filtering, fusing)
    found = store.find("pseudo-labels", key)
    if found:
        return found
    names = list(shards)
    policy = filtering.policy(space.classes)
    fuser = fusing.fuser()
    parts = []
    rounds = list(zip(*shards.values(), strict=True))
    for round_ in track(rounds, "aggregating shards", len(rounds)):
        tables = []
        for name, shard in zip(names, round_, strict=True):
            mapped = spaces.map_detections(space, name, load_detections(shard))
            tables.append(mapped[policy.keep(mapped)])
        parts.append(pseudo.from_fused(fuser.fuse(tables)))
    labels = pseudo.concatenate(parts)
    images = [
        {"id": r.image_id, "file_name": r.path, "width": r.width, "height": r.height}
        for r in load_index(index)
    ]
    coco = pseudo.to_coco(labels, images, space.classes, {"description": "pseudo-labels of detcompose"})
    inputs = {
        f"{name}/{number}": shard.digest
        for name, parts_ in shards.items()
        for number, shard in enumerate(parts_)
    }
    with store.write("pseudo-labels", key, {**inputs, "label-space": spaces.digest(space)}) as draft:
        pq.write_table(pseudo.to_arrow(labels, names), draft.file(LABELS_FILE))
        draft.file(COCO_FILE).write_text(json.dumps(coco))
        draft.counts = {
            "images": len(images),
            "labels": len(labels),
            "images_without_labels": len(images) - len(set(labels.image_id.tolist())),
        }
    return draft.artifact


aggregate = step(make_pseudo_labels, "aggregate")


def load_labels(labels: Artifact) -> pseudo.PseudoLabels:
    """Reads the pseudo-labels."""
    loaded: pa.Table = pq.read_table(labels.file(LABELS_FILE))
    return pseudo.from_arrow(loaded)


def as_detections(labels: pseudo.PseudoLabels) -> Detections:
    """The positive pseudo-labels as detections, for drawing and measuring."""
    positive = labels.kind == pseudo.POSITIVE
    return table.make(
        labels.image_id[positive], labels.boxes[positive], labels.weight[positive], labels.class_id[positive]
    )
