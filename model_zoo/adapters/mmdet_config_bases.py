"""mmdet configs that build on others by ``_base_``: found, read as data and merged.

A stock config is a few lines on top of four other files. They are looked for where mmengine
looks, beside the config; those that are not there are taken from the installed mmdet, which
ships all of its own, so that one file from mmdet's model zoo is enough.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from composition.errors import UserError
from model_zoo.adapters import mmdet_config_py
from model_zoo.adapters.mmdet_config_py import CONVERT, Variables

MAX_FILES = 64
"""Files that one config may read, one that several build on counting each time."""
_DELETE = "_delete_"
_SCOPE = "mmdet::"


def read(path: Path) -> Variables:
    """The variables of a ``.py`` config and of all that it builds on.

    Args:
        path: The config. Its bases must lie under the next folder above it that is called
            ``configs``, else under the folder above its own.

    Raises:
        UserError: One of the files cannot be read as data, is missing, or lies elsewhere; names
            file and line.
    """
    return _Chain(path.absolute()).read(path.absolute(), str(path), ())


class _Chain:
    def __init__(self, path: Path) -> None:
        above = [folder for folder in path.parents if folder.name == "configs"]
        root = above[0] if above else path.parent.parent
        self._roots = [root.resolve(), *_shipped()]
        self._files = 0

    def read(self, path: Path, source: str, chain: tuple[Path, ...]) -> Variables:
        """One file with its bases; ``chain`` is the way here."""
        self._files += 1
        if self._files > MAX_FILES:
            raise UserError(f"{source}: '_base_' leads to more than {MAX_FILES} files", CONVERT)
        try:
            text = path.read_bytes()
        except OSError as error:
            raise UserError(f"{source} cannot be read: {error.strerror}", "Check the path.") from None
        chain = (*chain, path.resolve())

        def bases(names: Sequence[str], line: int) -> Variables:
            found: Variables = {}
            for name in names:
                base = self._find(path, name, f"{source}, line {line}")
                if base.resolve() in chain:
                    raise UserError(f"{source}, line {line}: '_base_' goes in a circle by {name}", CONVERT)
                one = self.read(base, str(base), chain)
                twice = sorted(found.keys() & one.keys())
                if twice:
                    raise UserError(
                        f"{source}, line {line}: two of '_base_' have {twice[0]!r}", "mmengine allows one."
                    )
                found |= one
            return found

        base, own = mmdet_config_py.parse(text, source, bases)
        return merge(base, own, source)

    def _find(self, path: Path, name: str, where: str) -> Path:
        relative = PurePosixPath(name.removeprefix(_SCOPE))
        if relative.is_absolute() or "\\" in name or "::" in str(relative) or relative.suffix != ".py":
            raise UserError(f"{where}: '_base_' {name!r} is no relative path of a .py file", CONVERT)
        if not name.startswith(_SCOPE):
            beside = path.parent / relative
            if not any(beside.resolve().is_relative_to(root) for root in self._roots):
                raise UserError(f"{where}: '_base_' {name!r} lies outside of {self._roots[0]}", CONVERT)
            if beside.is_file():
                return beside
        own = PurePosixPath(*(part for part in relative.parts if part != ".."))
        for root in _shipped():
            # mmdet's folders have one level, and most bases say the family or '_base_' only from within
            found = [root / own] if (root / own).is_file() else sorted(root.glob(f"*/{own}"))
            if len(found) == 1 and found[0].resolve().is_relative_to(root):
                return found[0]
        raise UserError(
            f"{where}: '_base_' {name!r} is neither beside it nor among the configs of the installed mmdet",
            f"Put it there. {CONVERT}",
        )


def _shipped() -> list[Path]:
    """The folder of configs in the installed mmdet, if it has one; mmdet is not imported."""
    spec = importlib.util.find_spec("mmdet")
    folders = [Path(place) / ".mim" / "configs" for place in (spec and spec.submodule_search_locations) or ()]
    return [folder.resolve() for folder in folders if folder.is_dir()]


def merge(base: Mapping[str, Any], own: Mapping[str, Any], source: str) -> Variables:
    """What mmengine makes of a config and its base: dicts are merged, anything else is replaced.

    A dict with ``_delete_`` replaces, too. Neither argument is changed.

    Raises:
        UserError: A dict on top of something else.
    """
    result: Variables = dict(base)
    for key, value in own.items():
        if not isinstance(value, Mapping):
            result[key] = value
            continue
        changes = {name: part for name, part in value.items() if name != _DELETE}
        if key not in base or value.get(_DELETE):
            result[key] = changes
        elif isinstance(base[key], Mapping):
            result[key] = merge(base[key], changes, source)
        else:
            raise UserError(
                f"{source}: {key!r} is a dict on top of a {type(base[key]).__name__} of '_base_'",
                "Say `_delete_=True` in it if it is to replace that.",
            )
    return result
