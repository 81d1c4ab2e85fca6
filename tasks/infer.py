"""Inference: teachers over one image index, shard by shard.

Every teacher's shard is an artifact of its own, keyed by the teacher's digest,
the bytes of its images and the settings: a killed run goes on at the first
missing shard, and a pool that grew costs only its new shards. The teachers go
through a shard together, so that each of its images is decoded once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from composition import detections as table
from composition.detections import Detections
from model_zoo.adapters.base import Detector, InferenceSettings
from model_zoo.cores import thread_limit
from tasks import unanswered
from tasks.detect import detect
from tasks.devices import reserve_device
from tasks.image_index import ImageRecord, index_parts, iter_index, shards
from tasks.pixels import Batch, batches
from tasks.progress import Tracker
from tasks.step import step
from tasks.store import Artifact, Store, digest_of
from tasks.teachers import Look, Teacher
from tasks.teams import Opener, called, kept_opener, opener, teams

INFERENCE_VERSION = 1
LOOK_VERSIONS = {"second": 1, "mirror": 1, "zoom60": 1, "zoom75": 1}
SHARD_FILE = "detections.parquet"


class GenerateSettings(BaseModel):
    """How the teachers are run on the unlabeled images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    score_floor: float = Field(
        0.05, ge=0, le=1, description="Detections with a lower score are not kept at all."
    )
    max_detections: int = Field(100, ge=1, le=10_000, description="At most so many detections per image.")
    max_unanswered: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="A composition goes on when a service left at most this share of the images unanswered; "
        "on them its classes are not background.",
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Images per call of the detector; left out: as many as pay and fit into memory.",
    )
    shard_size: int = Field(256, ge=1, description="Images per shard, the unit of work that a resume keeps.")
    half: bool = Field(
        False,
        description="Networks of torch compute in float16 on a GPU: faster, boxes move a little.",
    )
    augment: Literal["auto", "all", "flip", "zoom", "none"] = Field(
        "auto",
        description="Further looks at every image. auto: with the expert fuser, mirrored (twice the time), "
        "for the classes that a mirror does not change, which is tried out on some images; all: also in four "
        "enlarged parts (six times the time), where that serves a teacher, which is tried out, too; "
        "flip: mirrored, for all classes; zoom: enlarged; none: one look.",
    )

    def looks_again(self, fuser: str) -> bool:
        """Whether teachers may take further looks for a fuser; stock ones stay as they are known."""
        return self.augment in ("flip", "zoom") or (self.augment != "none" and fuser == "expert")

    def decisive(self) -> dict[str, Any]:
        """What decides the detections of one look: neither batch size nor shard size changes one (tested)."""
        # nothing is said about what is left as it was: shards of earlier versions stay valid
        chosen = {"score_floor", "max_detections"} | ({"half"} if self.half else set())
        return self.model_dump(mode="json", include=chosen)


LOOKS: dict[Look, str] = {
    "first": "",
    "second": ", again",
    "mirror": ", in the mirror",
    "zoom60": ", enlarged",
    "zoom75": ", a little enlarged",
}
"""What is added to a title."""


def shard_key(
    teacher: Teacher, records: Sequence[ImageRecord], settings: GenerateSettings, look: Look = "first"
) -> str:
    """Digest of everything that decides a shard's content."""
    images = [(record.image_id, record.sha256) for record in records]
    how = [] if look == "first" else [look, LOOK_VERSIONS[look]]
    return digest_of("detections", INFERENCE_VERSION, teacher.digest, settings.decisive(), images, *how)


def missing_shards(
    store: Store, teacher: Teacher, index: Artifact, settings: GenerateSettings, look: Look = "first"
) -> int:
    """How many images still have to be shown to the teacher."""
    missing = 0
    for records in index_parts(index, settings.shard_size):
        found, _ = unanswered.find(store, shard_key(teacher, records, settings, look))
        missing += len(records) if found is None else found.counts.get("unanswered", 0)
    return missing


def run_inference(
    store: Store,
    teacher: Teacher,
    index: Artifact,
    settings: GenerateSettings,
    look: Look = "first",
    only: NDArray[np.int64] | None = None,
    incomplete: bool = False,
) -> list[Artifact]:
    """`run_teachers` for one: its shards, in the order of the images."""
    return run_teachers(store, [teacher], index, settings, look, only, incomplete)[teacher.name]


