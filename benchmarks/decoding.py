"""Decoders of JPEG files beside ours: processor time per image, equal pixels, what they do with half a file.

    python -m benchmarks.decoding [--data DIR]

simplejpeg and PyTurboJPEG take part where they are installed. Writes ``benchmarks/results/decoding.json``.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image

from benchmarks.inference_rows import machine
from model_zoo.images import decode_rgb, read_bytes

RESULTS = Path(__file__).parent / "results" / "decoding.json"
Decoder = Callable[[bytes], NDArray[np.uint8]]
ROUNDS = 9


def decoders() -> dict[str, Decoder]:
    """Name to a function from the bytes of a file to (height, width, 3) RGB."""
    rgb = torchvision.io.ImageReadMode.RGB

    def pillow(data: bytes) -> NDArray[np.uint8]:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image)

    def by_torchvision(data: bytes) -> NDArray[np.uint8]:
        pixels = torchvision.io.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=rgb)
        return pixels.permute(1, 2, 0).contiguous().numpy()

    found: dict[str, Decoder] = {
        "ours": decode_rgb,
        "Pillow": pillow,
        "OpenCV": lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB),
        "torchvision": by_torchvision,
    }
    try:
        simple: Any = import_module("simplejpeg")
        found["simplejpeg"] = lambda data: simple.decode_jpeg(data, colorspace="RGB")
    except ImportError:
        pass
    try:
        turbo: Any = import_module("turbojpeg")
        library = turbo.TurboJPEG(os.environ.get("TURBOJPEG"))
        found["PyTurboJPEG"] = lambda data: library.decode(data, pixel_format=turbo.TJPF_RGB)
    except (ImportError, RuntimeError):
        pass
    return found


def accepts(decoder: Decoder, data: bytes) -> bool:
    """Whether a decoder makes a picture of it without an error."""
    try:
        decoder(data)
    except Exception:
        return False
    return True


def measure(files: list[bytes]) -> list[dict[str, Any]]:
    """Medians over rounds of all decoders in turns."""
    found = decoders()
    taken: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(ROUNDS):
        for name, decoder in found.items():
            start = time.process_time()
            for data in files:
                decoder(data)
            taken[name].append((time.process_time() - start) / len(files) * 1e3)
    half = files[0][: len(files[0]) // 2]
    return [
        {
            "decoder": name,
            "milliseconds": round(float(np.median(taken[name])), 3),
            "same_pixels": all(np.array_equal(decoder(data), decode_rgb(data)) for data in files),
            "accepts_half_a_file": accepts(decoder, half),
        }
        for name, decoder in found.items()
    ]


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    default = Path(os.environ.get("DETCOMPOSE_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=default, help="folder with coco/")
    chosen = parser.parse_args()
    if not (chosen.data / "coco" / "images").is_dir():
        sys.exit(f"no data at {chosen.data}; set DETCOMPOSE_DATA")
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    paths = sorted((chosen.data / "coco" / "images").glob("*.jpg"))[:150]
    # grey files are decoded to three channels by some and to one by others
    files = [data for data in map(read_bytes, paths) if Image.open(io.BytesIO(data)).mode == "RGB"]
    document = {
        "command": "python -m benchmarks.decoding",
        **machine(),
        "images": len(files),
        "megapixels": round(sum(decode_rgb(data).size for data in files) / 3e6 / len(files), 3),
        "rows": measure(files),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
