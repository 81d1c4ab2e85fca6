"""mmdet configs as data: what may be built, for which classes, on what input.

A config decides which code runs: mmengine imports any dotted name that it
finds under ``type``, mmcv evaluates the ``type`` of an NMS as Python, some
models fetch or unpickle other weights. A bundle may come from anybody, so that
only registered building blocks are let through, and nothing that fetches.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from composition.errors import UserError
from model_zoo.adapters import mmdet_config_bases
from model_zoo.bundle import InputSpec

# modules whose registered classes are parts of a detector, and nothing else
BUILDING_BLOCKS = (
    *(f"mmdet.models.{part}." for part in ("backbones", "necks", "dense_heads", "roi_heads", "seg_heads")),
    *(f"mmdet.models.{part}." for part in ("detectors", "losses", "layers", "data_preprocessors")),
    *(f"mmdet.models.task_modules.{part}." for part in ("assigners", "coders", "prior_generators")),
    "mmdet.models.task_modules.samplers.",
    "mmcv.cnn.",
    "mmcv.ops.",
    "mmengine.model.",
    "mmengine.utils.dl_utils.parrots_wrapper",
    "torch.nn.",
    "model_zoo.",
)
# these read weights, tokenizers or Python configs from elsewhere
FETCHING = frozenset(
    {
        "ATSSVLFusionHead",
        "Detectron2Wrapper",
        "GLIP",
        "GroundingDINO",
        "GroundingDINOHead",
        "KnowledgeDistillationSingleStageDetector",
        "LAD",
    }
)
# looked up by mmcv itself, not in a registry
OPS = frozenset({"nms", "soft_nms", "RoIAlign", "RoIPool"})
# where initial weights come from; the bundle's weights replace them all
INITIAL_WEIGHTS = frozenset({"init_cfg", "pretrained"})
RESERVED = re.compile(r"^_.*_$|^custom_imports$")
CONVERT = "Dump the config with mmengine's Config.dump to JSON, with stock mmdet parts only."


def parse(text: bytes | str, source: str) -> dict[str, Any]:
    """Reads a JSON config.

    Args:
        text: The file's content.
        source: Its name, for error texts.

    Raises:
        UserError: Not a JSON object.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is not JSON: {error}", CONVERT) from None
    if not isinstance(document, dict):
        raise UserError(f"{source} is not a JSON object", CONVERT)
    return document


def read(path: Path) -> dict[str, Any]:
    """Reads a config file: JSON, or Python that is plain data.

    Raises:
        UserError: It is neither.
    """
    if path.suffix.lower() == ".py":
        return mmdet_config_bases.read(path)
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", "Check the path of the config.") from None
    return parse(text, str(path))


