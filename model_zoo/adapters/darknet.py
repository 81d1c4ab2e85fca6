"""Detectors of the darknet family (YOLOv3, YOLOv4 and their small kin), run by OpenCV 4."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import cv2
import numpy as np
from numpy.typing import NDArray

from composition.detections import Detections
from composition.errors import UserError
from model_zoo import bundle
from model_zoo.adapters import darknet_cfg
from model_zoo.adapters.base import Image, InferenceSettings
from model_zoo.adapters.decoders.base import Candidates, centre_to_corners
from model_zoo.adapters.postprocessing import finish, to_table
from model_zoo.adapters.preprocessing import Placement, Preprocessor
from model_zoo.bundle import InputSpec, Manifest
from model_zoo.cores import usable_cores

CFG, WEIGHTS = "model.cfg", "model.weights"
_THRESHOLD = 0.001
_MAX_LANES = 8
_LANE_BYTES = 512 << 20  # every call that runs beside others has weights of its own
_SMALLEST = float(np.finfo(np.float32).tiny)  # a class that the threshold set to 0 is none


class _Lane:
    """A network of its own, which holds the state of one forward pass, and its buffers."""

    def __init__(self, cfg: bytes, weights: Path, spec: InputSpec) -> None:
        self._net = cv2.dnn.readNetFromDarknet(np.frombuffer(cfg, np.uint8), np.fromfile(weights, np.uint8))
        self._outputs = self._net.getUnconnectedOutLayersNames()
        self._preprocess = Preprocessor(spec)
        self._pixels = np.zeros((1, 3, spec.height, spec.width), np.float32)

    def forward(self, image: Image) -> tuple[Placement, NDArray[np.float32]]:
        """Where the image lay on the input, and the rows of all output layers."""
        placement = self._preprocess.fill(image, self._pixels[0])
        self._net.setInput(self._pixels)
        rows = np.concatenate(self._net.forward(self._outputs))
        return placement, rows.astype(np.float32, copy=False)


class DarknetDetector:
    """A detector whose network is the bundle's ``model.cfg`` and ``model.weights``.

    One image a call: OpenCV gives the same numbers for a batch, but takes 5 to
    60 % longer per image. Several calls run side by side, each on a network of
    its own: OpenCV gives its threads to one of them and runs the others on
    their own thread, which makes 1.1 to 1.7 times the images per second of one
    call on all threads. ``settings.threads`` sets OpenCV's threads, which are
    one number for the whole process; 0 leaves them alone.

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
        self._folder = folder
        self._size = np.array([spec.width, spec.height] * 2, np.float32)
        fitting = max(1, _LANE_BYTES // max(weights.stat().st_size, 1))
        count = min(settings.threads or usable_cores(), _MAX_LANES, fitting)
        self._lanes: SimpleQueue[_Lane] = SimpleQueue()
        try:
            for _ in range(count):
                self._lanes.put(_Lane(cfg, weights, spec))
        except cv2.error as error:
            raise _refused(folder, error) from None
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=manifest.name) if count > 1 else None

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Class names in the order of the class ids."""
        return self._manifest.vocabulary

    def predict(self, images: Sequence[Image]) -> Detections:
        """See `model_zoo.adapters.base.Detector.predict`."""
        run = map if self._pool is None or len(images) < 2 else self._pool.map
        return to_table(list(run(self._detect, images)))

    def _detect(self, image: Image) -> Candidates:
        lane = self._lanes.get()
        try:
            placement, rows = lane.forward(image)
        except cv2.error as error:
            raise _refused(self._folder, error) from None
        finally:
            self._lanes.put(lane)
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
