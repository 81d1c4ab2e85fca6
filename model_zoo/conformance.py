"""The conformance kit: whether a detector keeps what `model_zoo.adapters.base.Detector` promises.

For the tests of a third party's adapter:

    >>> from model_zoo.conformance import assert_conforms
    >>> assert_conforms(lambda settings: MyDetector(folder, manifest, settings))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from composition import detections as table
from composition.detections import Detections
from composition.errors import UserError
from model_zoo.adapters.base import Detector, Image, InferenceSettings
from model_zoo.bundle import check_vocabulary

Open = Callable[[InferenceSettings], Detector]

SCORE_TOLERANCE = 2e-3
"""Float tolerance of a score between two ways of asking for the same."""
PIXEL_TOLERANCE = 0.5
"""The same for a side of a box, in pixels, or as a share of 1 % of the image's long side."""
_SETTINGS = InferenceSettings(score_floor=0.05, max_detections=100)
# (height, width): what arithmetic on sizes stumbles over
_EXTREMES = ((1, 1), (1, 3000), (3000, 1), (2, 900), (900, 3), (7, 13))
_ORDINARY = ((240, 320), (320, 240), (200, 200), (97, 411))
_NO_IMAGES: dict[str, Any] = {
    "grey": np.zeros((8, 8), np.uint8),
    "with alpha": np.zeros((8, 8, 4), np.uint8),
    "floats": np.zeros((8, 8, 3), np.float32),
    "without height": np.zeros((0, 8, 3), np.uint8),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One promise.

    Attributes:
        name: What was promised.
        problem: How it was broken; None = kept.
        note: What else there is to know.
    """

    name: str
    problem: str | None = None
    note: str = ""


class _BrokenError(Exception):
    """A promise that is not kept; the message says how."""


def check_detector(
    open_detector: Open, vocabulary: Sequence[str] | None = None, images: Sequence[Image] = ()
) -> list[Check]:
    """Holds a detector to every promise of the protocol.

    Args:
        open_detector: Opens it with given settings; called a few times.
        vocabulary: What its class names must be; None = whatever it says.
        images: Real pictures on which it finds something; without them made-up
            ones are used, on which good detectors find little.

    Returns:
        One check a promise, all of them, whatever fails.
    """
    try:
        detector = open_detector(_SETTINGS)
    except UserError as error:
        return [Check("opens", str(error))]
    kit = _Kit(open_detector, detector, [*images, *made_up(_ORDINARY)])
    promises: dict[str, Callable[[], str]] = {
        "vocabulary": lambda: kit.vocabulary(vocabulary),
        "no images give an empty table": kit.no_images,
        "blank images": kit.blank,
        "one pixel and extreme aspect ratios": kit.extremes,
        "boxes inside the image, scores finite, sorted": kit.contract,
        "a batch of mixed sizes equals one by one": kit.batches,
        "the same twice": kit.twice,
        "several threads at once": kit.threads,
        "score floor and number of detections": kit.limits,
        "images are left as they are": kit.untouched,
        "what is no RGB picture is refused": kit.refusals,
    }
    return [Check("opens"), *(_checked(name, promise) for name, promise in promises.items())]


def assert_conforms(
    open_detector: Open, vocabulary: Sequence[str] | None = None, images: Sequence[Image] = ()
) -> None:
    """`check_detector` as an assertion.

    Raises:
        AssertionError: Lists every promise that is not kept.
    """
    broken = [check for check in check_detector(open_detector, vocabulary, images) if check.problem]
    if broken:
        raise AssertionError("\n".join(f"{check.name}: {check.problem}" for check in broken))


def made_up(sizes: Iterable[tuple[int, int]], seed: int = 0) -> list[Image]:
    """Pictures of coloured rectangles and discs on noise, of the given heights and widths."""
    generator = np.random.default_rng(seed)
    pictures = []
    for height, width in sizes:
        picture = generator.integers(90, 140, (height, width, 3), dtype=np.uint8)
        rows, columns = np.mgrid[:height, :width]
        for _ in range(6):
            colour = generator.integers(0, 256, 3)
            x, y = generator.integers(0, width), generator.integers(0, height)
            side = max(2, int(min(height, width) * generator.uniform(0.1, 0.4)))
            disc = (rows - y) ** 2 + (columns - x) ** 2 < (side / 2) ** 2
            square = (abs(rows - y) < side / 2) & (abs(columns - x) < side / 2)
            picture[disc if generator.random() < 0.5 else square] = colour
        pictures.append(picture)
    return pictures


def _checked(name: str, promise: Callable[[], str]) -> Check:
    try:
        return Check(name, None, promise())
    except _BrokenError as error:
        return Check(name, str(error))
    except Exception as error:  # a detector may die of anything: that is the finding
        (first, *_) = [*str(error).strip().splitlines(), ""]
        return Check(name, f"{type(error).__name__}: {first}")


class _Kit:
    def __init__(self, open_detector: Open, detector: Detector, images: list[Image]) -> None:
        self.open, self.detector, self.images = open_detector, detector, images

    def vocabulary(self, expected: Sequence[str] | None) -> str:
        names = self.detector.vocabulary
        check_vocabulary(names, "vocabulary")
        if expected is not None and tuple(expected) != tuple(names):
            raise _BrokenError(f"{len(names)} class names, the manifest has {len(expected)}, or others")
        return f"{len(names)} classes"

    def no_images(self) -> str:
        found = self.detector.predict([])
        if len(found):
            raise _BrokenError(f"{len(found)} detections")
        return ""

    def blank(self) -> str:
        found = self._valid([np.full((64, 96, 3), grey, np.uint8) for grey in (0, 114, 255)])
        return f"{len(found)} detections" if len(found) else ""

    def extremes(self) -> str:
        images = made_up(_EXTREMES)
        for image in images:
            self._valid([image])
        self._valid(images)
        return ""

    def contract(self) -> str:
        found = self._valid(self.images)
        if not len(found):
            return "nothing was found: give --images of what it knows, or little is tested"
        return f"{len(found)} detections on {len(self.images)} images"

    def batches(self) -> str:
        images = [*self.images[:6], *made_up(_EXTREMES[3:])]
        together = self.detector.predict(images)
        for number, image in enumerate(images):
            alone = self.detector.predict([image])
            _compare(
                together[together.image_id == number], alone, f"image {number} {image.shape[1::-1]}", image
            )
        reverse = self.detector.predict(images[::-1])
        for number, image in enumerate(images):
            mirror = reverse[reverse.image_id == len(images) - 1 - number]
            _compare(together[together.image_id == number], mirror, f"image {number} in another order", image)
        return ""

    def twice(self) -> str:
        images = self.images[:4]
        one, two = (self.detector.predict(images) for _ in range(2))
        for number, image in enumerate(images):
            _compare(one[one.image_id == number], two[two.image_id == number], f"image {number}", image, 1e-6)
        return ""

    def threads(self) -> str:
        images = self.images[:4]
        alone = [self.detector.predict([image]) for image in images]
        with ThreadPoolExecutor(4) as pool:
            many = list(
                pool.map(lambda number: self.detector.predict([images[number % len(images)]]), range(8))
            )
        for number, found in enumerate(many):
            which = number % len(images)
            _compare(found, alone[which], f"image {which}", images[which])
        limited = self.open(InferenceSettings(threads=1))
        for which, image in enumerate(images[:2]):
            _compare(limited.predict([image]), alone[which], f"image {which} on one thread", image)
        return ""

    def limits(self) -> str:
        strict = self.open(InferenceSettings(score_floor=0.4, max_detections=2))
        images = self.images[:4]
        found = strict.predict(images)
        if len(found) and found.score.min() < 0.4:
            raise _BrokenError(f"a score of {found.score.min():.3f} below the floor of 0.4")
        per_image = np.bincount(found.image_id, minlength=len(images)) if len(found) else np.zeros(1, int)
        if per_image.max() > 2:
            raise _BrokenError(f"{per_image.max()} detections on an image, at most 2 were asked for")
        return ""

    def untouched(self) -> str:
        images = made_up(_ORDINARY)  # not those that it may have overwritten already
        copies = [image.copy() for image in images]
        self.detector.predict(images)
        if any((image != copy).any() for image, copy in zip(images, copies, strict=True)):
            raise _BrokenError("its input was overwritten")
        read_only = images[0]
        read_only.flags.writeable = False
        self.detector.predict([read_only, np.ascontiguousarray(read_only)[::-1, ::-1]])
        return ""

    def refusals(self) -> str:
        for name, image in _NO_IMAGES.items():
            try:
                self.detector.predict([image])
            except UserError:
                continue
            raise _BrokenError(f"an image that is {name} was accepted")
        self.detector.predict(self.images[:1])  # and it still works
        return ""

    def _valid(self, images: Sequence[Image]) -> Detections:
        """Predicts, and checks the table's contract."""
        found = self.detector.predict(images)
        sizes = {number: (image.shape[1], image.shape[0]) for number, image in enumerate(images)}
        try:
            table.validate(found, sizes, len(self.detector.vocabulary), "it")
        except UserError as error:
            raise _BrokenError(error.problem) from None
        if (table.order(found) != np.arange(len(found))).any():
            raise _BrokenError("the rows are not sorted: image, then falling score")
        if len(found) and found.score.min() < _SETTINGS.score_floor:
            raise _BrokenError(
                f"a score of {found.score.min():.4f} below the floor of {_SETTINGS.score_floor}"
            )
        return found


def _compare(
    one: Detections, other: Detections, what: str, image: Image, tolerance: float = SCORE_TOLERANCE
) -> None:
    """Every clear detection of each has its equal in the other.

    Near the floor, and where two boxes are about equally good, the last bit of
    a float may decide what is kept: such rows prove nothing.
    """
    clear = _SETTINGS.score_floor + 10 * SCORE_TOLERANCE
    pixels = max(PIXEL_TOLERANCE, 0.01 * max(image.shape[:2]))
    for rows, pool in ((one, other), (other, one)):
        full = len(pool) >= _SETTINGS.max_detections
        lowest = pool.score.min() + 10 * SCORE_TOLERANCE if full else 0.0
        for row in np.flatnonzero(rows.score > max(clear, lowest)):
            same = (
                (pool.class_id == rows.class_id[row])
                & (np.abs(pool.score - rows.score[row]) <= tolerance)
                & (np.abs(pool.boxes - rows.boxes[row]).max(axis=1, initial=0) <= pixels)
            )
            if not same.any():
                box = [round(float(side), 1) for side in rows.boxes[row]]
                raise _BrokenError(
                    f"{what}: class {rows.class_id[row]}, score {rows.score[row]:.3f}, box {box} "
                    "is there one time and not the other"
                )
