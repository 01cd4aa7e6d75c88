"""PatchS4D: the contract of a forecaster, on a small configuration, and its registered variants."""

import dataclasses

import pytest
import torch
from trunk_check import assert_fits_a_sine, sees_the_future

from madzoo.errors import CheckpointError, ConfigError, NotCausalError, ShapeError
from madzoo.models.series.patch_s4d import HORIZON_TENSORS, PatchS4D, PatchS4DConfig
from madzoo.registry import find_spec, list_specs

NAN = float("nan")
SMALL = PatchS4DConfig(
    context_length=63,
    prediction_length=12,
    patch_size=8,
    patch_stride=5,
    d_model=6,
    d_state=8,
    quantile_levels=(0.1, 0.5, 0.9),
)
NANO, TINY = 31 * 16 + 1, 31 * 48 + 1  # what a step of the horizon costs in the head
PARAMETERS = {
    "patch_s4d_nano_336_96": (50_192, 336 * 96),
    "patch_s4d_nano_512_96": (56_656, 512 * 96),
    "patch_s4d_nano_512_192": (56_656 + 96 * NANO, 512 * 192),
    "patch_s4d_nano_512_336": (56_656 + 240 * NANO, 512 * 336),
    "patch_s4d_nano_512_720": (56_656 + 624 * NANO, 512 * 720),
    "patch_s4d_tiny_512_96": (188_208, 512 * 96),
    "patch_s4d_tiny_512_192": (188_208 + 96 * TINY, 512 * 192),
    "patch_s4d_tiny_512_336": (188_208 + 240 * TINY, 512 * 336),
    "patch_s4d_tiny_512_720": (188_208 + 624 * TINY, 512 * 720),
    "patch_s4d_micro_504_168": (304_392, 504 * 168),
    "patch_s4d_small_672_168": (529_256 + 129 * 168, 672 * 168),
}


def build(seed=0, **changes):
    torch.manual_seed(seed)
    model = PatchS4D(dataclasses.replace(SMALL, **changes)).double().eval()
    with torch.no_grad():
        if model.linear_skip is not None:
            model.linear_skip.weight.normal_(std=0.1)
    return model


def adapter():
    adapt = find_spec("patch_s4d_nano_512_96").adapt_weights
    assert adapt is not None
    return adapt


def past(length=63, channels=2, seed=1):
    return torch.randn(3, length, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bidirectional": False},
        {"bottleneck": 7, "linear_skip": False},
        {"bottleneck": 7, "last_value_gate": True, "final_norm": False},
        {"quantile_levels": (0.5,)},
        {"patch_size": 63, "patch_stride": 63},
        {"patch_size": 1, "patch_stride": 1, "depth": 1},
    ],
    ids=str,
)
def test_shape_order_and_gradients(changes):
    model = build(**changes).train()
    quantiles = model(past())
    assert quantiles.shape == (3, 12, 2, len(model.quantile_levels)) and quantiles.dtype == torch.float64
    assert quantiles.diff(dim=-1).ge(0).all()
    quantiles.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_any_size_of_numbers():
    model, x = build(), past()
    expected = model(x)
    torch.testing.assert_close(model(x * 1e12 + 5e12), expected * 1e12 + 5e12, rtol=1e-9, atol=1.0)
    torch.testing.assert_close(model(x * 1e-12), expected * 1e-12, rtol=1e-9, atol=1e-24)


def test_degenerate_series():
    model = build()
    assert model(torch.full((1, 40, 1), 3.25, dtype=torch.float64)).eq(3.25).all()
    assert model(torch.full((1, 40, 1), NAN, dtype=torch.float64)).eq(0).all()
    assert model(torch.tensor([[[5.0]]], dtype=torch.float64)).eq(5).all()


def test_short_input_is_input_with_missing_past_and_long_input_is_cropped():
    model, x = build(), past()
    missing = x.clone()
    missing[:, :23] = NAN
    torch.testing.assert_close(model(x[:, 23:]), model(missing), rtol=0, atol=0)
    torch.testing.assert_close(model(torch.cat([past(seed=2), x], dim=1)), model(x), rtol=0, atol=0)
    assert model(missing).isfinite().all() and not torch.allclose(model(missing), model(x))


