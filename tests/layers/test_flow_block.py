"""The block around an S5: its formula, its rate, its steps, and a time that begins with the first active step."""

import pytest
import torch
from torch.nn import functional as F

from madzoo.layers.flow_block import FlowBlock


def build():
    torch.manual_seed(0)
    return FlowBlock(6, d_state=8, state_blocks=2, expand=2, dt_min=0.01, dt_max=0.5).double().eval()


def sequence(length=19, batch=3):
    return torch.randn(batch, length, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def ones(x):
    return torch.ones(x.shape[:2], dtype=x.dtype)


def test_is_what_it_says():
    block, x = build(), sequence()
    y = F.selu(block.ssm(x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()))
    middle = x + y * torch.sigmoid(block.gate(y))
    hidden = F.gelu(block.feed_forward.fc1(middle / (middle.square().mean(-1, keepdim=True) + 1e-5).sqrt()))
    torch.testing.assert_close(block(x, ones(x), scale=1.0), middle + block.feed_forward.fc2(hidden))


@pytest.mark.parametrize("scale", [0.25, 3.0])
def test_the_scale_is_that_of_the_steps(scale):
    block, x = build(), sequence()
    other = build()
    with torch.no_grad():
        other.ssm.log_step += torch.tensor(scale).log()
    torch.testing.assert_close(block(x, ones(x), scale=scale), other(x, ones(x), scale=1.0))
    assert block.ssm.step_rescale == 1 and not torch.allclose(
        block(x, ones(x), scale=1.0), other(x, ones(x), scale=1.0)
    )


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_gradients_reach_the_parameters_at_every_rate(scale):
    block, x = build(), sequence()
    block(x, ones(x), scale=scale).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in block.parameters())


@pytest.mark.parametrize("last", [1, 7, 19])
def test_the_last_positions_alone(last):
    block, x = build(), sequence()
    torch.testing.assert_close(block(x, ones(x), scale=1.0, last=last), block(x, ones(x), scale=1.0)[:, -last:])


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_steps_equal_every_prefix(scale):
    block, x = build(), sequence()
    active = ones(x)
    active[:, :4], active[1, 9] = 0, 0
    state, found = block.init_state(3), []
    for x_t, active_t in zip(x.unbind(1), active.unbind(1), strict=True):
        y_t, state = block.step(x_t, active_t, scale=scale, state=state)
        found.append(y_t)
    for length in range(1, 20):
        whole = block(x[:, :length], active[:, :length], scale=scale)
        torch.testing.assert_close(torch.stack(found[:length], 1), whole, rtol=1e-11, atol=1e-11)


def test_time_begins_with_the_first_active_step():
    block, x = build(), sequence()
    active = ones(x)
    active[:, :5] = 0
    torch.testing.assert_close(
        block(x, active, scale=1.0)[:, 5:], block(x[:, 5:], ones(x[:, 5:]), scale=1.0), rtol=1e-11, atol=1e-11
    )
