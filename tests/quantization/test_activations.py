"""Rounded inputs of modules: against hand-computed values, with their gradients, and who is rounded at all."""

import pytest
import torch
from torch import nn

from madzoo.errors import ConfigError, DataError
from madzoo.layers import Mamba
from madzoo.quantization.activations import ActivationRounding, Scale, calibrate_activations
from madzoo.quantization.grid import Grid

SYMMETRIC, AFFINE = Grid(bits=2, axis=None), Grid(bits=2, symmetric=False, axis=None)


def plain_linear() -> nn.Linear:
    layer = nn.Linear(4, 1, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
    return layer


def test_the_range_of_each_call() -> None:
    layer, x = plain_linear(), torch.tensor([[0.2, -2.0, 1.1, 0.9]], dtype=torch.float64)
    with torch.no_grad(), ActivationRounding(layer, SYMMETRIC) as rounding:
        found = layer(x), layer(x / 10)  # levels -2, 0, 2, then a tenth of them
    assert rounding.seen == {""} and rounding.names == ("",)
    assert found[0].item() == -20 + 200 and found[1].item() == pytest.approx(18)
    assert layer(x).item() == pytest.approx((layer.weight * x).sum().item())


def test_affine_levels_of_a_calibration() -> None:
    layer = plain_linear()
    seen = [(torch.tensor([[0.0, 3.0, 1.0, 1.0]], dtype=torch.float64), None)]
    scales = calibrate_activations(layer, seen, AFFINE)
    assert scales[""][0].item() == 1.0 and scales[""][1] is not None and scales[""][1].item() == 0.0
    with torch.no_grad(), ActivationRounding(layer, AFFINE, scales=scales):
        assert layer(torch.tensor([[0.6, 1.4, 9.0, -5.0]], dtype=torch.float64)).item() == 1 + 10 + 300


def test_calibration_keeps_the_widest_range_and_percentiles_cut_it() -> None:
    layer, grid = nn.Linear(1, 1), Grid(bits=8, axis=None)
    batches = [(torch.linspace(-1, 1, 2001)[:, None], None), (torch.tensor([[127.0]]), None)]
    assert calibrate_activations(layer, batches, grid)[""][0].item() == pytest.approx(1.0)
    cut = calibrate_activations(layer, batches, grid, observer="percentile")[""][0].item() * 127
    assert 0.99 < cut < 1.01  # one value of 2002 is cut off


def test_the_gradient_passes_where_nothing_is_clipped() -> None:
    layer, x = plain_linear(), torch.tensor([[0.2, -2.0, 1.1, 3.0]], dtype=torch.float64, requires_grad=True)
    scales = {"": Scale(torch.tensor([[2.0]], dtype=torch.float64), None, SYMMETRIC)}
    with ActivationRounding(layer, SYMMETRIC, scales=scales):
        layer(x).backward()
    assert x.grad is not None and x.grad.tolist() == [[1.0, 10.0, 100.0, 0.0]]
    assert layer.weight.grad is not None and layer.weight.grad.tolist() == [[0.0, -2.0, 2.0, 2.0]]


def test_training_under_rounding_learns() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1)), torch.randn(64, 4)
    y = x[:, :1] * x[:, 1:2]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    with ActivationRounding(model, Grid(bits=4, axis=None)):
        losses = []
        for _ in range(60):
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_patterns_choose_and_uncalled_modules_are_told() -> None:
    model, x = nn.Sequential(Mamba(8, d_state=2), nn.Linear(8, 2)), torch.randn(2, 5, 8)
    with ActivationRounding(model, SYMMETRIC, patterns=("0.*",)) as rounding:
        model(x)
    assert set(rounding.names) - rounding.seen == {"0.conv1d"}  # an operator reads its weights
    assert "1" not in rounding.names
    found = calibrate_activations(model, [(x, None)], SYMMETRIC, patterns=("0.in_proj", "1"))
    assert sorted(found) == ["0.in_proj", "1"]
    with pytest.raises(DataError, match="no matching module"):
        calibrate_activations(model, [(x, None)], SYMMETRIC, patterns=("0.conv1d",))


def test_what_is_refused() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="one scale"):
        ActivationRounding(model, Grid(bits=4))
    with pytest.raises(ConfigError, match="no linear map"):
        ActivationRounding(model, SYMMETRIC, patterns=("head",))
    with pytest.raises(ConfigError, match="belongs to no"):
        ActivationRounding(model, SYMMETRIC, scales={"head": Scale(torch.ones(1, 1), None, SYMMETRIC)})
    assert not model._forward_pre_hooks


def test_scales_of_another_grid_are_refused() -> None:
    layer, x = nn.Linear(4, 4), torch.randn(5, 4)
    wide = calibrate_activations(layer, [(x, None)], Grid(bits=8, axis=None))
    affine = calibrate_activations(layer, [(x, None)], AFFINE)
    for scales in (wide, affine, {"": (torch.ones(1, 1), None)}):
        with pytest.raises(ConfigError, match="another grid"):
            ActivationRounding(layer, SYMMETRIC, scales=scales)
    assert wide[""].grid == Grid(bits=8, axis=None) and not layer._forward_pre_hooks


def test_an_input_handed_over_by_name_is_rounded_too() -> None:
    layer, x = nn.Linear(4, 4), torch.randn(5, 4)
    with torch.no_grad(), ActivationRounding(layer, SYMMETRIC) as rounding:
        assert torch.equal(layer(input=x), layer(x)) and rounding.seen == {""}
        rounded = layer(x)
    assert not torch.equal(rounded, layer(x))
