"""Evaluation: a detector, or several as an ensemble, on an annotated image set."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composition import detections as table
from composition import label_space as spaces
from composition.aliases import shared_classes
from composition.coco import check_coco
from composition.detections import Detections
from composition.errors import UserError
from composition.evaluation import Metrics
from composition.fusion import Fuser, Nms, Wbf
from composition.label_space import LabelSpace
from tasks import fusers
from tasks.comparison import Outcome, Row, examine, with_leads
from tasks.image_index import (
    ImageList,
    build_index,
    content_digest,
    image_root,
    load_index,
    load_quarantine,
    read_json,
)
from tasks.infer import GenerateSettings, load_all, run_inference, run_teachers
from tasks.label_files import coco_file, find_label_files
from tasks.looks import look_again
from tasks.step import step
from tasks.store import Artifact, Store, digest_of
from tasks.teachers import Look, Teacher

log = logging.getLogger("detcompose")

EVALUATION_VERSION = 3
METRICS_FILE = "metrics.json"
PER_CLASS_FILE = "per_class.csv"
# COCO's AP integrates the whole precision-recall curve: a higher floor would cut its tail
SETTINGS = GenerateSettings(score_floor=0.01)


@dataclass(frozen=True, slots=True)
class Dataset:
    """An annotated image set for evaluation.

    Attributes:
        source: Its COCO file, or another label file or folder.
        root: Folder of its images.
        coco: Its content, checked.
        digest: Digest of the annotations.
        images_digest: Digest of the images' names and bytes.
    """

    source: Path
    root: Path
    coco: Mapping[str, Any]
    digest: str
    images_digest: str

    @property
    def listing(self) -> ImageList:
        """Its images, not yet opened."""
        return _listing(self.source, self.root, self.coco)


def load_dataset(source: Path, root: Path | None = None, limit: int | None = None) -> Dataset:
    """Reads and checks a labelled image set: a COCO file, or a YOLO or VOC set (`tasks.label_files`).

    Args:
        source: The file or folder.
        root: Folder of a COCO file's images; default as in `tasks.image_index.list_images`.
        limit: Only the first so many images, by file name.

    Raises:
        UserError: Names the file and the field that is wrong.
    """
    coco, folder = _read_labels(source, root)
    coco = check_coco(coco, str(source))
    if not coco["images"]:
        raise UserError(f"{source} holds no images", "Give a COCO file of annotated images.")
    _require_images(source, folder, coco)
    if limit is not None:
        kept = sorted(coco["images"], key=lambda image: image["file_name"])[:limit]
        coco = _restricted(coco, {image["id"] for image in kept})
    return _dataset(source, folder.resolve(), coco)


def _require_images(source: Path, root: Path, coco: Mapping[str, Any]) -> None:
    """Raises UserError where not one image is there, as in a wrong folder; which ones are, the index says."""
    names = [image["file_name"] for image in coco["images"]]
    if not any((root / name).is_file() for name in names):
        raise UserError(
            f"{source}: not one of its {len(names)} images is in {root}, for example {names[0]}",
            "Name the folder from which their file names count (root).",
        )


def _read_labels(source: Path, root: Path | None) -> tuple[Any, Path]:
    """The labels in COCO's form, not yet checked, and the folder of the images."""
    if file := coco_file(source):
        return read_json(file), root or image_root(file)
    if root is not None:
        raise UserError(
            f"{source}: a folder of images ({root}) is only for COCO files", "Leave it out: the set says it."
        )
    found = find_label_files(source)
    return found.read(), found.root


def few_images(
    dataset: Dataset, images: int, seed: int | None = None, *, beside: Collection[int] = ()
) -> Dataset:
    """So many images of a data set, chosen by a hash of their names: in no order of the file or folder.

    Fewer images are a part of more; another seed gives others. Images whose ids
    are in ``beside`` are kept, too, and do not count.
    """

    def rank(image: Mapping[str, Any]) -> tuple[str, int]:
        name = image["file_name"]
        return (digest_of(name) if seed is None else digest_of(seed, name), image["id"])

    ranked = sorted((image for image in dataset.coco["images"] if image["id"] not in beside), key=rank)
    kept = {image["id"] for image in ranked[:images]} | set(beside)
    return _dataset(dataset.source, dataset.root, _restricted(dataset.coco, kept))


