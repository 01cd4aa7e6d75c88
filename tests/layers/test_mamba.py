"""The Mamba-1 block against published outputs and gradients, and its steps against its scan."""

import math

import pytest
import torch
from parity import filled_state, load_case
from published_check import assert_published, assert_published_gradients, case_input
from step_check import assert_steps_equal_the_whole, stepped
from symmetry_check import assert_symmetries_hold

from madzoo.errors import ConfigError, ShapeError
from madzoo.layers import Mamba

CASE, REFERENCE = load_case("mamba1_block")
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def published(dtype):
    block = Mamba(64).to(dtype).eval()
    block.load_state_dict(filled_state(CASE, dtype), strict=True)
    return block


@DTYPES
@pytest.mark.parametrize("tag", ["a", "long", "short"])
def test_published_outputs(tag, dtype):
    block, x = published(dtype), case_input(CASE, tag, dtype)
    for y in (block(x), stepped(block, x)):
        assert_published(y, REFERENCE[f"{tag}.out.float64"], dtype)


def test_published_gradients():
    assert_published_gradients(published(torch.float64), CASE, REFERENCE)


def test_parameters_stand_in_the_published_order():
    assert list(Mamba(64).state_dict()) == [entry["key"] for entry in CASE["state_dict"]]
    assert sum(p.numel() for p in Mamba(64).parameters()) == CASE["n_params"]


@pytest.mark.parametrize(
    "options", [{}, {"d_conv": 1}, {"d_state": 3, "expand": 1.5, "dt_rank": 5}, {"bias": True, "conv_bias": False}]
)
def test_steps_equal_the_whole_on_every_prefix(options):
    torch.manual_seed(0)
    block, x = Mamba(20, **options), torch.randn(2, 63, 20)
    assert_steps_equal_the_whole(block, x, tolerance=1e-5)


def test_initial_values():
    torch.manual_seed(0)
    block = Mamba(64, dt_min=0.01, dt_max=0.1)
    steps = torch.nn.functional.softplus(block.dt_proj.bias)
    assert 0.0099 < steps.min() < steps.max() < 0.101
    assert block.dt_proj.weight.abs().max() <= block.dt_rank**-0.5
    torch.testing.assert_close(block.A_log[5].exp(), torch.arange(1.0, 17.0))
    assert torch.equal(block.D, torch.ones(128))
    constant = Mamba(64, dt_init="constant", dt_scale=2.0, dt_min=1e-6, dt_max=1e-5, dt_init_floor=1e-3)
    assert torch.equal(constant.dt_proj.weight, torch.full((128, 4), 1.0))
    assert torch.nn.functional.softplus(constant.dt_proj.bias).mean().item() == pytest.approx(1e-3, rel=1e-3)
    assert Mamba(20).dt_rank == math.ceil(20 / 16)


@pytest.mark.parametrize("bias", [False, True])
def test_symmetries(bias):
    torch.manual_seed(0)
    block = Mamba(5, d_state=3, d_conv=2, dt_rank=2, bias=bias).double()
    assert [symmetry.dimension for symmetry in block.symmetries()] == [10, 3, 4, 1]
    assert_symmetries_hold(block, torch.randn(2, 6, 5, dtype=torch.float64))


def test_half_precision_and_meta():
    block = Mamba(16).to(torch.bfloat16)
    x = torch.randn(1, 6, 16, dtype=torch.bfloat16)
    assert block(x).dtype == stepped(block, x).dtype == torch.bfloat16
    assert block.init_state(1).ssm.dtype == torch.float32
    with torch.device("meta"):
        assert all(p.is_meta for p in Mamba(16).parameters())


def test_misfits_are_told():
    block = Mamba(6)
    for wrong in (torch.randn(2, 20, 5), torch.randn(20, 6)):
        with pytest.raises(ShapeError, match="D = 6"):
            block(wrong)
    with pytest.raises(ShapeError, match=r"\[B, D\]"):
        block.step(torch.randn(2, 1, 6), block.init_state(2))
    for options in ({"dt_init": "ones"}, {"dt_rank": "automatic"}, {"d_state": 0}):
        with pytest.raises(ConfigError, match=str(next(iter(options.values())))):
            Mamba(6, **options)
