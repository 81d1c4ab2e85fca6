"""Training samples: images and boxes in, augmented and packed for mmdet.

Every random choice of a sample follows from (seed, epoch, place in the epoch)
alone, never from what was drawn before. So the same seed gives the same
samples with any number of workers, and a resumed training goes on exactly
where the killed one stood.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from composition.errors import UserError
from model_zoo.images import BadImageError, read_rgb
from model_zoo.mmdet_runtime import import_mmdet
from model_zoo.student_settings import StudentSettings
from model_zoo.training_records import Record, imperfect

PAD = 114
"""Grey value around letterboxed images, as in YOLOX."""
CACHE_BYTES = 1 << 30
"""Decoded images kept in memory: 1 GiB holds 3,400 images of 320 x 320 pixels."""

_PARTNERS = {"Mosaic": 3, "MixUp": 1}
"""How many other images a transform mixes in."""

Key = tuple[int, int, int]
"""(epoch, place in the epoch, index of the image)."""


class EpochSampler(Sampler[Key]):
    """A permutation of the images per epoch, in whole batches, from any step on.

    The last batch is filled from the start of the permutation, so that batch
    norm never sees a rest of one or two images. Of several processes each takes
    the same part of every batch.

    Args:
        shown: Indices of the images that an epoch shows, see `shown_images`.
        batch_size: Images per step, of all processes together.
        seed: Seed of the training.
        part: Number of this process, and how many there are.
    """

    def __init__(
        self, shown: NDArray[np.int64], batch_size: int, seed: int, part: tuple[int, int] = (0, 1)
    ) -> None:
        self.shown = shown
        self.batch_size = batch_size
        self.seed = seed
        number, of = part
        self.first, self.size = number * batch_size // of, batch_size // of
        self.steps = math.ceil(len(shown) / batch_size)
        self.epoch = 0
        self.first_step = 0

    def __len__(self) -> int:
        return self.steps * self.size

    def start(self, epoch: int, first_step: int) -> None:
        """Sets the epoch that the next iteration yields and the step it begins with."""
        self.epoch, self.first_step = epoch, first_step

    def __iter__(self) -> Iterator[Key]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.shown)
        for step in range(self.first_step, self.steps):
            first = step * self.batch_size + self.first
            for place in range(first, first + self.size):
                yield self.epoch, place, int(order[place % len(order)])


def shown_images(records: Sequence[Record]) -> NDArray[np.int64]:
    """Indices of the images that an epoch shows: each as often as it says."""
    return np.repeat(np.arange(len(records)), [record.repeat for record in records])


class TrainingSet(Dataset[dict[str, Any]]):
    """Augmented samples, packed for mmdet; indexed by the keys of `EpochSampler`.

    mmdet's transforms move, cut and drop boxes together with one label each,
    which they never look at. So a box travels under its number among all boxes,
    and gets its class, its weights and its meaning back at the end. A class that
    is unspoken on an image is a box around that image, so that in a mosaic the
    class is unspoken in that tile alone.

    Imperfect labels (`imperfect`) come as `model_zoo.imperfect_labels` wants
    them, others as mmdet's own losses do.

    Args:
        records: The images and boxes.
        settings: Image size, augmentation and schedule.
        seed: Seed of the training.
    """

    def __init__(self, records: Sequence[Record], settings: StudentSettings, seed: int) -> None:
        self.records = records
        self.settings = settings
        self.seed = seed
        self.size = settings.image_size
        self.metainfo: dict[str, Any] = {}
        closing = min(settings.close_mosaic_epochs, settings.epochs // 2)
        self.first_plain_epoch = settings.epochs - closing
        import_mmdet()
        from mmdet.structures.bbox import HorizontalBoxes

        self._box_type = HorizontalBoxes
        self._mixup = settings.mixup
        self._strong = _build(strong_pipeline(settings))
        self._plain = _build(plain_pipeline(settings))
        self._boxes = _BoxTable(records)
        self._imperfect = imperfect(records)
        self._shown = shown_images(records)
        self._cache: dict[int, NDArray[np.uint8]] = {}
        self._cache_left = CACHE_BYTES

    def __reduce__(self) -> tuple[Any, ...]:
        # a loading process makes its own: mmdet has to be imported in our way before its transforms are
        return type(self), (self.records, self.settings, self.seed)

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
        for transform in self._strong if strong else self._plain:
            kind = type(transform).__name__
            if kind == "MixUp" and random.random() >= self._mixup:  # noqa: S311
                continue
            if kind in _PARTNERS:
                partners = [random.randrange(len(self._shown)) for _ in range(_PARTNERS[kind])]  # noqa: S311
                sample["mix_results"] = [self._load(int(self._shown[partner])) for partner in partners]
            sample = transform(sample)
        for instances in (sample["data_samples"].gt_instances, sample["data_samples"].ignored_instances):
            self._boxes.name(instances, weighted=self._imperfect)
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
        whole = np.array([[0, 0, width, height]] * len(record.unspoken), np.float32).reshape(-1, 4)
        return {
            "img": image.copy(),
            "img_shape": (height, width),
            "ori_shape": (record.height, record.width),
            "scale_factor": (width / record.width, height / record.height),
            "img_id": index,
            "img_path": str(record.path),
            "gt_bboxes": self._box_type(np.concatenate([record.boxes * scale, whole])),
            "gt_bboxes_labels": self._boxes.numbers(index),
            "gt_ignore_flags": np.concatenate([record.ignore, np.ones(len(whole), bool)]),
        }


class _BoxTable:
    """All boxes of a data set, numbered: those of the first image, its unspoken classes, and so on."""

    def __init__(self, records: Sequence[Record]) -> None:
        def column(of_record: Callable[[Record], Any], unspoken: Any, dtype: Any) -> NDArray[Any]:
            parts = []
            for record in records:
                fill = record.unspoken if unspoken is None else np.full(len(record.unspoken), unspoken)
                parts += [of_record(record), fill]
            joined: NDArray[Any] = np.concatenate(parts).astype(dtype)
            return joined

        self._labels = column(lambda record: record.labels, None, np.int64)
        self._columns = {
            "class_weights": column(lambda record: record.class_weights, 1, np.float32),
            "box_weights": column(lambda record: record.box_weights, 1, np.float32),
            "unspoken": column(lambda record: np.zeros(len(record.boxes)), True, bool),
        }
        self._first = np.cumsum([0] + [len(record.boxes) + len(record.unspoken) for record in records])

    def numbers(self, image: int) -> NDArray[np.int64]:
        """The numbers of an image's boxes."""
        return np.arange(self._first[image], self._first[image + 1], dtype=np.int64)

    def name(self, instances: Any, *, weighted: bool) -> None:
        """Turns the numbers of mmdet's ``InstanceData`` into labels, with all else if asked for."""
        numbers = instances.labels.numpy()
        instances.labels = torch.from_numpy(self._labels[numbers])
        if weighted:
            for name, values in self._columns.items():
                setattr(instances, name, torch.from_numpy(values[numbers]))


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
    if settings.mixup:
        geometry.append(
            {
                "type": "MixUp",
                "img_scale": (size, size),
                "ratio_range": (0.5, 1.5),
                "pad_val": float(PAD),
                # mmdet mirrors where a random number exceeds it
                "flip_ratio": 0.5 if settings.flip else 1.0,
            }
        )
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
