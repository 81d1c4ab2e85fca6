"""Running out of memory is no reason to give up: half of the batch is tried, and said.

Knows no particular model: works on the `predict` of any detector, and on the
error types of torch and of ONNX Runtime.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from composition import detections as table
from composition.detections import Detections
from composition.errors import UserError
from model_zoo.adapters.base import Detector, Image

log = logging.getLogger("detcompose")

# how runtimes without an error type of their own say it: ONNX Runtime's arena, cuDNN, OpenCV
_WORDS = ("out of memory", "failed to allocate memory", "insufficient memory", "cudnn_status_alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a smaller batch could work."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, Exception) and any(word in str(error).lower() for word in _WORDS)


def release() -> None:
    """Gives unused memory back to the device, so that a smaller batch finds it."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


class SparingDetector:
    """A detector that halves its batch when memory runs out, and stays at the smaller one.

    The detections do not depend on the batch (see `model_zoo.adapters.base`), so
    nothing else changes.

    Args:
        detector: Any detector.
        name: How messages call it.
    """

    def __init__(self, detector: Detector, name: str) -> None:
        self._detector = detector
        self._name = name
        self.limit: int | None = None

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Class names in the order of the class ids."""
        return self._detector.vocabulary

    def predict(self, images: Sequence[Image]) -> Detections:
        """Detects objects; see `model_zoo.adapters.base.Detector`.

        Raises:
            UserError: Not even a single image fits.
        """
        tables = []
        start = 0
        while start < len(images):
            part = images[start : start + (self.limit or len(images))]
            try:
                found = self._detector.predict(part)
            except Exception as error:
                if isinstance(error, UserError) or not is_out_of_memory(error):
                    raise
                self._halve(len(part), error)
            else:
                tables.append(replace(found, image_id=found.image_id + np.int64(start)))
                start += len(part)
                continue
            # outside of the handler: the error's traceback holds the activations of the failed batch
            release()
        return table.concatenate(tables) if tables else table.empty()

    def _halve(self, size: int, error: Exception) -> None:
        if size == 1:
            raise UserError(
                f"{self._name}: a single image does not fit into the memory of the device",
                "Free the device's memory, use a smaller detector, or set DETCOMPOSE_DEVICE=cpu.",
            ) from error
        self.limit = size // 2
        log.warning(
            "%s: out of memory with %d images at once; going on with %d", self._name, size, self.limit
        )
