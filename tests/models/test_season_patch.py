"""SeasonPatch: averages of two forecasters' quantiles, whose checkpoints are theirs."""

import copy
from dataclasses import replace

import pandas as pd
import pytest
import torch

from madzoo.errors import CheckpointError, ConfigError, ShapeError
from madzoo.models.series.patch_s4d import PatchS4D, PatchS4DConfig
from madzoo.models.series.season_patch import SeasonPatch, SeasonPatchConfig, adapt_member_weights, share_logits
from madzoo.models.series.season_s4d import SeasonS4D, SeasonS4DConfig
from madzoo.workflows.finetune_series import finetune_series
from madzoo.workflows.forecast import forecast

LEVELS = (0.1, 0.5, 0.9)
NAN = float("nan")
SEASON = SeasonS4DConfig(
    context_length=192, prediction_length=48, patch_size=24, patch_stride=24, d_model=8, bottleneck=8, depth=1,
    quantile_levels=LEVELS, linear_skip=False, last_value_gate=True, sign_average=True,
)  # fmt: skip
PATCH = PatchS4DConfig(
    context_length=96, prediction_length=30, patch_size=12, patch_stride=12, d_model=6, depth=1, quantile_levels=LEVELS
)
SMALL = SeasonPatchConfig(context_length=192, prediction_length=30, quantile_levels=LEVELS, season=SEASON, patch=PATCH)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SeasonPatch(SMALL).double().eval()


def past(length=200, seed=1):
    return torch.randn(2, length, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_every_level_is_an_average_of_both(model):
    with torch.no_grad():
        model.balance.copy_(share_logits(torch.tensor([0.5, 0.25, 0.5])))
    season, patch = model.season(past())[:, :30], model.patch(past())
    found = model(past())
    assert found.shape == (2, 30, 3, 3) and found.diff(dim=-1).ge(0).all()
    expected = torch.stack([(season + patch)[..., 0] / 2, 0.25 * season[..., 1] + 0.75 * patch[..., 1]], dim=-1)
    expected = torch.cat([expected, ((season + patch)[..., 2] / 2).unsqueeze(-1)], dim=-1)
    torch.testing.assert_close(found, expected.sort(-1).values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("share", "member"), [(1.0, "season"), (0.0, "patch")])
def test_all_of_the_share_is_nearly_the_one_member(model, share, member):
    with torch.no_grad():
        model.balance.copy_(share_logits(torch.full((3,), share)))
    alone = getattr(model, member)(past())[:, :30]
    assert (model(past()) - alone).abs().max() < 0.02


def test_units_gaps_and_odd_series(model):
    x = past()
    x[0, 50:90, 0] = NAN
    expected = model(x)
    assert expected.isfinite().all()
    torch.testing.assert_close(model(1e9 * x - 5e8), 1e9 * expected - 5e8, rtol=1e-8, atol=1.0)
    torch.testing.assert_close(model(x[:, 8:]), expected)
    torch.testing.assert_close(model(torch.full((1, 1, 1), 7.0)), torch.full((1, 30, 1, 3), 7.0, dtype=torch.float64))
    assert model(torch.full((1, 40, 1), NAN)).eq(0).all()
    extreme = torch.tensor([3.4e38, -3.4e38, 0.0, NAN]).repeat(9)
    quantiles, mean = copy.deepcopy(model).float().predict([extreme], prediction_length=70)
    assert quantiles.shape == (1, 70, 1, 3) and quantiles.isfinite().all() and mean.isfinite().all()
    for bad in (torch.zeros(63), torch.zeros(1, 0, 2), torch.zeros(1, 63, 1).long()):
        with pytest.raises(ShapeError, match=r"\[B, L, C\]"):
            model(bad)


def test_gradients_reach_every_parameter_and_decay_spares_what_the_members_name(model):
    model.train()(past()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    spared = model.no_weight_decay()
    assert spared <= {name for name, _ in model.named_parameters()}
    assert {"season.pos_embed", "patch.pos_embed"} <= spared


def test_members_keep_their_own_names(model):
    state = model.state_dict()
    for member, own in (("season", SeasonS4D(SEASON)), ("patch", PatchS4D(PATCH))):
        mine = {name.partition(".")[2] for name in state if name.startswith(f"{member}.")}
        assert mine == own.state_dict().keys()


def test_weights_fit_a_shorter_horizon_and_nothing_strange(model):
    shorter = replace(SMALL, prediction_length=12)
    twin = SeasonPatch(shorter).double().eval()
    twin.load_state_dict(adapt_member_weights(model.state_dict(), SMALL, shorter))
    torch.testing.assert_close(twin(past()), model(past())[:, :12])
    kept = adapt_member_weights(model.state_dict(), SMALL, shorter)
    assert all(kept[name].data_ptr() == tensor.data_ptr() for name, tensor in model.state_dict().items())  # untouched
    without = replace(SMALL, season=replace(SEASON, sign_average=False))
    assert adapt_member_weights(model.state_dict(), SMALL, without).keys() == model.state_dict().keys()
    wider = replace(SMALL, patch=replace(PATCH, d_model=8))
    with pytest.raises(CheckpointError, match="fit no other"):
        adapt_member_weights(model.state_dict(), SMALL, wider)
    levels = {"quantile_levels": (0.2, 0.5, 0.8)}
    other = replace(SMALL, **levels, season=replace(SEASON, **levels), patch=replace(PATCH, **levels))
    with pytest.raises(CheckpointError, match="fit no other"):
        adapt_member_weights(model.state_dict(), SMALL, other)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"context_length": 96}, "sees more"),
        ({"prediction_length": 31}, "at most"),
        ({"quantile_levels": (0.5,)}, "both members"),
    ],
)
def test_members_must_fit_together(changes, why):
    with pytest.raises(ConfigError, match=why):
        replace(SMALL, **changes)


def test_a_share_is_no_less_than_nothing():
    assert share_logits(torch.tensor([0.0, 1.0])).isfinite().all()
    for bad in (-0.1, 1.1, NAN):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            share_logits(torch.tensor([bad]))


@pytest.mark.parametrize("mode", ["full", "head"])
def test_learns_from_a_table_and_forecasts_it(model, mode):
    hours = pd.date_range("2020-01-01", periods=600, freq="h")
    table = pd.DataFrame({"timestamp": hours, "target": (torch.arange(600) % 24).double().numpy()})
    tuned = finetune_series(model.float(), table, steps=10, lr=0.01, mode=mode, batch_size=4)
    changed = [n for n, p in tuned.named_parameters() if not torch.equal(p, model.get_parameter(n))]
    assert {name.partition(".")[0] for name in changed} >= {"season", "patch"}
    assert mode == "full" or all(".head." in name or ".linear_skip." in name for name in changed)
    found = forecast(tuned, table, prediction_length=24, quantile_levels=LEVELS)
    assert len(found) == 24 and found[["0.1", "0.5", "0.9"]].notna().to_numpy().all()
