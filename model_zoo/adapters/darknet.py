"""Detectors of the darknet family (YOLOv3, YOLOv4 and their small kin), run by OpenCV 4."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import cv2
import numpy as np

from composition.detections import Detections
from composition.errors import UserError
from model_zoo import bundle
from model_zoo.adapters import darknet_cfg
from model_zoo.adapters.base import Image, InferenceSettings
from model_zoo.adapters.decoders.base import Candidates, centre_to_corners
from model_zoo.adapters.postprocessing import finish, to_table
from model_zoo.adapters.preprocessing import Preprocessor
from model_zoo.bundle import Manifest

CFG, WEIGHTS = "model.cfg", "model.weights"
_THRESHOLD = 0.001
_SMALLEST = float(np.finfo(np.float32).tiny)  # a class that the threshold set to 0 is none


class DarknetDetector:
    """A detector whose network is the bundle's ``model.cfg`` and ``model.weights``.

    One image a call: OpenCV gives the same numbers for a batch, but takes 5 to
    60 % longer per image. ``settings.threads`` sets OpenCV's threads, which
    are one number for the whole process; 0 leaves them alone.

    Args:
        folder: The bundle, already verified.
        manifest: Its manifest.
        settings: Score floor, limits, threads.

    Raises:
        UserError: Files that cannot be run, or another number of classes than
            the vocabulary has.
    """

    def __init__(self, folder: Path, manifest: Manifest, settings: InferenceSettings) -> None:
        self._manifest, self._settings = manifest, settings
        spec = manifest.input
        cfg_file, weights = (bundle.listed_file(folder, manifest, name) for name in (CFG, WEIGHTS))
        network = darknet_cfg.parse(cfg_file)
        darknet_cfg.check_weights(network, weights)
        check_classes(cfg_file, network.classes, manifest.vocabulary)
        cfg = darknet_cfg.render(network, min(_THRESHOLD, settings.score_floor))
        if settings.threads:
            cv2.setNumThreads(settings.threads)
        try:
            self._net = cv2.dnn.readNetFromDarknet(
                np.frombuffer(cfg, np.uint8), np.fromfile(weights, np.uint8)
            )
            self._outputs = self._net.getUnconnectedOutLayersNames()
        except cv2.error as error:
            raise _refused(folder, error) from None
        self._folder = folder
        self._lock = Lock()  # a net holds the state of one forward pass
        self._preprocess = Preprocessor(spec)
        self._pixels = np.zeros((1, 3, spec.height, spec.width), np.float32)
        self._size = np.array([spec.width, spec.height] * 2, np.float32)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Class names in the order of the class ids."""
        return self._manifest.vocabulary

    def predict(self, images: Sequence[Image]) -> Detections:
        """See `model_zoo.adapters.base.Detector.predict`."""
        return to_table([self._detect(image) for image in images])

    def _detect(self, image: Image) -> Candidates:
        with self._lock:
            placement = self._preprocess.fill(image, self._pixels[0])
            try:
                self._net.setInput(self._pixels)
                rows = np.concatenate(self._net.forward(self._outputs)).astype(np.float32, copy=False)
            except cv2.error as error:
                raise _refused(self._folder, error) from None
        floor = self._settings.score_floor
        # rows are cx cy w h as fractions of the input, objectness, and per class
        # objectness * class, set to 0 below the threshold; darknet's classes are independent
        # sigmoids, and like darknet every class above the floor gets a box
        likely = rows[rows[:, 4] >= floor]
        row, class_id = np.nonzero(likely[:, 5:] >= max(floor, _SMALLEST))
        boxes = centre_to_corners(likely[:, :4] * self._size)
        found = Candidates(boxes[row], likely[row, 5 + class_id], class_id.astype(np.int32))
        return finish(found, placement, self._manifest.output, self._settings, len(self.vocabulary))


def check_classes(cfg: Path, classes: int, vocabulary: Sequence[str]) -> None:
    """Checks the length of a class list.

    Raises:
        UserError: States both numbers.
    """
    if classes != len(vocabulary):
        raise UserError(
            f"{cfg}: the class list has {len(vocabulary)} names, the network {classes} classes",
            "Give the class list that the network was trained with, in its order.",
        )


def _refused(folder: Path, error: cv2.error) -> UserError:
    reason = str(error).strip().splitlines()[0]
    return UserError(
        f"{folder}: OpenCV cannot run this network: {reason}", "Use another export of the detector."
    )
