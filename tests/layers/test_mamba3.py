"""The Mamba-3 block against published outputs and gradients, an independent loop, and its own steps."""

import math

import pytest
import torch
from parity import filled_state, load_case
from published_check import assert_published, assert_published_gradients, case_input
from step_check import assert_steps_equal_the_whole, stepped
from symmetry_check import assert_symmetries_hold

from madzoo.errors import ConfigError, ShapeError
from madzoo.layers.mamba3 import Mamba3

CASE, REFERENCE = load_case("mamba3_siso_block")
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
OPTIONS = [
    {},
    {"is_outproj_norm": True},
    {"ngroups": 2, "rope_fraction": 1.0},
    {"d_state": 7, "expand": 1.5, "headdim": 10, "ngroups": 3, "chunk_size": 5, "is_outproj_norm": True},
]


def published(dtype):
    block = Mamba3(64, d_state=32, headdim=16).to(dtype).eval()
    block.load_state_dict(filled_state(CASE, dtype), strict=True)
    return block


def small(**options):
    """Returns a block whose every parameter matters: random gains, biases, steps far from 0."""
    torch.manual_seed(0)
    block = Mamba3(20, **{"d_state": 8, "headdim": 5, "dt_min": 0.1, "dt_max": 1.0, **options}).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return block


