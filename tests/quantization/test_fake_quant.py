"""Quantizers put on any parameter of any module, and taken off: what shows, what trains, what is left."""

import copy

import pytest
import torch
from torch import nn

import madzoo
from madzoo import layers
from madzoo.errors import ConfigError, DataError
from madzoo.quantization.fake_quant import attach, detach, quantizers, restore
from madzoo.quantization.grid import Grid, round_to_grid, to_codes
from madzoo.quantization.level_view import FakeQuantize
from madzoo.quantization.observers import find_scale
from madzoo.quantization.plan import uniform_plan
from madzoo.quantization.quantized import load_quantized, quantize_weights
from madzoo.quantization.straight_through import ESTIMATORS
from madzoo.training.optimizer import make_optimizer
from madzoo.training.recipe import Recipe

ROUNDING = [name for name, estimator in ESTIMATORS.items() if estimator.rounds]
SMALL_S4D = {"d_model": 8, "depth": 1, "d_state": 4, "context_length": 128}


class Tied(nn.Module):
    """Reads and writes with one matrix, and owns a complex one."""

    def __init__(self):
        super().__init__()
        self.embed, self.middle = nn.Linear(6, 5), nn.Linear(5, 5)
        self.head = nn.Linear(6, 5, bias=False)
        self.head.weight = self.embed.weight
        self.turn = nn.Parameter(torch.randn(5, dtype=torch.complex64))

    def forward(self, x):
        return (self.middle(self.embed(x)) * self.turn.abs()) @ self.head.weight


MODULES = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 3)), (4, 6)),
    "linear": (lambda: layers.Linear(6, 5), (4, 6)),
    "convs": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=4)), (2, 3, 7, 7)),
    "attention": (lambda: nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True), (2, 5, 8)),
    "tied": (Tied, (4, 6)),
    "s4d": (lambda: layers.S4D(6, d_state=4), (2, 9, 6)),
    "s4_dplr": (lambda: layers.S4Block(6, d_state=4, mode="dplr", l_max=9), (2, 9, 6)),
    "s5": (lambda: layers.S5(6, d_state=4, blocks=2), (2, 9, 6)),
    "mamba": (lambda: layers.Mamba(6, d_state=4), (2, 9, 6)),
    "mamba2": (lambda: layers.Mamba2(8, d_state=4, headdim=4, chunk_size=4), (2, 9, 8)),
    "hydra": (lambda: layers.Hydra(8, d_state=4, headdim=4, chunk_size=4), (2, 9, 8)),
    "ss2d": (lambda: layers.SS2D(6, d_state=2), (2, 5, 4, 6)),
    "forecaster": (lambda: madzoo.create_model("patch_s4d_nano_512_96", **SMALL_S4D), (1, 128, 1)),
}  # fmt: skip


def made(name, seed=0):
    torch.manual_seed(seed)
    build, shape = MODULES[name]
    return build().eval(), torch.randn(shape)


def same(first, second):
    assert list(first) == list(second)
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("name", "estimator"),
    [*((name, "lsq") for name in MODULES), *((name, e) for name in ("mlp", "tied", "mamba") for e in ROUNDING[:2])],
)
def test_shows_what_rounding_leaves_and_trains_every_latent(name, estimator) -> None:
    model, x = made(name)
    plan = uniform_plan(model, 4)
    rounded = load_quantized(copy.deepcopy(model), quantize_weights(model, plan, observer="mse"))
    before = {key: id(p) for key, p in model.named_parameters()}
    attach(model, plan, estimator=estimator, observer="mse")
    with torch.no_grad():
        assert torch.equal(model(x), rounded(x))
    model(x).square().sum().backward()
    for key, held in quantizers(model).items():
        assert before.pop(key) == id(held.latent) and held.latent.grad is not None, key
        if held.rule.log_growth is not None:
            assert held.rule.log_growth.grad is not None and held.rule.log_growth.grad.isfinite().all()
    assert not before


