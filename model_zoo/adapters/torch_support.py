"""What all adapters on torch share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from numpy.typing import NDArray

from composition.errors import UserError


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


def to_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    """The values of a tensor, wherever it lies."""
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch's threads are the process's: a limit (0 = none) is lifted again afterwards."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
