"""From a service that fails for one image to labels that do not call it empty."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from composition.errors import UserError
from model_zoo.adapters import http
from tasks import unanswered
from tasks.home import Home
from tasks.image_index import build_index, list_images, load_index
from tasks.infer import GenerateSettings, load_all, missing_shards, run_inference
from tasks.store import Artifact, Store
from tasks.teachers import Teacher, add
from tests.model_zoo.detection_server import Site, detection_server

SETTINGS = GenerateSettings(shard_size=4, max_unanswered=0.3)
IMAGES = 6


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(http, "_FIRST_WAIT_SECONDS", 0.01)
    with detection_server() as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def index(store: Store, tmp_path: Path) -> Artifact:
    (tmp_path / "images").mkdir()
    for number in range(IMAGES):
        # the third has a size of its own
        size = (20, 20) if number == 2 else (32, 24)
        pixels = np.full((*size, 3), 60 + 30 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    return build_index(store, list_images(tmp_path / "images"))


@pytest.fixture
def teacher(site: Site, tmp_path: Path) -> Teacher:
    description = {"service": "http", "url": site.url, "retries": 1, "batch_size": 2, "give_up_after": 3}
    (tmp_path / "api.json").write_text(json.dumps(description))
    (tmp_path / "api.names").write_text("ant\nbee\n")
    return add(Home(tmp_path / "home"), tmp_path / "api.json", "api", classes=tmp_path / "api.names")


def test_only_what_is_missing_is_asked_again(
    site: Site, store: Store, index: Artifact, teacher: Teacher
) -> None:
    site.poison = (20, 20)
    silent = load_index(index)[2].image_id
    with pytest.raises(UserError, match=r"teacher api did not answer for 1 of 6 images: HTTP 422"):
        run_inference(store, teacher, index, SETTINGS)
    assert missing_shards(store, teacher, index, SETTINGS) == 1

    before = site.count
    shards = run_inference(store, teacher, index, SETTINGS, incomplete=True)
    assert site.count - before == 2, "at once and, as its shard is incomplete, at the end"
    assert unanswered.images_of({"api": shards}) == {"api": [silent]}
    assert unanswered.load(shards[0]) == {silent: "HTTP 422 Unprocessable Entity"}
    found = load_all(shards)
    assert len(found) == IMAGES - 1
    assert silent not in found.image_id

    site.poison = None
    before = site.count
    whole = run_inference(store, teacher, index, SETTINGS)
    assert site.count - before == 1
    assert whole[0].digest != shards[0].digest, "what is made of it is made anew"
    assert whole[1].digest == shards[1].digest
    assert unanswered.images_of({"api": whole}) == {}
    assert load_all(whole).image_id.tolist() == sorted(record.image_id for record in load_index(index))
    before = site.count
    assert run_inference(store, teacher, index, SETTINGS) == whole
    assert site.count == before
    assert missing_shards(store, teacher, index, SETTINGS) == 0


def test_a_service_that_dies_stops_the_run_and_keeps_its_answers(
    site: Site, store: Store, index: Artifact, teacher: Teacher
) -> None:
    site.down = True
    with pytest.raises(UserError, match=r"did not answer for 4 of 4 images: .*HTTP 503") as error:
        run_inference(store, teacher, index, SETTINGS, incomplete=True)
    assert "its answers are kept" in error.value.way_out
    assert site.count < 10
    site.down = False
    assert len(load_all(run_inference(store, teacher, index, SETTINGS))) == IMAGES


def test_too_many_images_without_an_answer(
    site: Site, store: Store, index: Artifact, teacher: Teacher
) -> None:
    site.poison = (32, 24)
    with pytest.raises(UserError, match=r"for 5 of 6 images|for 2 of 2 images"):
        run_inference(store, teacher, index, SETTINGS, incomplete=True)
