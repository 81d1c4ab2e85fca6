"""Marks that are not plain boxes."""

from __future__ import annotations

import numpy as np

from composition import detections as table
from tasks.drawing import draw_dashed, draw_frames

BOX = table.make([0], [[100, 60, 300, 180]], [1.0], [0])


def test_dashes_and_hatches_stay_in_their_box_and_leave_most_of_it_to_be_seen() -> None:
    image = np.full((240, 400, 3), 128, np.uint8)
    plain = draw_dashed(image, BOX, "#ffffff", hatched=False)
    hatched = draw_dashed(image, BOX, "#ffffff", hatched=True)
    frame = draw_frames(image, BOX, "#ff0000")
    assert (image == 128).all(), "the picture itself is not drawn on"
    changed = [(picture != image).any(axis=2) for picture in (plain, hatched, frame)]
    for one in changed:
        assert not one[:55].any()
        assert not one[190:].any()
        assert not one[:, :95].any()
        assert not one[:, 305:].any()
    inside = [one[70:170, 110:290].mean() for one in changed]
    assert inside[0] == 0
    assert 0.1 < inside[1] < 0.4, "stripes"
    edge = changed[0][60, 100:300].mean(), changed[2][60, 100:300].mean()
    assert 0.4 < edge[0] < 0.9, "dashes"
    assert edge[1] == 1
    assert (frame[60, 150] == (255, 0, 0)).all()
    for hatch in (False, True):
        np.testing.assert_array_equal(draw_dashed(image, table.empty(), "#ffffff", hatched=hatch), image)
