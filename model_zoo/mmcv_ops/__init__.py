"""The compiled ops of mmcv, backed by torchvision where it has them.

mmcv's own extension does not compile against current torch, and without it
``import mmcv.ops``, and so all of mmdet, fails. `ensure_ops` puts a module
with the same calling conventions in its place; a real extension always wins.
"""

from model_zoo.mmcv_ops.install import ensure_ops

__all__ = ["ensure_ops"]
