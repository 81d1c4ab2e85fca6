"""Which priors lie in an ignore region, and for which classes."""

from __future__ import annotations

import torch

from model_zoo.imperfect_labels.weights import per_class, points_inside, shared_part


def test_points_lie_in_a_region_or_hold_its_centre() -> None:
    points = torch.tensor([[4.0, 4.0], [12.0, 4.0], [20.0, 4.0], [28.0, 4.0]])
    strides = torch.full((4, 2), 8.0)
    regions = torch.tensor([[4.0, 0.0, 20.0, 8.0], [17.0, 1.0, 19.0, 3.0]])
    assert points_inside(regions, points, strides).tolist() == [
        [True, False],
        [True, False],
        [False, True],  # the right border belongs to the next
        [False, False],
    ]
    assert points_inside(torch.empty(0, 4), points, strides).shape == (4, 0)


def test_shared_part_is_of_the_anchor() -> None:
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [8.0, 0.0, 12.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
    regions = torch.tensor([[0.0, 0.0, 10.0, 5.0]])
    torch.testing.assert_close(shared_part(regions, anchors), torch.tensor([[0.5], [0.25], [0.0]]))


def test_hits_of_regions_become_hits_of_classes() -> None:
    hits = torch.tensor([[True, True, False], [False, False, True]])
    assert per_class(hits, torch.tensor([2, 2, 0]), 3).tolist() == [
        [False, False, True],
        [True, False, False],
    ]
    assert (
        per_class(torch.zeros(2, 0, dtype=torch.bool), torch.empty(0, dtype=torch.long), 3).tolist()
        == [[False] * 3] * 2
    )
