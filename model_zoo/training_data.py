"""Training images and boxes: COCO JSON in, mmdet's packed samples out.

Every random choice of a sample follows from (seed, epoch, place in the epoch)
alone, never from what was drawn before. So the same seed gives the same
samples with any number of workers, and a resumed training goes on exactly
where the killed one stood.
"""

from __future__ import annotations

import difflib
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from composition.errors import UserError
from model_zoo.images import BadImageError, read_rgb
from model_zoo.mmdet_runtime import import_mmdet
from model_zoo.student_settings import StudentSettings

PAD = 114
"""Grey value around letterboxed images, as in YOLOX."""
CACHE_BYTES = 1 << 30
"""Decoded images kept in memory: 1 GiB holds 3,400 images of 320 x 320 pixels."""

Key = tuple[int, int, int]
"""(epoch, place in the epoch, index of the image)."""


@dataclass(frozen=True, slots=True)
class Record:
    """One image and its boxes.

    Attributes:
        path: The image file.
        width: Width in pixels after EXIF orientation.
        height: Height in pixels after EXIF orientation.
        boxes: (N, 4) float32, x1 y1 x2 y2 in pixels, clipped to the image.
        labels: (N,) int64, index into the vocabulary.
        ignore: (N,) bool, True for regions that must not be learned from.
    """

    path: Path
    width: int
    height: int
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignore: NDArray[np.bool_]


def read_records(
    annotations: Path,
    image_root: Path,
    vocabulary: tuple[str, ...],
    other_categories: Literal["error", "background"] = "error",
) -> tuple[Record, ...]:
    """Reads and checks a COCO instances file.

    Args:
        annotations: COCO JSON; ``iscrowd`` 1 marks an ignore region.
        image_root: Folder that ``file_name`` is relative to.
        vocabulary: Class names in the order of the student's classes.
        other_categories: What boxes of a category outside the vocabulary
            mean: an error, or plain background (a detector of some classes is
            trained on a file that labels more).

    Returns:
        One record per image, in the order of the file; images without boxes
        are kept, they train as background.

    Raises:
        UserError: Unreadable file, category outside the vocabulary, class
            without a category, missing image, broken box, or no box at all.
    """
    document = _read_json(annotations)
    labels = _labels_of_categories(document, annotations, vocabulary, other_categories)
    by_image: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in document["images"]}
    for annotation in document["annotations"]:
        if annotation.get("image_id") not in by_image:
            raise UserError(
                f"{annotations}: annotation {annotation.get('id')} names image id "
                f"{annotation.get('image_id')}, which is not in 'images'",
                "Export the annotations again.",
            )
        if annotation.get("category_id") not in labels:
            raise UserError(
                f"{annotations}: annotation {annotation.get('id')} has category id "
                f"{annotation.get('category_id')}, which is not in 'categories'",
                "Export the annotations again.",
            )
        by_image[annotation["image_id"]].append(annotation)
    records = tuple(
        _record(image, by_image[image["id"]], labels, annotations, image_root) for image in document["images"]
    )
    if not any((~record.ignore).any() for record in records):
        raise UserError(
            f"{annotations}: none of its {len(records)} images has a box of {', '.join(vocabulary)}",
            "There is nothing to learn; lower the score thresholds or add images.",
        )
    return records


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as COCO JSON: {error}", "Give a COCO instances file."
        ) from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(document, dict) or not isinstance(document.get(key), list):
            raise UserError(f"{path}: the list {key!r} is missing", "Give a COCO instances file.")
    return document


