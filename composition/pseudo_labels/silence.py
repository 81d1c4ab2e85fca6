"""Which classes nobody has spoken about on which images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from composition.errors import UserError
from composition.label_space import LabelSpace, coverage

SCHEMA = pa.schema([("image_id", pa.int64()), ("class_id", pa.int32())])


def unspoken(space: LabelSpace, failed: Mapping[str, Collection[int]]) -> NDArray[np.int64]:
    """Pairs of image and class for which no expert has spoken.

    There the absence of a box means nothing, so there must be no negative loss.

    Args:
        space: The label space.
        failed: Teacher to the ids of the images on which it said nothing at
            all (it failed or was kept out); teachers left out spoke on all.

    Returns:
        (P, 2) int64, image id and class id, rising. A class without any expert
        (only broader classes) is unspoken only where its regions say so.

    Raises:
        UserError: A teacher that is not in the label space.
    """
    names: Sequence[str] = list(space.teachers)
    for name in failed:
        if name not in names:
            raise UserError(
                f"images are given on which teacher {name!r} failed, but the label space does not know it",
                f"The teachers are: {', '.join(names)}.",
            )
    sees = coverage(space)
    images = np.unique(np.array([i for ids in failed.values() for i in ids], np.int64))
    if not len(images):
        return np.empty((0, 2), np.int64)
    spoke = np.stack([~np.isin(images, list(failed.get(name, ()))) for name in names], axis=1)
    # (I, C): whether any teacher that can see the class spoke on the image
    heard = (spoke.astype(np.int64) @ sees.T.astype(np.int64)) > 0
    rows, classes = np.nonzero(~heard & sees.any(axis=1))
    return np.stack([images[rows], classes], axis=1)


def unspoken_to_arrow(pairs: NDArray[np.int64]) -> pa.Table:
    """The pairs in the schema of ``unspoken.parquet``."""
    columns = [pa.array(pairs[:, i], type=field.type) for i, field in enumerate(SCHEMA)]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def unspoken_from_arrow(rows: pa.Table) -> NDArray[np.int64]:
    """The inverse of `unspoken_to_arrow`."""
    return np.stack([rows.column(name).to_numpy().astype(np.int64) for name in SCHEMA.names], axis=1)
