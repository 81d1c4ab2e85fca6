"""Configs that build on others, against mmengine, which runs them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from mmengine.config import Config

from composition.errors import UserError
from model_zoo.adapters.mmdet_config_bases import MAX_FILES, merge, read

STOCK = Path(importlib.util.find_spec("mmdet").submodule_search_locations[0]) / ".mim" / "configs"
FAMILIES = ("yolox", "rtmdet", "retinanet", "atss", "sparse_rcnn", "dino", "cascade_rcnn", "gfl")
CONFIGS = sorted(path for family in FAMILIES for path in (STOCK / family).glob("*_coco.py"))[::3]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_stock_configs_are_as_mmengine_has_them(path):
    assert read(path) == Config.fromfile(str(path)).to_dict()


def test_a_stock_config_alone_finds_its_bases_in_the_installed_mmdet(tmp_path):
    name = "retinanet_r50_fpn_1x_coco.py"
    (tmp_path / name).write_bytes((STOCK / "retinanet" / name).read_bytes())
    assert read(tmp_path / name) == read(STOCK / "retinanet" / name)
    scoped = tmp_path / "own.py"
    scoped.write_text(f"_base_ = 'mmdet::retinanet/{name}'\nmodel = dict(bbox_head=dict(num_classes=3))\n")
    found = read(scoped)["model"]["bbox_head"]
    assert (found["num_classes"], found["type"]) == (3, "RetinaHead")


@pytest.fixture
def write(tmp_path):
    """Writes configs in a tree as mmdet has it; returns the folder of the family."""

    def write(**files):
        for name, text in {"own": "", **files}.items():
            folder = tmp_path / "configs" / ("_base_" if name.startswith("base") else "family")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.py").write_text(text)
        return tmp_path / "configs" / "family" / "own.py"

    return write


def test_what_a_config_may_take_from_its_bases(write):
    path = write(
        base="head = dict(type='A', size=3, parts=[dict(n=1), dict(n=2)])\nother = dict(a=1)\nroot = 'data/'",
        own="_base_ = ['../_base_/base.py']\nhead = dict(size=4)\nother = dict(_delete_=True, b=2)\n"
        "kept = {{_base_.head.size}}\nalso = _base_.head.parts[1].n\nfile = _base_.root + 'x.json'\n"
        "scales = [(s, s) for s in (320, 640)]\nstages = [dict(n=0) for _ in range(3)]\ntwice = [1] * 2",
    )
    found = read(path)
    assert found == Config.fromfile(str(path)).to_dict()
    assert found["head"] == {"type": "A", "size": 4, "parts": [{"n": 1}, {"n": 2}]}
    assert (found["other"], found["kept"], found["also"]) == ({"b": 2}, 3, 2)
    assert (found["scales"], found["twice"]) == ([(320, 320), (640, 640)], [1, 1])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"own": "_base_ = 'own.py'"}, r"own\.py, line 1: '_base_' goes in a circle"),
        (
            {"own": "x = 1\n_base_ = '../_base_/base.py'", "base": "_base_ = '../family/own.py'"},
            r"base\.py, line 1: .* in a circle",
        ),
        ({"own": "_base_ = './nowhere.py'"}, "neither beside it nor among the configs"),
        ({"own": "_base_ = '../../../../etc/passwd'"}, r"no relative path of a \.py file"),
        ({"own": "_base_ = '/tmp/x.py'"}, r"no relative path of a \.py file"),
        ({"own": "_base_ = 'https://host/x.py'"}, "neither beside it"),
        ({"own": "_base_ = '../../secret.py'"}, "lies outside of"),
        ({"own": "_base_ = 'mmdet::../../../../secret.py'"}, "neither beside it"),
        ({"own": "_base_ = 'mmpretrain::x.py'"}, r"no relative path of a \.py file"),
        ({"own": "_base_ = 3"}, "something else than names of files"),
        ({"own": "_base_ = ['../_base_/base.py', '../_base_/base2.py']", "base": "a = 1", "base2": "a = 2"},
         "two of '_base_' have 'a'"),
        ({"own": "_base_ = '../_base_/base.py'\na = dict(b=1)", "base": "a = 1"}, "a dict on top of a int"),
        ({"own": "_base_ = '../_base_/base.py'\na = _base_.b", "base": "a = 1"}, "line 2: there is no 'b'"),
        ({"own": "_base_ = '../_base_/base.py'\na = _base_.a.b", "base": "a = 1"}, "there is no 'b' in"),
        ({"own": "_base_ = '../_base_/base.py'", "base": "import os"}, r"base\.py, line 1: .* Import"),
    ],
)  # fmt: skip
def test_bases_that_are_refused(files, message, write, tmp_path):
    (tmp_path / "secret.py").write_text("a = 1")
    with pytest.raises(UserError, match=message):
        read(write(**files))


def test_links_do_not_lead_out(write, tmp_path):
    path = write(own="_base_ = './link.py'")
    (tmp_path / "secret.py").write_text("a = 1")
    (path.parent / "link.py").symlink_to(tmp_path / "secret.py")
    with pytest.raises(UserError, match="lies outside of"):
        read(path)


def test_bases_without_end(write):
    """Each file names the next one several times: few bytes, billions of readings."""
    files = {f"base{n}": f"_base_ = ['base{n + 1}.py'] * 3" for n in range(9)}
    with pytest.raises(UserError, match=f"more than {MAX_FILES} files"):
        read(write(own="_base_ = '../_base_/base0.py'", base9="", **files))


def test_merging_changes_neither():
    base, own = {"a": {"b": 1, "c": [1]}}, {"a": {"b": 2, "d": {"_delete_": True, "e": 1}}}
    before = json.dumps([base, own])
    assert merge(base, own, "x") == {"a": {"b": 2, "c": [1], "d": {"e": 1}}}
    assert json.dumps([base, own]) == before
