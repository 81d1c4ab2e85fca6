"""The image index: which images there are, in a stable order, and which are unusable."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from composition.errors import UserError
from model_zoo.cores import usable_cores
from model_zoo.images import SUFFIXES, BadImageError, decode_rgb, read_bytes
from tasks.home import Home
from tasks.label_files import coco_file, find_image_files
from tasks.label_files.found import images_below, relative
from tasks.label_files.source import COCO_FOLDER
from tasks.progress import track
from tasks.remote_images import fetch_images, url_of
from tasks.step import step
from tasks.store import Artifact, Store, digest_of

INDEX_VERSION = 1
INDEX_FILE = "images.parquet"
QUARANTINE_FILE = "quarantine.parquet"
ROW_GROUP = 1024
"""Images in a row group of the index: what is read of it at once."""
POOL_SAMPLE = 500
"""Images of a pool that the teachers look at more than once, at most: time and memory stay the same."""

INDEX_SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("path", pa.string()),
        ("uri", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),
    ]
)
QUARANTINE_SCHEMA = pa.schema([("image_id", pa.int64()), ("path", pa.string()), ("reason", pa.string())])


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One usable image.

    Attributes:
        image_id: Position of its path in the sorted list of all paths.
        path: Path relative to the root of the set, with forward slashes.
        uri: Where it lies.
        width: Pixels, after EXIF orientation.
        height: Pixels, after EXIF orientation.
        sha256: Of the file's bytes.
    """

    image_id: int
    path: str
    uri: str
    width: int
    height: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ImageList:
    """A set of image files, not yet opened.

    Attributes:
        source: The folder or COCO file it came from, for messages.
        root: Folder that the paths are relative to.
        paths: Sorted relative paths.
        bad: Path to the reason why it cannot be used, where that is known already.
    """

    source: Path
    root: Path
    paths: tuple[str, ...]
    bad: Mapping[str, str] = field(default_factory=dict)


def list_images(source: Path, root: Path | None = None, limit: int | None = None) -> ImageList:
    """Finds the images of a folder (recursively), of a COCO file, or of a YOLO or VOC set.

    Args:
        source: A folder of images, a COCO JSON file with ``images[].file_name``, or a set as in
            `tasks.label_files`, or the URL of a folder in a store (`tasks.remote_images`).
        root: Folder of a COCO file's images; default: ``images/`` beside the
            file where it exists, else the file's own folder.
        limit: Take only the first so many of the sorted paths.

    Raises:
        UserError: Nothing there, or not in the form expected.
    """
    if url := url_of(source):
        fetched = fetch_images(url, Home.default().remote_images, limit)
        return ImageList(source, fetched.root, fetched.paths, fetched.bad)
    found = find_image_files(source)
    if found:
        folder, paths = found.root, list(found.paths)
    elif source.is_dir():
        folder, paths = source, list(relative(images_below(source), source))
    elif (file := coco_file(source)) and file.is_file():
        folder = root or image_root(file)
        paths = sorted({entry["file_name"] for entry in coco_images(file)})
    else:
        raise UserError(
            f"images: {source} does not exist",
            "Give a folder of images, a COCO JSON file, or a YOLO or VOC data set.",
        )
    if not paths:
        raise UserError(
            f"images: {source} holds no images",
            f"Put images there ({', '.join(SUFFIXES)}) or name another folder.",
        )
    if limit is not None:
        paths = paths[:limit]
    return ImageList(source, folder.resolve(), tuple(paths))


def image_root(source: Path) -> Path:
    """The folder of a COCO file's images: ``images/`` beside it, or beside its folder ``annotations/``.

    Otherwise its own folder.
    """
    beside = [source.parent / "images"]
    if source.parent.name == COCO_FOLDER:
        beside.append(source.parent.parent / "images")
    return next((folder for folder in beside if folder.is_dir()), source.parent)


