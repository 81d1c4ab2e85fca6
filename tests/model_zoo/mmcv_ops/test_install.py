"""Who answers for mmcv's compiled ops, and what the missing ones say."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys

import pytest

from model_zoo.mmcv_ops import ensure_ops

NAME = "mmcv._ext"


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """As in a new process: nobody answers yet, and mmcv also looks into ``tmp_path``."""
    import mmcv

    monkeypatch.setitem(sys.modules, NAME, None)  # both are put back as they were afterwards
    del sys.modules[NAME]
    monkeypatch.setattr(mmcv, "_ext", None, raising=False)
    monkeypatch.setattr(mmcv, "__path__", [str(tmp_path), *mmcv.__path__])
    importlib.invalidate_caches()
    return tmp_path


def test_is_idempotent():
    first = ensure_ops()
    module = sys.modules[NAME]
    assert ensure_ops() == first
    assert sys.modules[NAME] is module


def test_a_real_extension_wins(fresh):
    (fresh / "_ext.py").write_text("def nms(*args, **kwargs):\n    return 'compiled'\n")
    assert ensure_ops() == "extension"
    assert ensure_ops() == "extension"
    assert sys.modules[NAME].nms() == "compiled"


def test_an_extension_that_does_not_load_is_passed_over_and_reported(fresh, caplog):
    (fresh / f"_ext{importlib.machinery.EXTENSION_SUFFIXES[0]}").write_bytes(
        b"compiled against another torch"
    )
    assert ensure_ops() == "torchvision"
    assert "cannot be loaded" in caplog.text


def test_without_extension_torchvision_answers(fresh):
    assert ensure_ops() == "torchvision"
    assert importlib.util.find_spec(NAME) is not None
    import mmcv.ops  # noqa: F401  # looks up every op there is

    assert "torchvision" in sys.modules[NAME].get_compiler_version()
    assert isinstance(sys.modules[NAME].get_compiling_cuda_version(), str)


@pytest.mark.parametrize(
    "op", ["ms_deform_attn_forward", "nms_rotated", "carafe_forward", "border_align_forward"]
)
def test_a_missing_op_complains_only_when_called(fresh, op):
    ensure_ops()
    function = getattr(sys.modules[NAME], op)
    with pytest.raises(NotImplementedError, match=f"{op}.*install an onedl-mmcv built with its ops"):
        function(1, two=2)


def test_private_names_are_no_ops(fresh):
    ensure_ops()
    assert not hasattr(sys.modules[NAME], "__path__")
