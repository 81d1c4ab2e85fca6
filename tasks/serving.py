"""A registered detector behind ``mlflow models serve``: images in base64 in, detections out.

MLflow's pyfunc flavour names this module as its loader, so that a model version
holds data only and what runs is the detcompose that is installed.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from composition.errors import UserError
from model_zoo import bundle
from model_zoo.adapters.base import InferenceSettings
from model_zoo.adapters.registry import open_detector
from model_zoo.images import BadImageError, decode_rgb
from tasks.predict import detection_list
from tasks.registry import BUNDLE, ONNX
from tasks.serving_schema import DEFAULT_THRESHOLD, IMAGE, THRESHOLD

SCORE_FLOOR = 0.05
"""Lowest threshold that a request can ask for."""
MAX_IMAGES = 64
"""Per request: the server decodes them one after the other, but their base64 is in memory at once."""
MAX_BASE64 = 64 * 2**20
"""Letters of one image."""


def _load_pyfunc(path: str) -> ServedDetector:
    """MLflow's entry point.

    Args:
        path: The version's ``data`` folder.
    """
    return ServedDetector(Path(path))


class ServedDetector:
    """Predicts on base64 images.

    Args:
        folder: Holds ``bundle/`` and perhaps ``onnx/``, which is then used.
    """

    def __init__(self, folder: Path) -> None:
        part = folder / ONNX
        self._detector = open_detector(
            part if (part / bundle.MANIFEST).is_file() else folder / BUNDLE,
            InferenceSettings(score_floor=SCORE_FLOOR),
        )

    def predict(self, data: Any, params: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Detects objects.

        Args:
            data: A pandas DataFrame with the column ``image``: JPEG, PNG, BMP, WebP or TIFF files in base64.
            params: ``threshold``: lowest score returned, at least `SCORE_FLOOR`.

        Returns:
            Per image ``{"width", "height", "detections": [{"class", "score", "box"}]}``,
            boxes as x1 y1 x2 y2 in pixels of the upright image.

        Raises:
            RefusedRequest: The request is at fault; the server answers with status 400.
        """
        threshold = _threshold(params)
        texts = data[IMAGE].tolist()
        if not 0 < len(texts) <= MAX_IMAGES:
            raise RefusedRequest(f"{len(texts)} images; send 1 to {MAX_IMAGES} a request")
        return [self._predict(position, text, threshold) for position, text in enumerate(texts)]

    def _predict(self, position: int, text: Any, threshold: float) -> dict[str, Any]:
        try:
            image = decode_rgb(_bytes(text))
        except BadImageError as error:
            raise RefusedRequest(f"image {position}: {error}") from None
        try:
            found = self._detector.predict([image])
        except UserError as error:
            raise RefusedRequest(f"image {position}: {error}") from None
        height, width = image.shape[:2]
        kept = found[found.score >= threshold]
        return {
            "width": width,
            "height": height,
            "detections": detection_list(kept, self._detector.vocabulary),
        }


def _threshold(params: Mapping[str, Any] | None) -> float:
    value = (params or {}).get(THRESHOLD, DEFAULT_THRESHOLD)
    if not SCORE_FLOOR <= value <= 1:  # also NaN
        raise RefusedRequest(f"{THRESHOLD} is {value}; it lies between {SCORE_FLOOR} and 1")
    return float(value)


def _bytes(text: Any) -> bytes:
    if not isinstance(text, str):
        raise BadImageError(f"is not a text in base64 but {type(text).__name__}")
    if len(text) > MAX_BASE64:
        raise BadImageError(f"has {len(text):,} letters of base64; the limit is {MAX_BASE64:,}")
    try:
        # data URLs are what browsers make of files
        return base64.b64decode(text.partition(";base64,")[2] or text, validate=True)
    except (binascii.Error, ValueError):
        raise BadImageError("is not valid base64") from None


class RefusedRequest(MlflowException):
    """The request is at fault: status 400 and the reason, nothing else.

    MLflow's server writes the whole request before the message of an exception,
    and that would send every image back.
    """

    def __init__(self, reason: str) -> None:
        self._reason = reason
        super().__init__(reason, error_code=INVALID_PARAMETER_VALUE)

    @property
    def message(self) -> str:
        """The reason."""
        return self._reason

    @message.setter
    def message(self, value: str) -> None:
        pass
