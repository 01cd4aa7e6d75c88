"""RLinear: the published function written out, with gains per channel and without, and its registered variants."""

import pytest
import torch

from madzoo.errors import ConfigError, ShapeError
from madzoo.factory import create_model
from madzoo.models.series.rlinear import RLinear, RLinearConfig
from madzoo.registry import list_specs


def published(model, x_BLC):
    mean = x_BLC.mean(1, keepdim=True)
    deviation = (x_BLC.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    z = (x_BLC - mean) / deviation
    if model.rev is not None:
        z = z * model.rev.affine_weight + model.rev.affine_bias
    y = torch.einsum("hl,blc->bhc", model.Linear.weight, z) + model.Linear.bias[:, None]
    if model.rev is not None:
        y = (y - model.rev.affine_bias) / (model.rev.affine_weight + 1e-5**2)
    return y * deviation + mean


@pytest.mark.parametrize("affine_channels", [0, 3])
def test_published_function(affine_channels):
    torch.manual_seed(0)
    config = RLinearConfig(context_length=13, prediction_length=4, affine_channels=affine_channels, norm_eps=1e-5)
    model = RLinear(config).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=1.0)
    x = torch.randn(2, 13, 3, dtype=torch.float64) * torch.tensor([1.0, 0.01, 100.0])
    torch.testing.assert_close(model(x)[..., 0], published(model, x), rtol=1e-11, atol=1e-11)
    assert model.float()(x.float()).dtype == torch.float32


def test_without_normalisation_it_is_a_matrix():
    model = RLinear(RLinearConfig(context_length=5, prediction_length=2, instance_norm=False)).double()
    x = torch.randn(2, 5, 1, dtype=torch.float64)
    torch.testing.assert_close(model(x)[:, :, 0, 0], x[..., 0] @ model.Linear.weight.T + model.Linear.bias)


def test_gains_fix_the_channels():
    model = RLinear(RLinearConfig(context_length=5, prediction_length=2, affine_channels=3))
    assert model.num_channels == 3 and {"rev.affine_weight", "rev.affine_bias"} <= set(model.state_dict())
    with pytest.raises(ShapeError, match="channels"):
        model(torch.zeros(1, 5, 2))


def test_published_names_and_sizes():
    sizes = {n: sum(p.numel() for p in create_model(n).parameters()) for n in list_specs("rlinear_*")}
    assert sizes["rlinear_336_96"] == 32_352 and sizes["rlinear_96_96"] == 9_312 and len(sizes) == 7
    assert set(create_model("rlinear_512_96").state_dict()) == {"Linear.weight", "Linear.bias"}
    assert create_model("rlinear_672_168").Linear.out_features == 9 * 168


@pytest.mark.parametrize(
    "changes",
    [{"affine_channels": -1}, {"norm_eps": -1.0}, {"dropout": 1.0}, {"affine_channels": 2, "instance_norm": False}],
)
def test_bad_configuration(changes):
    with pytest.raises(ConfigError):
        RLinearConfig(context_length=5, prediction_length=2, **changes)
