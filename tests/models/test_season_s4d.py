"""SeasonS4D: one network for every frequency, told by the season; anchors that are what they say."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from madzoo.errors import CheckpointError, ConfigError
from madzoo.factory import create_model
from madzoo.layers.forecaster import with_seasonality
from madzoo.layers.series_scaler import SeriesScaler
from madzoo.models.series.flowstate import FlowState, FlowStateConfig
from madzoo.models.series.season_s4d import SeasonS4D, SeasonS4DConfig, adapt_season_weights
from madzoo.workflows.forecast import forecast

SMALL = SeasonS4DConfig(
    context_length=192, prediction_length=48, patch_size=24, patch_stride=24, d_model=8, bottleneck=8, depth=1,
    quantile_levels=(0.1, 0.5, 0.9), linear_skip=False, last_value_gate=True,
)  # fmt: skip


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SeasonS4D(SMALL).double().eval()


@pytest.mark.parametrize(("seasonality", "steps"), [(1, 12), (4, 8), (7, 14), (12, 24), (24, 48), (96, 48)])
def test_every_frequency(model, seasonality, steps):
    told = with_seasonality(model, seasonality)
    quantiles, mean = told.predict(torch.randn(2, 30, 3, dtype=torch.float64))
    assert quantiles.shape == (2, steps, 3, 3) and quantiles.isfinite().all() and mean.shape == (2, steps, 3)
    assert quantiles.diff(dim=-1).ge(0).all()
    assert model.seasonality == 24 and told.head is model.head


def test_a_frequency_is_a_matter_of_layout(model):
    monthly = torch.randn(1, 60, 1, dtype=torch.float64)
    laid = torch.full((1, 192, 1), torch.nan, dtype=torch.float64)
    laid[:, 73::2] = monthly
    expected = model(laid)[:, 1::2]
    torch.testing.assert_close(with_seasonality(model, 12)(monthly), expected)


def test_beyond_the_horizon_and_in_other_units(model):
    past = torch.randn(2, 40, 1, dtype=torch.float64)
    told = with_seasonality(model, 7)
    quantiles = told.predict(past, prediction_length=33)[0]
    assert quantiles.shape == (2, 33, 1, 3) and quantiles.isfinite().all()
    torch.testing.assert_close(told.predict(1e9 * past - 5e8, prediction_length=33)[0], 1e9 * quantiles - 5e8)


def test_anchors_are_the_last_value_the_last_season_and_last_week(model):
    x = torch.randn(1, 192, dtype=torch.float64)
    x[0, 170] = torch.nan
    scaled = SeriesScaler()(x)
    last, season, week = model.anchors(scaled)[0]
    assert torch.equal(last, scaled.values[0, -1].expand(48))
    expected = scaled.values[0, 168:].clone()
    expected[2] = scaled.values[0, 146]
    assert torch.equal(season, expected.repeat(2))
    assert torch.equal(week, scaled.values[0, 24:72])


def test_gradients_reach_every_parameter(model):
    model(torch.randn(4, 192, 1, dtype=torch.float64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("context_length", [5, 50, 200])
def test_refuses_parts_of_seasons(context_length):
    with pytest.raises(ConfigError, match=r"whole seasons|patch_size <= context_length"):
        create_model("season_s4d_small_672_192", context_length=context_length)
    short = create_model("season_s4d_small_672_192", context_length=24, d_model=4, depth=1, bottleneck=4)
    assert short.predict([[1.0, 3.0, 2.0]])[0].isfinite().all()


def test_refuses_what_is_no_season(model):
    with pytest.raises(ConfigError, match="seasonality"):
        with_seasonality(model, 0)
    with pytest.raises(ConfigError, match="seasonality"):
        model.seasonality = 2.5


FLOW = FlowStateConfig(
    context_length=192, prediction_length=48, d_model=8, depth=1, d_state=8, quantile_levels=(0.1, 0.5, 0.9)
)


@pytest.mark.parametrize("build", [lambda: SeasonS4D(SMALL), lambda: FlowState(FLOW)])
def test_a_table_tells_the_season(build):
    torch.manual_seed(0)
    model = build().double().eval()
    x = torch.randn(60, dtype=torch.float64)
    table = pd.DataFrame({"timestamp": pd.date_range("2020-01-01", periods=60, freq="MS"), "target": x.numpy()})
    found = forecast(model, table, prediction_length=6, quantile_levels=(0.5,))["predictions"]
    expected = with_seasonality(model, 12).predict(x.view(1, 60, 1), prediction_length=6)[0]
    torch.testing.assert_close(torch.tensor(found.to_numpy()), expected[0, :, 0, 1])
    other = forecast(model, table, prediction_length=6, quantile_levels=(0.5,), seasonality=4)["predictions"]
    assert (found - other).abs().min() > 1e-6


def test_means_of_seasons_are_anchors_too():
    torch.manual_seed(0)
    model = SeasonS4D(replace(SMALL, context_length=240, prediction_length=168, mean_anchors=True)).double()
    x = torch.randn(1, 240, dtype=torch.float64)
    x[0, 72:96] = torch.nan  # the fourth of ten seasons
    x[0, 5::24] = torch.nan  # a slot that is never observed
    scaled = SeriesScaler()(x)
    recent, same_day, every = model.anchors(scaled)[0, 3:].unflatten(1, (7, 24))
    seasons = scaled.values[0].unflatten(0, (10, 24))
    there, slots = [0, 1, 2, 4, 5, 6, 7, 8, 9], torch.arange(24) != 5
    for day in range(7):
        torch.testing.assert_close(recent[day][slots], seasons[4:].mean(0)[slots])
        torch.testing.assert_close(every[day][slots], seasons[there].mean(0)[slots])
    # Days of a week ago, and a week before them as far as the context reaches; the fourth season has no other.
    for day, of_day in enumerate(([3], [4], [5], [6], [0, 7], [1, 8], [2, 9])):
        expected = seasons[of_day].mean(0) if day else seasons[9]
        torch.testing.assert_close(same_day[day][slots], expected[slots])
    assert torch.equal(recent[:, 5], scaled.last[0].expand(7)) and torch.equal(every[:, 5], recent[:, 5])


def test_the_mirrored_series_has_the_mirrored_forecast():
    torch.manual_seed(0)
    model = SeasonS4D(replace(SMALL, sign_average=True)).double().eval()
    x = torch.randn(2, 150, 3, dtype=torch.float64)
    x[0, 100:110] = torch.nan
    torch.testing.assert_close(model(-x), -model(x).flip(-1))
    plain = SeasonS4D(SMALL).double().eval()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(x), (plain(x) - plain(-x).flip(-1)) / 2)
    model.train()
    torch.testing.assert_close(model(x), plain(x))
    with pytest.raises(ConfigError, match="symmetric"):
        replace(SMALL, sign_average=True, quantile_levels=(0.1, 0.5))


def test_weights_fit_a_longer_context_and_more_anchors(model):
    target = replace(SMALL, context_length=264, mean_anchors=True, sign_average=True)
    longer = SeasonS4D(target).double().eval()
    longer.load_state_dict(adapt_season_weights(model.state_dict(), SMALL, target))
    reader = longer.head.bottleneck[0].weight
    assert reader[:, : 3 * 8].abs().max() == 0 and torch.equal(reader[:, 3 * 8 :], model.head.bottleneck[0].weight)
    assert torch.equal(longer.pos_embed[:4], model.pos_embed[:1].expand(4, 8))
    gates = longer.head.gate(torch.zeros(SMALL.bottleneck, dtype=torch.float64)).sigmoid().view(6, 48)
    assert gates[3:].max() < 0.02
    same = adapt_season_weights(model.state_dict(), SMALL, replace(SMALL, sign_average=True))
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in same.items())
    later = replace(SMALL, prediction_length=240)
    further = SeasonS4D(later).double().eval()
    further.load_state_dict(adapt_season_weights(model.state_dict(), SMALL, later))
    x = torch.randn(2, 192, 1, dtype=torch.float64)
    torch.testing.assert_close(further(x)[:, :48], model(x))
    rows, gates = further.head.projection.weight.view(240, 3, 8), further.head.gate.bias.view(3, 240)
    assert torch.equal(rows[48:96], rows[:48]) and torch.equal(gates[:, 48:96], gates[:, :48])  # no week to repeat
    sooner = SeasonS4D(replace(SMALL, prediction_length=24)).double().eval()
    sooner.load_state_dict(adapt_season_weights(further.state_dict(), later, sooner.config))
    torch.testing.assert_close(sooner(x), model(x)[:, :24])
    for field, value in (("context_length", 168), ("d_model", 16)):
        with pytest.raises(CheckpointError):
            adapt_season_weights(model.state_dict(), SMALL, replace(SMALL, **{field: value}))
