"""The torchvision shim: it cures a torchvision without operators, and leaves every other one alone."""

import importlib.util
import subprocess
import sys

import pytest

from madzoo import _torchvision_shim as shim


@pytest.fixture
def declared(monkeypatch):
    """Pretends that nothing was declared or imported yet; collects the schemas that the shim declares."""
    schemas = []

    class Library:
        def __init__(self, *names):
            assert names == ("torchvision", "DEF")

        def define(self, schema):
            schemas.append(schema)

    monkeypatch.setattr(shim, "_DECLARED", [])
    monkeypatch.setattr(shim.torch.library, "Library", Library)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    return schemas


def test_missing_operators_are_declared_once(declared, monkeypatch):
    monkeypatch.setattr(shim, "_operators_load", lambda folder: False)
    shim.ensure_torchvision()
    shim.ensure_torchvision()
    assert [schema.partition("(")[0] for schema in declared] == ["nms", "qnms"]


@pytest.mark.parametrize("state", ["sound", "imported", "absent"])
def test_nothing_is_declared_elsewhere(declared, monkeypatch, state):
    monkeypatch.setattr(shim, "_operators_load", lambda folder: state == "sound")
    if state == "imported":
        monkeypatch.setitem(sys.modules, "torchvision", sys)
    if state == "absent":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    shim.ensure_torchvision()
    assert not declared


def test_a_folder_without_a_library_has_no_operators(tmp_path):
    assert not shim._operators_load(tmp_path)
    (tmp_path / f"_C{shim.EXTENSION_SUFFIXES[0]}").write_bytes(b"no library")
    assert not shim._operators_load(tmp_path)


@pytest.mark.parametrize("name", ["_C", "_C_stable"])
def test_a_library_of_either_name_is_tried(tmp_path, monkeypatch, name):
    tried = []
    monkeypatch.setattr(shim.torch.ops, "load_library", tried.append)
    (tmp_path / f"{name}{shim.EXTENSION_SUFFIXES[0]}").touch()
    (tmp_path / f"image{shim.EXTENSION_SUFFIXES[0]}").touch()
    assert shim._operators_load(tmp_path)
    assert [path.name for path in tried] == [f"{name}{shim.EXTENSION_SUFFIXES[0]}"]


def test_timm_and_torchmetrics_can_be_imported():
    script = (
        "from madzoo._torchvision_shim import ensure_torchvision; ensure_torchvision();"
        "import torchvision, timm, torchmetrics; print(timm.create_model('resnet18').num_classes)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "1000"
