"""What all adapters on torch share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from numpy.typing import NDArray

from composition.errors import UserError
from model_zoo.adapters.base import InferenceSettings


def device_of(name: str) -> torch.device:
    """A device that can be used.

    Raises:
        UserError: It cannot.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).splitlines()[0]
        raise UserError(f"device {name!r} cannot be used: {first_line}", "Use 'cpu', or 'cuda:0'.") from None
    return device


def placed(model: Any, device: torch.device) -> Any:
    """A network on its device, ready to predict; on a GPU with channels last, as its kernels want them."""
    if device.type == "cuda":
        return model.to(device, memory_format=torch.channels_last).eval()
    return model.to(device).eval()


def upload(pixels: NDArray[Any], device: torch.device) -> torch.Tensor:
    """Pixels on a device; to a GPU by way of pinned memory, without waiting for the copy."""
    tensor = torch.from_numpy(pixels)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def largest_batch(device: torch.device) -> int:
    """Images in one forward pass: more than 8 cost memory and gain nothing on a processor."""
    return 32 if device.type == "cuda" else 8


@contextlib.contextmanager
def predicting(device: torch.device, settings: InferenceSettings) -> Iterator[None]:
    """For a forward pass: no gradients, the threads and the precision that were asked for."""
    with torch.inference_mode(), _threads(settings.threads), _precision(device, settings.half):
        yield


def _precision(device: torch.device, half: bool) -> contextlib.AbstractContextManager[Any]:
    """Mixed precision on a GPU, nothing elsewhere.

    float16 and not bfloat16: distances in 8 bits of mantissa would move the
    sides of a box by 0.4 % of its size.
    """
    if half and device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.float16)
    return contextlib.nullcontext()


def to_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    """The values of a tensor, wherever it lies."""
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Torch's threads are the process's: a limit (0 = none) is lifted again afterwards."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
