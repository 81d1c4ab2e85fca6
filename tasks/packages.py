"""How a detector lies in the registry: its bundle, the same as ONNX, and what `mlflow models serve` needs.

::

    MLmodel            a pyfunc flavour that names `tasks.serving` as its loader: no code, no pickle
    requirements.txt   what the loader runs on
    data/bundle/       the detector as it was made
    data/onnx/         an mmdet detector for machines without mmdet
"""

from __future__ import annotations

import logging
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

from composition.errors import UserError
from model_zoo import bundle
from model_zoo.bundle import sha256_of
from tasks.registry import BUNDLE, DATA, DIGEST_TAG, ONNX
from tasks.store import Artifact, Draft, Store, digest_of

log = logging.getLogger("detcompose")

PACKAGE_VERSION = 1
LOADER = "tasks.serving"
# detcompose itself is not listed: it is no package of the public index, and whoever
# took its name there would be run by `mlflow models serve --env-manager virtualenv`
_NEEDED = ("mlflow", "onnxruntime", "opencv-python-headless", "numpy", "pillow", "pydantic")


def make_package(store: Store, folder: Path) -> Artifact:
    """Lays out a bundle for the registry.

    Args:
        store: Keeps the result, so that the export is done once.
        folder: The bundle.

    Returns:
        The artifact ``packages/<key>``; `digests` tells what it holds.
    """
    manifest = bundle.read(folder)
    key = digest_of("package", PACKAGE_VERSION, manifest.digest, sha256_of(folder / bundle.MANIFEST))
    done = store.find("packages", key)
    if done:
        return done
    with store.write("packages", key, {"bundle": manifest.digest}) as draft:
        shutil.copytree(folder, draft.folder / DATA / BUNDLE)
        exported = manifest.adapter == "mmdet" and _export(draft, folder, manifest)
        _write_face(draft.folder, manifest)
        draft.counts = {"classes": len(manifest.vocabulary), "onnx": int(exported)}
    return draft.artifact


def digests(package: Artifact) -> dict[str, str]:
    """Tags of a version that tell which bundles it holds."""
    tags = {DIGEST_TAG: bundle.read(package.folder / DATA / BUNDLE, verify=False).digest}
    if package.counts["onnx"]:
        tags[f"{DIGEST_TAG}.{ONNX}"] = bundle.read(package.folder / DATA / ONNX, verify=False).digest
    return tags


def _export(draft: Draft, folder: Path, manifest: bundle.Manifest) -> bool:
    """The same detector for onnxruntime; a head that cannot be exported is no reason not to register."""
    from model_zoo.exporting import export_onnx
    from model_zoo.importing import import_teacher

    file = draft.folder / "student.onnx"
    try:
        export_onnx(folder, file)
        import_teacher(file, classes=None, name=manifest.name, destination=draft.folder / DATA / ONNX)
    except UserError as error:
        log.warning("%s is registered without an ONNX file: %s", manifest.name, error.problem)
        return False
    finally:
        file.unlink(missing_ok=True)
    return True


def _write_face(folder: Path, manifest: bundle.Manifest) -> None:
    """``MLmodel`` by way of MLflow's own classes; its ``save_model`` would load all of pyfunc for this."""
    from mlflow.models import Model

    from tasks.serving_schema import signature

    model = Model(signature=signature(), metadata={DIGEST_TAG: manifest.digest})
    model.add_flavor(
        "python_function",
        loader_module=LOADER,
        python_version=platform.python_version(),
        data=DATA,
        env={"virtualenv": "python_env.yaml"},
    )
    model.save(str(folder / "MLmodel"))
    (folder / "requirements.txt").write_text("".join(f"{name}=={version(name)}\n" for name in _NEEDED))
    (folder / "python_env.yaml").write_text(
        f"python: {platform.python_version()}\ndependencies:\n- -r requirements.txt\n"
    )
