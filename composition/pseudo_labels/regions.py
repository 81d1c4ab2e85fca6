"""Regions that broader classes leave open, and what is known about fused boxes beside their score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from composition import detections as table
from composition.detections import Detections
from composition.fusion import Expert, Fused, Fuser, Nms
from composition.label_space import LabelSpace, ignore_regions

SAME_REGION_IOU = 0.8


def open_regions(space: LabelSpace, detections: Mapping[str, Detections], fuser: Fuser) -> Fused:
    """What the teachers' broader classes leave open, over all teachers.

    A region that several teachers (or several classes of one) leave open for
    the same class is kept once: regions with IoU > 0.8 are suppressed by the
    one with the highest score.

    Args:
        space: The label space.
        detections: Every teacher's own detections, in its own vocabulary, in
            the order of the label space.
        fuser: The fuser of the boxes; a calibrated `Expert` also knows what a
            score of a region is worth, all others leave it as it is.

    Returns:
        One row for each region and union class; score and ``scores`` are
        calibrated where the fuser is.
    """
    tables = []
    for position, (name, found) in enumerate(detections.items()):
        regions = ignore_regions(space, name, found)
        if isinstance(fuser, Expert) and fuser.expertise is not None:
            worth = fuser.expertise[position].calibrated(regions.score)
            regions = table.sort(replace(regions, score=worth.astype(np.float32)))
        tables.append(regions)
    return Nms(iou=SAME_REGION_IOU).fuse(tables)


def with_spread(fused: Fused, tables: Sequence[Detections]) -> Fused:
    """Gives every fused box the mean spread of the boxes in it, weighted by their scores.

    Args:
        fused: What a fuser made of ``tables``.
        tables: One per teacher, in the union classes.

    Returns:
        The same boxes; spread NaN where no member has one.
    """
    if all(np.isnan(part.spread).all() for part in tables):
        return fused
    total, mass = np.zeros(len(fused)), np.zeros(len(fused))
    for column, part in enumerate(tables):
        score = fused.scores[:, column]
        spread = _spread_of(fused.detections, score, part)
        known = ~np.isnan(spread)
        # a score of 0 must not make the mean undefined
        weight = np.where(known, score.astype(np.float64) + 1e-9, 0)
        total += weight * np.where(known, spread, 0)
        mass += weight
    mean = np.divide(total, mass, out=np.full(len(fused), np.nan), where=mass > 0)
    return replace(fused, detections=replace(fused.detections, spread=mean.astype(np.float32)))


def _spread_of(fused: Detections, score: NDArray[np.float32], members: Detections) -> NDArray[np.float64]:
    """(N,) spread of one teacher's row in each fused box, found by image, class and score; else NaN."""
    spread = np.full(len(fused), np.nan)
    if not len(members):
        return spread
    rows = np.lexsort((members.score, members.class_id, members.image_id))
    keys = _keys(members.image_id[rows], members.class_id[rows], members.score[rows])
    wanted = _keys(fused.image_id, fused.class_id, np.where(np.isnan(score), -1, score).astype(np.float32))
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    hit = keys[place] == wanted
    spread[hit] = members.spread[rows[place[hit]]]
    return spread


def _keys(
    image_id: NDArray[np.int64], class_id: NDArray[np.int32], score: NDArray[np.float32]
) -> NDArray[np.void]:
    """Image, class and score as one value that compares like the three one after the other."""
    kind = np.dtype([("image", np.int64), ("class", np.int64), ("score", np.float32)])
    keys = np.empty(len(image_id), kind)
    keys["image"], keys["class"], keys["score"] = image_id, class_id, score
    return keys
