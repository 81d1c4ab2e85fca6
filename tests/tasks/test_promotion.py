"""The gate, on a real registry and with detectors whose figures are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from composition.errors import UserError
from flows.promote import promote
from tasks import tracking
from tasks.home import Home
from tasks.promotion import PromotionRefusedError
from tasks.references import STUDENTS
from tests.tasks.registered import detector, register_as_student

CAT = (32, 32, 20, 20, 0, 0.8)
DOG = (12, 12, 10, 10, 1, 0.8)
NO_CAT = (50, 10, 6, 6, 0, 0.8)
NO_DOG = (50, 10, 6, 6, 1, 0.8)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DETCOMPOSE_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Sixteen white images, each with the cat and the dog that a good detector answers."""
    folder = tmp_path / "labelled"
    folder.mkdir()
    for number in range(16):
        Image.new("RGB", (64, 64), (255, 255, 255 - number)).save(folder / f"{number}.png")
    rows = [
        {
            "id": 2 * n + c + 1,
            "image_id": n + 1,
            "category_id": c + 1,
            "bbox": box,
            "area": area,
            "iscrowd": 0,
        }
        for n in range(16)
        for c, (box, area) in enumerate((([22, 22, 20, 20], 400), ([7, 7, 10, 10], 100)))
    ]
    document = {
        "images": [{"id": n + 1, "file_name": f"{n}.png", "width": 64, "height": 64} for n in range(16)],
        "annotations": rows,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    path = folder / "labels.json"
    path.write_text(json.dumps(document))
    return path


def aliases(home: Home, name: str) -> dict[str, str]:
    found = tracking.client(home).get_registered_model(f"{STUDENTS}.{name}").aliases
    return {alias: str(version) for alias, version in found.items()}


def test_the_first_is_champion_the_better_takes_over_and_the_worse_is_refused(
    home: Home, tmp_path: Path, images: Path
) -> None:
    half = register_as_student(home, detector(tmp_path, "half", [CAT, NO_DOG]), "pets")
    assert (half.alias, half.new) == ("champion", True)
    with pytest.raises(UserError, match="no students/pets@challenger"):
        promote.fn("students/pets", images)

    good = register_as_student(home, detector(tmp_path, "good", [CAT, DOG]), "pets")
    assert good.alias == "challenger"
    done = promote.fn("students/pets", images)
    assert done["promoted"]
    assert done["better"] == ["dog"]
    assert done["per_class"]["cat"]["verdict"] == "no clear difference"
    assert aliases(home, "pets") == {"champion": "2", "previous": "1"}
    tags = tracking.client(home).get_model_version("students.pets", "2").tags
    record = json.loads(tags["promotion"])
    assert (record["outcome"], record["champion"], record["images"]) == (
        "promoted",
        "models:/students.pets/1",
        16,
    )
    assert "promotion.forced" not in tags
    with pytest.raises(UserError, match="is the champion already"):
        promote.fn("students/pets@2", images)

    # better at nothing, and blind to cats
    register_as_student(home, detector(tmp_path, "blind", [NO_CAT, DOG]), "pets")
    with pytest.raises(PromotionRefusedError, match=r"clearly worse in cat \(-100.0 AP\)") as refusal:
        promote.fn("students/pets", images)
    assert "models:/students.pets/2 stays champion" in str(refusal.value)
    assert aliases(home, "pets") == {"champion": "2", "previous": "1", "challenger": "3"}
    tags = tracking.client(home).get_model_version("students.pets", "3").tags
    assert json.loads(tags["promotion"])["outcome"] == "refused"

    with pytest.raises(UserError, match="needs a reason"):
        promote.fn("students/pets", images, force=True)
    promote.fn("students/pets", images, force=True, reason="cats are out of fashion")
    assert aliases(home, "pets") == {"champion": "3", "previous": "2"}
    connection = tracking.client(home)
    version = connection.get_model_version("students.pets", "3")
    assert version.tags["promotion.forced"] == "cats are out of fashion"
    files = {item.path for item in connection.list_artifacts(version.run_id, "promotion")}
    assert files == {"promotion/version-3.json"}
    # and back
    promote.fn("students/pets@previous", images)
    assert aliases(home, "pets") == {"champion": "2", "previous": "3"}


def test_a_class_that_gets_lost_is_a_reason(home: Home, tmp_path: Path, images: Path) -> None:
    register_as_student(home, detector(tmp_path, "both", [CAT, DOG]), "lost")
    register_as_student(home, detector(tmp_path, "one", [CAT], classes=("cat",)), "lost")
    with pytest.raises(PromotionRefusedError, match="it does not know dog"):
        promote.fn("students/lost", images)


def test_the_same_composition_is_one_version(home: Home, tmp_path: Path) -> None:
    one = detector(tmp_path, "both", [CAT, DOG])
    first = register_as_student(home, one, "again")
    second = register_as_student(home, one, "again")
    assert (second.new, second.version.version) == (False, first.version.version)
    assert aliases(home, "again") == {"champion": "1"}


def test_images_without_a_common_class_are_told(home: Home, tmp_path: Path, images: Path) -> None:
    register_as_student(home, detector(tmp_path, "a", [CAT]), "cars")
    register_as_student(home, detector(tmp_path, "b", [CAT], classes=("car", "bus")), "cars")
    with pytest.raises(UserError, match="no class in common"):
        promote.fn("students/cars", images)
