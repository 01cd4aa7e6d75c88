"""Effective dimensions against closed forms and dense singular values; what is a bound is a bound."""

import json
import math

import pytest
import torch
from torch import nn

from madzoo.errors import ConfigError
from madzoo.geometry import EffectiveDimension, effective_dimension, gram_matrix, rank_above
from madzoo.geometry.effective import EPSILONS, summarise
from madzoo.geometry.jacobian import jacobian_rows
from tests.geometry.cases import CASES, draw, mlp


def test_numbers_of_a_known_spectrum() -> None:
    found = summarise(torch.diag(torch.tensor([1.0, 4.0, 3.0], dtype=torch.float64)), num_params=7)
    assert found.stable_rank == pytest.approx(2.0)
    assert found.participation_ratio == pytest.approx(64 / 26)
    assert found.entropy_rank == pytest.approx(8 / (4**0.5 * 3**0.375))  # exp of the entropy of (1, 3, 4) / 8
    assert (found.trace, found.lambda_max, found.num_params) == (pytest.approx(8.0), pytest.approx(4.0), 7)


@pytest.mark.parametrize("size", [1, 5])
def test_equal_eigenvalues_are_all_effective(size: int) -> None:
    found = summarise(3 * torch.eye(size, dtype=torch.float64), num_params=1)
    values = (found.stable_rank, found.participation_ratio, found.entropy_rank, found.epsilon_rank["1e-6"])
    assert values == pytest.approx((size,) * 4)


def test_thresholds_are_of_singular_values() -> None:
    sigma = torch.tensor([1.0, 0.5, 5e-3, 5e-5, 2e-6, 1e-7], dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    found = summarise(turn @ torch.diag(sigma**2) @ turn.T, num_params=6)
    assert found.epsilon_rank == dict(zip(EPSILONS, [2, 2, 3, 3, 4, 5], strict=True))
    assert min(map(float, EPSILONS)) == 1e-6


def test_the_spectrum_is_that_of_the_dense_jacobian() -> None:
    model, x = draw(CASES["gru"], 0)
    sigma = torch.linalg.svdvals(torch.stack(list(jacobian_rows(model, x[:4]))))
    found = effective_dimension(model, x[:4])
    assert found.stable_rank == pytest.approx(float(sigma.square().sum() / sigma[0] ** 2), rel=1e-9)
    assert found.participation_ratio == pytest.approx(float(sigma.square().sum() ** 2 / sigma.pow(4).sum()), rel=1e-9)
    assert found.epsilon_rank == {key: int((sigma > float(key) * sigma[0]).sum()) for key in EPSILONS}
    assert (found.rows, found.all_rows, found.num_params, found.seed) == (48, 48, 71, None)


def test_it_survives_json() -> None:
    model, x = draw(CASES["tanh_4-5-3"], 0)
    found = effective_dimension(model, x[:5], groups={"weights": "*weight", "last": "2.*"}, rows=7, seed=1)
    again = EffectiveDimension.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found and found.groups["last"].num_params == 18 and found.seed == 1
    assert found.groups["weights"].trace + 7 * 0 < found.trace
    for broken in ({**found.to_dict(), "rnak": 1}, {"rows": 3}, {**found.to_dict(), "groups": {"a": {"rows": 1}}}):
        with pytest.raises(ConfigError, match="not an EffectiveDimension"):
            EffectiveDimension.from_dict(broken)


def test_what_drawn_rows_bound() -> None:
    model, x = draw(CASES["gelu_4-5-3"], 0)
    whole = gram_matrix(model, x[:40]).total
    top = float(torch.linalg.eigvalsh(whole)[-1])
    for seed in range(3):
        some = gram_matrix(model, x[:40], rows=30, seed=seed).total
        assert summarise(some, num_params=0).lambda_max <= top * (1 + 1e-12)
        for share in (1e-4, 1e-2, 0.1, 0.3):
            assert rank_above(some, share * top**0.5) <= rank_above(whole, share * top**0.5)
    drawn = effective_dimension(model, x[:40], rows=30, seed=0)
    assert (drawn.rows, drawn.all_rows) == (30, 120)


def test_a_sample_twice_adds_no_direction() -> None:
    model, x = draw(CASES["tanh_4-5-3"], 0)
    once, twice = (effective_dimension(model, sample) for sample in (x[:4], x[:4].repeat(2, 1)))
    assert twice.epsilon_rank["1e-6"] == once.epsilon_rank["1e-6"] == 12
    assert twice.entropy_rank == pytest.approx(once.entropy_rank, rel=1e-9)
    assert twice.trace == pytest.approx(2 * once.trace)


def test_zero_jacobian_gives_zeros() -> None:
    model = nn.Sequential(mlp(3, 4), nn.Threshold(1e9, 0.0))
    found = effective_dimension(model, torch.randn(3, 3))
    assert (found.stable_rank, found.entropy_rank, found.participation_ratio, found.trace) == (0, 0, 0, 0)
    assert not any(found.epsilon_rank.values()) and not any(map(math.isnan, (found.lambda_max, found.stable_rank)))


def test_a_threshold_that_squares_hide_is_refused() -> None:
    gram = torch.eye(3, dtype=torch.float64)
    assert rank_above(gram, 1e-6) == 3
    for sigma in (0.9e-6, 0.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="1e-6"):
            rank_above(gram, sigma)