def _restricted(coco: Mapping[str, Any], kept: set[int]) -> dict[str, Any]:
    return {
        **coco,
        "images": [image for image in coco["images"] if image["id"] in kept],
        "annotations": [row for row in coco["annotations"] if row["image_id"] in kept],
    }


def _dataset(source: Path, root: Path, coco: Mapping[str, Any]) -> Dataset:
    digest = digest_of("dataset", coco["images"], coco["annotations"], coco["categories"])
    return Dataset(source, root, coco, digest, content_digest(_listing(source, root, coco)))


def _listing(source: Path, root: Path, coco: Mapping[str, Any]) -> ImageList:
    return ImageList(source, root, tuple(sorted({image["file_name"] for image in coco["images"]})))


def index_dataset(store: Store, dataset: Dataset) -> Artifact:
    """The index of a data set's images; says so where some cannot be used.

    Raises:
        UserError: Not one can be used.
    """
    index = build_index(store, dataset.listing, dataset.images_digest)
    bad = load_quarantine(index)
    if bad:
        # their objects count as missed by everybody
        log.warning(
            "%s: %d of %d images cannot be used, so that all figures are too low; the first: %s: %s",
            dataset.source,
            len(bad),
            len(bad) + index.counts["images"],
            bad[0]["path"],
            bad[0]["reason"],
        )
    return index


def run_on_dataset(
    store: Store, detector: Teacher, dataset: Dataset, index: Artifact, look: Look = "first"
) -> Detections:
    """Runs a detector on the index of a data set; image ids are those of the data set.

    The first look is joined with the further ones that the detector takes.
    """
    name = detector.name
    shards: Sequence[Artifact] = run_inference(store, detector, index, SETTINGS, look)
    if look == "first" and detector.further_looks:
        shards = look_again(run_teachers, store, [detector], index, {name: shards}, SETTINGS).all[name]
    return table.with_image_ids(load_all(shards), dataset_ids(dataset, index))


def dataset_ids(dataset: Dataset, index: Artifact) -> NDArray[np.int64]:
    """By image id of an index, the id of the same image in a data set; -1 where there is none."""
    names = {image["file_name"]: image["id"] for image in dataset.coco["images"]}
    records = load_index(index)
    lookup = np.full(max(record.image_id for record in records) + 1, -1, np.int64)
    for record in records:
        lookup[record.image_id] = names[record.path]
    return lookup


def evaluate_detector(store: Store, detector: Teacher, dataset: Dataset) -> Metrics:
    """A detector alone, on the classes that it shares with the data set."""
    return examine_detector(store, detector, dataset).measured.metrics


def examine_detector(store: Store, detector: Teacher, dataset: Dataset) -> Outcome:
    """`evaluate_detector`, with all that intervals and comparisons need.

    Raises:
        UserError: It shares no class with the data set.
    """
    vocabulary = detector.manifest.vocabulary
    shared = require_shared(dataset, vocabulary, f"detector {detector.name}")
    found = run_on_dataset(store, detector, dataset, index_dataset(store, dataset))
    return examine(found, dataset.coco, vocabulary, shared)


def shared_categories(dataset: Dataset, classes: Sequence[str]) -> list[str]:
    """The categories of a data set that some classes can express, by name or alias."""
    names = [category["name"] for category in dataset.coco["categories"]]
    return [names[position] for position in sorted(set(shared_classes(classes, names).values()))]


def require_shared(dataset: Dataset, classes: Sequence[str], whose: str) -> list[str]:
    """`shared_categories`, of which there must be one.

    Args:
        dataset: The data set.
        classes: The classes.
        whose: Who knows them, for the error.

    Raises:
        UserError: There is none; says what both have.
    """
    shared = shared_categories(dataset, classes)
    if not shared:
        known = ", ".join(category["name"] for category in dataset.coco["categories"][:10])
        raise UserError(
            f"{whose} and {dataset.source} have no class in common",
            f"{whose[0].upper()}{whose[1:]} has {', '.join(classes[:10])}; the file has {known or 'none'}.",
        )
    return shared


