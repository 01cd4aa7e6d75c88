"""The diagonal S4 block against published outputs, and its recurrence against its convolution."""

import numpy as np
import pytest
import torch
from parity import DATA, LIMITS, load_case, relative_error, rule_input

from madzoo.errors import ConfigError, NotCausalError, ShapeError
from madzoo.layers import S4Block

CASE, REFERENCE = load_case("s4_block_diag")
LIMIT = LIMITS[torch.float32]  # the published code computes in complex64
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def published(dtype):
    block = S4Block(6, d_state=16, l_max=40, mode="diag", init="diag-lin", final_act="glu", transposed=True).to(dtype)
    with np.load(DATA / "s4_block_diag" / "weights.npz") as weights:
        block.load_state_dict({name: torch.from_numpy(weights[name]).to(dtype) for name in weights.files}, strict=True)
    return block, rule_input(CASE["inputs"]["full"]["seed"], CASE["inputs"]["full"]["shape"], dtype)


def stepped(block, x_BLH):
    state, found = block.init_state(len(x_BLH)), []
    for x_t in x_BLH.unbind(1):
        y_t, state = block.step(x_t, state)
        found.append(y_t)
    return torch.stack(found, 1)


@DTYPES
def test_published_convolution(dtype):
    block, x = published(dtype)
    assert block(x).dtype == dtype
    assert relative_error(block(x), REFERENCE["full.out.float32"]) < LIMIT
    assert relative_error(block(x[..., :23]), REFERENCE["L23.out.float32"]) < LIMIT
    assert relative_error(block.layer.kernel(40), REFERENCE["kernel.L40.float32"]) < LIMIT
    assert sum(p.numel() for p in block.parameters()) == CASE["n_params"]


@DTYPES
def test_published_steps(dtype):
    block, x = published(dtype)
    assert relative_error(stepped(block, x.mT).mT, REFERENCE["step.out.float32"]) < LIMIT


@pytest.mark.parametrize("disc", ["zoh", "bilinear"])
@pytest.mark.parametrize("init", ["diag-lin", "diag-inv", "diag-legs", "diag-real"])
def test_steps_equal_the_whole_on_every_prefix(init, disc):
    torch.manual_seed(0)
    block, x = S4Block(5, d_state=8, init=init, disc=disc).double(), torch.randn(2, 21, 5, dtype=torch.float64)
    steps = stepped(block, x)
    for length in range(1, 22):
        torch.testing.assert_close(block(x[:, :length]), steps[:, :length], rtol=1e-9, atol=1e-9)


def test_bidirectional_sees_the_present_once():
    torch.manual_seed(0)
    block = S4Block(3, d_state=4, bidirectional=True, final_act=None).double()
    x, kernels = torch.randn(2, 9, 3, dtype=torch.float64), block.layer.kernel(9)
    y = x * block.layer.D[0]
    for t in range(9):
        for s in range(9):
            tap = kernels[0, :, t - s] if s <= t else kernels[1, :, s - t - 1]
            y[:, t] += tap * x[:, s]
    torch.testing.assert_close(block(x), torch.nn.functional.gelu(y), rtol=1e-10, atol=1e-12)
    for call in (lambda: block.init_state(2), lambda: block.step(x[:, 0], None)):
        with pytest.raises(NotCausalError, match="bidirectional"):
            call()


def test_l_max_bounds_the_memory():
    torch.manual_seed(0)
    block, x = S4Block(3, d_state=4, l_max=4), torch.randn(1, 12, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(block(x)[:, 10].sum(), x)
    assert (gradient[0].abs().sum(-1) > 0).nonzero().flatten().tolist() == [7, 8, 9, 10]


@pytest.mark.parametrize("tie_dropout", [False, True])
def test_dropout_is_per_value_or_per_channel(tie_dropout):
    torch.manual_seed(0)
    block = S4Block(32, d_state=4, dropout=0.5, tie_dropout=tie_dropout, final_act=None)
    zeros = block(torch.randn(1, 20, 32))[0] == 0
    assert zeros.any()
    assert (zeros.all(0) == zeros.any(0)).all().item() == tie_dropout


def test_every_option_trains_and_builds_on_meta():
    for final_act in ("glu", "id", None):
        block = S4Block(4, d_state=4, final_act=final_act)
        block(torch.randn(2, 7, 4)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())
    with torch.device("meta"):
        assert all(p.is_meta for p in S4Block(4, init="diag-legs").parameters())


def test_misfits_are_told():
    for wrong in ({"mode": "dplr"}, {"init": "diag-lim"}, {"disc": "zho"}, {"final_act": "glue"}, {"d_state": 3}):
        with pytest.raises(ConfigError, match=str(next(iter(wrong.values())))):
            S4Block(4, **wrong)
    block = S4Block(6, d_state=8)
    with pytest.raises(ShapeError, match="H = 6"):
        block(torch.randn(2, 20, 5))
    with pytest.raises(ShapeError, match=r"\[B, H\]"):
        block.step(torch.randn(2, 5), block.init_state(2))