def written_out(block, x_BLD):
    """Computes the block as its equations stand: head after head, a complex state that turns, no shared code."""
    H, P, N, G, S = block.nheads, block.headdim, block.d_state, block.ngroups, block.num_rope_angles
    widths = [H * P, H * P, G * N, G * N, H, H, H, S]
    z, v, B, C, dt, A, mix, angle = (x_BLD @ block.in_proj.weight.T).split(widths, dim=-1)
    dt = torch.log1p(torch.exp(dt + block.dt_bias))
    A = torch.minimum(-torch.where(A >= 0, 1 + A, 1 / (1 - A)), torch.tensor(-block.A_floor, dtype=A.dtype))
    mix = 1 / (1 + torch.exp(-mix))
    outputs = []
    for head in range(H):
        group = head // (H // G)
        span = slice(group * N, (group + 1) * N)
        k, q = (
            x[..., span] / (x[..., span].pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + bias[head, 0]
            for x, norm, bias in ((B, block.B_norm, block.B_bias), (C, block.C_norm, block.C_bias))
        )
        inner = slice(head * P, (head + 1) * P)
        # The turning pairs of the state as complex numbers, in the frame that does not turn with them.
        k, q = ((torch.complex(x[..., : 2 * S : 2], x[..., 1 : 2 * S : 2]), x[..., 2 * S :]) for x in (k, q))
        turning, still, last, found = 0, 0, (0, 0), []
        for t in range(x_BLD.shape[1]):
            step, weight = dt[:, t, head, None, None], mix[:, t, head, None, None]
            decay = torch.exp(step * A[:, t, head, None, None])
            turn = torch.exp(-1j * step * math.pi * torch.tanh(angle[:, t, None]))
            x_t = v[:, t, inner].unsqueeze(-1)
            now = (x_t * k[0][:, t, None], x_t * k[1][:, t, None])
            turning = decay * turn * (turning + step * (1 - weight) * last[0]) + step * weight * now[0]
            still = decay * (still + step * (1 - weight) * last[1]) + step * weight * now[1]
            last = now
            y_t = (turning * q[0][:, t, None].conj()).real.sum(-1) + (still * q[1][:, t, None]).sum(-1)
            found.append(y_t + block.D[head] * v[:, t, inner])
        y = torch.stack(found, 1)
        if block.norm is not None:
            y = y / (y.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * block.norm.weight[inner]
        outputs.append(y * z[..., inner] / (1 + torch.exp(-z[..., inner])))
    return torch.cat(outputs, dim=-1) @ block.out_proj.weight.T


@DTYPES
@pytest.mark.parametrize("tag", ["a", "short"])
def test_published_outputs(tag, dtype):
    block, x = published(dtype), case_input(CASE, tag, dtype)
    for y in (block(x), stepped(block, x)):
        assert_published(y, REFERENCE[f"{tag}.out.float64"], dtype)


def test_published_gradients():
    assert_published_gradients(published(torch.float64), CASE, REFERENCE)


def test_parameters_stand_in_the_published_order():
    block = Mamba3(64, d_state=32, headdim=16)
    assert list(block.state_dict()) == [entry["key"] for entry in CASE["state_dict"]]
    assert sum(p.numel() for p in block.parameters()) == CASE["n_params"]
    normed = list(Mamba3(64, is_outproj_norm=True).state_dict())
    assert normed[-2:] == ["norm.weight", "out_proj.weight"]


@pytest.mark.parametrize("options", OPTIONS)
def test_it_computes_what_is_written(options):
    block, x = small(**options), torch.randn(2, 41, 20, dtype=torch.float64, requires_grad=True)
    given = (x, *block.parameters())
    y, expected = block(x), written_out(block, x)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    weights = torch.randn_like(y)
    ours = torch.autograd.grad((y * weights).sum(), given)
    for gradient, reference in zip(ours, torch.autograd.grad((expected * weights).sum(), given), strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-8, atol=1e-8 * reference.abs().max().item())


@pytest.mark.parametrize("options", OPTIONS)
def test_steps_equal_the_whole_on_every_prefix(options):
    block, x = small(**options), torch.randn(2, 63, 20, dtype=torch.float64)
    assert_steps_equal_the_whole(block, x, tolerance=1e-9)


def test_initial_values():
    torch.manual_seed(0)
    block = Mamba3(512, dt_min=0.01, dt_max=0.1)
    steps = torch.nn.functional.softplus(block.dt_bias)
    assert 0.0099 < steps.min() < steps.max() < 0.101
    for ones in (block.B_bias, block.C_bias, block.D, block.B_norm.weight, block.C_norm.weight):
        assert torch.equal(ones, torch.ones_like(ones))
    floored = Mamba3(64, dt_min=1e-6, dt_max=1e-5, dt_init_floor=1e-3)
    assert torch.nn.functional.softplus(floored.dt_bias).mean().item() == pytest.approx(1e-3, rel=1e-3)
    assert block.no_weight_decay() == {"dt_bias", "D"}


def test_decays_stay_above_their_floor():
    block = small(A_floor=0.5)
    rows = slice(sum(block.widths[:5]), sum(block.widths[:6]))
    with torch.no_grad():
        block.in_proj.weight[rows] *= 1e6
        A = block._project(torch.randn(1, 50, 20, dtype=torch.float64)).A
    assert A.max() == -0.5
    assert A.min() < -1e4
    assert block(torch.zeros(1, 9, 20, dtype=torch.float64)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "dimensions"),
    [({}, [6, 1, 10]), ({"is_outproj_norm": True}, [6, 1, 10]), ({"rope_fraction": 1.0, "ngroups": 2}, [4, 1, 10])],
)
def test_symmetries(options, dimensions):
    block = Mamba3(5, d_state=8, headdim=5, dt_min=0.1, dt_max=1.0, **options).double()
    assert [symmetry.dimension for symmetry in block.symmetries()] == dimensions
    assert_symmetries_hold(block, torch.randn(2, 6, 5, dtype=torch.float64))


def test_half_precision_autocast_and_meta():
    block = Mamba3(16, d_state=8, headdim=8)
    x = torch.randn(1, 6, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = block(x)
    assert (y.float() - block(x)).abs().max() < 0.05 * y.abs().max()
    half = block.to(torch.bfloat16)
    x = x.bfloat16()
    assert half(x).dtype == stepped(half, x).dtype == torch.bfloat16
    assert half.init_state(1).scan.ssm.dtype == torch.float32
    with torch.device("meta"):
        assert all(p.is_meta for p in Mamba3(16, headdim=8).parameters())


def test_misfits_are_told():
    block = Mamba3(6, d_state=4, headdim=3)
    for wrong in (torch.randn(2, 20, 5), torch.randn(20, 6)):
        with pytest.raises(ShapeError, match="D = 6"):
            block(wrong)
    with pytest.raises(ShapeError, match=r"\[B, D\]"):
        block.step(torch.randn(2, 1, 6), block.init_state(2))
    for options in ({"headdim": 5}, {"headdim": 3, "ngroups": 3}, {"headdim": 3, "d_state": 3}, {"headdim": 0}):
        with pytest.raises(ConfigError, match=f"headdim={options['headdim']}"):
            Mamba3(6, **options)
    with pytest.raises(ConfigError, match=r"0\.25"):
        Mamba3(6, headdim=3, rope_fraction=0.25)