def run_teachers(
    store: Store,
    teachers: Sequence[Teacher],
    index: Artifact,
    settings: GenerateSettings,
    look: Look = "first",
    only: NDArray[np.int64] | None = None,
    incomplete: bool = False,
) -> dict[str, list[Artifact]]:
    """Runs teachers on every image of an index; an image is decoded once for all of them.

    Args:
        store: Where the shards go.
        teachers: The detectors.
        index: An image index.
        settings: Score floor, batch and shard size.
        look: ``second`` shows the images with a border (`composition.second_look`), ``mirror``
            flipped left to right (`composition.mirror`), the zooms in parts (`composition.zoom`).
        only: (n,) ids of the images to show; None: all.
        incomplete: Whether the caller can deal with images on which a
            teacher has not spoken (`tasks.unanswered`), up to
            ``settings.max_unanswered``.

    Returns:
        Teacher name to one artifact per shard, in the order of the images.

    Raises:
        UserError: A teacher left images unanswered, more than may be. What
            was answered is kept.
    """
    parts: Sequence[Sequence[ImageRecord]] = index_parts(index, settings.shard_size)
    if only is not None:
        wanted = set(only.tolist())
        chosen = [record for record in iter_index(index) if record.image_id in wanted]
        parts = list(shards(chosen, settings.shard_size))
    limit = settings.max_unanswered if incomplete else 0.0
    found: dict[str, list[Artifact]] = {}
    for team in teams(teachers):
        found |= _run_team(store, team, parts, settings, look, limit)
    return found


def _run_team(
    store: Store,
    team: Sequence[Teacher],
    parts: Sequence[Sequence[ImageRecord]],
    settings: GenerateSettings,
    look: Look,
    limit: float,
) -> dict[str, list[Artifact]]:
    images = sum(map(len, parts))
    with Tracker(f"{called(team)} on {images} images{LOOKS[look]}", images) as tracker, ExitStack() as stack:
        device = ""

        def open_late(teacher: Teacher) -> Detector:
            nonlocal device
            # a run with nothing to do waits for no device
            device = device or stack.enter_context(reserve_device())
            return opener(_limits(settings, device))(teacher)

        crew = _Crew(store, team, settings, look, open_late)
        before = accumulate(map(len, parts), initial=0)
        return unanswered.gather(
            [teacher.name for teacher in team],
            parts,
            [partial(crew.shard, part, tracker, done) for part, done in zip(parts, before, strict=False)],
            lambda number: partial(crew.shard, parts[number], tracker, images),
            limit,
            tracker,
        )


infer = step(run_teachers, "infer")


def load_detections(shard: Artifact) -> Detections:
    """Reads one shard."""
    return table.from_arrow(pq.read_table(shard.file(SHARD_FILE)))


def load_images(shards: Iterable[Artifact], images: NDArray[np.int64]) -> Detections:
    """The detections on some images of a pool, (n,) their ids; one shard is in memory at a time."""
    return table.concatenate(rows[np.isin(rows.image_id, images)] for rows in map(load_detections, shards))


def load_all(artifacts: Sequence[Artifact]) -> Detections:
    """Reads all shards of a small set (evaluation); pools are read shard by shard."""
    return table.concatenate(load_detections(shard) for shard in artifacts)


def run_shard(
    store: Store,
    team: Sequence[Teacher],
    records: Sequence[ImageRecord],
    settings: GenerateSettings,
    label: str,
    threads: int = 0,
    look: Look = "first",
) -> dict[str, Artifact]:
    """Runs teachers on one shard: the unit of work that is spread over threads, processes and machines.

    The detectors stay open for the next shard in this thread, see
    `tasks.teams`; the device is free again when the shard is done.

    Args:
        store: Where the shard goes.
        team: The detectors.
        records: Its images.
        settings: Score floor and batch size.
        label: What is shown as being done.
        threads: Processors for this shard; 0: all that there are.
        look: See `run_teachers`.

    Returns:
        Teacher name to its shard, which may be incomplete (`tasks.unanswered`).
    """
    with Tracker(label, len(records), bar=False) as tracker, ExitStack() as stack:
        kept: Opener | None = None

        def open_late(teacher: Teacher) -> Detector:
            nonlocal kept
            kept = kept or kept_opener(
                _limits(settings, stack.enter_context(reserve_device()), threads), team
            )
            return kept(teacher)

        return _Crew(store, team, settings, look, open_late).shard(records, tracker, 0)


infer_shard = step(run_shard, "infer shard", run_name="infer {label}")


