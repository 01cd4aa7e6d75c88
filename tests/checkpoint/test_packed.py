"""Packed checkpoint folders: written, loaded under every kind of name, adapted, refused when damaged; their card."""

import json
import re
import shutil

import pytest
import torch
import yaml
from hub_server import serve_hub
from safetensors.torch import load_file
from tiny_family import Tiny, TinyConfig, registered_tiny, trained

from madzoo.checkpoint import folder as folder_module
from madzoo.checkpoint.card import check_card, render_card, write_card
from madzoo.checkpoint.folder import read_folder, write_folder
from madzoo.checkpoint.packed import read_packing
from madzoo.checkpoint.weights import read_weights, sha256_of, write_weights
from madzoo.errors import CheckpointError
from madzoo.factory import create_model
from madzoo.quantization.packed_state import pack_state
from madzoo.quantization.plan import make_plan
from madzoo.quantization.quantized import load_quantized, quantize_weights
from madzoo.registry import PretrainedCfg

CFG = PretrainedCfg(license="mit", input_size=(2, 4, 4), mean=(0.4, 0.6), std=(0.1, 0.3), dataset="toys")
IMAGES = torch.linspace(-1, 1, 64).reshape(2, 2, 4, 4)


@pytest.fixture(autouse=True)
def family(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "PACKAGE", tmp_path / "installed" / "madzoo")
    with registered_tiny("test_packed", {"toys": CFG, "toys-int4": CFG}):
        yield


def write(path, *, bits=4, name="test_packed.toys-int4", **fields) -> tuple[Tiny, dict]:
    """Writes a folder of packed weights; returns the model on its levels and the manifest."""
    model = trained(**fields)
    weights = quantize_weights(model, make_plan(model, bits, group_size=3))
    load_quantized(model, weights)
    state, manifest = pack_state(
        model.state_dict(), weights, method="gauge", bits=bits, start="test_packed.toys", float_bytes=1000
    )
    with torch.no_grad():
        golden = (IMAGES, model(IMAGES))
    cfg = CFG.to_dict()
    write_folder(
        path, architecture=name, model_args=fields, pretrained_cfg=cfg, state=state, golden=golden, packing=manifest
    )
    return model, manifest


@pytest.fixture
def packed(tmp_path):
    return tmp_path / "run", *write(tmp_path / "run")


def assert_same(model, other):
    assert model.state_dict().keys() == other.state_dict().keys()
    for name, tensor in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_the_file_holds_bytes_and_its_own_manifest(packed):
    folder, _, manifest = packed
    checkpoint = read_folder(folder)
    stored = load_file(checkpoint.weights_path)
    assert stored["stem.weight"].dtype == torch.uint8 and len(stored["stem.weight"]) == 5  # 10 codes of 4 bits
    assert stored["stem.weight.scale"].shape == (5,) and stored["head.weight.scale"].shape == (6,)  # groups of 3 of 5
    assert read_packing(checkpoint.weights_path) == manifest
    assert checkpoint.config.quantization == {k: v for k, v in manifest.items() if k not in ("tensors", "ties")}
    assert checkpoint.sha256 == sha256_of(checkpoint.weights_path)


def test_writing_twice_gives_the_same_bytes(packed, tmp_path):
    folder, *_ = packed
    write(tmp_path / "again")
    assert all((tmp_path / "again" / p.name).read_bytes() == p.read_bytes() for p in folder.iterdir())


def test_every_name_loads_the_levels(packed, tmp_path):
    folder, model, _ = packed
    shutil.copytree(folder, tmp_path / "installed" / "model_cards" / "test_packed.toys-int4")
    loaded = create_model("test_packed.toys-int4", pretrained=True, verify=True)
    assert_same(loaded, model)
    assert loaded.madzoo_name == "test_packed.toys-int4"
    assert loaded.pretrained_cfg["sha256"] == sha256_of(folder / "model.safetensors")
    assert_same(create_model(f"local-dir:{folder}", verify=True), model)
    for path in (folder, folder / "model.safetensors"):
        assert_same(create_model("test_packed", checkpoint_path=path), model)
    torch.set_default_dtype(torch.float64)
    try:
        wide = create_model(f"local-dir:{folder}")
        assert wide.stem.weight.dtype == torch.float64 and torch.equal(wide.stem.weight.float(), model.stem.weight)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        assert create_model(f"local-dir:{folder}").stem.weight.is_meta


