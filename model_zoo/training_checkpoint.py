"""Where a killed training goes on: one safetensors file, replaced atomically.

No pickle: tensors go into the file as they are, numbers into its JSON
metadata. Python writes floats so that they read back bit by bit.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from composition.errors import UserError

FILE = "checkpoint.safetensors"
_OPTIMIZER_KEY = re.compile(r"^optimizer\.(\d+)\.(.+)$")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything that the next step depends on.

    Attributes:
        step: Optimiser steps done.
        model: State dict of the model.
        ema: State dict of the averaged model, empty without one.
        optimizer: torch's ``state_dict()`` of the optimiser.
        schedulers: State dicts of the learning-rate schedulers.
        seconds: Time trained so far, in all processes together.
    """

    step: int
    model: dict[str, torch.Tensor]
    ema: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    schedulers: list[dict[str, Any]]
    seconds: float


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes the checkpoint beside the old one and then replaces that."""
    tensors = {f"model.{name}": value for name, value in checkpoint.model.items()}
    tensors |= {f"ema.{name}": value for name, value in checkpoint.ema.items()}
    for index, state in checkpoint.optimizer["state"].items():
        # a parameter without a momentum yet has None here, and starts without one again
        present = {key: value for key, value in state.items() if value is not None}
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in present.items()}
    metadata = {
        "step": checkpoint.step,
        "groups": checkpoint.optimizer["param_groups"],
        "schedulers": checkpoint.schedulers,
        "seconds": checkpoint.seconds,
    }
    write_tensors(folder / FILE, tensors, {"state": json.dumps(metadata)})


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Writes a safetensors file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # clone: safetensors refuses tensors that share memory
        save_file(
            {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()},
            temporary,
            metadata,
        )
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(folder: Path) -> Checkpoint | None:
    """Reads the checkpoint of a folder; None when there is none.

    Raises:
        UserError: The file was damaged from outside (a kill cannot do it).
    """
    path = folder / FILE
    if not path.exists():
        return None
    model: dict[str, Any] = {}
    ema: dict[str, Any] = {}
    optimizer: dict[int, dict[str, Any]] = {}
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads(file.metadata()["state"])
            for name in file.keys():  # noqa: SIM118 - a safetensors file, not a dict
                kind, _, rest = name.partition(".")
                tensor = file.get_tensor(name)
                if kind == "model":
                    model[rest] = tensor
                elif kind == "ema":
                    ema[rest] = tensor
                elif match := _OPTIMIZER_KEY.match(name):
                    optimizer.setdefault(int(match[1]), {})[match[2]] = tensor
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}", "Delete it to train from the start.") from None
    return Checkpoint(
        metadata["step"],
        model,
        ema,
        {"state": optimizer, "param_groups": metadata["groups"]},
        metadata["schedulers"],
        metadata["seconds"],
    )
