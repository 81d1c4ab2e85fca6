from __future__ import annotations

import pytest

from model_zoo.finetuning import MOST_VIEWS, FinetuneSettings, human_share


def test_few_images_are_not_learned_by_heart() -> None:
    chosen = FinetuneSettings(steps=300, batch_size=8)
    assert human_share(chosen, 3) * 2400 == pytest.approx(3 * MOST_VIEWS)
    assert human_share(chosen, 1000) == 0.5
    assert human_share(FinetuneSettings(human_share=0.2), 3) == 0.2
