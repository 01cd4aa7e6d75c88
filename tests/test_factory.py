"""create_model: every form of name, every source of weights, every way to go wrong."""

import contextlib
import dataclasses
import json
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny_family import TinyConfig, author_state, registered_bare, registered_tiny, trained
from torch import nn

import madzoo.factory
from madzoo.checkpoint import folder as folder_module
from madzoo.checkpoint.folder import Checkpoint, write_folder
from madzoo.checkpoint.weights import sha256_of
from madzoo.errors import CheckpointError, ConfigError, DownloadError, MadzooError, UnknownModelError, UnknownTagError
from madzoo.factory import model_info
from madzoo.registry import PretrainedCfg

# Untyped, so that wrong arguments can be tried and a family's own attributes read.
create_model: Any = madzoo.factory.create_model
list_models: Any = madzoo.factory.list_models
NAME = "test_tiny.data"
CFG = PretrainedCfg(
    license="mit", mean=(0.4, 0.6), std=(0.1, 0.3), class_names=("a", "b", "c"), hub_id="alice/tiny", crop_pct=0.9
)
IMAGES = torch.linspace(-1, 1, 64).reshape(2, 2, 4, 4)


@pytest.fixture(autouse=True)
def family(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "PACKAGE", tmp_path / "installed" / "madzoo")
    weights = {"data": CFG, "authors": PretrainedCfg(hub_id="bob/tiny", filename="tiny.pth")}
    with registered_tiny("test_tiny", weights), registered_bare("test_bare"):
        yield


def write(path, model=None, **changes) -> Checkpoint:
    model = model or trained()
    with torch.no_grad():
        golden = (IMAGES[:, : model.config.in_chans], model(IMAGES[:, : model.config.in_chans]))
    given = {"architecture": NAME, "model_args": {}, "pretrained_cfg": CFG.to_dict()}
    return write_folder(path, **{**given, "state": model.state_dict(), "golden": golden, **changes})


@pytest.fixture
def bundled(tmp_path):
    return write(tmp_path / "installed" / "model_cards" / NAME)


def assert_same(model, other):
    for (name, tensor), (other_name, expected) in zip(
        model.state_dict().items(), other.state_dict().items(), strict=True
    ):
        assert name == other_name
        torch.testing.assert_close(tensor, expected, rtol=0, atol=0, check_dtype=False)


class TestRandom:
    """Random weights."""

    def test_bare_architecture(self):
        model = create_model("test_tiny", num_classes=7, rate=1)
        assert model.config == TinyConfig(num_classes=7, rate=1.0)
        assert model.madzoo_name == "test_tiny"
        assert model.training
        assert model.pretrained_cfg["sha256"] is None

    def test_tag_gives_its_configuration_alone(self, tmp_path):
        with registered_tiny("test_other", {"data": PretrainedCfg(model_args={"width": 9})}):
            assert create_model("test_other.data").config.width == 9
            assert create_model("test_other").config.width == 5

    def test_seed_decides(self):
        first, second = (seeded(lambda: create_model("test_tiny")) for _ in range(2))
        assert_same(first, second)

    def test_meta_device_and_default_dtype_are_honoured(self):
        with torch.device("meta"):
            assert all(p.is_meta for p in create_model("test_tiny").parameters())
        with default_dtype(torch.float64):
            assert create_model("test_tiny").stem.weight.dtype == torch.float64

    def test_labels_follow_the_options(self):
        cfg = create_model("test_tiny", num_classes=2, in_chans=1, img_size=8).pretrained_cfg
        assert cfg["input_size"] == [1, 8, 8]
        assert cfg["mean"] == [0.5]
        assert cfg["num_classes"] == 2
        assert cfg["class_names"] is None
        assert (cfg["architecture"], cfg["tag"], cfg["crop_pct"]) == ("test_tiny", None, 0.9)
        assert json.loads(json.dumps(cfg)) == cfg


