"""Rotated pairs against complex numbers, accumulated angles against a loop."""

import math

import pytest
import torch

from madzoo.errors import ShapeError
from madzoo.ops.rotary import accumulate_angles, rotate_pairs


@pytest.mark.parametrize(("states", "pairs"), [(8, 4), (8, 2), (7, 3), (7, 1)])
def test_pairs_turn_as_complex_numbers(states, pairs):
    x, angle = torch.randn(3, 5, states, dtype=torch.float64), torch.randn(5, pairs, dtype=torch.float64)
    turned = torch.view_as_complex(x[..., : 2 * pairs].unflatten(-1, (pairs, 2)).contiguous()) * torch.exp(1j * angle)
    expected = torch.cat([torch.view_as_real(turned).flatten(-2), x[..., 2 * pairs :]], dim=-1)
    torch.testing.assert_close(rotate_pairs(x, angle), expected)


def test_products_depend_on_the_difference_of_angles():
    x, y = torch.randn(2, 6, dtype=torch.float64)
    first, second = torch.randn(2, 3, dtype=torch.float64)
    product = rotate_pairs(x, first) @ rotate_pairs(y, second)
    torch.testing.assert_close(product, rotate_pairs(x, first - second) @ y)


def test_turns_are_added_modulo_a_full_turn():
    turns, initial = torch.randn(2, 40, 3, 5, dtype=torch.float64), torch.rand(2, 3, 5, dtype=torch.float64)
    angle, found = initial, []
    for turn in turns.unbind(1):
        angle = torch.remainder(angle + turn, 2 * math.pi)
        found.append(angle)
    torch.testing.assert_close(accumulate_angles(turns, initial), torch.stack(found, 1))
    torch.testing.assert_close(accumulate_angles(turns), accumulate_angles(turns, torch.zeros_like(initial)))


def test_thousands_of_turns_keep_their_digits():
    turns = torch.rand(1, 20_000, 1) * 3
    exact = torch.remainder(turns.double().cumsum(1), 2 * math.pi)
    angle = accumulate_angles(turns)
    assert angle.dtype == torch.float32
    assert (angle.double().cos() - exact.cos()).abs().max() < 1e-6


def test_derivatives():
    x, turns = torch.randn(1, 4, 5, dtype=torch.float64), torch.randn(1, 4, 2, dtype=torch.float64)
    x.requires_grad_(), turns.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, turns: rotate_pairs(x, accumulate_angles(turns).cos()), (x, turns))
    assert torch.autograd.gradgradcheck(lambda x, turns: rotate_pairs(x, accumulate_angles(turns)), (x, turns))


def test_misfits_are_named():
    with pytest.raises(ShapeError, match="more angles"):
        rotate_pairs(torch.zeros(5), torch.zeros(3))
