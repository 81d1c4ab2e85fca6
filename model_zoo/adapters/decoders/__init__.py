"""Output layouts of ONNX detectors, one file each."""

from __future__ import annotations

from model_zoo.adapters.decoders.base import UNKNOWN, Candidates, Decoder, Outputs
from model_zoo.adapters.decoders.end2end import End2End
from model_zoo.adapters.decoders.fastestdet import FastestDet
from model_zoo.adapters.decoders.nanodet import NanoDet
from model_zoo.adapters.decoders.yolov8 import Yolov8
from model_zoo.adapters.decoders.yolox import Yolox

DECODERS: dict[str, type[Decoder]] = {
    "yolox": Yolox,
    "nanodet": NanoDet,
    "fastestdet": FastestDet,
    "yolov8": Yolov8,
    "end2end": End2End,
}

__all__ = ["DECODERS", "UNKNOWN", "Candidates", "Decoder", "Outputs"]