class TestBundled:
    """Weights that came with the package."""

    @pytest.mark.parametrize("name", [NAME, "test_tiny", "test_tiny-default"])
    def test_are_found_first(self, bundled, name):
        model = create_model(name, pretrained=True, verify=True)
        assert_same(model, trained())
        assert model.training
        assert model.madzoo_name == NAME
        assert model.pretrained_cfg["sha256"] == bundled.sha256
        assert model.pretrained_cfg["class_names"] == ["a", "b", "c"]

    def test_need_no_network(self, bundled, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert_same(create_model(NAME, pretrained=True), trained())

    def test_must_be_what_the_registry_says(self, bundled):
        write(bundled.path, trained(width=6), model_args={"width": 6})
        with pytest.raises(CheckpointError, match="width 6 instead of 5"):
            create_model(NAME, pretrained=True)
        write(bundled.path, architecture="test_tiny.other")
        with pytest.raises(CheckpointError, match=r"architecture 'test_tiny\.other'"):
            create_model(NAME, pretrained=True)

    def test_must_have_the_hash_the_registry_pins(self, bundled):
        with registered_tiny("test_pinned", {"data": PretrainedCfg(sha256="0" * 64)}):
            write(bundled.path.with_name("test_pinned.data"), architecture="test_pinned.data")
            with pytest.raises(CheckpointError, match="sha256"):
                create_model("test_pinned.data", pretrained=True)

    def test_default_dtype_widens(self, bundled):
        with default_dtype(torch.float64):
            model = create_model(NAME, pretrained=True, verify=True)
        assert model.stem.weight.dtype == torch.float64
        assert_same(model, trained())

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_default_dtype_never_narrows(self, bundled, dtype):
        with default_dtype(dtype), pytest.raises(CheckpointError, match="dtype"):
            create_model(NAME, pretrained=True)

    def test_meta_device_checks_and_stays_meta(self, bundled):
        with torch.device("meta"):
            assert all(p.is_meta for p in create_model(NAME, pretrained=True).parameters())
            with pytest.raises(ConfigError, match="meta device"):
                create_model(NAME, pretrained=True, verify=True)
        write(bundled.path, trained(width=6))
        with torch.device("meta"), pytest.raises(CheckpointError, match="do not fit"):
            create_model(NAME, pretrained=True)


class TestOverrides:
    """Weights under other options."""

    def test_changed_tensors_are_named_in_one_line(self, bundled, caplog):
        model = create_model(NAME, pretrained=True, num_classes=7, in_chans=1)
        kept = trained()
        torch.testing.assert_close(model.stem.weight, kept.stem.weight.sum(1, keepdim=True))
        torch.testing.assert_close(model.stem.bias, kept.stem.bias)
        assert model.head.weight.shape == (7, 5)
        line = f"{NAME} with other options than its weights: head.bias, head.weight initialised afresh; "
        assert caplog.messages == [line + "stem.weight adapted"]

    def test_no_head_leaves_it_out(self, bundled, caplog):
        assert isinstance(create_model(NAME, pretrained=True, num_classes=0).head, torch.nn.Identity)
        assert "head.bias, head.weight left out" in caplog.text

    def test_dropped_tensors_keep_their_initialisation(self, bundled):
        random = seeded(lambda: create_model("test_tiny", num_classes=7))
        adapted = seeded(lambda: create_model(NAME, pretrained=True, num_classes=7))
        assert torch.equal(random.head.weight, adapted.head.weight)

    def test_options_that_weights_do_not_depend_on_are_silent(self, bundled, caplog):
        model = create_model(NAME, pretrained=True, rate=0.5, img_size=9, verify=True)
        assert (model.config.rate, model.pretrained_cfg["input_size"]) == (0.5, [2, 9, 9])
        assert not caplog.messages

    def test_any_other_misfit_is_refused(self, bundled):
        with pytest.raises(CheckpointError, match=r"stem.weight \(5, 2\) instead of \(6, 2\)") as refusal:
            create_model(NAME, pretrained=True, width=6)
        assert str(bundled.weights_path) in str(refusal.value)

    def test_without_adaptation_a_misfit_is_refused(self, tmp_path):
        write(tmp_path / "a", architecture="test_bare")
        with pytest.raises(CheckpointError, match="do not fit test_bare"):
            create_model(f"local-dir:{tmp_path / 'a'}", num_classes=7)

    def test_adapted_weights_cannot_be_verified(self, bundled):
        with pytest.raises(ConfigError, match="golden"):
            create_model(NAME, pretrained=True, num_classes=7, verify=True)


class TestLocal:
    """``local-dir:``: the folder decides."""

    def test_configuration_and_weights(self, tmp_path):
        model = trained(width=6, num_classes=4)
        args = {"width": 6, "num_classes": 4}
        checkpoint = write(tmp_path / "run", model, architecture="test_tiny.mine", model_args=args)
        loaded = create_model(f"local-dir:{tmp_path / 'run'}", verify=True)
        assert_same(loaded, model)
        assert loaded.madzoo_name == "test_tiny.mine"
        assert loaded.pretrained_cfg["sha256"] == checkpoint.sha256
        assert create_model(f"local-dir:{tmp_path / 'run'}", num_classes=2).head.weight.shape == (2, 6)

    def test_without_weights(self, tmp_path):
        checkpoint = write(tmp_path / "run", trained(width=6), model_args={"width": 6})
        checkpoint.weights_path.unlink()
        assert create_model(f"local-dir:{tmp_path / 'run'}", pretrained=False).config.width == 6
        for pretrained in (None, True):
            with pytest.raises(CheckpointError, match="is missing"):
                create_model(f"local-dir:{tmp_path / 'run'}", pretrained)

    def test_bare_architecture_name(self, tmp_path):
        write(tmp_path, architecture="test_bare")
        assert create_model(f"local-dir:{tmp_path}").madzoo_name == "test_bare"

    @pytest.mark.parametrize(
        "changes",
        [
            {"architecture": "test_unknown.data"},
            {"architecture": "../x"},
            {"model_args": {"widht": 6}},
            {"model_args": {"width": "6"}},
            {"model_args": {"width": -6}},
            {"pretrained_cfg": {"licence": "mit"}},
            {"quantization": {"bits": 4}},
        ],
    )
    def test_folder_of_no_model_is_refused_by_name(self, tmp_path, changes):
        write(tmp_path)
        values = json.loads((tmp_path / "config.json").read_text()) | changes
        (tmp_path / "config.json").write_text(json.dumps(values))
        with pytest.raises(CheckpointError) as refusal:
            create_model(f"local-dir:{tmp_path}")
        assert str(tmp_path / "config.json") in str(refusal.value)
        assert "try: " in str(refusal.value)

    def test_verify_compares_the_answer(self, tmp_path):
        checkpoint = write(tmp_path)
        other = {"state": trained(1).state_dict(), "golden": None}
        golden = checkpoint.golden_path.read_bytes()
        write(tmp_path, **other)
        checkpoint.golden_path.write_bytes(golden)
        with pytest.raises(CheckpointError, match="other weights"):
            create_model(f"local-dir:{tmp_path}", verify=True)
        write(tmp_path, golden=(IMAGES, torch.ones(2, 3)))
        with pytest.raises(CheckpointError, match="was not repeated"):
            create_model(f"local-dir:{tmp_path}", verify=True)
        write(tmp_path, golden=(torch.ones(3), torch.ones(3)))
        with pytest.raises(CheckpointError, match="the golden input fails"):
            create_model(f"local-dir:{tmp_path}", verify=True)
        write(tmp_path, golden=None)
        with pytest.raises(CheckpointError, match="is missing"):
            create_model(f"local-dir:{tmp_path}", verify=True)


class TestFile:
    """``checkpoint_path``."""

    def test_own_folder_decides_the_configuration(self, tmp_path):
        model = trained(width=6)
        write(tmp_path / "run", model, architecture="test_tiny.mine", model_args={"width": 6})
        loaded = create_model("test_tiny", checkpoint_path=tmp_path / "run", verify=True)
        assert_same(loaded, model)
        assert loaded.madzoo_name == "test_tiny.mine"

    def test_folder_of_another_architecture_is_refused(self, tmp_path):
        write(tmp_path)
        with pytest.raises(CheckpointError, match="weights of test_tiny"):
            create_model("test_bare", checkpoint_path=tmp_path)

    def test_own_file(self, tmp_path):
        checkpoint = write(tmp_path)
        loaded = create_model(NAME, checkpoint_path=str(checkpoint.weights_path))
        assert_same(loaded, trained())
        assert loaded.madzoo_name == "test_tiny"
        assert loaded.pretrained_cfg["sha256"] == checkpoint.sha256
        assert loaded.pretrained_cfg["crop_pct"] == 0.9
        create_model(NAME, checkpoint_path=checkpoint.weights_path, verify=True)
        checkpoint.golden_path.unlink()
        with pytest.raises(CheckpointError, match=r"golden\.safetensors is missing"):
            create_model(NAME, checkpoint_path=checkpoint.weights_path, verify=True)

    @pytest.mark.parametrize("pretrained", [None, True, False])
    def test_authors_file_is_remapped(self, tmp_path, pretrained):
        state = {f"module.{name}": tensor for name, tensor in author_state(trained()).items()}
        torch.save({"model": state, "epoch": 3}, tmp_path / "w.pth.tar")
        assert_same(create_model("test_tiny", pretrained, checkpoint_path=tmp_path / "w.pth.tar"), trained())
        save_file(state, tmp_path / "w.safetensors")
        assert_same(create_model("test_tiny", pretrained, checkpoint_path=tmp_path / "w.safetensors"), trained())

    def test_file_that_fits_the_options_is_taken_whole(self, tmp_path, caplog):
        checkpoint = write(tmp_path, trained(num_classes=7))
        loaded = create_model("test_tiny", checkpoint_path=checkpoint.weights_path, num_classes=7)
        assert_same(loaded, trained(num_classes=7))
        assert not caplog.messages

    def test_file_that_fits_the_architecture_is_adapted(self, tmp_path, caplog):
        checkpoint = write(tmp_path)
        loaded = create_model("test_tiny", checkpoint_path=checkpoint.weights_path, num_classes=7)
        torch.testing.assert_close(loaded.stem.weight, trained().stem.weight)
        assert "head.bias, head.weight initialised afresh" in caplog.text

    def test_foreign_names_are_refused(self, tmp_path):
        torch.save({"resnet.weight": torch.zeros(2)}, tmp_path / "w.pth")
        with pytest.raises(CheckpointError, match=r"not those of test_tiny") as refusal:
            create_model("test_tiny", checkpoint_path=tmp_path / "w.pth")
        assert str(tmp_path / "w.pth") in str(refusal.value)
        with pytest.raises(CheckpointError, match="1 unexpected"):
            create_model("test_bare", checkpoint_path=tmp_path / "w.pth")

    def test_wider_file_is_refused_and_a_wider_model_takes_it(self, tmp_path):
        model = trained().double()
        torch.save(author_state(model), tmp_path / "w.pth")
        with pytest.raises(CheckpointError, match="set_default_dtype"):
            create_model("test_tiny", checkpoint_path=tmp_path / "w.pth")
        with default_dtype(torch.float64):
            assert_same(create_model("test_tiny", checkpoint_path=tmp_path / "w.pth"), model)

    def test_it_replaces_the_weights_of_a_folder(self, tmp_path):
        write(tmp_path / "run", trained(width=6), model_args={"width": 6})
        torch.save(author_state(trained(1, width=6)), tmp_path / "w.pth")
        loaded = create_model(f"local-dir:{tmp_path / 'run'}", checkpoint_path=tmp_path / "w.pth")
        assert_same(loaded, trained(1, width=6))


class TestHub:
    """Weights on the Hub."""

    def push(self, hub, tmp_path, repo="alice/tiny", model=None, **changes):
        write(tmp_path / "pushed", model, **changes)
        files = {path.name: path.read_bytes() for path in (tmp_path / "pushed").iterdir()}
        shutil.rmtree(tmp_path / "pushed")
        return hub.push(repo, files)

    def test_repository_decides(self, hub, tmp_path):
        model = trained(width=6)
        first = self.push(hub, tmp_path, model=model, model_args={"width": 6}, architecture="test_tiny.hers")
        self.push(hub, tmp_path, model=trained(1))
        for name, revision in ((f"hf-hub:alice/tiny@{first}", None), ("hf-hub:alice/tiny", first)):
            loaded = create_model(name, revision=revision, cache_dir=tmp_path / "cache", verify=True)
            assert_same(loaded, model)
            assert loaded.madzoo_name == "test_tiny.hers"
        assert_same(create_model("hf-hub:alice/tiny", True, cache_dir=tmp_path / "cache"), trained(1))

    def test_without_weights_fetches_the_configuration_alone(self, hub, tmp_path):
        self.push(hub, tmp_path)
        create_model("hf-hub:alice/tiny", pretrained=False, cache_dir=tmp_path / "cache")
        assert not hub.seen("GET", "model.safetensors")

    def test_registered_name_is_pulled_pinned_and_then_cached(self, hub, tmp_path, monkeypatch):
        self.push(hub, tmp_path)
        assert_same(create_model(NAME, True, cache_dir=tmp_path / "cache", verify=True), trained())
        self.push(hub, tmp_path, model=trained(1))
        hub.requests.clear()
        assert_same(create_model(NAME, True, cache_dir=tmp_path / "cache"), trained())
        assert not hub.requests
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert_same(create_model(NAME, True, cache_dir=tmp_path / "cache"), trained())

    def test_revision_of_a_registered_name(self, hub, tmp_path):
        self.push(hub, tmp_path)
        second = self.push(hub, tmp_path, model=trained(1))
        loaded = create_model(NAME, pretrained=True, revision=second, cache_dir=tmp_path / "cache")
        assert_same(loaded, trained(1))

    def test_authors_file_on_the_hub(self, hub, tmp_path):
        torch.save({"model": author_state(trained())}, tmp_path / "tiny.pth")
        hub.push("bob/tiny", {"tiny.pth": (tmp_path / "tiny.pth").read_bytes()})
        loaded = create_model("test_tiny.authors", pretrained=True, cache_dir=tmp_path / "cache")
        assert_same(loaded, trained())
        assert loaded.pretrained_cfg["sha256"] == sha256_of(tmp_path / "tiny.pth")

    def test_bundled_comes_before_the_hub(self, hub, tmp_path, bundled):
        self.push(hub, tmp_path, model=trained(1))
        assert_same(create_model(NAME, pretrained=True, cache_dir=tmp_path / "cache"), trained())
        assert not hub.requests

    def test_repository_of_another_library_is_refused(self, hub, tmp_path):
        hub.push("alice/tiny", {"config.json": b'{"architecture": "resnet18", "num_classes": 3}'})
        with pytest.raises(CheckpointError, match=r"config\.json.*\n.*\n.*\n.*timm"):
            create_model("hf-hub:alice/tiny", cache_dir=tmp_path / "cache")

    @pytest.mark.parametrize("offline", [True, False])
    def test_nothing_anywhere_names_every_place(self, hub, tmp_path, monkeypatch, offline):
        if offline:
            monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(DownloadError) as refusal:
            create_model(NAME, pretrained=True, cache_dir=tmp_path / "cache")
        message = str(refusal.value)
        for place in (tmp_path / "installed" / "model_cards" / NAME, tmp_path / "cache", hub.url):
            assert str(place) in message
        assert "alice/tiny" in message
        assert "try: " in message


class TestNames:
    """Names, tags and the listing."""

    @pytest.mark.parametrize("name", ["test_tinny", "Test_Tiny", "test_tiny.", "test tiny", "test_tiny.data.x", "élan"])
    def test_unknown_name(self, name):
        with pytest.raises(UnknownModelError, match="no model is named"):
            create_model(name)

    def test_unknown_tag_is_never_random(self):
        for pretrained in (None, True, False):
            with pytest.raises(UnknownTagError, match=re.escape(NAME)):
                create_model("test_tiny.dat", pretrained)

    def test_no_weights_is_never_random(self):
        with pytest.raises(UnknownTagError, match="has no weights tagged"):
            create_model("test_bare", pretrained=True)

    def test_unpublished_weights_name_where_they_would_lie(self, tmp_path):
        with registered_tiny("test_other", {"data": PretrainedCfg()}), pytest.raises(CheckpointError) as refusal:
            create_model("test_other.data", pretrained=True)
        assert str(tmp_path / "installed" / "model_cards" / "test_other.data") in str(refusal.value)

    def test_unknown_option_suggests_the_nearest(self):
        with pytest.raises(ConfigError, match="did you mean num_classes"):
            create_model("test_tiny", num_clases=3)

    def test_listing(self):
        assert list_models("test_*") == ["test_bare", "test_tiny"]
        assert list_models("test_*", pretrained=True) == ["test_tiny.authors", NAME]
        assert list_models("test_*", pretrained=False) == ["test_bare"]
        assert list_models("test_*", task="time-series-forecasting") == []

    @pytest.mark.parametrize("arguments", [{"task": "nonsense"}, {"task": 3}, {"pretrained": "yes"}, {"pattern": 3}])
    def test_listing_of_nonsense(self, arguments):
        with pytest.raises(ConfigError):
            list_models(**arguments)

    def test_info(self):
        info = model_info("test_tiny-default")
        assert info.full_name == NAME
        assert json.loads(json.dumps(info.to_dict()))["config"]["width"] == 5

    def test_every_family_is_registered_by_importing_the_factory(self):
        assert {"image-classification", "time-series-forecasting"} == {model_info(n).task for n in list_models()}


class TestTimm:
    """Baselines."""

    def test_model(self):
        model = create_model("timm/test_vit", num_classes=4)
        assert model.num_classes == 4
        assert model.madzoo_name == "timm/test_vit"

    def test_unknown_name_suggests_the_nearest(self):
        with pytest.raises(UnknownModelError, match="test_vit"):
            create_model("timm/test_vitt")

    @pytest.mark.parametrize(
        "arguments",
        [{"nonsense": 3}, {"num_classes": "x"}, {"checkpoint_path": "x"}, {"verify": True}],
    )
    def test_refusals(self, arguments):
        with pytest.raises(ConfigError):
            create_model("timm/test_vit", **arguments)

    def test_weights_out_of_reach(self, nowhere):
        with pytest.raises(DownloadError, match="timm"):
            create_model("timm/test_vit", pretrained=True, cache_dir=nowhere)


DAMAGES = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) * 2 // 3],
    "header cut": lambda content: content[:20],
    "corrupted": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "foreign": lambda content: b"PK\x03\x04" + content,
    "huge header": lambda content: struct.pack("<Q", 2**63) + content[8:],
    "LFS pointer": lambda content: b"version https://git-lfs.github.com/spec/v1\n",
}


