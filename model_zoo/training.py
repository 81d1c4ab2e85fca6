"""Training: annotated images in, a student bundle out.

`train` is the whole interface. torch, mmengine and mmdet are imported when it
is called, after everything that can be checked without them has been checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from composition.errors import UserError
from model_zoo import bundle
from model_zoo.bundle import Manifest, canonical_json, sha256_of
from model_zoo.student_configs import StudentConfig, input_spec, load_student, model_config
from model_zoo.student_settings import StudentSettings
from model_zoo.training_progress import TrainingProgress

__all__ = ["TRAINING_VERSION", "TrainingProgress", "keep_start", "train"]

TRAINING_VERSION = "3"
"""Raised whenever the same inputs would give another student."""
FINGERPRINT = "training.json"
CALIBRATION_BATCHES = 8
"""Batches that measure batch norm's inputs after a folded warm start."""


def train(
    *,
    settings: StudentSettings,
    vocabulary: tuple[str, ...],
    annotations: Path,
    image_root: Path,
    work_dir: Path,
    output: Path,
    name: str,
    seed: int,
    threads: int = 0,
    devices: Sequence[str] = ("cpu",),
    warm_start_bundle: Path | None = None,
    provenance: Mapping[str, Any] | None = None,
    license: str = "unknown",
    other_categories: Literal["error", "background"] = "error",
    on_progress: Callable[[TrainingProgress], None] | None = None,
    checkpoint_seconds: float = 30.0,
) -> Manifest:
    """Trains a detector and writes it as a bundle.

    Killed at any moment, it goes on from its last checkpoint when it is called
    again with the same arguments, and ends in the same weights, bit by bit, as
    if it had not been killed (same machine, same number of threads). A budget
    of time (``settings.budget_minutes``) gives that up: where it ends depends on
    the machine; ``steps`` in the manifest says where it did.

    Args:
        settings: Architecture and schedule.
        vocabulary: Class names in the order of the student's classes.
        annotations: COCO JSON; categories are matched by name, images without
            boxes train as background. May hold weights, ignore regions and
            unspoken classes, see `model_zoo.training_records`.
        image_root: Folder that ``file_name`` is relative to.
        work_dir: Checkpoint, fingerprint and log; belongs to one training.
        output: Where the bundle shall lie.
        name: Name in its manifest.
        seed: Seed of everything random.
        threads: CPU threads of a process; 0 = all cores but one, or OMP_NUM_THREADS if that is less,
            divided among the processes.
        devices: Torch devices, as many as ``settings.processes``.
        warm_start_bundle: The bundle that ``settings.warm_start`` names.
        provenance: What the manifest says about the origin, JSON values.
        license: Licence of the weights.
        other_categories: Boxes of categories outside the vocabulary are an
            error, or background.
        on_progress: Called after every step.
        checkpoint_seconds: Least time between two checkpoints.

    Returns:
        The manifest of the bundle, as written.

    Raises:
        UserError: Bad annotations, images, settings or warm start; a work
            folder of another training; a loss that is not finite.
    """
    bundle.check_vocabulary(vocabulary, "vocabulary")
    student = load_student(settings.architecture)
    _check_warm_start(settings, student, warm_start_bundle)
    if len(devices) != settings.processes:
        raise UserError(
            f"student.processes is {settings.processes}, but there are {len(devices)} devices for it",
            "Give one device for each process.",
        )
    from model_zoo.training_records import read_records, usable

    records = usable(read_records(annotations, image_root, vocabulary, other_categories), settings)
    work_dir.mkdir(parents=True, exist_ok=True)
    decisive = _decisive(
        settings, student, vocabulary, annotations, other_categories, warm_start_bundle, seed
    )
    _claim(work_dir, decisive)

    from model_zoo.adapters.mmdet import write_mmdet_bundle

    config = model_config(student, len(vocabulary), from_scratch=settings.warm_start == "none")
    if settings.processes > 1:
        from model_zoo.training_processes import run_in_processes

        job = {
            "settings": settings.model_dump(mode="json"),
            "vocabulary": vocabulary,
            "annotations": str(annotations.resolve()),
            "image_root": str(image_root.resolve()),
            "other_categories": other_categories,
            "seed": seed,
            "threads": threads,
            "warm_start_bundle": warm_start_bundle and str(warm_start_bundle.resolve()),
            "checkpoint_seconds": checkpoint_seconds,
        }
        trained = run_in_processes(job, work_dir, devices, on_progress)
    else:
        from model_zoo.training_loop import run

        trained = run(
            student=student,
            config=config,
            settings=settings,
            vocabulary=vocabulary,
            records=records,
            work_dir=work_dir,
            seed=seed,
            threads=threads,
            device=devices[0],
            warm_start_bundle=warm_start_bundle,
            on_progress=on_progress,
            checkpoint_seconds=checkpoint_seconds,
        )
    facts = {"images": len(records), "steps": trained.steps, "planned_steps": trained.planned_steps}
    training = {**decisive, "student": student.name, **facts}
    return write_mmdet_bundle(
        output,
        name=name,
        model_config=config,
        state_dict=trained.state,
        vocabulary=vocabulary,
        input=input_spec(student, settings.image_size),
        provenance={"training": training, **dict(provenance or {})},
        license=license,
    )


