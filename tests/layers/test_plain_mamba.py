"""PlainMamba's mixer against its formula written out, direction by direction; moves, initial values, symmetries."""

import itertools

import pytest
import torch
from symmetry_check import assert_symmetries_hold
from torch.nn import functional as F

from madzoo.errors import ConfigError, ShapeError
from madzoo.layers.plain_mamba import PlainMamba2D, moves_along
from madzoo.ops.selective_scan import selective_scan
from madzoo.ops.traverse import CONTINUOUS, to_sequence

GRIDS = [(1, 1), (1, 5), (4, 1), (3, 5), (4, 4), (6, 3)]
MOVES = {(0, 1): 1, (0, -1): 2, (-1, 0): 3, (1, 0): 4}


def mixer(d_model=6, *, d_state=3, dtype=torch.float64, **options):
    torch.manual_seed(0)
    module = PlainMamba2D(d_model, d_state=d_state, **{"d_conv": 3, "dt_rank": 2} | options).to(dtype).eval()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return module


def grid(height=3, width=5, *, channels=6, dtype=torch.float64):
    return torch.randn(2, height, width, channels, generator=torch.Generator().manual_seed(1), dtype=dtype)


def snake(lines, length):
    return [(i, j if i % 2 == 0 else length - 1 - j) for i in range(lines) for j in range(length)]


def four_walks(height, width):
    """Lists the cells of each direction in the order in which it visits them."""
    rows, columns = snake(height, width), [(i, j) for j, i in snake(width, height)]
    return [rows, rows[::-1], columns, columns[::-1]]


def moves_of(walk):
    return [0] + [MOVES[b[0] - a[0], b[1] - a[1]] for a, b in itertools.pairwise(walk)]


def by_formula(m, x_BHWD):
    height, width = x_BHWD.shape[1:3]
    x, z = m.in_proj(x_BHWD).chunk(2, -1)
    x = F.silu(m.conv2d(x.permute(0, 3, 1, 2).contiguous())).flatten(2)
    dt, B, C = m.x_proj(x.transpose(1, 2)).transpose(1, 2).split([m.dt_rank, m.d_state, m.d_state], 1)
    dt = torch.einsum("brl,dr->bdl", dt, m.dt_proj.weight) + 2 * m.dt_proj.bias.unsqueeze(-1)
    total = torch.zeros_like(x)
    for walk in four_walks(height, width):
        order = torch.tensor([i * width + j for i, j in walk])
        added = m.direction_Bs[moves_of(walk)].T
        # Tokens follow the walk; steps, B and C do not.
        y = selective_scan(x[..., order], F.softplus(dt), -m.A_log.exp(), B + added, C, m.D, backend="reference")
        total = total + y[..., order.argsort()]
    y = m.out_proj(total.transpose(1, 2).unflatten(1, (height, width)) * F.silu(z))
    return y if m.gamma is None else y * m.gamma


@pytest.mark.parametrize("options", [{}, {"bias": True, "init_layer_scale": 0.5}, {"conv_bias": False, "d_conv": 5}])
@pytest.mark.parametrize("size", GRIDS)
def test_the_mixer_is_its_formula(options, size):
    m, x = mixer(**options), grid(*size).requires_grad_()
    ours, formula = m(x), by_formula(m, x)
    torch.testing.assert_close(ours, formula, rtol=1e-10, atol=1e-12)
    wanted, weights = [x, *m.parameters()], torch.randn_like(ours)
    gradients = [torch.autograd.grad((y * weights).sum(), wanted) for y in (ours, formula)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("size", GRIDS)
def test_moves_are_those_between_the_tokens_of_a_route(size):
    cells = torch.stack(torch.meshgrid(*map(torch.arange, size), indexing="ij"), -1).unsqueeze(0)
    for moves, (route, reverse), walk in zip(moves_along(*size), CONTINUOUS, four_walks(*size), strict=True):
        path = [tuple(cell) for cell in to_sequence(cells, route=route)[0].tolist()]
        assert (path[::-1] if reverse else path) == walk
        assert (moves[::-1] if reverse else moves) == moves_of(walk)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 9), (6, 6)])
def test_float32_follows_float64(height, width):
    m, x = mixer(16), grid(height, width, channels=16)
    y = m(x)
    torch.testing.assert_close(m.float()(x.float()), y.float(), rtol=1e-4, atol=2e-5 * y.abs().max().item())


def test_half_precision_is_finite():
    m = mixer(16, dtype=torch.bfloat16)
    assert m(grid(channels=16, dtype=torch.bfloat16)).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert mixer(16, dtype=torch.float32)(grid(channels=16, dtype=torch.float32)).isfinite().all()


def test_names_and_initial_values_are_the_published_ones():
    m = PlainMamba2D(32, bias=True, init_layer_scale=0.5)
    linears = ["in_proj", "conv2d", "x_proj", "dt_proj", "out_proj"]
    names = [f"{name}.{leaf}" for name in linears for leaf in ("weight", "bias") if (name, leaf) != ("x_proj", "bias")]
    assert list(m.state_dict()) == ["gamma", "A_log", "D", "direction_Bs", *names]
    assert "gamma" not in PlainMamba2D(32).state_dict()
    assert m.conv2d.weight.shape == (64, 1, 7, 7) and m.direction_Bs.shape == (5, 16)
    assert (m.D == 1).all() and (m.gamma == 0.5).all()
    torch.testing.assert_close(m.A_log[3].exp(), torch.arange(1.0, 17.0))
    steps = F.softplus(m.dt_proj.bias)
    assert 0.0009 < steps.min() < steps.max() < 0.11
    assert 0 < m.direction_Bs.abs().max() < 0.1


def test_weight_decay_names_real_parameters():
    assert mixer().no_weight_decay() <= dict(mixer().named_parameters()).keys()


@pytest.mark.parametrize("bias", [False, True])
def test_symmetries(bias):
    assert_symmetries_hold(mixer(4, d_state=2, bias=bias), grid(4, 3, channels=4))


def test_misfits_are_named():
    for wrong in ({"d_state": 0}, {"d_conv": 4}, {"d_conv": -1}, {"dt_init": "normal"}, {"expand": 0.01}):
        with pytest.raises(ConfigError):
            PlainMamba2D(8, **wrong)
    for wrong in (torch.zeros(2, 3, 3, 5), torch.zeros(2, 9, 6)):
        with pytest.raises(ShapeError, match="D = 6"):
            mixer()(wrong)
