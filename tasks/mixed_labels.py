"""The labels that a student is fine-tuned on: a person's and, for the rest, a composition's."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from composition.aliases import require_known, shared_classes
from composition.coco import require_sizes
from composition.errors import UserError
from composition.few_labels import combine
from model_zoo.images import BadImageError, read_bytes
from tasks.annotations import ANNOTATIONS_FILE, category_names
from tasks.evaluate import Dataset, few_images
from tasks.store import Artifact, Store, digest_of

MIXED_VERSION = 1


@dataclass(frozen=True, slots=True)
class MixedLabels:
    """Labels to train on, and what decides them.

    Attributes:
        artifact: With ``instances.json``; file names count from `root`.
        root: The folder that holds all images.
        digest: Identity of labels and images, wherever they lie.
    """

    artifact: Artifact
    root: Path
    digest: str

    @property
    def file(self) -> Path:
        """The COCO file."""
        return self.artifact.file(ANNOTATIONS_FILE)


def covered_classes(
    human: Dataset, vocabulary: Sequence[str], chosen: Sequence[str] | None
) -> dict[str, str]:
    """Which categories of a person's labels are complete, and the student's classes that they are.

    Args:
        human: The person's labels.
        vocabulary: The student's classes.
        chosen: Names of the file or of the student; None = all that both know.

    Returns:
        Category of the file to class of the student, in the student's order.

    Raises:
        UserError: A chosen class is not known to both, or they share none.
    """
    names = category_names(human)
    pairs = {vocabulary[own]: names[theirs] for own, theirs in shared_classes(vocabulary, names).items()}
    if not pairs:
        raise UserError(
            f"{human.source} and the student have no class in common",
            f"The student knows {', '.join(vocabulary[:10])}; the file has {', '.join(names[:10])}.",
        )
    if chosen is None:
        return {category: name for name, category in pairs.items()}
    wanted = set()
    to_class = {category: name for name, category in pairs.items()}
    for name in chosen:
        require_known(to_class.get(name, name), list(pairs), f"{human.source}: --classes")
        wanted.add(to_class.get(name, name))
    return {category: name for name, category in pairs.items() if name in wanted}


def human_repeat(human_images: int, other_images: int, share: float) -> int:
    """How often an epoch shows each image of a person's, so that they are about a share of what is shown."""
    if not other_images:
        return 1
    return max(1, round(share / (1 - share) * other_images / human_images))


def mix_labels(
    store: Store,
    human: Dataset,
    pool: Dataset | None,
    vocabulary: Sequence[str],
    covered: dict[str, str],
    share: float,
    shown: int,
    seed: int = 0,
) -> MixedLabels:
    """Combines a person's labels with pseudo-labels, see `composition.few_labels`.

    The same picture in both is recognised by its bytes, however it is called.

    Args:
        store: Where the labels go.
        human: The person's labels.
        pool: The pseudo-labels, if any.
        vocabulary: The student's classes in order.
        covered: Categories that the person's labels are complete for, and the classes that they are.
        share: Part of the images shown that shall be the person's, see `human_repeat`.
        shown: Images that the whole training is to show; more of the pool than fit in are left out.
        seed: Seed of the choice of these.

    Raises:
        UserError: An image says no size, or two; the pseudo-labels know no class of the student.
    """
    for dataset in (human, pool):
        if dataset is not None:
            require_sizes(dataset.coco, str(dataset.source))
    if pool is not None and not set(category_names(pool)) & set(vocabulary):
        raise UserError(
            f"{pool.source} has no class of the student",
            f"The student knows {', '.join(vocabulary[:10])}; "
            f"the file has {', '.join(category_names(pool)[:10])}.",
        )
    same = {} if pool is None else same_pictures(human, pool)
    others = 0 if pool is None else len(pool.coco["images"]) - len(same)
    room = math.ceil(shown * (1 - share))
    if pool is not None and others > room:
        pool, others = few_images(pool, room, seed, beside=set(same.values())), room
    repeat = human_repeat(len(human.coco["images"]), others, share)
    content = digest_of(
        "mixed labels",
        MIXED_VERSION,
        [human.digest, human.images_digest],
        None if pool is None else [pool.digest, pool.images_digest],
        list(vocabulary),
        covered,
        repeat,
    )
    roots = [dataset.root for dataset in (human, pool) if dataset is not None]
    root = Path(os.path.commonpath(roots))
    places = [one.relative_to(root).as_posix() for one in roots]
    # the file holds locations, so that its key does; what is trained from it goes by the content
    key = digest_of(content, places)
    found = store.find("annotations", key)
    if found:
        return MixedLabels(found, root, content)
    document, counts = combine(
        _placed(human, places[0]),
        None if pool is None else _placed(pool, places[1]),
        vocabulary,
        covered,
        same,
        repeat,
    )
    inputs = {"labels": human.digest, **({} if pool is None else {"pseudo-labels": pool.digest})}
    with store.write("annotations", key, inputs) as draft:
        draft.file(ANNOTATIONS_FILE).write_text(json.dumps(document))
        draft.counts = {**asdict(counts), "repeat": repeat}
    return MixedLabels(draft.artifact, root, content)


def _placed(dataset: Dataset, place: str) -> dict[str, object]:
    """The labels with file names below another folder."""
    images = [
        {**image, "file_name": (Path(place) / image["file_name"]).as_posix()}
        for image in dataset.coco["images"]
    ]
    return {**dataset.coco, "images": images}


def same_pictures(human: Dataset, pool: Dataset) -> dict[int, int]:
    """Image id of a person's labels to the id of the same file in the pool, by content.

    Files of a size that no labelled image has are not read.

    Raises:
        UserError: An image cannot be read.
    """
    labelled: dict[str, int] = {}
    sizes = set()
    for image in human.coco["images"]:
        path = human.root / image["file_name"]
        labelled[_content(path)] = image["id"]
        sizes.add(path.stat().st_size)
    found: dict[int, int] = {}
    for image in pool.coco["images"]:
        path = pool.root / image["file_name"]
        if path.is_file() and path.stat().st_size in sizes:
            own = labelled.get(_content(path))
            if own is not None:
                found.setdefault(own, image["id"])
    return found


def _content(path: Path) -> str:
    try:
        return hashlib.sha256(read_bytes(path)).hexdigest()
    except BadImageError as error:
        raise UserError(f"{path}: {error}", "Remove the image from the labels.") from None
