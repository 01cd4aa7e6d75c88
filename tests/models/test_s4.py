"""S4 and S4D classifiers against published outputs and gradients; authors' layouts; sequences of other lengths."""

import dataclasses

import numpy as np
import pytest
import torch
from parity import DATA, LIMITS, load_case, relative_error, rule_input
from published_check import assert_published_count
from torch import nn

from madzoo.errors import ConfigError, ShapeError
from madzoo.factory import create_model
from madzoo.models.image.s4 import S4Classifier, S4Config, adapt_weights, remap_keys
from madzoo.registry import find_spec, list_specs

CASE, REFERENCE = load_case("s4_classifier")
# Counted by building the networks of state-spaces/s4@e757cef with the configurations named in the family.
PUBLISHED_COUNTS = {
    "s4_base_32": 3566858,
    "s4_micro_32": 136202,
    "s4_lra_image_32": 3564682,
    "s4_lra_pathfinder_32": 1288706,
    "s4_lra_pathx_128": 1288706,  # no parameter's shape depends on the length
    "s4d_micro_32": 201482,
    "s4d_legs_micro_32": 135946,
    "s4d_inv_micro_32": 135946,
    "s4d_lin_micro_32": 135946,
}
SMALL = S4Config(depth=2, embed_dim=8, d_state=4, l_max=60, num_classes=5)
FORMS = {
    "s4": {},
    "lra": {"norm_layer": "batchnorm", "prenorm": True, "n_ssm": None, "in_chans": 1},
    "diagonal": {"mode": "diag", "init": "diag-lin", "final_act": "id", "bidirectional": False},
    "example": {"layer": "s4d", "l_max": None},
}
EVERY_FORM = pytest.mark.parametrize("form", FORMS)


def small(form="s4", **changes):
    torch.manual_seed(0)
    return S4Classifier(dataclasses.replace(SMALL, **(FORMS[form] | changes))).eval()


def images(model, height=6, width=9, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, model.config.in_chans, height, width, generator=generator, dtype=dtype)


def published(name, dtype, folder):
    """Loads published weights through the door that a user takes."""
    with np.load(DATA / "s4_classifier" / "weights.npz") as arrays:
        state = {key.removeprefix(f"{name}."): torch.from_numpy(arrays[key]) for key in arrays if key.startswith(name)}
    layout = {"model": {f"module.{key}": value for key, value in state.items()}, "acc": 0.5}
    path, before = folder / "authors.ckpt", torch.get_default_dtype()
    torch.save(layout if name == "s4d_micro_32" else {"state_dict": state, "epoch": 3}, path)
    torch.set_default_dtype(dtype)
    try:
        return create_model(name, checkpoint_path=path, **CASE["variants"][name]["options"]).eval()
    finally:
        torch.set_default_dtype(before)


