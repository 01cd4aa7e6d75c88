"""The pull of ProxQuant: a proximal operator, checked by search, and its schedule."""

import math

import pytest
import torch

from madzoo.errors import ConfigError
from madzoo.quantization.grid import Grid, round_to_grid
from madzoo.quantization.prox import ProxSchedule, prox


def test_by_hand() -> None:
    # Levels -1, 0, 1 of scale 2 are -2, 0, 2; a pull of 0.25 moves by 0.5.
    w = torch.tensor([0.4, 0.9, 1.2, -0.6, -3.0, 2.25])
    found = prox(w, Grid(bits=2, axis=None), torch.full((1, 1), 2.0), pull=0.25)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.4, 1.7, -0.1, -2.5, 2.0]), rtol=1e-6, atol=1e-7)


def test_each_row_is_pulled_by_its_own_scale() -> None:
    w, scale = torch.tensor([[0.4, 0.3], [0.4, 3.0]]), torch.tensor([[1.0], [10.0]])
    assert prox(w, Grid(bits=2), scale, pull=0.1).tolist() == [pytest.approx([0.3, 0.2]), pytest.approx([0.0, 2.0])]


@pytest.mark.parametrize(
    ("grid", "zero"),
    [
        (Grid(bits=1, axis=None), None),
        (Grid(bits=3, axis=None), None),
        (Grid(bits=2, symmetric=False, axis=None), 1.0),
        (Grid(bits=3, kind="power_of_two", axis=None), None),
    ],
    ids=str,
)
@pytest.mark.parametrize("pull", [0.0, 0.1, 0.6])
def test_minimises_the_squared_way_and_the_distance_from_a_level(grid, zero, pull) -> None:
    scale, zero = torch.ones(1, 1, dtype=torch.float64), None if zero is None else torch.full((1, 1), zero).double()
    fine = torch.linspace(-6, 6, 24001, dtype=torch.float64)
    far = (fine - round_to_grid(fine, grid, scale, zero)).abs()
    w = torch.tensor([-5.3, -1.23, -0.07, 0.03, 0.31, 0.81, 1.77, 4.4], dtype=torch.float64)
    best = torch.stack([fine[((fine - x).square() / 2 + pull * far).argmin()] for x in w])
    torch.testing.assert_close(prox(w, grid, scale, zero, pull=pull), best, rtol=0, atol=6e-4)


def test_an_endless_pull_rounds_to_the_bit() -> None:
    w = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    grid, scale = Grid(bits=3), torch.rand(5, 1) + 0.1
    assert torch.equal(prox(w, grid, scale, pull=math.inf), round_to_grid(w, grid, scale))
    levels = round_to_grid(w, grid, scale)
    assert torch.equal(prox(levels, grid, scale, pull=0.01), levels)


def test_the_pull_grows_and_ends_hard() -> None:
    schedule = ProxSchedule(total_steps=10, strength=0.4, hard_from=0.8)
    assert [schedule.pull(step) for step in (2, 4, 8, 9, 10)] == [0.1, 0.2, 0.4, math.inf, math.inf]
    assert ProxSchedule(total_steps=1).pull(1) == ProxSchedule(total_steps=5, hard_from=1.0).pull(5) == math.inf
    assert ProxSchedule(total_steps=5, hard_from=0.0).pull(1) == math.inf


@pytest.mark.parametrize("wrong", [{"total_steps": 0}, {"strength": -0.1}, {"strength": math.nan}, {"hard_from": 1.1}])
def test_what_is_no_schedule_is_refused(wrong) -> None:
    with pytest.raises(ConfigError, match="total_steps >= 1"):
        ProxSchedule(**{"total_steps": 10, **wrong})
