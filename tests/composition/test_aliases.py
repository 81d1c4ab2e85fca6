"""The alias table against the real class lists."""

from __future__ import annotations

import ast
import importlib.util
from collections import Counter
from pathlib import Path

import pytest

from composition.aliases import candidates, find, groups, meanings, normalise, shared_classes
from composition.errors import UserError

COCO = """
person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant stop_sign
parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella handbag
tie suitcase frisbee skis snowboard sports_ball kite baseball_bat baseball_glove skateboard surfboard
tennis_racket bottle wine_glass cup fork knife spoon bowl banana apple sandwich orange broccoli carrot
hot_dog pizza donut cake chair couch potted_plant bed dining_table toilet tv laptop mouse remote keyboard
cell_phone microwave oven toaster sink refrigerator book clock vase scissors teddy_bear hair_drier
toothbrush
"""
VOC = """
aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person
pottedplant sheep sofa train tvmonitor
"""
COCO_NAMES = [name.replace("_", " ") for name in COCO.split()]
VOC_NAMES = VOC.split()


def _published_lists() -> dict[str, list[str]]:
    """Class lists as mmdet publishes them, read from its source (importing it is slow)."""
    spec = importlib.util.find_spec("mmdet")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    lists = {}
    for node in ast.parse((root / "evaluation/functional/class_names.py").read_text()).body:
        wanted = ("voc_", "coco_classes", "oid_v6", "objects365v")
        if isinstance(node, ast.FunctionDef) and node.name.startswith(wanted):
            returned = next(part for part in ast.walk(node) if isinstance(part, ast.Return))
            assert returned.value is not None
            lists[node.name] = list(ast.literal_eval(returned.value))
    for node in ast.parse((root / "datasets/lvis.py").read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == "LVISV1Dataset":
            meta = next(part for part in node.body if isinstance(part, ast.Assign))
            lists["lvis_v1"] = list(ast.literal_eval(meta.value)["classes"])
    return lists


PUBLISHED = _published_lists()


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("Potted_Plant", "pottedplant", True),
        ("hot-air_balloon", "Hotair Balloon", True),
        (" TV ", "tv", True),
        ("class_1", "class 1", True),
        ("class_1_2", "class_12", False),
        ("0", "00", False),
        ("tv", "tie", False),
    ],
)
def test_normalise(one: str, other: str, equal: bool) -> None:
    assert (normalise(one) == normalise(other)) is equal


def test_no_spelling_stands_in_two_groups() -> None:
    where = Counter(key for group in groups() for key in {normalise(name) for name in group})
    assert [key for key, count in where.items() if count > 1] == []


