"""What a served detector takes and returns, as an MLflow signature."""

from __future__ import annotations

from mlflow.models.signature import ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, Object, ParamSchema, ParamSpec, Property, Schema

IMAGE = "image"
THRESHOLD = "threshold"
DEFAULT_THRESHOLD = 0.3


def signature() -> ModelSignature:
    """One column of images in base64; a size and a list of detections an image."""
    detection = Object(
        [
            Property("class", DataType.string),
            Property("score", DataType.double),
            Property("box", Array(DataType.double)),
        ]
    )
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, IMAGE)]),
        outputs=Schema(
            [
                ColSpec(DataType.long, "width"),
                ColSpec(DataType.long, "height"),
                ColSpec(Array(detection), "detections"),
            ]
        ),
        params=ParamSchema([ParamSpec(THRESHOLD, DataType.double, DEFAULT_THRESHOLD)]),
    )
