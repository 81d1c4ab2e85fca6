"""Detectors in ONNX files, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composition.detections import Detections
from composition.errors import UserError
from model_zoo import bundle
from model_zoo.adapters.base import Image, InferenceSettings
from model_zoo.adapters.decoders import DECODERS, UNKNOWN, Candidates, Decoder, Outputs
from model_zoo.adapters.onnx_file import IMAGE_SIZE, open_session
from model_zoo.adapters.postprocessing import finish, to_table
from model_zoo.adapters.preprocessing import Placement, Preprocessor
from model_zoo.bundle import InputSpec, Manifest
from model_zoo.cores import usable_cores
from model_zoo.onnx_metadata import METADATA

MODEL = "model.onnx"

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
# images in one call of a network with a free batch size: more costs memory and gains nothing
_MAX_BATCH = 8
# calls that run side by side; on machines with more cores each call gets several threads
_MAX_LANES = 8


class OnnxNetwork:
    """A session with what this project needs to know about its input.

    Args:
        path: The ONNX file.
        threads: Threads inside one call; 0 = all cores.
        device: See `open_session`.

    Attributes:
        batch: Fixed batch size, or None where it is free.
        height: Fixed input height in pixels, or None.
        width: Fixed input width in pixels, or None.
        dtype: Type of the input.
        metadata: What the exporter wrote into the file.
        takes_image_size: Whether it can be told where the picture ends on the canvas.

    Raises:
        UserError: The file cannot be run, or does not take one picture input.
    """

    def __init__(self, path: Path, *, threads: int = 0, device: str = "cpu") -> None:
        self.path = path
        self._session = open_session(path, threads=threads, device=device)
        inputs = self._session.get_inputs()
        shape = inputs[0].shape if inputs else []
        if len(inputs) != 1 or len(shape) != 4 or inputs[0].type not in _DTYPES or shape[1] not in (3, None):
            found = ", ".join(f"{value.name} {value.shape} {value.type}" for value in inputs)
            raise UserError(
                f"{path}: a detector takes one float input (batch, 3, height, width), this one takes {found}",
                "Export it with one picture input, channels first.",
            )
        self._input: str = inputs[0].name
        self._outputs = [value.name for value in self._session.get_outputs()]
        self.dtype = _DTYPES[inputs[0].type]
        self.batch, self.height, self.width = (
            side if isinstance(side, int) and side > 0 else None for side in (shape[0], shape[2], shape[3])
        )
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        # another's input of this name may mean something else
        optional = [value.name for value in self._session.get_overridable_initializers()]
        self.takes_image_size = IMAGE_SIZE in optional and METADATA in self.metadata
        self.on_gpu = self._session.get_providers()[0] != "CPUExecutionProvider"

    def run(self, pixels: NDArray[Any], image_size: NDArray[np.float32] | None = None) -> Outputs:
        """One forward pass.

        Args:
            pixels: (batch, 3, height, width) of `dtype`.
            image_size: (batch, 2) height and width of the pictures on the
                canvas, where the network takes them; None = they fill it.

        Raises:
            UserError: The network fails on the input.
        """
        feed: dict[str, NDArray[Any]] = {self._input: pixels}
        if image_size is not None and self.takes_image_size:
            feed[IMAGE_SIZE] = image_size
        try:
            values = self._session.run(self._outputs, feed)
        except Exception as error:
            # onnxruntime's exception classes are private
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{self.path} failed on an input of shape {pixels.shape}: {reason}",
                "Export the model again for this input size.",
            ) from None
        return dict(zip(self._outputs, values, strict=True))


class _Lane:
    """Buffers of one worker."""

    def __init__(self, spec: InputSpec, batch: int, dtype: Any) -> None:
        self.preprocess = Preprocessor(spec)
        self.pixels = np.zeros((batch, 3, spec.height, spec.width), dtype)


class OnnxDetector:
    """A detector whose network is the bundle's ``model.onnx``.

    On a CPU a batch is cut into chunks that run side by side, each on its own
    share of the threads: two single-threaded passes give 1.3 to 1.6 times the
    images per second of one pass with two threads, and decoding one chunk
    overlaps with the forward pass of another.

    Args:
        folder: The bundle, already verified.
        manifest: Its manifest.
        settings: Score floor, limits, threads, device.

    Raises:
        UserError: Unknown decoder, or a file that cannot be run.
    """

    def __init__(self, folder: Path, manifest: Manifest, settings: InferenceSettings) -> None:
        self._manifest, self._settings = manifest, settings
        self._decoder = make_decoder(manifest, folder)
        threads = settings.threads or usable_cores()
        lanes = min(threads, _MAX_LANES)
        path = bundle.listed_file(folder, manifest, MODEL)
        self._network = OnnxNetwork(path, threads=threads // lanes, device=settings.device)
        if self._network.on_gpu:
            lanes = 1
        self._chunk = self._network.batch or _MAX_BATCH
        self._lane_count = lanes
        self._lanes: SimpleQueue[_Lane] = SimpleQueue()
        for _ in range(lanes):
            self._lanes.put(_Lane(manifest.input, self._chunk, self._network.dtype))
        self._pool = ThreadPoolExecutor(lanes, thread_name_prefix=manifest.name) if lanes > 1 else None
        self._shapes_checked = False

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Class names in the order of the class ids."""
        return self._manifest.vocabulary

    def predict(self, images: Sequence[Image]) -> Detections:
        """See `model_zoo.adapters.base.Detector.predict`."""
        size = self._chunk
        if self._network.batch is None:  # share a small batch out evenly
            size = max(1, min(size, -(-len(images) // self._lane_count)))
        chunks = [images[start : start + size] for start in range(0, len(images), size)]
        run = map if self._pool is None or len(chunks) < 2 else self._pool.map
        return to_table([image for chunk in run(self._detect, chunks) for image in chunk])

    def _detect(self, images: Sequence[Image]) -> list[Candidates]:
        lane = self._lanes.get()
        try:
            placements = [
                lane.preprocess.fill(image, pixels)
                for image, pixels in zip(images, lane.pixels, strict=False)
            ]
            # a fixed batch is always filled: what the last chunk leaves over is not read
            pixels = lane.pixels if self._network.batch else lane.pixels[: len(images)]
            outputs = self._network.run(pixels, _image_sizes(placements, pixels))
            self._check(outputs)
            decoded = self._decoder(outputs, self._settings.score_floor)
        finally:
            self._lanes.put(lane)
        if len(decoded) != len(pixels):
            raise UserError(
                f"{self._network.path} returned results for {len(decoded)} images, {len(pixels)} went in",
                "Export it with a fixed batch size of 1.",
            )
        return [
            finish(found, placement, self._manifest.output, self._settings, len(self.vocabulary))
            for found, placement in zip(decoded, placements, strict=False)
        ]

    def _check(self, outputs: Outputs) -> None:
        """A bundle can be made by others: its shapes must be what its decoder reads."""
        if self._shapes_checked:
            return
        decoder = self._manifest.output.decoder or ""
        check_layout(self._network.path, decoder, outputs, self._manifest.input, self.vocabulary)
        self._shapes_checked = True


def _image_sizes(placements: Sequence[Placement], pixels: NDArray[Any]) -> NDArray[np.float32]:
    """(batch, 2) height and width that each picture takes up, from the canvas's top left corner."""
    sizes = np.tile(np.array(pixels.shape[2:], np.float32), (len(pixels), 1))
    for row, place in enumerate(placements):
        height, width = round(place.scale_y * place.height), round(place.scale_x * place.width)
        sizes[row] = height + place.top, width + place.left
    return sizes


def make_decoder(manifest: Manifest, folder: Path) -> Decoder:
    """The decoder that a manifest names.

    Raises:
        UserError: There is none of that name.
    """
    name = manifest.output.decoder
    if name not in DECODERS:
        raise UserError(
            f"{folder}/manifest.json: output.decoder is {name!r}", f"Known decoders: {', '.join(DECODERS)}."
        )
    return DECODERS[name](manifest.input, len(manifest.vocabulary))


def check_layout(
    path: Path, decoder: str, outputs: Outputs, spec: InputSpec, vocabulary: Sequence[str]
) -> None:
    """Checks that outputs are of a decoder's layout and number of classes.

    Raises:
        UserError: They are not; states both numbers when only the classes differ.
    """
    classes = DECODERS[decoder].classes_in(outputs, spec)
    if classes is None:
        raise UserError(
            f"{path}: decoder {decoder!r} does not fit the network's outputs ({describe(outputs)})",
            f"Choose another of: {', '.join(DECODERS)}.",
        )
    if classes not in (UNKNOWN, len(vocabulary)):
        raise UserError(
            f"{path}: the class list has {len(vocabulary)} names, the network {classes} classes",
            "Give the class list that the network was trained with, in its order.",
        )


def describe(outputs: Outputs) -> str:
    """Names and shapes of outputs, for error texts."""
    return ", ".join(f"{name} {tuple(output.shape)}" for name, output in outputs.items())
