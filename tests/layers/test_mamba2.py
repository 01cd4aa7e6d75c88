"""The Mamba-2 block against published outputs and gradients, a loop that reads its mathematics aloud, and its steps."""

import pytest
import torch
from parity import filled_state, load_case
from published_check import assert_published, assert_published_gradients, case_input
from ssd_loop import convolved, grouped_norm, scanned
from step_check import assert_steps_equal_the_whole, stepped
from symmetry_check import assert_symmetries_hold
from torch.nn.functional import silu, softplus

from madzoo.errors import ConfigError, ShapeError
from madzoo.geometry import local_dimension
from madzoo.layers.mamba2 import Mamba2

CASE, REFERENCE = load_case("mamba2_block_g1")
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
SMALL = {"d_state": 5, "headdim": 4}
OPTIONS = pytest.mark.parametrize(
    "options",
    [
        {},
        {"ngroups": 2},
        {"ngroups": 3, "D_has_hdim": True, "d_conv": 2},
        {"rmsnorm": False, "D_has_hdim": True, "ngroups": 2},
        {"norm_before_gate": True, "ngroups": 2, "bias": True},
        {"d_ssm": 16, "ngroups": 2, "bias": True, "conv_bias": False},
        {"d_ssm": 8, "rmsnorm": False, "d_conv": 1, "expand": 1.5, "d_state": 1},
        {"dt_limit": (0.01, 0.03), "ngroups": 6, "chunk_size": 7},
    ],
    ids=str,
)


def published(dtype):
    block = Mamba2(64, d_state=32, headdim=16, chunk_size=16).to(dtype).eval()
    block.load_state_dict(filled_state(CASE, dtype), strict=True)
    return block


def small(options, dtype=torch.float64):
    torch.manual_seed(0)
    block = Mamba2(12, **SMALL | options).to(dtype)
    for parameter in block.parameters():  # away from ones and zeros
        parameter.data += 0.2 * torch.randn_like(parameter)
    return block