def read_json(path: Path) -> Any:
    """Reads a JSON file of the user's.

    Raises:
        UserError: Missing or not JSON; names the file and line.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", "Check the path.") from None
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} is not readable JSON: {error}", "Give a COCO JSON file.") from None


def coco_images(source: Path) -> list[dict[str, Any]]:
    """The ``images`` list of a COCO file, checked for what the index needs."""
    document = read_json(source)
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list):
        raise UserError(f"{source}: no list 'images'", "Give a COCO JSON file or a folder of images.")
    for position, entry in enumerate(images):
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name:
            raise UserError(f"{source}: images[{position}] has no 'file_name'")
    return images


def content_digest(listing: ImageList) -> str:
    """Digest of an image set: its relative paths and the bytes of every file, not its place."""

    def digest(path: str) -> str | None:
        try:
            return hashlib.sha256(read_bytes(listing.root / path)).hexdigest()
        except BadImageError:
            return None

    with ThreadPoolExecutor(usable_cores()) as pool:
        return _content(listing, pool.map(digest, listing.paths))


def _content(listing: ImageList, digests: Iterable[str | None]) -> str:
    """`content_digest` by the sha256 of every file, None where it cannot be read."""
    return digest_of("image-index", INDEX_VERSION, list(zip(listing.paths, digests, strict=True)))


def _index_key(listing: ImageList, content: str) -> str:
    return digest_of(content, str(listing.root))


def find_index(store: Store, listing: ImageList, content: str) -> Artifact | None:
    """The index of an image set if there is one; ``content`` is its `content_digest`."""
    return store.find("image-index", _index_key(listing, content))


def build_index(store: Store, listing: ImageList, content: str | None = None) -> Artifact:
    """Decodes every image once and writes ``images.parquet`` and ``quarantine.parquet``.

    Image ids count all paths, bad ones too, so that repairing a file moves no id.
    The table holds locations, so this artifact's key holds the root as well;
    nothing downstream does (see `tasks.infer`), so a moved set costs no inference.

    Args:
        store: Where the index goes.
        listing: The images.
        content: Their `content_digest`, where it is known: to find it reads every file.

    Raises:
        UserError: Not one image is usable, or files have changed meanwhile.
    """
    content = content or content_digest(listing)
    found = find_index(store, listing, content)
    if found:
        return found
    bad: list[dict[str, Any]] = []
    digests: list[str | None] = []
    with store.write("image-index", _index_key(listing, content), {"content": content}) as draft:
        with (
            ThreadPoolExecutor(usable_cores()) as pool,
            pq.ParquetWriter(draft.file(INDEX_FILE), INDEX_SCHEMA) as writer,
        ):
            # a few at a time: what has been read waits in memory for those before it
            inspected = (
                one
                for first in range(0, len(listing.paths), ROW_GROUP)
                for one in pool.map(partial(_inspect, listing), listing.paths[first : first + ROW_GROUP])
            )
            results = track(inspected, "reading images", len(listing.paths))
            rows: list[dict[str, Any]] = []
            for image_id, (path, (sha256, size)) in enumerate(zip(listing.paths, results, strict=True)):
                digests.append(sha256)
                if sha256 is None or isinstance(size, str):
                    bad.append({"image_id": image_id, "path": path, "reason": size})
                    continue
                place = str(listing.root / path)
                rows.append(asdict(ImageRecord(image_id, path, place, *size, sha256)))
                if len(rows) == ROW_GROUP:
                    writer.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA))
                    rows.clear()
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA))
        if _content(listing, digests) != content:
            raise UserError(
                f"images: files of {listing.source} have changed while they were read",
                "Run again when nobody writes there.",
            )
        if len(bad) == len(digests):
            raise UserError(
                f"images: none of the {len(bad)} images of {listing.source} is usable; "
                f"the first, {bad[0]['path']}: {bad[0]['reason']}",
                "Check the path and the files.",
            )
        pq.write_table(pa.Table.from_pylist(bad, QUARANTINE_SCHEMA), draft.file(QUARANTINE_FILE))
        draft.counts = {"images": len(digests) - len(bad), "quarantined": len(bad)}
    return draft.artifact


index_images = step(build_index, "index images")


def _inspect(listing: ImageList, path: str) -> tuple[str | None, tuple[int, int] | str]:
    """sha256 of a file, None if it cannot be read; width and height of its image, or why it is of no use."""
    try:
        data = read_bytes(listing.root / path)
    except BadImageError as error:
        return None, listing.bad.get(path, str(error))
    sha256 = hashlib.sha256(data).hexdigest()
    if path in listing.bad:
        return sha256, listing.bad[path]
    try:
        height, width = decode_rgb(data).shape[:2]
    except BadImageError as error:
        return sha256, str(error)
    return sha256, (width, height)


def load_index(index: Artifact) -> list[ImageRecord]:
    """The usable images of an index, by image id."""
    return list(iter_index(index))


def iter_index(index: Artifact, batch: int = ROW_GROUP, *, first: int = 0) -> Iterator[ImageRecord]:
    """The usable images of an index one after the other, without holding them all.

    Args:
        index: The index.
        batch: So many are in memory at a time.
        first: So many are skipped.
    """
    with pq.ParquetFile(index.file(INDEX_FILE)) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        ends = list(accumulate(sizes))
        groups = [group for group, end in enumerate(ends) if end > first]
        skip = first - (ends[groups[0]] - sizes[groups[0]]) if groups else 0
        for rows in file.iter_batches(batch, groups) if groups else ():
            for row in rows[skip:].to_pylist() if skip < len(rows) else ():
                yield ImageRecord(**row)
            skip = max(skip - len(rows), 0)


@dataclass(frozen=True)
class Part(Sequence[ImageRecord]):
    """Consecutive images of an index, read when they are asked for: a pool may have a million.

    Attributes:
        whole: The index.
        first: How many images come before.
        size: How many they are.
    """

    whole: Artifact
    first: int
    size: int

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[ImageRecord]:
        return islice(iter_index(self.whole, first=self.first), self.size)

    @overload
    def __getitem__(self, place: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, place: slice) -> list[ImageRecord]: ...
    def __getitem__(self, place: int | slice) -> ImageRecord | list[ImageRecord]:
        return list(self)[place]


def index_parts(index: Artifact, size: int) -> list[Part]:
    """The images of an index in runs of at most ``size``."""
    count = index.counts["images"]
    return [Part(index, first, min(size, count - first)) for first in range(0, count, size)]


def load_quarantine(index: Artifact) -> list[dict[str, Any]]:
    """The unusable images of an index: ``image_id``, ``path``, ``reason``."""
    rows: list[dict[str, Any]] = pq.read_table(index.file(QUARANTINE_FILE)).to_pylist()
    return rows


def shards(records: Sequence[ImageRecord], size: int) -> Iterator[Sequence[ImageRecord]]:
    """Consecutive runs of at most ``size`` images."""
    for start in range(0, len(records), size):
        yield records[start : start + size]


def pool_sample(index: Artifact, images: int = POOL_SAMPLE) -> NDArray[np.int64]:
    """Ids of at most so many images, chosen by their content: in no order of names or folders."""
    ranked = heapq.nsmallest(images, ((record.sha256, record.image_id) for record in iter_index(index)))
    return np.sort(np.array([image_id for _, image_id in ranked], np.int64))
