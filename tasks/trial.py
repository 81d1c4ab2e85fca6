"""Whether a student is better than the detector that it started from, told without labels.

A student that starts from a detector which knows all of its classes has something to lose: a few
hundred images can make it worse than it began. So a tenth of the pool is kept from its training,
and it is measured there beside what it was before the training, against pseudo-labels in which the
detector that it started from has no say: made by the other teachers, for the classes that these
see. (In labels that it helped to make, that detector would agree with itself.) The student is kept
if it is clearly better, otherwise its start is the student.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from composition import label_space as spaces
from composition import pseudo_labels as pseudo
from composition.aliases import shared_classes
from composition.detections import Detections
from composition.evaluation import paired_difference
from composition.fusion import Fuser
from composition.label_space import LabelSpace
from model_zoo.student_settings import StudentSettings
from model_zoo.training import keep_start
from tasks import fusers, unanswered
from tasks.aggregate import fuse_raw
from tasks.comparison import examine
from tasks.evaluate import index_dataset, load_dataset, run_on_dataset
from tasks.infer import load_images
from tasks.label import COCO_FILE, INFO, load_unspoken
from tasks.method_settings import FilterSettings
from tasks.step import step
from tasks.store import Artifact, Store, digest_of
from tasks.teachers import Teacher
from tasks.thresholds import load_thresholds
from tasks.train import BUNDLE, HISTORY_FILE, student_counts

TRIAL_VERSION = 1
SHARE = 10
"""Every so many images of the pool, one is held out."""
MOST = 1_000
"""Held-out images at most: the interval is narrow enough."""
HELD_OUT_FILE = "held_out.json"
REFERENCE_FILE = "reference.json"
VERDICT_FILE = "verdict.json"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the held-out images say, in AP against pseudo-labels without the start.

    Attributes:
        images: Held-out images.
        start: AP of the start.
        student: AP of the trained student.
        difference: Student minus start.
        low: Lower end of its 95 % interval (paired bootstrap over images).
        high: Upper end.
    """

    images: int
    start: float
    student: float
    difference: float
    low: float
    high: float

    @property
    def student_kept(self) -> bool:
        """Whether the student is clearly better."""
        return self.low > 0

    def __str__(self) -> str:
        figures = f"{self.difference:+.1f} AP ({self.low:+.1f} to {self.high:+.1f}) on {self.images} images"
        if self.student_kept:
            return f"the student is better than its start: {figures} held out"
        return f"the student is not clearly better than its start: {figures} held out; the start is kept"


def can_be_tried(start: Teacher | None, teachers: Sequence[Teacher], space: LabelSpace) -> bool:
    """Whether a student starts from a detector that knows all its classes, and others can judge the two."""
    if start is None or not _seen_by_others(space, _same(start, teachers)):
        return False
    return len(shared_classes(start.manifest.vocabulary, space.classes)) == len(space.classes)