def test_the_hub_serves_a_folder_and_a_registered_file(packed, monkeypatch):
    folder, model, _ = packed
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with serve_hub() as hub, registered_tiny("test_served", {"toys-int4": PretrainedCfg(hub_id="alice/packed")}):
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.push("alice/packed", files)
        assert_same(create_model("hf-hub:alice/packed", verify=True), model)
        assert_same(create_model("test_served.toys-int4", pretrained=True, verify=True), model)


def test_other_options_adapt_the_unpacked_weights(packed, caplog):
    folder, model, _ = packed
    adapted = create_model(f"local-dir:{folder}", num_classes=7, in_chans=1)
    assert torch.equal(adapted.stem.weight, model.stem.weight.sum(1, keepdim=True))
    assert adapted.head.weight.shape == (7, 5) and "initialised afresh" in caplog.text


def test_a_folder_states_its_configuration(tmp_path):
    model, _ = write(tmp_path / "wide", bits=2, name="test_packed.mine-t2", width=9)
    loaded = create_model(f"local-dir:{tmp_path / 'wide'}", verify=True)
    assert_same(loaded, model)
    assert loaded.config == TinyConfig(width=9)


def edit(folder, change):
    values = json.loads((folder / "config.json").read_text())
    change(values["quantization"])
    (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda q: q.update(schema=2), "upgrade madzoo"),
        (lambda q: q.update(schema="1"), "quantization.schema"),
        (lambda q: q.update(colour="red"), "quantization.colour"),
        (lambda q: q.pop("method"), "quantization.method"),
        (lambda q: q.update(bits="4"), "quantization.bits"),
        (lambda q: q["grids"][0].pop("axis"), "quantization.grids.0.axis"),
    ],
)
def test_a_damaged_head_is_refused(packed, change, words):
    edit(packed[0], change)
    with pytest.raises(CheckpointError, match=re.escape(words)):
        create_model(f"local-dir:{packed[0]}")


def rewrite(folder, manifest_text):
    """Puts another manifest into the weight file, whose hash config.json then states."""
    path, file = folder / "config.json", folder / "model.safetensors"
    metadata = {"architecture": "test_packed.toys-int4", "packing": manifest_text}
    sha256 = write_weights(file, read_weights(file), metadata=metadata)
    values = json.loads(path.read_text())
    values["pretrained_cfg"]["sha256"] = sha256
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: {**m, "schema": 2}, "upgrade madzoo"),
        (lambda m: {**m, "colour": "red"}, "unknown key 'colour'"),
        (lambda m: {**m, "tensors": {**m["tensors"], "nobody": [0, 2]}}, "'nobody'"),
        (lambda m: [], "a list"),
    ],
)
def test_a_damaged_manifest_is_refused(packed, change, words):
    folder, _, manifest = packed
    rewrite(folder, json.dumps(change(manifest)))
    with pytest.raises(CheckpointError, match=words):
        create_model(f"local-dir:{folder}")


def test_a_manifest_that_is_no_json_is_refused(packed):
    rewrite(packed[0], "{")
    with pytest.raises(CheckpointError, match="no JSON object"):
        create_model(f"local-dir:{packed[0]}")


def test_a_tensor_that_is_not_packed_any_more_does_not_fit(packed):
    folder, _, manifest = packed
    tables = {name: row for name, row in manifest["tensors"].items() if name != "head.weight"}
    rewrite(folder, json.dumps({**manifest, "tensors": tables}))
    with pytest.raises(CheckpointError, match=r"do not fit[\s\S]*head.weight"):
        create_model(f"local-dir:{folder}")


def test_the_card_says_how_they_are_packed(packed):
    folder, *_ = packed
    write_card(folder)
    check_card(folder)
    text = render_card(folder)
    size = (folder / "model.safetensors").stat().st_size
    assert f"The file takes {size:,} bytes, {size / 1000:.3f} of the 1,000 of `test_packed.toys`." in text
    assert "matrices at 4 bits" in text and "| 4 | even | 3 elements of a slice of axis 0 |" in text
    block = yaml.safe_load(text.split("---")[1])["quantization"]
    assert block["method"] == "gauge" and block["size_ratio"] == round(size / 1000, 4)
    assert block["weights_sha256"] == read_folder(folder).sha256 and len(block) <= 15


def test_a_card_refuses_a_head_that_is_not_the_files(packed):
    edit(packed[0], lambda q: q.update(method="rtn"))
    with pytest.raises(CheckpointError, match="another packing"):
        render_card(packed[0])
