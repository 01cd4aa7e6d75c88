"""Routes through a grid and back."""

import pytest
import torch

from madzoo.errors import ConfigError
from madzoo.ops.traverse import ROUTES, to_grid, to_sequence


@pytest.mark.parametrize("route", ROUTES)
def test_round_trip(route):
    grid = torch.arange(2 * 3 * 5 * 4).reshape(2, 3, 5, 4)
    sequence = to_sequence(grid, route=route)
    assert torch.equal(to_grid(sequence, 3, 5, route=route), grid)


def test_columns_walk_down_first():
    grid = torch.arange(6).reshape(1, 2, 3, 1)
    assert to_sequence(grid, route="columns").flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert to_sequence(grid, route="rows").flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_unknown_route():
    with pytest.raises(ConfigError, match="diagonal"):
        to_sequence(torch.zeros(1, 2, 2, 1), route="diagonal")
