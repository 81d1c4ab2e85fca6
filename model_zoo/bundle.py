"""Bundles: how a detector lies on disk and in the registry.

A bundle is a folder with ``manifest.json`` and the weight files that it lists.
The manifest is data only (no pickle, no code); its *digest* covers everything
that decides what the detector predicts (adapter, vocabulary, preprocessing,
post-processing, bytes of the weights) and nothing else, so that a renamed or
re-documented bundle keeps its identity.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from composition.errors import UserError

FORMAT: Final = "detcompose-bundle"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
NAME_PATTERN = re.compile(r"^[a-z0-9][a-z0-9._-]{0,63}$")


_Positive = Annotated[float, Field(gt=0)]


class _Model(BaseModel):
    # JSON as Python reads it knows NaN and Infinity; no field of a manifest may be either
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InputSpec(_Model):
    """What the network wants to be fed.

    Attributes:
        height: Network input height in pixels.
        width: Network input width in pixels.
        resize: ``letterbox`` keeps the aspect ratio and pads on the right and
            bottom; ``letterbox_center`` pads on all sides; ``stretch`` does
            not keep the aspect ratio.
        color: Channel order.
        pad_value: Grey value of the padding, 0..255.
        mean: Subtracted per channel, on the 0..255 scale, in ``color`` order.
        std: Divided by per channel, on the 0..255 scale, in ``color`` order.
    """

    height: int = Field(gt=0, le=8192)
    width: int = Field(gt=0, le=8192)
    resize: Literal["letterbox", "letterbox_center", "stretch"] = "letterbox"
    color: Literal["rgb", "bgr"] = "rgb"
    pad_value: int = Field(114, ge=0, le=255)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[_Positive, _Positive, _Positive] = (1.0, 1.0, 1.0)


class OutputSpec(_Model):
    """How raw network outputs become detections.

    Attributes:
        decoder: Name of the output layout; None where the runtime decodes.
        nms_iou: IoU of the non-maximum suppression; None = none.
        nms_agnostic: A better box suppresses boxes of all classes, not only
            of its own.
        class_offset: Subtracted from the network's class ids (1 where the
            network counts the background as class 0).
    """

    decoder: str | None = None
    nms_iou: float | None = Field(0.65, gt=0, le=1)
    nms_agnostic: bool = False
    class_offset: int = Field(0, ge=0, le=1000)


class FileEntry(_Model):
    """One file of a bundle."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Manifest(_Model):
    """``manifest.json`` of a bundle."""

    format: Literal["detcompose-bundle"] = FORMAT
    version: int = FORMAT_VERSION
    name: str
    adapter: str
    vocabulary: tuple[str, ...] = Field(min_length=1)
    input: InputSpec
    output: OutputSpec = OutputSpec()
    files: dict[str, FileEntry]
    provenance: dict[str, Any] = {}
    license: str = "unknown"

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not NAME_PATTERN.fullmatch(value):
            raise ValueError(
                "use 1 to 64 lower-case letters, digits, '.', '_' or '-', starting with a letter or digit"
            )
        return value

    @field_validator("version")
    @classmethod
    def _version(cls, value: int) -> int:
        if value != FORMAT_VERSION:
            raise ValueError(f"this detcompose reads bundle version {FORMAT_VERSION}, not {value}")
        return value

    @field_validator("vocabulary")
    @classmethod
    def _vocabulary(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check_vocabulary(value, "vocabulary")
        return value

    @field_validator("files")
    @classmethod
    def _files(cls, value: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in value:
            check_file_name(name)
        return value

    @property
    def digest(self) -> str:
        """Identity of the detector: sha256 over what decides its predictions."""
        deciding = self.model_dump(
            mode="json", include={"version", "adapter", "vocabulary", "input", "output", "files"}
        )
        return hashlib.sha256(canonical_json(deciding)).hexdigest()


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value that digests are taken over."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def check_file_name(name: str) -> None:
    """Checks that a file of a bundle stays inside it.

    Raises:
        ValueError: It would not.
    """
    path = PurePosixPath(name)
    # one spelling a file: "./manifest.json" and "a//b" would be second names of the same place
    odd = str(path) != name or name == "." or "\\" in name or "\0" in name
    if odd or path.is_absolute() or ".." in path.parts or name == MANIFEST:
        raise ValueError(f"file name {name!r} would leave the bundle")


def check_vocabulary(names: tuple[str, ...] | list[str], source: str) -> None:
    """Checks class names: present, not blank, printable, no duplicates.

    Raises:
        UserError: Names the file (``source``) and the offending line.
    """
    if not names:
        raise UserError(f"{source}: no class names", "Give one class name a line.")
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if not name.strip():
            raise UserError(
                f"{source}: class {index + 1} is blank", "Remove the empty line or name the class."
            )
        if any(unicodedata.category(letter) == "Cc" for letter in name):
            # they would reach terminals, logs and CSV files
            raise UserError(
                f"{source}: class {index + 1} holds control characters: {name!r}", "Write it as plain text."
            )
        if name in first:
            raise UserError(
                f"{source}: class name {name!r} appears twice (classes {first[name] + 1} and {index + 1})",
                "Every class of a teacher needs a name of its own.",
            )
        first[name] = index


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(
    folder: Path,
    *,
    name: str,
    adapter: str,
    vocabulary: tuple[str, ...],
    input: InputSpec,
    output: OutputSpec,
    files: Mapping[str, Path | bytes],
    provenance: Mapping[str, Any] | None = None,
    license: str = "unknown",
) -> Manifest:
    """Writes a bundle so that it exists whole or not at all.

    Args:
        folder: Where the bundle shall lie; must not exist, or hold a bundle
            that this one replaces.
        name: Short name of the detector.
        adapter: Which runtime reads it (``onnx``, ``darknet``, ``mmdet``).
        vocabulary: Class names in order.
        input: Preprocessing.
        output: Post-processing.
        files: File name in the bundle to a path to copy or the bytes to write.
        provenance: Where it comes from, JSON values only.
        license: Licence of the weights.

    Returns:
        The manifest as written.

    Raises:
        UserError: A field is invalid.
    """
    for file_name in files:
        check_file_name(file_name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        entries = {}
        for file_name, content in files.items():
            target = staging / file_name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                target.write_bytes(content)
            else:
                shutil.copyfile(content, target)
            entries[file_name] = FileEntry(sha256=sha256_of(target), bytes=target.stat().st_size)
        manifest = _checked(
            {
                "name": name,
                "adapter": adapter,
                "vocabulary": vocabulary,
                "input": input,
                "output": output,
                "files": entries,
                "provenance": dict(provenance or {}),
                "license": license,
            },
            f"bundle {name!r}",
        )
        document = {**manifest.model_dump(mode="json"), "digest": manifest.digest}
        (staging / MANIFEST).write_text(json.dumps(document, indent=2) + "\n")
        staging.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        staging.replace(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return manifest


def read(folder: Path, *, verify: bool = True) -> Manifest:
    """Reads and checks a bundle.

    Args:
        folder: The bundle.
        verify: Also hash every file; False checks only names and sizes.

    Raises:
        UserError: Missing or changed files, an unreadable manifest.
    """
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"{folder} is not a bundle: it has no {MANIFEST}",
            "Add a detector with `detcompose teacher add`.",
        ) from None
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}", "Add the detector again.") from None
    if not isinstance(document, dict):
        raise UserError(f"{path} is not a JSON object", "Add the detector again.")
    written_digest = document.pop("digest", None)
    manifest = _checked(document, str(path))
    if written_digest is not None and written_digest != manifest.digest:
        raise UserError(
            f"{path} was edited: its digest is not {written_digest[:12]} any more",
            "Change a detector by adding it again; a bundle is never edited.",
        )
    for name, entry in manifest.files.items():
        file = folder / name
        # a link, also of a folder on the way, would let the bytes change or lie elsewhere
        if not file.is_file() or file.resolve() != folder.resolve() / name:
            raise UserError(f"{folder}: file {name!r} of the manifest is missing", "Add the detector again.")
        if file.stat().st_size != entry.bytes or (verify and sha256_of(file) != entry.sha256):
            raise UserError(
                f"{file} is not the file that the manifest describes (sha256 differs)",
                "Restore the file, or add the changed detector under a new name.",
            )
    return manifest


def listed_file(folder: Path, manifest: Manifest, name: str) -> Path:
    """A file that a runtime is about to read: only what the digest covers may be.

    Args:
        folder: The bundle.
        manifest: Its manifest.
        name: The file.

    Raises:
        UserError: The manifest does not list it, whether it lies there or not.
    """
    if name not in manifest.files:
        raise UserError(f"{folder / MANIFEST}: files: {name!r} is missing", "Add the detector again.")
    return folder / name


def first_problem(error: ValidationError) -> str:
    """The first field that is wrong, and what is wrong about it."""
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def _checked(document: dict[str, Any], source: str) -> Manifest:
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        raise UserError(f"{source}: {first_problem(error)}", "Add the detector again.") from None