def read_aloud(block, x, *, ngroups=1, rmsnorm=True, norm_before_gate=False, dt_limit=(0, 1e9), d_ssm=None, **_):
    p = dict(block.named_parameters())
    inner, heads = p["out_proj.weight"].shape[1], len(p["A_log"])
    width = inner if d_ssm is None else d_ssm
    shared = (len(p["conv1d.weight"]) - width) // 2
    rows = x @ p["in_proj.weight"].T + p.get("in_proj.bias", 0)
    sizes = [inner - width, inner - width, width, width + 2 * shared, heads]
    mlp_gate, mlp_value, z, mixed, dt = rows.split(sizes, -1)
    mixed = convolved(mixed, p["conv1d.weight"], p.get("conv1d.bias"))
    x, B, C = mixed.split([width, shared, shared], -1)
    dt = softplus(dt + p["dt_bias"]).clamp(*dt_limit)
    B, C = (tensor.unflatten(-1, (ngroups, -1)) for tensor in (B, C))
    y = scanned(x, dt, -p["A_log"].exp(), B, C) + x * p["D"].repeat_interleave(width // len(p["D"]))
    if rmsnorm and norm_before_gate:
        y = grouped_norm(y, p["norm.weight"], ngroups) * silu(z)
    else:
        y = grouped_norm(y * silu(z), p["norm.weight"], ngroups) if rmsnorm else y * silu(z)
    return torch.cat([silu(mlp_gate) * mlp_value, y], -1) @ p["out_proj.weight"].T + p.get("out_proj.bias", 0)


@DTYPES
@pytest.mark.parametrize("tag", list(CASE["inputs"]))
def test_published_outputs(tag, dtype):
    block, x = published(dtype), case_input(CASE, tag, dtype)
    for y in (block(x), stepped(block, x)):
        assert_published(y, REFERENCE[f"{tag}.out.float64"], dtype)


def test_published_gradients():
    assert_published_gradients(published(torch.float64), CASE, REFERENCE)


def test_parameters_stand_in_the_published_order():
    block = Mamba2(64, d_state=32, headdim=16)
    assert list(block.state_dict()) == [entry["key"] for entry in CASE["state_dict"]]
    assert sum(p.numel() for p in block.parameters()) == CASE["n_params"]


@OPTIONS
def test_every_option_is_what_the_loop_says(options):
    block, x = small(options), torch.randn(2, 37, 12, dtype=torch.float64, requires_grad=True)
    wanted = [x, *block.parameters()]
    pair = [block(x), read_aloud(block, x, **options)]
    torch.testing.assert_close(*pair, rtol=1e-10, atol=1e-12)
    weights = torch.randn_like(pair[0])
    ours, theirs = (torch.autograd.grad((y * weights).sum(), wanted) for y in pair)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@OPTIONS
def test_steps_equal_the_whole_on_every_prefix(options):
    block, x = small(options, torch.float32), torch.randn(2, 63, 12)
    assert_steps_equal_the_whole(block, x, tolerance=1e-5)


def test_initial_values():
    torch.manual_seed(0)
    block = Mamba2(64, headdim=1, dt_min=0.01, dt_max=0.1, A_init_range=(2, 3), conv_init=0.01, D_has_hdim=True)
    steps = softplus(block.dt_bias)
    assert 0.0099 < steps.min() < 0.012 < 0.08 < steps.max() < 0.101
    assert 2 <= block.A_log.exp().min() < 2.1 < 2.9 < block.A_log.exp().max() <= 3
    assert torch.equal(block.D, torch.ones(128))
    assert 0.0099 < block.conv1d.weight.abs().max() <= 0.01
    floored = Mamba2(64, dt_min=1e-6, dt_max=1e-5, dt_init_floor=1e-3)
    torch.testing.assert_close(softplus(floored.dt_bias), torch.full((2,), 1e-3))
    default = Mamba2(64)
    assert (default.d_state, default.d_conv, default.nheads, len(default.D)) == (128, 4, 2, 2)
    assert default.no_weight_decay() <= dict(default.named_parameters()).keys()


@pytest.mark.parametrize(
    ("options", "dimensions"),
    [
        ({}, [34, 24]),
        ({"ngroups": 2, "norm_before_gate": True, "bias": True}, [44, 24, 6]),
        ({"d_ssm": 16, "bias": True}, [26, 16, 8, 4]),
        ({"d_ssm": 16, "rmsnorm": False}, [26, 8]),
    ],
    ids=str,
)
def test_symmetries(options, dimensions):
    block = small(options)
    assert [symmetry.dimension for symmetry in block.symmetries()] == dimensions
    assert_symmetries_hold(block, torch.randn(2, 9, 12, dtype=torch.float64))


@pytest.mark.parametrize(
    "options", [{"ngroups": 3}, {"rmsnorm": False}, {"d_ssm": 4, "norm_before_gate": True, "bias": True}], ids=str
)
def test_nothing_else_leaves_the_function_alone(options):
    torch.manual_seed(0)
    block = Mamba2(3, d_state=3, headdim=2, d_conv=2, **options).double()
    for parameter in block.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    lost = sum(symmetry.dimension for symmetry in block.symmetries())
    found = local_dimension(block, torch.randn(12, 9, 3, dtype=torch.float64))
    assert found.rank == found.num_params - lost < found.rows


def test_half_precision_autocast_and_meta():
    block, x = small({}, torch.float32), torch.randn(2, 9, 12)
    exact = block(x)
    with torch.autocast("cpu", torch.bfloat16):
        for y in (block(x), stepped(block, x)):
            torch.testing.assert_close(y.float(), exact, rtol=0.1, atol=0.1)
    half = small({}, torch.float32).to(torch.bfloat16)
    y = half(x.bfloat16())
    assert y.dtype == stepped(half, x.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), exact, rtol=0.1, atol=0.1)
    assert half.init_state(1).ssm.dtype == torch.float32
    with torch.device("meta"):
        assert all(p.is_meta for p in Mamba2(16, headdim=8).parameters())


def test_compilers_follow():
    block, x = small({"d_ssm": 16}, torch.float32), torch.randn(2, 40, 12)
    program = torch.export.export(block, (x,)).module()
    torch.testing.assert_close(program(x), block(x))


def test_misfits_are_told():
    block = Mamba2(12, **SMALL)
    for wrong in (torch.randn(2, 20, 5), torch.randn(20, 12)):
        with pytest.raises(ShapeError, match="D = 12"):
            block(wrong)
    with pytest.raises(ShapeError, match=r"\[B, D\]"):
        block.step(torch.randn(2, 1, 12), block.init_state(2))
    wrong = [{"headdim": 5}, {"ngroups": 4}, {"d_ssm": 28}, {"d_state": 0}, {"chunk_size": 0}, {"A_init_range": (0, 1)}]
    for options in wrong:
        name, value = next(iter(options.items()))
        with pytest.raises(ConfigError, match=f"{name}={value}".replace("(", r"\(").replace(")", r"\)")):
            Mamba2(12, **SMALL | options)
