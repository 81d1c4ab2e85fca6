"""Score profiles of teachers: made on labelled images, kept in the bundle, read by diagnostics.

A profile lies in the manifest's provenance: it says where the detector was at
home and travels with the bundle, but decides no prediction, so the digest
stays the same.
"""

from __future__ import annotations

import json

from composition import domain_alarm
from composition.domain_alarm import ScoreProfile
from model_zoo import bundle
from tasks.evaluate import Dataset, index_dataset, run_on_dataset
from tasks.store import Store, disk_errors, write_atomic
from tasks.teachers import Teacher

PROFILE = "score_profile"


def load_profile(teacher: Teacher) -> ScoreProfile | None:
    """The profile that a teacher's bundle carries; None without one.

    Raises:
        UserError: There is one, but it cannot be read.
    """
    document = teacher.manifest.provenance.get(PROFILE)
    if document is None:
        return None
    return domain_alarm.from_dict(document, f"{teacher.folder / bundle.MANIFEST}: provenance: {PROFILE}")


def make_profile(store: Store, teacher: Teacher, dataset: Dataset) -> ScoreProfile:
    """A teacher's profile on a data set; runs the teacher where that was not done yet."""
    index = index_dataset(store, dataset)
    return domain_alarm.profile(run_on_dataset(store, teacher, dataset, index), index.counts["images"])


def save_profile(teacher: Teacher, profile: ScoreProfile, dataset: Dataset) -> None:
    """Writes a profile into the teacher's bundle, in the place of an older one.

    Raises:
        UserError: The bundle is damaged or cannot be written.
    """
    bundle.read(teacher.folder, verify=False)
    path = teacher.folder / bundle.MANIFEST
    document = json.loads(path.read_text())
    facts = {"images": profile.images, "source": dataset.source.name, "dataset": dataset.digest}
    document["provenance"] = {**document.get("provenance", {}), PROFILE: {**profile.to_dict(), **facts}}
    with disk_errors(path):
        write_atomic(path, json.dumps(document, indent=2).encode() + b"\n")
    bundle.read(teacher.folder, verify=False)
