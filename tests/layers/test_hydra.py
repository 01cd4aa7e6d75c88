"""The Hydra block against published outputs and gradients, and a loop that reads its mathematics aloud."""

import pytest
import torch
from parity import filled_state, load_case
from published_check import assert_published, assert_published_gradients, case_input
from ssd_loop import convolved, grouped_norm, scanned
from symmetry_check import assert_symmetries_hold
from torch.nn.functional import silu, softplus

from madzoo.errors import ConfigError, ShapeError
from madzoo.geometry import local_dimension
from madzoo.layers.hydra import Hydra

CASE, REFERENCE = load_case("hydra_block")
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
SMALL = {"d_state": 5, "headdim": 4}


def published(dtype):
    block = Hydra(64, d_state=32, headdim=16, chunk_size=16).to(dtype).eval()
    block.load_state_dict(filled_state(CASE, dtype), strict=True)
    return block


def small(options, dtype=torch.float64):
    torch.manual_seed(0)
    block = Hydra(12, **SMALL | options).to(dtype)
    for parameter in block.parameters():  # away from ones and zeros
        parameter.data += 0.2 * torch.randn_like(parameter)
    return block


def read_aloud(block, x, *, ngroups=1, dt_limit=(0, 1e9), d_conv=7, **_):
    p = dict(block.named_parameters())
    heads, width = p["fc_D.weight"].shape
    shared = (len(p["conv1d.weight"]) - width) // 4
    rows = x @ p["in_proj.weight"].T + p.get("in_proj.bias", 0)
    z, mixed, *steps = rows.split([width, width + 4 * shared, heads, heads], -1)
    mixed = convolved(mixed, p["conv1d.weight"], p.get("conv1d.bias"), ahead=d_conv // 2)
    x, *vectors = mixed.split([width, shared, shared, shared, shared], -1)
    vectors = [vector.unflatten(-1, (ngroups, -1)) for vector in vectors]
    y = x * (x @ p["fc_D.weight"].T + p["D"]).repeat_interleave(width // heads, -1)
    for direction in (0, 1):
        dt = softplus(steps[direction] + p["dt_bias"]).clamp(*dt_limit)
        inputs = (x, dt, *vectors[2 * direction : 2 * direction + 2])
        x_, dt, B, C = (tensor.flip(1) for tensor in inputs) if direction else inputs
        seen = scanned(x_, dt, -p["A_log"].exp(), B, C, start=p.get("init_states"))
        seen = torch.cat([torch.zeros_like(seen[:, :1]), seen[:, :-1]], 1)
        y = y + (seen.flip(1) if direction else seen)
    y = grouped_norm(y, p["norm.weight"], 1) * silu(z)
    return y @ p["out_proj.weight"].T + p.get("out_proj.bias", 0)


@DTYPES
@pytest.mark.parametrize("tag", list(CASE["inputs"]))
def test_published_outputs(tag, dtype):
    assert_published(published(dtype)(case_input(CASE, tag, dtype)), REFERENCE[f"{tag}.out.float64"], dtype)


def test_published_gradients():
    assert_published_gradients(published(torch.float64), CASE, REFERENCE)


def test_parameters_stand_in_the_published_order():
    block = Hydra(64, d_state=32, headdim=16)
    assert list(block.state_dict()) == [entry["key"] for entry in CASE["state_dict"]]
    assert sum(p.numel() for p in block.parameters()) == CASE["n_params"]
    assert next(iter(Hydra(64, learnable_init_states=True).state_dict())) == "init_states"


@pytest.mark.parametrize("length", [1, 2, 37])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ngroups": 2, "bias": True, "d_conv": 3},
        {"ngroups": 3, "learnable_init_states": True, "conv_bias": False},
        {"dt_limit": (0.01, 0.03), "d_conv": 1, "expand": 1, "d_state": 1, "chunk_size": 7},
    ],
    ids=str,
)
def test_every_option_is_what_the_loop_says(options, length):
    block, x = small(options), torch.randn(2, length, 12, dtype=torch.float64, requires_grad=True)
    pair = [block(x), read_aloud(block, x, **options)]
    torch.testing.assert_close(*pair, rtol=1e-10, atol=1e-12)
    weights, wanted = torch.randn_like(pair[0]), [x, *block.parameters()]
    ours, theirs = (torch.autograd.grad((y * weights).sum(), wanted) for y in pair)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_the_convolution_is_the_published_module():
    block, x = small({}), torch.randn(2, 20, 64, dtype=torch.float64)[..., :44]
    expected = silu(block.conv1d(x.transpose(1, 2))).transpose(1, 2)
    torch.testing.assert_close(block._convolve(x), expected)


