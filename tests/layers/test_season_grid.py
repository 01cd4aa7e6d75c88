"""The grid of seasons: a season has as many slots whatever the frequency, and nothing is lost or moved."""

import pytest
import torch

from madzoo.errors import ConfigError
from madzoo.layers.season_grid import SeasonGrid

LENGTHS = {"slots": 24, "past": 672, "future": 192}


@pytest.mark.parametrize(
    ("seasonality", "past", "future"),
    [(1, 168, 48), (4, 112, 32), (7, 196, 56), (12, 336, 96), (24, 672, 192), (96, 672, 192)],
)
def test_room_for_whole_seasons(seasonality, past, future):
    grid = SeasonGrid(**LENGTHS, seasonality=seasonality)
    assert (grid.context_length, grid.prediction_length) == (past, future)
    assert len(grid.behind) == past and len(grid.ahead) == future
    assert grid.behind.diff().min() >= 1 and grid.behind[0] >= 0 and grid.behind[-1] == 671
    assert grid.ahead.diff().min() >= 1 and grid.ahead[0] >= 0 and grid.ahead[-1] < 192


@pytest.mark.parametrize("seasonality", [4, 7, 12, 24])
def test_a_season_later_is_the_same_slot(seasonality):
    grid = SeasonGrid(**LENGTHS, seasonality=seasonality)
    slots = torch.cat([grid.behind, 672 + grid.ahead]) % 24
    assert torch.equal(slots[seasonality:], slots[:-seasonality])


@pytest.mark.parametrize("seasonality", [1, 5, 7, 12, 24])
@pytest.mark.parametrize("length", [1, 9, 2000])
def test_lays_out_every_step_in_order(seasonality, length):
    grid = SeasonGrid(**LENGTHS, seasonality=seasonality)
    x = torch.arange(2.0 * length).view(2, length, 1)
    laid = grid.lay_out(x)
    kept = min(length, grid.context_length)
    for row, whole in zip(laid.squeeze(-1), x.squeeze(-1), strict=True):
        assert torch.equal(row[row.isfinite()], whole[-kept:])
    assert torch.equal(laid[:, -1], x[:, -1])


def test_reads_the_future_where_it_lies():
    grid = SeasonGrid(**LENGTHS, seasonality=12)
    assert grid.read(torch.arange(192.0).unsqueeze(0))[0, :3].tolist() == [1, 3, 5]


@pytest.mark.parametrize("seasonality", [0, -1, 2.0, True])
def test_refuses_what_is_no_season(seasonality):
    with pytest.raises(ConfigError, match="seasonality"):
        SeasonGrid(**LENGTHS, seasonality=seasonality)
