"""Valleys: problems as drawn, the best grid point by hand, what holds exactly of the estimators."""

import itertools

import pytest
import torch

from madzoo.errors import ConfigError
from madzoo.landscape import (
    VALLEY_METHODS,
    Valley,
    best_grid_point,
    best_random_rounding,
    descend_valley,
    draw_valley,
    round_minimiser,
)

LRS = torch.tensor([0.03, 0.3], dtype=torch.float64)


def one_valley() -> Valley:
    """(p_1 + p_2 - 0.8)^2 / 4 over p in {-1, 0, 1}^2: the minimiser rounds to (0, 0), the best point sums to 1."""
    H = torch.tensor([[[0.5, 0.5], [0.5, 0.5]]], dtype=torch.float64)
    return Valley(H=H, c=torch.tensor([[0.4, 0.4]], dtype=torch.float64), reach=1)


def test_a_valley_is_what_was_asked_for() -> None:
    valley = draw_valley(5, dim=4, rank=2, reach=2, seed=3)
    sizes = torch.linalg.eigvalsh(valley.H)
    assert (sizes[:, :2].abs() < 1e-12).all() and (sizes[:, 2] > 0.09).all()
    torch.testing.assert_close(sizes[:, 3], torch.ones(5, dtype=torch.float64))
    assert valley.c.abs().max() <= 2 and torch.equal(valley.c, draw_valley(5, dim=4, rank=2, reach=2, seed=3).c)
    assert not torch.equal(valley.c, draw_valley(5, dim=4, rank=2, reach=2, seed=4).c)
    assert (valley.loss(valley.c) == 0).all()
    with pytest.raises(ConfigError, match="rank"):
        draw_valley(1, dim=2, rank=3)


def test_the_best_point_by_hand_and_by_search() -> None:
    valley = one_valley()
    assert best_grid_point(valley).item() == pytest.approx(0.2**2 / 4)
    assert round_minimiser(valley).item() == pytest.approx(0.8**2 / 4)
    drawn = draw_valley(3, dim=3, rank=3, seed=1)
    points = torch.tensor(list(itertools.product((-1, 0, 1), repeat=3)), dtype=torch.float64)
    for i in range(3):
        away = points - drawn.c[i]
        expected = (0.5 * (away @ drawn.H[i] * away).sum(1)).min()
        torch.testing.assert_close(best_grid_point(drawn)[i], expected)
    with pytest.raises(ConfigError, match="too large"):
        best_grid_point(draw_valley(1, dim=20, rank=1))


def test_random_rounding_finds_it_in_the_end() -> None:
    valley = one_valley()
    assert best_random_rounding(valley, 200).item() == pytest.approx(0.01)
    assert best_random_rounding(valley, 0).item() == pytest.approx(0.16)


def test_the_straight_through_step_by_hand() -> None:
    # w = (0.4, 0.4), q = (0, 0): the gradient is 0.5 (-0.4 - 0.4) = -0.4 in both; with lr 0.3 w = (0.52, 0.52).
    # Then q = (1, 1), gradient 0.5 (0.6 + 0.6) = 0.6, w = (0.34, 0.34), q = (0, 0).
    run = descend_valley(one_valley(), torch.tensor([0.3]), steps=2)
    assert run.last.item() == pytest.approx(0.16) and run.best.item() == pytest.approx(0.16)
    assert run.flip_frequency.item() == 1.0 and run.latent_distance.item() == pytest.approx(0.34)
    assert run.mean_gradient.item() == pytest.approx(2**0.5 * 0.1)  # at the mean (0.5, 0.5)
    assert descend_valley(one_valley(), torch.tensor([0.3]), steps=3).last.item() == pytest.approx(0.16)


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_the_latent_stays_across_the_valley_and_the_mean_step_is_its_drift(rank: int) -> None:
    run = descend_valley(draw_valley(20, dim=5, rank=rank), LRS, steps=400)
    assert run.off_valley.max() < 1e-12
    torch.testing.assert_close(run.mean_gradient, run.telescoped, rtol=0, atol=1e-12)
    assert (run.mean_gradient[1] < 0.02).all()  # the mean of q solves the real problem


@pytest.mark.parametrize("method", VALLEY_METHODS)
def test_nothing_beats_the_search(method: str) -> None:
    valley = draw_valley(20, dim=5, rank=3)
    best = best_grid_point(valley)
    run = descend_valley(valley, LRS, method=method, steps=200)
    assert run.best.shape == (2, 20) and (run.best >= best - 1e-12).all() and (run.last >= run.best).all()
    assert (run.best <= round_minimiser(valley) + 1e-12).all() and (
        best_random_rounding(valley, 50) >= best - 1e-12
    ).all()


def test_prox_quant_comes_to_rest_on_the_grid_and_the_estimator_does_not() -> None:
    valley = draw_valley(20, dim=5, rank=5)
    proximal, plain = (descend_valley(valley, LRS, method=m, steps=500) for m in ("prox_quant", "ste"))
    assert proximal.latent_distance[1].max() < 1e-9 and proximal.flip_frequency[1].max() == 0
    assert plain.flip_frequency.min() > 0.01


def test_clipping_stops_what_is_beyond_the_range() -> None:
    valley = Valley(H=torch.ones(1, 1, 1).double(), c=torch.tensor([[0.4]]).double(), reach=1)
    steps = {m: descend_valley(valley, torch.tensor([10.0]), method=m, steps=2) for m in ("ste", "clipped_ste")}
    # 0.4 -> q 0, gradient -0.4, w = 4.4, q = 1: plain goes to 4.4 - 6 = -1.6, clipped stays at 4.4.
    assert steps["ste"].latent_distance.item() == pytest.approx(0.6)
    assert steps["clipped_ste"].latent_distance.item() == pytest.approx(3.4)


def test_unknown_words() -> None:
    with pytest.raises(ConfigError, match="no method"):
        descend_valley(one_valley(), LRS, method="stee")
    with pytest.raises(ConfigError, match="two steps"):
        descend_valley(one_valley(), LRS, steps=1)
