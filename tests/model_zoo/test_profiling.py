"""Counts against networks whose size is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model_zoo import bundle
from model_zoo.exporting import export_onnx
from model_zoo.importing import import_teacher
from model_zoo.profiling import profile

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export_onnx(ROOT / "demo" / "teachers" / "digits-high", folder / "high.onnx")
    import_teacher(folder / "high.onnx", classes=None, name="high", destination=folder / "high")
    return folder / "high"


def test_a_student_and_its_export_need_the_same_operations(exported: Path) -> None:
    folder = ROOT / "demo" / "teachers" / "digits-high"
    ours, theirs = profile(folder, bundle.read(folder)), profile(exported, bundle.read(exported))
    assert ours.flops == theirs.flops
    assert ours.parameters is not None
    assert theirs.parameters is not None
    # two numbers a batch norm become one bias
    assert 0.98 < theirs.parameters / ours.parameters < 1
    assert ours.bytes == sum(path.stat().st_size for path in folder.glob("*") if path.name != "manifest.json")


def test_flops_are_two_a_multiply_add(exported: Path) -> None:
    """The first convolution of the stem: 3x3 on 12 channels (Focus), 16 out, at half the size."""
    from torch.utils.flop_counter import FlopCounterMode

    layer = torch.nn.Conv2d(12, 16, 3, padding=1, bias=False)
    with FlopCounterMode(display=False) as counter:
        layer(torch.zeros(1, 12, 96, 96))
    assert counter.get_total_flops() == 2 * 12 * 9 * 16 * 96 * 96


# what their makers state: YOLOX-nano 0.91 M and 1.08 GFLOPs at 416 (2 a multiply-add), NanoDet-m 0.95 M,
# FastestDet 0.24 M; small differences are batch norm and what is no convolution
@pytest.mark.parametrize(
    ("path", "parameters", "gflops"),
    [
        ("yolox_nano_coco/yolox_nano.onnx", 0.91e6, 1.08),
        ("nanodet_m_320_coco/nanodet_m.onnx", 0.95e6, None),
        ("fastestdet_coco/FastestDet.onnx", 0.24e6, None),
        ("yolo_fastest_xl_voc/yolo-fastest-xl.cfg", 0.87e6, None),
    ],
)
def test_known_networks(
    data_dir: Path, tmp_path: Path, path: str, parameters: float, gflops: float | None
) -> None:
    model = data_dir / "teachers" / path
    if not model.is_file():  # the file's name is its maker's
        model = next(model.parent.glob(f"*{model.suffix}"))
    classes = data_dir / "teachers" / ("voc.names" if "voc" in path else "coco.names")
    manifest = import_teacher(model, classes=classes, name="x", destination=tmp_path / "x")
    counted = profile(tmp_path / "x", manifest)
    assert counted.parameters == pytest.approx(parameters, rel=0.03)
    if gflops is not None:
        assert counted.flops == pytest.approx(gflops * 1e9, rel=0.05)
    assert (counted.flops is None) == (manifest.adapter == "darknet")
