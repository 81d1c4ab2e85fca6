"""Images with boxes, whatever file they came from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image and its boxes.

    Attributes:
        name: Path relative to the set's root, with forward slashes.
        width: Pixels, after EXIF orientation.
        height: Pixels, after EXIF orientation.
        boxes: (N, 4) float64, x1 y1 x2 y2 in pixels.
        class_id: (N,) int32, index into the set's classes.
        score: (N,) float64 in [0, 1]; NaN where there is none, as in labels made by a person.
        ignore: (N,) bool: a region in which nothing is known, rather than an object.
        unspoken: Classes for which nobody has looked here: without a box they are not background.
    """

    name: str
    width: int
    height: int
    boxes: NDArray[np.float64]
    class_id: NDArray[np.int32]
    score: NDArray[np.float64]
    ignore: NDArray[np.bool_]
    unspoken: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.class_id)

    def rows(self) -> Iterator[tuple[list[float], int, float, bool]]:
        """Corners, class, score and whether it is an ignore region, box after box."""
        return zip(
            self.boxes.tolist(),
            self.class_id.tolist(),
            self.score.tolist(),
            self.ignore.tolist(),
            strict=True,
        )


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """Images with boxes of known classes; read one after the other, never all at once.

    Attributes:
        name: How messages call it.
        classes: In the order of the class ids.
        root: Folder of the image files.
        read: Gives the images by rising name, from the start at every call.
    """

    name: str
    classes: tuple[str, ...]
    root: Path
    read: Callable[[], Iterator[LabelledImage]]

    def __iter__(self) -> Iterator[LabelledImage]:
        return self.read()


def labelled_image(
    name: str,
    width: int,
    height: int,
    boxes: object = (),
    class_id: object = (),
    score: object | None = None,
    ignore: object | None = None,
    unspoken: Iterable[int] = (),
) -> LabelledImage:
    """A `LabelledImage` of anything array-like; without scores they are NaN, without ``ignore`` all False."""
    ids = np.asarray(class_id, np.int32).reshape(-1)
    return LabelledImage(
        name,
        width,
        height,
        np.asarray(boxes, np.float64).reshape(-1, 4),
        ids,
        np.full(len(ids), np.nan) if score is None else np.asarray(score, np.float64).reshape(-1),
        np.zeros(len(ids), bool) if ignore is None else np.asarray(ignore, bool).reshape(-1),
        tuple(unspoken),
    )
