"""Opening any bundle with the runtime that its manifest names."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from composition.errors import UserError
from model_zoo import bundle
from model_zoo.adapters.base import Detector, InferenceSettings

Opener = Callable[[Path, bundle.Manifest, InferenceSettings], Detector]


def _onnx(folder: Path, manifest: bundle.Manifest, settings: InferenceSettings) -> Detector:
    from model_zoo.adapters.onnx import OnnxDetector

    return OnnxDetector(folder, manifest, settings)


def _darknet(folder: Path, manifest: bundle.Manifest, settings: InferenceSettings) -> Detector:
    from model_zoo.adapters.darknet import DarknetDetector

    return DarknetDetector(folder, manifest, settings)


def _mmdet(folder: Path, manifest: bundle.Manifest, settings: InferenceSettings) -> Detector:
    from model_zoo.adapters.mmdet import MMDetDetector

    return MMDetDetector(folder, manifest, settings)


def _torchvision(folder: Path, manifest: bundle.Manifest, settings: InferenceSettings) -> Detector:
    from model_zoo.adapters.torchvision import TorchvisionDetector

    return TorchvisionDetector(folder, manifest, settings)


def _effdet(folder: Path, manifest: bundle.Manifest, settings: InferenceSettings) -> Detector:
    from model_zoo.adapters.effdet import EffdetDetector

    return EffdetDetector(folder, manifest, settings)


def _http(folder: Path, manifest: bundle.Manifest, settings: InferenceSettings) -> Detector:
    from model_zoo.adapters.http import HttpDetector

    return HttpDetector(folder, manifest, settings)


# runtimes are imported when one of their detectors is opened: mmdet alone takes seconds
ADAPTERS: dict[str, Opener] = {
    "onnx": _onnx,
    "darknet": _darknet,
    "mmdet": _mmdet,
    "torchvision": _torchvision,
    "effdet": _effdet,
    "http": _http,
}
GROUP = "detcompose.adapters"
"""Entry-point group of packages that bring an adapter: its name to an `Opener`."""
_DEFAULT = InferenceSettings()


def register(name: str, opener: Opener) -> None:
    """Adds a runtime that lives outside of this package."""
    ADAPTERS[name] = opener


def names() -> list[str]:
    """All adapters: our own, and those of installed packages."""
    return [*ADAPTERS, *(point.name for point in entry_points(group=GROUP) if point.name not in ADAPTERS)]


def check_adapter(folder: Path, manifest: bundle.Manifest) -> None:
    """Checks that there is a runtime for a bundle.

    Raises:
        UserError: There is none.
    """
    if manifest.adapter not in names():
        raise UserError(
            f"{folder / bundle.MANIFEST}: adapter is {manifest.adapter!r}",
            f"This detcompose reads: {', '.join(names())}.",
        )


def opener_of(name: str) -> Opener:
    """The opener of an adapter; that of a plug-in is imported now.

    Raises:
        UserError: The plug-in cannot be imported.
    """
    if name in ADAPTERS:  # no package may take the place of a runtime of ours
        return ADAPTERS[name]
    (point, *_) = entry_points(group=GROUP, name=name)
    try:
        opener: Opener = point.load()
    except Exception as error:  # whatever goes wrong in a stranger's module at import
        raise UserError(
            f"adapter {name!r} ({point.value}) cannot be imported: {type(error).__name__}: {error}",
            "Update or reinstall the package that brings it.",
        ) from error
    return opener


def open_detector(folder: Path, settings: InferenceSettings = _DEFAULT) -> Detector:
    """Verifies a bundle and loads its detector.

    Args:
        folder: The bundle; every file is hashed before it is read.
        settings: Score floor, limits, threads, device.

    Returns:
        The detector, ready to predict.

    Raises:
        UserError: Not a bundle, changed files, an unknown runtime, or a
            network that cannot be run.
    """
    manifest = bundle.read(folder)
    check_adapter(folder, manifest)
    return opener_of(manifest.adapter)(folder, manifest, settings)
