"""Teachers out of any model of the MLflow registry: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.

Three ways, by what the model is: a bundle of ours is copied, as data; a model
that is served somewhere is asked over HTTP; any other is a pyfunc, which is
its author's code and runs only where this machine's user has said so.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from composition.errors import UserError
from model_zoo import bundle
from model_zoo.adapters import service
from model_zoo.adapters.base import InferenceSettings
from model_zoo.bundle import InputSpec, Manifest, OutputSpec
from model_zoo.class_lists import read_classes
from tasks import mlflow_pyfunc, registry, tracking
from tasks.home import Home
from tasks.store import disk_errors, write_atomic
from tasks.teachers import add_bundle, taken_by_another

_REFERENCE = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
_MAX_FILES = 10_000
_DEPTH = 3


def add_model(
    home: Home,
    reference: str,
    name: str,
    *,
    classes: Path | None = None,
    endpoint: str | None = None,
    preset: str | None = None,
    allow_code: bool = False,
    license: str = "unknown",
) -> None:
    """Adds a registered model as a teacher.

    An alias is resolved now: the teacher is that version, whatever the alias names later.

    Args:
        home: Where named teachers are, and which registry.
        reference: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        name: Name of the teacher.
        classes: File with its class names; None = the version's tag ``classes`` has them.
        endpoint: URL where the model is served; None = it is run here.
        preset: How the endpoint is asked; None = ``mlflow``.
        allow_code: Whether the model's own code may run on this machine.
        license: Licence of the weights.

    Raises:
        UserError: No such model, no class names, or code that was not allowed.
    """
    version = _resolve(home, reference)
    provenance = {"model": registry.uri(version), "source": str(version.source)}
    destination = home.teachers / name
    if endpoint is not None:
        document = {
            "service": "http",
            "url": endpoint,
            "preset": preset or "mlflow",
            "model_version": provenance["model"],
        }
        served = service.from_document(document, reference)
        _place(
            destination,
            lambda folder: bundle.write(
                folder,
                name=name,
                adapter="http",
                vocabulary=_classes(version, classes),
                input=service.input_spec(served),
                output=OutputSpec(nms_iou=None),
                files={service.SERVICE: service.to_json(served)},
                provenance=provenance,
                license=license,
            ),
        )
        return
    with disk_errors(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=destination.parent))
    try:
        folder = registry.download_files(tracking.client(home), version, staging)
        own = _own_bundle(folder)
        if own is not None:
            add_bundle(own, name, destination)
            return
        if not allow_code:
            raise UserError(
                f"{provenance['model']} is a Python model ({_flavour(folder)}): it runs its author's code",
                "Say --allow-code if you trust it, or serve it elsewhere (`mlflow models serve`) and give "
                "--endpoint.",
            )
        files: dict[str, Path | bytes] = {
            f"{mlflow_pyfunc.MODEL}/{path.relative_to(folder)}": path for path in _files(folder)
        }
        before = (destination / bundle.MANIFEST).is_file()
        manifest = _place(
            destination,
            lambda target: bundle.write(
                target,
                name=name,
                adapter="mlflow",
                vocabulary=_classes(version, classes),
                input=InputSpec(height=8192, width=8192),
                output=OutputSpec(nms_iou=None),
                files=files,
                provenance=provenance,
                license=license,
            ),
        )
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    allow(home, manifest)
    try:
        detector = mlflow_pyfunc.MlflowDetector(destination, manifest, InferenceSettings())
        detector.predict([np.zeros((64, 48, 3), np.uint8)])
    except UserError:
        if not before:  # one that was added earlier stays, whatever is wrong with it today
            shutil.rmtree(destination)
        raise


def allow(home: Home, manifest: Manifest) -> None:
    """Notes that this machine's user lets a model's code run; the note is not a part of the bundle."""
    path = home.root / mlflow_pyfunc.CONSENT
    with disk_errors(path), FileLock(f"{path}.lock"):
        known = mlflow_pyfunc.allowed(home)
        if manifest.digest not in known:
            document = [*sorted(known - mlflow_pyfunc.allowed_by_environment()), manifest.digest]
            write_atomic(path, json.dumps(document, indent=1).encode())


def _resolve(home: Home, reference: str) -> ModelVersion:
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise UserError(
            f"{reference!r} is no version of a registered model",
            "Write models:/NAME@ALIAS or models:/NAME/3.",
        )
    connection = tracking.client(home)
    try:
        if found["alias"]:
            return connection.get_model_version_by_alias(found["name"], found["alias"])
        return connection.get_model_version(found["name"], found["version"])
    except MlflowException as error:
        raise UserError(
            f"{reference} is not in the registry at {home.registry_uri}: {str(error).splitlines()[0]}",
            "Check the name, the alias and MLFLOW_TRACKING_URI.",
        ) from None


def _classes(version: ModelVersion, classes: Path | None) -> tuple[str, ...]:
    if classes is not None:
        return read_classes(classes)
    tagged = [part.strip() for part in str(version.tags.get("classes", "")).split(",")]
    if tagged == [""]:
        raise UserError(
            f"teacher add: {registry.uri(version)} needs its class names",
            "Give --classes FILE, or tag the version: classes = cat, dog.",
        )
    return read_classes(tagged)


def _own_bundle(folder: Path) -> Path | None:
    """A bundle of ours among a model's files; the first in the order of depth."""
    found = [path for path in folder.rglob(bundle.MANIFEST) if len(path.relative_to(folder).parts) <= _DEPTH]
    for path in sorted(found, key=lambda path: (len(path.parts), str(path))):
        try:
            document = json.loads(path.read_text())
        except (ValueError, OSError):
            continue
        if isinstance(document, dict) and document.get("format") == bundle.FORMAT:
            return path.parent
    return None


def _files(folder: Path) -> Sequence[Path]:
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    linked = next((path for path in files if path.is_symlink() or not path.is_file()), None)
    if linked is not None or len(files) > _MAX_FILES:
        raise UserError(
            f"{linked.relative_to(folder)} of the model is a link"
            if linked
            else f"the model has {len(files)} files",
            "Log the model again with plain files.",
        )
    return files


def _flavour(folder: Path) -> str:
    import yaml

    try:
        document: Any = yaml.safe_load((folder / "MLmodel").read_text())
        flavour = document["flavors"]["python_function"]
        return f"loader {flavour['loader_module']}"
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        raise UserError(
            "the model has no python_function flavour, and is no bundle of detcompose",
            "Log it with mlflow.pyfunc, or serve it and give --endpoint.",
        ) from None


def _place(destination: Path, write: Any) -> Manifest:
    """Writes a bundle under a name that is free, or its own."""
    with (
        disk_errors(destination),
        tempfile.TemporaryDirectory(prefix=".new.", dir=_parent(destination)) as staging,
    ):
        staged = Path(staging) / "bundle"
        manifest: Manifest = write(staged)
        if (destination / bundle.MANIFEST).is_file():
            if bundle.read(destination, verify=False).digest != manifest.digest:
                raise taken_by_another(destination)
            return manifest
        staged.replace(destination)
    return manifest


def _parent(destination: Path) -> Path:
    destination.parent.mkdir(parents=True, exist_ok=True)
    return destination.parent
