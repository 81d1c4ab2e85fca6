"""Reading weights that strangers wrote: tensors only, nothing executed, nothing huge allocated.

A ``.pth`` file is a pickle. It is read through torch's ``weights_only``
unpickler, which builds tensors and plain containers and calls nothing else.
Training checkpoints also hold their trainer's settings and logs; the classes
of those that are known to be mere records are read as empty shells, so that
such files need no conversion. Any other class is refused by name.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch

from composition.errors import UserError

MAX_TENSORS = 100_000
# records beside the weights that trainers of mmengine, effdet, timm and plain scripts leave
_RECORDS = (
    "argparse.Namespace",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "mmengine.config.config.ConfigDict",
    "builtins.getattr",  # how mmengine's buffers name their methods; here it names nothing
    "__builtin__.getattr",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.float64",
    "numpy.int64",
    "pathlib.PosixPath",
    "pathlib._local.PosixPath",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
)
# where checkpoints keep their weights; averaged weights are what such a training means to deploy
_PLACES = ("state_dict_ema", "ema_state_dict", "state_dict", "model_state_dict", "model_state", "model")
_PREFIXES = ("module.", "model.", "_orig_mod.")
_CONVERT = (
    "Whoever trusts the file can convert it, in a process of their own: "
    "`import torch, safetensors.torch as st; "
    "st.save_file(torch.load(FILE, weights_only=False)['state_dict'], 'weights.safetensors')`."
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a weights file holds.

    Attributes:
        state: Name to weight, on the CPU; prefixes that wrappers add
            (``module.``, ``model.``) are gone, half precision has become
            single precision.
        classes: Class names, where the trainer noted them.
        architecture: Name of the network, where the trainer noted it.
    """

    state: dict[str, torch.Tensor]
    classes: tuple[str, ...] | None = None
    architecture: str | None = None


class _Shell:
    """Stands for a record that is not read: takes everything, keeps nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Shell:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a weights file.

    Args:
        path: A safetensors file or what ``torch.save`` wrote: a state dict, or
            a checkpoint that holds one.

    Raises:
        UserError: Missing, damaged, not weights, or it would have to execute something.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist", "Check the path of the weights.")
    document = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_pickle(path)
    state = _weights_in(document, path)
    if len(state) > MAX_TENSORS:
        raise UserError(f"{path} holds {len(state)} tensors, which is no detector", "Give a state dict.")
    for prefix in _PREFIXES * 2:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    architecture = document.get("arch") if isinstance(document, Mapping) else None
    return Checkpoint(state, _classes_in(document), architecture if isinstance(architecture, str) else None)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        # checks the header, and that its shapes are exactly the bytes of the file, before any tensor is made
        with safetensors.safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            return {key: file.get_tensor(key) for key in keys[: MAX_TENSORS + 1]}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is not a safetensors file: {error}", "Fetch the file again.") from None


def _read_pickle(path: Path) -> Any:
    _check_archive(path)
    try:
        # a shell, not the class of that name, so that nothing of it is imported or called
        with torch.serialization.safe_globals([(_Shell, name) for name in _RECORDS]):
            document = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        name = _offender(str(error))
        if name is None:
            raise UserError(
                f"{path} is not a readable checkpoint: no pickle", "Fetch the file again."
            ) from None
        raise UserError(f"{path}: it would have to call {name}; nothing was executed", _CONVERT) from None
    except Exception as error:
        # torch's readers stumble over damage as EOFError, RuntimeError, KeyError, TypeError, ...
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path} is not a readable checkpoint: {reason[:200]}", "Fetch the file again."
        ) from None
    return document


def _check_archive(path: Path) -> None:
    """Torch stores its archives uncompressed: one that would grow when it is read was not made by it."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UserError(f"{path} is a damaged archive: {error}", "Fetch the file again.") from None
    size = sum(entry.file_size for entry in entries)
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or size > path.stat().st_size:
        raise UserError(
            f"{path} is an archive that would grow from {path.stat().st_size:,} to {size:,} bytes",
            "Checkpoints are not compressed; give the file that torch.save wrote.",
        )


def _offender(text: str) -> str | None:
    """The class or function that the unpickler stopped at, out of torch's long explanation."""
    for pattern in (r"GLOBAL ([\w.]+)", r"(?:call|load|instantiate|set)[^\w]+([\w]+\.[\w.]+)"):
        named = re.search(pattern, text)
        if named is not None:
            return named[1].rstrip(".")
    return "something" if "REDUCE" in text else None


def _weights_in(document: Any, path: Path) -> dict[str, torch.Tensor]:
    for _ in range(2):  # Lightning and ultralytics nest once more
        place = next((key for key in _PLACES if isinstance(document, Mapping) and key in document), None)
        if place is None or not isinstance(document[place], Mapping):
            break
        document = document[place]
    if isinstance(document, Mapping):
        state = {str(key): value for key, value in document.items() if isinstance(value, torch.Tensor)}
        if state:
            return state
    raise UserError(
        f"{path} holds no state dict (name to tensor)", "Save `model.state_dict()`, not the model itself."
    )


def _classes_in(document: Any) -> tuple[str, ...] | None:
    """Where mmengine (``meta.dataset_meta.classes``), mmcv and ultralytics note the class names."""
    if not isinstance(document, Mapping):
        return None
    meta = document.get("meta")
    meta = meta if isinstance(meta, Mapping) else document
    inner = meta.get("dataset_meta")
    inner = inner if isinstance(inner, Mapping) else meta
    names = next((inner[key] for key in ("classes", "CLASSES", "names") if key in inner), None)
    if isinstance(names, Mapping) and set(names) == set(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None