def test_both_directions_are_seen():
    block, x = small({}), torch.randn(1, 30, 12, dtype=torch.float64, requires_grad=True)
    for position in (0, 15, 29):
        (seen,) = torch.autograd.grad(block(x)[0, position].square().sum(), x)
        assert (seen.abs().amax((0, 2)) > 0).all()


def test_initial_values():
    torch.manual_seed(0)
    block = Hydra(64, headdim=1, dt_min=0.01, dt_max=0.1, conv_init=0.01, learnable_init_states=True)
    steps = softplus(block.dt_bias)
    assert 0.0099 < steps.min() < 0.012 < 0.08 < steps.max() < 0.101
    assert torch.equal(block.A_log, torch.zeros(128))
    assert torch.equal(block.D, torch.ones(128))
    assert 0.0099 < block.conv1d.weight.abs().max() <= 0.01
    assert not block.init_states.any()
    default = Hydra(64)
    assert (default.d_state, default.d_conv, default.nheads, default.init_states) == (64, 7, 2, None)
    for one in (block, default):
        assert one.no_weight_decay() <= dict(one.named_parameters()).keys()


@pytest.mark.parametrize(("options", "dimensions"), [({}, [44, 24]), ({"bias": True, "ngroups": 2}, [64, 24, 6])])
def test_symmetries(options, dimensions):
    block = small(options)
    assert [symmetry.dimension for symmetry in block.symmetries()] == dimensions
    assert_symmetries_hold(block, torch.randn(2, 9, 12, dtype=torch.float64))


@pytest.mark.parametrize("bias", [False, True])
def test_nothing_else_leaves_the_function_alone(bias):
    torch.manual_seed(0)
    block = Hydra(3, d_state=2, headdim=2, d_conv=3, bias=bias).double()
    for parameter in block.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    lost = sum(symmetry.dimension for symmetry in block.symmetries())
    found = local_dimension(block, torch.randn(12, 9, 3, dtype=torch.float64))
    assert found.rank == found.num_params - lost < found.rows


def test_half_precision_autocast_and_meta():
    block, x = small({}, torch.float32), torch.randn(2, 9, 12)
    exact = block(x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(block(x).float(), exact, rtol=0.1, atol=0.1)
    y = small({}, torch.float32).to(torch.bfloat16)(x.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), exact, rtol=0.1, atol=0.1)
    with torch.device("meta"):
        assert all(p.is_meta for p in Hydra(16, headdim=8).parameters())


def test_compilers_follow():
    block, x = small({"learnable_init_states": True}, torch.float32), torch.randn(2, 40, 12)
    program = torch.export.export(block, (x,)).module()
    torch.testing.assert_close(program(x), block(x))


def test_misfits_are_told():
    for wrong in (torch.randn(2, 20, 5), torch.randn(20, 12)):
        with pytest.raises(ShapeError, match="D = 12"):
            Hydra(12, **SMALL)(wrong)
    for options in ({"headdim": 5}, {"ngroups": 4}, {"d_conv": 4}, {"d_state": 0}, {"chunk_size": 0}):
        name, value = next(iter(options.items()))
        with pytest.raises(ConfigError, match=f"{name}={value}"):
            Hydra(12, **SMALL | options)