@pytest.mark.parametrize("name", MODULES)
def test_taken_off_without_rounding_nothing_is_left(name) -> None:
    model, x = made(name)
    kind, state = type(model), {key: value.clone() for key, value in model.state_dict().items()}
    before = list(model.named_parameters())
    expected = model(x)
    attach(model, uniform_plan(model, 3), estimator="lsq", freezable=True)
    assert not torch.equal(model(x), expected)
    restore(model)
    assert same(state, model.state_dict()) and type(model) is kind
    after = list(model.named_parameters())
    assert [key for key, _ in before] == [key for key, _ in after]  # in their order, too
    assert all(old is new for (_, old), (_, new) in zip(before, after, strict=True))
    assert torch.equal(model(x), expected) and not quantizers(model)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("estimator", ["lsq", "prox_quant"])
def test_taken_off_the_levels_stay_as_plain_parameters(name, estimator) -> None:
    model, x = made(name)
    keys = list(model.state_dict())
    plan = uniform_plan(model, 3)
    attach(model, plan, estimator=estimator)
    for held in quantizers(model).values():
        if held.rule.log_growth is not None:
            nn.init.constant_(held.rule.log_growth, 0.1)
    shown = model(x)
    weights = detach(model)
    assert list(model.state_dict()) == keys and set(weights) == set(plan)
    parameters = dict(model.named_parameters())
    for key, weight in weights.items():
        assert torch.equal(parameters[key], weight.dequantize())
        real = torch.view_as_real(parameters[key]) if parameters[key].is_complex() else parameters[key]
        assert torch.equal(to_codes(real, weight.grid, weight.scale, weight.zero_point), weight.codes)
    if ESTIMATORS[estimator].rounds:
        assert torch.equal(model(x), shown)


def test_what_is_shared_stays_shared() -> None:
    model, _ = made("tied")
    attach(model, {"embed.weight": Grid(bits=3), "turn": Grid(bits=4, axis=None)}, estimator="lsq")
    assert [len(held.places) for held in quantizers(model).values()] == [1, 2]  # the turn, then the shared matrix
    assert torch.equal(model.embed.weight, model.head.weight)
    assert len([n for n, _ in model.named_parameters() if "log_growth" in n]) == 2
    weights = detach(model)
    assert set(weights) == {"embed.weight", "turn"} and model.head.weight is model.embed.weight
    assert weights["turn"].codes.shape == (5, 2) and model.turn.dtype == torch.complex64
    with pytest.raises(ConfigError, match="no parameter"):  # the second name of a parameter is none of its own
        attach(model, {"head.weight": Grid(bits=3)})


def test_scales_stand_still_follow_or_are_learned() -> None:
    grid, w = Grid(bits=3), torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    for rule, estimator in (("fixed", "ste"), ("follow", "ste"), ("learned", "lsq")):
        shown = FakeQuantize(w, grid, estimator=estimator, scale_rule=rule)
        assert torch.equal(shown(w), round_to_grid(w, grid, find_scale(w, grid)[0]))
        scale = find_scale(2 * w if rule == "follow" else w, grid)[0]
        assert torch.equal(shown(2 * w), round_to_grid(2 * w, grid, scale))
    assert shown.log_growth is not None
    nn.init.constant_(shown.log_growth, 0.5)
    torch.testing.assert_close(shown.scales(w)[0], scale * torch.tensor(0.5).exp())