def _labels_of_categories(
    document: dict[str, Any],
    path: Path,
    vocabulary: tuple[str, ...],
    other_categories: Literal["error", "background"],
) -> dict[Any, int | None]:
    index = {name: label for label, name in enumerate(vocabulary)}
    names = [category["name"] for category in document["categories"]]
    if other_categories == "error":
        for name in names:
            if name not in index:
                near = difflib.get_close_matches(name, vocabulary, n=3) or list(vocabulary[:5])
                raise UserError(
                    f"{path}: category {name!r} is not one of the student's classes",
                    f"Rename or map it; candidates: {', '.join(near)}.",
                )
    for name in vocabulary:
        if names.count(name) != 1:
            near = difflib.get_close_matches(name, names, n=3) or names[:5]
            raise UserError(
                f"{path}: class {name!r} stands {names.count(name)} times in 'categories', not once",
                f"Correct the class names; the file has: {', '.join(near)}.",
            )
    return {category["id"]: index.get(category["name"]) for category in document["categories"]}


def _record(
    image: dict[str, Any],
    annotations: list[dict[str, Any]],
    labels: dict[Any, int | None],
    source: Path,
    image_root: Path,
) -> Record:
    path = image_root / image["file_name"]
    if not path.is_file():
        raise UserError(f"{source}: image {path} does not exist", "Check the image folder.")
    width, height = int(image["width"]), int(image["height"])
    boxes, classes, ignore = [], [], []
    for annotation in annotations:
        label = labels[annotation["category_id"]]
        if label is None:
            continue
        box = annotation.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(map(math.isfinite, box)):
            raise UserError(
                f"{source}: annotation {annotation.get('id')}: 'bbox' is {box!r}, not [x, y, width, height]",
                "Export the annotations again.",
            )
        x1, y1 = max(box[0], 0.0), max(box[1], 0.0)
        x2, y2 = min(box[0] + box[2], width), min(box[1] + box[3], height)
        if x2 - x1 >= 1 and y2 - y1 >= 1:
            boxes.append((x1, y1, x2, y2))
            classes.append(label)
            ignore.append(bool(annotation.get("iscrowd", 0)))
    return Record(
        path,
        width,
        height,
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(classes, np.int64),
        np.asarray(ignore, bool),
    )


class EpochSampler(Sampler[Key]):
    """A permutation of the images per epoch, in whole batches, from any step on.

    The last batch is filled from the start of the permutation, so that batch
    norm never sees a rest of one or two images.

    Args:
        size: Number of images.
        batch_size: Images per step.
        seed: Seed of the training.
    """

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.steps = math.ceil(size / batch_size)
        self.epoch = 0
        self.first_step = 0

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def start(self, epoch: int, first_step: int) -> None:
        """Sets the epoch that the next iteration yields and the step it begins with."""
        self.epoch, self.first_step = epoch, first_step

    def __iter__(self) -> Iterator[Key]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        for place in range(self.first_step * self.batch_size, len(self)):
            yield self.epoch, place, int(order[place % self.size])


