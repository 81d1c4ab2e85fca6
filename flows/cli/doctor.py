"""``detcompose doctor``: is everything here that a composition needs?"""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import typer

from composition.errors import UserError
from flows.cli.output import JsonOption, print_json, print_table
from tasks.home import Home

PACKAGES = (
    "detcompose", "torch", "torchvision", "onedl-mmdetection", "onedl-mmengine", "onedl-mmcv", "onnxruntime",
    "opencv-python-headless", "prefect", "mlflow", "fastapi", "pycocotools", "numpy",
)  # fmt: skip


def doctor(as_json: JsonOption = False) -> None:
    """Check versions, operators, devices and services."""
    checks = [*_versions(), _operators(), _devices(), _disk(), _tracking(), _prefect()]
    if as_json:
        print_json(checks)
    else:
        rows = [[check["check"], "ok" if check["ok"] else "PROBLEM", check["value"]] for check in checks]
        print_table("detcompose doctor", ("check", "", "value"), rows)
    if not all(check["ok"] for check in checks):
        raise typer.Exit(1)


def _check(name: str, value: str, ok: bool = True) -> dict[str, Any]:
    return {"check": name, "ok": ok, "value": value}


def _versions() -> list[dict[str, Any]]:
    checks = [_check("python", sys.version.split()[0], sys.version_info >= (3, 11))]
    for package in PACKAGES:
        try:
            checks.append(_check(package, version(package)))
        except PackageNotFoundError:
            checks.append(_check(package, "not installed; run `make setup`", ok=False))
    return checks


def _operators() -> dict[str, Any]:
    from model_zoo.mmcv_ops import ensure_ops

    try:
        backend = ensure_ops()
    except ImportError as error:
        return _check("mmcv operators", str(error), ok=False)
    return _check(
        "mmcv operators", {"torchvision": "backed by torchvision"}.get(backend, "compiled extension")
    )


def _devices() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return _check("devices", f"{os.cpu_count()} CPU cores, " + (", ".join(gpus) or "no GPU"))


def _disk() -> dict[str, Any]:
    home = Home.default()
    existing = next(path for path in (home.root, *home.root.parents) if path.exists())
    free = shutil.disk_usage(existing).free / 2**30
    writable = os.access(existing, os.W_OK)
    return _check("home", f"{home.root} ({free:.1f} GiB free)", ok=writable and free > 1)


def _tracking() -> dict[str, Any]:
    from tasks import tracking

    home = Home.default()
    try:
        tracking.client(home)
    except UserError as error:
        return _check("MLflow", f"{error.problem}. {error.way_out}", ok=False)
    return _check("MLflow", f"{home.tracking_uri} answers")


def _prefect() -> dict[str, Any]:
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return _check("Prefect", "no server set: each run starts its own, state in the home folder")
    import httpx

    try:
        httpx.get(f"{url}/health", timeout=5).raise_for_status()
    except httpx.HTTPError as error:
        return _check("Prefect", f"{url} does not answer: {error}", ok=False)
    return _check("Prefect", f"{url} answers")
