"""Labelled image sets that other tools have made, in the COCO form that everything here works on.

YOLO and Pascal VOC are read here, COCO files where they are used.
"""

from tasks.label_files.found import LabelFiles
from tasks.label_files.source import coco_file, find_image_files, find_label_files

__all__ = ["LabelFiles", "coco_file", "find_image_files", "find_label_files"]
