"""The first pass over the pool: map and fuse, shard by shard.

Every fused shard is an artifact of its own: a killed run goes on at the first
missing one, and another threshold fuses nothing again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import reduce

import numpy as np
import pyarrow.parquet as pq

from composition import label_space as spaces
from composition import pseudo_labels as pseudo
from composition import statistics
from composition.detections import Detections
from composition.fusion import Expert, Fused, Fuser, sorted_together
from composition.label_space import LabelSpace
from composition.statistics import Statistics
from tasks import fusers, unanswered
from tasks.infer import load_detections
from tasks.progress import track
from tasks.step import step
from tasks.store import Artifact, Store, digest_of

METHOD_VERSION = 2
FUSED_FILE = "fused.parquet"
REGIONS_FILE = "regions.parquet"
STATISTICS_FILE = "statistics.json"


def fuse_shards(
    store: Store,
    shards: Mapping[str, Sequence[Artifact]],
    space: LabelSpace,
    fuser: Fuser,
    floor: float,
) -> list[Artifact]:
    """Maps the teachers' detections into the union classes and fuses them.

    Args:
        store: Where the fused shards go.
        shards: Teacher name to its shards, all in the same order of images, in
            the label space's order of teachers.
        space: The label space.
        fuser: The fuser, calibrated where it can be.
        floor: Raw scores below it do not take part.

    Returns:
        One artifact per shard with ``fused.parquet``, ``regions.parquet`` (what
        broader classes leave open) and ``statistics.json``, in the order of the
        images.
    """
    identity = [METHOD_VERSION, spaces.digest(space), fusers.to_json(fuser), floor]
    rounds = list(zip(*shards.values(), strict=True))
    names = list(shards)
    return [
        _fused_shard(store, dict(zip(names, round_, strict=True)), space, fuser, floor, identity)
        for round_ in track(rounds, "fusing shards", len(rounds))
    ]


def _fused_shard(
    store: Store,
    parts: Mapping[str, Artifact],
    space: LabelSpace,
    fuser: Fuser,
    floor: float,
    identity: Sequence[object],
) -> Artifact:
    key = digest_of("fused", *identity, [(name, part.digest) for name, part in parts.items()])
    found = store.find("fused", key)
    if found:
        return found
    raw = {name: load_detections(part) for name, part in parts.items()}
    raw = {name: rows[rows.score >= np.float32(floor)] for name, rows in raw.items()}
    images = next(iter(parts.values())).counts["images"]
    silent = [set(unanswered.load(part)) for part in parts.values()]
    fused, regions, sums = fuse_raw(raw, space, fuser, images, silent)
    inputs = {**{name: part.digest for name, part in parts.items()}, "label-space": spaces.digest(space)}
    with store.write("fused", key, inputs) as draft:
        pq.write_table(pseudo.fused_to_arrow(fused), draft.file(FUSED_FILE))
        pq.write_table(pseudo.fused_to_arrow(regions), draft.file(REGIONS_FILE))
        draft.file(STATISTICS_FILE).write_text(json.dumps(statistics.to_dict(sums)))
        draft.counts = {"images": images, "boxes": len(fused), "regions": len(regions)}
    return draft.artifact


def fuse_raw(
    raw: Mapping[str, Detections],
    space: LabelSpace,
    fuser: Fuser,
    images: int,
    silent: Sequence[Collection[int]],
) -> tuple[Fused, Fused, Statistics]:
    """Maps detections into the union classes and fuses them.

    Args:
        raw: Teacher name to its detections in its own classes.
        space: The label space.
        fuser: The fuser.
        images: How many images they are of.
        silent: Per teacher, the ids of the images on which it has not spoken.

    Returns:
        The fused boxes, what broader classes leave open, and the statistics of the boxes.
    """
    tables = [spaces.map_detections(space, name, rows) for name, rows in raw.items()]
    fused, sums = fuse_answered(tables, space, fuser, images, silent)
    return fused, pseudo.open_regions(space, raw, fuser), sums


def fuse_answered(
    tables: Sequence[Detections],
    space: LabelSpace,
    fuser: Fuser,
    images: int,
    silent: Sequence[Collection[int]],
) -> tuple[Fused, Statistics]:
    """Fuses, and counts, with nobody's silence held against a box where he has not spoken.

    Args:
        tables: One per teacher, in the union classes.
        space: The label space.
        fuser: The fuser.
        images: How many images the tables are of.
        silent: Per teacher, the ids of the images on which it has not spoken.

    Returns:
        The fused boxes, sorted, and their statistics.
    """
    groups: dict[tuple[bool, ...], list[int]] = {}
    for image in sorted(set().union(*silent)):
        groups.setdefault(tuple(image in ids for ids in silent), []).append(image)
    apart = [image for members in groups.values() for image in members]
    everybody = (False,) * len(tables)
    results = []
    for absent, members in [(everybody, apart), *groups.items()]:
        rest = absent == everybody
        chosen = [part[np.isin(part.image_id, members, invert=rest)] for part in tables] if apart else tables
        coverage = spaces.coverage(space) & ~np.array(absent)
        suited = fuser
        if not rest and isinstance(fuser, Expert):
            suited = replace(fuser, coverage=tuple(map(tuple, coverage.tolist())))
        fused = pseudo.with_spread(suited.fuse(chosen), chosen)
        count = images - len(apart) if rest else len(members)
        results.append((fused, statistics.statistics_of(fused, chosen, coverage, count)))
    return sorted_together([fused for fused, _ in results]), reduce(statistics.merge, [s for _, s in results])


aggregate = step(fuse_shards, "aggregate")


def load_fused(shard: Artifact) -> Fused:
    """The fused boxes of a shard."""
    return pseudo.fused_from_arrow(pq.read_table(shard.file(FUSED_FILE)))


def load_regions(shard: Artifact) -> Fused:
    """What broader classes leave open in a shard."""
    return pseudo.fused_from_arrow(pq.read_table(shard.file(REGIONS_FILE)))


def load_statistics(shards: Sequence[Artifact]) -> Statistics:
    """The statistics of all shards together: the reduce of the two passes."""
    return reduce(statistics.merge, map(_statistics, shards))


def _statistics(shard: Artifact) -> Statistics:
    return statistics.from_dict(json.loads(shard.file(STATISTICS_FILE).read_text()))
