"""From a network's own class numbers to a vocabulary without gaps.

Networks count differently: torchvision's have the background as class 0, those
trained on COCO keep its 91 numbers of which ten were never used.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from composition.errors import UserError

_NEVER_USED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_NUMBERS = tuple(number for number in range(1, 91) if number not in _NEVER_USED)
"""The 80 category ids of COCO 2017."""
_BACKGROUND = ("__background__", "background", "bg")
_UNUSED = ("N/A", "n/a", "none")


def number_classes(
    names: Sequence[str], network: int, background: bool | None, source: str
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Which class number of a network every class name has.

    Args:
        names: The class list, in order; it may hold the background first and
            fillers for unused numbers (``N/A``).
        network: How many classes the network tells apart, the background included.
        background: Whether number 0 is the background; None = where the list
            is one shorter than the network.
        source: Who says so, for error texts.

    Returns:
        The vocabulary and, as long, the network's numbers.

    Raises:
        UserError: The list has another length.
    """
    has_background = bool(names) and names[0] in _BACKGROUND
    if has_background and background is False:
        names, has_background = names[1:], False
    kept = [(name, number) for number, name in enumerate(names) if name not in (*_BACKGROUND, *_UNUSED)]
    if len(names) == network and (has_background or background is not True):
        return tuple(name for name, _ in kept), tuple(number for _, number in kept)
    if len(names) == network - 1 and background is not False and not has_background:
        return tuple(name for name, _ in kept), tuple(number + 1 for _, number in kept)
    gap_free = len(COCO_NUMBERS)
    if len(names) == gap_free and network in (90, 91):
        shift = 0 if network == 91 else 1
        return tuple(names), tuple(number - shift for number in COCO_NUMBERS)
    classes = network - 1 if background else network
    counted = " (and the background)" if background else ""
    raise UserError(
        f"{source}: the class list has {len(names)} names, the network {classes} classes{counted}",
        "Give the class list that the network was trained with, in its order.",
    )


def lookup(numbers: Sequence[int], network: int) -> NDArray[np.int32]:
    """By network class number the id in the vocabulary; -1 where there is none."""
    table = np.full(network, -1, np.int32)
    table[list(numbers)] = np.arange(len(numbers), dtype=np.int32)
    return table
