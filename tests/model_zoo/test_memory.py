"""Running out of memory in real detectors: half of the batch, and on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.modules.module import register_module_forward_pre_hook

from composition.errors import UserError
from model_zoo.adapters.base import InferenceSettings
from model_zoo.adapters.registry import open_detector
from model_zoo.memory import SparingDetector, is_out_of_memory
from model_zoo.student_settings import StudentSettings
from tests.model_zoo.squares import train_squares, write_squares

TEACHER = Path(__file__).resolve().parents[2] / "demo" / "teachers" / "digits-low"


@contextmanager
def small_device(images: int) -> Iterator[list[int]]:
    """A device that holds so many images: networks fail with more. Yields the batches tried."""
    tried: list[int] = []

    def weigh(module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        if type(module).__name__ == "CSPDarknet":
            tried.append(len(arguments[0]))
            if len(arguments[0]) > images:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    handle = register_module_forward_pre_hook(weigh)
    try:
        yield tried
    finally:
        handle.remove()


def _scenes(count: int) -> list[NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    return [random.integers(0, 255, (120 + 8 * n, 160, 3), np.uint8) for n in range(count)]


def test_inference_goes_on_with_half_of_the_batch(caplog: pytest.LogCaptureFixture) -> None:
    images = _scenes(7)
    plain = open_detector(TEACHER, InferenceSettings(score_floor=0.01))
    whole = plain.predict(images)
    sparing = SparingDetector(plain, "digits-low")
    with small_device(2) as tried, caplog.at_level(logging.WARNING, "detcompose"):
        found = sparing.predict(images)
        assert tried == [7, 3, 1, 1, 1, 1, 1, 1, 1]
        sparing.predict(images[:2])
    assert tried[-2:] == [1, 1], "it stays at the size that fits"
    assert len(found) == len(whole) > 0
    np.testing.assert_array_equal(found.image_id, whole.image_id)
    np.testing.assert_allclose(found.score, whole.score, atol=1e-4)
    np.testing.assert_allclose(found.boxes, whole.boxes, atol=0.05)
    assert "digits-low: out of memory with 7 images at once; going on with 3" in caplog.text
    assert sparing.vocabulary == plain.vocabulary


def test_a_single_image_that_does_not_fit_is_an_error_with_a_way_out() -> None:
    sparing = SparingDetector(open_detector(TEACHER), "digits-low")
    with small_device(0), pytest.raises(UserError, match="DETCOMPOSE_DEVICE=cpu"):
        sparing.predict(_scenes(2))


def test_other_errors_are_not_taken_for_it() -> None:
    class Broken:
        vocabulary = ("one",)

        def predict(self, images: Sequence[Any]) -> Any:
            raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape"):
        SparingDetector(Broken(), "broken").predict(_scenes(2))
    assert is_out_of_memory(RuntimeError("[ONNXRuntimeError] Failed to allocate memory for requested buffer"))
    assert is_out_of_memory(MemoryError())


def _train(folder: Path) -> list[float]:
    losses: list[float] = []
    settings = StudentSettings(
        architecture="yolox_pico", image_size=64, epochs=1, batch_size=4, augmentation="none"
    )
    train_squares(folder, settings, on_progress=lambda progress: losses.append(progress.loss))
    return losses


def test_training_goes_on_in_parts_of_the_batch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_squares(tmp_path / "data", count=12)
    whole = _train(tmp_path / "whole")
    with small_device(2) as tried, caplog.at_level(logging.WARNING, "detcompose"):
        parts = _train(tmp_path / "parts")
    # the batch that fails, then two halves for each of three steps
    assert tried[:7] == [4, 2, 2, 2, 2, 2, 2]
    assert "out of memory with a batch of 4 images; going on in 2 parts of each batch" in caplog.text
    assert len(parts) == len(whole) == 3, "as many steps as before"
    # normalised over halves instead of the whole: near, but not the same
    assert parts[0] == pytest.approx(whole[0], rel=0.25)
    assert (tmp_path / "parts" / "bundle").is_dir()
    with small_device(0), pytest.raises(UserError, match="single image does not fit"):
        _train(tmp_path / "none")
