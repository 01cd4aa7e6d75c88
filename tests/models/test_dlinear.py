"""DLinear: the published function written out, and its registered variants."""

import pytest
import torch

from madzoo.errors import ConfigError
from madzoo.factory import create_model
from madzoo.models.series.dlinear import DLinear, DLinearConfig, moving_average
from madzoo.registry import list_specs


def published(model, x_BLC):
    """The paper's equations, one step and one channel at a time."""
    half, length = model.kernel_size // 2, x_BLC.shape[1]
    y = torch.zeros(len(x_BLC), model.prediction_length, x_BLC.shape[2], dtype=x_BLC.dtype)
    for b in range(len(x_BLC)):
        for c in range(x_BLC.shape[2]):
            x = x_BLC[b, :, c]
            around = [[x[min(max(s, 0), length - 1)] for s in range(t - half, t + half + 1)] for t in range(length)]
            trend = torch.stack([torch.stack(values).mean() for values in around])
            seasonal, slow = model.Linear_Seasonal, model.Linear_Trend
            y[b, :, c] = seasonal.weight @ (x - trend) + seasonal.bias + slow.weight @ trend + slow.bias
    return y


@pytest.mark.parametrize("kernel_size", [1, 5, 25])
def test_published_function(kernel_size):
    torch.manual_seed(0)
    config = DLinearConfig(context_length=13, prediction_length=4, kernel_size=kernel_size, instance_norm=False)
    model = DLinear(config).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 13, 3, dtype=torch.float64)
    torch.testing.assert_close(model(x)[..., 0], published(model, x), rtol=1e-12, atol=1e-12)


def test_moving_average_keeps_length_and_constants():
    x = torch.full((2, 7), 3.0)
    assert torch.equal(moving_average(x, 25), x)


def test_missing_values_without_normalisation_are_the_mean():
    model = DLinear(DLinearConfig(context_length=8, prediction_length=2, kernel_size=3, instance_norm=False))
    x = torch.arange(8.0).reshape(1, 8, 1)
    gap, filled = x.clone(), x.clone()
    gap[0, 2:4], filled[0, 2:4] = torch.nan, x[0, [0, 1, 4, 5, 6, 7]].mean()
    torch.testing.assert_close(model(gap), model(filled))


def test_published_names_and_sizes():
    sizes = {n: sum(p.numel() for p in create_model(n).parameters()) for n in list_specs("dlinear_*")}
    assert sizes["dlinear_336_96"] == 64_704 and sizes["dlinear_96_96"] == 2 * 97 * 96 and len(sizes) == 5
    names = set(create_model("dlinear_336_96").state_dict())
    assert names == {f"Linear_{part}.{kind}" for part in ("Seasonal", "Trend") for kind in ("weight", "bias")}


def test_loads_the_authors_files(tmp_path):
    torch.manual_seed(0)
    model = create_model("dlinear_96_96").eval()
    unused = {"Linear_Decoder.weight": torch.ones(96, 96), "Linear_Decoder.bias": torch.ones(96)}
    torch.save({name: p + torch.randn_like(p) for name, p in model.state_dict().items()} | unused, tmp_path / "c.pth")
    loaded = create_model("dlinear_96_96", checkpoint_path=tmp_path / "c.pth", instance_norm=False).eval()
    stored = torch.load(tmp_path / "c.pth", weights_only=True)
    assert all(torch.equal(tensor, stored[name]) for name, tensor in loaded.state_dict().items())


@pytest.mark.parametrize("size", [0, 24])
def test_an_average_has_a_middle(size):
    with pytest.raises(ConfigError, match="odd"):
        DLinearConfig(context_length=8, prediction_length=2, kernel_size=size)
