"""Training: one detector from one annotated image set, resumable, kept as a bundle."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from composition.errors import UserError
from model_zoo import bundle
from model_zoo.student_configs import load_student
from model_zoo.student_settings import StudentSettings
from model_zoo.training import TRAINING_VERSION, TrainingProgress, train
from tasks import teachers
from tasks.devices import reserve_devices
from tasks.home import Home
from tasks.progress import Tracker
from tasks.step import step
from tasks.store import Artifact, Store, digest_of, write_atomic
from tasks.teachers import Teacher

BUNDLE = "bundle"
HISTORY_FILE = "history.json"
LOSSES_FILE = "losses.f64"
_LOSS = struct.Struct("<d")


def warm_start_teacher(home: Home, settings: StudentSettings, base: Path | None = None) -> Teacher | None:
    """The teacher that a student's ``warm_start: bundle:<teacher>`` names, or None.

    Raises:
        UserError: There is no such teacher.
    """
    if settings.warm_start_teacher is None:
        return None
    try:
        return teachers.find(home, settings.warm_start_teacher, base=base)
    except UserError as error:
        raise UserError(f"student.warm_start: {error.problem}", error.way_out) from None


def student_identity(settings: StudentSettings, start: Teacher | None) -> dict[str, Any]:
    """What decides a student beside its labels and seed: settings, architecture, start."""
    return {
        **settings.decisive(),
        "architecture": load_student(settings.architecture).model_dump(mode="json"),
        "warm_start": start.digest if start else settings.warm_start,
        "version": TRAINING_VERSION,
    }


def student_key(
    labels_digest: str,
    settings: StudentSettings,
    start: Teacher | None,
    vocabulary: tuple[str, ...],
    seed: int,
) -> str:
    """Digest of everything that decides a trained student."""
    return digest_of("student", labels_digest, student_identity(settings, start), vocabulary, seed)


def train_student(
    store: Store,
    *,
    key: str,
    name: str,
    settings: StudentSettings,
    vocabulary: tuple[str, ...],
    annotations: Path,
    image_root: Path,
    start: Teacher | None,
    seed: int,
    inputs: Mapping[str, str],
    provenance: Mapping[str, Any],
    on_progress: Callable[[TrainingProgress], None] | None = None,
) -> Artifact:
    """Trains a detector, going on from the last checkpoint of a killed run.

    Two runs that want the same student train it once: the later one waits.

    Args:
        store: Where the student goes.
        key: Its digest, see `student_key`.
        name: Name in its manifest.
        settings: Architecture and schedule.
        vocabulary: Its classes, in order.
        annotations: COCO file.
        image_root: Folder that the file names in it are relative to.
        start: Teacher to start from, if any.
        seed: Seed of everything random.
        inputs: Digests of what it is made from (lineage).
        provenance: What the bundle says about its origin.
        on_progress: Called after every step, e.g. to log the losses.

    Returns:
        The artifact ``students/<key>`` with the folder ``bundle/``.
    """
    found = store.find("students", key)
    if found:
        return found
    with store.working("students", key) as work:
        # where another run was at it, it may be done by now
        return store.find("students", key) or _train(
            store,
            work,
            key,
            inputs,
            on_progress,
            settings=settings,
            name=name,
            vocabulary=vocabulary,
            annotations=annotations,
            image_root=image_root,
            warm_start_bundle=start.folder if start else None,
            seed=seed,
            provenance=provenance,
        )


train_task = step(train_student, "train student", run_name="train {name}")


def _train(
    store: Store,
    work: Path,
    key: str,
    inputs: Mapping[str, str],
    on_progress: Callable[[TrainingProgress], None] | None,
    *,
    settings: StudentSettings,
    name: str,
    **how: Any,
) -> Artifact:
    """Trains in a work folder; ``how`` is what else `model_zoo.training.train` has to know."""
    history = _History(work)
    with Tracker(f"training {name} ({settings.architecture})", settings.epochs) as tracker:

        def report(progress: TrainingProgress) -> None:
            history.add(progress)
            done = progress.epoch - 1 + progress.step / progress.steps
            tracker.update(done, f"epoch {progress.epoch}/{progress.epochs} loss {progress.loss:.3f}")
            if on_progress:
                on_progress(progress)

        with reserve_devices(settings.processes) as devices, store.write("students", key, inputs) as draft:
            manifest = train(
                settings=settings,
                name=name,
                work_dir=work / "run",
                output=draft.folder / BUNDLE,
                devices=devices,
                on_progress=report,
                **how,
            )
            draft.file(HISTORY_FILE).write_text(json.dumps(history.epochs, indent=2) + "\n")
            draft.counts = student_counts(manifest)
    return draft.artifact


def student_counts(manifest: bundle.Manifest) -> dict[str, int]:
    """What an artifact of a student says about its size."""
    return {
        "classes": len(manifest.vocabulary),
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
    }


class _History:
    """Mean loss and learning rate per epoch, kept across kills beside the checkpoints.

    Args:
        work: The work folder. The loss of every step is kept there as well: a
            training may go on in the middle of an epoch.
    """

    def __init__(self, work: Path) -> None:
        self._path, self._losses = work / HISTORY_FILE, work / LOSSES_FILE
        self._losses.touch()
        self.epochs: list[dict[str, float]] = (
            json.loads(self._path.read_text()) if self._path.exists() else []
        )

    def add(self, progress: TrainingProgress) -> None:
        first = (progress.epoch - 1) * progress.steps
        with self._losses.open("r+b") as file:
            # steps that are repeated after a kill come to lie where they were
            file.seek(_LOSS.size * (first + progress.step - 1))
            file.write(_LOSS.pack(progress.loss))
            if progress.step < progress.steps:
                return
            file.seek(_LOSS.size * first)
            losses = [loss for (loss,) in _LOSS.iter_unpack(file.read(_LOSS.size * progress.steps))]
        self.epochs = self.epochs[: progress.epoch - 1]
        self.epochs.append(
            {
                "epoch": progress.epoch,
                "loss": sum(losses) / len(losses),
                "learning_rate": progress.learning_rate,
            }
        )
        write_atomic(self._path, json.dumps(self.epochs).encode())


def load_history(student: Artifact) -> list[dict[str, float]]:
    """Mean loss and learning rate per epoch of a trained student."""
    epochs: list[dict[str, float]] = json.loads(student.file(HISTORY_FILE).read_text())
    return epochs


def as_teacher(student: Artifact) -> Teacher:
    """A trained student as a detector that can be run."""
    folder = student.folder / BUNDLE
    manifest = bundle.read(folder)
    return Teacher(manifest.name, folder, manifest)
