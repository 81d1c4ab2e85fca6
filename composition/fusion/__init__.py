"""Fusing the mapped detections of several teachers into one table."""

from composition.fusion.base import Fused, Fuser, fuser, sorted_together
from composition.fusion.expert import Expert
from composition.fusion.nms import Nms
from composition.fusion.soft_nms import SoftNms
from composition.fusion.wbf import Wbf

__all__ = ["Expert", "Fused", "Fuser", "Nms", "SoftNms", "Wbf", "fuser", "sorted_together"]
