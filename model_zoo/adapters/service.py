"""How a detector behind an HTTP API is asked and understood: ``service.json`` of its bundle."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from composition.errors import UserError
from model_zoo.bundle import InputSpec, first_problem

SERVICE = "service.json"
IMAGE, IMAGES = "$image", "$images"
"""Placeholders of a request: one encoded picture, and the list of the filled items."""
MAX_BYTES = 1 << 20
_DOCUMENT = "See docs/teachers.md, section http."

_Path = str
_Boxes = _Path | Annotated[list[_Path], Field(min_length=4, max_length=4)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Auth(_Model):
    """A header whose value comes from the environment, and never lies in a file.

    Attributes:
        header: Its name.
        environment: Name of the variable with the secret.
        prefix: What stands before the secret, e.g. ``"Bearer "``.
    """

    header: str = Field("Authorization", pattern=r"^[A-Za-z0-9-]+$")
    environment: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    prefix: str = "Bearer "


class Request(_Model):
    """What is sent.

    Attributes:
        body: JSON in which ``"$images"`` becomes the list of the filled items,
            or ``"$image"`` the one picture.
        item: JSON of one picture in that list, ``"$image"`` where its bytes stand.
        form: Name of the file field where the picture is sent as a form
            (``multipart/form-data``) instead of JSON; one picture a request.
        headers: Further headers, none of them secret.
    """

    body: Any = {"inputs": IMAGES}
    item: Any = {"image": IMAGE}
    form: str | None = None
    headers: dict[str, str] = {}


class Response(_Model):
    """Where in the answer the detections stand; paths are keys and positions with dots between.

    Attributes:
        results: Path to the list with one result a picture; "" = the answer is
            that list; None = the answer is the one picture's result.
        objects: Path, in a result, to a list with one entry an object; the next
            three are then paths in such an entry. None: they lead to columns.
        boxes: Path to the box, or the four paths of its numbers.
        scores: Path to the score.
        labels: Path to the class.
        tensors: Path to a list of named tensors ``{name, shape, data}`` (KServe
            v2), which become the columns of the one picture's result.
    """

    results: _Path | None = "predictions"
    objects: _Path | None = None
    boxes: _Boxes = "boxes"
    scores: _Path = "scores"
    labels: _Path = "labels"
    tensors: _Path | None = None


class Service(_Model):
    """``service.json``.

    Attributes:
        service: The kind, for what reads it.
        preset: Whose defaults were taken.
        url: Where requests go.
        method: How.
        model_version: Any text: change it when the model behind the URL
            changes, so that it counts as another detector.
        request: What is sent.
        response: What comes back.
        box_format: Order of the four numbers.
        coordinates: ``pixels`` of the picture that was sent, or fractions of its size.
        labels: Whether classes come as names or as numbers.
        label_offset: Number of the first class of the vocabulary.
        unknown_labels: What to do with a class outside the vocabulary.
        score_scale: Scores are divided by it (100 where they are percent).
        encoding: How pictures are packed; JPEG costs a little, PNG much traffic.
        longest_side: Larger pictures are made so small before sending, in pixels.
        batch_size: Pictures a request.
        parallel: Requests at the same time.
        requests_per_second: Not more than so many are begun; None = no limit.
        timeout_seconds: Of one request.
        retries: How often a request is repeated.
        max_wait_seconds: Longest wait between two tries, whatever the service asks for.
        give_up_after: So many requests that failed in a row mean that nobody is there.
        auth: Header with a secret.
    """

    service: Literal["http"] = "http"
    preset: Literal["mlflow", "detcompose", "kserve-v2"] | None = None
    url: str
    method: Literal["POST", "PUT"] = "POST"
    model_version: str = ""
    request: Request = Request()
    response: Response = Response()
    box_format: Literal["xyxy", "xywh", "cxcywh", "yxyx"] = "xyxy"
    coordinates: Literal["pixels", "fractions"] = "pixels"
    labels: Literal["names", "numbers"] = "names"
    label_offset: int = Field(0, ge=-1000, le=1000)
    unknown_labels: Literal["error", "drop"] = "error"
    score_scale: float = Field(1, gt=0)
    encoding: Literal["jpeg", "png"] = "jpeg"
    longest_side: int | None = Field(None, ge=32, le=8192)
    batch_size: int = Field(1, ge=1, le=256)
    parallel: int = Field(4, ge=1, le=64)
    requests_per_second: float | None = Field(None, gt=0)
    timeout_seconds: float = Field(30, gt=0, le=3600)
    retries: int = Field(4, ge=0, le=20)
    max_wait_seconds: float = Field(60, ge=0, le=3600)
    give_up_after: int = Field(10, ge=1)
    auth: Auth | None = None

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        if not re.fullmatch(r"https?://[^\s/@]+(/[^\s]*)?", value):
            raise ValueError("must be http:// or https:// without user and password in it; use 'auth'")
        return value


PRESETS: dict[str, dict[str, Any]] = {
    # MLflow's scoring endpoint in front of a model with the schema of docs/teachers.md
    "mlflow": {"batch_size": 8},
    # the same in front of a detector that detcompose registered: `tasks.serving`
    "detcompose": {
        "batch_size": 8,
        "request": {"body": {"inputs": IMAGES, "params": {"threshold": 0.05}}},
        "response": {"objects": "detections", "boxes": "box", "scores": "score", "labels": "class"},
    },
    # the open inference protocol; pictures as BYTES in base64, one a request because boxes are ragged
    "kserve-v2": {
        "labels": "numbers",
        "request": {
            "body": {
                "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": IMAGES}],
            },
            "item": IMAGE,
        },
        "response": {"results": None, "tensors": "outputs"},
    },
}


def is_service(path: Path) -> bool:
    """Whether a JSON file describes a service (else it may be an mmdet config)."""
    try:
        document = json.loads(path.read_bytes()[:MAX_BYTES])
    except (ValueError, OSError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("service") == "http"


def read(path: Path) -> Service:
    """Reads a description, written by a person or lying in a bundle.

    Raises:
        UserError: Names the field that is wrong.
    """
    try:
        document = json.loads(path.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}", _DOCUMENT) from None
    if not isinstance(document, dict):
        raise UserError(f"{path} is not a JSON object", _DOCUMENT)
    return from_document(document, str(path))


def from_document(document: dict[str, Any], source: str) -> Service:
    """A description from its JSON form; what it leaves out comes from its preset.

    Raises:
        UserError: Names the field that is wrong.
    """
    preset = PRESETS.get(str(document.get("preset")), {})
    try:
        found = Service.model_validate({**preset, **document})
    except ValidationError as error:
        raise UserError(f"{source}: {first_problem(error)}", _DOCUMENT) from None
    one_picture = found.request.form is not None or found.response.results is None
    if one_picture and found.batch_size != 1:
        raise UserError(
            f"{source}: batch_size is {found.batch_size}, but the answer holds one picture's result",
            "Set batch_size to 1, or say with response.results where the list of results is.",
        )
    return found


def to_json(service: Service) -> bytes:
    """The description with every default written out: what a later version assumes changes nothing."""
    return json.dumps(service.model_dump(mode="json"), indent=1, sort_keys=True).encode() + b"\n"


def input_spec(service: Service) -> InputSpec:
    """What a manifest says of a service's input."""
    side = service.longest_side or 8192
    return InputSpec(height=side, width=side)
