"""The formats of labelled sets by name, apart from what writes them: ``--help`` and forms need no more."""

from __future__ import annotations

from enum import StrEnum


class Form(StrEnum):
    """What a labelled set is exported as, see `tasks.formats`."""

    COCO = "coco"
    YOLO = "yolo"
    YOLO_SCORES = "yolo-scores"
    VOC = "voc"
    PARQUET = "parquet"
    CVAT = "cvat"
    LABEL_STUDIO = "label-studio"
