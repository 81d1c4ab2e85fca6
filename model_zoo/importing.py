"""Making a bundle of a detector that others trained."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from composition.errors import UserError
from model_zoo import bundle
from model_zoo.adapters.base import InferenceSettings
from model_zoo.bundle import InputSpec, Manifest, OutputSpec
from model_zoo.class_lists import read_classes
from model_zoo.onnx_metadata import Description


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is the same in every bundle."""

    name: str
    vocabulary: tuple[str, ...]
    provenance: dict[str, Any]
    license: str


_Writer = Callable[[Path, _Facts], Manifest]


def import_teacher(
    model: Path,
    *,
    classes: Path | Sequence[str] | None,
    name: str,
    destination: Path,
    decoder: str | None = None,
    weights: Path | None = None,
    provenance: Mapping[str, Any] | None = None,
    license: str = "unknown",
) -> Manifest:
    """Copies a detector's files into a new bundle, after trying that it runs.

    Importing the same detector to the same place again changes nothing.

    Args:
        model: An ``.onnx`` file, a darknet ``.cfg`` or an mmdet ``.json`` config.
        classes: Its class names in order, see `read_classes`. None: an ONNX
            file that `model_zoo.exporting` wrote holds them, and its licence.
        name: Short name of the detector.
        destination: The bundle's folder.
        decoder: Layout of an ONNX network's outputs; None = told by their shapes.
        weights: Weights of a ``.cfg`` or ``.json``; None = the file of the
            same stem beside it.
        provenance: Where it comes from, JSON values.
        license: Licence of the weights.

    Returns:
        The manifest of the bundle at ``destination``.

    Raises:
        UserError: A missing or damaged file, a class list of another length, an
            unknown output layout, or a place taken by another detector.
    """
    known = _described(model)
    if classes is None and known is None:
        raise UserError(
            f"teacher add: {model} needs its class names", "Give --classes FILE, one name a line."
        )
    write, sources = _writer(model, decoder, weights)
    facts = _Facts(
        name,
        known.vocabulary if classes is None and known else read_classes(classes or ()),
        {**(known.provenance if known else {}), **sources, **(provenance or {})},
        known.license if known and license == "unknown" else license,
    )
    _make_parent(destination)
    with tempfile.TemporaryDirectory(prefix=f".{destination.name}.", dir=destination.parent) as staging:
        staged = Path(staging) / "bundle"
        manifest = write(staged, facts)
        if (destination / bundle.MANIFEST).is_file():
            return _same(destination, manifest)
        try:
            staged.replace(destination)
        except OSError as error:
            raise UserError(
                f"{destination} is in the way: {error.strerror}", "Choose another place, or remove it."
            ) from None
    return manifest


def _writer(model: Path, decoder: str | None, weights: Path | None) -> tuple[_Writer, dict[str, Any]]:
    """How to import a file of this kind, and the names of the files it comes from."""
    kind = model.suffix.lower()
    if kind not in {".onnx", ".cfg", ".json"}:
        raise UserError(
            f"{model} is not a model that can be imported",
            "Give an .onnx file, a darknet .cfg or an mmdet .json config.",
        )
    if not model.is_file():
        raise UserError(f"{model} does not exist", "Check the path of the model.")
    if kind == ".onnx":
        if weights is not None:
            raise UserError(f"weights are given for {model.name}", "An ONNX file holds its weights inside.")
        return partial(_write_onnx, model, decoder), {"model": model.name}
    if decoder is not None:
        raise UserError(f"decoder {decoder!r} is given for {model.name}", "Only ONNX models have a decoder.")
    weights = weights or model.with_suffix(".weights" if kind == ".cfg" else ".safetensors")
    if not weights.is_file():
        raise UserError(
            f"{weights} does not exist", f"Put the weights beside {model.name}, or give their path."
        )
    write = _write_darknet if kind == ".cfg" else _write_mmdet
    return partial(write, model, weights), {"model": model.name, "weights": weights.name}


def _described(model: Path) -> Description | None:
    """What the file tells about itself; only our own ONNX exports do."""
    if model.suffix.lower() != ".onnx" or not model.is_file():
        return None
    from model_zoo.importing_onnx import description

    return description(model)


def _write_onnx(model: Path, decoder: str | None, folder: Path, facts: _Facts) -> Manifest:
    from model_zoo.adapters.onnx import MODEL
    from model_zoo.importing_onnx import inspect

    spec, output = inspect(model, facts.vocabulary, decoder)
    return _write(folder, "onnx", spec, output, {MODEL: model}, facts)


def _write_darknet(cfg: Path, weights: Path, folder: Path, facts: _Facts) -> Manifest:
    from model_zoo.adapters import darknet, darknet_cfg

    network = darknet_cfg.parse(cfg)
    darknet_cfg.check_weights(network, weights)
    darknet.check_classes(cfg, network.classes, facts.vocabulary)
    # RGB / 255, stretched, overlap 0.4: as OpenCV's samples run these networks
    spec = InputSpec(
        height=network.height, width=network.width, resize="stretch", color="rgb", std=(255.0, 255.0, 255.0)
    )
    files = {darknet.CFG: cfg, darknet.WEIGHTS: weights}
    manifest = _write(folder, "darknet", spec, OutputSpec(nms_iou=0.4), files, facts)
    detector = darknet.DarknetDetector(folder, manifest, InferenceSettings())
    detector.predict([np.zeros((8, 8, 3), np.uint8)])  # OpenCV finds some faults only when it runs
    return manifest


def _write_mmdet(config: Path, weights: Path, folder: Path, facts: _Facts) -> Manifest:
    # torch and mmdet take seconds to import
    import safetensors
    import safetensors.torch

    from model_zoo.adapters import mmdet, mmdet_config

    document = mmdet_config.parse(config.read_bytes(), str(config))
    spec = mmdet_config.input_spec_from_config(document, str(config))
    try:
        state = safetensors.torch.load_file(weights)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"{weights} is not a safetensors file: {error}",
            "Convert the checkpoint's weights to safetensors.",
        ) from None
    return mmdet.write_mmdet_bundle(
        folder,
        facts.name,
        mmdet_config.model_part(document, str(config)),
        state,
        facts.vocabulary,
        spec,
        facts.provenance,
        facts.license,
    )


def _write(
    folder: Path, adapter: str, spec: InputSpec, output: OutputSpec, files: Mapping[str, Path], facts: _Facts
) -> Manifest:
    return bundle.write(
        folder,
        name=facts.name,
        adapter=adapter,
        vocabulary=facts.vocabulary,
        input=spec,
        output=output,
        files=files,
        provenance=facts.provenance,
        license=facts.license,
    )


def _make_parent(destination: Path) -> None:
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{destination.parent} is a file, not a folder", "Choose another place.") from None


def _same(destination: Path, manifest: Manifest) -> Manifest:
    """The bundle that is already there, if it is the same detector."""
    existing = bundle.read(destination)
    if existing.digest != manifest.digest:
        raise UserError(
            f"the name {manifest.name!r} is taken by another detector ({destination})",
            "Choose another name, or remove that folder first.",
        )
    return existing
