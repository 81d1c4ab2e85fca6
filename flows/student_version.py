"""The last step of a composition: its student becomes a version in the registry."""

from __future__ import annotations

from collections.abc import Mapping

from composition import label_space as spaces
from flows.plan import Plan
from tasks.evaluate import load_rows
from tasks.home import Home
from tasks.model_card import StudentFacts
from tasks.packages import make_package
from tasks.registration import Registered, register_student, with_origins
from tasks.store import Artifact
from tasks.tracking import Run
from tasks.train import as_teacher
from tasks.trial import Verdict


def register_version(
    home: Home,
    plan: Plan,
    run: Run,
    index: Artifact,
    labels: Artifact,
    student: Artifact,
    verdict: Verdict | None,
    evaluations: Mapping[str, Artifact],
) -> Registered:
    """Registers the student of a composition.

    Args:
        home: Keeps the package of the version.
        plan: The composition.
        run: Its run, which keeps the files.
        index: The images.
        labels: The pseudo-labels.
        student: The student.
        verdict: What its trial against its start said, if there was one.
        evaluations: Data set name to the comparison on it.
    """
    facts = StudentFacts(
        name=plan.recipe.name,
        teachers=with_origins(run.client, plan.teachers),
        classes=plan.space.classes,
        images=index.counts,
        source=plan.listing.source.name,
        labels=labels.counts,
        student=student_facts(plan, student, verdict),
        evaluations={name: load_rows(artifact) for name, artifact in evaluations.items()},
        digests={
            "composition": plan.digest,
            "images": plan.images_digest,
            "pseudo_labels": labels.digest,
            "label_space": spaces.digest(plan.space),
            "student": as_teacher(student).digest,
        },
        run=run.place,
    )
    package = make_package(home.store, as_teacher(student).folder)
    tags = {"architecture": plan.recipe.student.architecture}
    return register_student(run, plan.recipe.name, package, facts, tags)


def student_facts(plan: Plan, student: Artifact, verdict: Verdict | None) -> dict[str, str]:
    """What was chosen about the student, for people."""
    settings = plan.recipe.student
    return {
        "architecture": settings.architecture,
        "input": f"{settings.image_size} x {settings.image_size} px",
        "epochs": str(settings.epochs),
        "warm start": settings.warm_start,
        "size": f"{student.counts['bytes'] / 1e6:.1f} MB",
        **({"trial": str(verdict)} if verdict else {}),
    }
