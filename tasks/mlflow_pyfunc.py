"""Detectors that are MLflow pyfunc models: Python code of their authors, run by consent only.

The consent belongs to the machine, not to the bundle: a bundle that came from
elsewhere cannot give it to itself. ``detcompose teacher add --allow-code``
notes it in the home folder; a worker without that folder is told by the
variable ``DETCOMPOSE_ALLOW_CODE`` (digests with commas between).
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from composition.detections import Detections
from composition.errors import UserError
from model_zoo.adapters import service
from model_zoo.adapters.base import Image, InferenceSettings, UnansweredError
from model_zoo.adapters.decoders.base import Candidates
from model_zoo.adapters.postprocessing import finish, to_table
from model_zoo.adapters.preprocessing import Placement, check_image
from model_zoo.adapters.service import Service
from model_zoo.adapters.service_answers import BadAnswerError, candidates_of
from model_zoo.bundle import Manifest
from tasks.home import Home

MODEL = "model"
"""Folder of the model in the bundle."""
CONSENT = "allowed_code.json"
"""In the home folder: digests of the bundles whose code may run."""
VARIABLE = "DETCOMPOSE_ALLOW_CODE"
BATCH = 8


class MlflowDetector:
    """A pyfunc model that takes base64 images and answers in one of our two schemas.

    Args:
        folder: The bundle, already verified.
        manifest: Its manifest.
        settings: Score floor and number of detections.

    Raises:
        UserError: Nobody has allowed its code, or it cannot be loaded.
    """

    def __init__(self, folder: Path, manifest: Manifest, settings: InferenceSettings) -> None:
        if manifest.digest not in allowed(Home.default()):
            raise UserError(
                f"teacher {manifest.name} is a Python model: using it runs its author's code, and nobody "
                "allowed that on this machine",
                f"Add it here with --allow-code, or set {VARIABLE}={manifest.digest}.",
            )
        import mlflow.pyfunc

        try:
            self._model = mlflow.pyfunc.load_model(str(folder / MODEL))
        except Exception as error:  # whatever a stranger's code raises
            raise _failed(manifest, "loaded", error) from error
        self._manifest, self._settings = manifest, settings

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Class names in the order of the class ids."""
        return self._manifest.vocabulary

    def predict(self, images: Sequence[Image]) -> Detections:
        """See `model_zoo.adapters.base.Detector.predict`."""
        found: list[Candidates] = []
        reasons: dict[int, str] = {}
        for start in range(0, len(images), BATCH):
            chunk = images[start : start + BATCH]
            for image, result in zip(chunk, self._ask(chunk), strict=True):
                try:
                    found.append(self._understood(image, result))
                except BadAnswerError as error:
                    reasons[len(found)] = str(error)
                    found.append(Candidates.none())
        table = to_table(found)
        if reasons:
            raise UnansweredError(self._manifest.name, table, reasons, len(images))
        return table

    def _ask(self, images: Sequence[Image]) -> list[Any]:
        import pandas

        frame = pandas.DataFrame({"image": [_packed(image) for image in images]})
        try:
            answer = self._model.predict(frame)
        except Exception as error:  # whatever a stranger's code raises
            raise _failed(self._manifest, "used", error) from error
        return as_results(answer, len(images), self._manifest.name)

    def _understood(self, image: Image, result: Any) -> Candidates:
        height, width = image.shape[:2]
        found = candidates_of(result, schema_of(result), self.vocabulary, (width, height))
        found = found[found.score >= self._settings.score_floor]
        place = Placement(1.0, 1.0, 0, 0, width, height)
        return finish(found, place, self._manifest.output, self._settings, len(self.vocabulary))


def open_pyfunc(folder: Path, manifest: Manifest, settings: InferenceSettings) -> MlflowDetector:
    """The opener of adapter ``mlflow``."""
    return MlflowDetector(folder, manifest, settings)


def schema_of(result: Any) -> Service:
    """Columns (``boxes``, ``scores``, ``labels``), or a list of ``detections`` as our own models answer."""
    own = isinstance(result, dict) and "detections" in result
    document = {"service": "http", "url": "http://localhost/", "preset": "detcompose" if own else "mlflow"}
    return service.from_document(document, "pyfunc")


def as_results(answer: Any, images: int, name: str) -> list[Any]:
    """One result an image, out of what a pyfunc may return: list, data frame, or the served form."""
    if hasattr(answer, "to_dict"):
        answer = answer.to_dict(orient="records")
    if isinstance(answer, dict):
        answer = answer.get("predictions", answer)
    if not isinstance(answer, list) or len(answer) != images:
        raise UserError(
            f"teacher {name} answered {type(answer).__name__} for {images} images, not one result each",
            "Its model must return [{boxes, scores, labels}, ...]: docs/teachers.md, section mlflow.",
        )
    return json.loads(json.dumps(answer, default=_plain))  # type: ignore[no-any-return]


def allowed(home: Home) -> set[str]:
    """Digests of the bundles whose code may run here.

    Raises:
        UserError: The note is damaged.
    """
    path = home.root / CONSENT
    noted: list[str] = []
    if path.is_file():
        try:
            noted = [str(digest) for digest in json.loads(path.read_text())]
        except (ValueError, TypeError, OSError) as error:
            raise UserError(
                f"{path} cannot be read: {error}", "Delete it and add the models again."
            ) from None
    return {*noted, *allowed_by_environment()}


def allowed_by_environment() -> set[str]:
    """Digests in ``DETCOMPOSE_ALLOW_CODE``."""
    return {part.strip() for part in os.environ.get(VARIABLE, "").split(",")} - {""}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} in the answer")


def _packed(image: Image) -> str:
    check_image(image)
    _, data = cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]))
    return base64.b64encode(data.tobytes()).decode()


def _failed(manifest: Manifest, what: str, error: Exception) -> UserError:
    (first, *_) = [*str(error).strip().splitlines(), ""]
    return UserError(
        f"teacher {manifest.name} cannot be {what}: {type(error).__name__}: {first}",
        "Its model and the packages that it needs are its author's; try it with mlflow.pyfunc.load_model.",
    )
