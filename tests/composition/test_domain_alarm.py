from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp

from composition import detections as table
from composition import domain_alarm as alarm
from composition.detections import Detections
from composition.errors import UserError


def seen(images: int, level: float, seed: int, first: int = 0) -> Detections:
    """Boxes of a detector that is about so sure, on so many images."""
    generator = np.random.default_rng(seed)
    image = np.repeat(np.arange(first, first + images), generator.poisson(3, images))
    score = generator.beta(10 * level, 10 * (1 - level), len(image))
    return table.make(image, np.tile([0, 0, 9, 9], (len(image), 1)), score, np.zeros(len(image)))


def test_a_profile_by_hand() -> None:
    found = table.make([3, 3, 3, 8], [[0, 0, 1, 1]] * 4, [0.91, 0.5, 0.01, 0.07], [0, 1, 0, 0])
    made = alarm.profile(found, 3)
    assert made.images == 3
    # the image with 0.07 and the one without boxes lie low
    assert np.flatnonzero(made.best_score).tolist() == [0, 3, 45]
    # (0.91 + 0.5) / 2: the 0.01 is below the floor
    assert np.flatnonzero(made.mean_score).tolist() == [0, 3, 35]
    assert made.boxes[:3].tolist() == [2, 0, 1]
    assert made.mean("boxes") == pytest.approx(2 / 3)


def test_shards_add_up_to_the_whole() -> None:
    first, second = seen(20, 0.6, 1), seen(30, 0.4, 2, first=20)
    whole = alarm.profile(table.concatenate([first, second]), 50)
    parts = alarm.profile(first, 20) + alarm.profile(second, 30) + alarm.empty_profile()
    assert parts.to_dict() == whole.to_dict()


def test_more_images_than_were_shown_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="2 images, but only 1"):
        alarm.profile(table.make([1, 2], [[0, 0, 1, 1]] * 2, [0.5, 0.5], [0, 0]), 1)


def test_a_profile_survives_json() -> None:
    made = alarm.profile(seen(40, 0.5, 1), 40)
    assert alarm.from_dict(made.to_dict(), "x").to_dict() == made.to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "not a score profile of version 1"),
        ({"boxes": [1]}, "'boxes' is not a list of 101 counts"),
        ({"mean_score": [0.5] * 50}, "'mean_score' is not a list"),
        ({"best_score": [-1] * 50}, "'best_score' is not a list"),
        ({"best_score": [1] * 50}, "not of the same images"),
    ],
)
def test_a_broken_profile_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        alarm.from_dict({**alarm.profile(seen(40, 0.5, 1), 40).to_dict(), **change}, "bundle x")


def test_the_distance_is_the_one_of_scipy() -> None:
    one, two = np.array([5, 0, 9, 1]), np.array([1, 3, 2, 8])
    values = [np.repeat(np.arange(4), counts) for counts in (one, two)]
    assert float(alarm._distance(one, two)) == pytest.approx(ks_2samp(*values).statistic)


def test_unlike_images_alarm_and_like_ones_do_not() -> None:
    reference = alarm.profile(seen(150, 0.7, 1), 150)
    alike = alarm.check_domain(reference, alarm.profile(seen(400, 0.7, 2), 400))
    assert alike.verdict == "alike"
    unsure = alarm.check_domain(reference, alarm.profile(seen(400, 0.3, 2), 400))
    assert unsure.verdict == "alarm"
    assert unsure.p_value < 0.001
    assert unsure.features[unsure.worst].pool < unsure.features[unsure.worst].reference
    assert unsure.to_dict() == alarm.check_domain(reference, alarm.profile(seen(400, 0.3, 2), 400)).to_dict()


def test_many_images_alone_raise_no_alarm() -> None:
    one, two = alarm.profile(seen(30000, 0.5, 1), 30000), alarm.profile(seen(30000, 0.53, 2), 30000)
    check = alarm.check_domain(one, two)
    assert check.p_value < 0.001
    assert check.verdict == "alike"


def test_chance_is_held_to_its_level() -> None:
    settings = alarm.AlarmSettings(p_value=0.05, distance=0.0)
    alarms = 0
    for seed in range(40):
        one, two = alarm.profile(seen(60, 0.6, 2 * seed), 60), alarm.profile(seen(90, 0.6, 2 * seed + 1), 90)
        alarms += alarm.check_domain(one, two, settings).verdict == "alarm"
    assert alarms <= 6


@pytest.mark.parametrize(("reference", "pool"), [(19, 100), (100, 19), (0, 0)])
def test_of_few_images_nothing_is_said(reference: int, pool: int) -> None:
    check = alarm.check_domain(
        alarm.profile(seen(reference, 0.7, 1), reference), alarm.profile(seen(pool, 0.1, 2), pool)
    )
    assert (check.verdict, check.features) == ("too few images", {})
