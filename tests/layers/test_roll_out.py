"""Beyond the horizon: uncertainty that grows as it should, and never less than before."""

import math

import pytest
import torch

from madzoo.layers.roll_out import roll_out

NINE = tuple(i / 10 for i in range(1, 10))
STEPS = 4


def normal_quantiles(levels):
    return torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(levels))


def random_walk(past, levels=NINE):
    """The exact quantiles of a random walk, STEPS ahead."""
    sizes = torch.arange(1, STEPS + 1).sqrt()[:, None, None]
    return past[:, -1:, :, None] + sizes * normal_quantiles(levels)


def rolled(forward, horizon, levels=NINE, past=None):
    past = torch.zeros(2, 6, 3) if past is None else past
    return roll_out(forward, past, horizon=horizon, context_length=6, levels=levels)


def test_the_first_block_is_the_models():
    assert torch.equal(rolled(random_walk, 3), random_walk(torch.zeros(2, 6, 3))[:, :3])


@pytest.mark.parametrize("levels", [NINE, (0.1, 0.5, 0.9), (0.05, 0.5, 0.7, 0.95)])
def test_a_random_walk_keeps_spreading(levels):
    quantiles = rolled(lambda past: random_walk(past, levels), 16, levels)
    assert quantiles.shape == (2, 16, 3, len(levels)) and (quantiles.diff(dim=-1) >= 0).all()
    spread = (quantiles[..., -1] - quantiles[..., 0])[0, STEPS - 1 :: STEPS, 0]
    exact = (normal_quantiles(levels)[-1] - normal_quantiles(levels)[0]) * 2 * torch.arange(1, 5).sqrt()
    assert (spread.diff() > 0).all()
    # Points at the outermost quantiles stand for all that lies beyond them, so the growth is not exact.
    assert (spread > 0.75 * exact).all() and (spread < 1.45 * exact).all()
    if len(levels) % 2:
        torch.testing.assert_close(quantiles[..., len(levels) // 2], torch.zeros(2, 16, 3), atol=1e-5, rtol=0)


def test_spread_never_shrinks_even_where_the_model_says_so():
    def ever_surer(past):
        surety = past.isfinite().sum(1)[:, None, :, None].float()
        return random_walk(past) / surety.square()

    past = torch.full((1, 6, 1), torch.nan)
    past[:, -1] = 0
    spread = rolled(ever_surer, 20, past=past)[..., [0, -1]].diff(dim=-1)
    blocks = spread.unflatten(1, (5, STEPS)).mean(2).flatten()
    assert (blocks.diff() >= -1e-6).all() and blocks[0] > 0

    def stops_doubting(past):
        return random_walk(past) if past.isnan().any() else past[:, -1:, :, None].repeat(1, STEPS, 1, 9)

    spread = rolled(stops_doubting, 8, past=past)[..., [0, -1]].diff(dim=-1)
    assert spread[:, STEPS:].mean() >= spread[:, :STEPS].mean() * (1 - 1e-5)


def test_a_point_forecast_continues_its_path():
    def climb(past):
        return past[:, -1:, :, None] + torch.arange(1.0, STEPS + 1)[:, None, None]

    assert rolled(climb, 9, levels=(0.5,))[0, :, 0, 0].tolist() == list(range(1, 10))


def test_crossed_quantiles_are_sorted():
    assert (rolled(lambda past: random_walk(past).flip(-1), 9).diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_numbers_stay_finite(dtype):
    limit = torch.finfo(dtype).max

    def extremes(past):
        return torch.tensor([-limit, 0.0, limit], dtype=dtype).expand(*past[:, :STEPS].shape, 3)

    quantiles = rolled(extremes, 11, levels=(0.1, 0.5, 0.9), past=torch.zeros(1, 6, 1, dtype=dtype))
    assert quantiles.isfinite().all() and (quantiles[..., -1] > quantiles[..., 0]).all()


def test_a_wider_answer_widens_the_past():
    seen = []

    def wide(past):
        seen.append(past.dtype)
        return random_walk(past.double())

    assert rolled(wide, 9).dtype == torch.float64 and set(seen[1:]) == {torch.float64}


def test_paths_are_equally_likely_to_rise_and_fall():
    quantiles = rolled(random_walk, 12)
    torch.testing.assert_close(quantiles, -quantiles.flip(-1), atol=1e-5, rtol=0)
    assert math.isfinite(quantiles.sum())
