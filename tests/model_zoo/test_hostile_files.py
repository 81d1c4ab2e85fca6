"""Files from strangers: refused with a reason, nothing executed, nothing huge allocated."""

from __future__ import annotations

import json
import os
import pickle
import resource
import struct
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper, numpy_helper

from composition.errors import UserError
from model_zoo import weights_file
from model_zoo.adapters import onnx_limits
from model_zoo.adapters.mmdet_config_bases import read
from model_zoo.adapters.onnx_file import load_graph
from model_zoo.importing import import_teacher
from model_zoo.weights_file import read_checkpoint
from tests.model_zoo.adapters.networks import save_darknet, yolov8

NAMES = ("ant", "bee", "cow")


@pytest.fixture(autouse=True)
def no_large_allocation():
    """Reading may not take memory that its file does not hold; a test that tries dies of a MemoryError."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 600_000, f"{grown} kB"


class Bomb:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


# --- checkpoints ------------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["alone", "in the state", "beside the state"])
def test_pickle_bombs_do_not_go_off(place, legacy, tmp_path):
    mark = tmp_path / "executed"
    bomb = Bomb(f"touch {mark}")
    weights = {"layer.weight": torch.zeros(2)}
    document = {
        "alone": bomb,
        "in the state": {**weights, "bomb": bomb},
        "beside the state": {"state_dict": weights, "optimizer": bomb},
    }[place]
    torch.save(document, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"would have to call posix\.system; nothing was executed") as error:
        read_checkpoint(tmp_path / "w.pth")
    assert "in a process of their own" in error.value.way_out
    assert not mark.exists()


def test_a_plain_pickle_is_no_checkpoint(tmp_path):
    (tmp_path / "w.pth").write_bytes(pickle.dumps(Bomb(f"touch {tmp_path / 'executed'}")))
    with pytest.raises(UserError, match=r"not a readable checkpoint|would have to call"):
        read_checkpoint(tmp_path / "w.pth")
    assert not (tmp_path / "executed").exists()


def test_records_of_trainers_are_passed_over_without_being_made(tmp_path, monkeypatch):
    from mmengine.logging.history_buffer import HistoryBuffer

    buffer = HistoryBuffer()
    buffer.update(0.5)
    document = {
        "state_dict": {"module.layer.weight": torch.ones(2, dtype=torch.float16)},
        "message_hub": {"loss": buffer},
        "args": Namespace(lr=0.1),
        "meta": {"dataset_meta": {"classes": ("ant", "bee")}, "best": np.float64(0.3), "curve": np.arange(3)},
    }
    torch.save(document, tmp_path / "epoch_12.pth")
    made = []
    monkeypatch.setattr(HistoryBuffer, "__setstate__", lambda self, state: made.append(state), raising=False)
    found = read_checkpoint(tmp_path / "epoch_12.pth")
    assert found.classes == ("ant", "bee")
    assert list(found.state) == ["layer.weight"]
    assert found.state["layer.weight"].dtype == torch.float32
    assert not made


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_weights(suffix, keep, tmp_path):
    path = tmp_path / f"w{suffix}"
    state = {"layer.weight": torch.zeros(64, 64)}
    save = torch.save if suffix == ".pth" else safetensors.torch.save_file
    save(state, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match=r"not a readable checkpoint|not a safetensors file|damaged archive"):
        read_checkpoint(path)


def test_absurd_dimensions_in_safetensors(tmp_path):
    path = tmp_path / "w.safetensors"
    for entry in (
        {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 1 << 60]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
    ):
        header = json.dumps({"layer.weight": entry}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0\0\0")
        with pytest.raises(UserError, match="is not a safetensors file"):
            read_checkpoint(path)
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    with pytest.raises(UserError, match="is not a safetensors file"):
        read_checkpoint(path)


def test_archives_that_grow(tmp_path):
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth") as good, zipfile.ZipFile(tmp_path / "bomb.pth", "w") as bad:
        for entry in good.namelist():
            bad.writestr(entry, good.read(entry))
        bad.writestr("w/data/1", b"\0" * 200_000_000, zipfile.ZIP_DEFLATED, 9)
    assert (tmp_path / "bomb.pth").stat().st_size < 1_000_000
    with pytest.raises(UserError, match=r"would grow from \d+"):
        read_checkpoint(tmp_path / "bomb.pth")


def test_a_tensor_that_is_larger_than_its_file(tmp_path):
    """One number seen as a terabyte by strides of 0: shapes are compared before anything is copied."""
    huge = torch.zeros(1).expand(1 << 38)
    key = "head.classification_head.module_list.0.1.weight"
    torch.save({key: huge[None].expand(24, -1)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"fit no architecture|size mismatch|belong to no detector"):
        import_teacher(tmp_path / "w.pth", classes=NAMES, name="net", destination=tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_what_holds_no_weights(tmp_path):
    for document in ({"epoch": 3}, [1, 2], torch.zeros(3), {"state_dict": {}}):
        torch.save(document, tmp_path / "w.pth")
        with pytest.raises(UserError, match="holds no state dict"):
            read_checkpoint(tmp_path / "w.pth")
    with pytest.raises(UserError, match="does not exist"):
        read_checkpoint(tmp_path / "absent.pth")
    assert weights_file.MAX_TENSORS


# --- mmdet configs ----------------------------------------------------------------------------------

GOOD = b"""
'''A detector.'''
num_classes = 3
norm = dict(type='BN', requires_grad=True)
model = dict(
    type='RetinaNet',
    backbone=dict(type='ResNet', depth=50, norm_cfg=norm, out_indices=(0, 1)),
    bbox_head=dict(type='RetinaHead', num_classes=num_classes, **dict(in_channels=2 * 64)))
