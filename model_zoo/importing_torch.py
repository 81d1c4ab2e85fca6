"""Importing weights whose network torchvision or effdet builds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision as library

from composition.errors import UserError
from model_zoo.adapters import effdet, network_file, torchvision
from model_zoo.adapters.network_file import Network
from model_zoo.adapters.network_labels import number_classes
from model_zoo.bundle import InputSpec, OutputSpec, sha256_of
from model_zoo.weights_file import read_checkpoint

State = Mapping[str, torch.Tensor]
# where the number of classes shows, and how many times it is in there (anchors of the first level)
_CLASS_KEYS = (
    ("roi_heads.box_predictor.cls_score.weight", 1, "rcnn"),
    ("head.classification_head.module_list.0.weight", 4, "ssd300"),
    ("head.classification_head.module_list.0.1.weight", 6, "ssdlite"),
    ("head.classification_head.cls_logits.weight", 9, "retinanet"),
    ("class_net.predict.conv_pw.weight", 9, "effdet"),
)
_FCOS = "head.regression_head.bbox_ctrness.weight"
# built from COCO_V1 weights, these have an epsilon of 0 in their frozen normalisations (torchvision's
# `overwrite_eps`), and training goes on with it
ZERO_EPS = (
    "fasterrcnn_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
)


@dataclass(frozen=True, slots=True)
class Official:
    """A weights file that torchvision publishes.

    Attributes:
        name: As ``torchvision.models.get_weight`` takes it.
        architecture: The builder that it belongs to.
        categories: Names by the network's numbers, with the background and fillers.
        url: Where it is published.
    """

    name: str
    architecture: str
    categories: tuple[str, ...]
    url: str

    @property
    def file(self) -> str:
        """Its file name, which ends in the beginning of its sha256."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class TorchTeacher:
    """Everything that the bundle of such a detector holds, but its name."""

    adapter: str
    vocabulary: tuple[str, ...]
    input: InputSpec
    output: OutputSpec
    files: dict[str, bytes]
    provenance: dict[str, Any]


def official_weights() -> Iterator[Official]:
    """All detection weights of the installed torchvision; nothing is fetched."""
    for architecture in torchvision.architectures():
        for weights in library.models.get_model_weights(architecture):
            yield Official(str(weights), architecture, tuple(weights.meta["categories"]), weights.url)


def find_weights(reference: str) -> tuple[Path, Official]:
    """The file of published weights, where torch's cache holds it.

    Args:
        reference: ``torchvision:`` and the name of weights, e.g.
            ``torchvision:FCOS_ResNet50_FPN_Weights.COCO_V1``, or of a builder.

    Raises:
        UserError: No such weights, or they are not on this machine: says how to get them.
    """
    name = reference.removeprefix("torchvision:")
    known = list(official_weights())
    found = [one for one in known if name in (one.name, one.architecture)]
    if not found:
        raise UserError(
            f"torchvision {library.__version__} has no detection weights {name!r}",
            f"It has: {', '.join(one.name for one in known)}.",
        )
    path = Path(torch.hub.get_dir()) / "checkpoints" / found[0].file
    if not path.is_file():
        raise UserError(
            f"{found[0].name} is not on this machine, and nothing is downloaded unasked",
            f"Fetch it: `curl --create-dirs -o {path} {found[0].url}`, or give the path of the file.",
        )
    return path, found[0]


def read_teacher(
    model: str,
    classes: Sequence[str] | None,
    *,
    architecture: str | None = None,
    size: tuple[int, int] | None = None,
    norm_eps: float | None = None,
) -> TorchTeacher:
    """Finds out what a weights file is for, and tries it.

    Args:
        model: A file with weights, or ``torchvision:NAME``.
        classes: Its class list as its trainer had it; None = published weights have theirs.
        architecture: Builder or config; None = told by names and shapes.
        size: Input height and width; None = the architecture's own.
        norm_eps: Epsilon of the batch normalisations; None = the usual one.

    Raises:
        UserError: Names exactly what is missing or does not fit.
    """
    known: Official | None = None
    if model.startswith("torchvision:"):
        path, known = find_weights(model)
    else:
        path = Path(model)
    checkpoint = read_checkpoint(path)
    state = checkpoint.state
    known = known or _published(path)
    classes = classes or checkpoint.classes
    if known:
        classes, architecture = classes or known.categories, architecture or known.architecture
    family, outputs = _classes_of(state, path)
    if classes is None:
        raise UserError(
            f"teacher add: {path} needs its class names ({outputs} classes in the network)",
            "Give --classes FILE, one name a line.",
        )
    provenance: dict[str, Any] = {"model": path.name, "weights_sha256": sha256_of(path)}
    if known:
        provenance["published_as"] = known.name
    if family == "effdet":
        architecture = architecture or checkpoint.architecture
        return _effdet(state, classes, outputs, architecture, size, path, provenance)
    frozen = not any(key.endswith("num_batches_tracked") for key in state)
    return _torchvision(
        state, classes, outputs, architecture, size, path, provenance, known, frozen, norm_eps
    )


def _published(path: Path) -> Official | None:
    """A file of torchvision's, told by the digest in its name and its bytes."""
    marked = [one for one in official_weights() if one.file == path.name]
    digest = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if not marked or digest is None or not sha256_of(path).startswith(digest[1]):
        return None
    return marked[0]


