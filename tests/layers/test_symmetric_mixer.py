"""The symmetric mixer against the formulas of the paper written as loops; its options, symmetries and gradients."""

import pytest
import torch
from symmetry_check import assert_symmetries_hold
from torch.nn import functional as F

from madzoo.errors import ConfigError, ShapeError
from madzoo.layers.symmetric_mixer import SymmetricMixer


def mixer(**options):
    torch.manual_seed(0)
    made = SymmetricMixer(24, **options).double()
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


def series(batch=2, length=11):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, length, 24, generator=generator, dtype=torch.float64)


def by_loops(made, x_BLD):
    """Computes the mixer position by position; the bias of the step projection counts twice, as published."""
    length, half, taps = x_BLD.shape[1], made.d_inner // 2, made.d_conv
    projected = made.in_proj(x_BLD)

    def convolve(part, weight):
        rows = []
        for t in range(length):
            seen = [(t + j - (taps - 1) // 2, weight[:, 0, j]) for j in range(taps)]
            rows.append(sum(part[:, s] * w for s, w in seen if 0 <= s < length))
        return F.silu(torch.stack(rows, 1))

    x = convolve(projected[..., :half], made.conv1d_x.weight)
    z = convolve(projected[..., half:], made.conv1d_z.weight)
    h, ys = torch.zeros(len(x), half, made.d_state, dtype=x.dtype), []
    for t in range(length):
        low, B, C = made.x_proj(x[:, t]).split([made.dt_rank, made.d_state, made.d_state], -1)
        dt = F.softplus(made.dt_proj(low) + made.dt_proj.bias).unsqueeze(-1)
        h = torch.exp(dt * -made.A_log.exp()) * h + dt * B.unsqueeze(1) * x[:, t].unsqueeze(-1)
        ys.append((h * C.unsqueeze(1)).sum(-1) + made.D * x[:, t])
    return made.out_proj(torch.cat([torch.stack(ys, 1), z], -1))


@pytest.mark.parametrize(
    "options", [{}, {"d_state": 3, "d_conv": 4, "expand": 2, "bias": True}, {"d_conv": 1}], ids=str
)
@pytest.mark.parametrize("length", [1, 11, 49])
def test_outputs_and_gradients_are_those_of_the_formulas(options, length):
    made, x = mixer(**options), series(length=length).requires_grad_()
    y, expected = made(x), by_loops(made, x)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-12)
    weights = torch.randn_like(y)
    parts = [x, *made.parameters()]
    ours, theirs = (torch.autograd.grad((out * weights).sum(), parts) for out in (y, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)


def test_names_and_shapes_are_the_published_ones():
    shapes = {key: tuple(value.shape) for key, value in SymmetricMixer(320).state_dict().items()}
    assert shapes == {
        "A_log": (160, 8),
        "D": (160,),
        "in_proj.weight": (320, 320),
        "x_proj.weight": (36, 160),
        "dt_proj.weight": (160, 20),
        "dt_proj.bias": (160,),
        "out_proj.weight": (320, 320),
        "conv1d_x.weight": (160, 1, 3),
        "conv1d_z.weight": (160, 1, 3),
    }


def test_half_precision_is_finite_and_near():
    made, x = SymmetricMixer(24), series().float()
    assert made.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16
    made = SymmetricMixer(24)
    with torch.autocast("cpu", torch.bfloat16):
        near = made(x)
    torch.testing.assert_close(near.float(), made(x), rtol=0.05, atol=0.02)


@pytest.mark.parametrize("bias", [False, True])
def test_symmetries(bias):
    assert_symmetries_hold(mixer(bias=bias), series())


def test_weight_decay_names_exist():
    made = mixer()
    assert made.no_weight_decay() <= dict(made.named_parameters()).keys()


def test_what_does_not_fit_is_refused():
    for wrong in (series()[..., :23], series()[0]):
        with pytest.raises(ShapeError, match="D = 24"):
            mixer()(wrong)
    for options in ({"d_state": 0}, {"expand": 0.01}, {"expand": 25 / 24}, {"dt_init": "none"}):
        with pytest.raises(ConfigError):
            SymmetricMixer(24, **options)