def test_a_learned_scales_gradient_is_that_of_lsq_times_the_scale() -> None:
    w, grid = torch.randn(3, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64), Grid(bits=2)
    upstream = torch.randn(3, 7, dtype=torch.float64)
    shown = FakeQuantize(w, grid, estimator="lsq", observer="mse")
    shown(w).backward(upstream)
    step = shown.scale.clone().requires_grad_()
    ESTIMATORS["lsq"].apply(w, grid, step, None).backward(upstream)
    assert shown.log_growth is not None and shown.log_growth.grad is not None and step.grad is not None
    torch.testing.assert_close(shown.log_growth.grad, (step.grad * shown.scale)[:, 0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("estimator", ROUNDING)
def test_frozen_elements_hold_their_codes(estimator) -> None:
    w = torch.tensor([[0.2, 0.9, -1.0, 0.4]], requires_grad=True)
    shown = FakeQuantize(w, Grid(bits=3), estimator=estimator, freezable=True)
    marks = torch.tensor([[True, False, False, True]])
    shown.freeze(marks, torch.tensor([[2, 0, 0, -3]], dtype=torch.int16))
    shown.freeze(marks, torch.tensor([[1, 1, 1, 1]], dtype=torch.int16))  # what is frozen stays as it was
    value = shown(w)
    value.sum().backward()
    torch.testing.assert_close(value, torch.tensor([[2 / 3, 1.0, -1.0, -1.0]]))
    assert w.grad is not None and w.grad.tolist() == [[0.0, 1.0, 0.0 if estimator == "lsq" else 1.0, 0.0]]
    assert shown.quantized(w).codes.tolist() == [[2, 3, -3, -3]]
    torch.testing.assert_close(shown.distance(w), torch.tensor([[0.0, 0.3, 0.0, 0.0]]), rtol=0, atol=1e-6)
    if estimator == "lsq":  # 3 - 2.7, the end -3, frozen codes 2 and -3; N = 4, q = 3, s = 1 / 3
        assert shown.log_growth is not None and shown.log_growth.grad is not None
        expected = (0.3 - 3 + 2 - 3) / 12**0.5 / 3
        assert shown.log_growth.grad.item() == pytest.approx(expected, rel=1e-5)


def test_distances_are_in_units_of_the_scale() -> None:
    w = torch.tensor([[0.2, 1.0, -1.5]])
    for scale_rule in ("fixed", "follow"):
        shown = FakeQuantize(w, Grid(bits=2), scale_rule=scale_rule)
        shown.scale.fill_(1.0)
        expected = [0.2, 0.0, 0.5] if scale_rule == "fixed" else [0.2 / 1.5, 1 - 1 / 1.5, 0.0]
        assert shown.distance(w)[0].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["tied", "convs", "s4d"])
def test_copies_live_on_their_own(name) -> None:
    model, x = made(name)
    attach(model, uniform_plan(model, 3), estimator="lsq")
    twin = copy.deepcopy(model)
    shown, latents = model(x), {key: held.latent.clone() for key, held in quantizers(model).items()}
    detach(model)
    assert torch.equal(twin(x), shown)  # still rounding, though its original no longer does
    other = copy.deepcopy(twin)
    restore(twin)
    assert all(torch.equal(p, latents[key]) for key, p in twin.named_parameters())
    assert torch.equal(other(x), shown) and set(detach(other)) == set(latents)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_state_dicts_carry_latents_scales_and_what_is_frozen(estimator) -> None:
    model, x = made("mlp")
    other, _ = made("mlp", seed=1)
    for each in (model, other):
        attach(each, uniform_plan(each, 2), estimator=estimator, freezable=True)
    held = quantizers(model)["0.weight"]
    held.rule.freeze(torch.ones(5, 6, dtype=torch.bool), torch.ones(5, 6, dtype=torch.int16))
    assert not torch.equal(other(x), model(x))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))
    assert same(model.state_dict(), other.state_dict())


def test_training_moves_latents_with_the_projects_optimizer() -> None:
    model, x = made("mamba")
    attach(model, uniform_plan(model, 4), estimator="lsq")
    recipe = Recipe(name="a", dataset="b", epochs=1, batch_size=1, lr=0.01, loss="mse")
    optimizer = make_optimizer(model, recipe)
    listed = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert listed == {id(p) for p in model.parameters()}
    decaying = make_optimizer(model, Recipe(**{**recipe.to_dict(), "weight_decay": 0.1}))
    spared = {id(p) for group in decaying.param_groups if not group["weight_decay"] for p in group["params"]}
    first = {key: held.latent.clone() for key, held in quantizers(model).items()}
    for held in quantizers(model).values():
        assert held.rule.log_growth is not None and id(held.rule.log_growth) in spared
    before = model(x).square().mean()
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < before
    assert all(not torch.equal(held.latent, first[key]) for key, held in quantizers(model).items())


def test_double_precision_stays_double() -> None:
    model, x = made("mamba")
    model, x = model.double(), x.double()
    attach(model, uniform_plan(model, 3), estimator="lsq")
    assert model(x).dtype == torch.float64
    assert all(held.rule.scale.dtype == torch.float64 for held in quantizers(model).values())


