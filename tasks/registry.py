"""The registry: teachers and students as MLflow's registered models ``teachers.x`` and ``students.x``.

A version is trusted as far as its bytes go: the bundle's digest must be the one
that the version is tagged with, and no code comes with it.
"""

from __future__ import annotations

import difflib
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from composition.errors import UserError
from model_zoo import bundle
from tasks.home import Home
from tasks.references import Reference
from tasks.store import disk_errors
from tasks.tracking import every

DIGEST_TAG = "digest"
COMPOSITION_TAG = "composition"
ROLE_TAG = "role"
DATA = "data"
"""Folder of a version's artifacts that holds the bundles."""
BUNDLE = "bundle"
ONNX = "onnx"


def models(connection: MlflowClient, role: str) -> list[RegisteredModel]:
    """All registered models of a role, by name."""
    found: list[RegisteredModel] = every(
        lambda token: connection.search_registered_models(f"name LIKE '{role}.%'", page_token=token)
    )
    return sorted(found, key=lambda model: str(model.name))


def versions(connection: MlflowClient, model: str) -> list[ModelVersion]:
    """All versions of a registered model, newest first."""
    found: list[ModelVersion] = every(
        lambda token: connection.search_model_versions(f"name = '{model}'", page_token=token)
    )
    return sorted(found, key=lambda version: int(version.version), reverse=True)


def resolve(connection: MlflowClient, reference: Reference) -> ModelVersion:
    """The exact version that a reference means at this moment.

    Raises:
        UserError: There is none, with the nearest names or the aliases that there are.
    """
    try:
        if reference.is_version:
            return connection.get_model_version(reference.model, reference.which)
        return connection.get_model_version_by_alias(reference.model, reference.which)
    except MlflowException as error:
        known = {str(model.name): model for model in models(connection, reference.role)}
        raise _not_found(reference, known, error) from None


def _not_found(reference: Reference, known: dict[str, RegisteredModel], error: Exception) -> UserError:
    shown = [name.replace(".", "/", 1) for name in known]
    if reference.model in known:
        aliases = ", ".join(sorted(known[reference.model].aliases)) or "none"
        return UserError(
            f"the registry has no {reference}",
            f"{reference.role}/{reference.name} has the aliases: {aliases}.",
        )
    wanted = f"{reference.role}/{reference.name}"
    near = difflib.get_close_matches(wanted, shown, n=3)
    hint = f"Did you mean {', '.join(near)}?" if near else f"There are: {', '.join(shown) or 'none yet'}."
    problem = f"the registry has no {wanted}"
    if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
        problem += f" ({str(error).splitlines()[0]})"
    return UserError(problem, f"{hint} Register one with `detcompose teacher register`.")


def expand(connection: MlflowClient, reference: Reference) -> list[ModelVersion]:
    """The versions that a reference means, several where it is a pattern, by name.

    Raises:
        UserError: There is none.
    """
    if not reference.is_pattern:
        return [resolve(connection, reference)]
    found = []
    for model in models(connection, reference.role):
        if not reference.matches(str(model.name)):
            continue
        number = reference.which if reference.is_version else model.aliases.get(reference.which)
        if number is None:
            continue
        version = connection.get_model_version(model.name, number)
        if reference.tags.items() <= version.tags.items():
            found.append(version)
    if not found:
        raise UserError(
            f"no version in the registry matches {reference}",
            "See `detcompose registry list` for names and aliases.",
        )
    return found


def uri(version: ModelVersion) -> str:
    """MLflow's address of an exact version."""
    return f"models:/{version.name}/{version.version}"


def digest(version: ModelVersion) -> str:
    """Digest of a version's bundle, as it is tagged.

    Raises:
        UserError: Something else than we registered it.
    """
    found = version.tags.get(DIGEST_TAG)
    if not found:
        raise UserError(
            f"{uri(version)} has no tag {DIGEST_TAG!r}: it was not registered by detcompose",
            "Register its bundle with `detcompose teacher register`.",
        )
    return found


def tagged(candidates: Iterable[ModelVersion], tag: str, wanted: str) -> ModelVersion | None:
    """The first version whose tag (`DIGEST_TAG`, `COMPOSITION_TAG`) has a value."""
    return next((one for one in candidates if one.tags.get(tag) == wanted), None)


def fetch(home: Home, connection: MlflowClient, version: ModelVersion) -> Path:
    """A version's bundle on this machine, downloaded at most once.

    Args:
        home: Keeps it below ``registry/<digest>``.
        connection: The registry.
        version: What to fetch.

    Returns:
        The bundle's folder.

    Raises:
        UserError: It cannot be downloaded, or is not what the version says.
    """
    expected = digest(version)
    target = home.registry / expected
    with disk_errors(target):
        home.registry.mkdir(parents=True, exist_ok=True)
    # two runs that begin at the same moment: the later one must not replace what the first one has open
    with FileLock(home.registry / f".{expected}.lock"):
        for leftover in home.registry.glob(f".{expected}.*/"):
            shutil.rmtree(leftover, ignore_errors=True)  # of one that was killed: the lock is ours
        if not (target / bundle.MANIFEST).is_file() or bundle.read(target).digest != expected:
            download(connection, version, BUNDLE, target)
    return target


def download(connection: MlflowClient, version: ModelVersion, part: str, target: Path) -> bundle.Manifest:
    """Brings one bundle of a version to a folder, whole and verified or not at all.

    Args:
        connection: The registry.
        version: What to download.
        part: `BUNDLE`, the detector as it was registered, or `ONNX`, the same for onnxruntime.
        target: The folder; what lies there is replaced.

    Raises:
        UserError: It cannot be downloaded, a file is not what the manifest
            says, or the manifest is not what the version says.
    """
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        with disk_errors(target):
            folder = download_files(connection, version, staging, f"/{DATA}/{part}")
            manifest = bundle.read(folder)
            _check_origin(version, part, manifest)
            folder.chmod(0o755)
            if target.exists():  # a folder is never replaced by another: the old one steps aside
                target.replace(staging / "replaced")
            folder.replace(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest


def download_files(connection: MlflowClient, version: ModelVersion, staging: Path, part: str = "") -> Path:
    """Brings files of a version to a folder, as they come.

    Args:
        connection: The registry.
        version: What to download.
        staging: Folder to put them into.
        part: ``/`` and the path of a folder of the version; "" = all of it.

    Returns:
        The folder below ``staging`` that holds them.

    Raises:
        UserError: They cannot be downloaded.
    """
    # takes a second to import
    from mlflow.artifacts import download_artifacts

    try:
        # an address models:/... would be looked up in MLflow's process-wide registry, not in ours
        place = connection.get_model_version_download_uri(version.name, version.version)
        return Path(
            download_artifacts(
                artifact_uri=f"{place}{part}", dst_path=str(staging), tracking_uri=connection.tracking_uri
            )
        )
    except MlflowException as error:
        raise UserError(
            f"{uri(version)}{part} cannot be downloaded: {str(error).splitlines()[0]}",
            "Check that the artifact store can be reached, or register the detector again.",
        ) from None


def _check_origin(version: ModelVersion, part: str, manifest: bundle.Manifest) -> None:
    expected = digest(version) if part == BUNDLE else version.tags.get(f"{DIGEST_TAG}.{part}")
    if manifest.digest != expected:
        raise UserError(
            f"{uri(version)}: the {part} in the artifact store has the digest {manifest.digest[:12]}, "
            f"the version is tagged with {str(expected)[:12]}",
            "Somebody changed one of the two: do not use it; register the detector again.",
        )
