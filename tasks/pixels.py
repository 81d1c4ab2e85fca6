"""Pixels for the teachers: decoded once, ahead of time, in order, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from model_zoo.adapters.base import Image
from model_zoo.cores import usable_cores
from model_zoo.images import BadImageError, read_rgb
from tasks.image_index import ImageRecord

AUTO_BATCH = 32
"""Images per call where nobody chooses; from 4 on the rate hardly changes (benchmarks/inference.py)."""
BATCH_BYTES = 128 << 20
"""Pixels of one batch: 32 photographs of 1.4 megapixels, 3 of 12. At most two batches are in memory."""
_FIRST = 4  # the first batch is small: nothing computes while it is decoded
_MOST_READERS = 8


@dataclass(frozen=True, slots=True)
class Batch:
    """Images that are decoded.

    Attributes:
        records: Those that can be used, in the order of the index.
        images: Their pixels.
        bad: Image id to the reason, of those that cannot be used any more.
    """

    records: tuple[ImageRecord, ...]
    images: tuple[Image, ...]
    bad: Mapping[int, str]


def batches(records: Sequence[ImageRecord], most: int | None = None) -> Iterator[Batch]:
    """Decodes images, one batch ahead of whoever takes them.

    Args:
        records: The images.
        most: Images per batch; None: `AUTO_BATCH`. Large images make smaller batches.

    Yields:
        Batches in the order of ``records``.
    """
    readers = min(usable_cores(), _MOST_READERS)
    cuts = _cut(records, most)
    with ThreadPoolExecutor(readers, thread_name_prefix="decode") as pool:

        def start() -> list[tuple[ImageRecord, Future[Image]]]:
            return [(record, pool.submit(read_record, record)) for record in next(cuts, ())]

        try:
            pending = start()
            while pending:
                batch = _collect(pending)
                pending = start()
                yield batch
                del batch  # its pixels are free before the next ones are waited for
        finally:
            pool.shutdown(cancel_futures=True)


def _cut(records: Sequence[ImageRecord], most: int | None) -> Iterator[list[ImageRecord]]:
    """Consecutive runs of images, the first ones short, none beyond `BATCH_BYTES` but a single image."""
    limit = most or AUTO_BATCH
    size = min(limit, _FIRST)
    part: list[ImageRecord] = []
    held = 0
    for record in records:
        needed = record.width * record.height * 3
        if part and (len(part) == size or held + needed > BATCH_BYTES):
            yield part
            size = min(limit, 2 * size)
            part, held = [], 0
        part.append(record)
        held += needed
    if part:
        yield part


def _collect(pending: Sequence[tuple[ImageRecord, Future[Image]]]) -> Batch:
    good: list[tuple[ImageRecord, Image]] = []
    bad: dict[int, str] = {}
    for record, future in pending:
        try:
            good.append((record, future.result()))
        except BadImageError as error:
            bad[record.image_id] = f"{record.uri} {error}"
    return Batch(tuple(record for record, _ in good), tuple(image for _, image in good), bad)


def read_record(record: ImageRecord) -> Image:
    """The pixels of an indexed image.

    Raises:
        BadImageError: It is gone, or not what it was when it was indexed.
    """
    try:
        pixels = read_rgb(Path(record.uri))
    except BadImageError as error:
        raise BadImageError(f"was readable when it was indexed and is not any more: {error}") from None
    if pixels.shape[:2] != (record.height, record.width):
        raise BadImageError("has another size than when it was indexed")
    return pixels