class TrainingSet(Dataset[dict[str, Any]]):
    """Augmented samples, packed for mmdet; indexed by the keys of `EpochSampler`.

    Args:
        records: The images and boxes.
        settings: Image size, augmentation and schedule.
        seed: Seed of the training.
    """

    def __init__(self, records: Sequence[Record], settings: StudentSettings, seed: int) -> None:
        self.records = records
        self.seed = seed
        self.size = settings.image_size
        self.metainfo: dict[str, Any] = {}
        closing = min(settings.close_mosaic_epochs, settings.epochs // 2)
        self.first_plain_epoch = settings.epochs - closing
        import_mmdet()
        from mmdet.structures.bbox import HorizontalBoxes

        self._box_type = HorizontalBoxes
        self._mosaic = settings.augmentation == "standard"
        self._strong = _build(strong_pipeline(settings))
        self._plain = _build(plain_pipeline(settings))
        self._cache: dict[int, NDArray[np.uint8]] = {}
        self._cache_left = CACHE_BYTES

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, place, index = key
        draws = np.random.SeedSequence((self.seed, epoch, place)).generate_state(2)
        # mmdet's transforms draw from the two global generators
        random.seed(int(draws[0]))
        np.random.seed(int(draws[1]))
        sample = self._load(index)
        strong = epoch < self.first_plain_epoch
        if strong and self._mosaic:
            sample["mix_results"] = [self._load(random.randrange(len(self))) for _ in range(3)]  # noqa: S311
        for transform in self._strong if strong else self._plain:
            sample = transform(sample)
        return sample

    def _load(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        image = self._cache.get(index)
        if image is None:
            image = fit(_decode(record), self.size)
            if image.nbytes <= self._cache_left:
                self._cache[index] = image
                self._cache_left -= image.nbytes
        height, width = image.shape[:2]
        scale = np.array([width / record.width, height / record.height] * 2, np.float32)
        return {
            "img": image.copy(),
            "img_shape": (height, width),
            "ori_shape": (record.height, record.width),
            "scale_factor": (width / record.width, height / record.height),
            "img_id": index,
            "img_path": str(record.path),
            "gt_bboxes": self._box_type(record.boxes * scale),
            "gt_bboxes_labels": record.labels.copy(),
            "gt_ignore_flags": record.ignore.copy(),
        }


def _decode(record: Record) -> NDArray[np.uint8]:
    try:
        image = read_rgb(record.path)
    except BadImageError as error:
        raise UserError(f"{record.path}: {error}", "Remove the image from the annotations.") from None
    if image.shape[:2] != (record.height, record.width):
        raise UserError(
            f"{record.path} is {image.shape[1]} x {image.shape[0]} pixels, "
            f"but its annotations are for {record.width} x {record.height}",
            "Export the annotations for the upright image (EXIF orientation applied).",
        )
    return image


def fit(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resizes RGB to BGR with the longest side at ``size`` pixels, as letterboxing at inference does."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    shape = (max(round(width * scale), 1), max(round(height * scale), 1))
    resized = cv2.resize(image[:, :, ::-1], shape, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(resized, np.uint8)


def strong_pipeline(settings: StudentSettings) -> list[dict[str, Any]]:
    """Transforms (mmdet) of all epochs but the last few.

    Rotation and shear are off: they replace boxes by the boxes around them,
    which are too large.
    """
    size = settings.image_size
    if settings.augmentation == "none":
        return plain_pipeline(settings)
    still = {"type": "RandomAffine", "max_rotate_degree": 0.0, "max_shear_degree": 0.0}
    if settings.augmentation == "standard":
        # a canvas of 2 x 2 tiles; the negative border cuts the output back to one tile's size
        geometry = [
            {"type": "Mosaic", "img_scale": (size, size), "pad_val": float(PAD)},
            {**still, "scaling_ratio_range": (0.5, 1.5), "border": (-(size // 2), -(size // 2))},
        ]
    else:
        geometry = [_pad(size), {**still, "scaling_ratio_range": (0.7, 1.3)}]
    return [*geometry, *_finish(settings)]


def plain_pipeline(settings: StudentSettings) -> list[dict[str, Any]]:
    """Transforms (mmdet) of the last epochs: whole letterboxed images, as at inference."""
    return [_pad(settings.image_size), *_finish(settings)]


def _pad(size: int) -> dict[str, Any]:
    return {"type": "Pad", "size": (size, size), "pad_val": {"img": (PAD, PAD, PAD)}}


def _finish(settings: StudentSettings) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    if settings.augmentation != "none":
        steps.append({"type": "YOLOXHSVRandomAug"})
        if settings.flip:
            steps.append({"type": "RandomFlip", "prob": 0.5})
    steps.append({"type": "FilterAnnotations", "min_gt_bbox_wh": (1, 1), "keep_empty": False})
    steps.append({"type": "PackDetInputs"})
    return steps


def _build(pipeline: list[dict[str, Any]]) -> list[Any]:
    from mmdet.registry import TRANSFORMS

    return [TRANSFORMS.build(step) for step in pipeline]
