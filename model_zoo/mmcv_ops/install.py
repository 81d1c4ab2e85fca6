"""Decides who answers for ``mmcv._ext`` and installs our module if need be."""

from __future__ import annotations

import importlib
import logging
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Literal, NoReturn

NAME = "mmcv._ext"


class TorchvisionExtension(ModuleType):
    """Stands in for ``mmcv._ext``; ops that torchvision lacks fail when called.

    ``mmcv.ops`` looks up every op at import, needed or not, so that an unknown
    name must be an attribute, and may only complain when somebody calls it.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return _missing(name)


def ensure_ops() -> Literal["extension", "torchvision"]:
    """Makes ``import mmcv.ops`` work; call it before importing mmcv.ops or mmdet.

    Idempotent, and cheap after the first call.

    Returns:
        ``"extension"`` if mmcv's own compiled extension is there,
        ``"torchvision"`` if our module answers for it.
    """
    present = sys.modules.get(NAME)
    if present is None:
        present = _real_extension()
    if present is None:
        present = sys.modules[NAME] = _build()
    return "torchvision" if isinstance(present, TorchvisionExtension) else "extension"


def _real_extension() -> ModuleType | None:
    try:
        return importlib.import_module(NAME)
    except ModuleNotFoundError as error:
        if error.name != NAME:
            raise  # mmcv itself, or something that it needs, is missing
    except ImportError as error:
        # Compiled against another torch: it will not load, but we can go on without it.
        logging.getLogger(__name__).warning(
            "mmcv's compiled ops cannot be loaded (%s); using torchvision", error
        )
    return None


def _build() -> TorchvisionExtension:
    from model_zoo.mmcv_ops import deform_conv, focal_loss, nms, roi_align

    module = TorchvisionExtension(NAME, "mmcv's compiled ops on torchvision.")
    # mmengine looks for the spec to find out whether the ops exist
    module.__spec__ = ModuleSpec(NAME, loader=None, origin="model_zoo.mmcv_ops")
    backed = {
        "nms": nms.nms,
        "softnms": nms.softnms,
        "roi_align_forward": roi_align.forward,
        "roi_align_backward": roi_align.backward,
        "deform_conv_forward": deform_conv.forward,
        "deform_conv_backward_input": deform_conv.backward_input,
        "deform_conv_backward_parameters": deform_conv.backward_parameters,
        "modulated_deform_conv_forward": deform_conv.modulated_forward,
        "modulated_deform_conv_backward": deform_conv.modulated_backward,
        "sigmoid_focal_loss_forward": focal_loss.forward,
        "sigmoid_focal_loss_backward": focal_loss.backward,
        "get_compiler_version": _compiler_version,
        "get_compiling_cuda_version": _compiling_cuda_version,
    }
    for name, function in backed.items():
        setattr(module, name, function)
    return module


def _missing(name: str) -> Any:
    def call(*_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(
            f"mmcv op {name!r} needs mmcv's compiled extension: torchvision has nothing like it. "
            "Choose a model that does not use it, or install an onedl-mmcv built with its ops."
        )

    call.__name__ = call.__qualname__ = name
    return call


def _compiler_version() -> str:
    return "none (ops on torchvision)"


def _compiling_cuda_version() -> str:
    import torch

    return torch.version.cuda or "not available"
