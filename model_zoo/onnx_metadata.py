"""What our ONNX exports say about themselves: one JSON value in the file's metadata.

With it a file needs no options when it comes back as a teacher, and whoever
else runs it can read how it wants to be fed. It may come from anywhere, so it
is checked like a manifest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from composition.errors import UserError
from model_zoo.bundle import InputSpec, OutputSpec, check_vocabulary, first_problem

METADATA = "detcompose"
"""Key of the metadata entry."""
_WAY_OUT = "Export the detector again."


class Description(BaseModel):
    """The entry's content.

    Attributes:
        version: Of this description.
        vocabulary: Class names in order.
        input: Preprocessing, see `model_zoo.bundle.InputSpec`.
        output: Post-processing, see `model_zoo.bundle.OutputSpec`.
        score_floor: Detections below it are left out by the network.
        max_detections: At most so many detections an image leave the network.
        provenance: Where it comes from, JSON values.
        license: Licence of the weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    version: Literal[1] = 1
    vocabulary: tuple[str, ...] = Field(min_length=1)
    input: InputSpec
    output: OutputSpec
    score_floor: float = Field(ge=0, le=1)
    max_detections: int = Field(gt=0)
    provenance: dict[str, Any] = {}
    license: str = "unknown"

    @field_validator("vocabulary")
    @classmethod
    def _vocabulary(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check_vocabulary(value, "vocabulary")
        return value


def parse(properties: Mapping[str, str], path: Path) -> Description | None:
    """Reads the entry.

    Args:
        properties: The file's metadata.
        path: The file, for the errors.

    Returns:
        The description, or None where there is none.

    Raises:
        UserError: It is damaged.
    """
    text = properties.get(METADATA)
    if text is None:
        return None
    try:
        return Description.model_validate(json.loads(text))
    except ValidationError as error:
        raise UserError(f"{path}: metadata {METADATA!r}: {first_problem(error)}", _WAY_OUT) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: metadata {METADATA!r} is not JSON: {error}", _WAY_OUT) from None