def case_input(model, tag, dtype):
    described = CASE["inputs"][tag]
    return rule_input(described["seed"], (2, model.config.in_chans, *described["shape"][2:]), dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", CASE["variants"])
def test_published_outputs(name, dtype, tmp_path):
    model = published(name, dtype, tmp_path)
    for tag in CASE["inputs"]:
        with torch.no_grad():
            logits = model(case_input(model, tag, dtype))
        assert logits.dtype == dtype
        assert relative_error(logits, REFERENCE[f"{name}.{tag}.logits"]) < LIMITS[dtype]
    assert sum(p.numel() for p in model.parameters()) == CASE["variants"][name]["n_params"]


@pytest.mark.parametrize("name", CASE["variants"])
def test_published_gradients(name, tmp_path):
    model = published(name, torch.float64, tmp_path)
    x = case_input(model, "a", torch.float64).requires_grad_()
    y = model(x)
    (y * rule_input(CASE["inputs"]["a"]["seed"] + 1000, tuple(y.shape), torch.float64)).sum().backward()
    assert relative_error(x.grad, REFERENCE[f"{name}.input_grad"]) < 1e-9
    norms = {key: p.grad.norm().item() for key, p in model.named_parameters()}
    assert norms == pytest.approx(remap_keys(CASE["variants"][name]["param_grad_l2"]), rel=1e-9)


@pytest.mark.parametrize("name", PUBLISHED_COUNTS)
def test_published_variants(name):
    spec = assert_published_count(name, PUBLISHED_COUNTS[name])
    assert spec.paper in ("2111.00396", "2206.11893", "2206.12037") and not spec.weights


def test_the_family_is_registered():
    assert {name for name in list_specs("s4*") if find_spec(name).family == "s4"} == set(PUBLISHED_COUNTS)


@EVERY_FORM
def test_an_image_is_read_pixel_by_pixel(form):
    model = small(form, drop_rate=0.1, drop_path_rate=0.5).double()
    x = images(model, 5, 8, torch.float64)
    stream = torch.stack([model.encoder(x[..., i, j]) for i in range(5) for j in range(8)], 1)
    for layer in model.layers:
        norm, mixed = layer.norm.norm, layer.layer
        read = norm(stream.mT).mT if isinstance(norm, nn.BatchNorm1d) else norm(stream)
        stream = stream + mixed(read) if model.config.prenorm else norm(stream + mixed(stream))
    torch.testing.assert_close(model.forward_features(x), model.norm(stream))
    torch.testing.assert_close(model(x), model.decoder(model.norm(stream).mean(1)))


@EVERY_FORM
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 5), (9, 9), (7, 12)])
def test_any_size_at_call_time(form, height, width):
    model = small(form)
    x = images(model, height, width)
    assert model.forward_features(x).shape == (2, height * width, 8)
    assert model(x).shape == (2, 5)
    (last,) = model.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)
    assert last.shape == (2, 8, height, width)
    torch.testing.assert_close(last.flatten(2).mT, model.forward_features(x))


def test_a_bounded_kernel_sees_so_far():
    model, x = small("diagonal", l_max=4, depth=1, norm_layer="layernorm"), torch.randn(1, 3, 3, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.forward_features(x)[0, 9].square().sum(), x)
    assert (gradient.flatten(2).abs().sum((0, 1)) > 0).nonzero().flatten().tolist() == [6, 7, 8, 9]


def test_an_image_that_does_not_fit_is_refused():
    for wrong in (torch.zeros(1, 1, 4, 4), torch.zeros(3, 4, 4), torch.zeros(1, 3, 0, 4)):
        with pytest.raises(ShapeError, match="3, H, W"):
            small()(wrong)


@pytest.mark.parametrize("in_chans", [1, 4])
def test_other_channels_and_classes(in_chans):
    model, target = small(), dataclasses.replace(SMALL, in_chans=in_chans, num_classes=3)
    state = adapt_weights(model.state_dict(), SMALL, target)
    assert state["encoder.weight"].shape == (8, in_chans)
    assert set(model.state_dict()) - set(state) == {"decoder.weight", "decoder.bias"}
    if in_chans == 1:
        torch.testing.assert_close(state["encoder.weight"], model.encoder.weight.sum(1, keepdim=True))


@EVERY_FORM
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_an_exported_program_answers_as_the_model(form):
    model = small(form, depth=1)
    x = images(model, 4, 5)
    with torch.no_grad():
        program = torch.export.export(model, (x,))
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-5, atol=1e-6)


def test_values_that_make_no_model_are_told():
    for wrong in (
        {"layer": "s5"},
        {"mode": "full"},
        {"norm_layer": "groupnorm"},
        {"global_pool": "max"},
        {"depth": 0},
        {"embed_dim": 0},
        {"num_classes": -1},
    ):
        with pytest.raises(ConfigError):
            dataclasses.replace(SMALL, **wrong)
    with pytest.raises(ConfigError):
        small(init="legz")
    with pytest.raises(ConfigError):
        small(n_ssm=3)
