"""When a newcomer may take the champion's place."""

from __future__ import annotations

import pytest

from composition.evaluation import Change, Difference
from composition.promotion import class_level, decide, draws_needed


def difference(
    overall: tuple[float, float, float] | None, **classes: tuple[float, float, float]
) -> Difference:
    def change(values: tuple[float, float, float]) -> Change:
        return Change(*values, p=0.5)

    return Difference(
        change(overall) if overall else None,
        None,
        {name: change(values) for name, values in classes.items()},
        0.95,
        1000,
        0,
    )


@pytest.mark.parametrize(
    ("overall", "classes", "missing", "allowed", "reason"),
    [
        ((1.0, 0.2, 2.0), {"cat": (1.0, -1.0, 3.0)}, (), True, ""),
        ((0.0, -1.9, 1.9), {"cat": (0.0, -9.0, 9.0)}, (), True, ""),
        # the images are too few to tell
        ((0.0, -2.1, 2.1), {}, (), False, "over all classes it may be worse by more than 2 points (+0.0 AP"),
        ((-5.0, -7.0, -3.0), {}, (), False, "over all classes it is worse by more than 2 points"),
        ((3.0, 1.0, 5.0), {"cat": (-4.0, -6.0, -0.1)}, (), False, "clearly worse in cat (-4.0 AP)"),
        ((3.0, 1.0, 5.0), {"cat": (-4.0, -8.0, 0.1)}, (), True, ""),
        ((3.0, 1.0, 5.0), {}, ("dog",), False, "it does not know dog"),
        (None, {}, (), False, "no object of a class that both know"),
    ],
)
def test_decisions(overall, classes, missing, allowed, reason) -> None:
    found = decide(difference(overall), difference(overall, **classes), missing)
    assert found.allowed is allowed
    assert found.allowed == (not found.reasons)
    assert reason in "; ".join(found.reasons)


def test_the_margin_can_be_chosen_and_classes_are_named() -> None:
    both = difference((0.0, -2.1, 2.0), cat=(1.0, 0.1, 2.0), dog=(-1.0, -2.0, -0.5))
    found = decide(both, both, margin=3.0)
    assert (found.better, found.worse) == (("cat",), ("dog",))
    assert len(found.reasons) == 1
    many = [f"c{number}" for number in range(9)]
    assert "c4 and 4 more" in decide(both, both, many).reasons[0]


def test_many_classes_need_a_wider_interval_and_more_draws() -> None:
    assert class_level(1) == pytest.approx(0.95)
    assert class_level(80) == pytest.approx(1 - 0.05 / 80)
    assert draws_needed(10) == 1000
    # a tail of (1 - level) / 2 holds a draw
    assert draws_needed(80) * (1 - class_level(80)) / 2 >= 1 - 1e-9
