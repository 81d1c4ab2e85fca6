"""Fusing block of images by block of images, side by side on all cores.

The columns that fusion needs on its way are only as long as a block, and their
memory is used again for the next.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from composition import detections as table
from composition.detections import Detections
from composition.errors import UserError
from composition.fusion.base import Fused, check, rising

ROWS = 65_536  # of all teachers in a block: some 10 MB in all

FuseBlock = Callable[[Sequence[Detections]], Fused]


def in_blocks(tables: Sequence[Detections], fuse: FuseBlock, rows: int = ROWS) -> Fused:
    """Fuses block by block.

    Args:
        tables: One per teacher; quickest if sorted by image, as the contract
            of the table has it.
        fuse: Fuses a block. The result for an image must not depend on other
            images. It is called from several threads.
        rows: Rows of all teachers to aim at in a block.

    Returns:
        The results one after the other, in the order of the images.

    Raises:
        UserError: What ``fuse`` raises; rows are counted in the whole tables.
    """
    blocks = split(tables, rows)
    try:
        if len(blocks) == 1:
            return fuse(blocks[0])
        with ThreadPoolExecutor(min(_cores(), len(blocks))) as threads:
            parts = list(threads.map(fuse, blocks))
    except UserError:
        check(tables)  # names the row in the whole table
        raise
    return Fused(
        table.concatenate(part.detections for part in parts),
        np.concatenate([part.teachers for part in parts]),
        np.concatenate([part.scores for part in parts]),
    )


def split(tables: Sequence[Detections], rows: int = ROWS) -> list[list[Detections]]:
    """Cuts tables between images into blocks of about ``rows`` rows of all tables.

    Returns:
        Blocks in the order of their images; at least one. Slices of the tables,
        where these are sorted by image.
    """
    tables = [part if rising(part.image_id) else table.sort(part) for part in tables]
    total = sum(map(len, tables))
    if total <= rows:
        return [tables]
    longest = max(tables, key=len)
    step = max(1, rows * len(longest) // total)
    edges = np.unique(longest.image_id[::step])[1:]
    cuts = [np.searchsorted(part.image_id, edges).tolist() for part in tables]
    return [
        [part[low:high] for part, low, high in zip(tables, lows, highs, strict=True)]
        for lows, highs in zip(
            zip(*([0, *cut] for cut in cuts), strict=True),
            zip(*([*cut, len(part)] for cut, part in zip(cuts, tables, strict=True)), strict=True),
            strict=True,
        )
    ]


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