def keep_start(
    *,
    settings: StudentSettings,
    vocabulary: tuple[str, ...],
    annotations: Path,
    image_root: Path,
    output: Path,
    name: str,
    seed: int,
    warm_start_bundle: Path,
    provenance: Mapping[str, Any] | None = None,
    license: str = "unknown",
) -> Manifest:
    """Writes what `train` begins with as a bundle: the start, as a student.

    Args and errors are those of `train`; the images are looked at for the inputs of batch norms.
    """
    student = load_student(settings.architecture)
    _check_warm_start(settings, student, warm_start_bundle)
    from model_zoo.adapters.mmdet import write_mmdet_bundle
    from model_zoo.training_loop import start_state
    from model_zoo.training_records import read_records, usable

    records = usable(read_records(annotations, image_root, vocabulary), settings)
    decisive = _decisive(settings, student, vocabulary, annotations, "error", warm_start_bundle, seed)
    config = model_config(student, len(vocabulary))
    state = start_state(student, config, settings, vocabulary, records, seed, warm_start_bundle)
    facts = {"images": 0, "steps": 0, "planned_steps": 0}
    return write_mmdet_bundle(
        output,
        name=name,
        model_config=config,
        state_dict=state,
        vocabulary=vocabulary,
        input=input_spec(student, settings.image_size),
        provenance={"training": {**decisive, "student": student.name, **facts}, **dict(provenance or {})},
        license=license,
    )


def _decisive(
    settings: StudentSettings,
    student: StudentConfig,
    vocabulary: tuple[str, ...],
    annotations: Path,
    other_categories: str,
    warm_start_bundle: Path | None,
    seed: int,
) -> dict[str, Any]:
    return {
        "training_version": TRAINING_VERSION,
        "settings": settings.decisive(),
        "student": student.model_dump(mode="json"),
        "vocabulary": list(vocabulary),
        "annotations": sha256_of(annotations),
        "other_categories": other_categories,
        "warm_start": bundle.read(warm_start_bundle).digest if warm_start_bundle else None,
        "seed": seed,
    }


def _check_warm_start(settings: StudentSettings, student: StudentConfig, folder: Path | None) -> None:
    if (settings.warm_start_teacher is not None) != (folder is not None):
        raise UserError(
            f"student.warm_start is {settings.warm_start!r}, "
            f"but the teacher's bundle is {'given' if folder else 'missing'}",
            "Give a bundle with 'bundle:<teacher>', and only with it.",
        )
    if settings.warm_start == "imagenet" and student.imagenet is None:
        raise UserError(
            f"student.warm_start: there are no ImageNet weights for {student.name!r}",
            "Use 'none' or 'bundle:<teacher>', or architecture 'retinanet_effnet_lite0' or 'retinanet_r50'.",
        )


def _claim(work_dir: Path, decisive: Mapping[str, Any]) -> None:
    """Writes the fingerprint of this training, or checks it when the folder has one.

    Another training's folder is an error, not a fresh start: it may hold hours
    of work.
    """
    path = work_dir / FINGERPRINT
    fingerprint = hashlib.sha256(canonical_json(decisive)).hexdigest()
    if path.exists():
        try:
            known = json.loads(path.read_text())["fingerprint"]
        except (ValueError, KeyError, TypeError):
            known = None
        if known != fingerprint:
            raise UserError(
                f"{work_dir} holds another training (its settings, data, seed or start differ)",
                "Give another work folder, or delete this one to train from the start.",
            )
        return
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"fingerprint": fingerprint, **decisive}, indent=2) + "\n")
    temporary.replace(path)
