"""From an RGB photograph to network input, and boxes back again.

One image passes through one `Preprocessor`: resize into a reused canvas, split
into channels, one conversion to float. Nothing of image size is allocated per
call, because this work competes with the forward pass for the same cores.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from composition.errors import UserError
from model_zoo.adapters.base import Image
from model_zoo.bundle import InputSpec


class Placement(NamedTuple):
    """Where an image lies on the network's canvas.

    Attributes:
        scale_x: Network pixels per image pixel, horizontally. The two scales
            differ for ``stretch``, and slightly for a letterbox, whose sides
            are rounded to whole pixels.
        scale_y: The same, vertically.
        left: Network column where the image begins.
        top: Network row where the image begins.
        width: Width of the original image in pixels.
        height: Height of the original image in pixels.
    """

    scale_x: float
    scale_y: float
    left: int
    top: int
    width: int
    height: int

    def to_image(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes in network pixels to boxes in pixels of the original image, clipped to it.

        Args:
            boxes: (N, 4) x1 y1 x2 y2.

        Returns:
            (N, 4) float32; boxes that lie in the padding come out without area.
        """
        offset = np.array([self.left, self.top] * 2, np.float32)
        scale = np.array([self.scale_x, self.scale_y] * 2, np.float32)
        limit = np.array([self.width, self.height] * 2, np.float32)
        return np.clip((boxes - offset) / scale, 0, limit)


def place(spec: InputSpec, width: int, height: int) -> tuple[Placement, int, int]:
    """Where an image of the given size goes.

    Args:
        spec: Size of the canvas and the way to fill it.
        width: Image width in pixels.
        height: Image height in pixels.

    Returns:
        The placement and the width and height of the image on the canvas, in
        network pixels (at least 1 each, whatever the aspect ratio).
    """
    if spec.resize == "stretch":
        inner_width, inner_height = spec.width, spec.height
    else:
        scale = min(spec.width / width, spec.height / height)
        inner_width = min(spec.width, max(1, round(width * scale)))
        inner_height = min(spec.height, max(1, round(height * scale)))
    centred = spec.resize == "letterbox_center"
    left = (spec.width - inner_width) // 2 if centred else 0
    top = (spec.height - inner_height) // 2 if centred else 0
    placement = Placement(inner_width / width, inner_height / height, left, top, width, height)
    return placement, inner_width, inner_height


def check_image(image: Image) -> None:
    """Checks that an image is what the protocol asks for.

    Raises:
        UserError: It is not.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise UserError(
            f"an image of shape {image.shape} and type {image.dtype} cannot be detected on",
            "Pass RGB uint8 pixels of shape (height, width, 3).",
        )


class Preprocessor:
    """Fills network input buffers; keeps its scratch memory, so one per thread.

    Args:
        spec: What the network wants.
    """

    def __init__(self, spec: InputSpec) -> None:
        self._spec = spec
        self._canvas = np.empty((spec.height, spec.width, 3), np.uint8)
        self._planes = [np.empty((spec.height, spec.width), np.uint8) for _ in range(3)]
        self._factor = (1 / np.asarray(spec.std, np.float64)).astype(np.float32)
        self._shift = (-np.asarray(spec.mean, np.float64) / np.asarray(spec.std)).astype(np.float32)
        self._order = (0, 1, 2) if spec.color == "rgb" else (2, 1, 0)

    def fill(self, image: Image, out: NDArray[Any]) -> Placement:
        """Writes ``(pixel - mean) / std`` of one resized image.

        Args:
            image: (height, width, 3) uint8 RGB.
            out: (3, input height, input width) float array to fill.

        Returns:
            The placement, to map boxes back.

        Raises:
            UserError: The image is not what the protocol asks for.
        """
        check_image(image)
        height, width = image.shape[:2]
        placement, inner_width, inner_height = place(self._spec, width, height)
        right, bottom = placement.left + inner_width, placement.top + inner_height
        canvas = self._canvas
        window = canvas[placement.top : bottom, placement.left : right]
        cv2.resize(image, (inner_width, inner_height), dst=window, interpolation=cv2.INTER_LINEAR)
        pad = self._spec.pad_value
        canvas[: placement.top] = pad
        canvas[bottom:] = pad
        canvas[:, : placement.left] = pad
        canvas[:, right:] = pad
        cv2.split(canvas, self._planes)
        for channel, source in enumerate(self._order):
            plane, target = self._planes[source], out[channel]
            factor, shift = self._factor[channel], self._shift[channel]
            if factor == 1:
                target[...] = plane
            else:
                np.multiply(plane, factor, out=target, casting="same_kind")
            if shift:
                target += shift
        return placement
