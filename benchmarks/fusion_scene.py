"""Synthetic detections that look like those of real teachers, from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from composition import detections as table
from composition.detections import Detections

WIDTH, HEIGHT = 640, 480
SCALE = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], np.float64)
OBJECTS = 60  # on an image; every teacher finds three quarters of them
KINDS = 12  # classes that occur on one image
JITTER = 0.08  # of a box's half sides


def scene(
    images: int, teachers: int = 3, boxes: int = 100, classes: int = 80, seed: int = 0
) -> list[Detections]:
    """What several teachers say about the same images.

    Objects have a class of a dozen on their image and log-normal sizes. A
    teacher sees most of them, shifted and scaled a little; the rest of its
    boxes are false positives of any class with low scores.

    Args:
        images: How many.
        teachers: How many.
        boxes: Per image and teacher; three quarters of `OBJECTS` at least.
        classes: How many.
        seed: Of all randomness.

    Returns:
        One sorted table per teacher.
    """
    random = np.random.default_rng(seed)
    everyone = np.arange(images)[:, None]
    centre = random.uniform(0, (WIDTH, HEIGHT), (images, OBJECTS, 2))
    half = np.exp(random.normal(3.2, 0.7, (images, OBJECTS, 2)))
    kinds = random.integers(0, classes, (images, KINDS))[
        everyone, random.integers(0, KINDS, (images, OBJECTS))
    ]
    seen_count = OBJECTS * 3 // 4
    false = boxes - seen_count
    tables = []
    for _ in range(teachers):
        seen = np.argsort(random.random((images, OBJECTS)), axis=1)[:, :seen_count]
        shift = random.normal(0, JITTER, (images, seen_count, 2))
        growth = np.exp(random.normal(0, JITTER, (images, seen_count, 2)))
        middle = np.concatenate(
            [
                centre[everyone, seen] + shift * half[everyone, seen],
                random.uniform(0, (WIDTH, HEIGHT), (images, false, 2)),
            ],
            axis=1,
        ).reshape(-1, 2)
        size = np.concatenate(
            [half[everyone, seen] * growth, np.exp(random.normal(3.2, 0.7, (images, false, 2)))], axis=1
        ).reshape(-1, 2)
        corners = np.clip(np.hstack([middle - size, middle + size]), 0, SCALE)
        flat = (corners[:, 2:] - corners[:, :2]).min(axis=1) < 1  # outside, after clipping
        corners[flat] = [0, 0, 20, 20] + random.uniform(0, 400, (int(flat.sum()), 2))[:, [0, 1, 0, 1]]
        class_id = np.concatenate(
            [kinds[everyone, seen], random.integers(0, classes, (images, false))], axis=1
        )
        score = np.concatenate(
            [random.beta(3, 2, (images, seen_count)), random.beta(1.2, 8, (images, false))], axis=1
        )
        tables.append(table.sort(table.make(np.repeat(np.arange(images), boxes), corners, score, class_id)))
    return tables


def repeat(tables: Sequence[Detections], times: int) -> list[Detections]:
    """The same images several times under new ids."""
    images = max(int(part.image_id[-1]) for part in tables) + 1
    return [
        table.concatenate(replace(part, image_id=part.image_id + images * turn) for turn in range(times))
        for part in tables
    ]


def per_image(
    tables: Sequence[Detections], images: int
) -> list[tuple[list[NDArray[np.float64]], list[NDArray[np.float64]], list[NDArray[np.int32]]]]:
    """What ensemble-boxes takes: per image, lists over teachers of boxes as fractions, scores, labels."""
    edges = [np.searchsorted(part.image_id, np.arange(images + 1)) for part in tables]
    fractions = [part.boxes.astype(np.float64) / SCALE for part in tables]
    scores = [part.score.astype(np.float64) for part in tables]
    return [
        tuple(  # type: ignore[misc]
            [column[edge[image] : edge[image + 1]] for column, edge in zip(columns, edges, strict=True)]
            for columns in (fractions, scores, [part.class_id for part in tables])
        )
        for image in range(images)
    ]
