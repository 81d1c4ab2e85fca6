"""Making a bundle of a detector that others trained."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from composition.errors import UserError
from model_zoo import bundle
from model_zoo.adapters import service
from model_zoo.adapters.base import InferenceSettings
from model_zoo.adapters.registry import opener_of
from model_zoo.bundle import InputSpec, Manifest, OutputSpec
from model_zoo.class_lists import read_classes, read_names


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is the same in every bundle."""

    name: str
    vocabulary: tuple[str, ...]
    provenance: dict[str, Any]
    license: str


# of model_zoo.weights_file, which would import torch for the sake of a name
_TORCH_SUFFIXES = (".pth", ".pt", ".pkl", ".bin", ".ckpt", ".tar", ".safetensors")
_Writer = Callable[[Path, _Facts], Manifest]


def import_teacher(
    model: Path | str,
    *,
    classes: Path | Sequence[str] | None,
    name: str,
    destination: Path,
    decoder: str | None = None,
    weights: Path | None = None,
    architecture: str | None = None,
    size: tuple[int, int] | None = None,
    norm_eps: float | None = None,
    preset: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    license: str = "unknown",
) -> Manifest:
    """Copies a detector's files into a new bundle, after trying that it runs.

    Importing the same detector to the same place again changes nothing.

    Args:
        model: An ``.onnx`` file, a darknet ``.cfg``, an mmdet config (``.json``,
            or a ``.py`` that is plain data), weights of a torchvision or
            effdet detector, ``torchvision:NAME`` of published weights, the
            ``.json`` description of a service, or the URL of one.
        classes: Its class names in order, see `read_classes`. None: taken from
            the file, where it holds them.
        name: Short name of the detector.
        destination: The bundle's folder.
        decoder: Layout of an ONNX network's outputs; None = told by their shapes.
        weights: Weights of a ``.cfg`` or a config; None = the file of the
            same stem beside it.
        architecture: What torchvision or effdet builds; None = told by the weights.
        size: Height and width of the network's input; None = its own.
        norm_eps: Epsilon of torchvision's batch normalisations; None = the usual one.
        preset: How the service at a URL is asked; None = the description's defaults.
        provenance: Where it comes from, JSON values.
        license: Licence of the weights.

    Returns:
        The manifest of the bundle at ``destination``.

    Raises:
        UserError: A missing or damaged file, a class list of another length, an
            unknown output layout, or a place taken by another detector.
    """
    options = _TorchOptions(architecture, size, norm_eps)
    if str(model).startswith(("http://", "https://")):
        document = {"service": "http", "url": str(model), **({"preset": preset} if preset else {})}
        write, facts = _service_source(service.from_document(document, str(model)), classes, name, license)
    elif preset is not None:
        raise UserError(f"preset {preset!r} is given for {model}", "Only the URL of a service has one.")
    else:
        write, facts = _source(model, classes, name, decoder, weights, options, license)
    facts.provenance.update(provenance or {})
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


@dataclass(frozen=True, slots=True)
class _TorchOptions:
    architecture: str | None = None
    size: tuple[int, int] | None = None
    norm_eps: float | None = None


def _source(
    model: Path | str,
    classes: Path | Sequence[str] | None,
    name: str,
    decoder: str | None,
    weights: Path | None,
    options: _TorchOptions,
    license: str,
) -> tuple[_Writer, _Facts]:
    """How to import a file of this kind, and what is known of it."""
    if decoder is not None and Path(model).suffix.lower() != ".onnx":
        raise UserError(
            f"decoder {decoder!r} is given for {Path(model).name}", "Only ONNX models have a decoder."
        )
    if _is_torch(str(model)):
        if weights is not None:
            raise UserError(f"weights are given for {model}", "That file is the weights.")
        return _torch_source(str(model), classes, name, options, license)
    if options != _TorchOptions():
        raise UserError(
            f"architecture, input size or epsilon is given for {model}",
            "Only weights of torchvision and effdet take them; other files say it themselves.",
        )
    return _file_source(Path(model), classes, name, decoder, weights, license)


def _file_source(
    path: Path,
    classes: Path | Sequence[str] | None,
    name: str,
    decoder: str | None,
    weights: Path | None,
    license: str,
) -> tuple[_Writer, _Facts]:
    """The same for files of which the network is a part."""
    kind = path.suffix.lower()
    if kind not in {".onnx", ".cfg", ".json", ".py"}:
        raise UserError(
            f"{path} is not a model that can be imported",
            "Give an .onnx file, a darknet .cfg, an mmdet config (.json or .py), weights of a torchvision or "
            "effdet detector (.pth, .safetensors), or the .json description of a service.",
        )
    if not path.is_file():
        raise UserError(f"{path} does not exist", "Check the path of the model.")
    if kind == ".onnx":
        if weights is not None:
            raise UserError(f"weights are given for {path.name}", "An ONNX file holds its weights inside.")
        return _onnx_source(path, classes, name, decoder, license)
    if kind == ".json" and service.is_service(path):
        return _service_source(service.read(path), classes, name, license)
    weights = _weights_beside(path, weights)
    sources = {"model": path.name, "weights": weights.name}
    if kind == ".cfg":
        facts = _Facts(name, _needed(classes, path), sources, license)
        return partial(_write_darknet, path, weights), facts
    return _mmdet_source(path, weights, classes, _Facts(name, (), sources, license))