def comparison_key(
    dataset: Dataset,
    teachers: Sequence[Teacher],
    students: Sequence[tuple[str, Teacher]],
    space: LabelSpace,
    fusing: Fuser,
) -> str:
    """Digest of everything that decides a comparison."""
    return digest_of(
        "evaluation",
        EVALUATION_VERSION,
        dataset.digest,
        dataset.images_digest,
        [(teacher.name, teacher.way_of_looking) for teacher in teachers],
        [(role, student.name, student.digest) for role, student in students],
        spaces.digest(space),
        fusers.to_json(fusing),
    )


def compare_detectors(
    store: Store,
    name: str,
    dataset: Dataset,
    teachers: Sequence[Teacher],
    students: Sequence[tuple[str, Teacher]],
    space: LabelSpace,
    fusing: Fuser,
) -> Artifact:
    """Measures everybody on one data set: teachers, their ensemble, students.

    Args:
        store: Where the result goes.
        name: Name of the data set.
        dataset: The data set.
        teachers: The teachers, named as in the label space; further looks are for ``fusing`` only.
        students: Role (``student`` or ``baseline``) and detector, whose vocabulary is the label space.
        space: The label space.
        fusing: The fuser of the composition; it and the two stock ones, with
            their defaults, are the ensembles.

    Returns:
        The artifact with ``metrics.json`` and ``per_class.csv``.
    """
    key = comparison_key(dataset, teachers, students, space, fusing)
    done = store.find("evaluations", key)
    if done:
        return done
    everything = shared_categories(dataset, space.classes)

    def measure(found: Detections, categories: Sequence[str]) -> Outcome:
        return examine(found, dataset.coco, space.classes, categories)

    index = index_dataset(store, dataset)
    rows: list[Row] = []
    mapped: dict[str, Detections] = {}
    coverage = spaces.coverage(space)

    def look(teacher: Teacher) -> Detections:
        return spaces.map_detections(space, teacher.name, run_on_dataset(store, teacher, dataset, index))

    for column, teacher in enumerate(teachers):
        mapped[teacher.name] = look(teacher.looking_once)
        known = [c for c, sees in zip(space.classes, coverage[:, column], strict=True) if sees]
        own = shared_categories(dataset, known)
        if own:
            rows.append(Row(teacher.name, "teacher", "own", measure(mapped[teacher.name], own)))
        rows.append(Row(teacher.name, "teacher", "all", measure(mapped[teacher.name], everything)))
    ensembles = {one.name: one for one in (Nms(), Wbf(), fusing)}
    for title, fuser in ensembles.items():
        seen = [look(one) if fuser is fusing and one.further_looks else mapped[one.name] for one in teachers]
        fused = fuser.fuse(seen).detections
        rows.append(Row(f"ensemble ({title})", "ensemble", "all", measure(fused, everything)))
    for role, detector in students:
        found = run_on_dataset(store, detector, dataset, index)
        rows.append(Row(detector.name, role, "all", measure(found, everything)))
    inputs = {"dataset": dataset.digest, "images": dataset.images_digest, "label-space": spaces.digest(space)}
    inputs |= {detector.name: detector.digest for detector in (*teachers, *(d for _, d in students))}
    with store.write("evaluations", key, inputs) as draft:
        documents = [row.to_dict() for row in with_leads(rows)]
        content = json.dumps({"dataset": name, "rows": documents}, indent=2)
        draft.file(METRICS_FILE).write_text(content + "\n")
        _write_per_class(draft.file(PER_CLASS_FILE), documents)
        draft.counts = {"images": len(dataset.coco["images"]), "boxes": len(dataset.coco["annotations"])}
    return draft.artifact


compare = step(compare_detectors, "evaluate", run_name="evaluate on {name}")


def load_rows(evaluation_artifact: Artifact) -> list[dict[str, Any]]:
    """The rows of a comparison in JSON form."""
    document = json.loads(evaluation_artifact.file(METRICS_FILE).read_text())
    rows: list[dict[str, Any]] = document["rows"]
    return rows


def _write_per_class(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        ends = ["AP_low", "AP_high", "AP50_low", "AP50_high"]
        writer.writerow(["detector", "role", "scope", "class", "AP", "AP50", "boxes", *ends])
        for row in rows:
            for name, values in row["per_class"].items():
                spread = row["interval"]["per_class"][name]
                limits = [(spread[key] or {}).get(end) for key in ("AP", "AP50") for end in ("low", "high")]
                figures = [values["AP"], values["AP50"], values["boxes"]]
                writer.writerow([row["name"], row["role"], row["scope"], name, *figures, *limits])
