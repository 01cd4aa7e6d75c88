"""``create_model(arch, checkpoint_path=FILE)`` against files as authors publish them, friendly and hostile."""

import argparse
import builtins
import collections
import os
import pathlib
import pickle
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_images import TINY, images, tiny

from madzoo.errors import CheckpointError, ConfigError
from madzoo.factory import create_model

EVERY_FAMILY = pytest.mark.parametrize("family", TINY)


@pytest.fixture
def yacs(monkeypatch):
    """Stands in for the package that VMamba's authors stored a configuration with; it is gone when a file is read."""

    class CfgNode(dict):
        def __init__(self, values=None):
            super().__init__({k: CfgNode(v) if isinstance(v, dict) else v for k, v in (values or {}).items()})
            self.__dict__.update({"__immutable__": True, "__deprecated_keys__": set(), "__renamed_keys__": {}})

    config = types.ModuleType("yacs.config")
    CfgNode.__module__, CfgNode.__qualname__, config.CfgNode = "yacs.config", "CfgNode", CfgNode
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
        patch.setitem(sys.modules, "yacs.config", config)
        yield CfgNode


def write(path, content, **options):
    torch.save(content, path, **options)
    return path


def load(family, path, **options):
    arch, fields = TINY[family]
    return create_model(arch, checkpoint_path=path, **{**fields, **options}).eval()


def assert_same(loaded, model):
    with torch.no_grad():
        assert torch.equal(loaded(images()), model(images()))


def averaged(state):
    return {key: value / 2 if value.is_floating_point() else value for key, value in state.items()}


def prefixed(prefix, state):
    return collections.OrderedDict((prefix + key, value) for key, value in state.items())


LAYOUTS = {
    "bare.pth": lambda s: s,
    "deit.pth": lambda s: {
        "model": s,
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-3}]},
        "lr_scheduler": {"base_values": [1e-3], "metric": None},
        "epoch": 299,
        "model_ema": averaged(s),
        "scaler": {"scale": 65536.0, "growth_factor": 2.0},
        "args": argparse.Namespace(lr=1e-3, output_dir=pathlib.Path("out"), betas=(0.9, 0.95)),
    },
    "timm.pth.tar": lambda s: {
        "epoch": 1,
        "arch": "m",
        "state_dict": s,
        "state_dict_ema": averaged(s),
        "version": 2,
        "args": argparse.Namespace(opt="lamb", opt_betas=None),
        "metric": np.float64(82.3),
    },
    "parallel.pth": lambda s: {"state_dict": prefixed("module.", s), "best_acc": torch.tensor(1.0)},
    "compiled.ckpt": lambda s: {"model": prefixed("module._orig_mod.", s), "loss": np.zeros(3)},
    "mmcls.pth": lambda s: {
        "meta": {"epoch": 300, "CLASSES": ["tench"], "hook_msgs": {}, "time": "Mon"},
        "state_dict": prefixed("backbone.", s),
    },
    "nested.ckpt": lambda s: {"model": {"state_dict": s}},
    "averaged_alone.pth": lambda s: {"model_ema": s, "model": None, "epoch": 4},
}


@EVERY_FAMILY
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_load(family, layout, tmp_path):
    model = tiny(family)
    assert_same(load(family, write(tmp_path / layout, LAYOUTS[layout](model.state_dict()))), model)


@EVERY_FAMILY
def test_safetensors_and_old_pickles_load(family, tmp_path):
    model = tiny(family)
    save_file(prefixed("module.", model.state_dict()), tmp_path / "w.safetensors", metadata={"format": "pt"})
    old = write(tmp_path / "w.pth", {"model": model.state_dict()}, _use_new_zipfile_serialization=False)
    for path in (tmp_path / "w.safetensors", old):
        assert_same(load(family, path), model)


@EVERY_FAMILY
def test_linear_layers_and_pointwise_convolutions_are_one(family, tmp_path):
    model = tiny(family)
    wide = {
        key: value[:, :, None, None] if value.dim() == 2 and key.endswith("weight") else value
        for key, value in model.state_dict().items()
    }
    assert any(value.dim() == 4 for value in wide.values())
    assert_same(load(family, write(tmp_path / "w.pth", {"model": wide})), model)


@EVERY_FAMILY
def test_every_key_is_accounted_for(family, tmp_path):
    state = tiny(family).state_dict()
    first, last = next(iter(state)), list(state)[-1]
    extra = {f"blocks_of_another.{i}.w": torch.zeros(1) for i in range(30)}
    changed = {key: value for key, value in state.items() if key != first} | extra | {last: torch.zeros(1, 2, 3)}
    with pytest.raises(CheckpointError) as refusal:
        load(family, write(tmp_path / "w.pth", changed))
    message = str(refusal.value)
    for part in (f"1 missing ({first})", "30 unexpected (blocks_of_another.*.w x 30)", f"{last} (1, 2, 3)"):
        assert part in message