img_scale = (1333, 800)
lr = 0.02 / 8
test_dataloader = {'dataset': {'metainfo': dict(classes=('ant', 'bee', 'cow')), 'scales': [img_scale, -1]}}
"""


def test_configs_that_are_data(tmp_path):
    (tmp_path / "net.py").write_bytes(GOOD)
    found = read(tmp_path / "net.py")
    assert found["model"]["bbox_head"] == {"type": "RetinaHead", "num_classes": 3, "in_channels": 128}
    assert found["model"]["backbone"]["norm_cfg"] == {"type": "BN", "requires_grad": True}
    assert found["test_dataloader"]["dataset"]["scales"] == [(1333, 800), -1]
    assert found["lr"] == 0.0025


BILLION = "a = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]\n" + "\n".join(
    f"{name} = [{', '.join([before] * 10)}]" for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import os", r"net\.py, line 1: a statement of kind Import would have to be run"),
        ("x = 1\nfrom mmdet import y", r"line 2: a statement of kind ImportFrom"),
        ("x = __import__('os').system('id')", "'Call' would have to be run"),
        ("x = open('/etc/passwd')", "'Call' would have to be run"),
        ("x = dict(['a'])", "'Call' would have to be run"),
        ("dict = print\nx = dict(a=1)", "'print' would have to be run"),
        ("x = f'{1}'", "'JoinedStr' would have to be run"),
        ("x = [i for i in range(10000000000)]", "a loop over something else than at most 1000 values"),
        ("x = [i for i in 'abc']", "a loop over something else"),
        ("x = [i for i in [1] if i]", "'ListComp' would have to be run"),
        ("x = [a for a, b in [(1, 2)]]", "a loop with more than one variable"),
        ("x = [[[0 for a in range(999)] for b in range(999)] for c in range(999)]", "more than 1,000,000 st"),
        ("x = [0] * 10**9", "'BinOp' would have to be run"),
        ("x = [0] * 1000000000", "a list repeated beyond all bounds"),
        ("x = [0] * 90000\ny = x + x", "a sum beyond all bounds"),
        ("x = 'a' + 1", "arithmetic on something else than numbers"),
        ("x = {{ fileDirname }}", "'fileDirname' is filled in where mmengine runs"),
        ("x = {{'$HOME:here'}}", r"'\$HOME' is filled in"),
        ("x = (1).real", "'Attribute' would have to be run"),
        ("x = []\ny = x.append", "'Attribute' would have to be run"),
        ("x = 'a'[0]['__class__']", "there is no '__class__' in"),
        ("x = 'a' * 1000000000", "arithmetic on something else than numbers"),
        ("x = 9 ** 9 ** 9", "'BinOp' would have to be run"),
        ("x = 1e14 * 1e14", "arithmetic beyond all bounds"),
        ("x = 1 / 0", "arithmetic that has no result"),
        ("x = {**y}", "'y' would have to be run"),
        ("x.y = 1", "a statement of kind Assign"),
        ("while True: pass", "a statement of kind While"),
        ("x = lambda: 0", "'Lambda' would have to be run"),
        ("x = {{_base_.model}}", "there is no 'model' in _base_"),
        ("x = {{_base_.__class__}}", "there is no '__class__' in _base_"),
        ("x = b'abc'", "'Constant' would have to be run"),
        ("x = " + "[" * 300 + "]" * 300, "cannot be parsed|nested too deeply"),
        ("x = " + "-" * 60_000 + "1", "cannot be parsed|nested too deeply"),
        ("x = (", "cannot be parsed"),
        (BILLION, "more than 100,000 values"),
        ("#" * (1 << 21), "which is no config"),
    ],
)
def test_configs_that_are_programs(text, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        (tmp_path / "net.py").write_text(text)
        read(tmp_path / "net.py")
    assert "complete config" in error.value.way_out


# --- ONNX -------------------------------------------------------------------------------------------


def changed(path, change):
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    return path


def nested_functions(model, depth=40, itself=False):
    """Each function calls the next twice: 2^40 nodes out of a few kilobytes."""
    opset = [helper.make_opsetid("", 13), helper.make_opsetid("own", 1)]
    for level in range(depth):
        last = level == depth - 1
        target = ("own", "f0") if last and itself else ("own", f"f{level + 1}")
        kind, domain = ("Identity", "") if last and not itself else (target[1], target[0])
        body = [
            helper.make_node(kind, ["x"], ["y"], domain=domain),
            helper.make_node(kind, ["y"], ["z"], domain=domain),
        ]
        model.functions.append(helper.make_function("own", f"f{level}", ["x"], ["z"], body, opset))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node.insert(0, helper.make_node("f0", ["images"], ["unused"], domain="own"))


def endless(model):
    nested_functions(model, 3, itself=True)


def custom(model):
    model.graph.node.append(helper.make_node("Steal", ["images"], ["loot"], domain="com.evil"))


def constant_of_shape(model):
    shape = numpy_helper.from_array(np.array([1 << 20, 1 << 20], np.int64), "big")
    model.graph.initializer.append(shape)
    model.graph.node.append(helper.make_node("ConstantOfShape", ["big"], ["tensor"]))


def endless_range(model):
    for name, value in (("r0", 0), ("r1", 1 << 40), ("r2", 1)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    model.graph.node.append(helper.make_node("Range", ["r0", "r1", "r2"], ["tensor"]))


def weight_without_bytes(model):
    model.graph.initializer.append(
        TensorProto(name="thin", data_type=TensorProto.FLOAT, dims=[1 << 20, 1 << 20], raw_data=b"\0\0\0\0")
    )


def weight_without_anything(model):
    model.graph.initializer.append(
        TensorProto(name="thin", data_type=TensorProto.FLOAT, dims=[1 << 20, 1 << 20])
    )


def negative_weight(model):
    model.graph.initializer.append(
        TensorProto(name="thin", data_type=TensorProto.FLOAT, dims=[-4], raw_data=b"\0" * 16)
    )


def outside(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/passwd")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (nested_functions, r"its graph has 1,099,511,627,\d+ nodes"),
        (endless, "calls itself"),
        (custom, r"operator com\.evil\.Steal is none of ONNX's own"),
        (constant_of_shape, "ConstantOfShape .* more than 1 GB"),
        (endless_range, "Range .* more than 1 GB"),
        (weight_without_bytes, "weight 'thin' of shape .* needs 4,398,046,511,104 bytes, the file has 4"),
        (weight_without_anything, "weight 'thin' .* is not in the file"),
        (negative_weight, "weight 'thin' has the shape"),
        (outside, "lies in another file"),
    ],
)
def test_onnx_files_that_ask_too_much(change, message, tmp_path):
    path = changed(yolov8(tmp_path / "m.onnx", [], 3), change)
    assert path.stat().st_size < 200_000
    with pytest.raises(UserError, match=message):
        import_teacher(path, classes=NAMES, name="net", destination=tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_ordinary_functions_and_sizes_are_let_through(tmp_path):
    path = changed(yolov8(tmp_path / "m.onnx", [], 3), lambda model: nested_functions(model, 5))
    assert len(load_graph(path).functions) == 5
    assert onnx_limits.MAX_NODES > 10_000


# --- files that lead elsewhere ----------------------------------------------------------------------


def test_links_are_copied_as_what_they_are_or_refused(tmp_path):
    """A model that is a link is the user's own choice: its bytes are copied, the bundle holds no link."""
    (tmp_path / "real").mkdir()
    yolov8(tmp_path / "real" / "m.onnx", [], 3)
    (tmp_path / "m.onnx").symlink_to(tmp_path / "real" / "m.onnx")
    import_teacher(tmp_path / "m.onnx", classes=NAMES, name="net", destination=tmp_path / "bundle")
    assert not any(path.is_symlink() for path in (tmp_path / "bundle").rglob("*"))
    (tmp_path / "loop.onnx").symlink_to(tmp_path / "loop.onnx")
    with pytest.raises(UserError, match="does not exist"):
        import_teacher(tmp_path / "loop.onnx", classes=NAMES, name="net", destination=tmp_path / "other")


def test_devices_and_pipes_are_no_weights(tmp_path):
    os.mkfifo(tmp_path / "w.pth")
    with pytest.raises(UserError, match="does not exist"):
        read_checkpoint(tmp_path / "w.pth")
    cfg = save_darknet(tmp_path / "net")
    weights = cfg.with_suffix(".weights")
    weights.unlink()
    weights.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="does not exist"):
        import_teacher(cfg, classes=NAMES[:2], name="net", destination=tmp_path / "bundle")


@pytest.mark.parametrize("change", [{"width": "100000"}, {"filters": "60000"}, {"size": "8191"}])
def test_darknet_files_of_absurd_size(change, tmp_path):
    cfg = save_darknet(tmp_path)
    ((key, value),) = change.items()
    lines = [
        f"{key}={value}" if line.startswith(f"{key}=") else line for line in cfg.read_text().splitlines()
    ]
    Path(cfg).write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"net\.(cfg|weights)"):
        import_teacher(cfg, classes=NAMES[:2], name="net", destination=tmp_path / "bundle")