def class_names(document: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The class names that a config's data sets have of their own; None where there are none."""
    for stage in ("test", "val", "train"):
        loader = document.get(f"{stage}_dataloader")
        dataset = loader.get("dataset") if isinstance(loader, Mapping) else None
        for place in (dataset, document):
            metainfo = place.get("metainfo") if isinstance(place, Mapping) else None
            names = metainfo.get("classes") if isinstance(metainfo, Mapping) else None
            if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
                return tuple(names)
    return None


def model_part(document: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The part of a config that describes the network, made safe to build.

    Args:
        document: ``{"model": ...}`` or the dump of a whole mmengine config, of
            which everything but the model is ignored.
        source: Name of the file, for error texts.

    Returns:
        The model config without initial weights, plain JSON values.

    Raises:
        UserError: It would run or import code, fetch something, or is no
            detector that we can feed. Names the key.
    """
    for key in document:
        if RESERVED.match(key) and document[key]:
            raise UserError(f"{source}: {key!r} would run code or read other files", CONVERT)
    model = document.get("model")
    if not isinstance(model, Mapping):
        raise UserError(f"{source}: 'model' is missing", CONVERT)
    try:
        plain = json.loads(json.dumps(_without_initial_weights(model)))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{source}: model: not plain data: {error}", CONVERT) from None
    _check_parts(plain, source)
    preprocessor = plain.get("data_preprocessor")
    if not isinstance(preprocessor, dict) or _bare(preprocessor.get("type")) != "DetDataPreprocessor":
        raise UserError(
            f"{source}: model.data_preprocessor: must be a DetDataPreprocessor",
            "It tells how pixels are normalised; take it from the config that the model was trained with.",
        )
    if not isinstance(plain.get("test_cfg"), dict):
        raise UserError(
            f"{source}: model.test_cfg is missing",
            "It holds the thresholds of prediction; take it from the config that the model was trained with.",
        )
    return dict(plain)


def class_counts(model: Mapping[str, Any]) -> dict[str, int]:
    """How many classes the heads tell apart, by the key that says so.

    A cascade has several box heads; the region proposals' head is class-agnostic.
    """
    heads: dict[str, Any] = {"model.bbox_head": model.get("bbox_head")}
    roi_head = model.get("roi_head")
    if isinstance(roi_head, Mapping):
        heads["model.roi_head.bbox_head"] = roi_head.get("bbox_head")
    if isinstance(model.get("detector"), Mapping):  # teacher-student wrappers
        return class_counts(model["detector"])
    counts = {}
    for path, head in heads.items():
        stages = head if isinstance(head, list) else [head]
        for stage in stages:
            if isinstance(stage, Mapping) and isinstance(stage.get("num_classes"), int):
                counts[f"{path}.num_classes"] = int(stage["num_classes"])
    return counts


def normalised(spec: InputSpec, model: Mapping[str, Any]) -> InputSpec:
    """The spec with colour order, mean and std as the model's data preprocessor has them.

    Raises:
        UserError: The data preprocessor's values are no such thing.
    """
    preprocessor = model["data_preprocessor"]
    rgb = preprocessor.get("bgr_to_rgb") or preprocessor.get("rgb_to_bgr")
    try:
        return InputSpec.model_validate(
            spec.model_dump()
            | {
                "color": "rgb" if rgb else "bgr",
                "mean": _per_channel(preprocessor.get("mean"), 0.0),
                "std": _per_channel(preprocessor.get("std"), 1.0),
            }
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"model.data_preprocessor: mean or std: {error}", CONVERT) from None


def input_spec_from_config(config: Mapping[str, Any], source: str = "config") -> InputSpec:
    """Reads the input size and the way of resizing from a whole mmengine config.

    mmdet resizes to a *range* (1333 x 800: long and short side) where our input
    is one rectangle: landscape images come out the same, portrait ones smaller.

    Args:
        config: Dump of a config with ``test_pipeline`` or ``test_dataloader``
            (or their ``val_`` twins), and ``model``.
        source: Name of the file, for error texts.

    Returns:
        The spec, its size rounded up to the model's ``pad_size_divisor``.

    Raises:
        UserError: No fixed size can be read: says to give one.
    """
    steps = {_bare(step.get("type")): step for step in _pipeline(config)}
    resize, pad = steps.get("Resize", {}), steps.get("Pad", {})
    size = _pair(resize.get("scale")) or _pair(pad.get("size"))
    model = model_part(config, source)
    preprocessor = model["data_preprocessor"]
    if size is None:
        raise UserError(
            f"{source}: no fixed input size: test_pipeline has no Resize with a scale",
            "Give the input size (width and height in pixels) yourself.",
        )
    letterbox = bool(resize.get("keep_ratio", not resize))
    try:
        divisor = int(preprocessor.get("pad_size_divisor", 1))
        spec = InputSpec(
            width=-(-size[0] // divisor) * divisor,
            height=-(-size[1] // divisor) * divisor,
            resize="letterbox" if letterbox else "stretch",
            pad_value=_pad_value(pad, preprocessor),
        )
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"{source}: test_pipeline: Resize, Pad or pad_size_divisor: {error}",
            "Give the input size (width and height in pixels) yourself.",
        ) from None
    return normalised(spec, model)


def _without_initial_weights(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_initial_weights(v) for k, v in value.items() if k not in INITIAL_WEIGHTS}
    if isinstance(value, list | tuple):
        return [_without_initial_weights(item) for item in value]
    return value


def _check_parts(model: dict[str, Any], source: str) -> None:
    from model_zoo.mmdet_runtime import import_mmdet

    import_mmdet()
    for path, key, value in _entries(model, "model"):
        if RESERVED.match(key):
            raise UserError(f"{source}: {path}: would run code or read other files", CONVERT)
        if key == "type" and not (isinstance(value, str) and (value in OPS or _is_building_block(value))):
            raise UserError(
                f"{source}: {path}: {value!r} is not a part of mmdet that a bundle may use",
                "Use mmdet's own parts; models that import code or fetch weights are refused.",
            )


def _entries(value: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"{path}.{key}", key, item
            yield from _entries(item, f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _entries(item, f"{path}[{index}]")


def _is_building_block(name: str) -> bool:
    from mmdet.registry import MODELS, TASK_UTILS
    from mmengine.registry import MODELS as ROOT

    bare = _bare(name)
    found = [registry.module_dict.get(bare) for registry in (MODELS, TASK_UTILS, ROOT)]
    return bare not in FETCHING and any(
        part is not None and f"{part.__module__}.".startswith(BUILDING_BLOCKS) for part in found
    )


def _bare(name: Any) -> Any:
    """A type's name without the scope that mmengine allows before it."""
    return re.sub(r"^(mmdet|mmcv|mmengine)\.", "", name) if isinstance(name, str) else name


def _pipeline(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    for stage in ("test", "val"):
        pipeline = config.get(f"{stage}_pipeline")
        loader = config.get(f"{stage}_dataloader")
        if pipeline is None and isinstance(loader, Mapping) and isinstance(loader.get("dataset"), Mapping):
            pipeline = loader["dataset"].get("pipeline")
        if isinstance(pipeline, list | tuple):
            return [step for step in pipeline if isinstance(step, Mapping)]
    return []


def _pair(value: Any) -> tuple[int, int] | None:
    """(width, height), as mmdet writes sizes; None where there is no fixed one."""
    if isinstance(value, int) and value > 0:
        return value, value
    if (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(v, int) and v > 0 for v in value)
    ):
        return value[0], value[1]
    return None


def _per_channel(value: Any, default: float) -> list[float]:
    channels = [default] if value is None else list(value)
    return channels * 3 if len(channels) == 1 else channels


def _pad_value(pad: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> int:
    """Grey value of the padding.

    Without a ``Pad`` of its own, mmdet pads after normalisation, by default
    with 0: that is the mean colour.
    """
    if not pad:
        mean = _per_channel(preprocessor.get("mean"), 0.0)
        return round(sum(mean) / 3)
    value = pad.get("pad_val", 0)
    value = value.get("img", 0) if isinstance(value, Mapping) else value
    return int(value[0] if isinstance(value, list | tuple) else value)
