"""LongConvDelta: sizes, what its options do, a read-out that can repeat a season, and a sine."""

import dataclasses

import pytest
import torch
from symmetry_check import assert_symmetries_hold
from trunk_check import assert_fits_a_sine, count

from madzoo.errors import ConfigError
from madzoo.layers.delta_net import DeltaNet
from madzoo.layers.long_conv import LongConv
from madzoo.models.series.longconv_delta import LongConvDelta, LongConvDeltaConfig

SMALL = LongConvDeltaConfig(context_length=63, prediction_length=12, patch_size=5, d_model=8, num_heads=2)


def build(**changes):
    torch.manual_seed(0)
    return LongConvDelta(dataclasses.replace(SMALL, **changes)).double().eval()


def past(length=63, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, length, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("longconv_delta_small_512_96", 182_504),
        ("longconv_delta_small_2048_96", 205_836),
        ("longconv_delta_base_512_96", 494_964),
        ("longconv_delta_base_2048_96", 534_936),
    ],
)
def test_sizes(name, parameters):
    assert count(name) == parameters


def test_layers_take_turns():
    model = build(depth=5)
    assert [type(block.mixer) for block in model.blocks] == [LongConv, DeltaNet, LongConv, DeltaNet, LongConv]


def test_a_woven_memory_begins_with_the_end():
    """Without it no token sees what follows it; with it all do, from the first DeltaNet on."""
    seen = torch.ones(3, 63, dtype=torch.bool)
    first = past()[..., 0]
    changed = first.clone()
    changed[:, -5:] += 3
    for weaving in (False, True):
        model = build(state_weaving=weaving)
        before, after = (model.encode(values, seen)[:, :-1] for values in (first, changed))
        assert torch.allclose(before, after, atol=1e-12) != weaving


def test_sign_average_mirrors_forecasts():
    plain, mirrored = build(), build(sign_average=True)
    x = past()
    x[:, 20:30] = torch.nan
    assert not torch.allclose(plain(-x), -plain(x).flip(-1))
    torch.testing.assert_close(mirrored(-x), -mirrored(x).flip(-1))
    torch.testing.assert_close(mirrored(x), 0.5 * (plain(x) - plain(-x).flip(-1)))
    assert torch.equal(mirrored.train()(x), plain.train()(x))


def test_raw_points_and_a_horizon_of_no_whole_tokens():
    assert build(patch_size=1)(past()).shape == (3, 12, 2, 9)
    assert build(patch_size=63, prediction_length=1)(past()).shape == (3, 1, 2, 9)


@torch.no_grad()
def test_the_read_out_can_repeat_a_season():
    """Six tokens back, whatever the series: no step within a token may be out of a query's reach."""
    model = build(context_length=60, quantile_levels=(0.5,), d_model=10)
    for parameter in model.parameters():
        parameter.zero_()
    model.patch_embed.weight[:] = torch.eye(10)
    model.head.quantiles.weight[:] = torch.eye(10)[:5]
    for token in range(3):
        model.head.time_map.weight[token, 12 - 6 + token] = 1
    x = past(60)
    torch.testing.assert_close(model(x)[..., 0], x[:, 30:42])


def test_symmetries_of_the_read_out():
    head = build(quantile_levels=(0.1, 0.5, 0.9)).head
    assert_symmetries_hold(head, torch.randn(2, 13, 8, dtype=torch.float64))


@pytest.mark.parametrize(
    "changes",
    [
        {"patch_size": 64},
        {"patch_size": 0},
        {"depth": 0},
        {"depth": 1001},
        {"num_heads": 3},
        {"dropout": 1.0},
        {"sign_average": True, "quantile_levels": (0.1, 0.5)},
    ],
    ids=str,
)
def test_bad_configuration(changes):
    with pytest.raises(ConfigError):
        dataclasses.replace(SMALL, **changes)


def test_decay_spares_positions():
    assert build().no_weight_decay() == {"pos_embed", "head.positions"}


def test_fits_a_sine():
    assert_fits_a_sine(build(quantile_levels=(0.5,)).float().train())
