"""What is exported comes back as it was, as far as the format can hold it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks.evaluate import load_dataset
from tasks.formats import LabelledImage, LabelledSet, export
from tasks.formats.labelled import labelled_image
from tasks.image_index import list_images

CLASSES = ("red fox", "0", "straße & <co>")
SIZES = {"a.png": (61, 40), "sub/b c.jpg": (33, 64), "sub/deep/ü.png": (8, 8)}
TOLERANCE = {"coco": 2e-4, "yolo": 1e-5, "yolo-scores": 1e-5, "voc": 0.011}


@st.composite
def _image(draw: st.DrawFn, name: str) -> LabelledImage:
    width, height = SIZES[name]
    count = draw(st.integers(0, 4))
    fractions = st.floats(0, 1, allow_nan=False)
    corners = draw(st.lists(st.tuples(*[fractions] * 4), min_size=count, max_size=count))
    boxes = np.array(corners, np.float64).reshape(-1, 2, 2) * (width, height)
    boxes = np.sort(boxes, axis=1).reshape(-1, 4)
    return labelled_image(
        name,
        width,
        height,
        boxes,
        draw(st.lists(st.integers(0, len(CLASSES) - 1), min_size=count, max_size=count)),
        draw(st.lists(fractions, min_size=count, max_size=count)),
        draw(st.lists(st.booleans(), min_size=count, max_size=count)),
    )


SETS = st.tuples(*(_image(name) for name in sorted(SIZES)))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    for name, size in SIZES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(path)
    return folder


@pytest.mark.parametrize("form", TOLERANCE)
@given(images=SETS)
@settings(max_examples=10, deadline=None)
def test_boxes_classes_scores_and_ignore_regions_come_back(
    form: str, pool: Path, images: tuple[LabelledImage, ...]
) -> None:
    with TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        export(LabelledSet("pool", CLASSES, pool, lambda: iter(images)), form, out)
        data = load_dataset(out)
        assert list_images(out).paths, "it is a source of images, too"
    assert [category["name"] for category in data.coco["categories"]] == list(CLASSES)
    assert [(row["width"], row["height"]) for row in data.coco["images"]] == [
        SIZES[image.name] for image in images
    ]
    names = {row["id"]: row["file_name"] for row in data.coco["images"]}
    rows = iter(data.coco["annotations"])
    for image in images:
        for position in range(len(image)):
            if image.ignore[position] and form.startswith("yolo"):
                continue
            row = next(rows)
            x, y, width, height = row["bbox"]
            found = (x, y, x + width, y + height)
            np.testing.assert_allclose(found, image.boxes[position], atol=TOLERANCE[form])
            assert names[row["image_id"]] == image.name
            assert row["category_id"] == image.class_id[position] + 1
            if not form.startswith("yolo"):
                assert row["iscrowd"] == image.ignore[position]
            if form in ("coco", "yolo-scores"):
                assert row["score"] == pytest.approx(image.score[position], abs=1e-6)
    assert next(rows, None) is None