def test_a_second_plan_goes_on_top_and_all_comes_off_in_order() -> None:
    model, _ = made("mlp")
    names = [name for name, _ in model.named_parameters()]
    attach(model, {"0.weight": Grid(bits=3)})
    attach(model, {"0.bias": Grid(bits=8, axis=None), "2.bias": Grid(bits=8, axis=None)}, estimator="lsq")
    assert set(quantizers(model)) == {"0.weight", "0.bias", "2.bias"}
    assert [name for name, _ in restore(model).named_parameters()] == names


def test_what_does_not_go_together_is_refused_and_nothing_changed() -> None:
    model, _ = made("mlp")
    keys, grid = list(model.state_dict()), Grid(bits=3)
    refused = [
        ({"estimator": "lsq", "scale_rule": "fixed"}, "learned by lsq"),
        ({"estimator": "ste", "scale_rule": "learned"}, "learned by lsq"),
        ({"scale_rule": "follow", "observer": "mse"}, "largest value"),
        ({"scale_rule": "folow"}, "scale rule"),
        ({"estimator": "sste"}, "estimator"),
        ({"observer": "max"}, "observer"),
    ]
    for options, why in refused:
        with pytest.raises(ConfigError, match=why):
            attach(model, {"0.weight": grid, "2.weight": grid}, **options)
    with pytest.raises(ConfigError, match="no parameter"):
        attach(model, {"0.weight": grid, "1.weight": grid})
    nn.init.constant_(model[2].weight, float("nan"))
    with pytest.raises(DataError, match="NaN"):
        attach(model, {"0.weight": grid, "2.weight": grid})
    assert list(model.state_dict()) == keys and not quantizers(model)
    attach(model, {"0.weight": grid})
    with pytest.raises(ConfigError, match="quantizer already"):
        attach(model, {"0.weight": grid})
    with pytest.raises(ConfigError, match="parametrized already"):
        attach(model, {"0.parametrizations.weight.original": grid})
    with pytest.raises(ConfigError, match="freezable=True"):
        quantizers(model)["0.weight"].rule.freeze(torch.ones(5, 6, dtype=torch.bool), torch.ones(5, 6))


def test_foreign_parametrizations_are_left_alone() -> None:
    model, _ = made("mlp")
    nn.utils.parametrizations.weight_norm(model[0])
    assert not quantizers(model)
    attach(model, {"2.weight": Grid(bits=3)})
    restore(model)
    assert nn.utils.parametrize.is_parametrized(model[0], "weight")


def test_whole_numbers_are_refused() -> None:
    model = nn.Module()
    model.register_parameter("counts", nn.Parameter(torch.ones(3, dtype=torch.int64), requires_grad=False))
    with pytest.raises(ConfigError, match="fraction"):
        attach(model, {"counts": Grid(bits=3)})


def test_what_is_frozen_keeps_its_learned_scale_and_is_rounded_all_the_same():
    layer = nn.Linear(4, 2)
    layer.weight.requires_grad_(False)
    attach(layer, uniform_plan(layer, 3), estimator="lsq")
    assert [name for name, p in layer.named_parameters() if p.requires_grad] == [
        "parametrizations.bias.original", "parametrizations.bias.0.log_growth",
    ]  # fmt: skip
    shown = quantizers(layer)["weight"]
    assert torch.equal(layer.weight, shown.rule.quantized(shown.latent).dequantize())


@pytest.mark.parametrize("estimator", ROUNDING)
def test_rows_that_start_at_zero_are_trained(estimator):
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 2, bias=False), torch.randn(64, 4)
    y = x @ torch.tensor([[0.5, -0.4, 0.3, 0.2], [-0.3, 0.5, 0.2, -0.5]]).mT
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.5, -0.5, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]]))
    attach(layer, {"weight": Grid(bits=4)}, estimator=estimator)
    optimizer = torch.optim.Adam(layer.parameters(), 0.01)
    for _ in range(150):
        optimizer.zero_grad()
        losses = (layer(x) - y).square().mean(0)
        losses.sum().backward()
        optimizer.step()
    assert losses[1] < 0.02  # at a scale of 1 it stays 0.6: nothing below half a scale is seen
