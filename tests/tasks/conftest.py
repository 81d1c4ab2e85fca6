"""One real Prefect server, and small scenes, for the steps that need them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from demo.scenes import make_scenes
from tasks import teachers as registry
from tasks.evaluate import Dataset, load_dataset
from tasks.home import Home
from tasks.image_index import build_index, list_images
from tasks.infer import GenerateSettings, run_teachers
from tasks.store import Artifact, Store
from tasks.teachers import Teacher
from tests.flows.conftest import TEACHERS, home, prefect_server, scenes  # noqa: F401


@dataclass(frozen=True)
class Digits:
    """The demo's two detectors on 16 labelled scenes, taken for a pool.

    Attributes:
        scenes: The scenes.
        store: Keeps what the detectors see, once for all tests.
        teachers: The detectors.
        index: The scenes as a pool.
        shards: What the detectors see on it, in three shards.
    """

    scenes: Dataset
    store: Store
    teachers: tuple[Teacher, ...]
    index: Artifact
    shards: dict[str, list[Artifact]]

    @property
    def pool(self) -> tuple[Store, tuple[Teacher, ...], Artifact, dict[str, list[Artifact]]]:
        """What the steps after inference begin with."""
        return self.store, self.teachers, self.index, self.shards


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    folder = tmp_path_factory.mktemp("digits")
    make_scenes(folder / "scenes", images=16, seed=3, part="evaluation")
    labelled = load_dataset(folder / "scenes" / "scenes.json")
    place = Home(folder / "home")
    teachers = tuple(registry.find(place, str(TEACHERS / name)) for name in ("digits-low", "digits-high"))
    index = build_index(place.store, list_images(labelled.root))
    shards = run_teachers(place.store, teachers, index, GenerateSettings(shard_size=6))
    return Digits(labelled, place.store, teachers, index, shards)