@pytest.mark.parametrize("is_hashed", [True, False])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_are_refused_with_file_expectation_and_remedy(tmp_path, damage, is_hashed):
    checkpoint = write(tmp_path)
    checkpoint.weights_path.write_bytes(DAMAGES[damage](checkpoint.weights_path.read_bytes()))
    if not is_hashed:
        values = json.loads((tmp_path / "config.json").read_text())
        values["pretrained_cfg"]["sha256"] = None
        (tmp_path / "config.json").write_text(json.dumps(values))
        if damage == "corrupted":  # one flipped bit of one weight: only a hash can tell
            create_model(f"local-dir:{tmp_path}")
            return
    with pytest.raises(CheckpointError) as refusal:
        create_model(f"local-dir:{tmp_path}")
    for part in (str(checkpoint.weights_path), "resolved to: ", "try: "):
        assert part in str(refusal.value)


def test_weights_of_another_model_are_refused(tmp_path):
    checkpoint = write(tmp_path)
    save_file(create_model("weft_micro_patch4_28").state_dict(), checkpoint.weights_path)
    with pytest.raises(CheckpointError, match="instead of"):
        create_model(f"local-dir:{tmp_path}")
    with pytest.raises(CheckpointError, match="not those of test_tiny"):
        create_model("test_tiny", checkpoint_path=checkpoint.weights_path)