def _weights_beside(path: Path, weights: Path | None) -> Path:
    """The weights of a config: those that were given, else the file of the same stem."""
    if weights is None:
        suffixes = (".weights",) if path.suffix.lower() == ".cfg" else (".safetensors", ".pth")
        beside = [path.with_suffix(suffix) for suffix in suffixes]
        weights = next((file for file in beside if file.is_file()), beside[0])
    if not weights.is_file():
        raise UserError(
            f"{weights} does not exist", f"Put the weights beside {path.name}, or give their path."
        )
    return weights


def _needed(
    classes: Path | Sequence[str] | None, model: Path | str, known: Sequence[str] | None = None
) -> tuple[str, ...]:
    """The class names that were given, else those in the file."""
    if classes is None and known is None:
        raise UserError(
            f"teacher add: {model} needs its class names", "Give --classes FILE, one name a line."
        )
    return read_classes(known or () if classes is None else classes)


def _is_torch(model: str) -> bool:
    return model.startswith("torchvision:") or Path(model).suffix.lower() in _TORCH_SUFFIXES


def _onnx_source(
    path: Path, classes: Path | Sequence[str] | None, name: str, decoder: str | None, license: str
) -> tuple[_Writer, _Facts]:
    from model_zoo.importing_onnx import class_names, description

    known = description(path)  # only our own exports have one
    facts = _Facts(
        name,
        _needed(classes, path, known.vocabulary if known else class_names(path)),
        {**(known.provenance if known else {}), "model": path.name},
        known.license if known and license == "unknown" else license,
    )
    return partial(_write_onnx, path, decoder), facts


def _torch_source(
    model: str, classes: Path | Sequence[str] | None, name: str, options: _TorchOptions, license: str
) -> tuple[_Writer, _Facts]:
    from model_zoo.importing_torch import read_teacher

    # with fillers and background, which are no names of a vocabulary
    names = read_names(classes) if classes is not None else None
    found = read_teacher(
        model, names, architecture=options.architecture, size=options.size, norm_eps=options.norm_eps
    )
    facts = _Facts(name, read_classes(found.vocabulary), found.provenance, license)

    def write(folder: Path, facts: _Facts) -> Manifest:
        manifest = _write(folder, found.adapter, found.input, found.output, found.files, facts)
        # some networks build, but do not predict
        opener_of(found.adapter)(folder, manifest, InferenceSettings()).predict(
            [np.zeros((64, 48, 3), np.uint8)]
        )
        return manifest

    return write, facts


def _service_source(
    description: service.Service, classes: Path | Sequence[str] | None, name: str, license: str
) -> tuple[_Writer, _Facts]:
    url = description.url
    facts = _Facts(name, _needed(classes, url), {"url": url}, license)
    spec, files = service.input_spec(description), {service.SERVICE: service.to_json(description)}
    return lambda folder, facts: _write(folder, "http", spec, OutputSpec(nms_iou=None), files, facts), facts


def _mmdet_source(
    config: Path, weights: Path, classes: Path | Sequence[str] | None, facts: _Facts
) -> tuple[_Writer, _Facts]:
    # torch and mmdet take seconds to import
    from model_zoo.adapters import mmdet_config
    from model_zoo.weights_file import read_checkpoint

    document = mmdet_config.read(config)
    checkpoint = read_checkpoint(weights)
    known = checkpoint.classes or mmdet_config.class_names(document)
    vocabulary = _needed(classes, config, known)
    return partial(_write_mmdet, config, document, checkpoint.state), replace(facts, vocabulary=vocabulary)


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


def _write_mmdet(
    config: Path, document: Mapping[str, Any], state: Mapping[str, Any], folder: Path, facts: _Facts
) -> Manifest:
    from model_zoo.adapters import mmdet, mmdet_config

    return mmdet.write_mmdet_bundle(
        folder,
        facts.name,
        mmdet_config.model_part(document, str(config)),
        state,
        facts.vocabulary,
        mmdet_config.input_spec_from_config(document, str(config)),
        facts.provenance,
        facts.license,
    )


def _write(
    folder: Path, adapter: str, spec: InputSpec, output: OutputSpec, files: Mapping[str, Any], facts: _Facts
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
