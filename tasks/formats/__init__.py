"""Labelled image sets in the forms that other tools read and write.

Own code rather than `supervision.DetectionDataset`, which reads and writes the
same layouts: that class keeps neither scores nor ignore regions, opens every
image, and holds the whole set in memory. The tests read our files with it.
"""

from tasks.formats.export import EXPORTERS, ExportCounts, ImageMode, export
from tasks.formats.labelled import LabelledImage, LabelledSet

__all__ = ["EXPORTERS", "ExportCounts", "ImageMode", "LabelledImage", "LabelledSet", "export"]