class Odd:
    """No argument of anything."""


OPTIONS = [field.name for field in dataclasses.fields(TinyConfig)]
HUGE = 10**400
ODD_VALUES = [
    None,
    True,
    -1,
    0,
    3,
    HUGE,
    0.5,
    float("nan"),
    float("inf"),
    1j,
    "",
    "x",
    "é",
    "\0",
    "\udc80",
    "a" * 5000,
]
ODD_VALUES += [b"x", [], [1], (), {}, {1}, Odd(), Odd, torch.zeros(1), Path("absent"), Path(), lambda: 0]
ODD_NAMES = [*ODD_VALUES, "test_tiny", NAME, "test_bare", "test_tiny.x", "..", "/", "a/b", "C:\\x", "timm/", "timm/x.y"]
ODD_NAMES += [
    f"{prefix}{rest}"
    for prefix in ("local-dir:", "hf-hub:")
    for rest in ("", "\0", "x", "a/b@", "../..", "~x", "\udc80")
]


ANSWERS = (nn.Module, MadzooError)


def answer(name, **arguments):
    """Returns the model or the refusal; whatever else is raised passes through, and fails the test."""
    try:
        return create_model(name, **arguments)
    except MadzooError as refusal:
        return refusal


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # timm asks huggingface_hub, which read it at import
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("label", ["name", "pretrained", "checkpoint_path", "revision", "cache_dir", "verify"])
def test_no_argument_raises_anything_but_madzoo_errors(nowhere, label):
    for value in ODD_NAMES if label == "name" else ODD_VALUES:
        for name in ("test_tiny", NAME, "local-dir:x", "hf-hub:a/b", "timm/test_vit"):
            for pretrained in (None, True):
                assert isinstance(answer(**{"name": name, "pretrained": pretrained, label: value}), ANSWERS)