def test_a_configuration_of_yacs_is_left_closed(tmp_path, yacs, monkeypatch):
    model = tiny("vmamba")
    config = yacs({"MODEL": {"TYPE": "vssm", "VSSM": {"EMBED_DIM": 96}}, "TRAIN": {"BASE_LR": 5e-4}})
    content = {"model": model.state_dict(), "max_accuracy": 82.6, "epoch": 264, "config": config}
    path = write(tmp_path / "vssm1_tiny_0230s_ckpt_epoch_264.pth", content)
    monkeypatch.delitem(sys.modules, "yacs.config")
    monkeypatch.delitem(sys.modules, "yacs")
    assert_same(load("vmamba", path), model)
    assert not any(name.startswith("yacs") for name in sys.modules)


def test_averaged_weights_are_chosen_by_one_rule(tmp_path, caplog):
    model = tiny("vim")
    state = model.state_dict()
    both = write(tmp_path / "both.pth", {"model_ema": averaged(state), "model": state})
    assert_same(load("vim", both), model)
    assert "holds model and model_ema; model is read (use_ema=True" in caplog.text
    caplog.clear()
    assert_same(load("vim", both, use_ema=False), model)
    halved = load("vim", both, use_ema=True)
    assert torch.equal(halved.norm_f.weight, model.norm_f.weight / 2)
    assert not caplog.records


def test_averaged_weights_that_are_not_there_are_told(tmp_path):
    state = tiny("vim").state_dict()
    raw, ema = (write(tmp_path / f"{key}.pth", {key: state}) for key in ("model", "state_dict_ema"))
    with pytest.raises(CheckpointError, match="use_ema=True"):
        load("vim", raw, use_ema=True)
    with pytest.raises(CheckpointError, match="use_ema=False"):
        load("vim", ema, use_ema=False)
    with pytest.raises(CheckpointError, match="no averaged weights"):
        create_model("weft_micro_patch4_32", pretrained=True, use_ema=True)
    with pytest.raises(ConfigError, match="only loaded weights"):
        create_model("vim_nano_patch4_32", use_ema=True)
    with pytest.raises(ConfigError, match="use_ema"):
        create_model("timm/test_vit", use_ema=True)


class Calls:
    """A pickle that calls a function when it is opened."""

    def __init__(self, function, *args):
        self.reduced = (function, args)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("place", ["model", "args", "epoch"])
@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize(
    ("function", "args"),
    [
        (os.system, [lambda path: f"touch {path}"]),
        (builtins.eval, [lambda path: f"open({str(path)!r}, 'w')"]),
        (builtins.exec, [lambda path: f"open({str(path)!r}, 'w')"]),
        (subprocess.Popen, [lambda path: ["touch", str(path)]]),
        (open, [str, lambda _path: "w"]),
        (pathlib.Path.touch, [lambda path: path]),
        (getattr, [lambda path: path, lambda _path: "touch"]),
        (torch.load, [str]),
    ],
)
def test_hostile_pickles_are_refused_and_not_run(tmp_path, place, is_new, function, args):
    state, victim = tiny("vim").state_dict(), tmp_path / "victim"
    told = [arg(victim) for arg in args]
    path = tmp_path / "w.pth"
    write(path, {"model": state, place: Calls(function, *told)}, _use_new_zipfile_serialization=is_new)
    with pytest.raises(CheckpointError, match=r"cannot be read safely: .*GLOBAL"):
        load("vim", path)
    assert not victim.exists()


def test_what_is_left_closed_stays_closed(tmp_path):
    """Names that files may speak of are never looked up: a call of one makes an empty box."""
    state = tiny("vim").state_dict()
    scalar = Calls(np._core.multiarray.scalar, np.dtype("O"), {"a": 1})
    content = {"model": state, "metric": scalar, "args": Calls(argparse.Namespace)}
    assert_same(load("vim", write(tmp_path / "w.pth", content)), tiny("vim"))
    with pytest.raises(CheckpointError, match="thing that is not read"):
        load("vim", write(tmp_path / "x.pth", {"model": state | {"head.bias": np.float64(1)}}))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", pickle.dumps({"model": 1}), b"<!doctype html>"])
def test_what_is_no_weight_file_is_told(tmp_path, content):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"w\.pth"):
        load("vim", path)
