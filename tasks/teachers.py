"""Teachers by name: the bundles below ``<home>/teachers``, and those in the registry."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from composition.errors import UserError
from composition.zoom import PARTS, Zoom
from model_zoo import bundle
from model_zoo.adapters.base import Detector, InferenceSettings
from model_zoo.adapters.registry import check_adapter, register
from tasks.home import Home
from tasks.references import is_reference, parse
from tasks.store import disk_errors

NAME_RULE = "Use 1 to 64 lower-case letters, digits, '.', '_' or '-', starting with a letter or digit."


def _pyfunc(folder: Path, manifest: bundle.Manifest, settings: InferenceSettings) -> Detector:
    from tasks.mlflow_pyfunc import open_pyfunc

    return open_pyfunc(folder, manifest, settings)


# the zoo knows no MLflow
register("mlflow", _pyfunc)


def is_registered(model: str) -> bool:
    """Whether something to add lies in MLflow's registry."""
    return model.startswith("models:/")


Look = Literal["first", "second", "mirror", Zoom]
"""How a teacher is shown an image: as it is, with a border, in the mirror, in enlarged parts."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """A detector that takes part in a composition.

    Attributes:
        name: Unique within the composition.
        folder: Its bundle.
        manifest: The bundle's manifest, checked.
        origin: Version in the registry, ``models:/teachers.x/3``; None for a local bundle.
        mirrored: Classes of its vocabulary for which it also looks in the mirror (`tasks.looks`).
        zoom: The look enlarged that it also takes, of `composition.zoom.SHARES`.
    """

    name: str
    folder: Path
    manifest: bundle.Manifest
    origin: str | None = None
    mirrored: tuple[int, ...] = ()
    zoom: Zoom | None = None

    @property
    def digest(self) -> str:
        """Identity of the detector, whatever it is called."""
        return self.manifest.digest

    @property
    def is_service(self) -> bool:
        """Whether it is asked over the network, where every look costs a request."""
        return self.manifest.adapter == "http"

    @property
    def further_looks(self) -> tuple[Look, ...]:
        """The looks at an image that follow the first, in the order in which they are joined with it."""
        mirror: tuple[Look, ...] = ("mirror",) if self.mirrored else ()
        return (*mirror, self.zoom) if self.zoom else mirror

    @property
    def passes(self) -> int:
        """How many pictures it is shown for an image."""
        return 1 + bool(self.mirrored) + PARTS * bool(self.zoom)

    @property
    def looking_once(self) -> Teacher:
        """The same without further looks."""
        return replace(self, mirrored=(), zoom=None)

    @property
    def way_of_looking(self) -> Any:
        """What decides its detections: its digest, and any further looks."""
        return [self.digest, list(self.mirrored), self.zoom] if self.further_looks else self.digest


def checked(folder: Path, *, verify: bool = True) -> bundle.Manifest:
    """A bundle's manifest, of a detector that can be run here.

    Raises:
        UserError: A damaged bundle, or one for a runtime that we do not have.
    """
    manifest = bundle.read(folder, verify=verify)
    check_adapter(folder, manifest)
    return manifest


def names(home: Home) -> list[str]:
    """Names of the teachers that were added, sorted."""
    return sorted(path.parent.name for path in home.teachers.glob(f"[!.]*/{bundle.MANIFEST}"))


def find(home: Home, reference: str, *, base: Path | None = None, verify: bool = True) -> Teacher:
    """Looks a teacher up by name or in the registry, or opens a bundle by path.

    Args:
        home: Where the named teachers are.
        reference: A name, the path of a bundle folder, or an address in the
            registry (see `tasks.references`).
        base: Folder that a relative path counts from; default: the working directory.
        verify: Hash the weights, so that a changed file is noticed.

    Raises:
        UserError: No such teacher (with the nearest names), or a damaged bundle.
    """
    if is_reference(reference):
        found = find_registered(home, reference)
        if len(found) != 1:
            raise UserError(f"{reference} stands for {len(found)} detectors", "Name one of them.")
        return found[0]
    named = home.teachers / reference
    if bundle.NAME_PATTERN.fullmatch(reference) and (named / bundle.MANIFEST).is_file():
        return Teacher(reference, named, checked(named, verify=verify))
    path = ((base or Path.cwd()) / Path(reference).expanduser()).resolve()
    if (path / bundle.MANIFEST).is_file():
        manifest = checked(path, verify=verify)
        return Teacher(manifest.name, path, manifest)
    known = names(home)
    near = difflib.get_close_matches(reference, known, n=3)
    hint = (
        f"Did you mean {', '.join(near)}?" if near else f"Known teachers: {', '.join(known) or 'none yet'}."
    )
    raise UserError(
        f"there is no teacher {reference!r}, neither by name nor as a bundle folder",
        f"{hint} Add one with `detcompose teacher add`.",
    )


def find_registered(home: Home, reference: str) -> list[Teacher]:
    """The detectors that an address in the registry stands for, downloaded and verified.

    Raises:
        UserError: There is none, or one is not what the registry says.
    """
    # MLflow takes seconds to import, and a bundle's path does without
    from tasks import registry, tracking

    connection = tracking.client(home)
    found = []
    for version in registry.expand(connection, parse(reference)):
        folder = registry.fetch(home, connection, version)
        name = str(version.name).partition(".")[2]
        found.append(Teacher(name, folder, checked(folder, verify=False), registry.uri(version)))
    return found


def find_all(home: Home, references: Sequence[str]) -> list[Teacher]:
    """Looks teachers up, in order; a pattern of the registry stands for all that match.

    Raises:
        UserError: As `find`.
    """
    found: list[Teacher] = []
    for reference in references:
        found += find_registered(home, reference) if is_reference(reference) else [find(home, reference)]
    return found


def find_student(home: Home, reference: str) -> Teacher:
    """Looks a detector up, or the student of the finished composition of that name.

    Raises:
        UserError: There is none of that name.
    """
    record = home.record(reference)
    if bundle.NAME_PATTERN.fullmatch(reference) and record.is_file():
        return find(home, json.loads(record.read_text())["bundle"])
    return find(home, reference)


def require_free_name(home: Home, name: str, student_key: str) -> None:
    """Checks that a detector that is yet to be trained can be added under a name.

    Args:
        home: Where the named teachers are.
        name: The name.
        student_key: Digest of the training; where it is finished, its own name is free.

    Raises:
        UserError: The name is none, or it is taken by another detector or a composition.
    """
    if not bundle.NAME_PATTERN.fullmatch(name):
        raise UserError(f"{name!r} cannot be a detector's name", NAME_RULE)
    if home.record(name).is_file():
        raise UserError(f"the name {name!r} is that of a composition", "Choose another name.")
    taken = home.teachers / name
    if not (taken / bundle.MANIFEST).is_file():
        return
    own = home.store.find("students", student_key)
    if own is None or bundle.read(own.file("bundle"), verify=False).digest != bundle.read(taken).digest:
        raise taken_by_another(taken)


def taken_by_another(folder: Path) -> UserError:
    """The error for a name, that of a bundle's folder, under which there is another detector."""
    return UserError(
        f"the name {folder.name!r} is taken by another detector",
        f"Choose another name, or remove the folder {folder} first.",
    )


