"""Putting detectors into the registry: bundle, tags, lineage, card, alias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from composition.errors import UserError
from model_zoo import bundle
from tasks import registry, tracking
from tasks.home import Home
from tasks.model_card import FinetunedFacts, StudentFacts, finetuned_card, student_card, teacher_card
from tasks.packages import digests, make_package
from tasks.references import CHALLENGER, CHAMPION, STUDENTS, TEACHERS
from tasks.registry import COMPOSITION_TAG, DIGEST_TAG, ROLE_TAG
from tasks.store import Artifact
from tasks.teachers import NAME_RULE, Teacher
from tasks.tracking import Run

EXPERIMENT = "teachers"
"""Experiment whose runs keep the teachers' files."""
_CLASSES_LIMIT = 5000
_OURS = ("role", "digest", "classes", "adapter", "license", "parents", "composition")


@dataclass(frozen=True, slots=True)
class Registered:
    """A version, and whether this call made it.

    Attributes:
        version: As it is in the registry now.
        alias: The alias that it was given or had already, if any.
        new: False where the registry had it.
    """

    version: ModelVersion
    alias: str | None
    new: bool


def register_teacher(
    home: Home,
    teacher: Teacher,
    name: str,
    *,
    alias: str | None = CHAMPION,
    tags: Mapping[str, str] | None = None,
) -> Registered:
    """Registers a teacher as a version of ``teachers.<name>``; the same bundle again is the same version.

    Args:
        home: Where MLflow is.
        teacher: The teacher.
        name: Its name in the registry.
        alias: The alias that it gets, taken from whichever version has it; None = none.
        tags: More tags of the version, e.g. ``{"pool": "traffic"}``.

    Raises:
        UserError: The name cannot be used, or the registry does not answer.
    """
    _check_name(name)
    if clash := sorted(set(tags or {}) & set(_OURS)):
        raise UserError(f"the tag {clash[0]!r} is detcompose's own", "Choose another name for the tag.")
    connection = tracking.client(home)
    package = make_package(home.store, teacher.folder)
    model = f"{TEACHERS}.{name}"
    held = digests(package)
    version = registry.tagged(_existing(connection, model, "teacher"), DIGEST_TAG, held[DIGEST_TAG])
    new = version is None
    if version is None:
        manifest = teacher.manifest
        experiment = tracking.named_experiment(connection, home, EXPERIMENT)
        with tracking.registration_run(connection, experiment, name, held[DIGEST_TAG]) as run:
            facts = {"adapter": manifest.adapter, "license": manifest.license, **(tags or {})}
            every = {**held, **facts, "role": "teacher"}
            version = _create(run, model, package, every, "teacher", manifest, teacher_card(name, manifest))
    else:
        for key, value in (tags or {}).items():
            connection.set_model_version_tag(model, version.version, key, value)
    if alias is not None:
        _set_alias(connection, version, alias)
    return Registered(connection.get_model_version(model, version.version), alias, new)


def register_student(
    run: Run, name: str, package: Artifact, facts: StudentFacts, tags: Mapping[str, str]
) -> Registered:
    """Registers a student as a version of ``students.<name>``, once per composition.

    The first version of a name becomes its champion; every later one the
    challenger, which `tasks.promotion` compares with the champion.

    Args:
        run: The composition's run, which keeps the files.
        name: Recipe name.
        package: From `make_package`.
        facts: For its card.
        tags: More tags of the version.
    """
    lineage = _lineage(facts.teachers) | {
        "images": facts.digests["images"],
        "pseudo_labels": facts.digests["pseudo_labels"],
        "label_space": facts.digests["label_space"],
    }
    card = student_card(facts)
    return _register(run, name, package, facts.digests["composition"], {**tags, **lineage}, card)


def register_finetuned(
    run: Run,
    name: str,
    package: Artifact,
    key: str,
    facts: FinetunedFacts,
    tags: Mapping[str, str],
) -> Registered:
    """Registers a student that was trained further, once per fine-tuning; aliases as of any student.

    Args:
        run: The run of the fine-tuning, which keeps the files.
        name: Its own name, not that of its parent.
        package: From `make_package`.
        key: Digest of the fine-tuning.
        facts: For its card, and who its parent is.
        tags: More tags of the version.
    """
    card = finetuned_card(facts)
    return _register(run, name, package, key, {**tags, **_lineage([facts.parent])}, card)


