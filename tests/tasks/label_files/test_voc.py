"""Pascal VOC folders, well-made and hostile."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from composition.errors import UserError
from tasks.evaluate import load_dataset
from tasks.image_index import list_images

BOX = (
    "<object><name>car</name>{}<bndbox><xmin>{}</xmin><ymin>1</ymin><xmax>{}</xmax><ymax>8</ymax></bndbox>"
    "</object>"
)


def document(*objects: str, width: int = 20, height: int = 10) -> str:
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>../../etc/passwd</filename>{size}{''.join(objects)}</annotation>"


def box(left: object = 1, right: object = 20, more: str = "") -> str:
    return BOX.format(more, left, right)


def voc(folder: Path, **documents: str) -> Path:
    for name in ("Annotations", "JPEGImages", "SegmentationClass"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, content in documents.items():
        (folder / "Annotations" / f"{name}.xml").write_text(content)
        Image.new("RGB", (20, 10)).save(folder / "JPEGImages" / f"{name}.jpg")
    return folder


def lists(folder: Path, **names: str) -> None:
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    for name, content in names.items():
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text(content)


def test_pixels_count_from_1_and_difficult_is_ignored(tmp_path: Path) -> None:
    folder = voc(tmp_path, a=document(box(), box(0, 21, "<difficult>1</difficult>")), b=document())
    coco = load_dataset(folder).coco
    assert [row["file_name"] for row in coco["images"]] == ["a.jpg", "b.jpg"]
    assert [(row["bbox"], row["iscrowd"]) for row in coco["annotations"]] == [
        ([0, 0, 20, 8], 0),
        ([0, 0, 20, 8], 1),
    ]
    assert coco["categories"] == [{"id": 1, "name": "car"}]


def test_parts_are_the_lists_of_image_sets(tmp_path: Path) -> None:
    folder = voc(tmp_path, a=document(box()), b=document(box()), c=document(box()))
    Image.new("P", (20, 10)).save(folder / "SegmentationClass" / "a.png")
    lists(folder, train="a\nb\n", val="c\n", car_val="a 1\nb -1\nc  0\n")
    names = {
        part: [row["file_name"] for row in load_dataset(Path(f"{folder}#{part}")).coco["images"]]
        for part in ("train", "val", "train,val", "car_val")
    }
    assert names == {
        "train": ["a.jpg", "b.jpg"],
        "val": ["c.jpg"],
        "train,val": ["a.jpg", "b.jpg", "c.jpg"],
        "car_val": ["a.jpg", "c.jpg"],
    }
    with pytest.raises(UserError, match="several parts: car_val, train, val"):
        load_dataset(folder)
    assert list_images(folder).paths == ("a.jpg", "b.jpg", "c.jpg"), "masks are no images"
    assert list_images(Path(f"{folder}#val")).paths == ("c.jpg",)


ENTITIES = """<!DOCTYPE annotation [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>"""
OUTSIDE = """<!DOCTYPE annotation [<!ENTITY a SYSTEM "file:///etc/passwd">]>"""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ENTITIES + document(box()), r"a\.xml declares a document type or entities"),
        (OUTSIDE + document(box()), "declares a document type"),
        ("<annotation>", "not readable XML"),
        ("<html/>", "begins with <html>"),
        (document(box(right="wide")), r"object 1: xmax is 'wide', not a number"),
        (document(box(right="inf")), "not a number"),
        (document(box(left=18, right=3)), "negative size"),
        (document("<object><name>car</name></object>"), "object 1 has no bndbox"),
        (document("<object><bndbox/></object>"), "object 1 has no name"),
        (document(box(), width=200), r"is about an image of 200 x 10 pixels, but a\.jpg has 20 x 10"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_dataset(voc(tmp_path, a=content))


def test_a_class_that_the_list_does_not_have_and_names_that_lead_outside(tmp_path: Path) -> None:
    folder = voc(tmp_path, a=document(box()))
    (folder / "labels.txt").write_text("bus\n")
    with pytest.raises(UserError, match=r"'car' is not in labels\.txt"):
        load_dataset(folder)
    lists(folder, train="../../etc/passwd\n")
    with pytest.raises(UserError, match="lies outside of the set"):
        load_dataset(folder)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("gone\n")
    with pytest.raises(UserError, match=r"no image .*gone"):
        load_dataset(folder)
