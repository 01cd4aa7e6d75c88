"""The LinOSS forecaster: the shared trunk beside PatchS4D of the same name, causal mixing, and a sine."""

import dataclasses

import pytest
import torch
from trunk_check import assert_fits_a_sine, count, sees_the_future

from madzoo.errors import ConfigError
from madzoo.models.series.linoss import LinOSSConfig, LinOSSForecaster
from madzoo.models.series.patch_trunk import PatchConfig
from madzoo.registry import find_spec, list_specs

SMALL = LinOSSConfig(context_length=63, prediction_length=12, patch_size=8, patch_stride=5, d_model=6, d_state=3)


@pytest.mark.parametrize("rest", [name.removeprefix("linoss_") for name in list_specs("linoss_*")])
def test_differs_from_patch_s4d_by_the_mixer_alone(rest):
    ours, theirs = find_spec(f"linoss_{rest}").config, find_spec(f"patch_s4d_{rest}").config
    for field in dataclasses.fields(PatchConfig):
        assert getattr(ours, field.name) == getattr(theirs, field.name)
    assert abs(count(f"linoss_{rest}") / count(f"patch_s4d_{rest}") - 1) < 0.005


@pytest.mark.parametrize("discretization", ["IM", "IMEX"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_causal_blocks_do_not_look_ahead(discretization, bidirectional):
    torch.manual_seed(0)
    config = dataclasses.replace(SMALL, discretization=discretization, bidirectional=bidirectional)
    model = LinOSSForecaster(config)
    assert sees_the_future(model) == bidirectional


@pytest.mark.parametrize("changes", [{"d_state": 0}, {"discretization": "EX"}, {"depth": 0}], ids=str)
def test_bad_configuration(changes):
    with pytest.raises(ConfigError):
        dataclasses.replace(SMALL, **changes)


@pytest.mark.parametrize("discretization", ["IM", "IMEX"])
def test_fits_a_sine(discretization):
    torch.manual_seed(0)
    model = LinOSSForecaster(dataclasses.replace(SMALL, discretization=discretization))
    assert_fits_a_sine(model)
