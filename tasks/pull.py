"""Bringing a registered detector to a folder, on a machine that only predicts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from composition.errors import UserError
from model_zoo import bundle
from tasks import registry, tracking
from tasks.home import Home
from tasks.references import CHAMPION, parse


@dataclass(frozen=True, slots=True)
class Pulled:
    """A bundle that lies in a folder now.

    Attributes:
        folder: The folder.
        manifest: The bundle's manifest.
        model: The exact version, ``models:/students.x/3``.
        unchanged: The folder held it already.
    """

    folder: Path
    manifest: bundle.Manifest
    model: str
    unchanged: bool


def pull(home: Home, text: str, folder: Path, *, as_trained: bool = False) -> Pulled:
    """Downloads a bundle, verified and whole; a bundle that lies there is replaced in one step.

    Args:
        home: Names the registry.
        text: E.g. ``students/x@champion``; without an alias the champion.
        folder: Where to.
        as_trained: The detector as it was made (mmdet), to train on; False:
            the ONNX file of the same, where the version has one.

    Raises:
        UserError: No such version, a folder that holds something else, a
            download that fails or is not what the registry says.
    """
    held = _held(folder)
    connection = tracking.client(home)
    version = registry.resolve(connection, parse(text, CHAMPION))
    exported = version.tags.get(f"{registry.DIGEST_TAG}.{registry.ONNX}")
    part = registry.ONNX if exported and not as_trained else registry.BUNDLE
    expected = exported if part == registry.ONNX else registry.digest(version)
    if held is not None and held.digest == expected:
        return Pulled(folder, held, registry.uri(version), unchanged=True)
    manifest = registry.download(connection, version, part, folder)
    return Pulled(folder, manifest, registry.uri(version), unchanged=False)


def _held(folder: Path) -> bundle.Manifest | None:
    """The bundle in a folder, None where there is nothing, or a damaged one, which may be replaced.

    Raises:
        UserError: Something else lies there.
    """
    if (folder / bundle.MANIFEST).is_file():
        try:
            return bundle.read(folder)
        except UserError:
            if not _looks_like_bundle(folder):
                raise
            return None
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is no bundle", "Give a new folder, or that of an earlier pull.")
    return None


def _looks_like_bundle(folder: Path) -> bool:
    """Whether a manifest that cannot be used was once ours."""
    try:
        return f'"{bundle.FORMAT}"' in (folder / bundle.MANIFEST).read_text()
    except (OSError, UnicodeDecodeError):
        return False