@pytest.mark.parametrize("option", [*OPTIONS, "nonsense"])
def test_no_override_raises_anything_but_madzoo_errors(nowhere, bundled, option):
    for value in ODD_VALUES:
        assert isinstance(answer("test_tiny", **{option: value}), ANSWERS)
        assert isinstance(answer(NAME, pretrained=True, verify=True, **{option: value}), ANSWERS)


@pytest.mark.parametrize("name", ["weft_micro_patch4_28", "vim_micro_patch4_32", "patch_s4d_nano_336_96"])
def test_no_override_of_a_real_model_raises_anything_but_madzoo_errors(name):
    options = model_info(name).to_dict()["config"]
    assert options
    for option in options:
        for value in ODD_VALUES:
            with torch.device("meta"):
                assert isinstance(answer(name, **{option: value}), ANSWERS)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.one_of(
        st.text(),
        st.sampled_from(["local-dir:", "hf-hub:", "timm/", "test_tiny."]).flatmap(
            lambda prefix: st.text().map(lambda rest: prefix + rest)
        ),
    ),
    pretrained=st.sampled_from([None, True, False]),
    revision=st.one_of(st.none(), st.text()),
    overrides=st.dictionaries(st.sampled_from(OPTIONS), st.one_of(st.integers(-3, 9), st.text(), st.none())),
)
def test_arbitrary_text_raises_nothing_but_madzoo_errors(nowhere, name, pretrained, revision, overrides):
    for text in (name, "test_tiny"):
        arguments = {"pretrained": pretrained, "revision": revision, "cache_dir": nowhere}
        assert isinstance(answer(text, **arguments, **overrides), ANSWERS)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_arbitrary_config_raises_nothing_but_madzoo_errors(tmp_path, data):
    write(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key in data.draw(st.lists(st.sampled_from(sorted(config)), max_size=2)):
        config[key] = data.draw(json_values)
    config["model_args"] = data.draw(st.one_of(st.just({}), st.fixed_dictionaries({"width": json_values}), json_values))
    for key in data.draw(st.lists(st.sampled_from(sorted(CFG.to_dict())), max_size=2)):
        if isinstance(config["pretrained_cfg"], dict):
            config["pretrained_cfg"][key] = data.draw(json_values)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert isinstance(answer(f"local-dir:{tmp_path}", verify=True), ANSWERS)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_raise_nothing_but_madzoo_errors(tmp_path, data):
    checkpoint = write(tmp_path)
    for path in (checkpoint.weights_path, checkpoint.golden_path):
        content = bytearray(path.read_bytes())
        for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
            content[position] = data.draw(st.integers(0, 255))
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    assert isinstance(answer(f"local-dir:{tmp_path}", verify=True), ANSWERS)
    assert isinstance(answer("test_tiny", checkpoint_path=checkpoint.weights_path), ANSWERS)


def seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return build()


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
