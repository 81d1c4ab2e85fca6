"""Input specs and class counts read from mmdet configs."""

from __future__ import annotations

import pytest

from composition.errors import UserError
from model_zoo.adapters.mmdet_config import class_counts, input_spec_from_config

LETTERBOX_640 = [
    {"type": "LoadImageFromFile"},
    {"type": "Resize", "scale": [640, 640], "keep_ratio": True},
    {"type": "Pad", "size": [640, 640], "pad_val": {"img": [114, 114, 114]}},
]


@pytest.mark.parametrize(
    ("pipeline", "width", "height", "resize", "pad_value"),
    [
        (LETTERBOX_640, 640, 640, "letterbox", 114),
        ([{"type": "mmdet.Resize", "scale": [512, 416], "keep_ratio": False}], 512, 416, "stretch", 114),
        ([{"type": "Resize", "scale": [512, 416]}], 512, 416, "stretch", 114),
        (
            [{"type": "Resize", "scale": 320, "keep_ratio": True}, {"type": "Pad", "pad_to_square": True}],
            320,
            320,
            "letterbox",
            0,
        ),
        # no Pad of its own: mmdet pads with the mean colour up to a multiple of 32
        ([{"type": "Resize", "scale": [1333, 800], "keep_ratio": True}], 1344, 800, "letterbox", 114),
    ],
)
@pytest.mark.parametrize("place", ["test_pipeline", "test_dataloader", "val_dataloader"])
def test_input_spec(small_detector, place, pipeline, width, height, resize, pad_value):
    model = small_detector("fcos")
    found = pipeline if place == "test_pipeline" else {"dataset": {"pipeline": pipeline}}
    spec = input_spec_from_config({"model": model, place: found})
    assert (spec.width, spec.height, spec.resize, spec.pad_value) == (width, height, resize, pad_value)
    assert spec.color == "rgb"
    assert spec.std == (58.395, 57.12, 57.375)


@pytest.mark.parametrize(
    "pipeline",
    [
        None,
        [],
        [{"type": "Resize", "scale_factor": 0.5}],
        [{"type": "Resize", "scale": [0, 10]}],
        [
            {"type": "Resize", "scale": [64, 64], "keep_ratio": True},
            {"type": "Pad", "pad_val": {"img": "white"}},
        ],
        [{"type": "Resize", "scale": [640000, 640], "keep_ratio": True}],
    ],
)
def test_no_size_asks_for_one(small_detector, pipeline):
    with pytest.raises(UserError, match="Give the input size"):
        input_spec_from_config({"model": small_detector("fcos"), "test_pipeline": pipeline})


@pytest.mark.parametrize(
    ("model", "counts"),
    [
        ({"bbox_head": {"num_classes": 80}}, {"model.bbox_head.num_classes": 80}),
        (
            {"rpn_head": {"num_classes": 1}, "roi_head": {"bbox_head": {"num_classes": 20}}},
            {"model.roi_head.bbox_head.num_classes": 20},
        ),
        (
            {"roi_head": {"bbox_head": [{"num_classes": 5}, {"num_classes": 5}]}},
            {"model.roi_head.bbox_head.num_classes": 5},
        ),
        ({"detector": {"bbox_head": {"num_classes": 3}}}, {"model.bbox_head.num_classes": 3}),
        ({"bbox_head": {}}, {}),
    ],
)
def test_class_counts(model, counts):
    assert class_counts(model) == counts
