"""The Mamba+ block: its gate against the formula, both directions, its steps against its scan, its symmetries."""

import pytest
import torch
from step_check import assert_steps_equal_the_whole, stepped
from symmetry_check import assert_symmetries_hold
from torch.nn import functional as F

from madzoo.errors import ShapeError
from madzoo.layers.mamba import Mamba
from madzoo.layers.mamba_plus import MambaPlus


def block(*sizes, **options):
    torch.manual_seed(0)
    made = MambaPlus(*sizes, **options)
    with torch.no_grad():
        made.D.normal_()
    return made.double()


def test_differs_from_mamba_by_the_gate_of_the_skip():
    """Mamba gates D u by silu(z), Mamba+ by 1 - sigmoid(z)."""
    plus, x = block(6, d_state=3, d_conv=2), torch.randn(2, 9, 6, dtype=torch.float64)
    plain = Mamba(6, d_state=3, d_conv=2).double()
    plain.load_state_dict(plus.state_dict())
    u, z = plus.in_proj(x).chunk(2, -1)
    u = F.silu(plus.conv1d(u.mT)[..., :9]).mT
    expected = plus.D * u * (1 - torch.sigmoid(z) - F.silu(z))
    torch.testing.assert_close(plus(x) - plain(x), plus.out_proj(expected))


@pytest.mark.parametrize("options", [{}, {"d_conv": 1}, {"d_state": 3, "expand": 1, "dt_rank": 5}, {"bias": True}])
def test_steps_equal_the_whole_on_every_prefix(options):
    made, x = block(10, **options), torch.randn(2, 17, 10, dtype=torch.float64)
    assert_steps_equal_the_whole(made, x, tolerance=1e-9)


def test_reverse_runs_from_the_end():
    made, x = block(6), torch.randn(2, 11, 6, dtype=torch.float64)
    torch.testing.assert_close(made(x, reverse=True), made(x.flip(1)).flip(1))
    assert not torch.allclose(made(x, reverse=True), made(x))


def test_gradients():
    made, x = block(3, d_state=2, d_conv=2), torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: made(x, reverse=True), (x,))


def test_symmetries():
    assert_symmetries_hold(block(5, d_state=3, d_conv=2, dt_rank=2), torch.randn(2, 6, 5, dtype=torch.float64))


def test_half_precision_and_misfits():
    made, x = MambaPlus(16).to(torch.bfloat16), torch.randn(1, 6, 16, dtype=torch.bfloat16)
    assert made(x).dtype == stepped(made, x).dtype == torch.bfloat16
    with pytest.raises(ShapeError, match="D = 16"):
        made(x[..., :5])
    with pytest.raises(ShapeError, match=r"\[B, D\]"):
        made.step(x, made.init_state(1))
