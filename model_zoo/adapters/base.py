"""The protocol that every detector runtime is put behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from composition.detections import Detections
from composition.errors import UserError

Image = NDArray[np.uint8]
"""(height, width, 3) uint8, RGB, already EXIF-oriented."""


@dataclass(frozen=True, slots=True)
class InferenceSettings:
    """What the caller may choose at inference; everything else is in the bundle.

    Attributes:
        score_floor: Detections below it are not returned.
        max_detections: At most this many per image, best scores first.
        threads: CPU threads a runtime may use; 0 = all cores of the machine.
        device: Torch-style device, "cpu", "cuda:0", ...; adapters without GPU
            support ignore it.
        half: Networks of torch compute in float16 where that is safe, on a GPU
            only; moves boxes by fractions of a pixel.
    """

    score_floor: float = 0.05
    max_detections: int = 100
    threads: int = 0
    device: str = "cpu"
    half: bool = False


class UnansweredError(UserError):
    """A teacher has not spoken about some images of a batch: that is not "nothing to see".

    Raised by detectors that may fail image by image (services behind a
    network), after their own retries. An exception, so that a caller that does
    not know of it stops instead of taking silence for an empty picture.

    Args:
        name: The detector.
        found: Detections of the images that were answered, as `Detector.predict` returns them.
        reasons: Position in the batch to the reason, for every image without an answer.
        images: Size of the batch.
    """

    def __init__(self, name: str, found: Detections, reasons: Mapping[int, str], images: int) -> None:
        first = next(iter(reasons.values()))
        super().__init__(
            f"{name} did not answer for {len(reasons)} of {images} images: {first}",
            "Run again when the service is well; what it answered is not asked again by `compose`.",
        )
        self.found, self.reasons = found, dict(reasons)


class Detector(Protocol):
    """A loaded detector."""

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Class names in the order of the class ids that `predict` returns."""

    def predict(self, images: Sequence[Image]) -> Detections:
        """Detects objects in a batch of images of any sizes.

        Args:
            images: RGB uint8 images; sizes may differ within the batch.

        Returns:
            Detections whose ``image_id`` is the position in ``images``, boxes
            in pixels of each original image, clipped to it, sorted (see
            `composition.detections.sort`). The result for an image does not
            depend on the other images of the batch (within float tolerance).

        Raises:
            UserError: The detector or an image cannot be used.
            UnansweredError: Some images got no answer.
        """