def add(
    home: Home,
    model: Path | str,
    name: str,
    *,
    classes: Path | None = None,
    decoder: str | None = None,
    weights: Path | None = None,
    architecture: str | None = None,
    size: tuple[int, int] | None = None,
    norm_eps: float | None = None,
    preset: str | None = None,
    endpoint: str | None = None,
    allow_code: bool = False,
    license: str = "unknown",
) -> Teacher:
    """Adds a teacher under a name; adding the same again changes nothing.

    Args:
        home: Where named teachers are.
        model: A bundle folder, or what `model_zoo.importing.import_teacher` takes.
        name: Name by which it is addressed afterwards.
        classes: File with its class names; not for a bundle or an ONNX file of
            `detcompose export`, which have them.
        decoder: Layout of an ONNX model's outputs, where it cannot be told from their shapes.
        weights: Weights file, where it does not lie beside the model.
        architecture: What torchvision or effdet builds, where the weights do not tell.
        size: Height and width of the input of such a network; None = its own.
        norm_eps: Epsilon of torchvision's batch normalisations; None = the usual one.
        preset: How a service is asked.
        endpoint: Where a model of the registry is served.
        allow_code: Whether the Python code of a model of the registry may run here.
        license: Licence of the weights.

    Raises:
        UserError: Anything about it is wrong, or the name is taken by another detector.
    """
    if not bundle.NAME_PATTERN.fullmatch(name):
        raise UserError(f"{name!r} cannot be a teacher's name", NAME_RULE)
    destination = home.teachers / name
    if is_registered(str(model)):
        from tasks.mlflow_models import add_model

        add_model(
            home,
            str(model),
            name,
            classes=classes,
            endpoint=endpoint,
            preset=preset,
            allow_code=allow_code,
            license=license,
        )
    elif endpoint is not None or allow_code:
        raise UserError(f"endpoint or code is given for {model}", "Only models:/NAME@ALIAS has them.")
    elif (Path(model) / bundle.MANIFEST).is_file():
        add_bundle(Path(model), name, destination)
    elif Path(model).is_dir():
        raise UserError(
            f"{model} is a folder, but no bundle: it has no {bundle.MANIFEST}",
            "Give a model file or a bundle's folder: `detcompose teacher add --help`.",
        )
    else:
        # reading model files takes the onnx library, which looking up a name does not need
        from model_zoo.importing import import_teacher

        with disk_errors(destination):
            import_teacher(
                model,
                classes=classes,
                name=name,
                destination=destination,
                decoder=decoder,
                weights=weights,
                architecture=architecture,
                size=size,
                norm_eps=norm_eps,
                preset=preset,
                license=license,
            )
    return find(home, name)


def add_bundle(source: Path, name: str, destination: Path) -> None:
    """Copies a bundle under a name.

    Raises:
        UserError: The bundle is damaged, or the name is taken by another detector.
    """
    manifest = checked(source)
    if (destination / bundle.MANIFEST).is_file():
        if bundle.read(destination, verify=False).digest == manifest.digest:
            return
        raise taken_by_another(destination)
    with disk_errors(destination):
        bundle.write(
            destination,
            name=name,
            adapter=manifest.adapter,
            vocabulary=manifest.vocabulary,
            input=manifest.input,
            output=manifest.output,
            files={file: source / file for file in manifest.files},
            provenance=manifest.provenance,
            license=manifest.license,
        )