def test_the_published_lists_are_all_there() -> None:
    assert {name: len(names) for name, names in PUBLISHED.items()} == {
        "voc_classes": 20,
        "coco_classes": 80,
        "oid_v6_classes": 601,
        "objects365v1_classes": 365,
        "objects365v2_classes": 365,
        "lvis_v1": 1203,
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_group_merges_two_classes_of_one_vocabulary(name: str) -> None:
    merged: dict[str, list[str]] = {}
    for spelling, meaning in zip(PUBLISHED[name], meanings(PUBLISHED[name]), strict=True):
        merged.setdefault(normalise(meaning), []).append(spelling)
    assert [names for names in merged.values() if len(names) > 1] == []


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_lists_share_classes_with_coco(name: str) -> None:
    shared = shared_classes(PUBLISHED[name], COCO_NAMES)
    missing = {target for index, target in enumerate(COCO_NAMES) if index not in shared.values()}
    absent = {
        "voc_classes": 60,
        "coco_classes": 0,
        # sports ball, cup: only wider or narrower classes there
        "oid_v6_classes": 2,
        # bird ("wild bird"), sports ball
        "objects365v1_classes": 2,
        # bird, sports ball, suitcase ("luggage"), orange ("orange/tangerine"), teddy bear ("stuffed toy")
        "objects365v2_classes": 5,
        # hot dog, potted plant, sports ball
        "lvis_v1": 3,
    }
    assert len(missing) == absent[name], missing


# COCO's class: how VOC, Open Images V6/V7, Objects365 v2 and LVIS v1 spell it; None = no such class.
# COCO classes that are not listed are spelled alike (up to case and separators) wherever they exist.
SPELLINGS = {
    "airplane": ("aeroplane", "Airplane", "Airplane", "airplane"),
    "bird": ("bird", "Bird", None, "bird"),
    "bowl": (None, "Bowl", "Bowl/Basin", "bowl"),
    "bus": ("bus", "Bus", "Bus", "bus_(vehicle)"),
    "car": ("car", "Car", "Car", "car_(automobile)"),
    "cell phone": (None, "Mobile phone", "Cell Phone", "cellular_telephone"),
    "couch": ("sofa", "Couch", "Couch", "sofa"),
    "cow": ("cow", "Cattle", "Cow", "cow"),
    "cup": (None, None, "Cup", "cup"),
    "dining table": ("diningtable", "Kitchen & dining room table", "Dinning Table", "dining_table"),
    "donut": (None, "Doughnut", "Donut", "doughnut"),
    "fire hydrant": (None, "Fire hydrant", "Fire Hydrant", "fireplug"),
    "frisbee": (None, "Flying disc", "Frisbee", "frisbee"),
    "hair drier": (None, "Hair dryer", "Hair Dryer", "hair_dryer"),
    "handbag": (None, "Handbag", "Handbag/Satchel", "handbag"),
    "hot dog": (None, "Hot dog", "Hot dog", None),
    "keyboard": (None, "Computer keyboard", "Keyboard", "computer_keyboard"),
    "laptop": (None, "Laptop", "Laptop", "laptop_computer"),
    "microwave": (None, "Microwave oven", "Microwave", "microwave_oven"),
    "motorcycle": ("motorbike", "Motorcycle", "Motorcycle", "motorcycle"),
    "mouse": (None, "Computer mouse", "Mouse", "mouse_(computer_equipment)"),
    "orange": (None, "Orange", None, "orange_(fruit)"),
    "potted plant": ("pottedplant", "Houseplant", "Potted Plant", None),
    "remote": (None, "Remote control", "Remote", "remote_control"),
    "skis": (None, "Ski", "Skiboard", "ski"),
    "sports ball": (None, None, None, None),
    "suitcase": (None, "Suitcase", None, "suitcase"),
    "teddy bear": (None, "Teddy bear", None, "teddy_bear"),
    "tie": (None, "Tie", "Tie", "necktie"),
    "train": ("train", "Train", "Train", "train_(railroad_vehicle)"),
    "tv": ("tvmonitor", "Television", "Moniter/TV", "television_set"),
    "wine glass": (None, "Wine glass", "Wine Glass", "wineglass"),
}


@pytest.mark.parametrize(
    ("column", "vocabulary"),
    list(enumerate(["voc_classes", "oid_v6_classes", "objects365v2_classes", "lvis_v1"])),
)
def test_how_other_lists_spell_the_classes_of_coco(column: int, vocabulary: str) -> None:
    names = PUBLISHED[vocabulary]
    shared = shared_classes(names, COCO_NAMES)
    found = {COCO_NAMES[target]: names[index] for index, target in shared.items()}
    for name in COCO_NAMES:
        if name in SPELLINGS:
            assert found.get(name) == SPELLINGS[name][column], name
        elif vocabulary != "voc_classes" or name in VOC_NAMES:
            assert normalise(found[name]) == normalise(name)


def test_every_voc_class_is_a_coco_class() -> None:
    shared = shared_classes(VOC_NAMES, COCO_NAMES)
    assert {VOC_NAMES[index]: COCO_NAMES[target] for index, target in shared.items()} == {
        **{name: name for name in VOC_NAMES if name in COCO_NAMES},
        "aeroplane": "airplane",
        "diningtable": "dining table",
        "motorbike": "motorcycle",
        "pottedplant": "potted plant",
        "sofa": "couch",
        "tvmonitor": "tv",
    }


def test_real_lists_of_the_teachers(data_dir: Path) -> None:
    coco, voc = (
        (data_dir / "teachers" / f"{name}.names").read_text().splitlines() for name in ("coco", "voc")
    )
    assert len(shared_classes(coco, COCO_NAMES)) == 80
    assert len(shared_classes(voc, coco)) == 20


def test_open_images_mouse_is_the_animal() -> None:
    shared = shared_classes(["Mouse", "Computer mouse"], COCO_NAMES)
    assert shared == {1: COCO_NAMES.index("mouse")}
    assert shared_classes(["Mouse"], COCO_NAMES) == {0: COCO_NAMES.index("mouse")}


@pytest.mark.parametrize(
    ("vocabulary", "names", "expected"),
    [
        (["TV"], ["tv", "television"], [(0,)]),
        (["television"], ["tv", "television"], [(1,)]),
        (["tvmonitor"], ["tv", "television"], [(0, 1)]),
        (["banner"], ["tv"], [()]),
        ([], ["tv"], []),
    ],
)
def test_find_prefers_the_closest_spelling(
    vocabulary: list[str], names: list[str], expected: list[tuple[int, ...]]
) -> None:
    assert find(vocabulary, names) == expected


def test_an_equal_name_takes_the_class_before_a_synonym() -> None:
    assert shared_classes(["television", "tv"], ["tv"]) == {1: 0}


@pytest.mark.parametrize(
    ("vocabulary", "names"),
    [(["tvmonitor"], ["tv", "television"]), (["television", "tvmonitor"], ["tv"])],
)
def test_shared_classes_refuses_to_guess(vocabulary: list[str], names: list[str]) -> None:
    with pytest.raises(UserError, match="fit"):
        shared_classes(vocabulary, names)


@pytest.mark.parametrize(
    ("name", "first"),
    [("bicylce", "bicycle"), ("television", "tv"), ("wild bird", "bird"), ("motorbik", "motorcycle")],
)
def test_candidates(name: str, first: str) -> None:
    assert candidates(name, COCO_NAMES)[0] == first


def test_no_candidates_for_something_else() -> None:
    assert candidates("xylophone quartet", ["cat"]) == []
