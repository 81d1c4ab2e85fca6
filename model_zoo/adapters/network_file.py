"""The two files of a bundle whose network is built by name: ``network.json`` and ``model.safetensors``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from composition.errors import UserError
from model_zoo import bundle
from model_zoo.bundle import Manifest

NETWORK = "network.json"
WEIGHTS = "model.safetensors"


class Network(BaseModel):
    """What to build.

    Attributes:
        architecture: Name of the library's builder or config.
        classes: How many classes the network tells apart, the background included.
        numbers: For every class of the vocabulary, its number in the network.
        norm_eps: Epsilon of all batch normalisations; None = the builder's own.
        pad_with_mean: The padding of a letterbox is the mean colour, which no
            grey value is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    architecture: str
    classes: int = Field(gt=0, le=100_000)
    numbers: tuple[int, ...]
    norm_eps: float | None = Field(None, ge=0, le=1)
    pad_with_mean: bool = False


def read(folder: Path, manifest: Manifest) -> tuple[Network, dict[str, torch.Tensor]]:
    """Reads and checks both files of a bundle.

    Raises:
        UserError: Damaged, or they do not belong to the vocabulary.
    """
    path = bundle.listed_file(folder, manifest, NETWORK)
    try:
        network = Network.model_validate(json.loads(path.read_text()))
    except ValidationError as error:
        raise UserError(f"{path}: {bundle.first_problem(error)}", "Add the detector again.") from None
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}", "Add the detector again.") from None
    numbers = network.numbers
    good = len(numbers) == len(manifest.vocabulary) == len(set(numbers))
    if not good or not all(0 <= number < network.classes for number in numbers):
        raise UserError(
            f"{path}: numbers: one number below {network.classes} for each of the "
            f"{len(manifest.vocabulary)} classes is needed",
            "Add the detector again.",
        )
    weights = bundle.listed_file(folder, manifest, WEIGHTS)
    try:
        state = safetensors.torch.load_file(weights)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{weights} is not a safetensors file: {error}", "Add the detector again.") from None
    return network, state


def files(network: Network, state: Mapping[str, torch.Tensor]) -> dict[str, bytes]:
    """Both files, to be written into a bundle."""
    document = json.dumps(network.model_dump(mode="json"), indent=1, sort_keys=True)
    # layers that are shared name the same memory twice, which safetensors refuses
    copies = {key: value.detach().cpu().clone().contiguous() for key, value in state.items()}
    return {NETWORK: document.encode() + b"\n", WEIGHTS: safetensors.torch.save(copies)}


def load_state(model: torch.nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Fills in weights, strictly but for the counters that frozen normalisations do not have.

    Raises:
        UserError: Names the first key that is missing, unknown, or of another shape.
    """
    problem = misfit(model, state)
    if problem:
        raise UserError(f"{source}: {problem}", "Give the weights that belong to this architecture.")


def misfit(model: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> str | None:
    """Loads weights into a model; what does not fit, or None where all fits."""
    try:
        result = model.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
        return (lines or [str(error).splitlines()[0]])[0]
    missing = [key for key in result.missing_keys if not key.endswith("num_batches_tracked")]
    if missing:
        return f"the weights lack {missing[0]!r} (and {len(missing) - 1} more)"
    unknown: Sequence[str] = result.unexpected_keys
    if unknown:
        return (
            f"the weights hold {unknown[0]!r}, which the network does not know (and {len(unknown) - 1} more)"
        )
    return None


def set_norm_eps(model: torch.nn.Module, eps: float | None) -> None:
    """Sets the epsilon of every batch normalisation."""
    if eps is not None:
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eps = eps


def state_of(model: Any) -> dict[str, torch.Tensor]:
    """The weights under the names that this release of the library uses."""
    state: dict[str, torch.Tensor] = model.state_dict()
    return state