def _classes_of(state: State, path: Path) -> tuple[str, int]:
    """The family of a network and how many classes it tells apart."""
    for key, anchors, family in _CLASS_KEYS:
        if key in state:
            rows = state[key].shape[0] if state[key].ndim else 0
            if family == "retinanet" and _FCOS in state:
                anchors, family = 1, "fcos"
            if not rows or rows % anchors:
                break
            return family, rows // anchors
    raise UserError(
        f"{path}: its weights belong to no detector that is known here; the first is {next(iter(state))!r}",
        "Known are torchvision's and effdet's detectors; export others to ONNX, or give an mmdet config.",
    )


def _torchvision(
    state: State,
    classes: Sequence[str],
    outputs: int,
    architecture: str | None,
    size: tuple[int, int] | None,
    path: Path,
    provenance: dict[str, Any],
    known: Official | None,
    frozen: bool,
    norm_eps: float | None,
) -> TorchTeacher:
    family, _ = _classes_of(state, path)
    counts_background = family not in ("retinanet", "fcos")
    vocabulary, numbers = number_classes(classes, outputs, True if counts_background else None, str(path))
    if architecture is None:
        architecture = _only(_fitting_builders(state, outputs, family), path)
    model = torchvision.build(architecture, outputs, wide_tail=torchvision.has_wide_tail(state))
    network_file.load_state(model, state, f"{path} as {architecture}")
    if norm_eps is None and frozen and architecture in ZERO_EPS:
        norm_eps = 0.0
    spec = torchvision.input_spec(model)
    if size is not None:
        spec = InputSpec.model_validate({**spec.model_dump(), "height": size[0], "width": size[1]})
    network = Network(architecture=architecture, classes=outputs, numbers=numbers, norm_eps=norm_eps)
    return TorchTeacher(
        "torchvision",
        vocabulary,
        spec,
        OutputSpec(nms_iou=torchvision.suppression(model)),
        network_file.files(network, network_file.state_of(model)),
        provenance,
    )


def _fitting_builders(state: State, outputs: int, family: str) -> list[str]:
    kin = {"rcnn": "rcnn", "ssd300": "ssd300", "ssdlite": "ssdlite"}.get(family, family)
    fitting = []
    for name in torchvision.architectures():
        if kin in name:
            with torch.device("meta"):  # shapes only
                model = torchvision.build(name, outputs, wide_tail=torchvision.has_wide_tail(state))
            if _fits(model, state):
                fitting.append(name)
    return fitting


def _effdet(
    state: State,
    classes: Sequence[str],
    outputs: int,
    architecture: str | None,
    size: tuple[int, int] | None,
    path: Path,
    provenance: dict[str, Any],
) -> TorchTeacher:
    vocabulary, numbers = number_classes(classes, outputs, False, str(path))
    architecture = effdet.plain_name(architecture) if architecture else None
    if architecture is None:
        architecture = _only(_fitting_configs(state, outputs), path)
    spec, mean = effdet.input_spec(architecture, size)
    biases = effdet.has_redundant_biases(state)
    model = effdet.build(architecture, outputs, (spec.height, spec.width), biases=biases)
    network_file.load_state(model, state, f"{path} as {architecture}")
    network = Network(architecture=architecture, classes=outputs, numbers=numbers, pad_with_mean=mean)
    return TorchTeacher(
        "effdet",
        vocabulary,
        spec,
        OutputSpec(nms_iou=0.5),
        network_file.files(network, network_file.state_of(model)),
        provenance,
    )


def _fitting_configs(state: State, outputs: int) -> list[str]:
    """The configs whose networks have these weights; most are ruled out by counting."""
    cells = {key.split(".")[2] for key in state if key.startswith("fpn.cell.")}
    repeats = {key.split(".")[2] for key in state if key.startswith("box_net.conv_rep.")}
    fitting = []
    for name in effdet.architectures():
        config = effdet.config_of(name)
        channels = state["class_net.predict.conv_pw.weight"].shape[1:2]
        if (config.fpn_cell_repeats, config.box_class_repeats) != (len(cells), len(repeats)):
            continue
        if tuple(channels) != (config.fpn_channels,):
            continue
        with torch.device("meta"):
            biases = effdet.has_redundant_biases(state)
            model = effdet.build(name, outputs, tuple(config.image_size), biases=biases)
        if _fits(model, state):
            fitting.append(name)
    return fitting


def _fits(model: torch.nn.Module, state: State) -> bool:
    expected = {key: value.shape for key, value in model.state_dict().items()}
    try:
        # old files have other names for some weights, which the modules know how to read
        result = model.load_state_dict(dict(state), strict=False, assign=True)
    except RuntimeError:
        return False
    missing = [key for key in result.missing_keys if not key.endswith("num_batches_tracked")]
    return bool(expected) and not missing and not result.unexpected_keys


def _only(fitting: Sequence[str], path: Path) -> str:
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise UserError(
            f"{path}: its weights fit no architecture of the installed release as they are",
            "Say which it is with --architecture to learn what does not fit.",
        )
    raise UserError(
        f"{path}: its weights fit {len(fitting)} architectures alike",
        f"Say which with --architecture: {', '.join(fitting)}.",
    )
