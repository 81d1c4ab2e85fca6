"""The one door to mmdet: import it, build a model from data.

Everything in the zoo that needs mmdet, mmengine or mmcv comes through here, so
that the ops are in place, the registries are filled and nothing is printed or
written to the working directory.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from model_zoo.mmcv_ops import ensure_ops

# not mmdet.visualization: mmdet.engine brings it along
MODULES = (
    "mmdet.models",
    "mmdet.datasets",
    "mmdet.engine",
    "mmdet.evaluation",
    "model_zoo.efficientnet_lite",
)
# what these imports say, and cannot be asked not to say
KNOWN_WARNINGS = (
    (ImportWarning, ".*MultiScaleDeformableAttention.* has been moved"),
    (UserWarning, "faster_coco_eval is not installed"),
)
# what mmdet's anchor code says and makes torch say when it runs
RUNTIME_WARNINGS = (
    (UserWarning, "torch.meshgrid: in an upcoming release"),
    (UserWarning, "DeprecationWarning: `num_anchors` is deprecated"),
)
KNOWN_OUTPUT = "Could not import OneDL. Skipping OneDL datasets."


@functools.cache
def import_mmdet() -> Literal["extension", "torchvision"]:
    """Makes mmdet importable and registers all of its modules.

    Takes about 5 s the first time in a process, nothing after. The default
    scope is left alone: build through `build_model`, or inside
    ``DefaultScope.overwrite_default_scope("mmdet")``.

    Returns:
        Who answers for mmcv's compiled ops, see `ensure_ops`.
    """
    backend = ensure_ops()
    with warnings.catch_warnings(), _without_known_output():
        for category, message in KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message, category)
        for module in MODULES:
            importlib.import_module(module)
    for category, message in RUNTIME_WARNINGS:
        warnings.filterwarnings("ignore", message, category)
    from mmengine.logging import MMLogger

    # its default would print every weight initialisation
    MMLogger.get_instance("mmengine").setLevel(logging.WARNING)
    return backend


def build_model(config: Mapping[str, Any]) -> Any:
    """Builds an untrained mmdet detector.

    Args:
        config: The ``model`` part of an mmdet config, plain data; not changed.

    Returns:
        The module (mmdet's ``BaseDetector``), weights not initialised.
    """
    import_mmdet()
    from mmdet.registry import MODELS
    from mmengine.config import ConfigDict
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(ConfigDict(copy.deepcopy(dict(config))))


@contextlib.contextmanager
def _without_known_output() -> Iterator[None]:
    captured = io.StringIO()
    try:
        with contextlib.redirect_stdout(captured):
            yield
    finally:
        for line in captured.getvalue().splitlines():
            if line != KNOWN_OUTPUT:
                sys.stdout.write(line + "\n")