def test_channels_are_independent():
    model, x = build(), past(channels=3)
    torch.testing.assert_close(model(x[:, :, [2]]), model(x)[:, :, [2]], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_causal_blocks_do_not_look_ahead(bidirectional):
    assert sees_the_future(build(bidirectional=bidirectional)) == bidirectional


def test_dtypes():
    model = build()
    x = past()
    assert model.float()(x.float()).dtype == torch.float32
    assert model(x).dtype == torch.float64
    torch.testing.assert_close(model(x).float(), model(x.float()), rtol=1e-4, atol=1e-5)


def test_predicts_ragged_series_beyond_its_horizon():
    quantiles, mean = build().predict([torch.randn(9), torch.full((100,), NAN)], prediction_length=30)
    assert quantiles.shape == (2, 30, 1, 3) and mean.shape == (2, 30, 1)
    assert quantiles.isfinite().all() and quantiles[1].eq(0).all()


@pytest.mark.parametrize("size", [1e-40, 1e-30, 1e30, 3.4e38])
def test_forecasts_of_extreme_numbers_are_finite(size):
    x = torch.tensor([size, -size, 0.0, NAN, size]).repeat(9)
    quantiles, mean = build().float().predict([x, x.abs()], prediction_length=30)
    assert quantiles.isfinite().all() and mean.isfinite().all() and quantiles[1].abs().max() > 0


def test_is_not_causal():
    with pytest.raises(NotCausalError, match="PatchS4D cannot be stepped"):
        build().init_state(1)


@pytest.mark.parametrize("shape", [(63,), (3, 63), (1, 0, 2), (1, 63, 0)])
def test_bad_input(shape):
    with pytest.raises(ShapeError, match=r"\[B, L, C\]"):
        build()(torch.zeros(shape))
    with pytest.raises(ShapeError, match=r"\[B, L, C\]"):
        build()(torch.zeros(1, 63, 1, dtype=torch.int64))


@pytest.mark.parametrize(
    "changes",
    [
        {"depth": 0},
        {"patch_stride": 9},
        {"patch_size": 64},
        {"quantile_levels": ()},
        {"quantile_levels": (0.5, 0.1)},
        {"quantile_levels": (0.5, 1.0)},
        {"dropout": 1.0},
        {"bottleneck": -1},
    ],
    ids=str,
)
def test_bad_configuration(changes):
    with pytest.raises(ConfigError):
        dataclasses.replace(SMALL, **changes)


def test_another_horizon_restarts_the_head_alone():
    adapt = adapter()
    state = build().state_dict()
    assert adapt(state, SMALL, dataclasses.replace(SMALL, dropout=0.1)) == state
    gated = dataclasses.replace(SMALL, last_value_gate=True)
    longer = dataclasses.replace(gated, prediction_length=20)
    kept = adapt(build(last_value_gate=True).state_dict(), gated, longer)
    missing, unexpected = PatchS4D(longer).double().load_state_dict(kept, strict=False)
    assert set(missing) == set(HORIZON_TENSORS) and not unexpected


@pytest.mark.parametrize("changes", [{"quantile_levels": (0.2, 0.5, 0.8)}, {"context_length": 62}], ids=str)
def test_weights_refuse_other_configurations(changes):
    adapt = adapter()
    with pytest.raises(CheckpointError, match="fit no other configuration"):
        adapt(build().state_dict(), SMALL, dataclasses.replace(SMALL, **changes))


def test_registered_variants():
    assert set(list_specs("patch_s4d_*")) == set(PARAMETERS)
    for name, (trunk, skip) in PARAMETERS.items():
        spec = find_spec(name)
        model = spec.build(spec.config)
        assert isinstance(model, PatchS4D)
        assert sum(p.numel() for p in model.parameters()) == trunk + skip
        assert model.get_parameter("linear_skip.weight").numel() == skip
        assert name.endswith(f"_{model.context_length}_{model.prediction_length}")
        assert model.no_weight_decay() <= {n for n, _ in model.named_parameters()}


def test_fits_a_sine():
    torch.manual_seed(0)
    model = PatchS4D(dataclasses.replace(SMALL, quantile_levels=(0.5,)))
    assert_fits_a_sine(model)


def test_builds_on_meta_and_in_double():
    with torch.device("meta"):
        assert all(p.is_meta for p in PatchS4D(SMALL).parameters())
    try:
        torch.set_default_dtype(torch.float64)
        assert {p.dtype for p in PatchS4D(SMALL).parameters()} == {torch.float64}
    finally:
        torch.set_default_dtype(torch.float32)