def _register(
    run: Run, name: str, package: Artifact, key: str, tags: Mapping[str, str], card: str
) -> Registered:
    connection = run.client
    model = f"{STUDENTS}.{name}"
    version = registry.tagged(_existing(connection, model, "student"), COMPOSITION_TAG, key)
    new = version is None
    if version is None:
        manifest = bundle.read(package.folder / registry.DATA / registry.BUNDLE, verify=False)
        every = {**tags, COMPOSITION_TAG: key, **digests(package), "role": "student"}
        version = _create(run, model, package, every, "student", manifest, card)
    alias = _standing(connection, version)
    return Registered(connection.get_model_version(model, version.version), alias, new)


def with_origins(connection: MlflowClient, teachers: Sequence[Teacher]) -> list[Teacher]:
    """Teachers with the versions that hold them, found by digest where a recipe named a bundle."""
    found = []
    for teacher in teachers:
        if teacher.origin is None:
            candidates = connection.search_model_versions(f"tags.`{DIGEST_TAG}` = '{teacher.digest}'")
            ours = [one for one in candidates if str(one.name).startswith(f"{TEACHERS}.")]
            same = next((one for one in ours if one.name == f"{TEACHERS}.{teacher.name}"), None)
            version = same or (ours[0] if ours else None)
            if version is not None:
                teacher = replace(teacher, origin=registry.uri(version))
        found.append(teacher)
    return found


def _lineage(teachers: Sequence[Teacher]) -> dict[str, str]:
    """``parents`` for people, and a tag a teacher that points to its version, to search by."""
    tags = {"parents": ", ".join(f"{teacher.name}={teacher.digest[:12]}" for teacher in teachers)}
    return tags | {
        f"parent.{teacher.name}": teacher.origin or f"bundle:{teacher.digest}" for teacher in teachers
    }


def _check_name(name: str) -> None:
    if not bundle.NAME_PATTERN.fullmatch(name):
        raise UserError(f"{name!r} cannot be a name in the registry", NAME_RULE)


def _existing(connection: MlflowClient, model: str, role: str) -> list[ModelVersion]:
    """The versions of a model, which is made where it is missing."""
    if not connection.search_registered_models(f"name = '{model}'"):
        try:
            connection.create_registered_model(model, tags={ROLE_TAG: role})
        except MlflowException as error:
            # two that begin at the same moment: the other one was first
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
    return registry.versions(connection, model)


def _create(
    run: Run,
    model: str,
    package: Artifact,
    tags: Mapping[str, str],
    folder: str,
    manifest: bundle.Manifest,
    card: str,
) -> ModelVersion:
    """A version with all that it has to say: one that is there is never completed later."""
    run.artifacts(package.folder, folder)
    source = f"{run.client.get_run(run.run_id).info.artifact_uri}/{folder}"
    every = {"classes": ", ".join(manifest.vocabulary)[:_CLASSES_LIMIT], **tags}
    # a version of a server of our kind is there at once: nothing to wait for
    return run.client.create_model_version(
        model, source, run_id=run.run_id, tags=every, description=card, await_creation_for=0
    )


def _standing(connection: MlflowClient, version: ModelVersion) -> str | None:
    """Makes the first version champion, and the newest one after it challenger."""
    aliases = connection.get_registered_model(version.name).aliases
    number = str(version.version)
    if CHAMPION not in aliases:
        _set_alias(connection, version, CHAMPION)
        return CHAMPION
    if str(aliases[CHAMPION]) == number:
        return CHAMPION
    newest = registry.versions(connection, version.name)[0]
    if str(newest.version) != number:
        return next((alias for alias, held in aliases.items() if str(held) == number), None)
    _set_alias(connection, version, CHALLENGER)
    return CHALLENGER


def _set_alias(connection: MlflowClient, version: ModelVersion, alias: str) -> None:
    """Moves an alias, unless it is there already: MLflow would tell its webhooks of a change."""
    aliases = connection.get_registered_model(version.name).aliases
    if str(aliases.get(alias)) != str(version.version):
        connection.set_registered_model_alias(version.name, alias, version.version)