def hold_out(store: Store, labels: Artifact) -> Artifact:
    """Takes a tenth of the images out of the pseudo-labels.

    Which ones is told by a hash of their names. Images on which some teacher has not spoken are
    not taken.

    Args:
        store: Where the result goes.
        labels: Artifact of `tasks.label.label_pool`.

    Returns:
        The artifact with ``instances.json`` (what is left to train on) and ``held_out.json`` (the
        image rows that were taken).
    """
    key = digest_of("held-out", TRIAL_VERSION, labels.digest)
    found = store.find("held-out", key)
    if found:
        return found
    coco = json.loads(labels.file(COCO_FILE).read_text())
    incomplete = load_unspoken(labels).keys()
    ranked = sorted(coco["images"], key=lambda image: digest_of("trial", image["file_name"]))
    count = min(len(ranked) // SHARE, MOST)
    taken = [image for image in ranked if image["id"] not in incomplete][:count]
    ids = {image["id"] for image in taken}
    left = {
        **coco,
        "images": [image for image in coco["images"] if image["id"] not in ids],
        "annotations": [row for row in coco["annotations"] if row["image_id"] not in ids],
    }
    with store.write("held-out", key, {"pseudo-labels": labels.digest}) as draft:
        draft.file(COCO_FILE).write_text(json.dumps(left))
        draft.file(HELD_OUT_FILE).write_text(json.dumps(sorted(taken, key=lambda image: image["id"])))
        draft.counts = {"images": len(left["images"]), "held_out": len(taken)}
    return draft.artifact


hold_out_task = step(hold_out, "hold out")


def try_student(
    store: Store,
    *,
    student: Teacher,
    start: Teacher,
    origin: Teacher,
    held_out: Artifact,
    shards: Mapping[str, Sequence[Artifact]],
    teachers: Sequence[Teacher],
    space: LabelSpace,
    fuser: Fuser,
    thresholds: Artifact,
    filtering: FilterSettings,
    image_root: Path,
) -> Artifact:
    """Measures a student and its start on the held-out images.

    Args:
        store: Where the result goes.
        student: The trained student.
        start: What it was before the training, see `student_of_start`.
        origin: The detector that it started from, which may be a teacher.
        held_out: Artifact of `hold_out`.
        shards: Teacher name to its detections on the whole pool, as they were fused.
        teachers: The teachers.
        space: The label space.
        fuser: As the pseudo-labels were fused.
        thresholds: As the pseudo-labels were decided.
        filtering: Likewise.
        image_root: Folder of the images.

    Returns:
        The artifact with ``reference.json`` (COCO) and ``verdict.json``.
    """
    key = digest_of(
        "trial",
        TRIAL_VERSION,
        student.digest,
        start.digest,
        origin.digest,
        held_out.digest,
        thresholds.digest,
        fusers.to_json(fuser),
        [filtering.floor, filtering.minimum_size],
        [(name, [part.digest for part in parts]) for name, parts in shards.items()],
    )
    found = store.find("trials", key)
    if found:
        return found
    images = json.loads(held_out.file(HELD_OUT_FILE).read_text())
    own = _same(origin, teachers)
    limits = load_thresholds(thresholds)
    rules = pseudo.Rules(limits.keep, limits.ignore, spaces.related(space), filtering.minimum_size)
    ids = [image["id"] for image in images]
    reference = _reference(shards, own, ids, space, fuser, filtering.floor, rules)
    with store.write("trials", key, {"student": student.digest, "start": start.digest}) as draft:
        file = draft.file(REFERENCE_FILE)
        file.write_text(json.dumps(pseudo.to_coco(reference, images, space.classes, INFO)))
        judged = _seen_by_others(space, own)
        verdict = _compare(store, student, start, file, image_root, judged)
        draft.file(VERDICT_FILE).write_text(json.dumps(asdict(verdict), indent=2) + "\n")
        draft.counts = {"held_out": len(images), "student_kept": int(verdict.student_kept)}
    return draft.artifact


try_student_task = step(try_student, "try student")


def load_verdict(trial: Artifact) -> Verdict:
    """What a trial said."""
    return Verdict(**json.loads(trial.file(VERDICT_FILE).read_text()))


def student_of_start(
    store: Store,
    trained: Artifact,
    *,
    name: str,
    settings: StudentSettings,
    vocabulary: tuple[str, ...],
    annotations: Path,
    image_root: Path,
    start: Teacher,
    seed: int,
    provenance: Mapping[str, Any],
) -> Artifact:
    """The start as a student: the architecture and the classes of the student, nothing trained.

    Args:
        store: Where it goes.
        trained: The trained student, whose history of losses is kept.
        name: Name in the manifest.
        settings: Architecture and schedule.
        vocabulary: Classes in order.
        annotations: What the student was trained on.
        image_root: Folder of its images.
        start: The start.
        seed: Seed of the training.
        provenance: What the bundle says about its origin.
    """
    key = digest_of("start", TRIAL_VERSION, trained.digest)
    found = store.find("students", key)
    if found:
        return found
    with store.write("students", key, {"student": trained.digest}) as draft:
        manifest = keep_start(
            settings=settings,
            vocabulary=vocabulary,
            annotations=annotations,
            image_root=image_root,
            output=draft.folder / BUNDLE,
            name=name,
            seed=seed,
            warm_start_bundle=start.folder,
            provenance=provenance,
        )
        draft.file(HISTORY_FILE).write_bytes(trained.file(HISTORY_FILE).read_bytes())
        draft.counts = student_counts(manifest)
    return draft.artifact


student_of_start_task = step(student_of_start, "keep start")


def _reference(
    shards: Mapping[str, Sequence[Artifact]],
    own: set[str],
    images: Sequence[int],
    space: LabelSpace,
    fuser: Fuser,
    floor: float,
    rules: pseudo.Rules,
) -> pseudo.PseudoLabels:
    """Pseudo-labels of some images without the start: it is taken for one that has not spoken there."""
    wanted = np.array(sorted(images))
    raw: dict[str, Detections] = {}
    silent = []
    for name, parts in shards.items():
        joined = load_images(parts, wanted)
        raw[name] = joined[:0] if name in own else joined[joined.score >= np.float32(floor)]
        quiet = {image for part in parts for image in unanswered.load(part)}
        silent.append(set(images) if name in own else quiet & set(images))
    fused, regions, _ = fuse_raw(raw, space, fuser, len(images), silent)
    labels, _ = pseudo.decide(fused, regions, rules)
    return labels


def _same(start: Teacher, teachers: Sequence[Teacher]) -> set[str]:
    return {teacher.name for teacher in teachers if teacher.digest == start.digest}


def _seen_by_others(space: LabelSpace, own: set[str]) -> list[str]:
    others = [column for column, name in enumerate(space.teachers) if name not in own]
    coverage = spaces.coverage(space)[:, others]
    return [name for name, known in zip(space.classes, coverage, strict=True) if known.any()]


def _compare(
    store: Store, student: Teacher, start: Teacher, reference: Path, image_root: Path, judged: Sequence[str]
) -> Verdict:
    dataset = load_dataset(reference, image_root)
    index = index_dataset(store, dataset)
    one, other = (
        examine(
            run_on_dataset(store, detector, dataset, index),
            dataset.coco,
            detector.manifest.vocabulary,
            judged,
        ).measured
        for detector in (student, start)
    )
    change = paired_difference(one.tally, other.tally).AP
    images = len(dataset.coco["images"])
    if change is None:  # the others have found nothing
        return Verdict(images, 0.0, 0.0, 0.0, 0.0, 0.0)
    return Verdict(
        images, other.metrics.AP or 0.0, one.metrics.AP or 0.0, change.value, change.low, change.high
    )
