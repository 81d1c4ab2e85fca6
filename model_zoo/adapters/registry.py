"""Opening any bundle with the runtime that its manifest names."""

from __future__ import annotations

from collections.abc import Callable
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


# runtimes are imported when one of their detectors is opened: mmdet alone takes seconds
ADAPTERS: dict[str, Opener] = {"onnx": _onnx, "darknet": _darknet, "mmdet": _mmdet}
_DEFAULT = InferenceSettings()


def check_adapter(folder: Path, manifest: bundle.Manifest) -> None:
    """Checks that there is a runtime for a bundle.

    Raises:
        UserError: There is none.
    """
    if manifest.adapter not in ADAPTERS:
        raise UserError(
            f"{folder / bundle.MANIFEST}: adapter is {manifest.adapter!r}",
            f"This detcompose reads: {', '.join(ADAPTERS)}.",
        )


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
    return ADAPTERS[manifest.adapter](folder, manifest, settings)
