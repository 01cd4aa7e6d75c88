"""TimeMachine: its authors' names and sizes, and its options."""

import dataclasses

import pytest
import torch
from parity import load_case

from madzoo.errors import ConfigError, ShapeError
from madzoo.factory import create_model
from madzoo.models.series.timemachine import TimeMachine, TimeMachineConfig
from madzoo.registry import find_spec, list_specs

NAME = "timemachine_etth1_96_96"
CASE, _ = load_case("timemachine_etth1")
SMALL = TimeMachineConfig(context_length=12, prediction_length=5, num_channels=3, n1=6, n2=4, d_state=3)


def small(**changes):
    torch.manual_seed(0)
    return TimeMachine(dataclasses.replace(SMALL, **changes)).double().eval()


def past(channels=3, seed=1):
    return torch.randn(2, 12, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_published_names_and_counts():
    with torch.device("meta"):
        model = create_model(NAME)
    assert list(model.state_dict()) == [entry["key"] for entry in CASE["state_dict"]]
    assert sum(p.numel() for p in model.parameters()) == CASE["n_params"] == 1_425_858


def test_published_configurations():
    sets = ("etth1", "etth2", "ettm1", "ettm2", "weather", "electricity", "traffic")
    names = {f"timemachine_{data}_96_{horizon}" for data in sets for horizon in (96, 192, 336, 720)}
    assert set(list_specs("timemachine_*")) == names
    for name in names:
        config, (_, data, _, horizon) = find_spec(name).config, name.split("_")
        assert config.num_channels == {"weather": 21, "electricity": 321, "traffic": 862}.get(data, 7)
        assert config.prediction_length == int(horizon) and (config.d_state, config.d_conv, config.expand) == (
            256,
            2,
            1,
        )
        assert config.mix_channels == (data in ("electricity", "traffic"))
        assert config.affine_norm == (data != "traffic")
    sizes = find_spec("timemachine_ettm1_96_336").config
    assert (sizes.n1, sizes.n2, sizes.dropout) == (128, 16, 0.6)


@pytest.mark.parametrize(
    "changes",
    [{}, {"affine_norm": False}, {"mix_channels": True}, {"residual": False}, {"expand": 2, "d_conv": 3}],
    ids=str,
)
def test_every_parameter_learns_but_those_of_states_that_are_never_carried(changes):
    """With independent channels mamba2 and mamba3 read one position, published: no state of theirs ever decays."""
    model = small(**changes).train()
    y = model(past())
    assert y.shape == (2, 5, 3, 1) and y.dtype == torch.float64
    y.square().sum().backward()
    idle = {name for name, p in model.named_parameters() if not p.grad.abs().sum() > 0}
    assert idle == (set() if model.config.mix_channels else {"mamba2.A_log", "mamba3.A_log"})


def test_the_affine_norm_is_undone():
    """Scale and shift of a channel move its features, and leave the units of its forecast alone."""
    model, plain = small(), small(affine_norm=False)
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if "revin" not in key})
    torch.testing.assert_close(model(past()), plain(past()), rtol=1e-8, atol=1e-8)
    with torch.no_grad():
        model.revin_layer.affine_weight.copy_(torch.tensor([2.0, 1.0, 0.0]))
        model.revin_layer.affine_bias.copy_(torch.tensor([0.5, 0.0, 0.0]))
    assert not torch.allclose(model(past())[:, :, 0], plain(past())[:, :, 0])
    torch.testing.assert_close(model(past())[:, :, 1], plain(past())[:, :, 1], rtol=1e-8, atol=1e-8)
    assert model(past()).isfinite().all()


def test_channels():
    assert small(affine_norm=False)(past(channels=5)).shape == (2, 5, 5, 1)
    with pytest.raises(ShapeError, match="made for 3 channels"):
        small()(past(channels=5))
    with pytest.raises(ShapeError):
        small().predict(past(channels=5))
    with pytest.raises(ConfigError, match="no covariates"):
        small()(past(), past_covariates=past())


def test_what_weight_decay_leaves_alone():
    expected = {f"mamba{i}.{name}" for i in (1, 2, 3, 4) for name in ("A_log", "D", "dt_proj.bias")}
    assert small().no_weight_decay() == expected


def test_values_that_make_no_model_are_told():
    for wrong in ({"n1": 0}, {"num_channels": 0}, {"dropout": 1.0}, {"norm_eps": 0.0}, {"d_state": 0}):
        with pytest.raises(ConfigError):
            TimeMachine(dataclasses.replace(SMALL, **wrong))