def _limits(settings: GenerateSettings, device: str, threads: int = 0) -> InferenceSettings:
    return InferenceSettings(
        score_floor=settings.score_floor,
        max_detections=settings.max_detections,
        device=device,
        threads=threads or thread_limit(),
        half=settings.half,
    )


class _Crew:
    """Teachers at work; networks are opened late: a run with nothing to do loads none."""

    def __init__(
        self,
        store: Store,
        team: Sequence[Teacher],
        settings: GenerateSettings,
        look: Look,
        open_detector: Opener,
    ) -> None:
        self.store, self.team, self.settings, self.look = store, team, settings, look
        self._open = open_detector
        self._detectors: dict[str, Detector] = {}

    def detector(self, teacher: Teacher) -> Detector:
        """The teacher's network."""
        if teacher.name not in self._detectors:
            self._detectors[teacher.name] = self._open(teacher)
        return self._detectors[teacher.name]

    def shard(self, records: Sequence[ImageRecord], tracker: Tracker, done: int) -> dict[str, Artifact]:
        """Every teacher's shard: from the store, or by asking for what is missing in it.

        Where one of them fails, the others still finish: what they found is
        kept, and the error is raised at the end.
        """
        records = list(records)  # of an index they are read each time
        shares = [_Share(self, teacher, records) for teacher in self.team]
        working = [share for share in shares if share.missing]
        if working:
            for share in working:  # whoever cannot be opened fails before anything is decoded
                self.detector(share.teacher)
            wanted = frozenset[int]().union(*(share.missing for share in working))
            asked = [record for record in records if record.image_id in wanted]
            for batch in batches(asked, self.settings.batch_size):
                for share in working:
                    share.look_at(batch)
                if all(share.error for share in working):
                    break
                done += len(batch.records) + len(batch.bad)
                tracker.update(done)
        finished = {share.teacher.name: share.artifact() for share in shares if not share.error}
        for share in shares:
            if share.error:
                raise share.error
        return finished


class _Share:
    """What one teacher has to do with a shard."""

    def __init__(self, crew: _Crew, teacher: Teacher, records: Sequence[ImageRecord]) -> None:
        self.crew, self.teacher, self.records = crew, teacher, records
        self._key = shard_key(teacher, records, crew.settings, crew.look)
        self._before, self._attempts = unanswered.find(crew.store, self._key)
        ids = unanswered.load(self._before) if self._before else [record.image_id for record in records]
        self.missing = frozenset(ids)
        self.error: Exception | None = None
        self._found: list[Detections] = []
        self._silent: dict[int, str] = {}

    def look_at(self, batch: Batch) -> None:
        """Detects on those images of a batch that are missing."""
        if self.error:
            return
        self._silent |= {image: why for image, why in batch.bad.items() if image in self.missing}
        pairs = [
            (record, image)
            for record, image in zip(batch.records, batch.images, strict=True)
            if record.image_id in self.missing
        ]
        if not pairs:
            return
        try:
            found, reasons = detect(
                self.crew.detector(self.teacher),
                [record for record, _ in pairs],
                [image for _, image in pairs],
                self.crew.look,
                self.crew.settings.max_detections,
            )
        except Exception as error:  # raised by the crew when the others are done
            self.error = error
        else:
            self._found.append(found)
            self._silent |= reasons

    def artifact(self) -> Artifact:
        """The shard, written if there is news."""
        if self._before and len(self._silent) == len(self.missing):
            return self._before
        key = unanswered.attempt_key(self._key, self._attempts) if self._silent else self._key
        new = table.sort(table.concatenate(self._found)) if self._found else table.empty()
        rows = unanswered.joined(self._before, new, load_detections)
        return _write(self.crew.store, key, self.teacher, self.records, rows, self._silent)


def _write(
    store: Store,
    key: str,
    teacher: Teacher,
    shard: Sequence[ImageRecord],
    found: Detections,
    silent: Mapping[int, str],
) -> Artifact:
    sizes = {record.image_id: (record.width, record.height) for record in shard}
    table.validate(found, sizes, len(teacher.manifest.vocabulary), f"teacher {teacher.name}")
    with store.write("detections", key, {"teacher": teacher.digest}) as draft:
        pq.write_table(table.to_arrow(found), draft.file(SHARD_FILE))
        draft.counts = {"images": len(shard), "detections": len(found)}
        if silent:
            unanswered.write(silent, draft.file)
            draft.counts["unanswered"] = len(silent)
    return draft.artifact
