"""Averages of two forecasters: shares are chosen on validation rows, and a folder is written that loads."""

import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.testing import assert_close

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

import average_forecasters
from average_forecasters import Plan, choose, scaled_losses, write

from madzoo.factory import create_model
from madzoo.training.losses import pinball


def test_the_losses_are_twice_the_pinball_loss_and_the_absolute_error():
    torch.manual_seed(0)
    quantiles, target = torch.randn(70, 5, 2, 3).sort(-1).values, torch.randn(70, 5, 2)
    found = scaled_losses(quantiles, target, (0.1, 0.5, 0.9))
    assert_close(found.mean().float(), 2 * pinball(quantiles, target, (0.1, 0.5, 0.9)))
    assert_close(found[1].float(), (target - quantiles[..., 1]).abs().mean())


@pytest.fixture
def hours(tmp_path):
    """Two stations, long enough for the borders of the data set."""
    generator = torch.Generator().manual_seed(0)
    for place in (1, 2):
        noise = torch.randn(14060 + 3360, 1, generator=generator, dtype=torch.float64)
        table = pd.DataFrame(noise.numpy(), columns=["OT"])
        table.insert(0, "date", pd.date_range("2016-07-01", periods=len(table), freq="h"))
        (tmp_path / "ett").mkdir(exist_ok=True)
        table.to_parquet(tmp_path / "ett" / f"ETTh{place}.parquet")
    return tmp_path


@torch.no_grad()
def test_writes_what_it_was_told(tmp_path, hours):
    names = {"season": "season_s4d_base_1008_192.zeroshot", "patch": "patch_s4d_micro_504_168.ett{seed}h"}
    plan = Plan(name="season_patch_base_1008_168.mine", dataset="fev-ett-1h", shares=[0.75] * 9, **names)
    checkpoint = write(plan, seed=1, out=tmp_path / "made", folder=hours)
    model = create_model(f"local-dir:{checkpoint.path}", verify=True).eval()
    assert_close(model.shares(), torch.full((9,), 0.75))
    past = torch.randn(1, 1100, 2)
    season, patch = (create_model(name.format(seed=1), pretrained=True).eval()(past) for name in names.values())
    assert_close(model(past), 0.75 * season[:, :168] + 0.25 * patch, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_chooses_the_better_member(hours, monkeypatch):
    """On noise about zero the mean is better than anything else: a model that says so gets all of the share."""
    levels = (0.1, 0.5, 0.9)

    class Fixed(torch.nn.Module):
        context_length, prediction_length, quantile_levels = 4, 8, levels

        def __init__(self, shift):
            super().__init__()
            self.shift = shift

        def forward(self, past):
            widths = torch.special.ndtri(torch.tensor(levels, dtype=torch.float64)).float() / 1.13
            return (widths + self.shift).expand(len(past), 8, past.shape[2], 3)

    made = {"season_good": Fixed(0.0), "patch_bad": Fixed(3.0)}
    monkeypatch.setattr(average_forecasters, "create_model", lambda name, pretrained: made[name])
    found = choose("season_good", ["patch_bad"], hours)
    assert min(found["shares"]) >= 0.95 and found["by level"] == found["by level, patch_bad"]
    assert found["share 1.00"] == found["season_good"] and found["share 0.00"] == found["patch_bad"]
